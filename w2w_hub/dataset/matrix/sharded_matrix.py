"""Read rows of a sharded Zarr v3 array by byte range, if its chunks consist of whole rows.

Reading one row needs its shard's index (16 bytes per chunk, kept in memory) and one chunk. A :class:`ByteSource`
reads the files, so that local folders and the Hub share this code.
"""

from __future__ import annotations

import json
import mmap
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ...common.limits import MAX_JSON_BYTES
from ...errors import CorruptFileError, W2WError
from ...store.byte_source import ByteSource
from .codecs import decompress
from .geometry import ARRAY, GROUP, Geometry
from .matrix import Matrix

ABSENT = 2**64 - 1  # offset and size of an absent chunk, which has Zarr's fill value
READ_BYTES = 8 * 1024 * 1024  # largest read of adjacent rows
THREADED_BYTES = 64 * 1024 * 1024  # larger reads are divided between threads
THREADS = 2


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an empty array that is aligned to a memory page.

    NumPy's large arrays begin 16 bytes after a page. A copy from a page-aligned file then stores just ahead of its
    loads, modulo the page size, which processors treat as a dependency, so that it runs at a third of the speed.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < mmap.PAGESIZE:
        return np.empty(shape, dtype)
    raw = np.empty(size + mmap.PAGESIZE, np.uint8)
    start = -raw.ctypes.data % mmap.PAGESIZE
    return raw[start : start + size].view(dtype).reshape(shape)


def _run(tasks: list[Callable[[], None]], threads: int) -> None:
    """Run tasks in this thread and in `threads` - 1 others."""
    if threads < 2 or len(tasks) < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(_run, tasks[i::threads], 1) for i in range(1, threads)]
        _run(tasks[::threads], 1)
        for other in others:
            other.result()


def _metadata(source: ByteSource, path: str, where: str) -> Any:
    size = source.size(path)
    if size > MAX_JSON_BYTES:
        raise CorruptFileError(f"{where}/{path} has {size:,} bytes, too many for metadata; fetch the dataset again")
    try:
        return json.loads(source.read(path, 0, size))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{where}/weights.zarr cannot be opened ({error}); fetch the dataset again") from error


def require_group(source: ByteSource, where: str = "the dataset") -> None:
    """Raise `CorruptFileError` unless ``weights.zarr`` is a Zarr v3 group, which other readers require."""
    data = _metadata(source, f"{GROUP}/zarr.json", where)
    if not isinstance(data, dict) or data.get("zarr_format") != 3 or data.get("node_type") != "group":
        raise CorruptFileError(f"{where}/weights.zarr cannot be opened (not a Zarr v3 group); fetch the dataset again")


class ShardedMatrix(Matrix):
    """Reads rows in any order, each by its byte range.

    Parameters
    ----------
    source : ByteSource
        Reads the files; :class:`w2w_hub.store.byte_source.LocalFiles` for a folder.
    where : str
        The dataset's name in messages.
    """

    def __init__(self, source: ByteSource, where: str = "the dataset", geometry: Geometry | None = None):
        self.source, self.where = source, where
        if geometry is None:
            geometry = Geometry.from_zarr(_metadata(source, f"{ARRAY}/zarr.json", where))
        self.geometry: Geometry = geometry
        self.shape, self.dtype = (geometry.rows, geometry.width), np.dtype(geometry.dtype)
        self._indexes: dict[int, np.ndarray] = {}
        self._straight: dict[int, tuple[str, np.ndarray] | None] = {}

    def shard_index(self, number: int) -> np.ndarray:
        """Return the offset and size of each chunk of a shard, uint64 ``(chunks, 2)``, verified by its checksum."""
        if number in self._indexes:
            return self._indexes[number]
        import google_crc32c

        g, path = self.geometry, self.geometry.shard_path(number)
        size = self.source.size(path)
        if size < g.index_bytes:
            raise CorruptFileError(f"{self.where}/{path} has {size} bytes, too few for a shard; fetch it again")
        start = size - g.index_bytes if g.index_last else 0
        raw = self.source.read(path, start, start + g.index_bytes)
        body = raw[: 16 * g.chunks_per_shard]
        if g.index_checked and google_crc32c.value(bytes(body)) != int.from_bytes(raw[-4:], "little"):
            raise CorruptFileError(f"{self.where}/{path} has a damaged shard index; fetch it again")
        index = np.frombuffer(body, "<u8").reshape(-1, 2)
        held = index[index[:, 0] != ABSENT]
        wrong = (held > size).any() or (held.sum(1) > size).any()
        if wrong or (g.compressor is None and (held[:, 1] != g.chunk_rows * g.row_bytes).any()):
            raise CorruptFileError(f"{self.where}/{path} has a shard index that points outside it; fetch it again")
        self._indexes[number] = index
        return index

    def rows(self, numbers: np.ndarray | Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        wanted = np.asarray(numbers, np.int64)
        shape = (len(wanted), self.geometry.width)
        mapped = self._mapped_shards(wanted)
        if mapped is not None:
            shards, within = np.divmod(wanted, self.geometry.shard_rows)
            out = _empty(shape, self.dtype) if out is None else out
            if len(mapped) == 1:  # mode="clip" avoids a buffer
                return np.take(mapped[int(shards[0])], within, axis=0, out=out, mode="clip")
            for i, (shard, row) in enumerate(zip(shards.tolist(), within.tolist(), strict=True)):
                out[i] = mapped[shard][row]
            return out
        out = _empty(shape, self.dtype) if out is None else out
        reads = self._plain_reads if self.geometry.compressor is None else self._chunk_reads
        _run(list(reads(wanted, out)), THREADS if out.nbytes >= THREADED_BYTES else 1)
        if sys.byteorder == "big":
            out.byteswap(inplace=True)
        return out

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows of one mapped shard without a copy; the system fetches their pages in the background."""
        shard, within = divmod(start, self.geometry.shard_rows)
        if stop <= start or (stop - 1) // self.geometry.shard_rows != shard:
            return None
        whole = self._straight_rows(shard)
        if whole is None:
            return None
        self.source.will_need(*self._span(start, stop))
        return whole[within : within + stop - start]

    def release(self, start: int, stop: int) -> None:
        if stop > start and self._straight.get(start // self.geometry.shard_rows) is not None:
            self.source.release(*self._span(start, stop))

    def _span(self, start: int, stop: int) -> tuple[str, int, int]:
        """Return the path, first byte and size of adjacent rows of one shard."""
        shard, within = divmod(start, self.geometry.shard_rows)
        size = self.geometry.row_bytes
        return self.geometry.shard_path(shard), within * size, (stop - start) * size

    def row(self, number: int) -> np.ndarray:
        shard, within = divmod(number, self.geometry.shard_rows)
        straight = self._straight_rows(shard)
        return self.rows([number])[0] if straight is None else np.array(straight[within])

    def parts(self) -> list[tuple[str, int, int]]:
        g = self.geometry
        return [(g.shard_path(i), i * g.shard_rows, min((i + 1) * g.shard_rows, g.rows)) for i in range(g.shards)]

    def check_part(self, number: int) -> None:
        self.shard_index(number)

    def _straight_rows(self, shard: int) -> np.ndarray | None:
        """Return a shard as a mapped ``(rows, width)`` array; None if it is remote or its chunks are not in order."""
        if shard in self._straight:
            known = self._straight[shard]
            if known is None:
                return None
            path, view = known
            self.source.mapped(path)  # raises if the file has been truncated
            return view
        g, path = self.geometry, self.geometry.shard_path(shard)
        self._straight[shard] = None
        if g.compressor is not None or sys.byteorder == "big":
            return None
        data = self.source.mapped(path)
        if data is None:
            return None
        rows = min(g.shard_rows, g.rows - shard * g.shard_rows)
        starts = self.shard_index(shard)[: -(-rows // g.chunk_rows), 0]
        if (starts == np.arange(len(starts), dtype=np.uint64) * np.uint64(g.chunk_rows * g.row_bytes)).all():
            view = data[: rows * g.row_bytes].view(self.dtype).reshape(rows, g.width)
            self._straight[shard] = path, view
            return view
        return None

    def _mapped_shards(self, wanted: np.ndarray) -> dict[int, np.ndarray] | None:
        """Return the memory-mapped shards of scattered rows; None if one cannot be mapped.

        Also None for adjacent rows, which plain reads load faster.
        """
        if len(wanted) == 0 or 2 * np.count_nonzero(np.diff(wanted) == 1) >= len(wanted) > 1:
            return None
        found = {}
        for shard in np.unique(wanted // self.geometry.shard_rows).tolist():
            rows = self._straight_rows(shard)
            if rows is None:
                return None
            found[shard] = rows
        return found

    def _plain_reads(self, wanted: np.ndarray, out: np.ndarray) -> Iterator[Callable[[], None]]:
        """Yield the reads of an uncompressed matrix; adjacent rows are one read."""
        g = self.geometry
        shards = wanted // g.shard_rows
        chunks, inside = np.divmod(wanted % g.shard_rows, g.chunk_rows)
        starts = np.empty(len(wanted), np.int64)
        for shard in dict.fromkeys(shards.tolist()):
            here = shards == shard
            starts[here] = self.shard_index(shard)[chunks[here], 0].astype(np.int64)  # ABSENT becomes -1
        absent = starts < 0
        starts += inside * g.row_bytes
        follows = (shards[1:] == shards[:-1]) & (starts[1:] == starts[:-1] + g.row_bytes) & ~absent[1:] & ~absent[:-1]
        rows_per_read = max(1, READ_BYTES // g.row_bytes)
        edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(wanted)]
        view = out.reshape(-1).view(np.uint8).data
        for first, last in pairwise(edges):
            for i in range(first, last, rows_per_read):
                j = min(i + rows_per_read, last)
                if absent[i]:
                    out[i:j] = 0
                    continue
                part = view[i * g.row_bytes : j * g.row_bytes]
                yield partial(self.source.read_into, g.shard_path(int(shards[i])), int(starts[i]), part)

    def _chunk_reads(self, wanted: np.ndarray, out: np.ndarray) -> Iterator[Callable[[], None]]:
        """Yield the reads of a compressed matrix; each chunk is decoded once."""
        order = np.argsort(wanted // self.geometry.chunk_rows, kind="stable")
        chunks = wanted[order] // self.geometry.chunk_rows
        for group in np.split(order, np.flatnonzero(np.diff(chunks)) + 1):
            if len(group):
                yield self._decode(wanted, group, out)

    def _decode(self, wanted: np.ndarray, group: np.ndarray, out: np.ndarray) -> Callable[[], None]:
        g = self.geometry
        shard, within = divmod(int(wanted[group[0]]), g.shard_rows)

        def decoded() -> None:
            start, size = (int(n) for n in self.shard_index(shard)[within // g.chunk_rows])
            if start == ABSENT:
                out[group] = 0
                return
            path = g.shard_path(shard)
            try:
                block = np.empty((g.chunk_rows, g.width), self.dtype.newbyteorder("<"))
                decompress(g.compressor or {}, self.source.read(path, start, start + size), block)
            except (RuntimeError, ValueError, TypeError, OSError, EOFError, zlib.error, KeyError) as error:
                if isinstance(error, W2WError):
                    raise
                raise CorruptFileError(
                    f"{self.where}/{path}: the chunk of row {int(wanted[group[0]])} cannot be decompressed ({error}); "
                    "fetch it again"
                ) from error
            out[group] = block[wanted[group] % g.chunk_rows]

        return decoded
