"""Write files and folders atomically: they appear as a whole, flushed to the disk, or not at all.

Both are written beside their destination as ``.NAME.<hex>.w2w-partial``, flushed, and renamed. What a killed process
leaves is removed by the next writer of the same path, if it has such a name, is not a link, and does not belong to a
running process (writers hold an advisory lock).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import AlreadyExistsError, DiskError, W2WError
from .paths import walk

PARTIAL = ".w2w-partial"
DURABLE = True  # flush to the disk before a rename, against power cuts


def require_new(path: Path | str) -> Path:
    """Return the path if nothing is there yet."""
    path = Path(path)
    if os.path.lexists(path):
        raise AlreadyExistsError(f"{path} already exists; choose another output or remove it first", path=path)
    return path


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` when the block ends without an error.

    Raises
    ------
    AlreadyExistsError
    DiskError
        If writing fails; nothing is left then.
    """
    path = require_new(path)
    with as_disk_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        partial = _partial(path)
        partial.mkdir()
        holder = os.open(partial, os.O_RDONLY)
        try_lock(holder)
        try:
            yield partial
            readable = partial.stat().st_mode & 0o666  # by the umask
            for file in partial.rglob("*.safetensors"):  # safetensors writes them for their owner alone
                file.chmod(readable)
            flush_tree(partial)
            require_new(path)
            os.rename(partial, path)
            flush(path.parent)
        finally:
            os.close(holder)
            shutil.rmtree(partial, ignore_errors=True)


def write_bytes(path: Path | str, data: bytes, *, replace: bool = False) -> None:
    """Write one file atomically; parent folders are created.

    Raises
    ------
    AlreadyExistsError, DiskError
    """
    path = Path(path)
    if not replace:
        require_new(path)
    with as_disk_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        partial = _partial(path)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        try_lock(descriptor)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            if DURABLE:
                os.fsync(descriptor)
            if replace:
                os.replace(partial, path)
            else:
                _rename_new(partial, path)
            flush(path.parent)
        finally:
            os.close(descriptor)
            partial.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any, *, replace: bool = False) -> None:
    """Write a JSON file atomically, see :func:`write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), replace=replace)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(PARTIAL)}")
    with suppress(OSError):
        names = [name for name in os.listdir(path.parent) if name.endswith(PARTIAL) and pattern.fullmatch(name)]
        for name in names:
            _remove_leftover(path.parent / name)


def _remove_leftover(partial: Path) -> None:
    mode = os.lstat(partial).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return
    descriptor = os.open(partial, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not try_lock(descriptor):  # it is being written, or locks are not supported
            return
        if stat.S_ISDIR(mode):
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the advisory lock of an open file; return False if another process has it, or locks are not supported."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def flush(path: Path) -> None:
    """Flush a file to the disk, or a folder where the file system can."""
    if not DURABLE:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):  # some file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    if not DURABLE:
        return
    below: set[Path] = set()
    for found in walk(folder):
        if found.is_file:
            flush(folder / found.name)
        below.update((folder / found.name).parents)
    for path in sorted(below, key=lambda p: -len(p.parts)):
        if path.is_relative_to(folder):
            flush(path)


def disk_error(path: Path | str, error: OSError, more: str = "") -> DiskError:
    """Return the error for a failed write of `path`."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space" if full else "nothing was changed"
    return DiskError(f"writing {path} failed: {error.strerror or error}; {advice}{more}", path=path)


@contextmanager
def as_disk_error(path: Path, more: str = "") -> Iterator[None]:
    """Raise the `OSError` of a failed write of `path` as a `DiskError`; `more` follows its message."""
    try:
        yield
    except OSError as error:
        if isinstance(error, W2WError):
            raise
        raise disk_error(path, error, more) from error


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block ends without an error; not flushed."""
    partial = target.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")


def _rename_new(partial: Path, path: Path) -> None:
    """Rename a file to a new name; raise if that exists by now."""
    try:
        os.link(partial, path)
    except FileExistsError:
        require_new(path)
        raise
    except OSError:  # a file system without hard links
        require_new(path)
        os.replace(partial, path)
