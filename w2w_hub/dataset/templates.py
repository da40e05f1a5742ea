"""Read the next of many like checkpoints by the byte ranges of the first.

The dialects' readers are exact and slow: hundreds of names are matched for every file. The checkpoints of one
population differ in nothing but their numbers, so after one was read properly it is compared with what its file
holds. If every tensor of the file is found, value for value, in just one place of the row, and none is left over
(an alpha, say, whose value would matter), a file with byte-identical header and companions can only give the same
arrangement. Anything else is read properly again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..layout import ParameterLayout

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_HASHED = (".json", ".yaml", ".yml")
_IGNORED = (".md", ".txt", ".png", ".jpg", ".jpeg", ".webp", ".log")  # nothing that a dialect's reader opens
LARGEST_HEADER = 16 * 1024 * 1024
MOST_LESSONS = 16  # in a row without use, then the checkpoints are not alike and learning costs in vain
KEPT = 4  # arrangements in use at a time


class Templates:
    """Arrangements learnt from checkpoints that were read properly."""

    def __init__(self, layout: ParameterLayout):
        self.layout = layout
        self._known: dict[bytes, list[tuple[int, int, np.dtype[Any], int]]] = {}
        self._lessons = 0  # since the last use

    def row(self, path: Path) -> np.ndarray | None:
        """The row of a checkpoint like one learnt from, float32 ``(size,)``, or None."""
        if not self._known:
            return None
        opened = _open(path)
        if opened is None or (parts := self._known.get(opened[0])) is None:
            return None
        data = opened[2]
        out = np.empty(self.layout.size, np.float32)
        for start, stop, dtype, offset in parts:
            _widen(np.frombuffer(data, dtype, stop - start, offset), out[start:stop])
        self._lessons = 0
        # anything not finite is for the proper reader to name
        return out if np.isfinite(out.sum(dtype=np.float64)) else None

    def learn(self, path: Path, row: np.ndarray) -> None:
        """Note how this checkpoint's file makes up its row, if that is beyond doubt."""
        opened = _open(path) if self._lessons < MOST_LESSONS else None
        if opened is None:
            return
        self._lessons += 1
        key, header, data = opened
        entries = _entries(header, len(data))
        if entries is None:
            return
        places: dict[bytes, tuple[int, int]] = {}
        for slot in self.layout.slots:
            for start, stop in ((slot.offset, slot.middle), (slot.middle, slot.end)):
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
            self._known[key] = parts


def _widen(values: np.ndarray, out: np.ndarray) -> None:
    if values.dtype == np.uint16:
        out.view(np.uint32)[:] = values.astype(np.uint32) << 16
    else:
        out[:] = values


def _open(path: Path) -> tuple[bytes, bytes, memoryview] | None:
    """A digest of all but the numbers, the header and the numbers of a checkpoint with one safetensors file."""
    try:
        if not path.is_dir():
            return None  # what a reader looks up beside a single file is its own affair
        names = sorted(os.listdir(path))
        weights = [n for n in names if n.endswith(".safetensors")]
        if len(weights) != 1:
            return None
        raw = (path / weights[0]).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        if length > min(LARGEST_HEADER, len(raw) - 8):
            return None
        digest = hashlib.sha256(len(raw).to_bytes(8, "little") + raw[: 8 + length])
        for name in names:
            suffix = os.path.splitext(name)[1]
            if name == weights[0] or suffix in _IGNORED:
                continue
            if suffix not in _HASHED:
                return None
            digest.update(f"\n{name}\n".encode() + (path / name).read_bytes())
        return digest.digest(), raw[8 : 8 + length], memoryview(raw)[8 + length :]
    except OSError:
        return None


def _entries(header: bytes, size: int) -> list[dict[str, Any]] | None:
    """The tensors of a header, if they fill the file without a gap or overlap."""
    try:
        found = json.loads(header)
        found.pop("__metadata__", None)
        entries: list[dict[str, Any]] = sorted(found.values(), key=lambda entry: entry["data_offsets"])
        edges = [0, *(edge for entry in entries for edge in entry["data_offsets"]), size]
        whole = bool(entries) and edges[0::2] == edges[1::2]
        return entries if whole else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
