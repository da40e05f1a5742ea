"""Engine: the base class, with every pass over the rows that solvers ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial as bind
from typing import Any, ClassVar, Self

import numpy as np

from ....common.constraints import Rule, optional, whole
from ....dataset import WeightDataset
from ..resume import ResumeFolder
from ..rows import TILE_VALUES, Moments, Rows
from ..settings import Settings
from . import partial
from .ops import Array, NumpyOps, Ops

PANEL_BYTES = 128 << 20  # float64 rows that stay in memory while the others stream past them
Function = Callable[..., list[Array]]  # one of `partial`: (ops, rows, tiles, *arguments)
Panel = tuple[int, int]  # first tile and the one after the last


@dataclass(eq=False)
class Engine(Settings, ABC):
    """Computes sums over the rows of a matrix, and the dense algebra between them.

    A subclass is a dataclass whose fields are its settings; it does nothing before :meth:`running`. It defines
    the array library (`ops`) and how ranges of tiles are distributed (:meth:`parts`). One build at a time.

    Parameters
    ----------
    block_rows : int, optional
        Rows read at once. Changes memory and speed only.
    """

    block_rows: int | None = field(default=None, kw_only=True)

    name: ClassVar[str]
    rules: ClassVar[Mapping[str, Rule]] = {"block_rows": optional(whole(1))}
    tile_values = TILE_VALUES
    panel_bytes = PANEL_BYTES

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ops: Ops = NumpyOps()
        self.resume = ResumeFolder(None)
        """Stores results of finished passes; set by the build."""

    # ------------------------------------------------------------ life
    @contextmanager
    def running(self) -> Iterator[Self]:
        """Start the engine, and close it afterwards."""
        try:
            self.start()
            with self.precision():
                yield self
        finally:
            self.resume = ResumeFolder(None)
            self.close()

    def start(self) -> None:
        """Connect to devices or workers.

        Raises
        ------
        InvalidInputError
            If a device or scheduler cannot be used.
        """

    def close(self) -> None:
        """Release what :meth:`start` acquired."""

    def precision(self) -> AbstractContextManager[Any]:
        """Return a context that is entered for the length of a build."""
        return nullcontext()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a recipe records: everything that a rebuild must share to get the same bits."""

    def rows(self, dataset: WeightDataset, indices: np.ndarray, *, canonical: bool = False) -> Rows:
        """Return rows of a dataset in tiles of this engine's size."""
        return Rows(dataset, indices, canonical=canonical, block_rows=self.block_rows, tile_values=self.tile_values)

    # ------------------------------------------------------------ distribution
    @abstractmethod
    def parts(self, function: Function, rows: Rows, *arguments: Any) -> Iterable[list[Array]]:
        """Apply `function` to consecutive ranges of tiles that cover all rows, and yield the results in order."""

    def summed(self, function: Function, rows: Rows, *arguments: Any) -> list[Array]:
        """Return the sums of `function` over all tiles."""
        total: list[Array] = []
        for part in self.parts(function, rows, *arguments):
            total = [value + other for value, other in zip(total, part, strict=True)] if total else part
        return total

    def strips(self, rows: Rows, moments: Moments, panels: list[Panel]) -> Iterable[tuple[Panel, np.ndarray]]:
        """Yield each panel (a range of tiles) with its rows of the Gram matrix, from the diagonal on."""
        for panel in panels:
            yield panel, self.kept_strip(panel, bind(partial.gram_strip, self.ops, rows, panel, moments))

    def kept_strip(self, panel: Panel, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a strip of the Gram matrix that an unfinished build stored, or compute and store it."""
        strip: np.ndarray = self.resume.remember(strip_name(panel), lambda: {"strip": compute()})["strip"]
        return strip

    # ------------------------------------------------------------ passes
    def moments(
        self, rows: Rows, sketch: np.ndarray | None, *, standardize: bool = True
    ) -> tuple[Moments, Array | None]:
        """Return the features' mean and standard deviation, and a sketch ``(b, n)`` times the standardized matrix.

        The latter is a float64 array of `ops`, or None without a sketch.
        """

        def compute() -> dict[str, Array]:
            names = ("first", "second", "product")
            return dict(zip(names, self.summed(partial.moments_of, rows, shift, sketch), strict=True))

        ops = self.ops
        shift = ops.numpy(rows.tile(0)[0]).copy()
        with np.errstate(over="ignore"):
            found = self.resume.remember("moments", compute, ops.numpy)
        first, second = ops.numpy(found["first"]), ops.numpy(found["second"])
        apart = first / rows.n
        deviation = np.maximum(second - rows.n * apart**2, 0.0)
        exact_mean = shift.astype(np.float64) + apart
        std = np.sqrt(deviation / (rows.n - 1)).astype(np.float32)
        constant = (second == 0) | (std == 0)
        if not standardize:
            std[:] = 1
        std[constant] = 1
        exact_mean[constant] = shift[constant]
        wide = std.astype(np.float64)
        total = float((np.where(constant, 0.0, deviation) / wide**2).sum())
        sketched = None
        if sketch is not None:
            # x - mean = (x - shift) - (mean - shift)
            weights, offset = ops.array(sketch.sum(1, dtype=np.float64), "f8"), ops.array(apart, "f8")
            sketched, wide = ops.array(found["product"], "f8"), ops.array(wide, "f8")
            for i in range(len(sketched)):  # row by row, since a second copy may not fit into memory
                sketched[i] -= weights[i] * offset
                sketched[i] /= wide
        return Moments(exact_mean.astype(np.float32), std, exact_mean, total, int(constant.sum())), sketched

    def product(self, rows: Rows, moments: Moments, vectors: Array, number: int, text: str) -> Array:
        """Return vectors ``(b, d)`` times AᵀA, as a float32 array of `ops`; `number` is that of the pass."""

        def compute() -> dict[str, Array]:
            [found] = self.summed(partial.product_of, rows, moments, vectors, text)
            return {"product": self.ops.cast(found, "f4")}

        kept = self.resume.remember(f"pass-{number:03d}", compute, self.ops.numpy)
        return self.ops.array(kept["product"], "f4")

    def covariance(self, rows: Rows, moments: Moments) -> np.ndarray:
        """Return AᵀA, float64 ``(d, d)``."""

        def compute() -> dict[str, np.ndarray]:
            return {"matrix": self.ops.numpy(self.summed(partial.covariance_of, rows, moments)[0])}

        matrix: np.ndarray = self.resume.remember("covariance", compute)["matrix"]
        return matrix

    def gram(self, rows: Rows, moments: Moments) -> np.ndarray:
        """Return AAᵀ, float64 ``(n, n)``, in strips of as many rows as `panel_bytes` hold."""
        whole = np.empty((rows.n, rows.n))
        for panel, strip in self.strips(rows, moments, self.panels(rows)):
            top = panel[0] * rows.tile_rows
            whole[top : top + len(strip), top:] = strip
        for start in range(0, rows.n, rows.tile_rows):
            stop = start + rows.tile_rows
            whole[stop:, start:stop] = whole[start:stop, stop:].T
            square = whole[start:stop, start:stop]  # BLAS may round X Xᵀ asymmetrically; eigh reads the lower half
            square[...] = np.tril(square) + np.tril(square, -1).T
        return whole

    def panels(self, rows: Rows) -> list[Panel]:
        """Return the ranges of tiles that are in memory one at a time."""
        step = max(1, self.panel_bytes // (8 * rows.d * rows.tile_rows))
        return [(first, min(first + step, rows.count)) for first in range(0, rows.count, step)]

    def back_projected(self, rows: Rows, moments: Moments, vectors: np.ndarray) -> np.ndarray:
        """Return vectors ``(k, n)`` times A, float64 ``(k, d)``."""
        return self.ops.numpy(self.summed(partial.back_projected, rows, moments, vectors)[0])

    def projected(self, rows: Rows, moments: Moments, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows' coefficients, float32 ``(n, k)``, and squared norms, float64 ``(n,)``."""
        parts = list(self.parts(partial.projected, rows, moments, basis))
        coefficients, squares = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return coefficients, squares


def strip_name(panel: Panel) -> str:
    """Return the name under which a strip of the Gram matrix is stored."""
    return f"gram-{panel[0]:05d}-{panel[1]:05d}"
