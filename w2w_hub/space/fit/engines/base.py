"""Engine: where and with what the passes over the data are computed. This one is NumPy in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..resume import ResumeFolder
from ..rows import TILE_NUMBERS, Moments, Rows
from . import partial
from .ops import NumpyOps, blas_threads

PANEL_BYTES = 128 << 20  # float64 rows that stay in memory while the others stream past them


class Engine:
    """Sums over the rows of a matrix, and the dense algebra between them.

    Subclasses say which arrays are used (`ops`) and how a range of tiles is shared out (:meth:`summed`).
    """

    name = "numpy"
    tile_numbers = TILE_NUMBERS
    panel_bytes = PANEL_BYTES

    def __init__(self) -> None:
        self.ops: Any = NumpyOps()
        self.checkpoint = ResumeFolder(None)

    def describe(self) -> dict[str, Any]:
        """What a rebuild must share to get the same bits."""
        return {"engine": self.name, "threads": blas_threads()}

    def precision(self) -> AbstractContextManager[Any]:
        """Entered for the length of a build."""
        return nullcontext()

    # ------------------------------------------------------------ passes
    def summed(self, function: Callable[..., list[Any]], rows: Rows, *arguments: Any) -> list[Any]:
        """The sums of `function` over all tiles."""
        return function(self.ops, rows, (0, rows.count), *arguments)

    def joined(self, function: Callable[..., list[np.ndarray]], rows: Rows, *arguments: Any) -> list[np.ndarray]:
        """The rows that `function` makes of all tiles, one after the other."""
        return function(self.ops, rows, (0, rows.count), *arguments)

    def moments(self, rows: Rows, sketch: np.ndarray | None, *, standardise: bool = True) -> tuple[Moments, Any]:
        """Mean and standard deviation of the columns, and a sketch ``(b, n)`` times the standardised matrix.

        The latter is a float64 array of `ops`, or None without a sketch.
        """

        def compute() -> dict[str, Any]:
            names = ("first", "second", "product")
            return dict(zip(names, self.summed(partial.moments_of, rows, shift, sketch), strict=True))

        ops = self.ops
        shift = ops.numpy(rows.tile(0)[0]).copy()
        with np.errstate(over="ignore"):
            found = self.checkpoint.remember("moments", compute, ops.numpy)
        first, second = ops.numpy(found["first"]), ops.numpy(found["second"])
        apart = first / rows.n
        deviation = np.maximum(second - rows.n * apart**2, 0.0)
        exact_mean = shift.astype(np.float64) + apart
        std = np.sqrt(deviation / (rows.n - 1)).astype(np.float32)
        constant = (second == 0) | (std == 0)
        if not standardise:
            std[:] = 1
        std[constant] = 1
        exact_mean[constant] = shift[constant]
        wide = std.astype(np.float64)
        total = float((np.where(constant, 0.0, deviation) / wide**2).sum())
        start = None
        if sketch is not None:
            # x - mean = (x - shift) - (mean - shift)
            weights, offset = ops.array(sketch.sum(1, dtype=np.float64), "f8"), ops.array(apart, "f8")
            start, wide = ops.array(found["product"], "f8"), ops.array(wide, "f8")
            for i in range(len(start)):  # row by row, for there is no room for it twice
                start[i] -= weights[i] * offset
                start[i] /= wide
        return Moments(exact_mean.astype(np.float32), std, exact_mean, total, int(constant.sum())), start

    def product(self, rows: Rows, moments: Moments, vectors: Any, number: int, text: str) -> Any:
        """Vectors ``(b, d)`` times AᵀA, as float32 of `ops`; `number` is that of the pass."""

        def compute() -> dict[str, np.ndarray]:
            [found] = self.summed(partial.product_of, rows, moments, vectors, text)
            return {"product": self.ops.cast(found, "f4")}

        kept = self.checkpoint.remember(f"pass-{number:03d}", compute, self.ops.numpy)
        return self.ops.array(kept["product"], "f4")

    def covariance(self, rows: Rows, moments: Moments) -> np.ndarray:
        def compute() -> dict[str, np.ndarray]:
            return {"matrix": self.ops.numpy(self.summed(partial.covariance_of, rows, moments)[0])}

        return self.checkpoint.remember("covariance", compute)["matrix"]

    def gram(self, rows: Rows, moments: Moments) -> np.ndarray:
        """AAᵀ, float64 ``(n, n)``, in strips of as many rows as `panel_bytes` hold."""
        whole = np.empty((rows.n, rows.n))
        for panel, strip in self.strips(rows, moments, self.panels(rows)):
            top = panel[0] * rows.tile_rows
            whole[top : top + len(strip), top:] = strip
        for start in range(0, rows.n, rows.tile_rows):
            stop = start + rows.tile_rows
            whole[stop:, start:stop] = whole[start:stop, stop:].T
        return whole

    def panels(self, rows: Rows) -> list[tuple[int, int]]:
        a_panel = max(1, self.panel_bytes // (8 * rows.d * rows.tile_rows))
        return [(first, min(first + a_panel, rows.count)) for first in range(0, rows.count, a_panel)]

    def strips(self, rows: Rows, moments: Moments, panels: list[tuple[int, int]]) -> Any:
        for panel in panels:

            def compute(panel: tuple[int, int] = panel) -> dict[str, np.ndarray]:
                return {"strip": partial.gram_strip(self.ops, rows, panel, moments)}

            yield panel, self.checkpoint.remember(f"gram-{panel[0]:05d}-{panel[1]:05d}", compute)["strip"]

    def back_projected(self, rows: Rows, moments: Moments, vectors: np.ndarray) -> np.ndarray:
        return self.ops.numpy(self.summed(partial.back_projected, rows, moments, vectors)[0])

    def projected(self, rows: Rows, moments: Moments, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients float32 ``(n, k)`` and squared norms float64 ``(n,)`` of the rows."""
        coefficients, squares = self.joined(partial.projected, rows, moments, basis)
        return coefficients, squares

    def close(self) -> None:
        """Give back what was started for the build."""


def ids_digest(ids: list[str]) -> str:
    """sha256 of the ids in code-point order, one a line: which rows were fitted."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(ids)).encode()).hexdigest()
