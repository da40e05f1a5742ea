"""One representative for every dW = scale * B @ A: factors in the gauge of the singular value decomposition.

B @ A = (B R)(R^-1 A) for every invertible R, so that two adapters that act alike may have other factors. The
representative is B = U sqrt(S) and A = sqrt(S) V^T of the thin decomposition B @ A = U S V^T: the factors of
each rank one part have the same norm, the parts are orthogonal, the largest comes first, and in every row of A
the entry of largest magnitude (the first of equals) is positive. It is unique where the singular values of a
module differ; the scale is not applied.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from .errors import InvalidInputError, LayoutMismatchError
from .layout import ParameterLayout, Slot

NUMBERS_AT_ONCE = 1 << 22


def canonicalise(layout: ParameterLayout, rows: np.ndarray) -> np.ndarray:
    """The representatives of flattened adapters.

    Parameters
    ----------
    rows : ndarray
        ``(n, d)`` or ``(d,)``, factors in layout order.

    Returns
    -------
    ndarray
        float64, the shape of `rows`. Every module's B @ A is that of `rows` to float64 rounding; a rank that a
        module does not use is zeros.

    Raises
    ------
    LayoutMismatchError, InvalidInputError
        If the rows do not have the layout's size, or hold NaN or infinite values.

    Examples
    --------
    >>> canonical = canonicalise(dataset.layout, dataset[:16])   # doctest: +SKIP
    """
    values = np.asarray(rows)
    if values.ndim not in (1, 2) or values.shape[-1] != layout.size:
        raise LayoutMismatchError(f"expected rows of {layout.size} numbers, got shape {values.shape}")
    source = np.atleast_2d(values).astype(np.float64)
    if not np.isfinite(source).all():
        raise InvalidInputError("factors hold NaN or infinite values; they have no singular value decomposition")
    result = np.empty_like(source)
    for (rank, inputs, outputs), slots in _alike(layout).items():
        step = max(1, NUMBERS_AT_ONCE // (len(slots) * rank * (inputs + outputs)))
        for start in range(0, len(source), step):
            part = slice(start, start + step)
            a = np.stack([source[part, s.offset : s.middle] for s in slots], 1)
            b = np.stack([source[part, s.middle : s.end] for s in slots], 1)
            a, b = a.reshape(-1, rank, inputs), b.reshape(-1, outputs, rank)
            a, b = _balanced_vectors(a, b) if rank == 1 else _balanced_factors(a, b)
            a, b = (x.reshape(-1, len(slots), x[0].size) for x in (a, b))
            for j, s in enumerate(slots):
                result[part, s.offset : s.middle], result[part, s.middle : s.end] = a[:, j], b[:, j]
    return result.reshape(values.shape)


def _alike(layout: ParameterLayout) -> dict[tuple[int, int, int], list[Slot]]:
    groups = defaultdict(list)
    for slot in layout.slots:
        groups[slot.rank, slot.inputs, slot.outputs].append(slot)
    return groups


def _balanced_vectors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank one, where no decomposition is needed: ``(m, 1, in)`` and ``(m, out, 1)``."""
    left, right = np.linalg.norm(a, axis=(1, 2), keepdims=True), np.linalg.norm(b, axis=(1, 2), keepdims=True)
    used = (left > 0) & (right > 0)
    # norms are divided out first: their product may overflow where its root does not
    root = np.sqrt(np.where(used, left, 0)) * np.sqrt(np.where(used, right, 0))
    a, b = a / np.where(used, left, 1) * root, b / np.where(used, right, 1) * root
    sign = _signs(a)
    return a * sign[:, :, None], b * sign[:, None, :]


def _balanced_factors(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Any rank: ``(m, r, in)`` and ``(m, out, r)``, by the decomposition of the small core between two QRs."""
    rank = a.shape[1]
    left, core_left = np.linalg.qr(b)
    right, core_right = np.linalg.qr(a.swapaxes(1, 2))
    u, s, vt = np.linalg.svd(core_left @ core_right.swapaxes(1, 2), full_matrices=False)
    # what rounding leaves of a rank that is not used is no direction
    s = np.where(s > s[:, :1] * rank * np.finfo(float).eps, s, 0.0)
    root = np.sqrt(s)
    new_a, new_b = root[:, :, None] * (vt @ right.swapaxes(1, 2)), (left @ u) * root[:, None, :]
    sign = _signs(new_a)
    new_a, new_b = new_a * sign[:, :, None], new_b * sign[:, None, :]
    missing = rank - s.shape[1]  # a module may have fewer inputs or outputs than ranks
    return np.pad(new_a, ((0, 0), (0, missing), (0, 0))), np.pad(new_b, ((0, 0), (0, 0), (0, missing)))


def _signs(a: np.ndarray) -> np.ndarray:
    # compared in float32 with ties to the first, so that rounding noise cannot choose the entry
    largest = np.abs(a.astype(np.float32)).argmax(2)
    return np.where(np.take_along_axis(a, largest[:, :, None], 2)[:, :, 0] < 0, -1.0, 1.0)
