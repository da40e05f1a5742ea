"""Run tasks here, in other processes, or on a Dask cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ...errors import InvalidInputError, W2WError, missing_extra

T = TypeVar("T")
R = TypeVar("R")


def run(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int = 1, dask: str | Any | None = None
) -> Iterator[R]:
    """Results as they are finished, in any order.

    Parameters
    ----------
    workers : int
        Processes; 1 runs the tasks in this one.
    dask : str or distributed.Client, optional
        A scheduler's address (``tcp://...``) or a client. Its workers must see the same files.
    """
    if workers < 1:
        raise InvalidInputError(f"workers must be at least 1, not {workers}")
    if dask is not None:
        yield from _on_dask(function, tasks, dask)
    elif workers == 1 or len(tasks) < 2:
        yield from map(function, tasks)
    else:
        yield from _in_processes(function, tasks, min(workers, len(tasks)))


def _in_processes(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    # spawned, not forked: a copy of this process would hold the writers' lock on after its death
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise W2WError(
                "a worker process ended unexpectedly (out of memory?); run the same command again with fewer --workers"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _end_with_parent() -> None:
    """A worker whose parent is killed would otherwise wait for ever, and keep writing until then."""
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_dask(function: Callable[[T], R], tasks: Sequence[T], dask: str | Any) -> Iterator[R]:
    try:
        import distributed
    except ImportError:
        raise missing_extra("dask.distributed", "dask") from None
    if isinstance(dask, str):
        try:
            client = distributed.Client(dask, timeout="10s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise W2WError(
                f"no Dask scheduler answers at {dask} ({' '.join(str(error).split())}); start one with: dask scheduler"
            ) from error
    else:
        client = dask
    futures = client.map(function, list(tasks), pure=False)
    try:
        for _, result in distributed.as_completed(futures, with_results=True, loop=client.loop):
            yield result
    except (distributed.KilledWorker, distributed.CancelledError) as error:
        raise W2WError(
            "the Dask cluster lost its workers (out of memory?); run the same command again, what is finished is kept"
        ) from error
    finally:
        client.cancel(futures)
        if client is not dask:
            client.close()
