"""Dask engine: ranges of rows on the workers of a LocalCluster or of a running scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial as bind
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ....common.constraints import Rule, has, optional, text, whole
from ....common.dask import connect
from ....common.extras import optional_imports
from ....errors import InvalidInputError
from ..rows import Moments, Rows
from . import partial
from .base import Engine, Function, Panel, strip_name
from .ops import Array, NumpyOps

with optional_imports("dask"):
    from distributed import LocalCluster

CONNECT_SECONDS = 10
PARTS = 32  # at most: fixed, so that the number of workers changes no sum


@dataclass(eq=False)
class DaskEngine(Engine):
    """Computes on Dask workers, each of which opens the dataset itself.

    A folder is opened by its path, which must be the same on every worker, and a repository at its commit.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler (``tcp://host:8786``). Without it a LocalCluster is started for each build; a
        script then needs the usual ``if __name__ == "__main__":``.
    client : distributed.Client, optional
        Used instead, and left open.
    workers : int, optional
        Processes of the LocalCluster, one thread each; one per core by default.
    block_rows : int, optional
        Rows read at once. Changes memory and speed only.
    """

    scheduler: str | None = None
    client: Any = None
    workers: int | None = None

    name: ClassVar[str] = "dask"
    rules: ClassVar[Mapping[str, Rule]] = {
        **Engine.rules, "scheduler": optional(text()), "client": optional(has("submit", "a Dask client")),
        "workers": optional(whole(1)),
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self._client: Any = None
        self._cluster: Any = None

    def start(self) -> None:
        if self.client is not None:
            self._client = self.client
            return
        if self.scheduler is None:
            try:
                self._cluster = LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=None)
            except (OSError, ValueError, TimeoutError) as error:
                raise InvalidInputError(f"no Dask cluster can be started here: {error}") from error
        self._client = connect(self.scheduler or self._cluster, CONNECT_SECONDS)

    def close(self) -> None:
        if self._client is not None and self._client is not self.client:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client = self._cluster = None

    def describe(self) -> dict[str, Any]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return {"engine": self.name, "threads": max((int(w["nthreads"]) for w in workers), default=0)}

    def parts(self, function: Function, rows: Rows, *arguments: Any) -> Iterator[list[Array]]:
        count = min(rows.count, PARTS)
        edges = [rows.count * i // count for i in range(count + 1)]
        shared = self._client.scatter([rows, *arguments], broadcast=True, hash=False)
        futures = [self._client.submit(_compute, function, span, *shared, pure=False) for span in pairwise(edges)]
        for number in range(len(futures)):
            yield futures[number].result()
            futures[number] = None  # so that the worker frees the result

    def strips(self, rows: Rows, moments: Moments, panels: list[Panel]) -> Iterator[tuple[Panel, np.ndarray]]:
        shared = self._client.scatter([rows, moments], broadcast=True, hash=False)

        def submitted(panel: Panel) -> Any:
            return self._client.submit(_strip, panel, *shared, pure=False)

        futures = {panel: submitted(panel) for panel in panels if not self.resume.has(strip_name(panel))}

        def fetched(panel: Panel) -> Any:  # without a future yet if a stored result turns out to be damaged
            return (futures.get(panel) or submitted(panel)).result()

        for panel in panels:
            yield panel, self.kept_strip(panel, bind(fetched, panel))
            futures.pop(panel, None)


def _compute(function: Function, span: Panel, rows: Rows, *arguments: Any) -> list[Array]:
    return function(NumpyOps(), rows, span, *arguments)


def _strip(panel: Panel, rows: Rows, moments: Moments) -> np.ndarray:
    return partial.gram_strip(NumpyOps(), rows, panel, moments)
