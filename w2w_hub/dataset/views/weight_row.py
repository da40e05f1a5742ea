"""The `datasets` feature of `load_dataset`: a reference to a row, which is read on access.

A reference identifies a dataset by a hash of its folder's path, so that saved files contain no paths. The path of each
hash is stored in the cache of `datasets`, for other processes on this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
from datasets.features import features as feature_module

from ...common.datasets_feature import register
from ...errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError, W2WError
from ...store.atomic import write_bytes
from ..weight_dataset import WeightDataset

CHECK = 16  # characters of a row's digest in a reference
PARTS = ["source", "id", "check", "values"]
FOLDER = "folder-"  # prefix of the hash of a folder's path


@dataclass
class WeightRow:
    """One row of a dataset: a reference (dataset, row id and row digest), or the values.

    Attributes
    ----------
    size : int
        Numbers per row.
    source_dtype : str
        Dtype of stored and of decoded values.
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
        """Return an Arrow array of references to rows of a dataset."""
        checks = [value[:CHECK] for value in dataset.labels.loc[list(ids), "row_sha256"]]
        source = pa.array([_name(dataset.address)] * len(ids), pa.string())
        return pa.StructArray.from_arrays(
            [source, pa.array(list(ids), pa.string()), pa.array(checks, pa.string()), pa.nulls(len(ids), pa.binary())],
            names=PARTS,
        )

    def encode_example(self, value: Any) -> dict[str, Any]:
        """Encode an array, list or tensor of `size` numbers as bytes; return a reference unchanged."""
        if isinstance(value, dict):
            return {name: value.get(name) for name in PARTS}
        row = np.ascontiguousarray(np.asarray(value), np.dtype(self.source_dtype).newbyteorder("<"))
        if row.shape != (self.size,):
            raise InvalidInputError(f"a row of weights has shape ({self.size},), not {row.shape}")
        return {"source": None, "id": None, "check": None, "values": row.tobytes()}

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> np.ndarray:
        """Return the row ``(size,)``; a reference is read now."""
        if not isinstance(value, dict):
            return np.asarray(value)
        if value["values"] is not None:
            row = np.frombuffer(value["values"], np.dtype(self.source_dtype).newbyteorder("<"))
            return row.astype(self.source_dtype)
        (row,) = _read([value])
        return row

    def embed_storage(
        self, storage: Any, token_per_repo_id: Any = None, local_files: bool = True, remote_files: bool = True
    ) -> Any:
        """Replace references by values, except for `save_to_disk`, which requests local files only."""
        if not remote_files:
            return storage
        rows = [
            None if row is None else row.astype(row.dtype.newbyteorder("<")).tobytes() for row in self._rows(storage)
        ]
        nothing = pa.nulls(len(rows), pa.string())
        return pa.StructArray.from_arrays(
            [nothing, nothing, nothing, pa.array(rows, pa.binary())],
            names=PARTS, mask=storage.is_null(),
        )  # fmt: skip

    def _rows(self, storage: Any) -> list[np.ndarray | None]:
        """Return the rows of an array of references and values; None for a null."""
        values = storage.to_pylist()
        away = [i for i, value in enumerate(values) if value is not None and value["values"] is None]
        rows: list[Any] = [
            None if value is None or value["values"] is None else self.decode_example(value) for value in values
        ]
        for i, row in zip(away, _read([values[i] for i in away]), strict=True):
            rows[i] = row
        return rows

    def cast_storage(self, storage: Any) -> Any:
        """Encode lists of numbers as bytes; return references and values unchanged."""
        if storage.type == self.pa_type or pa.types.is_null(storage.type):
            return storage.cast(self.pa_type)
        rows = [None if row is None else self.encode_example(row) for row in storage.to_pylist()]
        return pa.array(rows, self.pa_type)

    def flatten(self) -> Any:
        return self

    def plain(self) -> Any:
        """Return the stock feature of the same rows."""
        return datasets.List(datasets.Value(self.source_dtype), length=self.size)

    def plain_array(self, storage: Any) -> Any:
        """Return rows as an Arrow array of lists of numbers, for stock `datasets`."""
        rows = self._rows(storage)
        block = np.zeros((len(rows), self.size), self.source_dtype)
        for place, row in zip(block, rows, strict=True):
            if row is not None:
                place[:] = row
        kind = pa.list_(pa.from_numpy_dtype(self.source_dtype), self.size)
        return pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=kind, mask=storage.is_null())


_opened: dict[str, tuple[WeightDataset, list[str]]] = {}  # with the digests of its rows
_folders: dict[str, str] = {}
_opening = Lock()


def _name(address: str) -> str:
    """Return the name of a dataset in references: ``org/name@commit``, or a hash of a folder's path."""
    if not Path(address).is_absolute():
        return address
    name = FOLDER + hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:32]
    if _folders.setdefault(name, address) == address and not _note(name).is_file():
        # without a writable cache, only other processes cannot resolve the reference
        with suppress(W2WError, OSError):
            write_bytes(_note(name), address.encode(errors="surrogateescape"), replace=True)
    return name


def _note(name: str) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "w2w_hub" / "folders" / name


def _address(source: str) -> str:
    """Return the folder or repository of a reference; references of version 0.1.0 contain the path itself."""
    if not source.startswith(FOLDER):
        return source
    if source not in _folders:
        try:
            _folders[source] = _note(source).read_bytes().decode(errors="surrogateescape")
        except OSError:
            raise MissingPathError(
                "the dataset folder of these rows is unknown on this machine; load the dataset again from its folder"
            ) from None
    return _folders[source]


def _read(references: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Read the rows of references, one read per dataset; a dataset that has changed is opened again."""
    rows: list[Any] = [None] * len(references)
    for source in dict.fromkeys(reference["source"] for reference in references):
        wanted = [i for i, reference in enumerate(references) if reference["source"] == source]
        dataset, numbers = _find(source, [references[i] for i in wanted])
        block = dataset[numbers[0]][None] if len(numbers) == 1 else dataset[np.array(numbers)]
        for i, row in zip(wanted, block, strict=True):
            rows[i] = row
    return rows


def _find(source: str, references: Sequence[Mapping[str, Any]]) -> tuple[WeightDataset, list[int]]:
    """Return the dataset that contains all of these rows unchanged, and their indices."""
    address = _address(source)
    for again in (False, True):
        with _opening:
            if again or source not in _opened:
                try:
                    opened = WeightDataset.open(Path(address))
                except MissingPathError as error:
                    raise MissingPathError(
                        f"the dataset of these rows is missing at {address} ({error}); move it back, or load the "
                        "dataset again from its folder"
                    ) from error
                _opened[source] = opened, opened.labels["row_sha256"].tolist()
            dataset, digests = _opened[source]
        numbers = []
        for reference in references:
            with suppress(UnknownNameError):
                number = dataset.position(reference["id"])
                if digests[number][:CHECK] == reference["check"]:
                    numbers.append(number)
                    continue
            gone = reference["id"]
            break
        else:
            return dataset, numbers
    raise CorruptFileError(f"{address}: row {gone!r} has changed or was removed; load the dataset again")


register(feature_module, WeightRow)
