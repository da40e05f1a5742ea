"""One writer at a time, and a new state of a folder put in place at once.

A new state is built aside, in a staging folder. A folder that is not there yet appears by one rename. For one that
is, the staging folder holds only what changes; renaming it to ``.w2w-commit`` is the moment of commit, after which
its files are moved over the old ones and files of the old state that are no longer listed are removed. A process
killed before that moment has changed nothing; one killed after it is finished by whoever opens the folder next.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import AlreadyExistsError, BusyError, DiskError, W2WError
from ..files import list_files, read_json, recover, require_new
from .manifest import FILENAME

NEXT, COMMIT, LOCK = ".w2w-next", ".w2w-commit", ".w2w-lock"
NOTES = ".notes"  # in the staging folder: what a resumed writer needs, no part of the state
DURABLE = True  # flush every file to the disk before the commit, so that a power cut loses nothing either
WAIT_SECONDS = 10.0


def staging_folder(folder: Path) -> Path:
    """Where the next state of a folder is built."""
    return folder / NEXT if folder.is_dir() else folder.with_name(f".{folder.name}{NEXT}")


@contextmanager
def next_state(path: Path | str, *, replace: bool = False, resumable: bool = False) -> Iterator[Path]:
    """A staging folder whose files become the state of `path` when the block ends without an error.

    Parameters
    ----------
    replace : bool
        The folder may be there; it then keeps its files unless they are staged anew, or listed by its manifest
        and no longer by the staged one. Foreign files stay.
    resumable : bool
        Keep what a killed or interrupted writer left, and what this one leaves if it is interrupted or the disk
        fails.

    Raises
    ------
    BusyError
        If another process is writing the same folder.
    DiskError
        If writing fails; the folder is then as before.
    """
    folder = recover(path)
    if not replace:
        require_new(folder)
    elif folder.exists() and not (folder / FILENAME).is_file():
        raise AlreadyExistsError(f"{folder} is there and is no dataset; choose another output")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            finish_commit(folder)
            staging = staging_folder(folder)
            if not resumable:
                shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(exist_ok=True)
            try:
                yield staging
                shutil.rmtree(staging / NOTES, ignore_errors=True)
                _commit(staging, folder)
            except (KeyboardInterrupt, SystemExit, OSError) as error:
                if isinstance(error, W2WError) or not resumable:
                    shutil.rmtree(staging, ignore_errors=True)
                raise
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
    except OSError as error:
        if isinstance(error, W2WError):
            raise
        left = resumable and (staging_folder(folder) / NOTES).is_dir()
        kept = "; what is finished is kept, run the same command again to continue" if left else ""
        advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "nothing was changed"
        raise DiskError(f"writing {path} failed: {error.strerror or error}; {advice}{kept}") from error


def _commit(staging: Path, folder: Path) -> None:
    if DURABLE:
        for name in list_files(staging):
            _flush(staging / name)
        for below in [p for p in staging.rglob("*") if p.is_dir()]:
            _flush(below)
        _flush(staging)
    if folder.is_dir():
        os.rename(staging, folder / COMMIT)
        if DURABLE:
            _flush(folder)
        _roll_forward(folder)
    else:
        require_new(folder)
        os.rename(staging, folder)
    if DURABLE:
        _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # some file systems cannot flush a folder
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _roll_forward(folder: Path) -> None:
    """Finish a commit; may be repeated from any point."""
    commit = folder / COMMIT
    if (commit / FILENAME).is_file():
        new = read_json(commit / FILENAME)
        old = read_json(folder / FILENAME) if (folder / FILENAME).is_file() else {}
        for name in list_files(commit):
            if name != FILENAME:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(commit / name, folder / name)
        for name in set(old.get("files", ())) - set(new["files"]):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
            with suppress(OSError):  # a folder that still holds something stays
                (folder / name).parent.rmdir()
        os.replace(commit / FILENAME, folder / FILENAME)
    shutil.rmtree(commit, ignore_errors=True)


def finish_commit(folder: Path) -> None:
    """Finish what a killed writer had committed; the caller holds the lock."""
    if (folder / COMMIT).is_dir():
        _roll_forward(folder)


def settle(folder: Path) -> None:
    """Before reading: finish a killed writer's commit, or wait until a living one has put its state in place."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (folder / COMMIT).is_dir():
        try:
            with locked(folder):
                finish_commit(folder)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        except OSError as error:
            if isinstance(error, W2WError):
                raise
            raise DiskError(
                f"{folder} holds a new state that was not put in place, and it cannot be written "
                f"({error.strerror}); open it once from where it can"
            ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the writers' lock of a folder; the system releases it when the process ends, however it ends."""
    path = folder / LOCK if folder.is_dir() else folder.with_name(f".{folder.name}{LOCK}")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(descriptor, path, folder)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
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


def _take(descriptor: int, path: Path, folder: Path) -> None:
    holder = os.pread(descriptor, 300, 0).decode(errors="replace").split()
    who = f"process {holder[0]} on {holder[1]}" if len(holder) == 2 else "another process"
    busy = BusyError(f"{folder} is being written by {who}; wait until it has ended, then run this again")
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    except (ImportError, OSError):
        # no advisory locks here: go by the process that the file names, which may only be judged on its own host
        if len(holder) != 2 or holder[0] == str(os.getpid()):
            return
        if holder[1] != socket.gethostname():
            raise BusyError(f"{busy}, or remove {path} if it was killed") from None
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(holder[0]), 0)
            raise busy from None
