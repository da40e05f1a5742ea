"""Draws new people without labels: near the mean of rows that are alike, with what they do not share drawn anew.

What makes a person hold together under every prompt are combinations that occur; independent coefficients have none of
them. The mean of a row's nearest others keeps what they share, as the population model's mean of people with the same
attributes does, and holds no row's own features. The same row is not among them, so that it is not copied. The residual
is as large as makes samples as near to their nearest row as fitted rows are to another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInputError
from .population import Population, unit_rows

NEIGHBORS = 15  # of a row, at most
ROWS_PER_NEIGHBOR, FEWEST = 16, 10  # fewer rows have fewer neighbors; so many rows are needed
SHARES = tuple(round(0.05 * i, 2) for i in range(1, 20))  # of the variance that may be residual
RESIDUALS = 256  # rows whose residuals are mixed
QUERIES, BLOCK = 1024, 8192  # rows that are compared at a time, and with how many


def draw_near(population: Population, count: int, seed: int) -> np.ndarray:
    """Draw people, float64 ``(count, k)``, who are as spread about the mean as the fitted rows.

    The time per sample is that of one product of the rows with a vector; beside it some 256 rows are compared with all.

    Raises
    ------
    InvalidInputError
        For fewer than :data:`FEWEST` fitted rows.
    """
    rows = _Rows(population.coefficients, np.flatnonzero(population.fitted), population.mean)
    if len(rows) < FEWEST:
        raise InvalidInputError(
            f"drawing people near others needs at least {FEWEST} fitted rows, this weight space has {len(rows)}; "
            "choose method 'gaussian'",
            name="method",
        )
    starts, mixes = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    chosen = starts.integers(0, len(rows), count)
    some = np.sort(np.random.default_rng(0).permutation(len(rows))[:RESIDUALS])
    deviations, typical = rows.deviations(some), rows.neighbor_means(some)
    residuals = deviations - typical
    gain, scale = _amounts(rows, some, deviations, typical, residuals)
    return np.asarray(rows.mean + gain * rows.neighbor_means(chosen) + scale * _mixed(residuals, count, mixes))


def _mixed(residuals: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw Gaussian vectors ``(count, k)`` with the covariance of residuals ``(m, k)``."""
    return np.asarray(rng.standard_normal((count, len(residuals))) @ residuals / len(residuals) ** 0.5)


def _amounts(
    rows: _Rows, some: np.ndarray, deviations: np.ndarray, typical: np.ndarray, residuals: np.ndarray
) -> tuple[float, float]:
    """Return the factors of neighbors' means and of residuals in samples, from those of some rows ``(m, k)``.

    Samples vary as rows do. Of :data:`SHARES` of the residual the one is chosen whose mean cosine to the nearest row is
    closest to that of these rows to another one.
    """
    total = float((deviations**2).sum(1).mean())
    drawn = _mixed(residuals, len(some), np.random.default_rng(0))
    factors = [(_ratio((1 - s) * total, typical), _ratio(s * total, residuals)) for s in SHARES]
    near, target = rows.nearest_cosines(typical, drawn, factors), rows.nearest_other(some)
    return factors[int(np.abs(near - target).argmin())]


@dataclass(frozen=True)
class _Rows:
    """The rows of a matrix ``(n, k)`` at some positions ``(m,)``, and their mean ``(k,)``."""

    matrix: np.ndarray
    positions: np.ndarray
    mean: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def deviations(self, which: np.ndarray) -> np.ndarray:
        """Return rows about the mean, float64."""
        return np.asarray(self.matrix[self.positions[which]] - self.mean)

    def neighbor_means(self, which: np.ndarray) -> np.ndarray:
        """Return the mean of the nearest others of some rows ``(q,)``, about the mean of all: float64 ``(q, k)``.

        Near is a large cosine about the mean. There are :data:`NEIGHBORS` of them, or fewer among few rows.
        """
        count = int(np.clip(len(self) // ROWS_PER_NEIGHBOR, 2, NEIGHBORS))
        found = np.empty((len(which), self.matrix.shape[1]))
        for start in range(0, len(which), QUERIES):
            _, near = self._nearest(which[start : start + QUERIES], count)
            for i, others in enumerate(np.sort(near, axis=1), start):
                found[i] = self.deviations(others).mean(0)
        return found

    def nearest_other(self, which: np.ndarray) -> float:
        """Return the mean cosine of some rows to the nearest other one."""
        cosines, _ = self._nearest(which, 1)
        return float(cosines.mean())

    def nearest_cosines(
        self, means: np.ndarray, residuals: np.ndarray, factors: Sequence[tuple[float, float]]
    ) -> np.ndarray:
        """Return the mean cosine to the nearest row of sums of `means` and `residuals` ``(m, k)``, for each factors."""
        products = [(a * b).sum(1) for a, b in ((means, means), (means, residuals), (residuals, residuals))]
        best = np.full((len(factors), len(means)), -np.inf)
        for start in range(0, len(self), BLOCK):
            directions = self._directions(np.arange(start, min(start + BLOCK, len(self)))).T
            along, beside = means.astype(np.float32) @ directions, residuals.astype(np.float32) @ directions
            for found, (gain, scale) in zip(best, factors, strict=True):
                np.maximum(found, (np.float32(gain) * along + np.float32(scale) * beside).max(1), out=found)
        for found, (gain, scale) in zip(best, factors, strict=True):
            squares = gain**2 * products[0] + 2 * gain * scale * products[1] + scale**2 * products[2]
            found /= np.sqrt(np.maximum(squares, 1e-300))
        return np.asarray(best.mean(1))

    def _nearest(self, which: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest cosines of some rows ``(q,)`` to others, and which these are, both ``(q, count)``."""
        given = self._directions(which)
        best, where = np.empty((len(which), 0), np.float32), np.empty((len(which), 0), int)
        for start in range(0, len(self), BLOCK):
            block = np.arange(start, min(start + BLOCK, len(self)))
            cosines = given @ self._directions(block).T
            inside = np.flatnonzero((which >= start) & (which < start + len(block)))
            cosines[inside, which[inside] - start] = -np.inf
            top = _largest(cosines, count)
            best = np.concatenate([best, np.take_along_axis(cosines, top, 1)], 1)
            where = np.concatenate([where, block[top]], 1)
        top = _largest(best, count)
        return np.take_along_axis(best, top, 1), np.take_along_axis(where, top, 1)

    def _directions(self, which: np.ndarray) -> np.ndarray:
        """Return rows about the mean with length 1, float32."""
        return unit_rows(self.matrix[self.positions[which]] - self.mean.astype(np.float32))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the largest values of each row, ``(rows, <= count)``."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]


def _ratio(wanted: float, found: np.ndarray) -> float:
    """Return the factor by which vectors ``(m, k)`` have the wanted mean square length."""
    square = float((found**2).sum(1).mean())
    return (wanted / square) ** 0.5 if square > 0 else 0.0
