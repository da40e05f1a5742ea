"""The interface of all readers of a weight matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ...store.hub.withdrawals import Withdrawal
from .geometry import GROUP, Geometry


class Matrix(Protocol):
    """Rows of a dataset by index, 0 to n - 1.

    Attributes
    ----------
    shape : (int, int)
        Number of rows, and numbers per row.
    dtype : numpy.dtype
        The stored dtype.
    geometry : Geometry or None
        None if the array does not have shards of whole rows.
    is_lazy : bool
        Rows are downloaded from the Hub when they are read.
    withdrawn : mapping of int to Withdrawal
        The rows that are not read any more, see :mod:`w2w_hub.dataset.withdrawn`.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    geometry: Geometry | None
    is_lazy: bool = False
    withdrawn: Mapping[int, Withdrawal] = {}

    def rows(self, numbers: np.ndarray | Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """Return rows ``(m, width)``; `numbers` may be in any order and may repeat."""
        ...

    def row(self, number: int) -> np.ndarray:
        """Return one row ``(width,)``."""
        result: np.ndarray = self.rows([number])[0]
        return result

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows `start` to before `stop`, read-only and without a copy; None if that is not possible."""
        return None

    def release(self, start: int, stop: int) -> None:
        """Allow the operating system to drop the pages of a :meth:`view` from this process's memory."""
        return

    def parts(self) -> list[tuple[str, int, int]]:
        """List the files of the matrix: path, first row, row after the last."""
        return [(GROUP, 0, self.shape[0])]

    def check_part(self, number: int) -> None:
        """Raise `CorruptFileError` if the index of a file of :meth:`parts` is damaged."""
        return
