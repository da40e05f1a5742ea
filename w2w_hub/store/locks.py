"""Locks that the system releases when their process ends, even if it is killed: of files, folders and writers."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BusyError, UnsafePathError

LOCK_FILE = ".w2w-lock"


def lock(descriptor: int) -> bool:
    """Take the advisory lock of an open file or folder; return False where there are no advisory locks.

    Raises
    ------
    BlockingIOError
        If another open file holds it.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def lock_folder(folder: Path, who: str) -> int | None:
    """Take the advisory lock of a folder; return the descriptor that holds it until it is closed.

    Parameters
    ----------
    who : str
        What else may hold the lock, for the message: ``another build``.

    Returns
    -------
    int or None
        None where there are no advisory locks.

    Raises
    ------
    BusyError
        If it is held already.
    OSError
        If the folder cannot be opened, or is a link.
    """
    if os.name == "nt":  # a folder cannot be opened there
        return None
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if lock(descriptor):
            return descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(f"{who} is using {folder}; run this again when it has ended", path=folder) from None
    os.close(descriptor)
    return None


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the writer lock of a folder; the system releases it when the process ends, even if it is killed."""
    path = folder / LOCK_FILE if folder.is_dir() else folder.with_name(f".{folder.name}{LOCK_FILE}")
    while True:
        descriptor = _open_lock(path)
        try:
            _acquire(descriptor, path, folder)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                break
        except FileNotFoundError:
            pass  # its last holder removed it in between
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Open or create a lock file; refuse links, hard links and anything but a regular file."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError:
        if path.is_symlink() or path.is_dir():
            raise UnsafePathError(f"{path} is a link or a folder, not a lock file; remove it", path=path) from None
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise UnsafePathError(
            f"{path} is a pipe or has another hard link, so it is not a lock file; remove it", path=path
        )
    return descriptor


def _acquire(descriptor: int, path: Path, folder: Path) -> None:
    holder = os.pread(descriptor, 300, 0).decode(errors="replace").split()
    who = f"process {holder[0]} on {holder[1]}" if len(holder) == 2 else "another process"
    busy = BusyError(
        f"{folder} is being written by {who}; wait until it has finished, then run this again", path=folder
    )
    try:
        if lock(descriptor):
            return
    except BlockingIOError:
        raise busy from None
    # without advisory locks: check the process that the file names, which works on its own host only
    if len(holder) != 2 or holder[0] == str(os.getpid()):
        return
    if holder[1] != socket.gethostname():
        raise BusyError(f"{busy}, or remove {path} if it was killed", path=folder)
    try:
        os.kill(int(holder[0]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return
    except PermissionError:  # another user's process
        pass
    raise busy
