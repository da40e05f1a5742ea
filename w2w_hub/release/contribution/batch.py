"""A batch: the rows and labels that one pull request offers, in two files whose digests name their folder.

A batch that was downloaded is a stranger's: it is validated here as a file, and by `checks.py` as content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...common.text import counted
from ...dataset.manifest import row_digest
from ...errors import CorruptFileError, InvalidInputError, LayoutMismatchError, UnsafePathError, UnsupportedFormatError
from ...lora.layout import ParameterLayout
from ...store.hashing import sha256_file
from ...store.manifest import parse_json
from ...store.paths import find_file, read_file, short, walk
from ...store.tensorfile import read_header, read_tensors, safetensors_bytes

FOLDER, ROWS, LABELS = "contributions", "rows.safetensors", "labels.jsonl"
FORMAT, FORMAT_VERSION = "w2w-batch", "1"
TAG = b"w2w-batch-v1\n"
TENSOR = "weights"
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
MAX_BATCH_ROWS = 1000
MAX_LABELS_BYTES = 4 * 2**20
MAX_COLUMNS = 1000  # values in one line of labels
NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Batch:
    """The rows and labels of one contribution.

    Attributes
    ----------
    name : str
        The batch's folder below ``contributions/``: 16 hexadecimal digits, from the digests of its files.
    ids : tuple of str
        As the labels state them; not validated.
    rows : ndarray
        ``(n, size)``, float32 or float16, in the layout's order.
    labels : tuple of dict
        One per row, with `id`; not validated.
    meta : mapping of str to str
        What the header says, which nothing proves.
    """

    name: str
    ids: tuple[Any, ...]
    rows: np.ndarray
    labels: tuple[dict[str, Any], ...]
    meta: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


def digests_of(batch: Batch, dtype: Any) -> list[str]:
    """Return the digest that each row of a batch has in a dataset of this dtype."""
    with np.errstate(over="ignore"), ThreadPoolExecutor(os.cpu_count()) as threads:  # beyond the dtype: has a verdict
        return list(threads.map(row_digest, batch.rows.astype(dtype, copy=False)))


def batch_name(rows_sha256: str, labels_sha256: str) -> str:
    """Return the name of a batch of files with these digests, in hexadecimal digits."""
    return hashlib.sha256(TAG + f"{rows_sha256}\n{labels_sha256}\n".encode()).hexdigest()[:16]


def batch_files(name: str) -> tuple[str, str]:
    """Return the paths of a batch's rows and labels in the repository."""
    return f"{FOLDER}/{name}/{ROWS}", f"{FOLDER}/{name}/{LABELS}"


def parse_batch_path(path: object) -> tuple[str, str] | None:
    """Return the batch and the file that a path in the repository names; None for any other path."""
    parts = path.split("/") if isinstance(path, str) else []
    if len(parts) != 3 or parts[0] != FOLDER or not NAME.fullmatch(parts[1]) or parts[2] not in (ROWS, LABELS):
        return None
    return parts[1], parts[2]


def pack_batch(
    ids: Sequence[str], rows: np.ndarray, labels: Sequence[Mapping[str, Any]], meta: Mapping[str, str],
    layout: ParameterLayout,
) -> tuple[str, dict[str, bytes]]:  # fmt: skip
    """Return the name of a batch and its two files by their path in the repository.

    Equal rows and labels make equal bytes, so that a contribution that is offered twice has one name.

    Parameters
    ----------
    rows : ndarray
        ``(n, layout.size)``, float32 or float16.
    labels : sequence of mapping
        One per row, without `id`.
    meta : mapping of str to str
        Further fields of the header, for people.
    """
    if not 1 <= len(ids) <= MAX_BATCH_ROWS:
        raise InvalidInputError(f"a batch holds 1 to {MAX_BATCH_ROWS:,} adapters, not {len(ids):,}; send several")
    if rows.shape != (len(ids), layout.size) or len(labels) != len(ids):
        raise InvalidInputError(f"{counted(len(ids), 'id')}, rows {rows.shape} and {counted(len(labels), 'label')}")
    header = {**meta, "format": FORMAT, "format_version": FORMAT_VERSION, "layout": layout.digest}
    data = safetensors_bytes({TENSOR: rows}, header)
    lines = [
        json.dumps({"id": name, **label}, ensure_ascii=False, allow_nan=False)
        for name, label in zip(ids, labels, strict=True)
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    if len(text) > MAX_LABELS_BYTES:
        raise InvalidInputError(f"the labels need {len(text):,} bytes, the limit is {MAX_LABELS_BYTES:,}; send several")
    name = batch_name(hashlib.sha256(data).hexdigest(), hashlib.sha256(text).hexdigest())
    return name, dict(zip(batch_files(name), (data, text), strict=True))


def read_batch(folder: Path, name: str, layout: ParameterLayout) -> Batch:
    """Read a batch below a folder that holds ``contributions/<name>/``; nothing in it is trusted.

    The header is read before any tensor, so that no memory is allocated for what a file only claims.

    Raises
    ------
    UnsafePathError
        For an invalid name, a link, or any other file in the batch's folder.
    CorruptFileError, UnsupportedFormatError
        If a file is damaged, of another format, too large, or not the one that the batch's name states.
    LayoutMismatchError
        If the rows do not have the layout's size.
    """
    if not NAME.fullmatch(name):
        raise UnsafePathError(f"{short(name)} is not the name of a batch (16 hexadecimal digits)", path=folder)
    for path in batch_files(name):
        find_file(folder, path)  # raises for a link in any part of the path
    place = Path(folder, FOLDER, name)
    for found in walk(place):
        if found.name not in (ROWS, LABELS) or not found.is_file:
            raise UnsafePathError(
                f"{place} holds {short(found.name)}; a batch is {ROWS} and {LABELS}, two regular files", path=place
            )
    rows, meta = _read_rows(find_file(folder, batch_files(name)[0]), layout)
    raw = read_file(folder, batch_files(name)[1], MAX_LABELS_BYTES)
    labels = _parse_labels(raw, place / LABELS, len(rows))
    stated = batch_name(sha256_file(place / ROWS), hashlib.sha256(raw).hexdigest())
    if stated != name:
        raise CorruptFileError(f"{place}: the files' digests make the name {stated}; they were changed", path=place)
    return Batch(name, tuple(label.get("id") for label in labels), rows, tuple(labels), meta)


def _read_rows(path: Path, layout: ParameterLayout) -> tuple[np.ndarray, dict[str, str]]:
    header = read_header(path)
    meta = header.metadata
    if meta.get("format") != FORMAT or meta.get("format_version") != FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{path} has the format {short(meta.get('format'))} {short(meta.get('format_version'))}, not "
            f"{FORMAT} {FORMAT_VERSION}; make it with: w2w contribute",
            path=path,
        )
    if meta.get("layout") != layout.digest:
        raise LayoutMismatchError(f"{path}: its layout {short(meta.get('layout'))} is not the dataset's")
    entry = header.entries.get(TENSOR)
    if entry is None or len(header.entries) != 1 or entry.dtype not in DTYPES:
        raise CorruptFileError(f"{path}: a batch holds one tensor {TENSOR!r}, float32 or float16", path=path)
    if len(entry.shape) != 2 or entry.shape[1] != layout.size:
        raise LayoutMismatchError(f"{path}: {TENSOR} has shape {short(entry.shape)}, not (n, {layout.size})")
    if not 1 <= entry.shape[0] <= MAX_BATCH_ROWS:
        raise CorruptFileError(f"{path} holds {entry.shape[0]:,} rows; 1 to {MAX_BATCH_ROWS:,} are accepted", path=path)
    return read_tensors(path, header)[TENSOR], meta


def _parse_labels(raw: bytes, path: Path, rows: int) -> list[dict[str, Any]]:
    lines = raw.split(b"\n")
    if lines.pop() or len(lines) != rows:
        raise CorruptFileError(
            f"{path}: {counted(rows, 'row')} need as many lines, each ended by a line break", path=path
        )
    labels = []
    for number, line in enumerate(lines, 1):
        label = parse_json(line, f"{path}, line {number}")
        if len(label) > MAX_COLUMNS or any(isinstance(value, (dict, list)) for value in label.values()):
            raise CorruptFileError(f"{path}, line {number}: expected at most {MAX_COLUMNS:,} plain values", path=path)
        labels.append(label)
    return labels
