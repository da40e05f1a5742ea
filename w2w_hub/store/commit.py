"""Read the state of a folder, and replace it as a whole, one writer at a time.

A new state is built in a staging folder, ``.w2w-next``. A new folder appears by one rename. For an existing one, the
staging folder holds only what changes, and renaming it to ``.w2w-commit`` is the commit. From then on the manifest in
``.w2w-commit`` is the state, and each file that it lists is read from there, or else from its final place. Readers
change nothing. The writer moves the files into place; if it is killed, the next writer or :func:`repair` does.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..common.limits import MAX_JSON_BYTES
from ..common.text import command
from ..errors import AlreadyExistsError, BusyError, CorruptFileError, MissingPathError, UnsafePathError, W2WError
from .atomic import as_disk_error, disk_error, flush, flush_tree, require_new
from .locks import writer_lock
from .manifest import CARD, FILENAME, parse_manifest
from .paths import find_file, has_file, make_parents, read_file, remove_file, walk

T = TypeVar("T")
NEXT, COMMIT = ".w2w-next", ".w2w-commit"
NOTES = ".notes"  # in the staging folder: what a resumed writer needs, not part of the state
WAIT_SECONDS, PAUSE_SECONDS = 10.0, 0.01  # while another process writes the folder


# ------------------------------------------------------------------ reading
@dataclass(frozen=True)
class State:
    """One state of a folder: its manifest and the paths of its files.

    Attributes
    ----------
    root : Path
    raw : bytes
        The manifest as it is stored.
    data : dict
        The manifest's fields, validated as :func:`w2w_hub.store.manifest.parse_manifest` does.
    unfinished : bool
        Whether a killed writer has committed it without moving it into place.
    """

    root: Path
    raw: bytes
    data: dict[str, Any]
    unfinished: bool = False

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that hold its files; the first one that has a file counts."""
        return (self.root / COMMIT, self.root) if self.unfinished else (self.root,)

    @property
    def manifest_path(self) -> Path:
        return self.folders[0] / FILENAME

    def find(self, name: str) -> Path:
        """Return the path of one of its files; no link is followed."""
        return find_in(self.folders, name)


def find_in(folders: tuple[Path, ...], name: str) -> Path:
    """Return the path of a file in the first of these folders that has it; no link is followed."""
    for folder in folders[:-1]:
        if has_file(folder, name):
            return find_file(folder, name)
    return find_file(folders[-1], name)


def read_state(folder: Path, read: Callable[[State], T], *formats: str) -> T:
    """Call `read` with the current state of a folder; retry if a writer changed it meanwhile.

    Parameters
    ----------
    read : callable
        Takes a :class:`State`; its result is returned.
    formats : str
        Manifest formats to accept; datasets and weight spaces by default.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsafePathError, UnsupportedFormatError
    BusyError
        If writers kept changing the folder for `WAIT_SECONDS`.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        before, moving = _stamp(folder), _committed_files(folder)
        try:
            found = read(_state(folder, *formats))
        except (W2WError, OSError):
            same = _stamp(folder) == before and _committed_files(folder) == moving
            if same or time.monotonic() > deadline:
                raise
        else:
            if _stamp(folder) == before:
                return found
            if time.monotonic() > deadline:
                raise BusyError(
                    f"{folder} keeps being changed by another process; wait until it has finished", path=folder
                )
        time.sleep(PAUSE_SECONDS)


def open_state(folder: Path, *formats: str) -> State:
    """Return the state of a folder, see :func:`read_state`."""
    return read_state(folder, lambda state: state, *formats)


def _state(folder: Path, *formats: str) -> State:
    raw = _committed(folder)
    if raw is None:
        raw = read_file(folder, FILENAME, MAX_JSON_BYTES)
        return State(folder, raw, parse_manifest(raw, folder / FILENAME, *formats))
    data = parse_manifest(raw, folder / COMMIT / FILENAME, *formats)
    if has_file(folder, FILENAME):  # the writer that finishes it acts on both
        parse_manifest(read_file(folder, FILENAME, MAX_JSON_BYTES), folder / FILENAME, *formats)
    state = State(folder, raw, data, unfinished=True)
    for name in data["files"]:
        if os.path.islink(folder / COMMIT / name):  # also one that the Hub's cache would be allowed
            raise UnsafePathError(
                f"{folder / COMMIT / name} is a link; remove {folder / COMMIT}", path=folder / COMMIT / name
            )
        with suppress(MissingPathError):
            state.find(name)  # raises where a part of its path is a link
    return state


def _committed(folder: Path) -> bytes | None:
    """Return the manifest of a committed state that is not yet moved into place; None if there is none."""
    commit = folder / COMMIT
    if not _is_own_folder(commit):
        return None
    if os.path.islink(commit / FILENAME):
        raise UnsafePathError(f"{commit / FILENAME} is a link; remove {commit}", path=commit / FILENAME)
    try:
        return read_file(commit, FILENAME, MAX_JSON_BYTES)
    except MissingPathError:
        return None  # a leftover


def _is_own_folder(path: Path) -> bool:
    """Return whether a staging or commit folder exists; raise if it is a link or a file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    if not stat.S_ISDIR(mode):
        raise UnsafePathError(f"{path} is a link or a file, not a folder; remove it", path=path)
    return True


def _stamp(folder: Path) -> tuple[Any, ...]:
    """Return values that change once another state is committed or in place."""

    def of(path: Path) -> tuple[int, int, int] | None:
        try:
            found = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISLNK(found.st_mode):  # the root, or a file in the Hub's cache
            with suppress(OSError):
                found = os.stat(path)
        return found.st_ino, 0 if stat.S_ISDIR(found.st_mode) else found.st_mtime_ns, found.st_size

    commit = folder / COMMIT
    there = of(commit)
    return of(folder / FILENAME), None if there is None else there[0], of(commit / FILENAME)


def _committed_files(folder: Path) -> list[str]:
    """Return the files of a committed state that a writer has yet to move into place."""
    commit = folder / COMMIT
    try:
        return [found.name for found in walk(commit)] if stat.S_ISDIR(os.lstat(commit).st_mode) else []
    except (W2WError, OSError):
        return []


# ------------------------------------------------------------------ writing
def staging_folder(folder: Path) -> Path:
    """Return where the next state of a folder is built."""
    return folder / NEXT if folder.is_dir() else folder.with_name(f".{folder.name}{NEXT}")


@contextmanager
def next_state(path: Path | str, *, replace: bool = False, resumable: bool = False) -> Iterator[Path]:
    """Yield a staging folder whose files become the state of `path` when the block ends without an error.

    Parameters
    ----------
    replace : bool
        The folder may exist. Its files stay unless they are staged again, or its manifest lists them and the staged
        one does not.
    resumable : bool
        Continue what an interrupted writer left, and keep what this one leaves if it is interrupted or the disk fails.

    Raises
    ------
    BusyError
        If another process is writing the same folder.
    DiskError
        If writing fails; the folder is then as before.
    UnsafePathError
        If the staging folder or the lock is a link.
    """
    folder = Path(path)
    if not replace:
        require_new(folder)
    elif folder.exists() and not (folder / FILENAME).is_file():
        raise AlreadyExistsError(f"{folder} exists and is not a dataset; choose another output", path=folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with writer_lock(folder):
            _finish(folder)
            staging = staging_folder(folder)
            _prepare(staging, resumable)
            try:
                yield staging
                shutil.rmtree(staging / NOTES, ignore_errors=True)
                _commit(staging, folder)
            except (KeyboardInterrupt, SystemExit, OSError) as error:
                if isinstance(error, KeyboardInterrupt):
                    error.add_note(_what_is_kept(folder, staging, resumable))
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
        kept = "; finished parts are kept, run the same command again to continue" if left else ""
        raise disk_error(path, error, kept) from error


def _what_is_kept(folder: Path, staging: Path, resumable: bool) -> str:
    """Say what an interrupted writer leaves, for whoever interrupted it."""
    if not staging.is_dir():  # past the moment of commit
        return f"the change is committed, see: {command('w2w repair', folder)}"
    if resumable and (staging / NOTES).is_dir():
        return "finished parts are kept and the same command continues from them"
    return "nothing was changed"


def _prepare(staging: Path, resumable: bool) -> None:
    """Create the staging folder, or continue with one that holds only regular files."""
    if _is_own_folder(staging):
        if resumable and all(found.is_file for found in walk(staging)):
            return
        shutil.rmtree(staging)  # which follows no link
    staging.mkdir()


def _commit(staging: Path, folder: Path) -> None:
    flush_tree(staging)
    if folder.is_dir():
        _require_movable(staging, folder)
        os.rename(staging, folder / COMMIT)
        flush(folder)
        _finish(folder)
    else:
        require_new(folder)
        os.rename(staging, folder)
    flush(folder.parent)


def _require_movable(staging: Path, folder: Path) -> None:
    """Raise before the moment of commit if a staged file could not be moved without following a link."""
    for found in walk(staging):
        with suppress(MissingPathError):
            find_file(folder, found.name)


def repair(path: Path | str) -> bool:
    """Finish a change that a killed writer had committed (`w2w repair`); return whether there was one.

    What a writer left that was killed before its commit is removed.

    Raises
    ------
    BusyError
        If another process is writing the same folder.
    CorruptFileError
        If the committed change is damaged; nothing is moved then.
    DiskError
    """
    folder = Path(path)
    if not folder.is_dir():
        raise MissingPathError(f"{folder} is not a folder; name a dataset or weight space", path=folder)
    with as_disk_error(folder, "; open it where it can be written"), writer_lock(folder):
        finished = _finish(folder)
        if _is_own_folder(folder / NEXT):  # left by a writer that was killed before its commit
            shutil.rmtree(folder / NEXT)
        return finished


def _finish(folder: Path) -> bool:
    """Move a committed state into place; may be repeated from any point. The caller holds the lock."""
    commit = folder / COMMIT
    if not _is_own_folder(commit):
        return False
    raw = _committed(folder)
    if raw is not None:
        new = parse_manifest(raw, commit / FILENAME)
        old: dict[str, Any] = {"files": {}}
        if has_file(folder, FILENAME):
            old = parse_manifest(read_file(folder, FILENAME, MAX_JSON_BYTES), folder / FILENAME)
            if old["format"] != new["format"]:
                raise CorruptFileError(
                    f"{folder} holds a {old['format']} and a committed {new['format']}; remove one", path=folder
                )
        moved = [name for name in [*new["files"], CARD] if has_file(commit, name)]
        for name in moved:  # all of them, before the first is moved
            with suppress(MissingPathError):
                find_file(folder, name)
        for name in moved:
            os.replace(find_file(commit, name), make_parents(folder, name))
        for name in sorted(old["files"].keys() - new["files"].keys()):
            remove_file(folder, name)
        for parent in sorted({(folder / name).parent for name in moved}):
            flush(parent)
        os.replace(find_file(commit, FILENAME), folder / FILENAME)
        flush(folder)
    shutil.rmtree(commit, ignore_errors=True)
    return raw is not None
