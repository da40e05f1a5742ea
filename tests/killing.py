"""Kills this process at one of the calls that it makes, as Python's audit events tell; for programs that tests fork."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Calls:
    """How many calls counted so far."""

    seen: int = 0


def kill_at(at: int | None, counts: Callable[[str, tuple[Any, ...]], bool]) -> Calls:
    """Kill this process with SIGKILL right before the `at`-th call that counts, from 1; with None, only count.

    Parameters
    ----------
    counts : callable
        From the name and arguments of an audit event to whether it counts.
    """
    calls = Calls()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if counts(event, arguments):
            calls.seen += 1
            if calls.seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return calls
