"""Worker processes that end with the process that started them, and whose death is an error of one line."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import W2WError
from .threads import wait_quietly

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor


@contextmanager
def worker_processes(count: int, advice: str) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor with `count` processes.

    Parameters
    ----------
    advice : str
        What to do if a process dies.

    Raises
    ------
    W2WError
        If a process dies.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # a forked process would inherit the writers' lock and keep it if this process dies
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise W2WError(f"a worker process died (out of memory?); {advice}") from error


def _start_worker() -> None:
    from tqdm import tqdm

    wait_quietly()
    tqdm.set_lock(threading.RLock())  # its own, across processes, would be reported as leaked by one that is ended
    _end_with_parent()


def _end_with_parent() -> None:
    """Exit this worker when its parent is killed; otherwise it would continue to write, then wait forever."""
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
