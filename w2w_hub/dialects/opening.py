"""Open a checkpoint's files: only regular files, and no links out of its folder.

Every reader of checkpoints opens its files here, including the fast path of packing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from ..common.limits import MAX_CONFIG_BYTES
from ..errors import CorruptFileError, UnsafeCheckpointError, UnsafePathError
from ..store.paths import find_file, open_regular
from ..store.tensorfile import LFS
from .options import parse_object


def open_named(path: Path) -> BinaryIO:
    """Open a file that the caller named; it may be a link.

    Raises
    ------
    MissingPathError, UnsafePathError
        If it does not exist, or is not a regular file (a folder, a pipe, a device).
    """
    return open(open_regular(path), "rb")


def open_beside(folder: Path, name: str) -> BinaryIO:
    """Open a file found in a folder; the only links allowed are those of the Hub cache.

    Raises
    ------
    MissingPathError, UnsafePathError
        `UnsafeCheckpointError` if it is a link out of its folder.
    """
    path = folder / name
    if path.is_symlink():
        try:
            path = find_file(folder, name)
        except UnsafePathError as error:
            raise UnsafeCheckpointError(
                f"{path} is a link out of its folder; name its target instead", path=path
            ) from error
    return open(open_regular(path, follow=False), "rb")


def read_whole(file: BinaryIO, limit: int) -> bytes | None:
    """Return the bytes of an open file, or None if it has more than `limit`."""
    if os.fstat(file.fileno()).st_size > limit:
        return None
    data = file.read(limit + 1)
    return data if len(data) <= limit else None


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a configuration file of a checkpoint folder.

    Raises
    ------
    MissingPathError, UnsafePathError, CorruptFileError
    """
    path = folder / name
    with open_beside(folder, name) as file:
        require_no_pointer(file, path)
        data = read_whole(file, MAX_CONFIG_BYTES)
    if data is None:
        raise CorruptFileError(f"{path} has more than {MAX_CONFIG_BYTES:,} bytes, the limit; fetch it again", path=path)
    return parse_object(data, str(path))


def require_no_pointer(file: BinaryIO, path: Path) -> None:
    """Raise `CorruptFileError` if an open file is a Git LFS pointer; keep its position."""
    start = file.tell()
    try:
        first = file.read(len(LFS))
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror}; fetch it again", path=path) from error
    file.seek(start)
    if first == LFS:
        raise CorruptFileError(f"{path} is a Git LFS pointer, not the file itself; run: git lfs pull", path=path)
