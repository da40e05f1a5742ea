"""Measures strength curves in coefficient space: whom the nearest fitted rows say a pushed person looks like.

A linear reader is satisfied by half of the push that pictures need, since it does not notice when a person has left the
people with the attribute behind. The nearest rows do: on the avatars, fractions read from them correlate with those
that a judge reads from pictures at .8 (``scripts/avatars/compare_curves.py``), those of a linear reader at .4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...dataset.labels.kinds import MIN_ROWS_A_CLASS, AttributeTarget
from ..population import Population
from .curve import StrengthCurve
from .direction import Direction
from .editing import overlap

STRENGTHS = tuple(0.75 * i for i in range(17))  # to 12: a class of 1 % of the rows is 10 from the others
NEIGHBORS = 25  # rows whose majority counts
MOST_ROWS, MOST_PEOPLE = 4096, 128  # rows that neighbors are found among, and people who are pushed
SAME = 0.8  # |correlation| of attributes that count as the same


def measure_curves(
    population: Population, directions: Mapping[str, Direction], targets: Sequence[AttributeTarget], seed: int = 0
) -> dict[str, StrengthCurve]:
    """Return the strength curve of each direction of which there are enough rows with and without the attribute.

    At most 4,096 fitted rows take part, of which up to 128 without the attribute are pushed. A person shows an
    attribute if most of the 25 other rows with the largest cosine have it.

    Parameters
    ----------
    targets : sequence of AttributeTarget
        Labels of all attributes, also of those that are kept but not among `directions`.
    """
    rng = np.random.default_rng(seed)
    fitted = np.flatnonzero(population.fitted)
    if len(fitted) > MOST_ROWS:
        fitted = np.sort(rng.choice(fitted, MOST_ROWS, replace=False))
    if not directions:
        return {}
    rows = _Rows(population, fitted, np.column_stack([t.kind.halves(t.values[fitted]) for t in targets]))
    independent = _independent(rows.halves, [t.attribute for t in targets])
    found: dict[str, StrengthCurve] = {}
    for j, target in enumerate(targets):
        direction, others = directions.get(target.name), np.flatnonzero(independent[j])
        if direction is None:
            continue
        without = np.flatnonzero(rows.halves[:, j] == 0)
        neighbors = min(NEIGHBORS, len(without), int((rows.halves[:, j] == 1).sum()))
        if neighbors < MIN_ROWS_A_CLASS:
            continue
        people = np.sort(rng.permutation(without)[:MOST_PEOPLE])
        shown, kept, inside = rows.pushed(people, direction, j, others, neighbors)
        found[target.name] = StrengthCurve(
            strengths=STRENGTHS,
            shown=_fractions(shown),
            kept=_fractions(kept.mean(1) if len(others) else np.ones(len(shown))),
            least_kept=_fractions(kept.min(1) if len(others) else np.ones(len(shown))),
            inside=_fractions(inside),
            rows=len(people),
            others=tuple(targets[i].name for i in others.tolist()),
        )
    return found


class _Rows:
    """Rows ``(n, k)`` with the halves of their labels ``(n, a)``: 1, 0 or NaN."""

    def __init__(self, population: Population, fitted: np.ndarray, halves: np.ndarray):
        self.population, self.halves = population, halves
        self.coefficients = np.ascontiguousarray(population.coefficients[fitted], np.float32)
        self.lengths = np.maximum(np.linalg.norm(self.coefficients, axis=1), 1e-30)
        self.votes = np.where(np.isnan(halves), 0.0, 2 * halves - 1).astype(np.float32)
        self.scale = np.maximum(population.std, 1e-12)

    def pushed(
        self, people: np.ndarray, direction: Direction, own: int, others: np.ndarray, neighbors: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the fractions of `people` that show their `own` attribute, keep each other, and stay inside.

        Shapes are ``(strengths,)``, ``(strengths, others)`` and ``(strengths,)``.
        """
        moved = self.coefficients[people]
        before = moved @ self.coefficients.T / self.lengths  # a point's own length does not change the order
        before[np.arange(len(people)), people] = -np.inf
        along = direction.sd * (self.coefficients @ direction.editing) / self.lengths
        step = direction.sd * direction.editing / self.scale
        z = (moved - self.population.mean) / self.scale
        squares = [(z**2).mean(1), 2 * (z @ step) / len(step), float(step @ step) / len(step)]
        votes = np.ascontiguousarray(self.votes[:, [own, *others]])
        shown, kept, inside = [], [], []
        first = None
        for strength in STRENGTHS:
            near = np.argpartition(before + strength * along, -neighbors, axis=1)[:, -neighbors:]
            chosen = np.zeros((len(people), len(votes)), np.float32)
            np.put_along_axis(chosen, near, 1, axis=1)
            read = chosen @ votes > 0
            first = read if first is None else first
            shown.append(read[:, 0].mean())
            kept.append((read == first)[:, 1:].mean(0))
            distance = np.sqrt(squares[0] + strength * squares[1] + strength**2 * squares[2])
            inside.append((distance <= self.population.largest_distance * (1 + 1e-9)).mean())
        return np.array(shown), np.array(kept), np.array(inside)


def _independent(halves: np.ndarray, attributes: Sequence[str]) -> np.ndarray:
    """Return which attributes (columns) occur independently of each (row), boolean ``(a, a)``.

    They are of another column, all four combinations occur, and they are not nearly the same.
    """
    centered = np.where(np.isnan(halves), 0.0, halves - np.nanmean(halves, axis=0))
    lengths = np.maximum(np.linalg.norm(centered, axis=0), 1e-300)
    alike = np.abs(centered.T @ centered) / np.outer(lengths, lengths) > SAME
    names = np.asarray(attributes, object)
    result: np.ndarray = overlap(halves) & ~alike & (names[:, None] != names[None])
    return result


def _fractions(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
