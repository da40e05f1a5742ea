"""How OpenMP threads wait for work; decided when torch or scikit-learn is first imported."""

from __future__ import annotations

import os

STATED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
SPINS = "1000"  # scripts/bench_busy.py


def wait_quietly() -> None:
    """Let idle OpenMP threads sleep soon instead of spinning, unless the user has set how they wait.

    By default they spin, which takes the time of the thread that they wait for if another process is busy. It has no
    effect after the import of torch or scikit-learn. Libraries do not change the environment of their process, so only
    the command line, worker processes and the tests call this.
    """
    if not any(name in os.environ for name in STATED):
        os.environ["GOMP_SPINCOUNT"] = SPINS
