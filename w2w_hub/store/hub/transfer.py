"""Bounded downloads: sizes are enforced while bytes arrive, and a transfer that is too slow is aborted.

A server chooses what it sends and how fast. Here a body stops at the bytes that were asked for, is never unpacked
(no `Content-Encoding`), comes by HTTP or HTTPS alone, and must bring a stated number of bytes per window of time.
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

    A connection on which single bytes trickle never runs into a timeout, whether they are headers, chunk sizes or
    content, so that a thread looks at what was counted in each window.

    Examples
    --------
    >>> with Pace("https://example.org", client.close) as pace:   # doctest: +SKIP
    ...     pace.count(len(block))
    """

    def __init__(self, shown: str, close: Callable[[], object]):
        self.shown, self.close = shown, close
        self.received, self.gave_up = 0, False
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
                self.gave_up = True
                with suppress(Exception):  # it is being used by the thread that is to be stopped
                    self.close()
                return
            before = self.received

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        if self.gave_up and isinstance(error, Exception):
            raise HubError(
                f"{self.shown} sends fewer than {SLOWEST:,} bytes per second and is given up after "
                f"{WINDOW_SECONDS:g} s; try another copy, or try again later"
            ) from error


def timeouts() -> httpx2.Timeout:
    """Return the timeouts for connecting and for the next bytes."""
    import httpx2

    return httpx2.Timeout(READ_SECONDS)


def plain_client() -> httpx2.Client:
    """Return an HTTP client without a token, for servers that hold copies."""
    import httpx2

    return httpx2.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=timeouts(),
        headers={"User-Agent": "w2w_hub", **PLAIN},
    )


def body(response: Any, pace: Pace, limit: int, where: Where) -> Iterator[bytes]:
    """Yield the bytes of a response as they were sent, at most `limit` of them.

    Parameters
    ----------
    where : HubFile or str
        The file, as errors name it.

    Raises
    ------
    CorruptFileError
        If the response is longer, or is packed although that was not asked for.
    """
    packed = response.headers.get("Content-Encoding", "").strip().lower()
    if packed not in ("", "identity"):
        raise CorruptFileError(
            f"{where} comes packed ({short(packed)}), which was not asked for; try another copy", **about(where)
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
    """Return the error for a file that has more bytes than it should."""
    return CorruptFileError(
        f"{where} is longer than the {limit:,} bytes that it should have; it was not fetched to its end",
        **about(where),
    )


def limited_bar(limit: int, where: Where) -> type[Any]:
    """Return a progress bar class that makes huggingface_hub abort a download of more than `limit` bytes.

    It is told the size that the server states before the first block, and each block before that is written.
    """
    from huggingface_hub.utils import tqdm

    class Limited(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any):
            if (options.get("total") or 0) > limit:
                raise too_long(where, limit)
            # Xet's bars count what crosses the network, which may be more; it writes no more than was stated
            self._received = 0 if options.get("name") == "huggingface_hub.http_get" else float("-inf")
            super().__init__(*args, **options)

        def update(self, n: float | None = 1) -> bool | None:
            self._received += n or 0
            if self._received > limit:
                raise too_long(where, limit)
            return bool(super().update(n))

    return Limited


__all__ = ["PLAIN", "Pace", "body", "limited_bar", "plain_client", "timeouts", "too_long"]
