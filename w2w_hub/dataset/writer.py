"""Write a dataset: Zarr matrix, label tables, Parquet view, card and manifest, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cards import dataset_card
from ..errors import InvalidInputError, LayoutMismatchError
from ..files import list_files, new_folder, sha256_file, write_json
from ..layout import ParameterLayout
from . import labels as label_table
from .manifest import DTYPES, FILENAME, Compatibility, DatasetManifest, dataset_digest, row_digest

if TYPE_CHECKING:
    import pandas as pd

    from .reader import WeightDataset

CHUNK_BYTES, SHARD_BYTES = 256 * 1024, 500 * 1000 * 1000
ROWS_A_ROW_GROUP = 64
UNLISTED = (FILENAME, "README.md")  # editing the card breaks no pin


def write_dataset(
    weights: np.ndarray,
    path: Path | str,
    *,
    layout: ParameterLayout,
    ids: Sequence[str] | None = None,
    labels: pd.DataFrame | None = None,
    dtype: str | None = None,
    name: str | None = None,
    version: str = "0.1.0",
    licence: str = "unknown",
    compatibility: Compatibility | None = None,
    parquet_view: bool = True,
    replace: bool = False,
) -> WeightDataset:
    """Write a matrix of flattened adapters as a dataset folder.

    Parameters
    ----------
    weights : ndarray
        ``(n, layout.size)``, one adapter a row, raw factors in layout order at the layout's scale.
    labels : DataFrame, optional
        One row an id, with an ``id`` column (or as the index); ``split``, ``source``, ``licence`` and
        ``consent`` are known, every other column is an attribute.
    dtype : {"float32", "float16"}, optional
        How values are stored; float16 input stays float16, anything else becomes float32.
    parquet_view : bool
        Also write ``parquet/``, the float16 view that stock `datasets.load_dataset` reads; values that do not
        fit float16 are refused then.
    replace : bool
        Put the new dataset in the place of the one that is there.

    Examples
    --------
    >>> write_dataset(matrix, "people", layout=layout, ids=ids, labels=table)   # doctest: +SKIP

    Raises
    ------
    AlreadyExistsError, InvalidInputError, LayoutMismatchError, UnknownNameError
    """
    from .reader import WeightDataset

    path = Path(path)
    values, error = _stored(np.asarray(weights), dtype, layout)
    names = [f"row-{i:06d}" for i in range(len(values))] if ids is None else [str(i) for i in ids]
    if len(names) != len(values):
        raise InvalidInputError(f"{len(names)} ids for {len(values)} rows")
    table = label_table.normalise(labels, names)
    for row, identity in zip(values, names, strict=True):
        if not np.isfinite(row).all():
            raise InvalidInputError(f"row {identity!r} holds NaN or infinite values; leave it out or train it again")
    if parquet_view:
        _require_float16(values, names)
    table["row"] = np.arange(len(values))
    table["row_sha256"] = [row_digest(row) for row in values]
    manifest = DatasetManifest(
        name=name or path.name,
        version=version,
        rows=len(values),
        dtype=values.dtype.name,
        layout=layout,
        digest=dataset_digest(layout, label_table.records(table)),
        columns=label_table.kinds(table),
        splits={str(k): int(v) for k, v in table["split"].value_counts(sort=False).items()},
        compatibility=compatibility or Compatibility(),
        licence=licence,
        float16_max_error=error,
    )
    with new_folder(path, replace=replace) as partial:
        write_zarr(values, partial / "weights.zarr")
        for split in manifest.splits:
            chosen = (table["split"] == split).to_numpy()
            _write_parquet(table[chosen], None, partial / "labels" / f"{split}.parquet")
            if parquet_view:
                _write_parquet(table[chosen], values[chosen], partial / "parquet" / f"{split}.parquet")
        manifest.files = {
            file: {"sha256": sha256_file(partial / file), "size": (partial / file).stat().st_size}
            for file in list_files(partial)
        }
        write_json(partial / FILENAME, manifest.to_json())
        (partial / "README.md").write_text(dataset_card(manifest, parquet_view=parquet_view))
    return WeightDataset.open(path)


def _stored(weights: np.ndarray, dtype: str | None, layout: ParameterLayout) -> tuple[np.ndarray, float | None]:
    if weights.ndim != 2 or weights.shape[1] != layout.size:
        raise LayoutMismatchError(f"weights have shape {weights.shape}; this layout needs (n, {layout.size})")
    if not len(weights):
        raise InvalidInputError("a dataset needs at least one row")
    if dtype is not None and dtype not in DTYPES:
        raise InvalidInputError(f"dtype {dtype!r} cannot be stored; choose {' or '.join(DTYPES)}")
    target = np.dtype(dtype or ("float16" if weights.dtype == np.float16 else "float32"))
    with np.errstate(over="ignore"):
        values = weights.astype(target, copy=False)
    if target != np.float16 or weights.dtype == np.float16:
        return values, None
    if not np.isfinite(weights).all():
        return values, None  # refused later, by the row's id
    if not np.isfinite(values).all():
        raise InvalidInputError(f"values up to {np.abs(weights).max():g} do not fit float16; store float32")
    return values, float(np.abs(values.astype(np.float64) - weights).max())


def _require_float16(values: np.ndarray, names: Sequence[str]) -> None:
    limit = np.finfo(np.float16).max
    for row, identity in zip(values, names, strict=True):
        largest = np.abs(row).max()
        if largest > limit:
            raise InvalidInputError(
                f"row {identity!r} has values up to {largest:g}, which the float16 Parquet view cannot hold; "
                "write the dataset with parquet_view=False"
            )


def write_zarr(values: np.ndarray, path: Path) -> None:
    """The matrix as array ``weights`` of a Zarr v3 group: whole-row chunks in shards, no compression."""
    import zarr

    rows, width = values.shape
    row_bytes = width * values.dtype.itemsize
    a_chunk = min(max(1, CHUNK_BYTES // row_bytes), rows)
    chunks_a_shard = max(1, min(SHARD_BYTES // (row_bytes * a_chunk), -(-rows // a_chunk)))
    array = zarr.open_group(path, mode="w", zarr_format=3).create_array(
        "weights", shape=values.shape, dtype=values.dtype, chunks=(a_chunk, width),
        shards=(a_chunk * chunks_a_shard, width), compressors=None, fill_value=0,
    )  # fmt: skip
    array[:] = values


def _write_parquet(table: pd.DataFrame, values: np.ndarray | None, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    arrow: Any = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    if values is not None:
        half = np.ascontiguousarray(values, np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), half.shape[1])
        arrow = arrow.append_column("weights", column)
    pq.write_table(arrow, path, row_group_size=ROWS_A_ROW_GROUP, compression="zstd")
