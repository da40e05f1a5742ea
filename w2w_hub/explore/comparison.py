"""Several people beside each other: similarities, shares of a mix, and how directions overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..space import Point, WeightSpace
from ..space.directions.synonyms import synonyms
from .evidence import in_words, values_in_words


@dataclass(frozen=True)
class Comparison:
    """Facts about several people.

    Attributes
    ----------
    cosines : ndarray
        float64 ``(n, n)``, of the coefficients.
    distances : tuple of float
        Of each from the population's mean, where 1 is typical.
    differing : tuple of (str, tuple of str)
        Attributes in which they differ, each with everybody's value in words.
    """

    cosines: np.ndarray
    distances: tuple[float, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]


def compare_people(space: WeightSpace, points: Sequence[Point]) -> Comparison:
    """Compare the points of several people."""
    rows = np.zeros((len(points), space.k))
    for row, point in zip(rows, points, strict=True):
        row[: len(point.coefficients)] = point.coefficients
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    model = space.population_model
    read: list[Mapping[str, Any]] = [{} if model is None else model.read(row) for row in rows]
    words = [values_in_words(each) for each in read]
    table = [(in_words(name), tuple(each[name] for each in words)) for name in (words[0] if words else {})]
    return Comparison(
        unit @ unit.T, tuple(space.distance(point) for point in points),
        tuple((name, values) for name, values in table if len(set(values)) > 1),
    )  # fmt: skip


def overlaps(space: WeightSpace, most: int = 12) -> list[tuple[str, str, float]]:
    """Return the pairs of attributes whose editing directions overlap most, with cosines; synonyms are left out."""
    names = [name for name in synonyms(space.directions) if len(space.directions[name].editing) == space.k]
    if len(names) < 2:
        return []
    rows = np.stack([space.directions[name].editing.astype(np.float64) for name in names])
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit.T
    pairs = [
        (i, j) for i in range(len(names)) for j in range(i)
        if space.directions[names[i]].attribute != space.directions[names[j]].attribute
    ]  # fmt: skip
    pairs.sort(key=lambda pair: -abs(cosines[pair]))
    return [(names[j], names[i], float(cosines[i, j])) for i, j in pairs[:most]]
