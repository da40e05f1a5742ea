"""Kernel ridge regression of coefficients on factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernel import Kernel

MOST_ROWS = 4096  # stored
INDUCING = 2048  # of more configurations
SAMPLE = 2048  # rows that hyperparameters are chosen on
RHOS = (0.4, 0.6, 0.8, 0.9, 0.95, 0.98)
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)
JITTER = 1e-8


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


def left_out_errors(gram: np.ndarray, noises: tuple[float, ...], values: np.ndarray) -> np.ndarray:
    """Return the squared error of each row left out, summed, for each noise ``(noises,)``.

    By the closed form of Gaussian-process regression: no model is fitted again.
    """
    from scipy.linalg import eigh

    eigenvalues, vectors = eigh(gram)
    rotated, squares = vectors.T @ values, vectors**2
    errors = np.empty(len(noises))
    for j, noise in enumerate(noises):
        inverse = 1 / (np.maximum(eigenvalues, 0) + noise)
        left = (vectors @ (inverse[:, None] * rotated)) / (squares @ inverse)[:, None]
        errors[j] = float((left**2).sum())
    return errors


def exact_weights(kernel: Kernel, noise: float, found: Configurations, means: np.ndarray) -> np.ndarray:
    """Return weights ``(m, k)`` of all configurations: the solution for all rows, of which equal ones are averaged."""
    from scipy.linalg import cho_factor, cho_solve

    gram = kernel.matrix(found.codes, found.codes)
    gram[np.diag_indices_from(gram)] += noise / found.counts
    return np.asarray(cho_solve(cho_factor(gram, lower=True, overwrite_a=True), means))
