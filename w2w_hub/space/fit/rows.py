"""Streams the training matrix in id order and in tiles of fixed size, so that floating-point sums are reproducible."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...common.progress import progress
from ...dataset import WeightDataset
from ...errors import DatasetChangedError
from ...lora.canonical import canonicalize_rows

TILE_VALUES = 1 << 24  # 64 MiB of float32
LEAST_TILE_ROWS = 16
SHORT_ROW = 4096  # shorter rows count as this long, which bounds the number of rows per tile


@dataclass(frozen=True)
class Moments:
    """Moments of the features; mean and std are rounded to float32, as published, before they are used.

    Attributes
    ----------
    mean, std : ndarray
        float32 ``(d,)``; std has ddof 1, and is 1 where a feature never varies and without standardization.
    exact_mean : ndarray
        float64 ``(d,)``, for the exact solvers: rounding it would leave the same offset in every row.
    total : float
        Sum of squares of the standardized matrix: its variance times the number of rows less one.
    constant : int
        Number of features that never vary.
    """

    mean: np.ndarray
    std: np.ndarray
    exact_mean: np.ndarray
    total: float
    constant: int


class Rows:
    """Streams rows of a dataset in the order of their ids, in tiles of a fixed number of rows.

    Every sum over rows is taken tile by tile, so that neither the order of the rows on disk, nor the shards,
    nor `block_rows` changes a bit of any result.

    Parameters
    ----------
    indices : ndarray
        Row indices in the dataset, in any order.
    canonical : bool
        Replace each row by its canonical representative.
    block_rows : int, optional
        Rows read at once; rounded up to whole tiles, one tile by default.
    tile_values : int
        Approximate number of values per tile; a constant of the engine.

    Attributes
    ----------
    n, d : int
        Rows and features.
    """

    def __init__(
        self,
        dataset: WeightDataset,
        indices: np.ndarray,
        *,
        canonical: bool = False,
        block_rows: int | None = None,
        tile_values: int = TILE_VALUES,
    ):
        self._dataset: WeightDataset | bytes = dataset
        self._expected = ""  # digest of the ids, in a process that has not opened the dataset yet
        self.canonical, self.tile_values = canonical, tile_values
        ids = np.asarray(dataset.ids)
        self.indices = indices[np.argsort(ids[indices], kind="stable")]
        self.n, self.d = len(self.indices), dataset.layout.size
        self.tile_rows = max(LEAST_TILE_ROWS, tile_values // max(self.d, SHORT_ROW))
        self.block_rows = block_rows

    @property
    def ids(self) -> list[str]:
        return [self.dataset.ids[i] for i in self.indices]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.n // self.tile_rows)

    def tiles(
        self,
        first: int = 0,
        last: int | None = None,
        text: str = "rows",
        empty: Callable[..., np.ndarray] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the tiles `first` to `last` (exclusive): position of the first row, and values ``(<= tile_rows, d)``.

        Values are float32. Blocks are prefetched into a double buffer; a yielded tile is valid only until the next
        iteration.

        Parameters
        ----------
        text : str
            Shown by the progress bar.
        empty : callable, optional
            Allocates the two arrays that blocks are read into, by shape and dtype. Without it tiles may be read-only
            views of a file.
        """
        last = self.count if last is None else last
        block = max(1, min(-(-(self.block_rows or self.tile_rows) // self.tile_rows), last - first))
        starts = list(range(first, last, block))
        shape = (block * self.tile_rows, self.d)
        buffers = [empty(shape, np.float32) if empty else None for _ in starts[:2]]
        with ThreadPoolExecutor(1) as reader:

            def read(number: int) -> Future[np.ndarray]:
                start = starts[number]
                return reader.submit(self._read, start, min(start + block, last), buffers[number % 2])

            pending = [read(0)] if starts else []
            for number, start in enumerate(progress(starts, text)):
                values = pending.pop().result()
                if number + 1 < len(starts):
                    pending.append(read(number + 1))
                for tile in range(start, min(start + block, last)):
                    offset = (tile - start) * self.tile_rows
                    yield tile * self.tile_rows, values[offset : offset + self.tile_rows]
                if isinstance(values, np.ndarray) and not values.flags.writeable:  # a view
                    self._release(start, min(start + block, last))

    def tile(self, number: int) -> np.ndarray:
        return self._read(number, number + 1)

    def _read(self, first: int, last: int, buffer: np.ndarray | None = None) -> np.ndarray:
        indices = self._of_tiles(first, last)
        if buffer is None and (view := self._view(indices)) is not None:
            return view
        out = np.empty((len(indices), self.d), np.float32) if buffer is None else buffer[: len(indices)]
        self.dataset.read_into(indices, out)
        return np.ascontiguousarray(canonicalize_rows(self.dataset.layout, out), np.float32) if self.canonical else out

    def _view(self, indices: np.ndarray) -> np.ndarray | None:
        """Return neighboring float32 rows without a copy, if the dataset allows it."""
        plain = not self.canonical and len(indices) and self.dataset.manifest.dtype == "float32"
        if not plain or (np.diff(indices) != 1).any():
            return None
        return self.dataset.view(int(indices[0]), int(indices[-1]) + 1)

    def _of_tiles(self, first: int, last: int) -> np.ndarray:
        return self.indices[first * self.tile_rows : last * self.tile_rows]

    def _release(self, first: int, last: int) -> None:
        """Let the dataset release the memory of these tiles' views."""
        indices = self._of_tiles(first, last)
        self.dataset.release(int(indices[0]), int(indices[-1]) + 1)

    # ------------------------------------------------------------ in another process
    @property
    def dataset(self) -> WeightDataset:
        """The dataset; another process opens it at its first use, so that a failure is the task's."""
        if isinstance(self._dataset, bytes):
            self._dataset = self._arrived(self._dataset)
        return self._dataset

    def _arrived(self, pickled: bytes) -> WeightDataset:
        for fresh in (False, True):
            if fresh:  # a dataset's digest does not cover the order of its rows
                _opened.cache_clear()
            found = _opened(pickled)
            if _digest_of(found, self.indices) == self._expected:
                return found
        raise DatasetChangedError(
            f"{found.path} does not have the rows that the building process opened", path=found.path
        )

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._dataset, bytes):
            return self.__dict__
        expected = _digest_of(self._dataset, self.indices)
        return {**self.__dict__, "_dataset": pickle.dumps(self._dataset), "_expected": expected}


@lru_cache(maxsize=2)
def _opened(dataset: bytes) -> WeightDataset:
    """Open a dataset that arrived in a worker, once per state instead of once per pass."""
    opened: WeightDataset = pickle.loads(dataset)  # made by `__getstate__`; part of an outer pickle
    return opened


def _digest_of(dataset: WeightDataset, indices: np.ndarray) -> str:
    ids = dataset.ids
    return hashlib.sha256(json.dumps([ids[i] for i in indices if i < len(ids)]).encode()).hexdigest()
