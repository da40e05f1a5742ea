"""Find and fetch copies of pinned files in a folder or on a web server; neither is trusted.

In a folder only regular files are opened, and links only in snapshots of a Hub cache; from a server at most the pinned
number of bytes is read. A file is accepted only if it has the pinned digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from ..common.checks import require_path
from ..common.limits import MAX_JSON_BYTES
from ..dialects.base_model import MODEL_INDEX
from ..errors import CorruptFileError, HubError, HubNotFoundError, MissingPathError, W2WError
from ..store.hub.client import call
from ..store.hub.transfer import Pace, body, plain_client, too_long
from ..store.manifest import FILENAME
from ..store.paths import opened, walk

PLURAL = {"dataset": "datasets", "space": "spaces", "model": "models"}
ANCHORS = (FILENAME, MODEL_INDEX)  # files by which a copy is recognized
BLOCK = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """One folder to restore, and the file by which a copy of it is recognized.

    Attributes
    ----------
    repo, kind, commit : str
        The repository and commit of its files.
    anchor, sha256 : str
        The file by which a copy is recognized, and its digest.
    size : int or None
        The pinned size of the anchor in bytes.
    """

    repo: str
    kind: str
    commit: str
    anchor: str = ""
    sha256: str = ""
    size: int | None = None

    @property
    def folder(self) -> str:
        """The path in an archive."""
        return f"{PLURAL[self.kind]}/{self.repo}/{self.commit}"

    @property
    def limit(self) -> int:
        """The maximal size of the anchor in bytes."""
        return MAX_JSON_BYTES if self.size is None else self.size


class Copy(Protocol):
    """A place that may hold pinned files; `shown` names it in messages."""

    shown: str

    def find(self, wanted: Wanted) -> Any:
        """Return where a copy with the right anchor is, as :meth:`fetch` takes it; None without one."""

    def fetch(self, found: Any, name: str, limit: int, into: BinaryIO | None = None) -> str:
        """Read a file of at most `limit` bytes, write it to `into` if given, and return its sha256.

        Raises
        ------
        CorruptFileError
            If it is longer, or not a regular file.
        MissingPathError, HubError
        """

    def close(self) -> None:
        """Close connections."""


class FolderCopy:
    """A folder with copies anywhere below it: an archive, another cache, a plain download."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise MissingPathError(f"{folder} is not a folder; give --from a folder or a URL", path=folder)
        self.folder, self.shown = folder, str(folder)
        self._digests: dict[Path, str | None] = {}
        self._places: dict[str, list[Path]] | None = None

    def find(self, wanted: Wanted) -> Path | None:
        if self._places is None:
            self._places = self._scan()
        for place in self._places.get(wanted.anchor, ()):
            if self._digest(place / wanted.anchor) == wanted.sha256:
                return place
        return None

    def _scan(self) -> dict[str, list[Path]]:
        """Return the folders below that hold each anchor."""
        places: dict[str, list[Path]] = {}
        with _as_missing(self.folder):
            for found in walk(self.folder):
                parent, _, name = found.name.rpartition("/")
                if name in ANCHORS and (found.is_file or found.is_link):
                    places.setdefault(name, []).append(self.folder / parent)
        return places

    def _digest(self, anchor: Path) -> str | None:
        if anchor not in self._digests:
            try:
                self._digests[anchor] = self.fetch(anchor.parent, anchor.name, MAX_JSON_BYTES)
            except (CorruptFileError, MissingPathError):
                self._digests[anchor] = None  # a link, a pipe, or too long: not a copy
        return self._digests[anchor]

    def fetch(self, found: Path, name: str, limit: int, into: BinaryIO | None = None) -> str:
        with _as_missing(found / name), opened(found, name) as stream:
            return _copy(iter(lambda: stream.read(BLOCK), b""), limit, f"{found / name}", into)

    def close(self) -> None:
        pass


class UrlCopy:
    """A web server with an archive, a plain copy, or the paths of a Hub (a mirror)."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        # messages leave out a password or signature in the URL
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        self.client = plain_client()

    def find(self, wanted: Wanted) -> str | None:
        hub = ("datasets/" if wanted.kind == "dataset" else "") + f"{wanted.repo}/resolve/{wanted.commit}"
        for place in (f"data/{wanted.folder}", wanted.folder, wanted.repo, hub, ""):
            root = "/".join(part for part in (self.url, place) if part)
            try:
                if self.fetch(root, wanted.anchor, wanted.limit) == wanted.sha256:
                    return root
            except (HubNotFoundError, CorruptFileError):
                continue
        return None

    def fetch(self, found: str, name: str, limit: int, into: BinaryIO | None = None) -> str:
        import httpx2

        url, what = f"{found}/{quote(name)}", f"{self.shown}: {name}"

        def get() -> str:
            if into is not None:  # drop what an earlier attempt wrote
                into.seek(0)
                into.truncate()
            with Pace(self.shown, self.client.close) as pace, self.client.stream("GET", url) as response:
                if response.status_code != 200:
                    raise HubNotFoundError(f"{what} is not there ({response.status_code})", name=name)
                return _copy(body(response, pace, limit, what), limit, what, into)

        def get_by_http() -> str:
            try:
                return get()
            except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
                raise HubError(
                    f"{what} redirects to an unsupported address or too often; try another copy", name=name
                ) from error

        return call(self.shown, get_by_http)

    def close(self) -> None:
        self.client.close()


def copy_at(place: str | Path) -> Copy:
    """Return the copies at a folder, a ``file://`` URL or an HTTP URL."""
    text = str(place) if isinstance(place, str) else str(require_path(place, "the place to restore from"))
    if text.startswith("file://"):
        return FolderCopy(Path(url2pathname(urlsplit(text).path)))
    if text.startswith(("http://", "https://")):
        return UrlCopy(text)
    return FolderCopy(Path(place))


@contextmanager
def _as_missing(path: Path) -> Iterator[None]:
    """Raise the `OSError` of a failed read as a `MissingPathError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, W2WError):
            raise
        subject = error.filename or path
        raise MissingPathError(f"{subject} cannot be read ({error.strerror})", path=subject) from error


def _copy(blocks: Iterable[bytes], limit: int, what: str, into: BinaryIO | None) -> str:
    digest, length = hashlib.sha256(), 0
    for block in blocks:
        length += len(block)
        if length > limit:
            raise too_long(what, limit)
        digest.update(block)
        if into is not None:
            into.write(block)
    return digest.hexdigest()


__all__ = ["Copy", "FolderCopy", "UrlCopy", "Wanted", "copy_at"]
