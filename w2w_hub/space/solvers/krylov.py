"""Block Krylov iteration on the number side: one fused pass over the rows an iteration, no restart unless it grows.

After p passes the subspace holds K = [X0, X1, ...] ``(p b, d)`` with K Kᵀ = 1, and Z = K AᵀA is known exactly, so that
Rayleigh-Ritz and the residuals of all components cost no further pass. Musco and Musco 2015 (NeurIPS) bound its error;
here the residuals decide when to stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ConvergenceError
from ..engines.base import Engine
from ..rows import Moments, Rows
from .choose import Plan

# directions below this share of a block's largest carry rounding noise only
NOISE = 1e-5
COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True)
class Ritz:
    """k Ritz pairs: eigenvalues, residual norms, and their coordinates ``(columns, k)`` in the subspace."""

    values: np.ndarray
    residuals: np.ndarray
    vectors: Any
    missed: float
    """Estimated share of the components' variance that the subspace misses."""


def krylov(
    engine: Engine, rows: Rows, moments: Moments, start: np.ndarray, k: int, plan: Plan
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Eigenvalues and residuals ``(k,)`` and vectors float64 ``(k, d)`` of AᵀA, and how it went.

    Parameters
    ----------
    start : ndarray
        ``(b, d)``: random combinations of the rows, in whose span the dominant components are strongest.

    Raises
    ------
    ConvergenceError
        If `max_passes` do not reach the tolerance.
    """
    ops = engine.ops
    limit = 8 * k + 4 * plan.block  # columns after which the subspace is compressed
    subspace: list[Any] = []
    images: list[Any] = []
    small = np.zeros((0, 0))
    fresh = _scaled(ops, _scaled(ops, ops.array(start, "f4"), NOISE), 1e-3)
    passes, missed = 0, 1.0
    while True:
        passes += 1
        note = "" if passes == 1 or missed == 1.0 else f", misses {missed:.1e}"
        image = engine.product(rows, moments, fresh, passes, f"pass {passes}{note}")
        subspace.append(fresh)
        images.append(image)
        products, rest, fresh = _next_block(ops, subspace, image)
        small = _grown(small, products)
        exhausted = not len(fresh)  # the rows span no more
        if len(small) < k and exhausted:
            return (*_final(ops, subspace, images, small, len(small)), {"passes": passes, "missed": 0.0})
        if len(small) >= k and (len(small) >= 2 * k or exhausted or passes >= plan.max_passes):
            found = ritz(ops, small, rest, k)
            missed = found.missed
            if missed <= plan.tolerance or exhausted:
                break
            if len(small) + len(fresh) > limit:  # a thick restart: the new block is orthogonal to all that is left out
                keep = ritz(ops, small, rest, 2 * k + plan.block)
                subspace, images = ([_combined(ops, keep.vectors, blocks)] for blocks in (subspace, images))
                small = np.diag(keep.values)
        if passes >= plan.max_passes:
            raise ConvergenceError(_unreached(plan, passes, missed))
    values, residuals, vectors = _final(ops, subspace, images, small, k)
    return values, residuals, vectors, {"passes": passes, "missed": missed}


def _unreached(plan: Plan, passes: int, missed: float) -> str:
    return (
        f"after {passes} passes about {missed:.1e} of the components' variance is still missed, {plan.tolerance:g} is "
        "asked for; allow more passes (max_passes), a larger block, or the exact solver (solver='gram')"
    )


def ritz(ops: Any, small: np.ndarray, rest: np.ndarray, k: int) -> Ritz:
    """The k largest Ritz pairs with their residuals.

    Only the last block's image reaches out of the subspace, by vectors whose products are `rest` ``(b, b)``: the
    residuals follow from the last coordinates of the Ritz vectors. The components' variance outside of the subspace is,
    to second order, the squared residuals over the gap to the eigenvalues outside. Those are below the Ritz values that
    have not converged, so the one in the middle of the surplus stands for them; in a flat tail the residual itself
    bounds what is missed. The estimate is doubled.
    """
    values, found = ops.eigh(ops.array(small.copy(), "f8"))
    vectors = np.ascontiguousarray(ops.numpy(found[:, :k]))
    last = vectors[len(vectors) - len(rest) :]
    theta = values[:k]
    residuals = np.sqrt(np.maximum((last * (rest @ last)).sum(0), 0.0))
    outside = values[min(len(values) - 1, k + (len(values) - k) // 2)] if len(values) > k else 0.0
    lost = np.minimum(residuals, residuals**2 / np.maximum(theta - outside, np.maximum(residuals, 1e-300)))
    return Ritz(theta, residuals, vectors, float(2 * lost.sum() / max(theta.sum(), 1e-300)))


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


def _next_block(ops: Any, subspace: list[Any], image: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """What the last image adds to the subspace.

    Its products with the subspace ``(columns, b)``, those of its part outside ``(b, b)``, and an orthonormal basis of
    that part, which is empty once the rows' span is exhausted.
    """
    size = float(np.sqrt(ops.numpy(ops.squares(image)).max(initial=0.0)))
    outside, products = _without(ops, subspace, image)
    rest = ops.numpy(ops.inner(outside, outside))
    left = float(np.sqrt(rest.diagonal().max(initial=0.0)))
    if left <= NOISE * size:
        return products, rest, image[:0]
    block = _scaled(ops, outside, max(NOISE, min(1.0, NOISE * size / left)))
    return products, rest, _scaled(ops, _without(ops, subspace, block)[0], 1e-3)  # twice is enough


def _without(ops: Any, subspace: list[Any], vectors: Any) -> tuple[Any, np.ndarray]:
    """Vectors less their part in the subspace, and their products with it ``(columns, b)``."""
    left, products = vectors, []
    for block in subspace:
        product = ops.inner(block, vectors)
        left = left - ops.cast(product, "f4").T @ block
        products.append(ops.numpy(product))
    return left, np.concatenate(products)


def _grown(small: np.ndarray, products: np.ndarray) -> np.ndarray:
    """The projected matrix with the new block's rows and columns."""
    cross, own = products[: len(small)], products[len(small) :]
    return np.block([[small, cross], [cross.T, (own + own.T) / 2]])


def _combined(ops: Any, turn: np.ndarray, blocks: list[Any], dtype: str = "f4", part: slice = slice(None)) -> Any:
    """``turn.T @ blocks`` of coordinates ``(columns, k)``; of some columns of the blocks."""
    total, row = None, 0
    for block in blocks:
        weights = ops.array(np.ascontiguousarray(turn[row : row + len(block)].T), dtype)
        product = weights @ ops.cast(block[:, part], dtype)
        total = product if total is None else total + product
        row += len(block)
    return total


def _final(
    ops: Any, subspace: list[Any], images: list[Any], small: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, residuals as they are in the end, and vectors, orthonormal to float64 rounding."""
    width = subspace[0].shape[1]
    if k == 0:
        return np.empty(0), np.empty(0), np.empty((0, width))
    found = ritz(ops, small, np.zeros((0, 0)), k)
    vectors, squares = np.empty((k, width)), np.zeros(k)
    theta = ops.array(found.values.copy()[:, None], "f8")
    for start in range(0, width, COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        some = _combined(ops, found.vectors, subspace, "f8", part)
        apart = ops.cast(_combined(ops, found.vectors, images, "f4", part), "f8") - theta * some
        vectors[:, part] = ops.numpy(some)
        squares += ops.numpy((apart * apart).sum(1))
    # one step of Newton and Schulz: the nearest orthonormal vectors, which turns none into another
    vectors = (1.5 * np.eye(k) - 0.5 * (vectors @ vectors.T)) @ vectors
    return found.values, np.sqrt(squares), vectors
