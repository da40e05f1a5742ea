"""Readers of a person's own levels and numbers from coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .factors import Factor

MOST_COMPONENTS = 1000
MOST_ROWS = 8192
REGULARIZATION = 10.0  # divided by the number of rows, as for directions


@dataclass(frozen=True)
class Readers:
    """Linear readers of all factors.

    Attributes
    ----------
    weights : ndarray
        float32 ``(outputs, k)``: a factor has as many outputs as levels, a number one.
    intercepts : ndarray
        float64 ``(outputs,)``.
    """

    weights: np.ndarray
    intercepts: np.ndarray

    def scores(self, coefficients: np.ndarray) -> np.ndarray:
        """Return log-odds up to a constant per factor, and numbers, ``(n, outputs)`` of coefficients ``(n, <= k)``."""
        return np.asarray(coefficients @ self.weights[:, : coefficients.shape[1]].T + self.intercepts)


def outputs_of(factors: Sequence[Factor]) -> list[slice]:
    """Return the outputs of each factor."""
    ends = np.cumsum([len(f.levels) or 1 for f in factors])
    return [slice(end - (len(f.levels) or 1), end) for f, end in zip(factors, ends.tolist(), strict=True)]


def read_codes(factors: Sequence[Factor], scores: np.ndarray) -> np.ndarray:
    """Return the likeliest level of each factor, and numbers, ``(n, factors)``, from scores ``(n, outputs)``."""
    found = np.empty((len(scores), len(factors)))
    for i, (factor, part) in enumerate(zip(factors, outputs_of(factors), strict=True)):
        found[:, i] = scores[:, part].argmax(1) if factor.levels else scores[:, part.start]
    return found


def fit_readers(factors: Sequence[Factor], codes: np.ndarray, coefficients: np.ndarray) -> Readers:
    """Fit a multinomial logistic regression for each factor, and ridge regressions for numbers."""
    from sklearn.linear_model import LogisticRegression

    rows = np.arange(len(codes))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), MOST_ROWS, replace=False))
    used = min(coefficients.shape[1], MOST_COMPONENTS)
    x = coefficients[rows, :used].astype(np.float64)
    mean, std = x.mean(0), np.maximum(x.std(0, ddof=1) if len(x) > 1 else np.ones(used), 1e-12)
    x = (x - mean) / std
    outputs = outputs_of(factors)
    weights, intercepts = np.zeros((outputs[-1].stop, coefficients.shape[1])), np.zeros(outputs[-1].stop)
    for i, (factor, part) in enumerate(zip(factors, outputs, strict=True)):
        known = ~np.isnan(codes[rows, i])
        y, z = codes[rows, i][known], x[known]
        if factor.is_number:
            slopes = np.linalg.solve(z.T @ z + 0.1 * len(z) * np.eye(used), z.T @ (y - y.mean()))
            weights[part, :used], intercepts[part] = slopes, y.mean() - slopes @ z.mean(0)
            continue
        present = np.unique(y).astype(int)
        intercepts[part] = -1e9  # a level without rows is never read
        if len(present) == 1:
            intercepts[part.start + present[0]] = 0.0
            continue
        model = LogisticRegression(C=REGULARIZATION / len(y), max_iter=500).fit(z, y.astype(int))
        slopes, constants = model.coef_, model.intercept_
        if len(present) == 2:
            slopes, constants = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-constants, constants]) / 2
        weights[part.start + present, :used], intercepts[part.start + present] = slopes, constants
    weights[:, :used] /= std
    intercepts -= weights[:, :used] @ mean
    return Readers(weights.astype(np.float32), intercepts)
