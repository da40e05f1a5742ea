"""Open torch's files without torch: their pickle as inert records, their tensors as ranges of bytes of the file.

Three formats are read: the zip archive of torch 1.6 and later, the older sequence of pickles and storages, and a plain
pickle without tensors. A tensor's rows are mapped and copied when they are asked for, so that a file of any size needs
memory for a few rows only.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.limits import MAX_TENSORS, MIB
from ..common.progress import progress
from ..dialects.archives import open_archive, read_member
from ..dialects.pickled import STORAGES, Storage, Tensor
from ..dialects.torchfile import archive_root, is_big_endian, require_pickle, view_of
from ..errors import CorruptFileError, W2WError
from ..store.paths import open_regular, short
from ..store.tensorfile import LFS
from .pickles import UpstreamReading

MAX_PICKLE = 256 * MIB  # bytes; the published DataFrame has 39 MB
READ_BYTES = 16 * MIB  # at once, while a file is hashed
_ZIP, _PROTOCOL = b"PK\x03\x04", b"\x80"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a file of torch before 1.6
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes
    ----------
    path : Path
    shape : tuple of int
    dtype : dtype
        Of the values that are returned: float32 for bfloat16.
    """

    path: Path
    tensor: Tensor
    start: int  # of its storage's bytes in the file
    bytes: int
    swapped: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32 if self.tensor.dtype == "BF16" else STORAGES[self.tensor.storage.kind][1])

    @contextmanager
    def mapped(self) -> Iterator[np.ndarray]:
        """Yield the stored values as a read-only view of the file, without the copy that bfloat16 needs.

        The pages that were read belong to this process until the block ends, so it should be short.
        """
        kind = np.dtype(STORAGES[self.tensor.storage.kind][1]).newbyteorder(">" if self.swapped else "<")
        with open(open_regular(self.path), "rb") as file:
            before = self.start % mmap.ALLOCATIONGRANULARITY
            try:
                pages = mmap.mmap(
                    file.fileno(), self.bytes + before, access=mmap.ACCESS_READ, offset=self.start - before
                )
            except (OSError, ValueError) as error:
                raise CorruptFileError(f"{self.path} was changed while it was read", path=self.path) from error
        flat = np.frombuffer(pages, kind, self.tensor.storage.numbers, before)
        yield view_of(self.tensor, flat)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a copy of some of the values, as NumPy's indexing does."""
        with self.mapped() as values:
            return self._converted(values[key])

    def _converted(self, values: np.ndarray) -> np.ndarray:
        if self.tensor.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(self.dtype, order="C", copy=True)

    def column_block(self, start: int, stop: int) -> np.ndarray:
        """Return ``tensor[:, start:stop].T`` of a matrix as float32 ``(stop - start, rows)``."""
        rows, columns = self.shape
        block = np.empty((stop - start, rows), np.float32)
        by_column = self.tensor.strides[0] == 1  # as `torch.svd` returns V
        length, other = (stop - start, rows) if by_column else (rows, columns)
        at_once = max(1, READ_BYTES * 4 // (self.tensor.width * other))
        for first in range(0, length, at_once):
            part = slice(first, first + at_once)
            if by_column:
                with self.mapped() as values:
                    block[part] = self._converted(values[:, start:stop].T[part])
            else:
                block[:, part] = self[part, start:stop].T
        return block


def open_file(path: Path) -> Any:
    """Return the value of one of the published files, with a :class:`StoredTensor` where torch had a tensor.

    Raises
    ------
    CorruptFileError
        If it is truncated or damaged, claims more than it stores, or holds anything else than tensors, plain values
        and a DataFrame; the error names what it found, and nothing of it was executed.
    UnsupportedFormatError, MissingPathError
    """
    with open(open_regular(path), "rb") as file, _naming_damage(path):
        start = file.read(len(LFS))
        file.seek(0)
        if start == LFS:
            raise CorruptFileError(f"{path} is a pointer of git-lfs, not the file; fetch it: git lfs pull", path=path)
        if start[:4] == _ZIP:
            return _zipped(file, path)
        if start[:1] == _PROTOCOL:
            return _sequence(file, path)
    raise CorruptFileError(f"{path} is not a file of torch; fetch it again", path=path)


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Raise what Python raises for a damaged file as a `CorruptFileError` that names the file."""
    try:
        yield
    except W2WError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"{path} is truncated or damaged ({error}); fetch it again", path=path) from error


# ------------------------------------------------------------------ zip archives
def _zipped(file: BinaryIO, path: Path) -> Any:
    archive, members = open_archive(file)
    root = archive_root(members, path)
    pickle = require_pickle(members[f"{root}data.pkl"], path, MAX_PICKLE)
    value = UpstreamReading(path).result(read_member(archive, pickle))
    swapped = is_big_endian(archive, members, root)
    places: dict[str, tuple[int, int]] = {}

    def find(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            member = members.get(f"{root}data/{storage.key}")
            if member is None:
                raise CorruptFileError(f"{path}: a tensor's storage is not in the archive; fetch it again", path=path)
            places[storage.key] = _data_of(file, member, path), member.file_size
        return places[storage.key]

    return _with_tensors(value, find, path, swapped)


def _data_of(file: BinaryIO, member: zipfile.ZipInfo, path: Path) -> int:
    """Return the position of an uncompressed member's data."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    if header[:4] != _ZIP or len(header) != _LOCAL_HEADER or member.file_size != member.compress_size:
        raise zipfile.BadZipFile(f"the header of {short(member.filename)} is damaged")
    skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start, size = member.header_offset + _LOCAL_HEADER + skipped, file.seek(0, io.SEEK_END)
    if start + member.file_size > size:
        raise CorruptFileError(f"{path} is truncated; fetch it again", path=path)
    return start


# ------------------------------------------------------------------ pickles, and storages after them
class _Window:
    """The next pickles of a file, whose claims of sizes are compared with what is there and with a limit."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left = file, min(size, MAX_PICKLE)
        self.tell = file.tell

    def read(self, size: int, /) -> bytes:
        if size > self._left:
            raise ValueError("its pickle ends early, or is too large")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(min(self._left, 4096))
        self._left -= len(line)
        return line


def _sequence(file: BinaryIO, path: Path) -> Any:
    """Read a plain pickle, or a file of torch before 1.6."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    window = _Window(file, size)
    first = UpstreamReading(path).result(window)
    if first != _MAGIC or type(first) is not int:
        if file.tell() != size:
            raise ValueError("there are bytes after its pickle")
        return _with_tensors(first, _no_storage, path)
    version, _, value, keys = (UpstreamReading(path).result(window) for _ in range(4))
    if version != _VERSION or not isinstance(keys, list) or len(keys) > MAX_TENSORS:
        raise ValueError("its header is not torch's")
    widths = dict(_storages_of(value))
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if not isinstance(key, str) or key not in widths or key in places:
            raise ValueError("it lists storages that no tensor has")
        numbers = int.from_bytes(file.read(8), "little")
        start, length = file.tell(), numbers * widths[key]
        if start + length > size:
            raise CorruptFileError(f"{path} is truncated; fetch it again", path=path)
        places[key] = start, length
        file.seek(start + length)
    if file.tell() != size:
        raise ValueError("there are bytes after its storages")

    def find(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise CorruptFileError(f"{path}: a tensor's storage is not in the file; fetch it again", path=path)
        return places[storage.key]

    return _with_tensors(value, find, path)


def _no_storage(storage: Storage) -> tuple[int, int]:
    raise ValueError("its tensor has no storage")


def _storages_of(value: Any) -> Iterator[tuple[str, int]]:
    for tensor in [value] if isinstance(value, Tensor) else _inside(value):
        if isinstance(tensor, Tensor):
            yield tensor.storage.key, tensor.width


def _inside(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())


def _with_tensors(value: Any, find: Any, path: Path, swapped: bool = False) -> Any:
    """Return a value in which tensors, also directly in a dict or list, are found in the file."""

    def stored(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        start, size = find(one.storage)
        _require_stored(one, size, path)
        return StoredTensor(path, one, start, size, swapped)

    if isinstance(value, dict):
        return {key: stored(one) for key, one in value.items()}
    if isinstance(value, list):
        return [stored(one) for one in value]
    return stored(value)


def _require_stored(tensor: Tensor, size: int, path: Path) -> None:
    """Raise unless the file has all the numbers that a tensor claims."""
    storage, shape = tensor.storage, tensor.shape
    if storage.numbers * tensor.width != size:
        raise CorruptFileError(f"{path} claims {storage.numbers:,} numbers, and stores {size:,} bytes", path=path)
    numbers = math.prod(shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=True))
    if not numbers:
        raise CorruptFileError(f"{path} has a tensor of shape {shape}, which is empty; fetch it again", path=path)
    if numbers > storage.numbers or last >= storage.numbers:
        raise CorruptFileError(f"{path} has a tensor of shape {shape}, more than it stores; fetch it again", path=path)


# ------------------------------------------------------------------ damage
def hash_file(path: Path) -> dict[str, Any]:
    """Return sha256 and size of a file, and compare the checksums that a zip archive states, in one read.

    Raises
    ------
    CorruptFileError
        If a member differs from its checksum.
    """
    digest, position = hashlib.sha256(), 0
    with open(open_regular(path), "rb") as file:
        with _naming_damage(path):
            members = _checksums(file, path)
        found = dict.fromkeys(members, 0)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        for _ in progress(range(0, size, READ_BYTES), f"checking {path.name}"):
            part = file.read(READ_BYTES)
            digest.update(part)
            for name, (start, end, _) in members.items():
                if start < position + len(part) and position < end:
                    inside = memoryview(part)[max(start - position, 0) : max(end - position, 0)]
                    found[name] = zlib.crc32(inside, found[name])
            position += len(part)
    for name, (_, _, stated) in members.items():
        if found[name] != stated:
            raise CorruptFileError(
                f"{path} is damaged: {short(name)} differs from its checksum; fetch it again", path=path
            )
    return {"sha256": digest.hexdigest(), "size": size}


def _checksums(file: BinaryIO, path: Path) -> dict[str, tuple[int, int, int]]:
    """Return where each member of a zip archive begins and ends, and its stated CRC-32; empty for other files."""
    if file.read(4) != _ZIP:
        return {}
    archive, members = open_archive(file)
    with archive:
        starts = {name: _data_of(file, member, path) for name, member in members.items()}
    return {name: (starts[name], starts[name] + m.file_size, m.CRC) for name, m in members.items()}
