"""The rows of finished batches as a dataset's writer reads them: one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..dataset.changes.shard_writer import RowSource
from ..errors import W2WError
from ..store.tensorfile import read_safetensors


class TrainedRows(RowSource):
    """Rows of an unfinished run's files, in a dataset's dtype.

    Parameters
    ----------
    places : sequence of (Path, int)
        Of each row: the file of its batch, and its position in that.
    """

    def __init__(self, places: Sequence[tuple[Path, int]], dtype: str):
        self.places, self.dtype = places, dtype

    def rows(self, numbers: list[int]) -> Iterator[np.ndarray | W2WError]:
        """Yield rows ``(size,)`` by number."""
        open_file, values = None, np.empty((0, 0), np.float32)
        for number in numbers:
            file, place = self.places[number]
            if file != open_file:
                open_file, values = file, read_safetensors(file)[0]["rows"]
            yield values[place].astype(self.dtype)
