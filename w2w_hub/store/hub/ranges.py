"""Read parts of files at one commit: from disk if they are cached, otherwise by HTTP range."""

from __future__ import annotations

import os
import threading
from typing import Any

from ...common.subject import Where, about
from ...errors import CorruptFileError, HubNotFoundError
from ..byte_source import ByteSource
from ..paths import open_file, short
from .cache import TYPES
from .client import call, translate
from .source import Source, unlisted
from .transfer import PLAIN, Pace, body, timeouts

WHOLE_BELOW = 256 * 1024  # smaller files are fetched whole, verified and kept
WHOLE_SHARE = 0.5  # so are files of which this fraction was requested


class RangedFiles(ByteSource):
    """Reads files of one commit by byte range.

    Ranges are not verified here, since a manifest has digests of whole files only; callers check the digests of rows.
    Once half of a file has been read, it is fetched whole and verified.

    Attributes
    ----------
    source : Source
    """

    def __init__(self, source: Source):
        self.source = source
        self._read: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:  # descriptors belong to one process
        return {"source": self.source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes, from the manifest."""
        return int(self._entry(path)["size"])

    def is_kept(self, path: str) -> bool:
        """Return whether a file is read from disk, whole and verified."""
        return path in self._open

    def keep(self, path: str) -> None:
        """Fetch a file whole and verify it, unless it is cached."""
        self._descriptor(path)

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Return exactly the bytes from `start` to before `stop`."""
        size = self.size(path)
        if not 0 <= start <= stop <= size:
            raise CorruptFileError(f"{self.source.revision}: {path} has {size} bytes, not {start} to {stop}")
        if path not in self._open and not self._keeps(path, stop - start):
            return self._fetch(path, start, stop)
        return os.pread(self._descriptor(path), stop - start, start)

    def _entry(self, path: str) -> Any:
        try:
            return self.source.files[path]
        except KeyError:
            raise unlisted(self.source.revision, path) from None

    def _keeps(self, path: str, length: int) -> bool:
        """Return whether the file is cached, or is to be fetched whole now."""
        size = self.size(path)
        with self._lock:
            asked = self._read[path] = self._read.get(path, 0) + length
        return size <= WHOLE_BELOW or asked >= WHOLE_SHARE * size or self.source.has(path)

    def _descriptor(self, path: str) -> int:
        with self._lock:
            if path not in self._open:
                self._open[path] = open_file(self.source.need([path]), path)
            return self._open[path]

    def _fetch(self, path: str, start: int, stop: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        from ...common.version import __version__

        source, revision = self.source, self.source.revision
        assert revision is not None
        if start == stop:
            return b""
        if source.options.local_files_only:
            raise HubNotFoundError(
                f"{revision}: {path} is not in the cache; open the dataset online once with lazy=False",
                what="cache",
                **about(revision.file(path)),
            )
        url = hf_hub_url(revision.repo, path, repo_type=TYPES[revision.kind], revision=revision.commit)
        headers = build_hf_headers(token=source.options.token, library_name="w2w_hub", library_version=__version__)
        headers |= {"Range": f"bytes={start}-{stop - 1}", **PLAIN}
        where, size = revision.file(path), self.size(path)

        def get() -> bytes:
            opened: list[Any] = []
            with (
                Pace(revision.repo, lambda: [response.close() for response in opened]) as pace,
                # the token is not sent on to another host
                get_session().stream("GET", url, headers=headers, timeout=timeouts()) as response,
            ):
                opened.append(response)
                hf_raise_for_status(response)
                return _part(response, pace, start, stop, size, where)

        data = call(revision.repo, get)
        if len(data) != stop - start:
            raise translate(ConnectionError(f"{len(data)} bytes of {stop - start}"), revision.repo)
        return data


def _part(response: Any, pace: Pace, start: int, stop: int, size: int, where: Where) -> bytes:
    """Return the bytes from `start` to before `stop` from the response to a range request; read no further."""
    if response.status_code == 206:
        kind, stated = response.headers.get("Content-Type", ""), response.headers.get("Content-Range", "")
        if kind.strip().lower().startswith("multipart/") or not stated.startswith(f"bytes {start}-{stop - 1}/"):
            raise CorruptFileError(
                f"{where}: bytes {start}-{stop - 1} were requested, the server sent {short(stated)}; try again",
                **about(where),
            )
        return b"".join(body(response, pace, stop - start, where))
    found = bytearray()  # a server without ranges sends the whole file
    at = 0
    for block in body(response, pace, size, where):
        found += block[max(0, start - at) : max(0, stop - at)]
        at += len(block)
        if at >= stop:
            break
    return bytes(found)


__all__ = ["RangedFiles"]
