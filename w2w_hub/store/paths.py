"""Validate untrusted relative paths, and open files without following links.

Every name in a manifest, lock, split, Zarr key, point or repository passes :func:`require_name` before it is used, and
its file is opened by :func:`open_file` or found by :func:`find_file`: no part of the path below the root may be a link.
The root may be one, since the user named it. The one exception: in a snapshot of the Hub's cache, a file is a link to a
blob of the same repository.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..common.limits import MAX_FILES, MAX_FOLDER_DEPTH, MAX_NAME_BYTES, MAX_PART_BYTES
from ..common.subject import about
from ..common.text import nearest, one_line
from ..errors import CorruptFileError, MissingPathError, UnsafePathError

OURS = ".w2w-"  # prefix of locks, staged states and unfinished files
MOST_NAMES = 1000  # of a folder, among which a similar one is looked for
_BLOB = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
_XET_HASH = re.compile(r"[0-9a-f]{64}")
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def is_name(name: object) -> bool:
    """Return whether a value is a relative path that stays in its folder on every file system.

    Its parts are joined by ``/``; none is empty, ``.`` or ``..``, ends in a dot or a space, or holds a control
    character, a backslash or a colon (a drive, or a stream of Windows).
    """
    if not isinstance(name, str) or not name.isprintable() or "\\" in name or ":" in name:
        return False
    parts = name.split("/")
    return len(name.encode()) <= MAX_NAME_BYTES and all(
        part and part[-1] not in ". " and len(part.encode()) <= MAX_PART_BYTES for part in parts
    )


def require_name(name: object, where: object) -> str:
    """Return the name if it is a valid relative path.

    Raises
    ------
    UnsafePathError
        Its subject is `where`: the file that holds the name.
    """
    if not is_name(name):
        raise UnsafePathError(
            f"{where} names {short(name)}, which is not a path inside its folder; do not use that file",
            name=name if isinstance(name, str) else None,
            **about(where),
        )
    assert isinstance(name, str)
    return name


def short(value: object) -> str:
    """Return an untrusted value quoted, shortened and in one line."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return one_line(text, 120)


def exists(path: Path) -> bool:
    """Return whether there is something; no path can be too long, or have a NUL, and be there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def missing(path: Path | str, advice: str = "") -> MissingPathError:
    """Return the error for a path that does not exist, with the path of a similar name beside it, or else `advice`."""
    near = similar(path)
    hint = f"; did you mean {short(str(near))}?" if near else f"; {advice}" if advice else ""
    return MissingPathError(f"{path} does not exist{hint}", path=path)


def similar(path: Path | str) -> Path | None:
    """Return the path in the same folder whose name is most similar to one that does not exist."""
    path = Path(path)
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, MOST_NAMES) if entry.name.isprintable()]
            if not path.name.startswith("."):  # hidden files are a program's own
                names = [name for name in names if not name.startswith(".")]
    except (OSError, ValueError):
        return None
    # similar without its suffix, too
    close = [name for name in nearest(path.name, names) if nearest(path.stem, [Path(name).stem])]
    return path.with_name(close[0]) if close else None


def find_file(root: Path, name: str) -> Path:
    """Return the path of a regular file below `root`; no link is followed.

    Raises
    ------
    MissingPathError
        If it does not exist.
    UnsafePathError
        If the name is invalid, a part of the path is a link, or it is not a regular file (a pipe, a device).
    """
    path = Path(root, require_name(name, root))
    _require_folders(root, name.split("/")[:-1])
    mode = _mode(path)
    if mode is None:
        raise MissingPathError(f"{path} does not exist", path=path)
    if stat.S_ISLNK(mode):
        path = _blob(Path(root), path)
    elif not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UnsafePathError(f"{path} is {what}, not a file; remove it or fetch the folder again", path=path)
    return path


def has_file(root: Path, name: str) -> bool:
    """Return whether a regular file exists; raise `UnsafePathError` as :func:`find_file` does."""
    try:
        find_file(root, name)
    except MissingPathError:
        return False
    return True


def open_file(root: Path, name: str) -> int:
    """Open a regular file below `root` for reading, without following links; return its descriptor."""
    return open_regular(find_file(root, name), follow=False)


def open_regular(path: Path | str, *, follow: bool = True) -> int:
    """Open a path that the user named, if it is a regular file, and return its descriptor; never wait for a pipe.

    Parameters
    ----------
    follow : bool
        Whether the path itself may be a link.

    Raises
    ------
    MissingPathError, UnsafePathError
    """
    try:
        descriptor = os.open(path, _OPEN | (0 if follow else _NO_LINK))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingPathError(f"{path} does not exist", path=path) from None
    except OSError as error:
        if not follow and os.path.islink(path):
            raise UnsafePathError(f"{path} is a link; replace it with the file", path=path) from error
        raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:  # the path contains a NUL
        raise MissingPathError(f"{short(str(path))} does not exist", path=path) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise MissingPathError(f"{path} is a folder, not a file", path=path)
        raise UnsafePathError(f"{path} is a pipe, socket or device, not a regular file; name another", path=path)
    return descriptor


def read_file(root: Path, name: str, limit: int) -> bytes:
    """Return the content of a file below `root`, at most `limit` bytes."""
    return _read(open_file(root, name), Path(root, name), limit)


def read_regular(path: Path | str, limit: int) -> bytes:
    """Return the content of a file that the user named, at most `limit` bytes."""
    return _read(open_regular(path), path, limit)


def _read(descriptor: int, path: Path | str, limit: int) -> bytes:
    with open(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error
    if size > limit or len(data) > limit:
        raise CorruptFileError(f"{path} has {size:,} bytes; a file of its kind has at most {limit:,}", path=path)
    return data


def opened(root: Path, name: str) -> BinaryIO:
    """Open a file below `root` as a binary stream, see :func:`open_file`."""
    return open(open_file(root, name), "rb")


# ----------------------------------------------------------------- folders
@dataclass(frozen=True)
class Found:
    """One entry below a folder: its relative path, and whether it is a regular file or a link."""

    name: str
    is_file: bool
    is_link: bool


def walk(root: Path) -> Iterator[Found]:
    """Yield everything below a folder except folders, sorted by name; links are not followed.

    Raises
    ------
    CorruptFileError
        If there are more than `MAX_FILES` entries or `MAX_FOLDER_DEPTH` levels.
    """
    count = 0
    pending = [("", Path(root), 0)]
    while pending:
        prefix, folder, depth = pending.pop()
        if depth > MAX_FOLDER_DEPTH:
            raise CorruptFileError(f"{folder} is more than {MAX_FOLDER_DEPTH} folders deep", path=folder)
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        below = []
        for entry in found:
            count += 1
            if count > MAX_FILES:
                raise CorruptFileError(f"{root} holds more than {MAX_FILES:,} files", path=root)
            if entry.is_dir(follow_symlinks=False):
                below.append((f"{prefix}{entry.name}/", Path(entry.path), depth + 1))
            else:
                yield Found(prefix + entry.name, entry.is_file(follow_symlinks=False), entry.is_symlink())
        pending += reversed(below)


def list_files(folder: Path) -> list[str]:
    """Return the sorted relative paths of all regular files below a folder, without links."""
    return sorted(found.name for found in walk(folder) if found.is_file)


def make_parents(root: Path, name: str) -> Path:
    """Create the folders of a file to be written below `root`, and return its path; no link is followed."""
    parts = require_name(name, root).split("/")
    for depth in range(1, len(parts)):
        _require_folders(root, parts[: depth - 1])  # before anything is made below it
        folder = Path(root, *parts[:depth])
        if _mode(folder) is None:
            folder.mkdir()
    _require_folders(root, parts[:-1])
    return Path(root, name)


def remove_file(root: Path, name: str) -> None:
    """Remove a regular file below `root` and folders that become empty, unless part of its path is a link."""
    try:
        path = Path(root, require_name(name, root))
        _require_folders(root, name.split("/")[:-1])
    except MissingPathError:
        return
    mode = _mode(path)
    if mode is None or not stat.S_ISREG(mode):
        return
    path.unlink()
    for parent in path.parents:
        if parent == Path(root):
            return
        try:
            parent.rmdir()
        except OSError:  # it still holds something
            return


def _require_folders(root: Path, parts: list[str]) -> None:
    for depth in range(1, len(parts) + 1):
        folder = Path(root, *parts[:depth])
        mode = _mode(folder)
        if mode is None:
            raise MissingPathError(f"{folder} does not exist", path=folder)
        if stat.S_ISLNK(mode):
            raise UnsafePathError(f"{folder} is a link, which is not followed; replace it with the folder", path=folder)
        if not stat.S_ISDIR(mode):
            raise UnsafePathError(f"{folder} is not a folder; fetch it again", path=folder)


def _mode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error


# --------------------------------------------------------- the Hub's cache
def _blob(root: Path, link: Path) -> Path:
    """Return the blob that a link in a snapshot of the Hub's cache points to.

    A snapshot is ``<cache>/<repository>/snapshots/<commit>``, and its files are links to
    ``<cache>/<repository>/blobs/<etag>``. With Xet, that may be a link to ``<cache>/blobs/<ab>/<hash>``, which all
    repositories of a cache share.
    """
    commit = Path(os.path.realpath(root))
    for folder in (commit, *commit.parents[:2]):  # an embedded base is opened below its snapshot
        if folder.parent.name == "snapshots":
            repository = folder.parent.parent
            break
    else:
        raise UnsafePathError(f"{link} is a link, which is not followed; replace it with the file", path=link)
    target = _link_target(link)
    if target.parent == repository / "blobs" and _BLOB.fullmatch(target.name) and _is_folder(target.parent):
        mode = _mode(target)
        if mode is None:
            raise MissingPathError(
                f"{link} is a link to a blob that is missing in the cache; fetch it again", path=link
            )
        if stat.S_ISREG(mode):
            return target
        if stat.S_ISLNK(mode):
            shared = _link_target(target)
            store = repository.parent / "blobs"
            if (
                _XET_HASH.fullmatch(shared.name)
                and shared.parent == store / shared.name[:2]
                and _is_folder(store)
                and _is_folder(shared.parent)
                and stat.S_ISREG(_mode(shared) or 0)
            ):
                return shared
    raise UnsafePathError(
        f"{link} leads out of its repository in the cache; remove it and fetch the file again", path=link
    )


def _link_target(link: Path) -> Path:
    """Return the target of a link, which may be a link itself."""
    return Path(os.path.normpath(os.path.join(os.path.realpath(link.parent), os.readlink(link))))


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path) or 0)
