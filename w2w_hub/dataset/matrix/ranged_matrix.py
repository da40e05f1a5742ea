"""Read rows of a matrix on the Hub by HTTP range requests, when they are accessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import CorruptFileError
from ...store.hub.ranges import WHOLE_SHARE, RangedFiles
from ..manifest import row_digest
from .sharded_matrix import ShardedMatrix

ATTEMPTS = 2


class RangedMatrix(ShardedMatrix):
    """Reads rows by HTTP range requests and verifies each by its digest, unless its shard is local and verified.

    Parameters
    ----------
    digests : ndarray of str
        Row digests ``(rows,)``, in row order.
    """

    is_lazy = True

    def __init__(self, files: RangedFiles, where: str, digests: np.ndarray):
        super().__init__(files, where)
        self.files, self.digests = files, digests

    def view(self, start: int, stop: int) -> None:
        return None  # a view would skip the verification

    def rows(self, numbers: np.ndarray | Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        wanted = np.asarray(numbers, np.int64)
        shards, counts = np.unique(wanted // self.geometry.shard_rows, return_counts=True)
        for shard in shards[counts >= WHOLE_SHARE * self.geometry.shard_rows]:
            self.files.keep(self.geometry.shard_path(int(shard)))
        for attempt in range(ATTEMPTS):
            try:
                found = super().rows(wanted, out)
                self._check(wanted, found)
                return found
            except CorruptFileError:
                if attempt + 1 == ATTEMPTS:
                    raise
        raise AssertionError

    def _check(self, wanted: np.ndarray, found: np.ndarray) -> None:
        shards = wanted // self.geometry.shard_rows
        foreign = [s for s in np.unique(shards) if not self.files.is_kept(self.geometry.shard_path(int(s)))]
        for i in np.flatnonzero(np.isin(shards, foreign)):
            if row_digest(found[i]) != self.digests[wanted[i]]:
                raise CorruptFileError(
                    f"{self.where}: the downloaded row {int(wanted[i])} differs from row_sha256; open with lazy=False"
                )
