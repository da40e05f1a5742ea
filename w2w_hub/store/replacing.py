"""Decide which existing outputs may be replaced, and swap a folder for a new one.

Only a regular file, or a folder in which every file is one that its writer makes, is replaced; never a link.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import AlreadyExistsError, W2WError
from .manifest import CARD, FILENAME, read_manifest
from .paths import list_files, short, walk

OwnFiles = Callable[[Path], Iterable[str]]
"""Function of an existing folder that returns the relative paths of the files in it that its writer makes."""
HERE, SWAP = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def files_named(*patterns: str) -> OwnFiles:
    """Recognize files by the pattern of their whole relative path; ``*`` stays within one folder."""
    known = [pattern.split("/") for pattern in patterns]

    def is_known(name: str) -> bool:
        parts = name.split("/")
        return any(len(parts) == len(each) and all(map(fnmatchcase, parts, each)) for each in known)

    return lambda folder: filter(is_known, list_files(folder))


def files_accepted(is_own: Callable[[Path], bool]) -> OwnFiles:
    """Recognize files directly in the folder by what they hold."""
    return lambda folder: [name for name in list_files(folder) if "/" not in name and is_own(folder / name)]


def files_below(name: str, own: OwnFiles) -> OwnFiles:
    """Recognize files in a folder within the folder."""
    return lambda folder: [f"{name}/{each}" for each in own(folder / name)] if (folder / name).is_dir() else []


def files_of_any(*owns: OwnFiles) -> OwnFiles:
    """Recognize the files that one of several functions does."""
    return lambda folder: [name for own in owns for name in own(folder)]


def files_of_all(*owns: OwnFiles) -> OwnFiles:
    """Recognize the files that all of several functions do."""
    return lambda folder: set.intersection(*(set(own(folder)) for own in owns))


def files_listed(kind: str) -> OwnFiles:
    """Recognize the manifest, the card and the listed files of a dataset or weight space (`kind` is its format)."""

    def own(folder: Path) -> Iterable[str]:
        try:
            return (FILENAME, CARD, *read_manifest(folder, kind)["files"])
        except W2WError:
            return ()

    return own


def require_replaceable(path: Path, own: OwnFiles | None) -> None:
    """Raise `AlreadyExistsError` if what exists at `path` must not be replaced.

    Parameters
    ----------
    own : callable or None
        The files that may be in a folder; None for an output that is a file.
    """
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        reason = "is a link, which is never replaced"
    elif not stat.S_ISDIR(mode):
        if own is None and stat.S_ISREG(mode):
            return
        reason = "is not a regular file" if own is None else "is a file, not a folder"
    elif own is None:
        reason = "is a folder, not a file"
    elif path.name in ("", ".."):
        reason = "has no name of its own"
    else:
        known = set(own(path))
        foreign = _foreign_file(path, known)
        if foreign is None:
            return
        reason = f"holds {short(foreign)}, which is not part of an earlier output of this kind"
    raise AlreadyExistsError(f"{path} {reason}; remove it, or choose another output", path=path)


def _foreign_file(folder: Path, known: Collection[str]) -> str | None:
    """Return the first file of a folder that its writer did not make; links are never its own."""
    foreign = (found.name for found in walk(folder) if not found.is_file or found.name not in known)
    return next(foreign, None)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step; return False where the system or the file system cannot."""
    try:
        import ctypes

        names, libc = (os.fsencode(first), os.fsencode(second)), ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(*names, SWAP) == 0)
        return bool(libc.renameat2(HERE, names[0], HERE, names[1], SWAP) == 0)
    except (ImportError, AttributeError, OSError, TypeError):
        return False
