"""Dask: ranges of rows on the workers of a LocalCluster or of a scheduler that is already there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from ....common.dask import connect
from ....errors import InvalidInputError, missing_extra
from ..rows import Moments, Rows
from . import partial
from .base import Engine
from .ops import NumpyOps

try:
    from distributed import LocalCluster
except ImportError:
    raise missing_extra("dask", "dask") from None

CONNECT_SECONDS = 10
PARTS = 32  # at most: fixed, so that the number of workers changes no sum


class DaskEngine(Engine):
    """Every worker opens the dataset itself: a folder by its path, which must be the same everywhere, and a repository
    at its commit.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler (``tcp://host:8786``); a LocalCluster is started without it. A script that
        starts one needs the usual ``if __name__ == "__main__":``.
    client : distributed.Client, optional
        Used instead, and left open.
    workers : int, optional
        Processes of the LocalCluster, one thread each; as many as there are cores by default.
    """

    name = "dask"

    def __init__(self, scheduler: str | None = None, *, client: Any = None, workers: int | None = None) -> None:
        super().__init__()
        self._cluster: Any = None
        self._own = client is None
        if client is not None:
            self.client = client
            return
        if scheduler is None:
            try:
                self._cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            except (OSError, ValueError, TimeoutError) as error:
                raise InvalidInputError(f"no Dask cluster can be started here: {error}") from error
        self.client = connect(scheduler or self._cluster, CONNECT_SECONDS)

    def describe(self) -> dict[str, Any]:
        info = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return {"engine": self.name, "threads": max((int(w["nthreads"]) for w in info), default=0)}

    def summed(self, function: Callable[..., list[Any]], rows: Rows, *arguments: Any) -> list[Any]:
        total: list[Any] | None = None
        for part in self._parts(function, rows, arguments):
            total = part if total is None else [value + other for value, other in zip(total, part, strict=True)]
        assert total is not None
        return total

    def joined(self, function: Callable[..., list[np.ndarray]], rows: Rows, *arguments: Any) -> list[np.ndarray]:
        parts = list(self._parts(function, rows, arguments))
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _parts(self, function: Callable[..., list[Any]], rows: Rows, arguments: tuple[Any, ...]) -> Iterator[list[Any]]:
        count = min(rows.count, PARTS)
        edges = [rows.count * i // count for i in range(count + 1)]
        shared = self.client.scatter([rows, *arguments], broadcast=True, hash=False)
        futures = [self.client.submit(_compute, function, span, *shared, pure=False) for span in pairwise(edges)]
        for number in range(len(futures)):
            yield futures[number].result()
            futures[number] = None  # its result may go

    def strips(self, rows: Rows, moments: Moments, panels: list[tuple[int, int]]) -> Any:
        shared = self.client.scatter([rows, moments], broadcast=True, hash=False)

        def submitted(panel: tuple[int, int]) -> Any:
            return self.client.submit(_strip, panel, *shared, pure=False)

        futures = {panel: submitted(panel) for panel in panels if not self.checkpoint.has(_name(panel))}
        for panel in panels:

            def fetched(panel: tuple[int, int] = panel) -> dict[str, np.ndarray]:
                # a result that was there and turned out damaged is computed again
                return {"strip": (futures.get(panel) or submitted(panel)).result()}

            yield panel, self.checkpoint.remember(_name(panel), fetched)["strip"]
            futures.pop(panel, None)

    def close(self) -> None:
        if self._own:
            self.client.close()
            if self._cluster is not None:
                self._cluster.close()


def _compute(function: Callable[..., list[Any]], span: tuple[int, int], rows: Rows, *arguments: Any) -> list[Any]:
    return function(NumpyOps(), rows, span, *arguments)


def _strip(panel: tuple[int, int], rows: Rows, moments: Moments) -> np.ndarray:
    return partial.gram_strip(NumpyOps(), rows, panel, moments)


def _name(panel: tuple[int, int]) -> str:
    return f"gram-{panel[0]:05d}-{panel[1]:05d}"
