"""One representative of dW = scale * B @ A under the ambiguity of its factors (B R, R^-1 A).

The rule, in float64 and for each module:

1. dW (a convolution's as a matrix of ``in * kh * kw`` columns) has the singular values s1 >= s2 >= ... and their right
   vectors. Where values agree to 1e-7 of s1 only the span of their vectors is determined, so it gets a basis of its
   own: of the coordinate axes the one with the longest projection on the span (of projections equal to 1e-6 the
   first) gives its normalised projection, then the same on the rest of the span. For a single vector this says: of its
   entries the largest in magnitude is positive.
2. A's rows are these vectors and B's columns dW times them over the scale, each pair balanced to equal norms times
   sqrt(scale): ``|A_i| = |B_i| = sqrt(s_i / scale)``.
3. Values below rounding (max(shape) * 2.2e-16 * s1) are zero rows and columns, as is what pads to a larger rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .adapter import Adapter, LoraFactors, Target
from .errors import InvalidInputError

METHODS = ("svd",)
_SAME_VALUE, _SAME_LENGTH = 1e-7, 1e-6


def canonicalise(
    adapter: Adapter, method: str = "svd", *, rank: int | Mapping[Target, int] | None = None, scale: float = 1.0
) -> Adapter:
    """The adapter with every module's factors replaced by the representative of its dW.

    Parameters
    ----------
    method : "svd"
        The rule of this module.
    rank : int or dict of Target to int, optional
        Truncate to this rank (the best approximation there is) or pad with zeros; without it each module's stays.
    scale : float
        The scale of the result, positive; the modules' own scales are in dW already.

    Returns
    -------
    Adapter
        float64 factors. ``metadata["error"]`` is what truncation lost, relative to the norm of all of dW.
    """
    if method not in METHODS:
        raise InvalidInputError(f"there is no canonical form {method!r}; choose {' or '.join(METHODS)}")
    if not scale > 0 or not np.isfinite(scale):
        raise InvalidInputError(f"scale must be a positive number, not {scale}")
    factors, lost, total = {}, 0.0, 0.0
    for target, pair in adapter.factors.items():
        wanted = rank.get(target) if isinstance(rank, Mapping) else rank
        factors[target], gone, all_of_it = canonical_factors(pair, rank=wanted, scale=scale)
        lost, total = lost + gone**2, total + all_of_it**2
    error = float(np.sqrt(lost / total)) if total else 0.0
    return replace(adapter, factors=factors, metadata={**adapter.metadata, "canonical": method, "error": error})


def canonical_factors(
    pair: LoraFactors, *, rank: int | None = None, scale: float = 1.0
) -> tuple[LoraFactors, float, float]:
    """The representative of one module, with the norm that was lost by truncation and the norm of dW."""
    a, b = pair.A.astype(np.float64), pair.B.astype(np.float64) * pair.scale
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InvalidInputError("factors with NaN or infinity have no canonical form")
    wanted = pair.rank if rank is None else rank
    if wanted < 1:
        raise InvalidInputError(f"rank must be at least 1, not {wanted}")
    # dW = Qb (Rb Ra^T) Qa^T, so that the decomposition is one of r x r
    left, upper = np.linalg.qr(b)
    right, lower = np.linalg.qr(a.T)
    u, values, v = np.linalg.svd(upper @ lower.T)
    return representative(left @ u[:, : len(values)], values, v[: len(values)] @ right.T, wanted, scale, pair.kernel)


def representative(
    u: np.ndarray, values: np.ndarray, v: np.ndarray, rank: int, scale: float, kernel: tuple[int, ...] = ()
) -> tuple[LoraFactors, float, float]:
    """The rule applied to a singular value decomposition ``u (out, k), values (k,), v (k, columns)`` of dW."""
    outputs, columns = u.shape[0], v.shape[1]
    a, b = np.zeros((rank, columns)), np.zeros((outputs, rank))
    floor = max(outputs, columns) * np.finfo(np.float64).eps * (values[0] if len(values) else 0.0)
    known = int((values > floor).sum())
    start = 0
    while start < min(known, rank):
        end = start + 1
        while end < known and values[end - 1] - values[end] <= _SAME_VALUE * values[0]:
            end += 1
        rows = _basis(v[start:end])
        images = (u[:, start:end] * values[start:end]) @ (v[start:end] @ rows.T)  # dW times each row
        for i in range(min(end, rank) - start):
            size = np.linalg.norm(images[:, i])
            a[start + i] = rows[i] * np.sqrt(size / scale)
            b[:, start + i] = images[:, i] / np.sqrt(size * scale)
        start = end
    lost = float(np.linalg.norm(values[rank:]))
    return LoraFactors(a, b, float(scale), kernel), lost, float(np.linalg.norm(values))


def _basis(rows: np.ndarray) -> np.ndarray:
    """The basis of the span of orthonormal rows ``(k, n)`` that depends on the span alone."""
    rest, basis = rows, []
    while len(rest):
        lengths = np.linalg.norm(rest, axis=0)  # of each axis' projection
        axis = int(np.argmax(lengths >= (1 - _SAME_LENGTH) * lengths.max()))
        basis.append((rest[:, axis] / lengths[axis]) @ rest)
        if len(rest) == 1:
            break
        # what is left of the span: the rows rotated so that one is the chosen vector, without it
        turned, _ = np.linalg.qr(np.column_stack([rest[:, axis], np.eye(len(rest))]))
        rest = turned[:, 1 : len(rest)].T @ rest
    return np.array(basis)
