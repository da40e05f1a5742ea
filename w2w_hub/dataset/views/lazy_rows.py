"""Subclasses of `datasets.Dataset` and `IterableDataset` that export weights instead of references.

Tables contain references, so that `select`, `map` and `save_to_disk` do not copy weights; the feature `WeightRow` reads
a row when it is accessed. The exports of `datasets` do not decode features, so they are overridden here. Most
methods of `datasets` construct its own classes; :func:`_staying_lazy` converts their results back.

`Dataset.with_transform` is not an alternative (datasets 4, 300 rows of 99,648 numbers, at about the same speed):
`save_to_disk` raises, `to_json`, `to_pandas`, `to_parquet` and `push_to_hub` omit the weights, and
`with_format("torch")` replaces the transform.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ...errors import InvalidInputError
from .weight_row import WeightRow

BATCH_ROWS = 64


class _Example(dict[str, Any]):
    """An example whose weights are read on access."""

    def __init__(self, values: dict[str, Any], wide: dict[str, WeightRow]):
        super().__init__(values)
        self._wide = wide

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name in self._wide and isinstance(value, dict):
            value = self._wide[name].decode_example(value)
            self[name] = value
        return value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401, dict.get would not decode

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


@dataclass
class _OnDemand:
    """Wraps a function to receive an :class:`_Example`, so that only the weights it accesses are read."""

    function: Any
    wide: dict[str, WeightRow]

    def __call__(self, example: dict[str, Any], *more: Any, **named: Any) -> Any:
        return self.function(_Example(example, self.wide), *more, **named)


def as_lazy(found: Any) -> Any:
    """Convert the dataset or `DatasetDict` that a method of `datasets` returned to the classes of this module."""
    for part in found.values() if isinstance(found, datasets.DatasetDict) else [found]:
        for plain, ours in ((datasets.Dataset, LazyDataset), (datasets.IterableDataset, LazyStream)):
            if type(part) is plain:
                part.__class__ = ours
    return found


def _staying_lazy(cls: type) -> type:
    """Class decorator: convert the results of all public methods that are not overridden, see :func:`as_lazy`."""
    plain = cls.__mro__[1]
    for name, method in inspect.getmembers(plain, inspect.isfunction):
        if not name.startswith("_") and name not in vars(cls) and not isinstance(vars(plain).get(name), staticmethod):

            def wrapped(self: Any, *args: Any, _method: Any = method, **kwargs: Any) -> Any:
                return as_lazy(_method(self, *args, **kwargs))

            setattr(cls, name, functools.wraps(method)(wrapped))
    return cls


def _wide(features: Any) -> dict[str, WeightRow]:
    return {k: v for k, v in (features or {}).items() if isinstance(v, WeightRow)}


def _plain_features(features: Any) -> Any:
    """Return features in which weights are plain lists."""
    return datasets.Features({k: v.plain() if isinstance(v, WeightRow) else v for k, v in features.items()})


def _with_numbers(table: Any, features: Any) -> Any:
    """Return an Arrow table with references replaced by numbers."""
    for name, feature in _wide(features).items():
        if name in table.column_names:
            column = table.column(name).combine_chunks()
            column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
            table = table.set_column(table.column_names.index(name), name, feature.plain_array(column))
    return table


@_staying_lazy
class LazyDataset(datasets.Dataset):
    """A `datasets.Dataset` that exports numbers instead of references.

    `concatenate_datasets` and `load_from_disk` return a plain `Dataset`, which also reads lazily, but exports
    references; convert it with :meth:`of` before an export.
    """

    @classmethod
    def of(cls, data: datasets.Dataset) -> LazyDataset:
        """Return a dataset as a `LazyDataset`."""
        copied = copy.copy(data)
        copied.__class__ = cls
        result: LazyDataset = copied
        return result

    def filter(self, function: Any = None, *args: Any, batch_size: int | None = BATCH_ROWS, **kwargs: Any) -> Any:
        """Filter rows as `Dataset.filter` does, but read a row's weights only if the function accesses them.

        `datasets` decodes a batch at a time; where that cannot be avoided, a batch has 64 rows.
        """
        wide = _wide(self.features)
        plain = not kwargs.get("batched") and not kwargs.get("input_columns") and self.format["type"] is None
        if not wide or function is None or args or not plain:
            return as_lazy(super().filter(function, *args, batch_size=batch_size, **kwargs))
        closed = copy.copy(self)
        closed._info = self.info.copy()
        closed._info.features = datasets.Features(
            {k: replace(v, decode=False) if k in wide else v for k, v in self.features.items()}
        )
        found = super(LazyDataset, closed).filter(_OnDemand(function, wide), batch_size=batch_size, **kwargs)
        found._info.features = self.features.copy()
        return as_lazy(found)

    def batch(self, *args: Any, **kwargs: Any) -> Any:
        """Batch rows as `Dataset.batch` does; an error with weights, since a list of references cannot be decoded."""
        if _wide(self.features):
            raise _no_batches()
        return super().batch(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if self._format_type == "arrow" and isinstance(found, pa.Table):
            return _with_numbers(found, self.features)
        if self._format_type == "arrow" and isinstance(key, str) and key in _wide(self.features):
            return _with_numbers(pa.table({key: found}), self.features)[key]
        return found

    def _tables(self, rows: int = BATCH_ROWS) -> Iterator[Any]:
        """Yield all rows as Arrow tables with numbers, at most 64 at a time."""
        for table in self.with_format("arrow").iter(min(rows, BATCH_ROWS)):
            yield _with_numbers(table, self.features).cast(self.plain_features().arrow_schema)

    def plain_features(self) -> Any:
        """Return features in which weights are plain lists."""
        return _plain_features(self.features)

    @contextmanager
    def _numbers(self) -> Iterator[datasets.Dataset]:
        """Provide the same rows as a stock dataset in a temporary file, written 64 rows at a time."""
        features = self.plain_features()
        with tempfile.TemporaryDirectory(prefix="w2w-") as folder:
            file = str(Path(folder) / "rows.arrow")
            with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
                for table in self._tables():
                    writer.write_table(table)
            info = self.info.copy()
            info.features = features
            yield datasets.Dataset(datasets.table.MemoryMappedTable.from_file(file), info, self.split)

    def to_parquet(
        self,
        path_or_buf: Any,
        batch_size: int | None = None,
        storage_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> int:
        """Write Parquet with numbers, see `Dataset.to_parquet`; at most 64 rows are in memory."""
        import fsspec
        import pyarrow.parquet as pq

        if not _wide(self.features):
            result: int = super().to_parquet(path_or_buf, batch_size, storage_options, **options)
            return result
        written = 0
        opened = (
            fsspec.open(str(path_or_buf), "wb", **(storage_options or {}))
            if isinstance(path_or_buf, (str, Path))
            else _Kept(path_or_buf)
        )
        with opened as file, pq.ParquetWriter(file, self.plain_features().arrow_schema, **options) as writer:
            for table in self._tables(batch_size or BATCH_ROWS):
                writer.write_table(table, row_group_size=BATCH_ROWS)
                written += table.nbytes
        return written

    def _estimate_nbytes(self) -> int:
        result: int = super()._estimate_nbytes() + sum(len(self) * _row_bytes(f) for f in _wide(self.features).values())
        return result

    def _push_parquet_shards_to_hub(self, *args: Any, embed_external_files: bool = True, **kwargs: Any) -> Any:
        # to_parquet writes the values, so they need not be embedded
        pushed = super()._push_parquet_shards_to_hub(*args, embed_external_files=False, **kwargs)
        return tuple(self.plain_features() if isinstance(part, datasets.Features) else part for part in pushed)


@_staying_lazy
class LazyStream(datasets.IterableDataset):
    """A `datasets.IterableDataset` that exports numbers instead of references."""

    def batch(self, *_: Any, **__: Any) -> Any:
        """Raise `InvalidInputError`, since a list of references cannot be decoded."""
        raise _no_batches()

    @contextmanager
    def _numbers(self) -> Iterator[datasets.Dataset]:
        """Provide the same rows as a stock dataset in temporary files."""
        stream = self.with_format(None)
        features = None if self.features is None else _plain_features(self.features)
        with tempfile.TemporaryDirectory(prefix="w2w-") as folder:
            yield datasets.Dataset.from_generator(_examples, features, folder, gen_kwargs={"stream": stream})


def _examples(stream: Any) -> Iterator[dict[str, Any]]:
    yield from stream


def _no_batches() -> InvalidInputError:
    return InvalidInputError(
        "batch() is not supported for rows that are read lazily; use iter(batch_size) or a DataLoader"
    )


class _Kept:
    """A context manager for a file that its owner closes."""

    def __init__(self, file: Any):
        self.file = file

    def __enter__(self) -> Any:
        return self.file

    def __exit__(self, *_: Any) -> None:
        self.file.flush()


def _row_bytes(feature: WeightRow) -> int:
    return feature.size * np.dtype(feature.source_dtype).itemsize


def _export(name: str) -> Any:
    """Return an export method of `Dataset` that exports numbers."""
    method = getattr(datasets.Dataset, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapped(self: LazyDataset | LazyStream, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, LazyDataset) and not _wide(self.features):
            return method(self, *args, **kwargs)
        if signature.bind(self, *args, **kwargs).arguments.get("batched"):
            return _batches(self, method, args, kwargs)
        # a CSV file contains rows as text, which NumPy would abbreviate
        with (
            self._numbers() as plain,
            np.printoptions(threshold=sys.maxsize, linewidth=sys.maxsize, floatmode="unique"),
        ):
            return method(plain, *args, **kwargs)

    return wrapped


def _batches(data: LazyDataset | LazyStream, method: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """Yield an export batch by batch, and remove the temporary files at the end."""
    with data._numbers() as plain:
        yield from method(plain, *args, **kwargs)


for _name in ("to_csv", "to_dict", "to_json", "to_list", "to_pandas", "to_polars", "to_sql"):
    setattr(LazyDataset, _name, _export(_name))
    setattr(LazyStream, _name, _export(_name))
for _name in ("to_parquet", "push_to_hub"):
    setattr(LazyStream, _name, _export(_name))
