"""Read and write safetensors files; the header is read first, so that a bad file is refused before memory is allocated.

The safetensors library offers neither headers without data, nor limits, nor bfloat16 in NumPy, nor one buffer for all
tensors, which needs memory for the file only once. The tests compare both on the same files, good and bad.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.limits import MAX_HEADER_BYTES as MAX_HEADER
from ..common.limits import MAX_HEADER_VALUES, MAX_TENSOR_BYTES, MAX_TENSORS
from ..common.limits import MAX_TENSOR_AXES as MAX_RANK
from ..common.limits import MAX_TENSOR_NAME as MAX_NAME
from ..common.subject import Where, about
from ..common.text import one_line
from ..errors import CorruptFileError, UnsupportedFormatError
from .manifest import count_values, refuse_constant, unique_keys
from .paths import open_regular

METADATA = "__metadata__"
LFS = b"version https://git-lfs"
# dtypes of safetensors that NumPy has, too; bytes per value of all
_KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_BYTES = {kind: np.dtype(name).itemsize for kind, name in _KINDS.items()} | {
    "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor in a header: safetensors dtype, shape, and the range of its bytes in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A validated header: tensors by name, metadata, the position of the data in the file, and its size in bytes."""

    entries: Mapping[str, Entry]
    metadata: dict[str, str]
    start: int
    size: int


def read_header(path: Path | str) -> Header:
    """Return the header of a safetensors file without reading the data.

    Raises
    ------
    MissingPathError, CorruptFileError
        Also if the file is shorter or longer than the header states, or exceeds a limit.
    """
    with _opened(path) as file:
        return header_from(file, Path(path))


def read_safetensors(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return tensors and metadata of a safetensors file; bfloat16 widens to float32 without loss.

    The tensors share one writable buffer. Nothing is memory-mapped: a file that another process truncates raises an
    error here and does not crash later.
    """
    with _opened(path) as file:
        header = header_from(file, Path(path))
        return tensors_from(file, header, path), header.metadata


def read_tensors(path: Path | str, header: Header) -> dict[str, np.ndarray]:
    """Return the tensors of a file whose header was read."""
    with _opened(path) as file:
        return tensors_from(file, header, path)


def tensors_from(file: BinaryIO, header: Header, where: Where) -> dict[str, np.ndarray]:
    """Return the tensors of an open file whose header was read."""
    size = os.fstat(file.fileno()).st_size
    if size != header.start + header.size:
        raise _corrupt(where, "it changed while it was read")
    data = np.empty(header.size, np.uint8)
    try:
        file.seek(header.start)
        whole = file.readinto(memoryview(data)) == header.size and not file.read(1)  # type: ignore[arg-type, attr-defined]
    except OSError as error:
        raise _corrupt(where, error.strerror or "read error") from error
    if not whole:
        raise _corrupt(where, "it changed while it was read")
    return tensors_of(header, data, where)


def parse_safetensors(data: bytes | bytearray, where: str = "these bytes") -> tuple[dict[str, np.ndarray], Header]:
    """Return tensors and header of a file in memory."""
    length = int.from_bytes(data[:8], "little")
    header = parse_header(bytes(data[8 : 8 + min(length, MAX_HEADER)]), length, len(data), where)
    return tensors_of(header, np.frombuffer(bytearray(data[header.start :]), np.uint8), where), header


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file whose bytes depend on its content alone.

    The library writes the metadata in an order that changes from process to process.
    """
    head, parts = _laid_out(tensors, metadata)
    return b"".join([head, *(part.tobytes() for part in parts)])


def save_tensors(tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file as :func:`safetensors_bytes` does, without a copy of its tensors in memory."""
    head, parts = _laid_out(tensors, metadata or {})
    with path.open("wb") as file:
        file.write(head)
        for part in parts:
            file.write(part)  # type: ignore[arg-type]


def _laid_out(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[bytes, list[np.ndarray]]:
    """Return the header of a file, with its length, and its tensors as bytes ``(n,)`` in the order of the file."""
    names = {np.dtype(kind): name for name, kind in _KINDS.items()}
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    parts, position = [], 0
    # as the library does: largest dtype first, so that every tensor is aligned
    for name, values in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        header[name] = {
            "dtype": names[little.dtype], "shape": list(values.shape),
            "data_offsets": [position, position + little.nbytes],
        }  # fmt: skip
        parts.append(little.reshape(-1).view(np.uint8))
        position += little.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, parts


def tensors_of(header: Header, data: np.ndarray, where: Where) -> dict[str, np.ndarray]:
    """Return the tensors of a validated header as views of its data."""
    tensors = {}
    for name, entry in header.entries.items():
        if entry.dtype == "BF16":
            raw = np.frombuffer(data, "<u2", (entry.end - entry.begin) // 2, entry.begin)
            values = (raw.astype(np.uint32) << 16).view(np.float32)
        elif entry.dtype in _KINDS:
            width = _BYTES[entry.dtype]
            values = np.frombuffer(data, _KINDS[entry.dtype], (entry.end - entry.begin) // width, entry.begin)
            if entry.begin % width:
                values = values.copy()  # torch needs aligned memory
        else:
            raise UnsupportedFormatError(
                f"{where}: tensor {name} has dtype {entry.dtype}; only {', '.join(_KINDS)} and BF16 are read",
                **about(where),
            )
        tensors[name] = values.reshape(entry.shape)
    return tensors


def parse_header(raw: bytes, length: int, total: int, where: Where) -> Header:
    """Validate a header of `length` bytes, of which `raw` was read, in a file of `total` bytes."""
    if total < 8:
        raise _corrupt(where, f"{total} bytes are too short for a header")
    if length > MAX_HEADER:
        raise _corrupt(where, f"its header claims {length:,} bytes, the limit is {MAX_HEADER:,}")
    if len(raw) < length:
        raise _corrupt(where, f"its header claims {length:,} bytes, the file has {total:,}")
    values = count_values(raw)
    if values > MAX_HEADER_VALUES:
        raise _corrupt(where, f"its header holds {values:,} values, the limit is {MAX_HEADER_VALUES:,}")
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _corrupt(where, f"its header is not JSON: {short(error)}") from error
    if not isinstance(found, dict):
        raise _corrupt(where, "its header is not a JSON object")
    metadata = found.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt(where, f"{METADATA} is not a map of strings")
    if len(found) > MAX_TENSORS:
        raise _corrupt(where, f"it states {len(found):,} tensors, the limit is {MAX_TENSORS:,}")
    entries = {name: _entry(name, value, where) for name, value in found.items()}
    size, position = total - 8 - length, 0
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != position:
            raise _corrupt(where, f"its tensors overlap or leave a gap at byte {min(position, entry.begin):,}")
        position = entry.end
    if position != size:
        raise _corrupt(where, f"its tensors need {position:,} bytes, the file holds {size:,}")
    return Header(entries, metadata, 8 + length, size)


def _entry(name: str, value: Any, where: Where) -> Entry:
    if len(name) > MAX_NAME:
        raise _corrupt(where, f"a tensor's name has {len(name):,} characters, the limit is {MAX_NAME:,}: {short(name)}")
    try:
        if value.keys() != {"dtype", "shape", "data_offsets"}:
            raise KeyError
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        width = _BYTES.get(dtype)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _corrupt(where, f"tensor {short(name)} lacks dtype, shape or data_offsets") from None
    if not isinstance(shape, list):
        raise _corrupt(where, f"tensor {short(name)} has no list for its shape")
    if len(shape) > MAX_RANK:
        raise _corrupt(where, f"tensor {short(name)} has {len(shape)} dimensions, the limit is {MAX_RANK}")
    for n in (begin, end, *shape):
        if type(n) is not int or n < 0:
            raise _corrupt(where, f"tensor {short(name)} has a shape or offset that is not a whole number")
    if width is None:
        raise UnsupportedFormatError(
            f"{where}: tensor {short(name)} has dtype {short(dtype)}, which is not known", **about(where)
        )
    numbers = 1
    for n in shape:
        numbers *= n
    if numbers * width != end - begin:
        raise _corrupt(where, f"tensor {short(name)} of shape {short(shape)} does not fit its {end - begin:,} bytes")
    if not numbers:
        require_bearable(shape, width, f"{where}: tensor {short(name)}")
    return Entry(dtype, tuple(shape), begin, end)


def require_bearable(shape: Sequence[int], width: int, what: str) -> None:
    """Raise `CorruptFileError` if a shape without its zeros is larger than NumPy or a file allows.

    A tensor of shape ``(0, 2**62)`` has no bytes by which to check it.
    """
    size = width
    for n in shape:
        size *= max(n, 1)
    if len(shape) > MAX_RANK or size > MAX_TENSOR_BYTES:
        raise CorruptFileError(
            f"{what} has shape {short(tuple(shape))}, which is larger than a tensor can be; fetch it again"
        )


def header_from(file: BinaryIO, path: Path | str) -> Header:
    """Return the header of an open file."""
    try:
        total = os.fstat(file.fileno()).st_size
        first = file.read(8)
        if first and LFS.startswith(first):
            raise CorruptFileError(
                f"{path} is not a readable safetensors file (it is a Git LFS pointer, not the file itself); "
                "run: git lfs pull",
                path=path,
            )
        length = int.from_bytes(first, "little")
        raw = file.read(length) if length <= MAX_HEADER else b""
    except OSError as error:
        raise _corrupt(path, error.strerror or "read error") from error
    return parse_header(raw, length, total, path)


def _opened(path: Path | str) -> BinaryIO:
    return open(open_regular(path), "rb")


def _corrupt(where: Where, why: str) -> CorruptFileError:
    return CorruptFileError(f"{where} is not a readable safetensors file ({why}); fetch it again", **about(where))


def short(value: object, limit: int = 80) -> str:
    """Return a name or value from a file, shortened and in one line."""
    return one_line(str(value), limit)
