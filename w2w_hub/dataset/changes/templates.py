"""Fast path of packing: once a checkpoint was parsed, read others with an identical header by its byte ranges.

A dialect's reader matches hundreds of names per file, but the checkpoints of one population differ only in their
values. After a reader has parsed a checkpoint, its row is compared with the tensors of its file. If each tensor
is equal to exactly one part of the row, and no tensor remains (such as an alpha, whose value would matter), then any
file with the same header and the same other files has the same arrangement. Other checkpoints go to the reader.

This is about six times as fast as the reader for PEFT checkpoints of rank 1 (60 checkpoints of 99,648 numbers: 0.16 s
instead of 1.0 s), so that packing is as fast as copying the tensors; see BENCHMARKS.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...common.limits import MAX_CONFIG_BYTES, MAX_HEADER_BYTES, MAX_TENSOR_BYTES
from ...dialects.opening import open_beside, read_whole
from ...errors import W2WError
from ...lora.layout import ParameterLayout

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_HASHED = (".json", ".yaml", ".yml")
_IGNORED = (".md", ".txt", ".png", ".jpg", ".jpeg", ".webp", ".log")  # never opened by a dialect's reader
MOST_LESSONS = 16  # arrangements learned in a row without use, after which the checkpoints are taken to be unlike
KEPT = 4  # arrangements in memory


class Templates:
    """Arrangements learned from parsed checkpoints."""

    def __init__(self, layout: ParameterLayout):
        self.layout = layout
        self._known: dict[bytes, list[tuple[int, int, np.dtype[Any], int]]] = {}
        self._lessons = 0  # since the last use

    def row(self, path: Path) -> np.ndarray | None:
        """Read the row of a checkpoint with a known arrangement, float32 ``(size,)``; None for any other."""
        if not self._known:
            return None
        opened = _Opened.of(path)
        if opened is None:
            return None
        with opened:
            parts = self._known.get(opened.digest)
            data = None if parts is None else opened.numbers()
        if parts is None or data is None:
            return None
        out = np.empty(self.layout.size, np.float32)
        for start, stop, dtype, offset in parts:
            _widen(np.frombuffer(data, dtype, stop - start, offset), out[start:stop])
        self._lessons = 0
        # leave NaN and infinite values to the reader, which raises
        return out if np.isfinite(out.sum(dtype=np.float64)) else None

    def learn(self, path: Path, row: np.ndarray) -> None:
        """Learn the arrangement of a parsed checkpoint, if it is unambiguous."""
        opened = _Opened.of(path) if self._lessons < MOST_LESSONS else None
        if opened is None:
            return
        self._lessons += 1
        with opened:
            data = opened.numbers()
        entries = None if data is None else _entries(opened.header, len(data))
        if entries is None or data is None:
            return
        places: dict[bytes, tuple[int, int]] = {}
        for slot in self.layout.slots:
            for start, stop in ((slot.offset, slot.b_offset), (slot.b_offset, slot.end)):
                found = row[start:stop].tobytes()
                if found in places:
                    return
                places[found] = start, stop
        parts = []
        for entry in entries:
            dtype = _DTYPES.get(entry["dtype"])
            begin, end = entry["data_offsets"]
            if dtype is None or end - begin != int(np.prod(entry["shape"])) * dtype.itemsize or end > len(data):
                return
            values = np.empty((end - begin) // dtype.itemsize, np.float32)
            _widen(np.frombuffer(data, dtype, len(values), begin), values)
            place = places.pop(values.tobytes(), None)
            if place is None:
                return
            parts.append((*place, dtype, begin))
        if not places:
            while len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[opened.digest] = parts


def _widen(values: np.ndarray, out: np.ndarray) -> None:
    if values.dtype == np.uint16:
        out.view(np.uint32)[:] = values.astype(np.uint32) << 16
    else:
        out[:] = values


class _Opened:
    """The only safetensors file of a folder, opened with the same checks as by the readers.

    Attributes
    ----------
    digest : bytes
        sha256 of the header, the file's size, and the other files that a dialect may read.
    header : bytes
        The header's JSON.
    """

    def __init__(self, file: BinaryIO, digest: bytes, header: bytes, size: int):
        self._file, self.digest, self.header, self._size = file, digest, header, size

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def numbers(self) -> memoryview | None:
        """Return the bytes after the header; None if the file has become shorter."""
        data = np.empty(self._size, np.uint8)
        try:
            whole = self._file.readinto(memoryview(data)) == self._size  # type: ignore[arg-type, attr-defined]
        except OSError:
            return None
        return memoryview(data) if whole else None  # type: ignore[arg-type]

    @classmethod
    def of(cls, path: Path) -> _Opened | None:
        """Open a checkpoint; return None for one that the reader must read or refuse."""
        if not path.is_dir():
            return None  # a reader may look up other files beside a single file
        try:
            names = sorted(os.listdir(path))
            weights = [n for n in names if n.endswith(".safetensors")]
            if len(weights) != 1:
                return None
            with ExitStack() as stack:
                file = stack.enter_context(open_beside(path, weights[0]))
                total = os.fstat(file.fileno()).st_size
                first = file.read(8)
                length = int.from_bytes(first, "little")
                size = total - 8 - length
                if length > MAX_HEADER_BYTES or not 0 <= size <= MAX_TENSOR_BYTES:
                    return None
                header = file.read(length)
                digest = hashlib.sha256(total.to_bytes(8, "little") + first + header)
                for name in names:
                    suffix = os.path.splitext(name)[1]
                    if name == weights[0] or suffix in _IGNORED:
                        continue
                    data = _small(path, name) if suffix in _HASHED else None
                    if data is None:
                        return None
                    digest.update(f"\n{name}\n".encode() + data)
                stack.pop_all()  # leaves the file open
                return cls(file, digest.digest(), header, size)
        except (OSError, W2WError):
            return None


def _small(path: Path, name: str) -> bytes | None:
    with open_beside(path, name) as file:
        return read_whole(file, MAX_CONFIG_BYTES)


def _entries(header: bytes, size: int) -> list[dict[str, Any]] | None:
    """Return the tensors of a header; None unless they fill the file without gaps or overlaps."""
    try:
        found = json.loads(header)
        found.pop("__metadata__", None)
        entries: list[dict[str, Any]] = sorted(found.values(), key=lambda entry: entry["data_offsets"])
        edges = [0, *(edge for entry in entries for edge in entry["data_offsets"]), size]
        whole = bool(entries) and edges[0::2] == edges[1::2]
        return entries if whole else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
