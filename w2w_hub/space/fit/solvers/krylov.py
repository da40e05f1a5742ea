"""Block Krylov iteration on the number side: one fused pass over the rows an iteration, no restart unless it grows.

After p passes the subspace holds K = [X0, X1, ...] ``(p b, d)`` with K Kᵀ = 1, and Z = K AᵀA is known exactly, so that
Rayleigh-Ritz and the residuals of all components cost no further pass. Musco and Musco 2015 (NeurIPS) bound its error;
here the residuals decide when to stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import ConvergenceError
from ..engines.base import Engine
from ..rows import Moments, Rows
from .choose import CHEAP_COLUMNS, Plan

# directions below this share of a block's largest carry rounding noise only
NOISE = 1e-5
COLUMNS_AT_ONCE = 4096
GOOD_PASS = 15.0  # a pass seldom divides what is missed by more, so what cannot have converged is not looked at


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs: eigenvalues ``(m,)``, residual norms ``(k,)``, and their coordinates ``(columns, m)``."""

    values: np.ndarray
    residuals: np.ndarray
    vectors: Any
    missed: float
    """Estimated share of the k first components' variance that the subspace misses."""


def krylov(
    engine: Engine, rows: Rows, moments: Moments, start: Any, k: int, plan: Plan
) -> tuple[np.ndarray, np.ndarray, Any, dict[str, Any]]:
    """Eigenvalues and residuals ``(k,)`` and vectors ``(k, d)`` of AᵀA, and how it went.

    The vectors are float64, as an array of the engine's.

    Parameters
    ----------
    start : array of the engine's
        ``(b, d)``: random combinations of the rows, in whose span the dominant components are strongest.

    Raises
    ------
    ConvergenceError
        If `max_passes` do not reach the tolerance.
    """
    ops = engine.ops
    # columns after which the subspace is compressed to the k best directions and a block more
    limit = max(2 * k + plan.block, min(CHEAP_COLUMNS, 8 * k + 4 * plan.block))
    subspace: list[Any] = []
    images: list[Any] = []
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
        exhausted, last = not len(fresh), passes >= plan.max_passes  # exhausted: the rows span no more
        if len(small) < k and exhausted:
            found = ritz(ops, small, rest, len(small), len(small))
            return (*_final(ops, subspace, images, found, len(small)), {"passes": passes, "missed": 0.0})
        full = len(small) + len(fresh) > limit
        if exhausted or (len(small) >= k and (last or full or (len(small) >= 2 * k and passes >= due))):
            found = ritz(ops, small, rest, k, k + plan.block)
            missed = found.missed
            if missed <= plan.tolerance or exhausted:
                break
            if len(small) > CHEAP_COLUMNS:
                due = passes + max(1, math.ceil(math.log(missed / plan.tolerance) / math.log(GOOD_PASS)))
            if full:  # a thick restart: the new block is orthogonal to all that is left out
                subspace, images = ([_combined(ops, found.vectors, blocks)] for blocks in (subspace, images))
                small = ops.diagonal(found.values)
        if last:
            raise ConvergenceError(_unreached(plan, passes, missed))
    values, residuals, vectors = _final(ops, subspace, images, found, k)
    return values, residuals, vectors, {"passes": passes, "missed": missed}


def _unreached(plan: Plan, passes: int, missed: float) -> str:
    return (
        f"after {passes} passes about {missed:.1e} of the components' variance is still missed, {plan.tolerance:g} is "
        "asked for; allow more passes (max_passes), a larger block, or the exact solver (solver='gram')"
    )


def ritz(ops: Any, small: Any, rest: Any, k: int, keep: int) -> Ritz:
    """The `keep` largest Ritz pairs (fewer if there are fewer), and the residuals of the first k.

    Only the last block's image reaches out of the subspace, by vectors whose products are `rest` ``(b, b)``: the
    residuals follow from the last coordinates of the Ritz vectors. The components' variance outside of the subspace is,
    to second order, the squared residuals over the gap to the eigenvalues outside. Those are below the Ritz values that
    have not converged, so the one in the middle of the surplus stands for them; in a flat tail the residual itself
    bounds what is missed. The estimate is doubled.
    """
    values, vectors = ops.eigh(small, keep)
    last = vectors[len(vectors) - len(rest) :, :k]
    theta = values[:k]
    residuals = np.sqrt(np.maximum(ops.numpy((last * (rest @ last)).sum(0)), 0.0))
    outside = values[min(len(values) - 1, k + (len(values) - k) // 2)] if len(values) > k else 0.0
    lost = np.minimum(residuals, residuals**2 / np.maximum(theta - outside, np.maximum(residuals, 1e-300)))
    missed = float(2 * lost.sum() / max(theta.sum(), 1e-300))
    return Ritz(np.ascontiguousarray(values[:keep]), residuals, vectors, missed)


def _scaled(ops: Any, vectors: Any, noise: float) -> Any:
    """The rows turned and scaled by the decomposition of their Gram matrix: orthonormal up to its condition.

    Directions below the share `noise` of the largest hold rounding only and are dropped.
    """
    if not len(vectors):
        return vectors
    values, turn = ops.eigh(ops.inner(vectors, vectors))
    count = int((values > noise**2 * values[0]).sum()) if values[0] > 0 else 0
    scaled = turn[:, :count] / ops.array(np.sqrt(values[:count]), "f8")
    return ops.cast(scaled, "f4").T @ vectors


def _next_block(ops: Any, subspace: list[Any], image: Any) -> tuple[Any, Any, Any]:
    """What the last image adds to the subspace.

    Its products with the subspace ``(columns, b)``, those of its part outside ``(b, b)``, and an orthonormal basis of
    that part, which is empty once the rows' span is exhausted.
    """
    size = float(np.sqrt(ops.numpy(ops.squares(image)).max(initial=0.0)))
    outside, products = _without(ops, subspace, image)
    rest = ops.inner(outside, outside)
    left = float(np.sqrt(ops.numpy(rest.diagonal()).max(initial=0.0)))
    if left <= NOISE * size:
        return products, rest, image[:0]
    block = _scaled(ops, outside, max(NOISE, min(1.0, NOISE * size / left)))
    return products, rest, _scaled(ops, _without(ops, subspace, block)[0], 1e-3)  # twice is enough


def _without(ops: Any, subspace: list[Any], vectors: Any) -> tuple[Any, Any]:
    """Vectors less their part in the subspace, and their products with it, float64 ``(columns, b)``."""
    left, row = vectors, 0
    products = ops.zeros((sum(len(block) for block in subspace), len(vectors)))
    for block in subspace:
        product = products[row : row + len(block)]
        product += ops.inner(block, vectors)
        left = left - ops.cast(product, "f4").T @ block
        row += len(block)
    return left, products


def _grown(ops: Any, small: Any, products: Any) -> Any:
    """The projected matrix with the new block's rows and columns."""
    before, size = len(small), len(products)
    whole = ops.zeros((size, size))
    whole[:before, :before] = small
    whole[:before, before:] = products[:before]
    whole[before:, :before] = products[:before].T
    own = products[before:]
    whole[before:, before:] = (own + own.T) / 2
    return whole


def _combined(ops: Any, turn: Any, blocks: list[Any], dtype: str = "f4", part: slice = slice(None)) -> Any:
    """``turn.T @ blocks`` of coordinates ``(columns, k)``; of some columns of the blocks."""
    total, row = None, 0
    for block in blocks:
        weights = ops.cast(turn[row : row + len(block)], dtype).T
        product = weights @ ops.cast(block[:, part], dtype)
        total = product if total is None else total + product
        row += len(block)
    return total


def _final(ops: Any, subspace: list[Any], images: list[Any], found: Ritz, k: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values, residuals as they are in the end, and vectors, orthonormal to float64 rounding."""
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
