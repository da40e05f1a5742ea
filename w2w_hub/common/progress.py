"""Progress of work that takes longer than two seconds: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import repeat
from typing import TypeVar

from .text import duration, terminal

T = TypeVar("T")
Say = Callable[[str], object]
_log: ContextVar[tuple[Say, float] | None] = ContextVar("progress_log", default=None)


@contextmanager
def logged_progress(say: Say, every: float = 15.0) -> Iterator[None]:
    """Where standard error is not a terminal, write a line of progress with `say` every so many seconds.

    The library itself writes none; the command line asks for it.
    """
    token = _log.set((say, every))
    try:
        yield
    finally:
        _log.reset(token)


def progress(
    items: Iterable[T], text: str, total: int | None = None, status: Callable[[], str] | None = None
) -> Generator[T, None, None]:
    """Iterate with a bar that appears after two seconds, only on a terminal; `status` is shown beside it."""
    if not sys.stderr.isatty():
        yield from _logged(items, text, total, status)
        return
    from tqdm import tqdm

    bar = tqdm(items, desc=terminal(text), total=total, delay=2, leave=False)
    for item in bar:
        yield item
        if status is not None and not bar.disable:
            bar.set_postfix_str(terminal(status()), refresh=False)


@contextmanager
def counted_steps(text: str) -> Iterator[Callable[[], object]]:
    """Show progress of work with an unknown number of steps; call what is yielded at each step."""
    steps = progress(repeat(None), text)
    try:
        yield lambda: next(steps)
    finally:
        steps.close()


@contextmanager
def notice(text: str, *, logged: bool = True) -> Iterator[None]:
    """Say what one long step does: on a terminal until it ends, in a log as a line if `logged`."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=terminal(text), bar_format="{desc}", leave=False):
            yield
        return
    log = _log.get()
    if log is not None and logged:
        log[0](text)
    yield


def _logged(items: Iterable[T], text: str, total: int | None, status: Callable[[], str] | None) -> Iterator[T]:
    log = _log.get()
    if log is None:
        yield from items
        return
    say, every = log
    count = len(items) if total is None and isinstance(items, Sized) else total
    began = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every and done != count:
            last = now
            of = "" if count is None else f" of {count:,}"
            left = "" if count is None else f", about {duration((now - began) / done * (count - done))} left"
            more = "" if status is None or not (shown := status()) else f", {shown}"
            say(f"{text}: {done:,}{of} after {duration(now - began)}{left}{more}")
