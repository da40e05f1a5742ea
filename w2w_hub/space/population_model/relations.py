"""Tests for attributes that exclude or imply each other, with a bound for wrong labels.

Two levels exclude each other if they occur together in at most :data:`NOISE` of the rarer one's rows, and if so few
would be improbable among independent attributes: binomial, at 5 % divided by the number of pairs tested. One column
implies another where it excludes the other's opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .columns import Column

NOISE = 0.02  # fraction of the rarer level's rows whose labels may be wrong
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Relation:
    """Two binary attributes that exclude each other (``kind="excludes"``), or of which the first implies the second.

    Attributes
    ----------
    exceptions, rows : int
        Rows that contradict the relation, of those with the rarer attribute.
    """

    first: str
    second: str
    kind: str
    exceptions: int
    rows: int


def excluded_levels(together: np.ndarray, tests: int) -> np.ndarray:
    """Return which levels of two factors exclude each other, boolean ``(a, b)``.

    Parameters
    ----------
    together : ndarray
        Counts ``(a, b)`` of the rows with both labels.
    tests : int
        Pairs of levels that are tested in all.
    """
    from scipy.stats import binom

    counts = np.asarray(together, float)
    n = counts.sum()
    if n == 0:
        return np.zeros(counts.shape, bool)
    first, second = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    rarer, other = np.minimum(first, second), np.maximum(first, second)
    few = counts <= np.floor(NOISE * rarer)
    improbable = binom.cdf(counts, rarer, other / n) <= SIGNIFICANCE / max(tests, 1)
    return np.asarray(few & improbable & (rarer > 0))


def counted_together(first: np.ndarray, second: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Return how many rows have each pair of levels, int ``(a, b)``; rows without either label do not count."""
    known = ~np.isnan(first) & ~np.isnan(second)
    flat = first[known].astype(int) * sizes[1] + second[known].astype(int)
    return np.bincount(flat, minlength=sizes[0] * sizes[1]).reshape(sizes)


def truth_table(target: np.ndarray, parents: Sequence[Column], tests: int) -> np.ndarray | None:
    """Return a binary column as a function of one or two others' levels; None if it is not one.

    It is one if each row is predicted by the majority of the *other* rows with its levels, with errors in at most
    :data:`NOISE` of the rarer class, and if so few would be improbable without the parents.

    Returns
    -------
    ndarray
        Boolean, one axis per parent; combinations that do not occur are False.
    """
    from scipy.stats import binom

    sizes = tuple(len(parent.levels) for parent in parents)
    known = ~np.isnan(target)
    for parent in parents:
        known &= ~np.isnan(parent.values)
    if not known.any():
        return None
    cells = np.ravel_multi_index([p.values[known].astype(int) for p in parents], sizes)
    truth = target[known].astype(bool)
    total, having = (np.bincount(c, minlength=int(np.prod(sizes))) for c in (cells, cells[truth]))
    rarer = int(min(truth.sum(), (~truth).sum()))
    others, of_them = total[cells] - 1, having[cells] - truth
    wrong = int((np.where(2 * of_them > others, ~truth, truth)).sum())
    if wrong > NOISE * rarer or rarer == 0:
        return None
    if binom.cdf(wrong, len(truth), rarer / len(truth)) > SIGNIFICANCE / max(tests, 1):
        return None
    return np.asarray(2 * having > total).reshape(sizes)


def relations_of(columns: Sequence[Column]) -> list[Relation]:
    """Return the exclusions and implications among binary columns."""
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    found = []
    for a, b in pairs:
        together = counted_together(a.values, b.values, (2, 2))
        excluded = excluded_levels(together, 4 * len(pairs))
        if excluded[1, 1]:
            found.append(
                Relation(
                    a.name, b.name, "excludes", int(together[1, 1]), int(min(together[1].sum(), together[:, 1].sum()))
                )
            )
        if excluded[1, 0]:
            found.append(Relation(a.name, b.name, "implies", int(together[1, 0]), int(together[1].sum())))
        if excluded[0, 1]:
            found.append(Relation(b.name, a.name, "implies", int(together[0, 1]), int(together[:, 1].sum())))
    return found
