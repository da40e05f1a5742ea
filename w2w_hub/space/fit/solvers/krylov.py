"""Block Krylov iteration in feature space: one fused pass over the data per iteration.

After p passes the subspace holds K = [X0, X1, ...] ``(p b, d)`` with K Kᵀ = 1, and Z = K AᵀA is known exactly, so that
Rayleigh-Ritz and the residuals of all components cost no further pass. A thick restart follows once the subspace
exceeds its limit. Musco and Musco 2015 (NeurIPS) bound its error; here the residuals decide when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from ....common.constraints import Rule, number, optional, whole
from ....common.text import counted
from ....errors import ConvergenceError
from ..engines.base import Engine
from ..engines.ops import Array, Ops
from ..rows import Moments, Rows
from .base import DOUBLE, EIGEN_COST, Eigenpairs, Solver, dense_fits, gaussian, require_rank

EXPECTED_PASSES = 10
CHEAP_COLUMNS = 6000  # eigenproblems up to this size cost next to nothing beside the passes
# directions below this fraction of a block's largest carry rounding noise only
NOISE = 1e-5
COLUMNS_AT_ONCE = 4096
GOOD_PASS = 15.0  # a pass seldom reduces the missed variance by more: convergence is not checked earlier


SMALLEST = 1e-6  # of the largest eigenvalue: smaller ones are rounding of the float32 products


@dataclass(frozen=True)
class Krylov(Solver):
    """Iterates until the residuals show that less than `tolerance` of the components' variance is missed.

    For many rows and features and comparatively few components.

    Parameters
    ----------
    block : int, optional
        Vectors per pass; by default derived from k.
    tolerance : float
        Fraction of the components' variance that may be missed.
    max_passes : int
        Passes over the rows after which a build that has not converged fails.
    seed : int
        Seed of the random start.
    """

    block: int | None = None
    tolerance: float = 1e-6
    max_passes: int = 40
    seed: int = 0

    name: ClassVar[str] = "krylov"
    stopping: ClassVar[tuple[str, ...]] = ("tolerance", "max_passes")
    rules: ClassVar[Mapping[str, Rule]] = {
        "block": optional(whole(1)), "tolerance": number(above=0, below=1), "max_passes": whole(1), "seed": whole(0),
    }  # fmt: skip

    def sized(self, n: int, d: int, k: int) -> Self:
        return replace(self, block=min(self.block or default_block(k), n, d))

    def fits(self, n: int, d: int, k: int) -> bool:
        return self._columns(k) < min(n, d) or not dense_fits(n, d, k)

    def cost(self, n: int, d: int, k: int) -> float:
        columns = self._columns(k)
        return 4.0 * n * d * columns + 4.0 * d * columns**2 + DOUBLE * EIGEN_COST * columns**3 / 4

    def _columns(self, k: int) -> int:
        """Return how many vectors the subspace is expected to hold in the end."""
        return EXPECTED_PASSES * (self.block or default_block(k))

    def sketch(self, n: int) -> np.ndarray:
        assert self.block is not None
        return gaussian(self.block, n, self.seed)

    def run(self, engine: Engine, rows: Rows, moments: Moments, sketched: Array | None, k: int) -> Eigenpairs:
        assert sketched is not None
        found = iterate(engine, rows, moments, sketched, k, self)
        hint = ", or the exact solver (gram), which resolves smaller components"
        require_rank(found.values, k, rows, SMALLEST, hint)
        return found

    def describe(self) -> str:
        return (
            f"block Krylov, {self.block} vectors a pass, until less than {self.tolerance:g} of the variance is missed"
        )


def default_block(k: int) -> int:
    """Return the default number of vectors per pass: fewer need fewer products in all, but more passes.

    For many components the eigenproblems of the subspace cost as much as the passes; fewer vectors keep it small.
    """
    return max(k // 2 if k <= CHEAP_COLUMNS // 3 else k // 4, 6) + 10


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs: eigenvalues ``(m,)``, residual norms ``(k,)``, and their coordinates ``(columns, m)``."""

    values: np.ndarray
    residuals: np.ndarray
    vectors: Array
    missed: float
    """Estimated fraction of the first k components' variance that the subspace misses."""


def iterate(engine: Engine, rows: Rows, moments: Moments, start: Array, k: int, settings: Krylov) -> Eigenpairs:
    """Return eigenpairs of AᵀA (fewer than k if the rows span fewer dimensions).

    Parameters
    ----------
    start : array of the engine
        ``(b, d)``: random combinations of the rows, in whose span the dominant components are strongest.

    Raises
    ------
    ConvergenceError
        If `max_passes` do not reach the tolerance.
    """
    ops, block, tolerance = engine.ops, len(start), settings.tolerance
    # columns after which the subspace is compressed to the k best directions and one more block
    limit = max(2 * k + block, min(CHEAP_COLUMNS, 8 * k + 4 * block))
    subspace: list[Array] = []
    images: list[Array] = []
    small = ops.zeros((0, 0))
    fresh = _scaled(ops, _scaled(ops, ops.array(start, "f4"), NOISE), 1e-3)
    passes, due, missed = 0, 0, 1.0
    while True:
        passes += 1
        note = "" if missed == 1.0 else f", missed {missed:.1e} before"
        image = engine.product(rows, moments, fresh, passes, f"pass {passes}{note}")
        subspace.append(fresh)
        images.append(image)
        products, rest, fresh = _next_block(ops, subspace, image)
        small = _grown(ops, small, products)
        exhausted, last = not len(fresh), passes >= settings.max_passes  # exhausted: the rows span no more
        if len(small) < k and exhausted:
            found = ritz(ops, small, rest, len(small), len(small))
            return Eigenpairs(*_final(ops, subspace, images, found, len(small)), {"passes": passes, "missed": 0.0})
        full = len(small) + len(fresh) > limit
        if exhausted or (len(small) >= k and (last or full or (len(small) >= 2 * k and passes >= due))):
            found = ritz(ops, small, rest, k, k + block)
            missed = found.missed
            if missed <= tolerance or exhausted:
                break
            if len(small) > CHEAP_COLUMNS:
                due = passes + max(1, math.ceil(math.log(missed / tolerance) / math.log(GOOD_PASS)))
            if full:  # a thick restart: the new block is orthogonal to all that is left out
                subspace, images = ([_combined(ops, found.vectors, blocks)] for blocks in (subspace, images))
                small = ops.diagonal(found.values)
        if last:
            raise ConvergenceError(_unreached(settings, passes, missed))
    return Eigenpairs(*_final(ops, subspace, images, found, k), {"passes": passes, "missed": missed})


def _unreached(settings: Krylov, passes: int, missed: float) -> str:
    return (
        f"after {counted(passes, 'pass')} about {missed:.1e} of the components' variance is still missed, more than "
        f"the tolerance {settings.tolerance:g}; allow more passes (max_passes), a larger block, or use the exact "
        "solver (solver='gram')"
    )


def ritz(ops: Ops, small: Array, rest: Array, k: int, keep: int) -> Ritz:
    """Return the `keep` largest Ritz pairs (fewer if there are fewer), and the residuals of the first k.

    Only the last block's image reaches out of the subspace, by vectors whose products are `rest` ``(b, b)``: the
    residuals follow from the last coordinates of the Ritz vectors. The components' variance outside of the subspace is,
    to second order, the squared residuals over the gap to the eigenvalues outside. Those are below the Ritz values that
    have not converged, so the one in the middle of the surplus is used for them; in a flat tail the residual itself
    bounds what is missed. The estimate is doubled for safety.
    """
    values, vectors = ops.eigh(small, keep)
    last = vectors[len(vectors) - len(rest) :, :k]
    theta = values[:k]
    residuals = np.sqrt(np.maximum(ops.numpy((last * (rest @ last)).sum(0)), 0.0))
    outside = values[min(len(values) - 1, k + (len(values) - k) // 2)] if len(values) > k else 0.0
    lost = np.minimum(residuals, residuals**2 / np.maximum(theta - outside, np.maximum(residuals, 1e-300)))
    missed = float(2 * lost.sum() / max(theta.sum(), 1e-300))
    return Ritz(np.ascontiguousarray(values[:keep]), residuals, vectors, missed)


def _scaled(ops: Ops, vectors: Array, noise: float) -> Array:
    """Orthonormalize the rows, up to the condition of their Gram matrix, by its decomposition.

    Directions below the fraction `noise` of the largest hold rounding only and are dropped.
    """
    if not len(vectors):
        return vectors
    values, turn = ops.eigh(ops.inner(vectors, vectors))
    count = int((values > noise**2 * values[0]).sum()) if values[0] > 0 else 0
    scaled = turn[:, :count] / ops.array(np.sqrt(values[:count]), "f8")
    return ops.cast(scaled, "f4").T @ vectors


def _next_block(ops: Ops, subspace: list[Array], image: Array) -> tuple[Array, Array, Array]:
    """Split the last image into its part inside the subspace and the next block outside it.

    Returns its products with the subspace ``(columns, b)``, the products of the part outside with itself ``(b, b)``,
    and an orthonormal basis of that part, which is empty once the rows' span is exhausted.
    """
    size = float(np.sqrt(ops.numpy(ops.squares(image)).max(initial=0.0)))
    outside, products = _without(ops, subspace, image)
    rest = ops.inner(outside, outside)
    left = float(np.sqrt(ops.numpy(rest.diagonal()).max(initial=0.0)))
    if left <= NOISE * size:
        return products, rest, image[:0]
    block = _scaled(ops, outside, max(NOISE, min(1.0, NOISE * size / left)))
    return products, rest, _scaled(ops, _without(ops, subspace, block)[0], 1e-3)  # twice is enough


def _without(ops: Ops, subspace: list[Array], vectors: Array) -> tuple[Array, Array]:
    """Return the vectors less their part in the subspace, and their products with it, float64 ``(columns, b)``."""
    left, row = vectors, 0
    products = ops.zeros((sum(len(block) for block in subspace), len(vectors)))
    for block in subspace:
        product = products[row : row + len(block)]
        product += ops.inner(block, vectors)
        left = left - ops.cast(product, "f4").T @ block
        row += len(block)
    return left, products


def _grown(ops: Ops, small: Array, products: Array) -> Array:
    """Return the projected matrix, extended by the new block's rows and columns."""
    before, size = len(small), len(products)
    whole = ops.zeros((size, size))
    whole[:before, :before] = small
    whole[:before, before:] = products[:before]
    whole[before:, :before] = products[:before].T
    own = products[before:]
    whole[before:, before:] = (own + own.T) / 2
    return whole


def _combined(ops: Ops, turn: Array, blocks: list[Array], dtype: str = "f4", part: slice = slice(None)) -> Array:
    """Return ``turn.T @ blocks`` for coordinates ``(columns, k)``, optionally for some columns of the blocks."""
    total, row = None, 0
    for block in blocks:
        weights = ops.cast(turn[row : row + len(block)], dtype).T
        product = weights @ ops.cast(block[:, part], dtype)
        total = product if total is None else total + product
        row += len(block)
    return total


def _final(
    ops: Ops, subspace: list[Array], images: list[Array], found: Ritz, k: int
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Return values, final residuals, and vectors that are orthonormal to float64 rounding."""
    width = subspace[0].shape[1]
    if k == 0:
        return np.empty(0), np.empty(0), ops.zeros((0, width))
    values, turn = found.values[:k], found.vectors[:, :k]
    vectors, squares, products = ops.zeros((k, width)), ops.zeros((k,)), ops.zeros((k, k))
    theta = ops.array(np.ascontiguousarray(values)[:, None], "f8")
    parts = [slice(start, start + COLUMNS_AT_ONCE) for start in range(0, width, COLUMNS_AT_ONCE)]
    for part in parts:
        some = _combined(ops, turn, subspace, "f8", part)
        apart = ops.cast(_combined(ops, turn, images, "f4", part), "f8") - theta * some
        vectors[:, part] = some
        squares += (apart * apart).sum(1)
        products += some @ some.T
    # one step of Newton and Schulz: the nearest orthonormal vectors, which turns none into another
    nearest = ops.diagonal(np.full(k, 1.5)) - 0.5 * products
    for part in parts:
        vectors[:, part] = nearest @ vectors[:, part]
    return values, np.sqrt(ops.numpy(squares)), vectors
