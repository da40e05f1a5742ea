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

    The similarity of two levels is 1 if they are the same, else 0; that of two numbers a Gaussian of their difference
    in standard deviations. A missing label is the distribution of the fitted rows, so that a kernel is the inner
    product of mean embeddings: positive semidefinite, whatever is missing.

    Attributes
    ----------
    rhos : ndarray
        float64 ``(factors,)``, 0 to 1: 0 if people who differ in a factor tell nothing about each other, 1 if it does
        not matter.
    """

    factors: tuple[Factor, ...]
    rhos: np.ndarray

    def matrix(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the kernel of codes ``(n, factors)`` and ``(m, factors)``, float64 ``(n, m)``; NaN is missing."""
        found = np.empty((len(rows), len(others)))
        left, right = self._logarithms(rows), one_hot(self.factors, others)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            np.exp(left[part] @ right.T, out=found[part])
            for i, factor in enumerate(self.factors):
                if factor.is_number:
                    found[part] *= self.weighed(i, similarity(factor, rows[part, i], others[:, i]))
        return found

    def weighed(self, i: int, similar: np.ndarray) -> np.ndarray:
        """Return the part of one factor, of similarities of its values."""
        return np.asarray(self.rhos[i] + (1 - self.rhos[i]) * similar)

    def _logarithms(self, rows: np.ndarray) -> np.ndarray:
        """Return the logarithm of each factor's part with each level, or a missing one, ``(n, all levels)``.

        Its product with :func:`one_hot` is the kernel's logarithm: one matrix product for all factors with levels.
        """
        parts = [
            np.log(np.maximum(self.weighed(i, inner_products(f)[positions(f, rows[:, i])]), 1e-300))
            for i, f in enumerate(self.factors)
            if f.levels
        ]
        return np.concatenate(parts, 1) if parts else np.zeros((len(rows), 1))


class Similarities:
    """The kernel of beliefs with the same codes ``(m, factors)``, of which each level's part is computed once."""

    def __init__(self, kernel: Kernel, codes: np.ndarray):
        self.kernel, self.codes = kernel, codes
        self.levels = [
            None if factor.is_number else kernel.weighed(i, inner_products(factor)[:, positions(factor, codes[:, i])])
            for i, factor in enumerate(kernel.factors)
        ]

    def of(self, belief: Belief) -> np.ndarray:
        """Return the expected kernel of one belief, float64 ``(m,)``."""
        found = np.ones(len(self.codes))
        for part in belief:
            if len(part.weights) == 1:
                for i, value in zip(part.factors, part.values[0], strict=True):
                    found *= self._factor(i, np.array([value]))[0]
                continue
            each = np.ones((len(part.weights), len(self.codes)))
            for j, i in enumerate(part.factors):
                each *= self._factor(i, part.values[:, j])
            found *= part.weights @ each
        return found

    def _factor(self, i: int, values: np.ndarray) -> np.ndarray:
        known = self.levels[i]
        if known is not None:
            return np.asarray(known[values.astype(int)])
        return self.kernel.weighed(i, similarity(self.kernel.factors[i], values, self.codes[:, i]))


def one_hot(factors: Sequence[Factor], rows: np.ndarray) -> np.ndarray:
    """Return codes as indicators of all levels, each factor's missing one last, float64 ``(n, all levels)``."""
    parts = [np.eye(len(f.levels) + 1)[positions(f, rows[:, i])] for i, f in enumerate(factors) if f.levels]
    return np.concatenate(parts, 1) if parts else np.zeros((len(rows), 1))


def positions(factor: Factor, values: np.ndarray) -> np.ndarray:
    """Return the position of each level; a missing one comes last."""
    return np.where(np.isnan(values), len(factor.levels), values).astype(int)


def inner_products(factor: Factor) -> np.ndarray:
    """Return the inner products of levels, the missing one last, ``(levels + 1, levels + 1)``."""
    embedded = np.vstack([np.eye(len(factor.levels)), factor.shares])
    return np.asarray(embedded @ embedded.T)


def similarity(factor: Factor, values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the similarity of a factor's values ``(n,)`` and ``(m,)``, ``(n, m)``: 0 to 1."""
    if factor.levels:
        return np.asarray(inner_products(factor)[positions(factor, values)][:, positions(factor, others)])
    found = _gaussian(values[:, None] - others[None], factor)  # NaN where one is missing
    unknown, unknown_others = np.isnan(values), np.isnan(others)
    found[:, unknown_others] = _gaussian(values[:, None] - factor.shares, factor).mean(1)[:, None]
    found[unknown] = _gaussian(others[:, None] - factor.shares, factor).mean(1)
    found[np.ix_(unknown, unknown_others)] = _gaussian(factor.shares[:, None] - factor.shares, factor).mean()
    return found


def _gaussian(differences: np.ndarray, factor: Factor) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * (differences / factor.scale) ** 2))


def additive(factors: Sequence[Factor], rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the sum of the factors' similarities ``(n, m)``: the kernel of a model without interactions."""
    return np.asarray(sum(similarity(f, rows[:, i], others[:, i]) for i, f in enumerate(factors)))


def belief_of(codes: np.ndarray) -> Belief:
    """Return one person's codes ``(factors,)`` as a belief that is certain."""
    return tuple(Part((i,), np.array([[value]]), np.ones(1)) for i, value in enumerate(codes))


def unknown_part(factors: Sequence[Factor], i: int, possible: np.ndarray | None = None) -> Part:
    """Return a factor of which nothing is known, or only which levels are possible: as in the population."""
    factor = factors[i]
    if factor.is_number:
        return Part((i,), factor.shares[:, None], np.full(len(factor.shares), 1 / len(factor.shares)))
    weights = factor.shares * (1.0 if possible is None else possible)
    if not weights.sum():
        weights = np.ones(len(weights)) if possible is None else possible.astype(float)
    return Part((i,), np.arange(len(weights), dtype=float)[:, None], weights / weights.sum())
