"""Readers of a person's own levels and numbers from coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .factors import Factor
from .hyperparameters import sample_of

COMPONENTS = 1000  # the leading ones are read
CALIBRATION_ROWS = 4096
PENALTY = 0.3  # of standardized coefficients, times the number of rows
BLOCK = 4096
NEVER = -1e9  # score of a level that no row has


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
        """Return log-odds, up to a constant per factor, and numbers: ``(n, outputs)`` of coefficients ``(n, <= k)``."""
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
    """Fit a reader for each factor: ridge regression of all rows, then log-odds by a small logistic regression.

    One factorization serves all factors. The second regression is fitted to predictions of each row by the others.

    Parameters
    ----------
    codes : ndarray
        ``(n, factors)``.
    coefficients : ndarray
        ``(n, k)``, read in blocks of rows.
    """
    fit = Ridge.fitted(coefficients[:, :COMPONENTS], lambda part: _targets(factors, codes[part]))
    rows = sample_of(len(codes), CALIBRATION_ROWS)
    scores = fit.left_out(coefficients[rows, :COMPONENTS], _targets(factors, codes[rows]))
    outputs = outputs_of(factors)
    count = outputs[-1].stop
    mix, shift = np.zeros((count, count)), np.zeros(count)
    for i, (factor, part) in enumerate(zip(factors, outputs, strict=True)):
        known = ~np.isnan(codes[rows, i])
        truth, own = codes[rows, i][known], scores[known, part]
        if factor.levels:
            mix[part, part], shift[part] = _log_odds(own, truth.astype(int), len(factor.levels))
        else:
            slope = float(np.clip((own[:, 0] @ (truth - factor.center)) / max(own[:, 0] @ own[:, 0], 1e-12), 0, 10))
            mix[part, part], shift[part] = slope, factor.center
    weights = np.zeros((count, coefficients.shape[1]))
    weights[:, : fit.weights.shape[1]] = mix @ fit.weights
    return Readers(weights.astype(np.float32), shift - weights[:, : len(fit.mean)] @ fit.mean)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of several targets about their mean, on standardized coefficients.

    Attributes
    ----------
    weights : ndarray
        ``(targets, k)``, of coefficients about `mean`.
    inverse : ndarray
        ``(k, k)``, of the standardized ones.
    """

    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    inverse: np.ndarray

    @classmethod
    def fitted(cls, coefficients: np.ndarray, targets: object) -> Ridge:
        """Return the fit to ``(n, k)`` coefficients; `targets` returns ``(rows, targets)`` of a slice of rows."""
        n, k = coefficients.shape
        blocks = [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]
        mean = sum(coefficients[part].sum(0, dtype=np.float64) for part in blocks) / n
        squares = sum(((coefficients[part] - mean) ** 2).sum(0) for part in blocks)
        std = np.maximum(np.sqrt(squares / max(n - 1, 1)), 1e-12)
        gram, cross = np.zeros((k, k)), None
        for part in blocks:
            z = (coefficients[part] - mean) / std
            wanted = targets(part)  # type: ignore[operator]
            gram += z.T @ z
            cross = z.T @ wanted if cross is None else cross + z.T @ wanted
        gram[np.diag_indices(k)] += PENALTY * n
        inverse = np.linalg.inv(gram)
        assert cross is not None
        return cls((inverse @ cross).T / std, mean, std, inverse)

    def scores(self, coefficients: np.ndarray) -> np.ndarray:
        """Return predictions ``(n, targets)`` about the targets' mean."""
        return np.asarray((coefficients - self.mean) @ self.weights.T)

    def left_out(self, coefficients: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the predictions of fitted rows, each by a fit without it."""
        found, leverage = self.scores(coefficients), self.leverage(coefficients)
        return np.asarray((found - leverage[:, None] * targets) / (1 - leverage)[:, None])

    def leverage(self, coefficients: np.ndarray) -> np.ndarray:
        z = (coefficients - self.mean) / self.std
        return np.asarray(np.clip(((z @ self.inverse) * z).sum(1), 0, 0.999))


def _targets(factors: Sequence[Factor], codes: np.ndarray) -> np.ndarray:
    """Return indicators of levels and numbers about their mean; 0 where a label is missing."""
    parts = []
    for i, factor in enumerate(factors):
        values = codes[:, i]
        missing = np.isnan(values)
        if factor.is_number:
            parts.append(np.where(missing, 0.0, values - factor.center)[:, None])
            continue
        indicators = np.eye(len(factor.levels))[np.where(missing, 0, values).astype(int)] - factor.shares
        parts.append(np.where(missing[:, None], 0.0, indicators))
    return np.concatenate(parts, 1)


def _log_odds(scores: np.ndarray, truth: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and shift that turn scores ``(n, levels)`` into log-odds, by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    mix, shift = np.zeros((levels, levels)), np.full(levels, NEVER)
    present = np.unique(truth)
    if len(present) < 2:
        shift[present] = 0.0
        return mix, shift
    spread = max(float(scores.std()), 1e-12)
    model = LogisticRegression(C=1.0, max_iter=500).fit(scores / spread, truth)
    slopes, constants = model.coef_ / spread, model.intercept_
    if len(present) == 2:
        slopes, constants = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-constants, constants]) / 2
    mix[present], shift[present] = slopes, constants
    return mix, shift
