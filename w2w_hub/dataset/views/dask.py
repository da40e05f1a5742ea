"""Convert a dataset's matrix to a lazy `dask.array`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...common.checks import is_whole
from ...common.extras import optional_imports
from ...errors import InvalidInputError
from ..reader import DatasetReader

BLOCK_BYTES = 64_000_000


class _Lazy:
    """The array interface that `dask.array.from_array` requires."""

    ndim = 2

    def __init__(self, dataset: DatasetReader):
        self.dataset, self.shape, self.dtype = dataset, dataset.shape, dataset.dtype

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        return self.dataset[key[0]][(slice(None), *key[1:])]


def to_dask(dataset: DatasetReader, rows: int | None = None) -> Any:
    """Return the matrix as a `dask.array` in blocks of whole rows: `rows` each, or about 64 MB."""
    with optional_imports("dask"):
        import dask.array as da
    if rows is not None and (not is_whole(rows) or rows < 1):
        raise InvalidInputError(f"rows must be an integer of at least 1, not {rows!r}")
    rows = rows or max(1, BLOCK_BYTES // (dataset.layout.size * dataset.dtype.itemsize))
    return da.from_array(
        _Lazy(dataset), chunks=(min(rows, len(dataset)), dataset.layout.size),
        name=f"w2w-{dataset.manifest.digest}-{rows}", asarray=False, meta=np.empty((0, 0), dataset.dtype),
    )  # fmt: skip
