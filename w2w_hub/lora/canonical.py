"""Canonical factors of dW = scale * B @ A, which also equals scale * (B R) @ (R^-1 A) for any invertible R.

The rule, in float64 and per module:

1. dW (for a convolution, a matrix of ``in * kh * kw`` columns) has singular values s1 >= s2 >= ... with right singular
   vectors. If values agree to 1e-7 * s1, only the span of their vectors is determined, and its basis is chosen as
   follows: the coordinate axis with the longest projection onto the span (the first, if lengths agree to 1e-6) gives
   its normalized projection; repeat on the rest of the span. For a single vector this makes its largest entry positive.
2. A's rows are these vectors, B's columns are dW times them over the scale, and each pair is balanced to equal norms:
   ``|A_i| = |B_i| = sqrt(s_i / scale)``.
3. Singular values at rounding level (below max(shape) * 2.2e-16 * s1) and padding to a larger rank give zeros.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..common.checks import is_whole
from ..common.constraints import as_array, either, instance, optional, positive, validated, whole
from ..common.deprecated import deprecated_alias
from ..errors import InvalidInputError, LayoutMismatchError
from .adapter import Adapter, LoraFactors, Target

if TYPE_CHECKING:
    from .layout import ParameterLayout, Slot

METHODS = ("svd",)
NUMBERS_AT_ONCE = 1 << 22
_SAME_VALUE, _SAME_LENGTH = 1e-7, 1e-6


@validated(
    adapter=instance(Adapter, "an Adapter"),
    rank=optional(either(whole(), instance(Mapping, "a rank for each target"))),
    scale=positive(),
)
def canonicalize(
    adapter: Adapter, method: str = "svd", *, rank: int | Mapping[Target, int] | None = None, scale: float = 1.0
) -> Adapter:
    """Replace every module's factors by the canonical factors of its dW.

    Parameters
    ----------
    method : "svd"
        The rule described in this module.
    rank : int or dict of Target to int, optional
        Truncate to this rank (the best approximation) or pad with zeros. Default: each module's own rank.
    scale : float
        The scale of the result, positive; the modules' own scales are part of dW.

    Returns
    -------
    Adapter
        float64 factors. ``metadata["error"]`` is the norm lost by truncation, relative to the norm of all of dW.
    """
    if method not in METHODS:
        raise InvalidInputError(f"canonical form {method!r} is unknown; choose {' or '.join(METHODS)}")
    factors, lost, total = {}, 0.0, 0.0
    for target, pair in adapter.factors.items():
        wanted = rank.get(target) if isinstance(rank, Mapping) else rank
        factors[target], missing, norm = canonical_factors(pair, rank=wanted, scale=scale)
        lost, total = lost + missing**2, total + norm**2
    error = float(np.sqrt(lost / total)) if total else 0.0
    return replace(adapter, factors=factors, metadata={**adapter.metadata, "canonical": method, "error": error})


def canonical_factors(
    pair: LoraFactors, *, rank: int | None = None, scale: float = 1.0
) -> tuple[LoraFactors, float, float]:
    """Return one module's canonical factors, the norm lost by truncation, and the norm of dW."""
    a, b = pair.A.astype(np.float64), pair.B.astype(np.float64) * pair.scale
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InvalidInputError("factors with NaN or infinity have no canonical form")
    wanted = pair.rank if rank is None else rank
    if not is_whole(wanted) or wanted < 1:
        raise InvalidInputError(f"rank must be at least 1, not {wanted}")
    # dW = Qb (Rb Ra^T) Qa^T, so an r x r decomposition suffices
    left, upper = np.linalg.qr(b)
    right, lower = np.linalg.qr(a.T)
    u, values, v = np.linalg.svd(upper @ lower.T)
    return representative(left @ u[:, : len(values)], values, v[: len(values)] @ right.T, wanted, scale, pair.kernel)


def representative(
    u: np.ndarray, values: np.ndarray, v: np.ndarray, rank: int, scale: float, kernel: tuple[int, ...] = ()
) -> tuple[LoraFactors, float, float]:
    """Apply the rule to a singular value decomposition ``u (out, k), values (k,), v (k, columns)`` of dW."""
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
    """Return a basis of the span of orthonormal rows ``(k, n)`` that depends only on the span."""
    rest, basis = rows, []
    while len(rest):
        lengths = np.linalg.norm(rest, axis=0)  # of each axis' projection
        axis = int(np.argmax(lengths >= (1 - _SAME_LENGTH) * lengths.max()))
        basis.append((rest[:, axis] / lengths[axis]) @ rest)
        if len(rest) == 1:
            break
        # the rest of the span: rotate the rows so that one is the chosen vector, and drop it
        turned, _ = np.linalg.qr(np.column_stack([rest[:, axis], np.eye(len(rest))]))
        rest = turned[:, 1 : len(rest)].T @ rest
    return np.array(basis)


# ---------------------------------------------------------------- many adapters at once
def canonicalize_rows(layout: ParameterLayout, rows: np.ndarray) -> np.ndarray:
    """Apply the rule to flattened adapters, vectorized over rows and modules of one shape.

    Parameters
    ----------
    rows : ndarray
        ``(n, d)`` or ``(d,)``, factors in layout order.

    Returns
    -------
    ndarray
        float64, with the shape of `rows`. Every module's B @ A equals that of `rows` to float64 rounding; unused ranks
        are zeros.

    Raises
    ------
    LayoutMismatchError, InvalidInputError
        If the rows do not have the layout's size, or hold NaN or infinite values.

    Examples
    --------
    >>> canonical = canonicalize_rows(dataset.layout, dataset[:16])   # doctest: +SKIP
    """
    values = as_array(rows, "rows")
    if values.ndim not in (1, 2) or values.shape[-1] != layout.size:
        raise LayoutMismatchError(f"expected rows of {layout.size} numbers, got shape {values.shape}")
    source = np.atleast_2d(values).astype(np.float64)
    if not np.isfinite(source).all():
        raise InvalidInputError("factors hold NaN or infinite values; they have no singular value decomposition")
    result = np.empty_like(source)
    for (rank, columns, outputs), slots in group_by_shape(layout).items():
        step = max(1, NUMBERS_AT_ONCE // (len(slots) * rank * (columns + outputs)))
        for start in range(0, len(source), step):
            part = slice(start, start + step)
            a = np.stack([source[part, s.offset : s.b_offset] for s in slots], 1).reshape(-1, rank, columns)
            b = np.stack([source[part, s.b_offset : s.end] for s in slots], 1).reshape(-1, outputs, rank)
            a, b = _balanced_vectors(a, b) if rank == 1 else _balanced_factors(a, b)
            a, b = (x.reshape(-1, len(slots), x[0].size) for x in (a, b))
            for j, s in enumerate(slots):
                result[part, s.offset : s.b_offset], result[part, s.b_offset : s.end] = a[:, j], b[:, j]
    return result.reshape(values.shape)


def group_by_shape(layout: ParameterLayout) -> dict[tuple[int, int, int], list[Slot]]:
    """Group slots by rank, columns of A and rows of B; convolutions are matrices like any other."""
    groups = defaultdict(list)
    for slot in layout.slots:
        groups[slot.rank, slot.columns, slot.outputs].append(slot)
    return groups


def _balanced_vectors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Balance rank-1 factors ``(m, 1, columns)`` and ``(m, out, 1)``, which need no decomposition."""
    left, right = np.linalg.norm(a, axis=(1, 2), keepdims=True), np.linalg.norm(b, axis=(1, 2), keepdims=True)
    used = (left > 0) & (right > 0)
    # norms are divided out first: their product may overflow where its root does not
    root = np.sqrt(np.where(used, left, 0)) * np.sqrt(np.where(used, right, 0))
    a, b = a / np.where(used, left, 1) * root, b / np.where(used, right, 1) * root
    sign = _signs(a)
    return a * sign[:, :, None], b * sign[:, None, :]


def _balanced_factors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Balance factors ``(m, r, columns)`` and ``(m, out, r)`` through the SVD of the small core between two QRs."""
    rank, columns, outputs = a.shape[1], a.shape[2], b.shape[1]
    left, core_left = np.linalg.qr(b)
    right, core_right = np.linalg.qr(a.swapaxes(1, 2))
    u, values, v = np.linalg.svd(core_left @ core_right.swapaxes(1, 2), full_matrices=False)
    u, v = left @ u, v @ right.swapaxes(1, 2)
    # singular values at rounding level are set to zero
    values = np.where(values > max(columns, outputs) * np.finfo(np.float64).eps * values[:, :1], values, 0.0)
    root = np.sqrt(values)
    new_a, new_b = root[:, :, None] * v, u * root[:, None, :]
    sign = _signs(new_a)
    missing = rank - values.shape[1]  # a module may have fewer inputs or outputs than ranks
    new_a = np.pad(new_a * sign[:, :, None], ((0, 0), (0, missing), (0, 0)))
    new_b = np.pad(new_b * sign[:, None, :], ((0, 0), (0, 0), (0, missing)))
    alike = (values[:, 1:] > 0) & (values[:, :-1] - values[:, 1:] <= _SAME_VALUE * values[:, :1])
    for i in np.flatnonzero(alike.any(1)):  # only the span is determined
        found, _, _ = representative(u[i], values[i], v[i], rank, 1.0)
        new_a[i], new_b[i] = found.A, found.B
    return new_a, new_b


def _signs(a: np.ndarray) -> np.ndarray:
    size = np.abs(a)
    # of entries that agree up to rounding, the first, as in `_basis`
    first = (size >= (1 - _SAME_LENGTH) * size.max(2, keepdims=True)).argmax(2)
    return np.where(np.take_along_axis(a, first[:, :, None], 2)[:, :, 0] < 0, -1.0, 1.0)


canonicalise = deprecated_alias("canonicalise", canonicalize)
canonicalise_rows = deprecated_alias("canonicalise_rows", canonicalize_rows)
