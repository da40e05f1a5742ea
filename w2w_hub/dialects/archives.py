"""Read untrusted zip archives (``.npz``, ``.pt``): their directory is bounded, and its sizes are checked."""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from typing import IO, BinaryIO

import numpy as np

from ..common.limits import (
    MAX_ARCHIVE_INDEX_BYTES,
    MAX_ARRAY_HEADER_BYTES,
    MAX_TENSOR_NAME,
    MAX_TENSORS,
)
from ..errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..store.paths import short
from ..store.tensorfile import require_bearable

_ENTRY = b"PK\x01\x02"  # magic bytes of an entry in the archive's directory
_DEFLATE = 1032  # largest compression ratio of deflate
_ARRAY = re.compile(
    rb"\{\s*'descr':\s*'(?P<descr>[<>|=]?[A-Za-z?][0-9]{0,9})',\s*'fortran_order':\s*(?:True|False),"
    rb"\s*'shape':\s*\((?P<shape>[0-9, ]*)\),?\s*\}\s*"
)


class _Bounded:
    """An open file that refuses to read more at once than an archive's directory may have."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if size > MAX_ARCHIVE_INDEX_BYTES:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_ARCHIVE_INDEX_BYTES:,} bytes")
        data = self._file.read(size)
        if data.count(_ENTRY) > MAX_TENSORS:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_TENSORS:,} entries")
        return data


def open_archive(file: BinaryIO) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Return a zip archive and its members by name, none of which claims more bytes than the file can hold.

    The caller must refuse members that are compressed by anything but deflate.

    Raises
    ------
    zipfile.BadZipFile, NotImplementedError, OSError, ValueError
        As `zipfile` does.
    """
    archive = zipfile.ZipFile(_Bounded(file))  # type: ignore[arg-type]
    left = os.fstat(file.fileno()).st_size
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.filename in members:
            raise zipfile.BadZipFile(f"{short(member.filename)} appears twice")
        members[member.filename] = member
        left -= member.compress_size
        unpacked = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE}.get(member.compress_type)
        if left < 0 or (unpacked and member.file_size > unpacked * (member.compress_size + 1)):
            raise zipfile.BadZipFile(f"{short(member.filename)} claims more bytes than the file holds")
    return archive, members


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the bytes of an uncompressed member, whose size `open_archive` has checked."""
    with archive.open(member) as opened:  # this checks and skips its local header
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise zipfile.BadZipFile(f"{short(member.filename)} is compressed")
        parts = []
        while part := opened.read(2**24):
            parts.append(part)
    return b"".join(parts)


def list_arrays(file: BinaryIO, where: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of every array in a NumPy archive; only the arrays' headers are unpacked.

    Raises
    ------
    CorruptFileError, UnsupportedFormatError
        Also for arrays that NumPy would unpickle.
    """
    found = {}
    try:
        archive, members = open_archive(file)
        for name, member in members.items():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UnsupportedFormatError(f"{where}: {short(name)} uses a compression that NumPy does not write")
            if len(name) > MAX_TENSOR_NAME:
                raise CorruptFileError(f"{where}: an array's name has {len(name):,} characters; fetch it again")
            with archive.open(member) as opened:
                found[name.removesuffix(".npy")] = _array_header(opened, member.file_size, f"{where}: {short(name)}")
    except W2WError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptFileError(f"{where} is not a readable NumPy archive ({error}); fetch it again") from error
    return found


def _array_header(opened: IO[bytes], size: int, where: str) -> tuple[tuple[int, ...], str]:
    start = opened.read(8)
    wide = 4 if start[6:7] in (b"\x02", b"\x03") else 2
    if start[:6] != b"\x93NUMPY" or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError(f"{where} is not an array")
    length = int.from_bytes(opened.read(wide), "little")
    if length > MAX_ARRAY_HEADER_BYTES:
        raise CorruptFileError(f"{where} has a header of {length:,} bytes, the limit is {MAX_ARRAY_HEADER_BYTES:,}")
    parsed = _ARRAY.fullmatch(opened.read(length))
    if parsed is None:
        raise UnsupportedFormatError(f"{where} is not a plain array; save it as safetensors")
    numbers = [part for part in parsed["shape"].replace(b" ", b"").split(b",") if part]
    shape = tuple(int(part) for part in numbers if len(part) <= 20)
    if len(shape) != len(numbers):
        raise CorruptFileError(f"{where} has an impossible shape; fetch it again")
    try:
        dtype = np.dtype(parsed["descr"].decode())
    except (TypeError, ValueError) as error:
        raise UnsupportedFormatError(f"{where} has dtype {short(parsed['descr'].decode())}") from error
    if dtype.hasobject:
        raise UnsupportedFormatError(f"{where} holds Python objects, which are not unpickled")
    require_bearable(shape, dtype.itemsize, where)
    if math.prod(shape) * dtype.itemsize != size - 8 - wide - length:
        raise CorruptFileError(f"{where} of shape {shape} does not fit its bytes; fetch it again")
    return shape, dtype.name
