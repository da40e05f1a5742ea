"""Look at strange files and folders: a bounded number of names, the first bytes of a file, never through a link."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import MissingPathError, W2WError
from ..store.paths import has_file, open_regular

MOST_ENTRIES = 2000  # names that are looked at in one folder, and in all folders below it together
DEEPEST = 3  # levels of folders below the one that is named
HEAD = 64 * 2**10  # bytes of a file
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A name in a folder, and what it is without following it."""

    name: str
    is_file: bool
    is_folder: bool
    is_link: bool

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()


def entries(folder: Path) -> list[Entry]:
    """Return the first entries of a folder, sorted by name; hidden ones come last.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    with os.scandir(folder) as found:
        listed = [
            Entry(e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False), e.is_symlink())
            for e in islice(found, MOST_ENTRIES)
        ]
    return sorted(listed, key=lambda entry: (entry.name.startswith("."), entry.name))


def below(folder: Path) -> Iterator[tuple[Path, list[Entry]]]:
    """Yield a folder and those below it with their entries; hidden folders and links are left out."""
    pending, seen = [(folder, 0)], 0
    while pending:
        place, depth = pending.pop(0)
        try:
            found = entries(place)
        except OSError:
            continue
        seen += len(found)
        yield place, found
        if seen > MOST_ENTRIES:
            return
        if depth < DEEPEST:
            pending += [(place / e.name, depth + 1) for e in found if e.is_folder and not e.name.startswith(".")]


def first_bytes(path: Path, *, follow: bool = True) -> bytes:
    """Return the first bytes of a regular file.

    Raises
    ------
    MissingPathError, UnsafePathError
    """
    with open(open_regular(path, follow=follow), "rb") as file:
        try:
            return file.read(HEAD)
        except OSError as error:  # of a disk or a network
            raise MissingPathError(f"{path} cannot be read: {error.strerror}", path=path) from error


def picture_format(head: bytes) -> str | None:
    """Return the format of a picture by its first bytes; None if it is none that is read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def is_pickle(head: bytes) -> bool:
    """Return whether a file begins like one of torch's, or like a bare pickle."""
    return head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def free_name(name: str) -> Path:
    """Return a path in the working folder that does not exist: a name, or the name with a number."""
    path, number = Path(name), 2
    while os.path.lexists(path):
        path, number = Path(name).with_stem(f"{Path(name).stem}-{number}"), number + 1
    return path


def is_there(path: Path) -> bool:
    """Return whether something has this path, also a link that leads nowhere."""
    with suppress(OSError, ValueError):  # a name that no file can have
        return os.path.lexists(path)
    return False


def is_file_in(folder: Path, name: str) -> bool:
    """Return whether a regular file is below a folder, without a link on its way."""
    with suppress(W2WError, OSError):
        return has_file(folder, name)
    return False
