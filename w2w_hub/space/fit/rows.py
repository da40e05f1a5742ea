"""The matrix that a space is fitted on, read as a stream of tiles whose order and size depend on nothing but it."""

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

TILE_NUMBERS = 1 << 24  # 64 MiB of float32
LEAST_TILE_ROWS = 16
Empty = Callable[[tuple[int, ...], Any], np.ndarray]
SHORT_ROW = 4096  # rows shorter than this count as this long, so that a tile has a bounded number of them


@dataclass(frozen=True)
class Moments:
    """What the columns are standardised with: published in float32, so float32 values are used throughout.

    Attributes
    ----------
    mean, std : ndarray
        float32 ``(d,)``; std has ddof 1, and is 1 where a number never varies and without standardisation.
    exact_mean : ndarray
        float64 ``(d,)``, for the solvers that are exact: rounding it leaves the same offset in every row.
    total : float
        Sum of squares of the centred and divided matrix: its variance times the rows less one.
    constant : int
        Columns that never vary.
    """

    mean: np.ndarray
    std: np.ndarray
    exact_mean: np.ndarray
    total: float
    constant: int


class Rows:
    """Rows of a dataset in the order of their ids, in tiles of a fixed number of rows.

    Every sum over rows is taken tile by tile, so that neither the order of the rows on disk, nor the shards,
    nor `block_rows` changes a bit of any result.

    Parameters
    ----------
    numbers : ndarray
        Row numbers in the dataset, in any order.
    canonical : bool
        Replace each row by its canonical representative.
    block_rows : int, optional
        Rows read at once; rounded up to whole tiles, one tile by default.
    tile_numbers : int
        About how many numbers a tile holds; an engine's constant.
    """

    def __init__(
        self,
        dataset: WeightDataset,
        numbers: np.ndarray,
        *,
        canonical: bool = False,
        block_rows: int | None = None,
        tile_numbers: int = TILE_NUMBERS,
    ):
        self._dataset: WeightDataset | bytes = dataset
        self._expected = ""  # digest of the ids, where the dataset has yet to be opened
        self.canonical, self.tile_numbers = canonical, tile_numbers
        ids = np.asarray(dataset.ids)
        self.numbers = numbers[np.argsort(ids[numbers], kind="stable")]
        self.n, self.d = len(self.numbers), dataset.layout.size
        self.tile_rows = max(LEAST_TILE_ROWS, tile_numbers // max(self.d, SHORT_ROW))
        self.block_rows = block_rows

    @property
    def ids(self) -> list[str]:
        return [self.dataset.ids[i] for i in self.numbers]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.n // self.tile_rows)

    def tiles(
        self, first: int = 0, last: int | None = None, text: str = "rows", empty: Empty | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Position of its first row and values, float32 ``(<= tile_rows, d)``, of the tiles from `first` to `last`.

        The next block is read while the caller works on this one, so that a tile is good until the next one.

        Parameters
        ----------
        empty : callable, optional
            Makes the two arrays that blocks are read into, by their shape and dtype. Without it tiles may be
            read-only views of a file.
        """
        last = self.count if last is None else last
        a_block = max(1, min(-(-(self.block_rows or self.tile_rows) // self.tile_rows), last - first))
        starts = list(range(first, last, a_block))
        shape = (a_block * self.tile_rows, self.d)
        buffers = [empty(shape, np.float32) if empty else None for _ in starts[:2]]
        with ThreadPoolExecutor(1) as reader:

            def read(number: int) -> Future[np.ndarray]:
                start = starts[number]
                return reader.submit(self._read, start, min(start + a_block, last), buffers[number % 2])

            pending = [read(0)] if starts else []
            for number, start in enumerate(progress(starts, text)):
                block = pending.pop().result()
                if number + 1 < len(starts):
                    pending.append(read(number + 1))
                for tile in range(start, min(start + a_block, last)):
                    offset = (tile - start) * self.tile_rows
                    yield tile * self.tile_rows, block[offset : offset + self.tile_rows]
                if isinstance(block, np.ndarray) and not block.flags.writeable:  # a view
                    self._seen(start, min(start + a_block, last))

    def tile(self, number: int) -> np.ndarray:
        return self._read(number, number + 1)

    def _read(self, first: int, last: int, buffer: np.ndarray | None = None) -> np.ndarray:
        numbers = self.numbers[first * self.tile_rows : last * self.tile_rows]
        if buffer is None and (view := self._view(numbers)) is not None:
            return view
        out = np.empty((len(numbers), self.d), np.float32) if buffer is None else buffer[: len(numbers)]
        self.dataset.read_into(numbers, out)
        return np.ascontiguousarray(canonicalize_rows(self.dataset.layout, out), np.float32) if self.canonical else out

    def _view(self, numbers: np.ndarray) -> np.ndarray | None:
        """Neighbouring rows that can be used where they lie."""
        plain = not self.canonical and len(numbers) and self.dataset.manifest.dtype == "float32"
        if not plain or (np.diff(numbers) != 1).any():
            return None
        return self.dataset.view(int(numbers[0]), int(numbers[-1]) + 1)

    def _seen(self, first: int, last: int) -> None:
        numbers = self.numbers[first * self.tile_rows : last * self.tile_rows]
        self.dataset.release(int(numbers[0]), int(numbers[-1]) + 1)

    # ------------------------------------------------------------ in another process
    @property
    def dataset(self) -> WeightDataset:
        """The dataset; in another process it is opened by the first use, so that what fails there fails in a task."""
        if isinstance(self._dataset, bytes):
            self._dataset = self._arrived(self._dataset)
        return self._dataset

    def _arrived(self, pickled: bytes) -> WeightDataset:
        for fresh in (False, True):
            if fresh:  # a dataset's digest does not say in which order its rows lie
                _opened.cache_clear()
            found = _opened(pickled)
            if _digest_of(found, self.numbers) == self._expected:
                return found
        raise DatasetChangedError(f"{found.path} holds other rows than the process that builds from it has open")

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._dataset, bytes):
            return self.__dict__
        expected = _digest_of(self._dataset, self.numbers)
        return {**self.__dict__, "_dataset": pickle.dumps(self._dataset), "_expected": expected}


@lru_cache(maxsize=2)
def _opened(dataset: bytes) -> WeightDataset:
    """Open a dataset that arrived in a worker: once per state, not once per pass."""
    opened: WeightDataset = pickle.loads(dataset)  # made by `__getstate__`, and part of a pickle already
    return opened


def _digest_of(dataset: WeightDataset, numbers: np.ndarray) -> str:
    ids = dataset.ids
    return hashlib.sha256(json.dumps([ids[i] for i in numbers if i < len(ids)]).encode()).hexdigest()
