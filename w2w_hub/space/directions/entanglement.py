"""Entanglement: the side effects that attributes have on each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.display import Displayed
from ...common.equality import ByValue
from ..population import Population
from .direction import Direction


@dataclass(frozen=True, eq=False, repr=False)
class Entanglement(ByValue, Displayed):
    """Cosines and side effects between attributes; every matrix is ``(a, a)`` float64.

    Attributes
    ----------
    editing, reading : ndarray
        Cosines between the editing directions, and between the reading directions.
    spill : ndarray
        ``[i, j]``: how far one standard deviation along i's editing direction moves j's read-out, in standard
        deviations of j's read-out over the population. The diagonal is the intended effect.
    """

    names: tuple[str, ...]
    editing: np.ndarray
    reading: np.ndarray
    spill: np.ndarray

    @property
    def mean_cosine(self) -> float | None:
        """Mean |cosine| of the reading directions over all pairs (the paper's figure 9)."""
        return mean_off_diagonal(self.reading)

    def among(self, names: Collection[str]) -> Entanglement:
        """Return the entanglement of some of the attributes, for instance of one of several synonyms."""
        kept = [i for i, name in enumerate(self.names) if name in names]
        editing, reading, spill = (matrix[np.ix_(kept, kept)] for matrix in (self.editing, self.reading, self.spill))
        return Entanglement(tuple(self.names[i] for i in kept), editing, reading, spill)

    def strongest(self, count: int = 10) -> list[tuple[str, str, float]]:
        """Return the largest side effects as ``(edited attribute, other attribute, spill)``, the strongest first."""
        pairs = np.argwhere(~np.eye(len(self.names), dtype=bool))
        effects = self.spill[tuple(pairs.T)]
        order = np.argsort(-np.abs(effects), kind="stable")[:count]
        return [(self.names[i], self.names[j], float(self.spill[i, j])) for i, j in pairs[order].tolist()]

    def to_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "editing": self.editing.round(6).tolist(),
            "reading": self.reading.round(6).tolist(),
            "spill": self.spill.round(6).tolist(),
            "mean_cosine": self.mean_cosine,
        }


def entanglement(directions: Mapping[str, Direction], population: Population) -> Entanglement:
    """Return the entanglement of all directions of a population."""
    whole = {name: d for name, d in directions.items() if len(d.editing) == population.k}
    if not whole:
        empty = np.empty((0, 0))
        return Entanglement((), empty, empty, empty)
    editing = np.stack([d.editing.astype(np.float64) for d in whole.values()])
    reading = np.stack([d.reading.astype(np.float64) for d in whole.values()])
    scores = population.coefficients[population.fitted].astype(np.float64) @ reading.T
    steps = editing * np.array([d.sd for d in whole.values()])[:, None]
    spill = steps @ reading.T / np.maximum(scores.std(0, ddof=1), 1e-300)
    return Entanglement(tuple(whole), cosines(editing), cosines(reading), spill)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosines between the rows of a matrix."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    result: np.ndarray = unit @ unit.T
    return result


def mean_off_diagonal(matrix: np.ndarray) -> float | None:
    """Return the mean magnitude of the entries off the diagonal; None if there are none."""
    count = len(matrix)
    return float(np.abs(matrix[~np.eye(count, dtype=bool)]).mean()) if count > 1 else None
