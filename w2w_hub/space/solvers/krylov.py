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
    subspace, images = ops.zeros((0, rows.d), "f4"), ops.zeros((0, rows.d), "f4")
    small = np.zeros((0, 0))
    fresh = orthonormal(ops, ops.array(start, "f4"))
    passes, missed = 0, 1.0
    history: list[float] = []
    while True:
        if len(fresh):
            passes += 1
            note = "" if not history else f", misses {history[-1]:.1e}"
            image = engine.product(rows, moments, fresh, passes, f"pass {passes}{note}")
            small = _grown(ops, small, subspace, images, fresh, image)
            subspace, images = ops.stack([subspace, fresh]), ops.stack([images, image])
        done = not len(fresh)
        if len(small) >= min(2 * k, rows.n - 1, rows.d) or passes >= plan.max_passes or done:
            if len(small) < k:
                if done:  # the rows span no more
                    return (*_final(ops, subspace, images, small, len(small)), {"passes": passes, "missed": 0.0})
                raise ConvergenceError(_unreached(plan, passes, 1.0))
            found = ritz(ops, subspace, images, small, k)
            missed = found.missed
            history.append(missed)
            if missed <= plan.tolerance or done:
                break
            if passes >= plan.max_passes:
                raise ConvergenceError(_unreached(plan, passes, missed))
        fresh = _next_block(ops, subspace, image)
        if len(small) + len(fresh) > limit:  # a thick restart: the new block is orthogonal to all that is left out
            keep = ritz(ops, subspace, images, small, 2 * k + plan.block)
            turn = ops.array(np.ascontiguousarray(ops.numpy(keep.vectors).T), "f4")
            subspace, images, small = turn @ subspace, turn @ images, np.diag(keep.values)
    values, residuals, vectors = _final(ops, subspace, images, small, k)
    return values, residuals, vectors, {"passes": passes, "missed": missed}


def _unreached(plan: Plan, passes: int, missed: float) -> str:
    return (
        f"after {passes} passes about {missed:.1e} of the components' variance is still missed, {plan.tolerance:g} is "
        "asked for; allow more passes (max_passes), a larger block, or the exact solver (solver='gram')"
    )


def ritz(ops: Any, subspace: Any, images: Any, small: np.ndarray, k: int) -> Ritz:
    """The k largest Ritz pairs with their residuals.

    The components' variance outside of the subspace is, to second order, the squared residuals over the gap to the
    eigenvalues outside. Those are below the Ritz values that have not converged, so the one in the middle of the
    surplus stands for them; in a flat tail the residual itself bounds what is missed. The estimate is doubled.
    """
    values, vectors = ops.eigh(ops.array(small.copy(), "f8"))
    chosen = ops.cast(vectors[:, :k], "f4")
    theta = values[:k]
    apart = chosen.T @ images - ops.array(theta.copy()[:, None], "f4") * (chosen.T @ subspace)
    residuals = np.sqrt(ops.numpy(ops.squares(apart)))
    outside = values[min(len(values) - 1, k + (len(values) - k) // 2)] if len(values) > k else 0.0
    lost = np.minimum(residuals, residuals**2 / np.maximum(theta - outside, np.maximum(residuals, 1e-300)))
    return Ritz(theta, residuals, vectors[:, :k], float(2 * lost.sum() / max(theta.sum(), 1e-300)))


def orthonormal(ops: Any, vectors: Any, noise: float = NOISE) -> Any:
    """An orthonormal basis ``(<= b, d)`` of the rows' span; directions that hold noise only are dropped."""
    return _scaled(ops, _scaled(ops, vectors, noise), 1e-3)


def _scaled(ops: Any, vectors: Any, noise: float) -> Any:
    """The rows turned and scaled by the decomposition of their Gram matrix: orthonormal up to its condition."""
    if not len(vectors):
        return vectors
    values, turn = ops.eigh(ops.inner(vectors, vectors))
    count = int((values > noise**2 * values[0]).sum()) if values[0] > 0 else 0
    scaled = turn[:, :count] / ops.array(np.sqrt(values[:count]), "f8")
    return ops.cast(scaled, "f4").T @ vectors


def _next_block(ops: Any, subspace: Any, image: Any) -> Any:
    """What the last image adds to the subspace, orthonormal; empty once the rows' span is exhausted."""
    size = float(np.sqrt(ops.numpy(ops.squares(image)).max(initial=0.0)))
    noise, block = NOISE, image
    for _ in range(2):  # twice is enough
        block = block - ops.cast(ops.inner(block, subspace), "f4") @ subspace
        left = float(np.sqrt(ops.numpy(ops.squares(block)).max(initial=0.0)))
        if left <= noise * size:
            return block[:0]
        block = _scaled(ops, block, max(noise, min(1.0, noise * size / left)))
        noise, size = 1e-3, 1.0
    return block


def _grown(ops: Any, small: np.ndarray, subspace: Any, images: Any, fresh: Any, image: Any) -> np.ndarray:
    """The projected matrix with the new block's rows and columns."""
    own = ops.numpy(ops.inner(fresh, image))
    cross = ops.numpy(ops.inner(subspace, image))
    return np.block([[small, cross], [cross.T, (own + own.T) / 2]])


def _final(
    ops: Any, subspace: Any, images: Any, small: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, residuals and vectors, the vectors orthonormal to float64 rounding."""
    if k == 0:
        return np.empty(0), np.empty(0), np.empty((0, subspace.shape[1]))
    found = ritz(ops, subspace, images, small, k)
    turn = ops.array(np.ascontiguousarray(ops.numpy(found.vectors).T), "f8")
    vectors = np.empty((k, subspace.shape[1]))
    for start in range(0, subspace.shape[1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        vectors[:, part] = ops.numpy(turn @ ops.cast(subspace[:, part], "f8"))
    for _ in range(2):  # Newton-Schulz: the nearest orthonormal vectors, which turns none into another
        product = vectors @ vectors.T
        vectors = (1.5 * np.eye(k) - 0.5 * product) @ vectors
    return found.values, found.residuals, vectors
