"""Arrays of NumPy, with the few operations that differ between array libraries."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

COLUMNS_AT_ONCE = 16_384


class NumpyOps:
    """NumPy on the CPU. The names ``"f4"`` and ``"f8"`` stand for float32 and float64."""

    sub_tile = (64, 4096)  # rows and numbers that stay in a processor's cache
    empty: Any = None  # makes the arrays that rows are read into; None: they are used where they lie

    def array(self, values: Any, dtype: str) -> Any:
        """`values` as an array here, without a copy where none is needed."""
        return np.asarray(values, dtype)

    def cast(self, values: Any, dtype: str) -> Any:
        return values.astype(dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str = "f8") -> Any:
        return np.zeros(shape, dtype)

    def diagonal(self, values: np.ndarray) -> Any:
        """A float64 matrix with these values on its diagonal."""
        return np.diag(values)

    def numpy(self, values: Any) -> np.ndarray:
        return np.asarray(values)

    def subtract(self, first: Any, second: Any, out: Any) -> Any:
        return np.subtract(first, second, out=out)

    def eigh(self, matrix: Any, keep: int | None = None) -> tuple[np.ndarray, Any]:
        """Eigenvalues (NumPy) and the first `keep` eigenvectors in columns, the largest first."""
        values, vectors = np.linalg.eigh(matrix)  # not SciPy's: two libraries' threads would wait for each other
        return values[::-1], np.ascontiguousarray(vectors[:, ::-1][:, :keep])

    def largest(self, values: Any) -> Any:
        """Column of the entry of largest magnitude in each row, the first of several: ``(m,)``."""
        return np.abs(values).argmax(1)

    def top(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` largest eigenvalues and their vectors in columns, as NumPy arrays; `matrix` is used up."""
        from scipy.linalg import eigh

        n = len(matrix)
        values, vectors = eigh(matrix, subset_by_index=[n - count, n - 1], overwrite_a=True, check_finite=False)
        return values[::-1], vectors[:, ::-1]

    def inner(self, first: Any, second: Any) -> Any:
        """``first @ second.T`` of float32 ``(m, d)`` and ``(n, d)``, summed in float64 over blocks of columns."""
        total = self.zeros((len(first), len(second)))
        for start in range(0, first.shape[1], COLUMNS_AT_ONCE):
            part = slice(start, start + COLUMNS_AT_ONCE)
            total += first[:, part] @ second[:, part].T
        return total

    def squares(self, values: Any) -> Any:
        """Squared norms of the rows of float32 ``(m, d)``, in float64."""
        total = self.zeros((len(values),))
        for start in range(0, values.shape[1], COLUMNS_AT_ONCE):
            part = self.cast(values[:, start : start + COLUMNS_AT_ONCE], "f8")
            total += (part * part).sum(1)
        return total


def blas_threads() -> int:
    """Threads of NumPy's BLAS, which sums in another order for another number of them."""
    from threadpoolctl import threadpool_info

    counts = [int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(counts, default=os.cpu_count() or 1)
