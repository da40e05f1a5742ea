"""How the factors of a population occur together: a tree of conditional distributions, to draw new people from.

Rows' own configurations are not drawn again: with many factors each is one person's, and the mean of people with just
these attributes is nearly that person. The tree connects factors that depend on each other most (Chow and Liu, 1968);
factors whose dependence may be chance are drawn independently, and levels that exclude each other never occur together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from .factors import Exclusion, Factor

SIGNIFICANCE = 0.05  # divided by the number of pairs
BINS = 5  # of a number
REDRAWN = 50  # times at most


@dataclass(frozen=True)
class Joint:
    """The distribution of codes, estimated from configurations ``(m, factors)`` and their counts ``(m,)``."""

    factors: tuple[Factor, ...]
    excluded: tuple[Exclusion, ...]
    codes: np.ndarray
    counts: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return codes ``(count, factors)`` of new people."""
        found = self._draw(count, rng)
        for _ in range(REDRAWN):
            wrong = self._contradictory(found)
            if not wrong.any():
                break
            found[wrong] = self._draw(int(wrong.sum()), rng)
        return found

    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        bins = np.zeros((count, len(self.factors)), int)
        found = np.empty((count, len(self.factors)))
        for i, parent in self._tree:
            table = self._conditionals[i]
            sums = np.cumsum(table[bins[:, parent]] if parent is not None else np.repeat(table, count, 0), 1)
            bins[:, i] = np.minimum((rng.random(count)[:, None] * sums[:, -1:] >= sums).sum(1), table.shape[1] - 1)
            found[:, i] = self._values(i, bins[:, i], rng)
        return found

    def _values(self, i: int, bins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the level of each bin; of a number, a value between the quantiles that bound it."""
        factor = self.factors[i]
        if factor.levels:
            return bins.astype(float)
        quantiles = factor.shares
        place = (bins + rng.random(len(bins))) / BINS * (len(quantiles) - 1)
        return np.asarray(np.interp(place, np.arange(len(quantiles)), quantiles))

    @cached_property
    def _bins(self) -> np.ndarray:
        """Codes as positions of levels or bins, ``(m, factors)``; -1 where they are missing."""
        found = np.full(self.codes.shape, -1)
        for i, factor in enumerate(self.factors):
            known = ~np.isnan(self.codes[:, i])
            values = self.codes[known, i]
            if factor.is_number:
                edges = np.quantile(factor.shares, np.arange(1, BINS) / BINS)
                values = np.searchsorted(edges, values, side="right")
            found[known, i] = values
        return found

    def _table(self, i: int, j: int) -> np.ndarray:
        """Return the counts of the levels of two factors together, float64 ``(levels of i, levels of j)``."""
        known = (self._bins[:, i] >= 0) & (self._bins[:, j] >= 0)
        table = np.zeros((self._size(i), self._size(j)))
        np.add.at(table, (self._bins[known, i], self._bins[known, j]), self.counts[known])
        return table

    def _size(self, i: int) -> int:
        return len(self.factors[i].levels) or BINS

    @cached_property
    def _tree(self) -> list[tuple[int, int | None]]:
        """Each factor with its parent, parents first."""
        pairs = list(combinations(range(len(self.factors)), 2))
        strengths = {(i, j): _dependence(self._table(i, j), len(pairs)) for i, j in pairs}
        group = list(range(len(self.factors)))
        edges: list[list[int]] = [[] for _ in self.factors]
        for i, j in sorted(pairs, key=lambda pair: -strengths[pair]):  # stable
            if strengths[i, j] > 0 and group[i] != group[j]:
                group = [group[i] if g == group[j] else g for g in group]
                edges[i].append(j)
                edges[j].append(i)
        found: list[tuple[int, int | None]] = []
        seen: set[int] = set()
        for root in range(len(self.factors)):
            waiting: list[tuple[int, int | None]] = [] if root in seen else [(root, None)]
            while waiting:
                i, parent = waiting.pop()
                seen.add(i)
                found.append((i, parent))
                waiting += [(j, i) for j in edges[i] if j not in seen]
        return found

    @cached_property
    def _conditionals(self) -> dict[int, np.ndarray]:
        """Of each factor its levels' weights by level of the parent, ``(levels of the parent or 1, levels)``."""
        found = {}
        for i, parent in self._tree:
            known = self._bins[:, i] >= 0
            counted = np.bincount(self._bins[known, i], self.counts[known].astype(float), self._size(i))
            own = counted if counted.any() else np.ones(self._size(i))
            table = own[None] if parent is None else self._table(parent, i)
            found[i] = np.where(table.sum(1, keepdims=True) > 0, table, own)
        return found

    def _contradictory(self, codes: np.ndarray) -> np.ndarray:
        wrong = np.zeros(len(codes), bool)
        for e in self.excluded:
            wrong |= e.table[codes[:, e.first].astype(int), codes[:, e.second].astype(int)]
        return wrong


def _dependence(table: np.ndarray, tests: int) -> float:
    """Return the mutual information of two factors from their counts; 0 if it may be chance (G-test)."""
    from scipy.stats import chi2

    total = table.sum()
    if not total:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0) / total
    some = table > 0
    information = float((table[some] * np.log(table[some] / expected[some])).sum())
    freedom = max((int((table.sum(1) > 0).sum()) - 1) * (int((table.sum(0) > 0).sum()) - 1), 1)
    return information / total if chi2.sf(2 * information, freedom) <= SIGNIFICANCE / max(tests, 1) else 0.0


def holds(allowed: Sequence[tuple[tuple[int, ...], np.ndarray]], codes: np.ndarray) -> np.ndarray:
    """Return which codes ``(n, factors)`` satisfy all tables of allowed levels, boolean ``(n,)``."""
    found = np.ones(len(codes), bool)
    for axes, table in allowed:
        found &= table[tuple(codes[:, list(axes)].astype(int).T)]
    return found
