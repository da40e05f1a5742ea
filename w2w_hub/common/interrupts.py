"""Ctrl-C between two steps of long work, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_holding: list[Callable[[int, Any], None]] = []  # what holds interrupts back now, the innermost last


def interrupt(number: int, frame: Any) -> None:
    """Act as Ctrl-C, which may be held back: a handler of other signals that ask a program to end."""
    if _holding:
        _holding[-1](number, frame)
    else:
        raise KeyboardInterrupt


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and :func:`interrupt` back inside the block; the yielded function raises a held `KeyboardInterrupt`.

    A second one acts at once, and so does one that is still held when the block ends. Outside of the main thread,
    nothing is held; nor is Ctrl-C if something else handles SIGINT.
    """
    held = False

    def hold(number: int, frame: Any) -> None:
        nonlocal held
        if held:
            raise KeyboardInterrupt
        held = True

    def release() -> None:
        nonlocal held
        if held:
            held = False
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield release
        return
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, hold)
    _holding.append(hold)
    try:
        yield release
    finally:
        _holding.pop()
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    release()
