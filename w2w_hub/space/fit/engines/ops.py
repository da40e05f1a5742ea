"""Array operations that differ between array libraries, and NumPy's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

COLUMNS_AT_ONCE = 16_384
Empty: TypeAlias = Callable[[tuple[int, ...], Any], np.ndarray]  # allocates an array by shape and dtype
Array: TypeAlias = Any  # of the engine's library: NumPy arrays and torch tensors share no static type


class Ops(Protocol):
    """Arrays of one library on one device. The names ``"f4"`` and ``"f8"`` stand for float32 and float64."""

    sub_tile: tuple[int, int]
    """Rows and columns that are worked on at once, so that temporary float64 copies stay small."""

    @property
    def empty(self) -> Empty | None:
        """Allocator of the arrays that rows are read into; None if tiles may be views of the file."""

    def array(self, values: Any, dtype: str) -> Array:
        """Return `values` as an array of this library, without a copy where possible."""

    def cast(self, values: Array, dtype: str) -> Array:
        """Return the values in another dtype."""

    def zeros(self, shape: tuple[int, ...], dtype: str = "f8") -> Array:
        """Return an array of zeros."""

    def diagonal(self, values: np.ndarray) -> Array:
        """Return a float64 matrix with these values on its diagonal."""

    def numpy(self, values: Array) -> np.ndarray:
        """Return an array of this library as a NumPy array."""

    def subtract(self, first: Array, second: Array, out: Array) -> Array:
        """Write ``first - second`` to `out` and return it."""

    def eigh(self, matrix: Array, keep: int | None = None) -> tuple[np.ndarray, Array]:
        """Return the eigenvalues (NumPy) and the first `keep` eigenvectors in columns, largest first."""

    def largest(self, values: Array) -> Array:
        """Return the column of each row's entry of largest magnitude, the first of several: ``(m,)``."""

    def top(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `count` largest eigenvalues and their vectors in columns as NumPy arrays; overwrites `matrix`."""

    def inner(self, first: Array, second: Array) -> Array:
        """Return ``first @ second.T`` of float32 ``(m, d)`` and ``(n, d)``, summed in float64 over column blocks."""

    def squares(self, values: Array) -> Array:
        """Return the squared norms of the rows of float32 ``(m, d)``, in float64."""


class NumpyOps:
    """NumPy on the CPU."""

    sub_tile = (64, 4096)  # stays in a core's cache

    @property
    def empty(self) -> Empty | None:
        return None

    def array(self, values: Any, dtype: str) -> Array:
        return np.asarray(values, dtype)

    def cast(self, values: Array, dtype: str) -> Array:
        return values.astype(dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str = "f8") -> Array:
        return np.zeros(shape, dtype)

    def diagonal(self, values: np.ndarray) -> Array:
        return np.diag(values)

    def numpy(self, values: Array) -> np.ndarray:
        return np.asarray(values)

    def subtract(self, first: Array, second: Array, out: Array) -> Array:
        return np.subtract(first, second, out=out)

    def eigh(self, matrix: Array, keep: int | None = None) -> tuple[np.ndarray, Array]:
        values, vectors = np.linalg.eigh(matrix)  # not SciPy's: two libraries' threads would wait for each other
        return values[::-1], np.ascontiguousarray(vectors[:, ::-1][:, :keep])

    def largest(self, values: Array) -> Array:
        return np.abs(values).argmax(1)

    def top(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        from scipy.linalg import eigh

        n = len(matrix)
        values, vectors = eigh(matrix, subset_by_index=[n - count, n - 1], overwrite_a=True, check_finite=False)
        return values[::-1], vectors[:, ::-1]

    def inner(self, first: Array, second: Array) -> Array:
        total = self.zeros((len(first), len(second)))
        for start in range(0, first.shape[1], COLUMNS_AT_ONCE):
            part = slice(start, start + COLUMNS_AT_ONCE)
            total += first[:, part] @ second[:, part].T
        return total

    def squares(self, values: Array) -> Array:
        total = self.zeros((len(values),))
        for start in range(0, values.shape[1], COLUMNS_AT_ONCE):
            part = self.cast(values[:, start : start + COLUMNS_AT_ONCE], "f8")
            total += (part * part).sum(1)
        return total


def blas_threads() -> int:
    """Return the number of threads of NumPy's BLAS, which determines the order of its sums."""
    from threadpoolctl import threadpool_info

    counts = [int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(counts, default=os.cpu_count() or 1)
