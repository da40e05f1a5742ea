"""A dataset at a commit of a Hub repository: labels are fetched, rows by byte range when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...errors import CorruptFileError, UnsupportedFormatError
from ...store.hub.ranges import WHOLE_SHARE, RangedFiles
from ...store.hub.source import Source
from ...store.paths import find_file
from ..manifest import DatasetManifest, row_digest
from ..tables import read_labels
from .shards import ShardedMatrix, require_group
from .zarr_matrix import ZarrMatrix, require_backed, require_shape

if TYPE_CHECKING:
    from ..weight_dataset import WeightDataset

ATTEMPTS = 2
LAZY_ABOVE = 1_000_000  # bytes of a matrix that is not fetched unasked


class RangedMatrix(ShardedMatrix):
    """Rows by HTTP range, each checked against its digest unless its shard is here and verified.

    Parameters
    ----------
    digests : ndarray of str
        ``(rows,)``, in row order.
    """

    def __init__(self, files: RangedFiles, where: str, digests: np.ndarray):
        super().__init__(files, where)
        self.files, self.digests = files, digests

    def view(self, first: int, last: int) -> None:
        return None  # what is read is checked

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
                    f"{self.where}: row {int(wanted[i])} arrived with other values than listed; open it with lazy=False"
                )


def open_remote(source: Source, lazy: bool | None = None) -> WeightDataset:
    """Open what :func:`w2w_hub.store.hub.locate.locate` found on the Hub."""
    from ..weight_dataset import WeightDataset

    if lazy is None:
        size = sum(entry["size"] for name, entry in source.files.items() if name.startswith("weights.zarr/"))
        lazy = size > LAZY_ABOVE
    first = ("labels/",) if lazy else ("labels/", "weights.zarr/")
    metadata = [name for name in source.files if name.startswith("weights.zarr/") and name.endswith("zarr.json")]
    folder = source.need([*(name for name in source.files if name.startswith(first)), *metadata])
    manifest, where = DatasetManifest.read(folder), str(source.revision)
    labels = read_labels(partial(find_file, folder), manifest, where)
    files = RangedFiles(source)
    matrix: ShardedMatrix | ZarrMatrix
    require_backed(manifest, where)
    try:
        require_group(files, where)
        matrix = RangedMatrix(files, where, labels["row_sha256"].to_numpy(str))
    except UnsupportedFormatError:
        source.need(name for name in source.files if name.startswith("weights.zarr/"))
        matrix = ZarrMatrix(manifest.files, partial(find_file, folder), where)
    require_shape(matrix, manifest, where)
    return WeightDataset(folder, manifest, labels, matrix, source)
