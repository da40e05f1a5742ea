"""Load a dataset as a Hugging Face `datasets.Dataset` that reads weights on access."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...common.arguments import checked, place
from ...common.constraints import text
from ...common.extras import optional_imports
from ...errors import InvalidInputError, UnknownNameError
from ...store.atomic import write_bytes
from ...store.hashing import sha256_file
from ...store.manifest import FILENAME
from ..weight_dataset import WeightDataset

CONFIGS = ("weights", "labels")


@checked(path=place(), name=text())
def load_dataset(
    path: Path | str,
    name: str = "weights",
    split: str | None = None,
    *,
    streaming: bool = False,
    cache_dir: Path | str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Any:
    """Load a dataset as a Hugging Face `datasets.Dataset` without copying its weights to disk or memory.

    The column ``weights`` contains references; a row's weights are read from the Zarr matrix when the row is accessed,
    as an array of the stored dtype or of the type set by `with_format`. `select`, `filter`, `map`, `train_test_split`,
    `with_format` and `save_to_disk` keep the references, which only this machine can resolve and which contain no
    paths. Exports (`to_pandas`, `to_dict`, `to_json`, `to_csv`, `to_parquet`, `push_to_hub` and others) contain the
    weights as lists of numbers for stock `datasets`. To load the result of `save_to_disk`, first `import w2w_hub`.

    Parameters
    ----------
    name : {"weights", "labels"}
        With or without the column ``weights``.
    split : str, optional
        Load one split as a `Dataset`, also with the slicing of `datasets`: ``train[:10%]``, ``train+test``, ``all``.
        By default, load all splits as a `DatasetDict`.
    streaming : bool
        Return an `IterableDataset` (or `IterableDatasetDict`) with as many shards as the matrix has.
    cache_dir : path, optional
        Folder for labels and references (about 250 bytes per row) and for the results of `map`; by default the cache of
        `datasets`.
    revision, token, local_files_only
        See :meth:`WeightDataset.open`.

    Examples
    --------
    >>> people = load_dataset("people", split="train").with_format("torch")   # doctest: +SKIP
    >>> people[0]["weights"], people[0]["Beard"]                              # doctest: +SKIP
    """
    with optional_imports("datasets"):
        import datasets
    from .lazy_rows import LazyDataset, as_lazy
    from .weight_row import WeightRow

    if name not in CONFIGS:
        raise InvalidInputError(f"no configuration {name!r}; there are {', '.join(CONFIGS)}")
    # references open the dataset again without a token, so that a private one must be local
    opened = WeightDataset.open(
        path, revision=revision, token=token, local_files_only=local_files_only, lazy=None if token is None else False
    )
    known = opened.manifest.splits
    spans = None if split is None else _spans(str(split), known)
    feature = WeightRow(opened.layout.size, opened.manifest.dtype)
    state = sha256_file(opened.path / FILENAME)
    parts: dict[str, Any] = {}
    for part in known if spans is None else dict.fromkeys(name for name, _, _ in spans):
        table, features = _labels(opened, opened.where(split=part))
        if name == "weights":
            table = table.append_column("weights", feature.references(opened, table["id"].to_pylist()))
            features["weights"] = feature
        info = datasets.DatasetInfo(description=f"{opened.manifest.name} {opened.manifest.version}", features=features)
        # a file, since `map` caches its results beside its input
        key = hashlib.sha256(f"v2\n{opened.path.absolute()}\n{state}\n{name}\n{part}".encode()).hexdigest()[:32]
        file = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "w2w_hub" / key / "references.arrow"
        if not file.is_file():
            _write_arrow(table.cast(features.arrow_schema), file)
        data = LazyDataset(
            datasets.table.MemoryMappedTable.from_file(str(file)), info, datasets.NamedSplit(part), fingerprint=key
        )
        parts[part] = data
    if spans is not None:
        cut = [parts[p] if b - a == known[p] else parts[p].select(range(a, b)) for p, a, b in spans]
        parts = {"": cut[0] if len(cut) == 1 else LazyDataset.of(datasets.concatenate_datasets(cut))}
    if streaming:
        if not all(len(d) for d in parts.values()):
            raise InvalidInputError(f"split {split!r} has no rows to stream")
        shards = 1 if opened.geometry is None else opened.geometry.shards
        parts = {k: as_lazy(d.to_iterable_dataset(num_shards=max(1, min(shards, len(d))))) for k, d in parts.items()}
    if spans is not None:
        return parts[""]
    return (datasets.IterableDatasetDict if streaming else datasets.DatasetDict)(parts)


def _spans(split: str, known: dict[str, int]) -> list[tuple[str, int, int]]:
    """Parse a split expression of `datasets` as a list of (split, first row, row after the last)."""
    from datasets import ReadInstruction

    try:
        wanted = ReadInstruction.from_spec("+".join(known) if split == "all" else split).to_absolute(known)
    except (ValueError, AssertionError) as error:
        raise UnknownNameError(f"no split {split!r}; available: {', '.join(known)}") from error
    return [(p.splitname, p.from_, p.to) if p.from_ < p.to else (p.splitname, 0, 0) for p in wanted]


def _write_arrow(table: Any, file: Path) -> None:
    """Write an Arrow stream that `datasets` can memory-map, atomically."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    write_bytes(file, sink.getvalue().to_pybytes(), replace=True)


def _labels(opened: WeightDataset, rows: np.ndarray) -> tuple[Any, Any]:
    """Return the labels of rows as an Arrow table, and their features."""
    import datasets
    import pyarrow as pa

    table = opened.labels.iloc[rows].reset_index(names="id")
    wanted: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for name, kind in opened.manifest.kinds.items():
        table[name], wanted[name], feature = kind.export(table[name])
        features |= {} if feature is None else {name: feature}
    fields = [pa.field(name, wanted.get(name, pa.int64() if name == "row" else pa.string())) for name in table.columns]
    arrow = pa.Table.from_pandas(table, pa.schema(fields), preserve_index=False).replace_schema_metadata(None)
    return arrow, datasets.Features({**datasets.Features.from_arrow_schema(arrow.schema), **features})
