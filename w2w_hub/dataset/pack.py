"""Turn checkpoints into a dataset, and add more to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import digest_of_folder
from ..errors import InitialisationError, InvalidInputError, LayoutMismatchError
from ..files import require_new
from ..formats import read_adapter
from ..layout import ParameterLayout
from ..progress import progress
from .labels import DEFAULT_SPLIT, kinds, normalise
from .manifest import FILENAME, UNKNOWN, Compatibility
from .reader import WeightDataset
from .writer import write_dataset

if TYPE_CHECKING:
    import pandas as pd


def pack_adapters(
    adapters: Sequence[Path | str],
    path: Path | str,
    *,
    labels: pd.DataFrame | None = None,
    base: Path | str | None = None,
    initialisation: str = UNKNOWN,
    **options: Any,
) -> WeightDataset:
    """Pack LoRA checkpoints of any known dialect into a new dataset.

    Parameters
    ----------
    adapters : sequence of path
        A row's id is its checkpoint's file or folder name.
    labels : DataFrame, optional
        See :func:`read_labels`.
    base : path, optional
        Folder of the base model, whose target weights' digest is recorded.
    initialisation : str
        Name of the one initialisation that all adapters were trained from.
    **options
        As :func:`write_dataset` takes them.

    Raises
    ------
    LayoutMismatchError
        If a checkpoint's modules or shapes differ from the first one's; nothing is written.
    """
    if not adapters:
        raise InvalidInputError("no adapter was given")
    require_new(path)
    ids, rows, layout, hint = _read(adapters, None)
    digest = None if base is None else digest_of_folder(base, layout)
    compatibility = Compatibility(base_model=hint, base_digest=digest, initialisation=initialisation)
    return write_dataset(
        np.stack(rows), path, layout=layout, ids=ids, labels=labels, compatibility=compatibility, **options
    )


def _read(
    adapters: Sequence[Path | str], layout: ParameterLayout | None
) -> tuple[list[str], list[np.ndarray], ParameterLayout, str | None]:
    ids, rows, bases = [], [], set()
    for path in progress([Path(a) for a in adapters], "reading adapters"):
        adapter = read_adapter(path)
        layout = layout or ParameterLayout.from_adapter(adapter)
        rows.append(layout.flatten(adapter, where=str(path)))
        ids.append(path.name if path.is_dir() else path.stem)
        bases.add(adapter.base_model)
    assert layout is not None
    return ids, rows, layout, bases.pop() if len(bases) == 1 else None


def add_rows(
    path: Path | str, sources: Sequence[Path | str], *, labels: pd.DataFrame | None = None, version: str | None = None
) -> WeightDataset:
    """Append checkpoints, or the rows of other datasets, to a dataset as one new state.

    The dataset's dtype stays: float16 rows widen exactly into a float32 dataset.

    Raises
    ------
    LayoutMismatchError, InitialisationError, InvalidInputError
        If a source does not fit, or an id is there already; the dataset is then as before.
    """
    import pandas as pd

    dataset = WeightDataset.open(path)
    manifest = dataset.manifest
    ids, blocks, tables = list(dataset.ids), [dataset.to_numpy()], [dataset.labels.reset_index(names="id")]
    adapters = [source for source in sources if not (Path(source) / FILENAME).is_file()]
    for source in sources:
        if source in adapters:
            continue
        other = WeightDataset.open(source)
        if other.layout != dataset.layout:
            found = dataset.layout.differences(other.layout)
            raise LayoutMismatchError(f"{source} does not fit the layout of {path}: {found}")
        theirs = other.manifest.compatibility
        for field in ("initialisation", "base_digest"):
            mine, its = getattr(manifest.compatibility, field), getattr(theirs, field)
            # what this dataset states, a source must state too; what it leaves open stays open
            if mine not in (UNKNOWN, None, its) and (its is not None or field == "initialisation"):
                raise InitialisationError(f"{source} has {field} {its!r}, {path} has {mine!r}; they do not mix")
        ids += other.ids
        blocks.append(other.to_numpy())
        tables.append(other.labels.reset_index(names="id"))
    if adapters:
        names, rows, _, _ = _read(adapters, dataset.layout)
        ids += names
        blocks.append(np.stack(rows))
        table = pd.DataFrame({"id": names}) if labels is None else labels
        if "id" not in table.columns:
            table = table.reset_index(names="id")
        table = table[table["id"].astype(str).isin(names)]
        tables.append(table if "split" in table.columns else table.assign(split=DEFAULT_SPLIT))
    kept = [t.drop(columns=["row", "row_sha256"], errors="ignore") for t in tables]
    merged = pd.concat(kept, ignore_index=True)
    columns = kinds(normalise(merged, ids))
    for name, kind in manifest.columns.items():
        if columns[name] != kind and dataset.labels[name].notna().any():
            raise InvalidInputError(f"label {name!r} is {kind} in {path}, the new rows would make it {columns[name]}")
    widest = np.float32 if manifest.dtype == "float32" else np.float16
    if widest == np.float16 and any(b.dtype != np.float16 for b in blocks):
        raise InvalidInputError(f"{path} stores float16 and would round the new float32 rows; pack it as float32")
    return write_dataset(
        np.concatenate([block.astype(widest, copy=False) for block in blocks]),
        path,
        layout=dataset.layout,
        ids=ids,
        labels=merged,
        dtype=manifest.dtype,
        name=manifest.name,
        version=version or manifest.version,
        licence=manifest.licence,
        compatibility=manifest.compatibility,
        parquet_view=(dataset.path / "parquet").is_dir(),
        replace=True,
    )
