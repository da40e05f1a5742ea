"""What makes `load_dataset` lazy: a feature that holds a reference to a row, and a Dataset that writes values out.

Importing this module registers the feature with `datasets`; one that was saved with it can be loaded after.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
from datasets.features.features import register_feature

from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError
from .reader import WeightDataset

CHECK = 16  # characters of a row's digest that a reference carries
ROWS_A_ROW_GROUP = 64


@dataclass
class WeightRow:
    """One row of a dataset: a reference (folder, id and digest of the row), or the values themselves.

    Attributes
    ----------
    size : int
        Numbers in a row.
    source_dtype : str
        How they are stored; what they decode to.
    """

    size: int
    source_dtype: str = "float32"
    decode: bool = True
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "numpy.ndarray"
    pa_type: ClassVar[Any] = pa.struct(
        {"source": pa.string(), "id": pa.string(), "check": pa.string(), "values": pa.binary()}
    )
    _type: str = field(default="WeightRow", init=False, repr=False)

    def __call__(self) -> Any:
        return self.pa_type

    def references(self, dataset: WeightDataset, ids: Sequence[str]) -> Any:
        """An Arrow array that refers to rows of a dataset."""
        checks = [value[:CHECK] for value in dataset.labels.loc[list(ids), "row_sha256"]]
        source = pa.array([dataset.address] * len(ids), pa.string())
        return pa.StructArray.from_arrays(
            [source, pa.array(list(ids), pa.string()), pa.array(checks, pa.string()), pa.nulls(len(ids), pa.binary())],
            names=["source", "id", "check", "values"],
        )

    def encode_example(self, value: Any) -> dict[str, Any]:
        """A reference as it is; an array, list or tensor of `size` numbers as its bytes."""
        if isinstance(value, dict):
            return {name: value.get(name) for name in ("source", "id", "check", "values")}
        row = np.ascontiguousarray(np.asarray(value), np.dtype(self.source_dtype).newbyteorder("<"))
        if row.shape != (self.size,):
            raise InvalidInputError(f"a row of weights has {self.size} numbers, not shape {row.shape}")
        return {"source": None, "id": None, "check": None, "values": row.tobytes()}

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> np.ndarray:
        """The row ``(size,)``, read now unless the values are here."""
        if not isinstance(value, dict):
            return np.asarray(value)
        if value["values"] is not None:
            row = np.frombuffer(value["values"], np.dtype(self.source_dtype).newbyteorder("<"))
            return row.astype(self.source_dtype)
        return _read(value["source"], value["id"], value["check"])

    def embed_storage(
        self, storage: Any, token_per_repo_id: Any = None, local_files: bool = True, remote_files: bool = True
    ) -> Any:
        """Values in the place of references, except where `save_to_disk` asks, which keeps references."""
        if not remote_files:
            return storage
        rows = [self._values(value) for value in storage.to_pylist()]
        nothing = pa.nulls(len(rows), pa.string())
        return pa.StructArray.from_arrays(
            [nothing, nothing, nothing, pa.array(rows, pa.binary())],
            names=["source", "id", "check", "values"], mask=storage.is_null(),
        )  # fmt: skip

    def _values(self, value: Any) -> bytes | None:
        if value is None:
            return None
        row = self.decode_example(value)
        return row.astype(row.dtype.newbyteorder("<")).tobytes()

    def cast_storage(self, storage: Any) -> Any:
        """References and values as they are; lists of numbers as their bytes."""
        if storage.type == self.pa_type or pa.types.is_null(storage.type):
            return storage.cast(self.pa_type)
        rows = [None if row is None else self.encode_example(row) for row in storage.to_pylist()]
        return pa.array(rows, self.pa_type)

    def flatten(self) -> Any:
        return self

    def plain(self) -> Any:
        """The stock feature of the same rows."""
        return datasets.List(datasets.Value(self.source_dtype), length=self.size)

    def plain_array(self, storage: Any) -> Any:
        """Rows as an Arrow list of numbers, as stock `datasets` reads them."""
        values = storage.to_pylist()
        block = np.empty((len(values), self.size), self.source_dtype)
        for row, value in zip(block, values, strict=True):
            if value is not None:
                row[:] = self.decode_example(value)
        kind = pa.list_(pa.from_numpy_dtype(self.source_dtype), self.size)
        return pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=kind, mask=storage.is_null())


_opened: dict[str, tuple[WeightDataset, list[str]]] = {}  # with the digests of its rows
_opening = Lock()


def _read(source: str, row_id: str, check: str) -> np.ndarray:
    """A row by reference; a dataset that grew meanwhile is opened again."""
    for again in (False, True):
        with _opening:
            if again or source not in _opened:
                try:
                    found = WeightDataset.open(Path(source))
                    _opened[source] = found, found.labels["row_sha256"].tolist()
                except MissingPathError as error:
                    raise MissingPathError(
                        f"these rows are read from {source}, which is not there ({error}); put it back, "
                        "or load the dataset again from where it is"
                    ) from error
            dataset, digests = _opened[source]
        try:
            number = dataset.position(row_id)
        except UnknownNameError:
            continue
        if digests[number][:CHECK] == check:
            return dataset[number]
    raise CorruptFileError(f"{source} no longer has row {row_id!r} as it was; load the dataset again")


class _Example(dict[str, Any]):
    """An example whose rows of weights are read when they are looked at."""

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
    """A function of examples that are :class:`_Example`; what it is called with decides what is read."""

    function: Any
    wide: dict[str, WeightRow]

    def __call__(self, example: dict[str, Any], *more: Any, **named: Any) -> Any:
        return self.function(_Example(example, self.wide), *more, **named)


def _as_lazy(found: Any) -> Any:
    """What a method of `Dataset` made, as lazy as its input: `datasets` names its own class where it makes one."""
    for part in found.values() if isinstance(found, dict) else [found]:
        if type(part) is datasets.Dataset:
            part.__class__ = LazyDataset
    return found


class LazyDataset(datasets.Dataset):
    """A `datasets.Dataset` that writes values, not references, to where others read them.

    What `concatenate_datasets` and `load_from_disk` return is a plain `Dataset` that reads its rows as lazily; make
    it one of these, with :meth:`of`, before it is pushed or written as Parquet.
    """

    @classmethod
    def of(cls, data: datasets.Dataset) -> LazyDataset:
        """The same dataset, so that `to_parquet` and `push_to_hub` write its numbers."""
        copied = copy.copy(data)
        copied.__class__ = cls
        return copied

    def filter(self, function: Any = None, *args: Any, batch_size: int | None = ROWS_A_ROW_GROUP, **kwargs: Any) -> Any:
        """As `Dataset.filter`, but a row's weights are read only if the function looks at them.

        `datasets` would decode whole batches first; of those that it must, 64 rows are in memory at a time.
        """
        wide = {k: v for k, v in self.features.items() if isinstance(v, WeightRow)}
        plain = not kwargs.get("batched") and not kwargs.get("input_columns") and self.format["type"] is None
        if not wide or function is None or args or not plain:
            return _as_lazy(super().filter(function, *args, batch_size=batch_size, **kwargs))
        closed = copy.copy(self)
        closed._info = self.info.copy()
        closed._info.features = datasets.Features(
            {k: replace(v, decode=False) if k in wide else v for k, v in self.features.items()}
        )
        found = super(LazyDataset, closed).filter(_OnDemand(function, wide), batch_size=batch_size, **kwargs)
        found._info.features = self.features.copy()
        return _as_lazy(found)

    def plain_features(self) -> Any:
        """Features in which rows of weights are plain lists."""
        return datasets.Features({k: v.plain() if isinstance(v, WeightRow) else v for k, v in self.features.items()})

    def to_parquet(
        self,
        path_or_buf: Any,
        batch_size: int | None = None,
        storage_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> int:
        """Write Parquet with the numbers of each row, at most 64 rows in memory; see `Dataset.to_parquet`."""
        import fsspec
        import pyarrow.parquet as pq

        if not any(isinstance(v, WeightRow) for v in self.features.values()):
            return super().to_parquet(path_or_buf, batch_size, storage_options, **options)
        features = self.plain_features()
        schema = features.arrow_schema
        written = 0
        opened = (
            fsspec.open(str(path_or_buf), "wb", **(storage_options or {}))
            if isinstance(path_or_buf, (str, Path))
            else _Kept(path_or_buf)
        )
        with opened as file, pq.ParquetWriter(file, schema, **options) as writer:
            for batch in self.with_format("arrow").iter(min(batch_size or ROWS_A_ROW_GROUP, ROWS_A_ROW_GROUP)):
                columns = [
                    feature.plain_array(batch[name].combine_chunks()) if isinstance(feature, WeightRow) else batch[name]
                    for name, feature in self.features.items()
                ]
                table = pa.Table.from_arrays(columns, schema=schema)
                writer.write_table(table, row_group_size=ROWS_A_ROW_GROUP)
                written += table.nbytes
        return written

    def _estimate_nbytes(self) -> int:
        wide = [f for f in self.features.values() if isinstance(f, WeightRow)]
        return super()._estimate_nbytes() + sum(len(self) * f.size * np.dtype(f.source_dtype).itemsize for f in wide)

    def _push_parquet_shards_to_hub(self, *args: Any, embed_external_files: bool = True, **kwargs: Any) -> Any:
        # to_parquet writes the values, so that they need not be embedded before
        pushed = super()._push_parquet_shards_to_hub(*args, embed_external_files=False, **kwargs)
        return tuple(self.plain_features() if isinstance(part, datasets.Features) else part for part in pushed)


class _Kept:
    """A file that its owner closes."""

    def __init__(self, file: Any):
        self.file = file

    def __enter__(self) -> Any:
        return self.file

    def __exit__(self, *_: Any) -> None:
        self.file.flush()


def _keeping_class(name: str) -> Any:
    """A method of `Dataset` whose result stays lazy."""
    method = getattr(datasets.Dataset, name)

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _as_lazy(method(self, *args, **kwargs))

    return wrapped


for _name in (
    "add_column", "cast", "cast_column", "class_encode_column", "flatten", "flatten_indices", "map",
    "remove_columns", "rename_column", "rename_columns", "repeat", "select", "select_columns", "shard", "shuffle",
    "skip", "sort", "take", "train_test_split",
):  # fmt: skip
    setattr(LazyDataset, _name, _keeping_class(_name))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that registering features is experimental; the tests hold it to what we need
    register_feature(WeightRow, "WeightRow")
