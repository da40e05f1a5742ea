"""The product kernel over factors, and what a person is believed to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .factors import Factor

BLOCK = 4096  # rows whose kernel is computed at once


@dataclass(frozen=True)
class Part:
    """The distribution of one or more factors: `values` ``(c, factors)``, of which each has a weight, ``(c,)``.

    A value is the position of a level, or a number in its own unit.
    """

    factors: tuple[int, ...]
    values: np.ndarray
    weights: np.ndarray


Belief = tuple[Part, ...]  # independent of each other; together they cover each factor once


@dataclass(frozen=True)
class Kernel:
    """Product over factors of ``rho + (1 - rho) * similarity``.

    The similarity of two levels is 1 if they are the same, else 0; of two numbers a Gaussian of their standardized
    difference. A missing label is the distribution of the fitted rows', by which the kernel stays positive
    semidefinite: it is the inner product of mean embeddings.

    Attributes
    ----------
    rho : float
        0 to 1: with 1 a factor would not matter.
    width : float
        Of the Gaussian, in standard deviations.
    """

    factors: tuple[Factor, ...]
    rho: float
    width: float = 1.0

    def matrix(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the kernel of codes ``(n, factors)`` and ``(m, factors)``, float64 ``(n, m)``; NaN is missing."""
        found = np.zeros((len(rows), len(others)))
        left, right = self._logs(rows), self._hot(others)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            np.exp(left[part] @ right.T, out=found[part])
            for i, factor in enumerate(self.factors):
                if factor.is_number:
                    found[part] *= self._numbers(factor, rows[part, i], others[:, i])
        return found

    def belief(self, belief: Belief, others: np.ndarray) -> np.ndarray:
        """Return the kernel of one belief with codes ``(m, factors)``, float64 ``(m,)``."""
        found = np.ones(len(others))
        for part in belief:
            each = np.ones((len(part.weights), len(others)))
            for j, i in enumerate(part.factors):
                each *= self._of_factor(i, part.values[:, j], others[:, i])
            found *= part.weights @ each
        return found

    def additive(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the sum of the factors' similarities: the kernel of a model without interactions."""
        found = np.zeros((len(rows), len(others)))
        for i in range(len(self.factors)):
            found += self._similarity(i, rows[:, i], others[:, i])
        return found

    def _of_factor(self, i: int, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return self.rho + (1 - self.rho) * self._similarity(i, values, others)

    def _similarity(self, i: int, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        factor = self.factors[i]
        if factor.is_number:
            return self._gaussian(factor, values, others)
        return _levels_table(factor)[_positions(factor, values)][:, _positions(factor, others)]

    def _numbers(self, factor: Factor, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return self.rho + (1 - self.rho) * self._gaussian(factor, values, others)

    def _gaussian(self, factor: Factor, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the mean over the quantiles where a value is missing."""
        first, second = (_spread_out(factor, v) for v in (values, others))  # (n, 1 or quantiles)
        total = np.zeros((len(values), len(others)))
        for a in first.T:
            for b in second.T:
                total += np.exp(-0.5 * ((a[:, None] - b[None]) / (factor.scale * self.width)) ** 2)
        return total / (first.shape[1] * second.shape[1])

    def _logs(self, rows: np.ndarray) -> np.ndarray:
        """Return the logarithm of each factor with each level, or with a missing one, ``(n, all levels)``."""
        parts = [
            np.log(np.maximum(self.rho + (1 - self.rho) * _levels_table(f)[_positions(f, rows[:, i])], 1e-300))
            for i, f in enumerate(self.factors)
            if f.levels
        ]
        return np.concatenate(parts, 1) if parts else np.zeros((len(rows), 1))

    def _hot(self, rows: np.ndarray) -> np.ndarray:
        parts = [np.eye(len(f.levels) + 1)[_positions(f, rows[:, i])] for i, f in enumerate(self.factors) if f.levels]
        return np.concatenate(parts, 1) if parts else np.zeros((len(rows), 1))


def _positions(factor: Factor, values: np.ndarray) -> np.ndarray:
    """Return the position of each level; a missing one comes last."""
    return np.where(np.isnan(values), len(factor.levels), values).astype(int)


def _levels_table(factor: Factor) -> np.ndarray:
    """Return the inner products of levels, the missing one last, ``(levels + 1, levels + 1)``."""
    embedded = np.vstack([np.eye(len(factor.levels)), factor.shares])
    return np.asarray(embedded @ embedded.T)


def _spread_out(factor: Factor, values: np.ndarray) -> np.ndarray:
    missing = np.isnan(values)
    if not missing.any():
        return values[:, None]
    return np.where(missing[:, None], factor.shares[None], values[:, None])


def belief_of(codes: np.ndarray) -> Belief:
    """Return one person's codes ``(factors,)`` as a belief that is certain."""
    return tuple(Part((i,), np.array([[value]]), np.ones(1)) for i, value in enumerate(codes))


def unknown_part(factors: Sequence[Factor], i: int, possible: np.ndarray | None = None) -> Part:
    """Return a factor of which nothing is known, or only which levels are possible: as in the population."""
    factor = factors[i]
    if factor.is_number:
        return Part((i,), factor.shares[:, None], np.full(len(factor.shares), 1 / len(factor.shares)))
    weights = factor.shares * (1.0 if possible is None else possible)
    return Part((i,), np.arange(len(weights), dtype=float)[:, None], weights / weights.sum())
