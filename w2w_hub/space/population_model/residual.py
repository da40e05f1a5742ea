"""The covariance of what a model does not explain, as a low-rank factor and a diagonal."""

from __future__ import annotations

import numpy as np

LEADING, RANK = 1024, 512  # components whose covariance is full, and the rank that is kept of it
BLOCK = 4096


def residual_factor(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a factor ``(r, k)`` and the rest's standard deviations ``(k,)``, float32, of residuals ``(n, k)``.

    The covariance is ``factor.T @ factor + diag(rest ** 2)``; components after :data:`LEADING` are independent.
    Each row of the factor has a positive entry of largest magnitude.
    """
    from scipy.linalg import eigh

    n, k = left.shape
    used = min(k, LEADING)
    covariance = np.zeros((used, used))
    variances = np.zeros(k)
    for start in range(0, n, BLOCK):
        part = left[start : start + BLOCK]
        covariance += part[:, :used].T @ part[:, :used]
        variances += (part**2).sum(0)
    values, vectors = eigh(covariance / max(n, 1))
    order = np.argsort(-values, kind="stable")[: min(RANK, used, n)]
    order = order[values[order] > max(float(values.max(initial=0)), 0) * 1e-10]
    rows = vectors[:, order].T
    signs = np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
    factor = np.zeros((len(order), k), np.float32)
    factor[:, :used] = rows * signs * np.sqrt(values[order])[:, None]
    rest = variances / max(n, 1) - (factor.astype(np.float64) ** 2).sum(0)
    return factor, np.sqrt(np.maximum(rest, 0)).astype(np.float32)


def nearest_cosines(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the largest cosine of each vector ``(n, k)`` to one of the rows ``(m, k)``, all about the mean."""
    lengths = np.linalg.norm(values, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    return np.asarray((values @ rows.T / np.maximum(lengths, 1e-30)).max(1))
