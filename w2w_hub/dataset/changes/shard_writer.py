"""Write one shard of the matrix from any source of rows, one row in memory at a time."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from ...errors import InvalidInputError, W2WError
from ..manifest import row_digest
from ..matrix.codecs import make_codec
from ..matrix.geometry import Geometry

HALF_LIMIT = float(np.finfo(np.float16).max)


class RowSource(Protocol):
    """A source of rows, which must be picklable to be read by other processes.

    Attributes
    ----------
    show_progress : bool
        Show progress while reading; set if a single task reads all rows.
    notes : dict of str to set
        Facts about the rows, collected while they are read.
    """

    show_progress: bool = False
    notes: Mapping[str, set[Any]] = MappingProxyType({})

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        """Yield rows ``(width,)``, float16 or float32; an unreadable row is yielded as its error."""
        ...

    def fingerprint(self, numbers: list[int]) -> Any:
        """Return a JSON value that changes if these rows do, for resuming a killed writer; None if unknown."""
        return None


@dataclass
class ArrayRows(RowSource):
    """Rows of a matrix in memory."""

    array: np.ndarray

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        for number in numbers:
            yield self.array[number]


@dataclass
class ShardTask:
    """The content of one shard: `pieces` are pairs of a source and its row numbers, in row order."""

    number: int
    geometry: Geometry
    folder: Path
    ids: list[str]
    pieces: list[tuple[RowSource, list[int]]]
    may_round: bool = True  # wider values may be rounded to float16
    half_view: bool = False  # all values must be in the range of float16


@dataclass
class ShardResult:
    number: int
    digests: list[str] = field(default_factory=list)
    sha256: str = ""
    size: int = 0
    max_error: float | None = None  # the largest rounding error; None without rounding
    problems: list[W2WError] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)  # see RowSource


def write_shard(task: ShardTask) -> ShardResult:
    """Write a shard file; if rows have errors, remove the file and return all of them."""
    result = ShardResult(task.number)
    target = np.dtype(task.geometry.dtype)
    path = task.folder / task.geometry.shard_path(task.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = iter(task.ids)
    with ShardFile(path, task.geometry) as file:
        for source, numbers in task.pieces:
            for found in source.rows(numbers):
                name = next(names)
                row = found if isinstance(found, W2WError) else _stored(found, target, name, task, result)
                if isinstance(row, W2WError):
                    result.problems.append(row)
                elif not result.problems:
                    result.digests.append(row_digest(row))
                    file.append(row)
            for key, value in source.notes.items():
                result.notes.setdefault(key, set()).update(value)
    if result.problems:
        path.unlink()
    else:
        result.sha256, result.size = file.sha256, file.size
    return result


def _stored(
    row: np.ndarray, target: np.dtype[Any], name: str, task: ShardTask, result: ShardResult
) -> np.ndarray | W2WError:
    """Return a row in the stored dtype, or an error."""
    if row.shape != (task.geometry.width,):
        return InvalidInputError(f"row {name!r} has shape {row.shape}, expected ({task.geometry.width},)")
    with np.errstate(over="ignore"):
        stored = row.astype(target, copy=False)
    # a finite sum implies finite values; an infinite one, perhaps by overflow, needs the full check
    if not np.isfinite(stored.sum(dtype=np.float64)) and not np.isfinite(stored).all():
        if np.isfinite(row).all() and target == np.float16:
            return InvalidInputError(
                f"row {name!r} has values up to {np.abs(row).max():g}, beyond the range of float16; use dtype='float32'"
            )
        return InvalidInputError(f"row {name!r} has NaN or infinite values; omit it or train it again")
    if target == np.float16:
        if row.dtype != np.float16:
            change = stored - row  # in the wider dtype
            error = float(max(change.max(initial=0.0), -change.min(initial=0.0)))
            if error and not task.may_round:
                return InvalidInputError(
                    f"row {name!r} would be rounded by up to {error:g}, but this float16 dataset has no rounded rows; "
                    "pack a float32 dataset instead"
                )
            result.max_error = max(result.max_error or 0.0, error)
    elif task.half_view:
        largest = float(max(stored.max(initial=0.0), -stored.min(initial=0.0)))
        if largest > HALF_LIMIT:
            return InvalidInputError(
                f"row {name!r} has values up to {largest:g}, beyond the range of the float16 Parquet view; "
                "use parquet_view=False or parquet_view='float32'"
            )
    return stored


class ShardFile:
    """Writes a shard in Zarr's ``sharding_indexed`` encoding sequentially: chunks, then their index."""

    def __init__(self, path: Path, geometry: Geometry):
        self.path, self.geometry = path, geometry
        self._codec = None if geometry.compressor is None else make_codec(geometry.compressor)
        little = np.dtype(geometry.dtype).newbyteorder("<")
        self._chunk = np.zeros((geometry.chunk_rows, geometry.width), little)
        self._filled = 0
        self._index = np.full((geometry.chunks_per_shard, 2), 2**64 - 1, "<u8")
        self._chunks = 0
        self._hash = hashlib.sha256()
        self.size = 0
        self.sha256 = ""

    def __enter__(self) -> ShardFile:
        self._file = open(self.path, "wb", buffering=0)
        return self

    def append(self, row: np.ndarray) -> None:
        if self.geometry.chunk_rows == 1 and self._codec is None and sys.byteorder == "little":
            self._write_chunk(np.ascontiguousarray(row))
            return
        self._chunk[self._filled] = row
        self._filled += 1
        if self._filled == self.geometry.chunk_rows:
            self._write_chunk(self._chunk)
            self._filled = 0

    def _write_chunk(self, chunk: np.ndarray) -> None:
        data = chunk.reshape(-1).view(np.uint8).data if self._codec is None else self._codec.encode(chunk)
        self._index[self._chunks] = self.size, len(data)
        self._chunks += 1
        self._write(data)

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        self._hash.update(view)
        self.size += len(view)
        while len(view):
            view = view[self._file.write(view) :]

    def __exit__(self, kind: Any, *_: Any) -> None:
        import google_crc32c

        try:
            if kind is None:
                if self._filled:
                    self._chunk[self._filled :] = 0  # Zarr stores whole chunks, padded with the fill value
                    self._write_chunk(self._chunk)
                index = self._index.tobytes()
                self._write(index + google_crc32c.value(index).to_bytes(4, "little"))
                self.sha256 = self._hash.hexdigest()
        finally:
            self._file.close()
