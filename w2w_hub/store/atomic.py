"""Write files and folders atomically: they appear as a whole, flushed to the disk, or not at all.

Both are written beside their destination as ``.NAME.<hex>.w2w-partial``, flushed, and renamed. What a killed process
leaves is removed by the next writer of the same path, if it has such a name, is not a link, and does not belong to a
running process (writers hold an advisory lock).

With `overwrite`, an existing file is replaced by one rename and an existing folder by one swap, so that a killed
process leaves the old output or the new one. On a file system that cannot swap, the old folder is first renamed to
``.NAME.<hex>.w2w-replaced``; the next writer of the path renames it back if the process was killed right then. What
may be replaced is decided in :mod:`.replacing`.
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

from ..errors import AlreadyExistsError, DiskError, InvalidInputError, W2WError
from .locks import lock
from .paths import walk
from .replacing import OwnFiles, exchange, files_named, require_replaceable

PARTIAL, REPLACED = ".w2w-partial", ".w2w-replaced"
FILE_SUFFIXES = (
    ".bin", ".ckpt", ".csv", ".gif", ".html", ".jpeg", ".jpg", ".jsonl", ".lock", ".parquet", ".png", ".pt",
    ".pth", ".safetensors", ".webp",
)  # fmt: skip
DURABLE = True  # flush to the disk before a rename, against power cuts


def require_new(path: Path | str, *, overwrite: bool = False, own: OwnFiles | None = None) -> Path:
    """Return the path if an output may be made there.

    Parameters
    ----------
    overwrite : bool
        Whether an earlier output may be replaced.
    own : callable, optional
        For an output that is a folder: the files that it may hold to be replaced, see :mod:`.replacing`.

    Raises
    ------
    AlreadyExistsError
    """
    path = Path(path)
    if own is not None:
        _put_back(path)
    if not os.path.lexists(path):
        return path
    if not overwrite:
        raise AlreadyExistsError(
            f"{path} already exists; choose another output, or replace it with --force (in Python: overwrite=True)",
            path=path,
        )
    require_replaceable(path, own)
    return path


def require_output(path: Path | str, *, overwrite: bool = False, own: OwnFiles | None = None) -> Path:
    """Return the path as :func:`require_new` does, after a test that something can be written there.

    Called before the work whose result is written. An empty folder is made beside the output, or above it where the
    folders that will hold it do not exist yet, and removed.

    Raises
    ------
    AlreadyExistsError
    InvalidInputError
        If a folder would get a name with the suffix of a file.
    DiskError
        If the place is read-only, is not a folder, or the name is too long.
    """
    path = require_new(path, overwrite=overwrite, own=own)
    if own is not None and path.suffix.lower() in FILE_SUFFIXES:
        raise InvalidInputError(
            f"{path} is made as a folder, and {path.suffix} is the suffix of a file; choose another name", path=path
        )
    with as_disk_error(path):
        try:
            remove_leftovers(path)
            probe = _partial(path)
            while not os.path.lexists(probe.parent):
                probe = probe.parent.with_name(probe.name)
            probe.mkdir()
            with suppress(FileNotFoundError):  # taken for a leftover
                probe.rmdir()
        except ValueError as error:  # a NUL
            raise OSError(errno.EINVAL, str(error)) from error
    return path


@contextmanager
def new_folder(path: Path | str, *, overwrite: bool = False, own: OwnFiles | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` when the block ends without an error.

    Parameters
    ----------
    overwrite, own
        As for :func:`require_new`; without `own`, only an empty folder is replaced.

    Raises
    ------
    AlreadyExistsError
    DiskError
        If writing fails; nothing is left then.
    """
    own = own or files_named()
    path = require_new(path, overwrite=overwrite, own=own)
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
            put_in_place(partial, path, overwrite=overwrite, own=own)
        finally:
            os.close(holder)
            shutil.rmtree(partial, ignore_errors=True)  # by now the old folder, if one was replaced


def put_in_place(folder: Path, path: Path, *, overwrite: bool = False, own: OwnFiles | None = None) -> None:
    """Flush a finished folder to the disk and rename it to `path`; what was replaced has the folder's name then.

    Raises
    ------
    AlreadyExistsError
    """
    flush_tree(folder)
    require_new(path, overwrite=overwrite, own=own)
    if os.path.lexists(path):
        _replace_folder(folder, path)
    else:
        os.rename(folder, path)
    flush(path.parent)


def _replace_folder(partial: Path, path: Path) -> None:
    """Put a folder in the place of another; afterwards, the old one has the name `partial` or is gone."""
    if exchange(partial, path):
        return
    aside, holder = _partial(path, REPLACED), os.open(path, os.O_RDONLY)
    try_lock(holder)
    try:
        os.rename(path, aside)
        try:
            os.rename(partial, path)
        except BaseException:
            os.rename(aside, path)
            raise
        gone = _partial(path)  # a half-removed folder under this name is not put back
        os.rename(aside, gone)
        shutil.rmtree(gone, ignore_errors=True)
    finally:
        os.close(holder)


def _put_back(path: Path) -> None:
    """Rename the old folder back if a writer was killed after it had moved it aside."""
    if os.path.lexists(path):
        return
    for aside in _leftovers(path, REPLACED):
        with suppress(OSError), _held(aside) as mode:
            if stat.S_ISDIR(mode):
                os.rename(aside, path)
                return


def remove_output(path: Path, own: OwnFiles) -> None:
    """Remove a folder that holds only files that its writer makes, in one step; nothing happens if it is not there.

    Raises
    ------
    AlreadyExistsError
        If it holds anything else.
    """
    if not os.path.lexists(require_new(path, overwrite=True, own=own)):
        return
    with as_disk_error(path):
        gone = _partial(path)
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def write_bytes(path: Path | str, data: bytes, *, replace: bool = False) -> None:
    """Write one file atomically; parent folders are created.

    Raises
    ------
    AlreadyExistsError, DiskError
    """
    path = require_new(path, overwrite=replace)
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
    for left in _leftovers(path, PARTIAL, *([REPLACED] if os.path.lexists(path) else [])):
        with suppress(OSError), _held(left) as mode:
            if left.name.endswith(REPLACED) and not os.path.lexists(path):  # its writer was killed meanwhile
                continue
            if stat.S_ISDIR(mode):
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _leftovers(path: Path, *suffixes: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(?:{'|'.join(map(re.escape, suffixes))})")
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    return [path.parent / name for name in names if name.endswith(suffixes) and pattern.fullmatch(name)]


@contextmanager
def _held(left: Path) -> Iterator[int]:
    """Lock what a killed writer left and yield its mode; raise `OSError` if it is in use, a link or special."""
    mode = os.lstat(left).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a file or folder")
    descriptor = os.open(left, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not try_lock(descriptor):  # it is being written, or locks are not supported
            raise OSError(errno.EBUSY, "in use")
        yield mode
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the advisory lock of an open file; return False if another process has it, or locks are not supported."""
    try:
        return lock(descriptor)
    except BlockingIOError:
        return False


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


def _partial(path: Path, suffix: str = PARTIAL) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{suffix}")


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
