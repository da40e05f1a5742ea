"""Run tasks in this process, in worker processes, or on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ...common.dask import connect
from ...common.processes import worker_processes
from ...errors import W2WError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")


ADVICE = "run the same command again with fewer --workers"
PARALLEL_FROM = 2000  # rows; for fewer, starting processes takes longer than it saves


def worker_count(workers: int | None, rows: int) -> int:
    """Return the number of processes for a number of rows; None is as many as there are processors, if it pays."""
    if workers is not None:
        return workers
    return max(1, os.cpu_count() or 1) if rows >= PARALLEL_FROM else 1


def run_tasks(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int = 1, dask: str | Client | None = None
) -> Iterator[R]:
    """Yield results as tasks finish, in any order.

    Parameters
    ----------
    workers : int
        Number of processes; 1 runs the tasks in this process.
    dask : str or distributed.Client, optional
        Address of a scheduler (``tcp://...``) or a client, whose workers need access to the same files.
    """
    if dask is None and (workers == 1 or len(tasks) < 2):
        yield from map(function, tasks)
        return
    with worker_processes(min(workers, len(tasks)), ADVICE) if dask is None else _cluster(dask) as executor:
        futures = [executor.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


@contextmanager
def _cluster(dask: str | Client) -> Iterator[Executor]:
    client = connect(dask) if isinstance(dask, str) else dask
    from distributed import CancelledError, KilledWorker

    try:
        yield client.get_executor(pure=False)
    except (KilledWorker, CancelledError) as error:
        raise W2WError(
            "the Dask cluster lost its workers (out of memory?); run the same command again, finished shards are kept"
        ) from error
    finally:
        if client is not dask:
            client.close()
