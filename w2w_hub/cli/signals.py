"""Signals that ask a command to end act as Ctrl-C: what is unfinished is removed, and what can go on is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..common.interrupts import interrupt

_came: list[int] = []  # signals other than SIGINT that ended the command


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the SIGHUP of a closed terminal, act as Ctrl-C.

    A signal that is ignored, as by nohup, or handled by somebody else, stays so.
    """
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        _came.append(number)
        interrupt(number, frame)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def interrupted_status() -> int:
    """Return the exit status of an interrupted command, as a shell's: 128 and the signal's number."""
    return 128 + (_came[-1] if _came else signal.SIGINT)
