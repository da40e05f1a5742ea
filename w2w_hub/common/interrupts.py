"""Ctrl-C between two steps of long work, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back inside the block; the yielded function raises a held one as `KeyboardInterrupt`.

    A second Ctrl-C acts at once, and so does one that is still held when the block ends. Outside of the main thread,
    or if something else handles SIGINT, nothing is held.
    """
    held = False

    def hold(number: int, frame: Any) -> None:
        nonlocal held
        if held:
            signal.default_int_handler(number, frame)
        held = True

    def release() -> None:
        nonlocal held
        if held:
            held = False
            raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield release
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    release()
