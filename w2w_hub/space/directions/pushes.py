"""Measures strength curves in coefficient space: what two kinds of readers say of a pushed person, half a vote each.

A linear reader is satisfied by half of the push that pictures need, since it does not notice when a person has left the
people with the attribute behind. The nearest rows do, and overlook what changes little of the weights. On the avatars
the two together are as far from what a judge sees in pictures as .11 of them, each alone .19 and .25
(``scripts/avatars/compare_curves.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...common.progress import progress
from ...dataset.labels.kinds import MIN_ROWS_A_CLASS, AttributeTarget
from ..population import Population
from .curve import StrengthCurve, as_fractions
from .direction import Direction
from .editing import overlap
from .half_readers import HalfReaders, Unit

STRENGTHS = tuple(0.75 * i for i in range(17))  # to 12: a class of 1 % of the rows is 10 from the others
NEIGHBORS = 25  # rows whose majority counts
MOST_ROWS, MOST_PEOPLE = 4096, 128  # rows that neighbors are found among, and people who are pushed
SAME = 0.8  # |correlation| of attributes that count as the same


def measure_curves(
    population: Population,
    directions: Mapping[str, Direction],
    targets: Sequence[AttributeTarget],
    *,
    controlled_for: np.ndarray,
    unit: Unit,
    seed: int = 0,
) -> dict[str, dict[str, StrengthCurve]]:
    """Return the curves of each direction of which there are enough rows with and without the attribute.

    By field of :class:`Direction`: `curve` of pushes that add the attribute, `removal_curve` of those against it. At
    most 4,096 fitted rows take part, of which up to 128 without the attribute are pushed, and up to 128 with it against
    the direction. The one reader says that a person shows an attribute if most of the 25 other rows with the largest
    cosine have it; the other is linear, see :class:`HalfReaders`. Fractions are means over both.

    Parameters
    ----------
    targets : sequence of AttributeTarget
        Labels of all attributes, also of those that are kept but not among `directions`.
    controlled_for : ndarray
        Boolean ``(a, a)``: the attributes that each editing direction is controlled for.
    unit : callable
        From an attribute's effect, its reader's weights and a number of components to its editing direction.
    """
    rng = np.random.default_rng(seed)
    fitted = np.flatnonzero(population.fitted)
    if len(fitted) > MOST_ROWS:
        fitted = np.sort(rng.choice(fitted, MOST_ROWS, replace=False))
    if not directions:
        return {}
    rows = _Rows(population, fitted, np.column_stack([t.kind.halves(t.values[fitted]) for t in targets]))
    linear = HalfReaders(rows.coefficients, rows.halves, population.mean, rows.scale, controlled_for, seed)
    independent = _independent(rows.halves, [t.attribute for t in targets])
    draws = {1: rng, -1: np.random.default_rng(seed)}
    found: dict[str, dict[str, StrengthCurve]] = {}
    for j, target in enumerate(progress(targets, "strength curves")):
        direction, others = directions.get(target.name), np.flatnonzero(independent[j])
        if direction is None:
            continue
        classes = [np.flatnonzero(rows.halves[:, j] == has) for has in (0, 1)]
        neighbors = min(NEIGHBORS, *map(len, classes))
        if neighbors < MIN_ROWS_A_CLASS:
            continue
        names = tuple(targets[i].name for i in others.tolist())
        found[target.name] = {}
        for field, sign, able in zip(("curve", "removal_curve"), (1, -1), classes, strict=True):
            people = np.sort(draws[sign].permutation(able)[:MOST_PEOPLE])
            readings = [
                linear.pushed(people, j, others, unit, direction.components or population.k, removing=sign < 0),
                rows.pushed(people, direction, [j, *others.tolist()], neighbors),
            ]
            shown, kept = _judged([reading for reading in readings if reading is not None], sign)
            found[target.name][field] = StrengthCurve(
                strengths=STRENGTHS,
                shown=as_fractions(shown if sign > 0 else 1 - shown),
                kept=as_fractions(kept.mean(1) if len(others) else np.ones(len(shown))),
                least_kept=as_fractions(kept.min(1) if len(others) else np.ones(len(shown))),
                inside=as_fractions(rows.inside(people, direction, sign)),
                rows=len(people),
                others=names,
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
        self, people: np.ndarray, direction: Direction, columns: list[int], neighbors: int
    ) -> Callable[[float], np.ndarray]:
        """Return what most of the nearest other rows have after a push by strength, boolean ``(people, columns)``."""
        # a point's own length does not change the order
        before = self.coefficients[people] @ self.coefficients.T / self.lengths
        before[np.arange(len(people)), people] = -np.inf
        along = direction.sd * (self.coefficients @ direction.editing) / self.lengths
        votes = np.ascontiguousarray(self.votes[:, columns])

        def read(strength: float) -> np.ndarray:
            near = np.argpartition(before + strength * along, -neighbors, axis=1)[:, -neighbors:]
            chosen = np.zeros((len(people), len(votes)), np.float32)
            np.put_along_axis(chosen, near, 1, axis=1)
            return np.asarray(chosen @ votes > 0)

        return read

    def inside(self, people: np.ndarray, direction: Direction, sign: int) -> list[float]:
        """Return the fraction of `people` no farther from the mean than the farthest fitted row, per strength."""
        step = sign * direction.sd * direction.editing / self.scale
        z = (self.coefficients[people] - self.population.mean) / self.scale
        limit = self.population.largest_distance * (1 + 1e-9)
        squares = (z**2).mean(1), 2 * (z @ step) / len(step), float(step @ step) / len(step)
        distances = (np.sqrt(squares[0] + s * squares[1] + s**2 * squares[2]) for s in STRENGTHS)
        return [float((distance <= limit).mean()) for distance in distances]


def _judged(readings: Sequence[Callable[[float], np.ndarray]], sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the fractions that show their own attribute ``(strengths,)`` and keep each other ``(strengths, others)``.

    Each reading is boolean ``(people, 1 + others)`` by strength, which is multiplied by the sign.
    """
    first = [reading(0.0) for reading in readings]
    shown, kept = [], []
    for strength in STRENGTHS:
        found = [reading(sign * strength) for reading in readings]
        shown.append(np.mean([now[:, 0].mean() for now in found]))
        same = [(now == then)[:, 1:].mean(0) for now, then in zip(found, first, strict=True)]
        kept.append(np.mean(same, axis=0))
    return np.array(shown), np.array(kept)


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
