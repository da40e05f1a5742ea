"""The matrix of a dataset, read by byte range: a sharded Zarr v3 array whose chunks span whole rows.

What is read comes through :class:`ByteSource`, so that a local folder and a store that serves ranges are the same
to :class:`ShardedMatrix`. One row costs its shard's index (16 bytes a chunk, kept) and one chunk.
"""

from __future__ import annotations

import gzip
import json
import mmap
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from ...common.limits import MAX_JSON_BYTES
from ...errors import CorruptFileError, UnsupportedFormatError, W2WError
from ...store.commit import find_in
from ...store.paths import open_regular

ARRAY = "weights.zarr/weights"
ABSENT = 2**64 - 1  # offset and size of a chunk that a shard does not hold: Zarr's fill value
READ_BYTES = 8 * 1024 * 1024  # one read of neighbouring rows
THREADED_BYTES = 64 * 1024 * 1024  # from where on reads are shared out to threads
THREADS = 2
DTYPES = ("float16", "float32")


@runtime_checkable
class ByteSource(Protocol):
    """Files that can be read in part; paths are relative to the dataset, with ``/``."""

    def size(self, path: str) -> int:
        """Bytes of a file; `MissingPathError` if it is not there."""
        ...

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Exactly the bytes from `start` to before `stop`."""
        ...


class LocalFiles:
    """Files below one or more folders; the first that has a file is read.

    A file once opened stays open, so that what is read is what was there then, also after another process has
    put a new state of the dataset in its place. Reads carry their position: threads and forked processes share
    them safely.
    """

    def __init__(self, *folders: Path):
        self.folders = folders
        self._open: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._mapped: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folders": self.folders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["folders"])  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        opened, self._open = getattr(self, "_open", {}), {}
        for descriptor in opened.values():
            os.close(descriptor)

    def open(self, path: str) -> int:
        """Return the descriptor of a file, opened now if it is not yet; no link below the folders is followed."""
        with self._lock:
            if path not in self._open:
                self._open[path] = open_regular(find_in(self.folders, path), follow=False)
            return self._open[path]

    def size(self, path: str) -> int:
        return os.fstat(self.open(path)).st_size

    def mapped(self, path: str) -> np.ndarray:
        """A file's bytes as a memory map, uint8.

        Raises
        ------
        CorruptFileError
            If it has become shorter since: to touch what is gone would kill the process.
        """
        descriptor = self._open.get(path)
        size = os.fstat(self.open(path) if descriptor is None else descriptor).st_size
        if path not in self._mapped:
            self._maps[path] = mmap.mmap(self.open(path), size, access=mmap.ACCESS_READ)
            self._mapped[path] = np.frombuffer(self._maps[path], np.uint8)
        if len(self._mapped[path]) > size:
            raise CorruptFileError(f"{self.folders[-1] / path} was cut to {size} bytes while open; fetch it again")
        return self._mapped[path]

    def will_need(self, path: str, start: int, size: int) -> None:
        """Tell the system that a part of a mapped file is read next."""
        if hasattr(mmap, "MADV_WILLNEED"):
            page = start % mmap.PAGESIZE
            self._maps[path].madvise(mmap.MADV_WILLNEED, start - page, size + page)

    def seen(self, path: str, start: int, size: int) -> None:
        """Tell the system that a part of a mapped file need not be in this process's memory any more."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._maps[path].madvise(mmap.MADV_DONTNEED, first, last - first)

    def read(self, path: str, start: int, stop: int) -> bytes:
        out = bytearray(stop - start)
        self.read_into(path, start, memoryview(out))
        return bytes(out)

    def read_into(self, path: str, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on, without a copy in between."""
        descriptor, done = self.open(path), 0
        while done < len(out):
            try:
                count = self._pread(descriptor, out[done:], start + done)
            except OSError as error:
                raise CorruptFileError(f"{self.folders[-1] / path} cannot be read: {error.strerror}") from error
            if not count:
                raise CorruptFileError(
                    f"{self.folders[-1] / path} ends at byte {start + done}, where rows were expected; "
                    "fetch the dataset again"
                )
            done += count

    if hasattr(os, "preadv"):

        def _pread(self, descriptor: int, out: memoryview, start: int) -> int:
            return os.preadv(descriptor, [out], start)

    else:

        def _pread(self, descriptor: int, out: memoryview, start: int) -> int:
            with self._lock:
                os.lseek(descriptor, start, os.SEEK_SET)
                data = os.read(descriptor, len(out))
            out[: len(data)] = data
            return len(data)


@dataclass(frozen=True)
class Geometry:
    """How an ``(rows, width)`` matrix is cut into chunks of whole rows and shards of whole chunks.

    Attributes
    ----------
    compressor : dict or None
        Zarr's name and configuration of the one lossless compressor of chunks.
    """

    rows: int
    width: int
    dtype: str
    chunk_rows: int
    shard_rows: int
    compressor: dict[str, Any] | None = None
    index_last: bool = True
    index_checked: bool = True
    key: tuple[str, str] = ("default", "/")

    @property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def chunks_a_shard(self) -> int:
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        return 16 * self.chunks_a_shard + (4 if self.index_checked else 0)

    def shard_path(self, number: int) -> str:
        """Path of a shard, relative to the dataset."""
        kind, separator = self.key
        return f"{ARRAY}/" + separator.join((*(("c",) if kind == "default" else ()), str(number), "0"))

    @classmethod
    def from_zarr(cls, data: Any) -> Geometry:
        """Read an array's ``zarr.json``.

        Raises
        ------
        UnsupportedFormatError
            If the array is valid Zarr but not cut into sharded whole rows, or has a codec not known here.
        """
        try:
            rows, width = data["shape"]
            shard_rows, shard_width = data["chunk_grid"]["configuration"]["chunk_shape"]
            (sharding,) = data["codecs"]
            inner = sharding["configuration"]
            chunk_rows, chunk_width = inner["chunk_shape"]
            if not all(type(n) is int for n in (rows, width, shard_rows, shard_width, chunk_rows, chunk_width)):
                raise TypeError("a length is not a whole number")
            plain, *compressors = inner["codecs"]
            index_plain, *index_checks = inner["index_codecs"]
            key = data["chunk_key_encoding"]
            separator = key.get("configuration", {}).get("separator", "/" if key["name"] == "default" else ".")
            known = (
                data["zarr_format"] == 3
                and data["node_type"] == "array"
                and data["data_type"] in DTYPES
                and data["fill_value"] == 0
                and data["chunk_grid"]["name"] == "regular"
                and sharding["name"] == "sharding_indexed"
                and shard_width == chunk_width == width
                and min(rows, width, chunk_rows, shard_rows) > 0
                and shard_rows % chunk_rows == 0
                and all(c["name"] == "bytes" and c["configuration"]["endian"] == "little" for c in (plain, index_plain))
                and [c["name"] for c in index_checks] in ([], ["crc32c"])
                and len(compressors) <= 1
                and all(c["name"] in _CODECS for c in compressors)
                and key["name"] in ("default", "v2")
                and separator in ("/", ".")
                and inner.get("index_location", "end") in ("start", "end")
                and not data.get("storage_transformers")
                and not must_understand(data)
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UnsupportedFormatError(f"not a matrix of sharded whole rows ({error})") from error
        if not known:
            raise UnsupportedFormatError("not a matrix of sharded whole rows in codecs known here")
        return cls(
            rows, width, data["data_type"], chunk_rows, shard_rows, compressors[0] if compressors else None,
            inner.get("index_location", "end") == "end", bool(index_checks), (key["name"], separator),
        )  # fmt: skip


def must_understand(data: dict[str, Any]) -> list[str]:
    """Return the fields of an array's metadata that are not known here and may not be ignored, see Zarr v3."""
    known = {
        "zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs",
        "attributes", "dimension_names", "storage_transformers", "consolidated_metadata",
    }  # fmt: skip
    return [
        name
        for name, value in data.items()
        if name not in known and not (isinstance(value, dict) and value.get("must_understand") is False)
    ]


def _blosc(configuration: dict[str, Any]) -> Any:
    import numcodecs

    shuffles = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
    return numcodecs.Blosc(
        configuration["cname"], configuration["clevel"], shuffles[configuration["shuffle"]],
        configuration.get("blocksize", 0), configuration.get("typesize"),
    )  # fmt: skip


def _zstd(configuration: dict[str, Any]) -> Any:
    import numcodecs

    return numcodecs.Zstd(configuration.get("level", 0), configuration.get("checksum", False))


class _Gzip:
    """Gzip of Zarr's codec of that name, which unpacks no more than there is room for."""

    def __init__(self, configuration: dict[str, Any]):
        self.level = configuration.get("level", 5)

    def encode(self, data: Any) -> bytes:
        return gzip.compress(bytes(data), self.level, mtime=0)

    def decode(self, data: bytes, out: Any) -> None:
        room = memoryview(out).cast("B")
        unpacker = zlib.decompressobj(wbits=31)
        plain = unpacker.decompress(data, len(room) + 1)
        if len(plain) != len(room) or not unpacker.eof:
            raise ValueError(f"it does not unpack to {len(room):,} bytes")
        room[:] = plain


_CODECS: dict[str, Callable[[dict[str, Any]], Any]] = {"blosc": _blosc, "zstd": _zstd, "gzip": _Gzip}


def compressor(geometry: Geometry) -> Any:
    """Return the codec of a geometry's chunks, with `encode` and `decode` as in numcodecs, or None."""
    found = geometry.compressor
    return None if found is None else _CODECS[found["name"]](found.get("configuration", {}))


def decompress(codec: dict[str, Any], data: bytes, out: np.ndarray) -> None:
    """Unpack a chunk into an array of its size.

    Raises
    ------
    ValueError
        Before anything is unpacked, if the chunk states another size.
    """
    require_unpacked_size(codec["name"], data, out.nbytes)
    _CODECS[codec["name"]](codec.get("configuration", {})).decode(data, out)


def require_unpacked_size(name: str, data: bytes, size: int) -> None:
    """Raise `ValueError` unless a compressed chunk unpacks to `size` bytes; no more than these are unpacked."""
    stated: int | None = None
    if name == "blosc":  # 16 bytes: two versions, flags, type size; then bytes, block size and packed bytes
        if len(data) >= 16 and int.from_bytes(data[12:16], "little") == len(data):
            stated = int.from_bytes(data[4:8], "little")
    elif name == "zstd":
        stated = _zstd_size(data)
        if stated is None:  # written as a stream
            stream = pa.CompressedInputStream(pa.BufferReader(data), "zstd")
            stated = len(stream.read(size + 1))
    else:
        return  # gzip states it at its end only, and is unpacked into bounded room
    if stated != size:
        raise ValueError(f"it states {'no size' if stated is None else f'{stated:,} bytes'}, a chunk has {size:,}")


def _zstd_size(data: bytes) -> int | None:
    """The content size that the header of a zstd frame states, see RFC 8878 section 3.1.1."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("it is not a zstd frame")
    flag, single, dictionary = data[4] >> 6, data[4] >> 5 & 1, data[4] & 3
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    width = (single, 2, 4, 8)[flag]
    field = data[start : start + width]
    return int.from_bytes(field, "little") + (256 if flag == 1 else 0) if width else None


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array that begins on a memory page.

    NumPy's large arrays begin 16 bytes after one. A copy from the start of a file, whose pages are aligned, then
    stores just ahead of where it loads from, modulo the page: processors take that for a dependency, and the copy
    runs at a third of its speed.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if size < mmap.PAGESIZE:
        return np.empty(shape, dtype)
    raw = np.empty(size + mmap.PAGESIZE, np.uint8)
    start = -raw.ctypes.data % mmap.PAGESIZE
    return raw[start : start + size].view(dtype).reshape(shape)


def _run(tasks: list[Callable[[], None]], threads: int) -> None:
    """Run tasks in this thread and others beside it."""
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
    """Raise unless ``weights.zarr`` is a Zarr v3 group, as other readers need it to be."""
    data = _metadata(source, "weights.zarr/zarr.json", where)
    if not isinstance(data, dict) or data.get("zarr_format") != 3 or data.get("node_type") != "group":
        raise CorruptFileError(f"{where}/weights.zarr cannot be opened (no Zarr v3 group); fetch the dataset again")


class ShardedMatrix:
    """Rows of a matrix in any order, each read by its byte range.

    Parameters
    ----------
    source : ByteSource
        Where the files are; :class:`LocalFiles` for a folder.
    where : str
        The dataset's name in messages.
    """

    def __init__(self, source: ByteSource, where: str = "the dataset", geometry: Geometry | None = None):
        self.source, self.where = source, where
        if geometry is None:
            geometry = Geometry.from_zarr(_metadata(source, f"{ARRAY}/zarr.json", where))
        self.geometry = geometry
        self.shape, self.dtype = (geometry.rows, geometry.width), np.dtype(geometry.dtype)
        self._indexes: dict[int, np.ndarray] = {}
        self._straight: dict[int, tuple[str, np.ndarray] | None] = {}

    def shard_index(self, number: int) -> np.ndarray:
        """Offset and size of each chunk of a shard, uint64 ``(chunks, 2)``, checked against its checksum."""
        if number in self._indexes:
            return self._indexes[number]
        import google_crc32c

        g, path = self.geometry, self.geometry.shard_path(number)
        size = self.source.size(path)
        if size < g.index_bytes:
            raise CorruptFileError(f"{self.where}/{path} has {size} bytes, too few for a shard; fetch it again")
        start = size - g.index_bytes if g.index_last else 0
        raw = self.source.read(path, start, start + g.index_bytes)
        body = raw[: 16 * g.chunks_a_shard]
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
        """Rows by number (0 to rows - 1, in any order, repeated at will) as ``(m, width)``."""
        wanted = np.asarray(numbers, np.int64)
        shape = (len(wanted), self.geometry.width)
        mapped = self._mapped_shards(wanted)
        if mapped is not None:
            shards, within = np.divmod(wanted, self.geometry.shard_rows)
            out = _empty(shape, self.dtype) if out is None else out
            if len(mapped) == 1:  # "clip" only spares a buffer
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

    def view(self, first: int, last: int) -> np.ndarray | None:
        """Rows `first` to before `last` as a view of one shard's mapped file, read-only; None where that is not so.

        The system is told to fetch the pages, and fetches them while others are worked on; :meth:`seen` lets go of
        them.
        """
        shard, within = divmod(first, self.geometry.shard_rows)
        if last <= first or (last - 1) // self.geometry.shard_rows != shard:
            return None
        whole = self._straight_rows(shard)
        if whole is None:
            return None
        self.source.will_need(*self._span(first, last))  # type: ignore[attr-defined]  # a source that maps
        return whole[within : within + last - first]

    def seen(self, first: int, last: int) -> None:
        """The rows of a :meth:`view` are not needed in memory any more."""
        self.source.seen(*self._span(first, last))  # type: ignore[attr-defined]

    def _span(self, first: int, last: int) -> tuple[str, int, int]:
        """Path, first byte and size of neighbouring rows of one shard."""
        shard, within = divmod(first, self.geometry.shard_rows)
        size = self.geometry.row_bytes
        return self.geometry.shard_path(shard), within * size, (last - first) * size

    def row(self, number: int) -> np.ndarray:
        """One row ``(width,)``."""
        shard, within = divmod(number, self.geometry.shard_rows)
        straight = self._straight_rows(shard)
        return self.rows([number])[0] if straight is None else np.array(straight[within])

    def _straight_rows(self, shard: int) -> np.ndarray | None:
        """A shard as a mapped ``(rows, width)`` array, if it is a local file whose chunks lie in order."""
        if shard in self._straight:
            known = self._straight[shard]
            if known is None:
                return None
            path, view = known
            self.source.mapped(path)  # type: ignore[attr-defined]  # still whole?
            return view
        g, mapped = self.geometry, getattr(self.source, "mapped", None)
        self._straight[shard] = None
        if mapped is None or g.compressor is not None or sys.byteorder == "big":
            return None
        rows, path = min(g.shard_rows, g.rows - shard * g.shard_rows), g.shard_path(shard)
        starts = self.shard_index(shard)[: -(-rows // g.chunk_rows), 0]
        if (starts == np.arange(len(starts), dtype=np.uint64) * np.uint64(g.chunk_rows * g.row_bytes)).all():
            view = mapped(path)[: rows * g.row_bytes].view(self.dtype).reshape(rows, g.width)
            self._straight[shard] = path, view
            return view
        return None

    def _mapped_shards(self, wanted: np.ndarray) -> dict[int, np.ndarray] | None:
        """The mapped shards of scattered rows; None where there is none, and for neighbours, which are read faster."""
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
        """Reads of an uncompressed matrix, rows that lie side by side in one."""
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
        a_read = max(1, READ_BYTES // g.row_bytes)
        edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(wanted)]
        view = out.reshape(-1).view(np.uint8).data
        for first, last in pairwise(edges):
            for i in range(first, last, a_read):
                j = min(i + a_read, last)
                if absent[i]:
                    out[i:j] = 0
                    continue
                part = view[i * g.row_bytes : j * g.row_bytes]
                yield self._read(g.shard_path(int(shards[i])), int(starts[i]), part)

    def _read(self, path: str, start: int, out: memoryview) -> Callable[[], None]:
        into = getattr(self.source, "read_into", None)
        if into is not None:
            return lambda: into(path, start, out)

        def copied() -> None:
            out[:] = self.source.read(path, start, start + len(out))

        return copied

    def _chunk_reads(self, wanted: np.ndarray, out: np.ndarray) -> Iterator[Callable[[], None]]:
        """Reads of a compressed matrix, each chunk decoded once."""
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
