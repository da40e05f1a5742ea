"""Bounded downloads: sizes are enforced while bytes arrive, and transfers that are too slow are aborted.

Servers are untrusted: a body ends at the requested size, is never decompressed (no `Content-Encoding`), is read by HTTP
or HTTPS only, and must arrive at a minimum speed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...common.limits import MAX_REDIRECTS, READ_SECONDS, SLOWEST, WINDOW_SECONDS
from ...common.subject import Where, about
from ...errors import CorruptFileError, HubError
from ..paths import short

if TYPE_CHECKING:
    import httpx2

PLAIN = {"Accept-Encoding": "identity"}


class Pace:
    """Watchdog of one transfer: calls `close` if fewer than `SLOWEST` bytes per second arrive.

    Read timeouts do not catch a server that sends single bytes slowly, be it headers, chunk sizes or content. A thread
    therefore checks the bytes received in each window.

    Examples
    --------
    >>> with Pace("https://example.org", client.close) as pace:   # doctest: +SKIP
    ...     pace.count(len(block))
    """

    def __init__(self, shown: str, close: Callable[[], object]):
        self.shown, self.close = shown, close
        self.received, self.is_aborted = 0, False
        self._done = threading.Event()

    def count(self, received: int) -> None:
        self.received += received

    def __enter__(self) -> Pace:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        before = 0
        while not self._done.wait(WINDOW_SECONDS):
            if self.received - before < SLOWEST * WINDOW_SECONDS:
                self.is_aborted = True
                with suppress(Exception):  # another thread is using it
                    self.close()
                return
            before = self.received

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        if self.is_aborted and isinstance(error, Exception):
            raise HubError(
                f"{self.shown} sent fewer than {SLOWEST:,} bytes per second for {WINDOW_SECONDS:g} s; try another "
                "copy, or try again later"
            ) from error


def timeouts() -> httpx2.Timeout:
    """Return the timeouts for connecting and for receiving the next bytes."""
    import httpx2

    return httpx2.Timeout(READ_SECONDS)


def plain_client() -> httpx2.Client:
    """Return an HTTP client without a token, for servers with copies."""
    import httpx2

    return httpx2.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=timeouts(),
        headers={"User-Agent": "w2w_hub", **PLAIN},
    )


def body(response: Any, pace: Pace, limit: int, where: Where) -> Iterator[bytes]:
    """Yield the bytes of a response, at most `limit`.

    Parameters
    ----------
    where : HubFile or str
        The file, as errors name it.

    Raises
    ------
    CorruptFileError
        If the response is longer, or is compressed although that was not requested.
    """
    packed = response.headers.get("Content-Encoding", "").strip().lower()
    if packed not in ("", "identity"):
        raise CorruptFileError(
            f"{where} is sent compressed ({short(packed)}), which was not requested; try another copy", **about(where)
        )
    stated = response.headers.get("Content-Length", "")
    if stated.isdigit() and int(stated[:20]) > limit:
        raise too_long(where, limit)
    received = 0
    for block in response.iter_raw():
        pace.count(len(block))
        received += len(block)
        if received > limit:
            raise too_long(where, limit)
        yield block


def too_long(where: Where, limit: int) -> CorruptFileError:
    """Return the error for a file that exceeds its size."""
    return CorruptFileError(
        f"{where} is longer than the expected {limit:,} bytes; it was not fetched completely",
        **about(where),
    )


def limited_bar(limit: int, where: Where) -> type[Any]:
    """Return a progress bar class that makes huggingface_hub abort a download of more than `limit` bytes.

    It receives the size that the server states before the first block, and each block before it is written.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Limited(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any):
            if (options.get("total") or 0) > limit:
                raise too_long(where, limit)
            # Xet's bars count network traffic, which may be more than the stated size that it writes
            self._received = 0 if options.get("name") == "huggingface_hub.http_get" else float("-inf")
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._received += n or 0
            if self._received > limit:
                raise too_long(where, limit)
            return bool(super().update(n))

    return Limited


__all__ = ["PLAIN", "Pace", "body", "limited_bar", "plain_client", "timeouts", "too_long"]
