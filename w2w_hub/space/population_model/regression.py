"""Kernel ridge regression of coefficients on factors: exact, or by inducing rows of many configurations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernel import BLOCK, Kernel

MOST_ROWS = 4096  # stored at most
INDUCING = 2048  # of more configurations than that
SEED = 0
JITTER = 1e-6


@dataclass(frozen=True)
class Configurations:
    """The distinct rows of codes: `codes` ``(m, factors)``, `counts` ``(m,)``, and where each row is, ``(n,)``."""

    codes: np.ndarray
    counts: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray) -> Configurations:
        plain = np.where(np.isnan(codes), np.inf, codes)  # NaN is not equal to itself
        distinct, inverse, counts = np.unique(plain, axis=0, return_inverse=True, return_counts=True)
        return cls(np.where(np.isinf(distinct), np.nan, distinct), counts, inverse.reshape(-1))

    def sums(self, values: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return the sum of the rows ``(n, k)`` about `mean` of each configuration, float64 ``(m, k)``."""
        found = np.zeros((len(self.codes), values.shape[1]))
        for start in range(0, len(values), BLOCK):
            part = slice(start, start + BLOCK)
            np.add.at(found, self.inverse[part], values[part] - mean)
        return found


@dataclass(frozen=True)
class Regression:
    """A fitted mean: the kernel with `codes` ``(m, factors)`` times `weights` ``(m, k)``.

    `induced` is true if `codes` are some of the configurations only.
    """

    kernel: Kernel
    codes: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    induced: bool

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """Return the mean about the population's, float64 ``(n, k)``."""
        return np.asarray(self.kernel.matrix(codes, self.codes) @ self.weights)


def fit(
    kernel: Kernel, noise: float, codes: np.ndarray, values: np.ndarray, mean: np.ndarray, most: int = MOST_ROWS
) -> Regression:
    """Fit the mean of ``(n, k)`` values given ``(n, factors)`` codes.

    Equal configurations are averaged, which changes nothing. If there are more than `most`, :data:`INDUCING` of them
    are drawn, by how often they occur and with a fixed seed, and the mean is their best combination for all rows.
    """
    found = Configurations.of(codes)
    if len(found.codes) <= most:
        return _exact(kernel, noise, found, found.sums(values, mean) / found.counts[:, None])
    rng = np.random.default_rng(SEED)
    count = min(INDUCING, most)
    chosen = np.sort(rng.choice(len(found.codes), count, replace=False, p=found.counts / found.counts.sum()))
    return _induced(kernel, noise, found, chosen, values, mean)


def _exact(kernel: Kernel, noise: float, found: Configurations, means: np.ndarray) -> Regression:
    from scipy.linalg import cho_factor, cho_solve

    gram = kernel.matrix(found.codes, found.codes)
    gram[np.diag_indices_from(gram)] += noise / found.counts
    weights = cho_solve(cho_factor(gram, lower=True, overwrite_a=True), means)
    return Regression(kernel, found.codes, found.counts, weights, induced=False)


def _induced(
    kernel: Kernel, noise: float, found: Configurations, chosen: np.ndarray, values: np.ndarray, mean: np.ndarray
) -> Regression:
    """Minimize the squared error of all rows plus the penalty, among combinations of the chosen configurations."""
    from scipy.linalg import cho_factor, cho_solve

    codes = found.codes[chosen]
    penalty = kernel.matrix(codes, codes)
    normal = noise * penalty
    normal[np.diag_indices_from(normal)] += JITTER * noise
    for start in range(0, len(found.codes), BLOCK):
        part = slice(start, start + BLOCK)
        cross = kernel.matrix(found.codes[part], codes)
        normal += cross.T @ (found.counts[part, None] * cross)
    right = np.zeros((len(codes), values.shape[1]))
    for start in range(0, len(values), BLOCK):
        part = slice(start, start + BLOCK)
        cross = kernel.matrix(found.codes[found.inverse[part]], codes).astype(np.float32)
        right += cross.T @ (values[part] - mean.astype(np.float32))
    weights = cho_solve(cho_factor(normal, lower=True, overwrite_a=True), right, overwrite_b=True)
    return Regression(kernel, codes, found.counts[chosen], weights, induced=True)
