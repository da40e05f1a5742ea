"""Population of a weight space: rows with known coefficients, and the distribution of these.

Everything here is in coefficient space and independent of the basis and of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..common.arguments import checked
from ..common.constraints import as_array, number, one_of, validated, whole
from ..common.display import Displayed
from ..common.equality import ByValue
from ..errors import InvalidInputError, UnknownNameError

COVARIANCES = ("independent", "full")
FARTHEST = 100.0  # widths of the population; an edit of 100 standard deviations reaches at most this


@dataclass(frozen=True, eq=False, repr=False)
class Spread(ByValue, Displayed):
    """Mean and standard deviation of the coefficients of the fitted rows.

    Attributes
    ----------
    mean, std : ndarray
        float64 ``(k,)``; std has ddof 1.
    rows : int
        Number of fitted rows.
    """

    mean: np.ndarray
    std: np.ndarray
    rows: int

    @validated(count=whole(1, 2**31 - 1), seed=whole(0), truncation=number(0))
    def sample(self, count: int = 1, seed: int = 0, truncation: float = 1.0) -> np.ndarray:
        """Draw Gaussian coefficients, float64 ``(count, k)``, each component independently (paper, section 4.2).

        Parameters
        ----------
        truncation : float
            Factor of the standard deviations: below 1, samples are closer to the mean.
        """
        return np.asarray(self.mean + truncation * (self.std * _standard_normal(count, len(self.mean), seed)))

    def distance(self, coefficients: np.ndarray) -> float:
        """Return the root mean square of standardized coefficients ``(<= k,)``: 1 is typical of the population."""
        return float(self._distances(as_coefficients(coefficients, len(self.mean))[None])[0])

    def _distances(self, rows: np.ndarray) -> np.ndarray:
        count = rows.shape[-1]
        z = (rows - self.mean[:count]) / np.maximum(self.std[:count], 1e-30)
        return np.asarray(np.sqrt(np.mean(z**2, axis=1)))


@dataclass(frozen=True, eq=False, repr=False)
class Population(ByValue, Displayed):
    """The rows of a dataset in the coordinates of a weight space.

    Attributes
    ----------
    ids : tuple of str
        Rows with known coefficients, fitted or held out.
    splits : ndarray
        str ``(n,)``: the split of each row.
    coefficients : ndarray
        float32 ``(n, k)``.
    fitted_split : str
        The split that the space was fitted on.
    squared_norms : ndarray or None
        float64 ``(n,)``: squared norm of each standardized row; None in spaces of early versions.
    left_out : tuple of str
        Rows of the fitted split that were not fitted.
    fitted : ndarray
        Boolean ``(n,)``: the rows that were fitted. Only these count for mean, std, covariance and neighbors.
    fitted_ids : list of str
        Their ids, in row order.
    mean, std : ndarray
        float64 ``(k,)`` of the fitted rows' coefficients.
    """

    ids: tuple[str, ...]
    splits: np.ndarray
    coefficients: np.ndarray
    fitted_split: str
    squared_norms: np.ndarray | None = None
    left_out: tuple[str, ...] = ()

    def _facts(self) -> Mapping[str, object]:
        return {"rows": len(self), "fitted": int(self.fitted.sum()), "k": self.k}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, row_id: object) -> bool:
        return isinstance(row_id, str) and row_id in self._positions

    @property
    def k(self) -> int:
        return int(self.coefficients.shape[1])

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.ids)}

    @cached_property
    def fitted(self) -> np.ndarray:
        inside = np.asarray(self.splits) == self.fitted_split
        if self.left_out:
            inside &= ~np.isin(np.asarray(self.ids), self.left_out)
        return np.asarray(inside)

    @property
    def fitted_ids(self) -> list[str]:
        return [self.ids[i] for i in np.flatnonzero(self.fitted)]

    @cached_property
    def spread(self) -> Spread:
        rows = self.coefficients[self.fitted].astype(np.float64)
        return Spread(rows.mean(0), rows.std(0, ddof=1), len(rows))

    @property
    def mean(self) -> np.ndarray:
        return self.spread.mean

    @property
    def std(self) -> np.ndarray:
        return self.spread.std

    @cached_property
    def covariance(self) -> np.ndarray:
        """float64 ``(k, k)`` of the fitted rows' coefficients."""
        return np.atleast_2d(np.cov(self.coefficients[self.fitted].astype(np.float64), rowvar=False))

    @cached_property
    def largest_distance(self) -> float:
        """Distance of the fitted row that is farthest from the mean."""
        return float(self.spread._distances(self.coefficients[self.fitted].astype(np.float64)).max())

    # -------------------------------------------------------------- rows
    @checked()
    def row(self, row_id: str) -> np.ndarray:
        """Return a row's coefficients, float32 ``(k,)``.

        Raises
        ------
        UnknownNameError
        """
        if row_id not in self._positions:
            raise UnknownNameError(
                f"no row {row_id!r} in this weight space; its ids look like {', '.join(self.ids[:3])}"
            )
        return np.asarray(self.coefficients[self._positions[row_id]])

    @checked()
    def explained_ratio(self, row_id: str) -> float | None:
        """Return the fraction of a row's squared norm, standardized, that its coefficients keep.

        None in a space of an early version, which has no norms of its rows.
        """
        kept, position = self.row(row_id).astype(np.float64), self._positions[row_id]
        if self.squared_norms is None:
            return None
        return float(np.clip(kept @ kept / max(self.squared_norms[position], 1e-300), 0, 1))

    @validated(count=whole(1))
    def nearest(self, coefficients: np.ndarray, count: int = 1) -> list[tuple[str, float]]:
        """Return (row id, cosine) of the fitted rows with the largest cosine to coefficients ``(<= k,)``."""
        c = as_coefficients(coefficients, self.k)
        rows = self.coefficients[self.fitted][:, : len(c)].astype(np.float64)
        cosines = rows @ c / (np.linalg.norm(rows, axis=1) * np.linalg.norm(c) + 1e-30)
        best = np.argsort(-cosines, kind="stable")[:count]
        names = np.asarray(self.ids)[self.fitted]
        return [(str(names[i]), float(cosines[i])) for i in best]

    @checked()
    def reconstruction_error(self, k: int | None = None) -> np.ndarray:
        """Return the fraction of each row's squared norm that is outside the span of the first k components.

        Returns
        -------
        ndarray
            float64 ``(n,)``, from 0 (all of the standardized row, about the mean, is inside) to 1.
        """
        if k is not None and k > self.k:
            raise InvalidInputError(f"k must be 1 to {self.k} in this weight space, not {k}")
        if self.squared_norms is None:
            raise InvalidInputError(
                "this weight space has no norms of its rows (an early version saved it); build it again with: w2w build"
            )
        inside = (self.coefficients[:, :k].astype(np.float64) ** 2).sum(1)
        return np.asarray(np.clip(1 - inside / np.maximum(self.squared_norms, 1e-300), 0, 1))

    # ---------------------------------------------------------- distribution
    @validated(count=whole(1, 2**31 - 1), seed=whole(0), truncation=number(0), covariance=one_of(*COVARIANCES))
    def sample(
        self, count: int = 1, seed: int = 0, truncation: float = 1.0, *, covariance: str = "independent"
    ) -> np.ndarray:
        """Draw Gaussian coefficients, float64 ``(count, k)``, with the fitted rows' mean and spread.

        Parameters
        ----------
        truncation : float
            Factor of the standard deviations: below 1, samples are closer to the mean.
        covariance : {"independent", "full"}
            Draw each component independently, as in the paper, or all jointly with their covariance. PCA coefficients
            of the fitted rows are uncorrelated, so both describe the same distribution up to numerical error.
        """
        if covariance != "full":
            return self.spread.sample(count, seed, truncation)
        values, vectors = np.linalg.eigh(self.covariance)
        drawn = _standard_normal(count, self.k, seed)
        return np.asarray(self.mean + truncation * ((drawn * np.sqrt(np.maximum(values, 0))) @ vectors.T))

    def distance(self, coefficients: np.ndarray) -> float:
        """Return the root mean square of standardized coefficients ``(<= k,)``: 1 is typical of the population."""
        return self.spread.distance(coefficients)

    def mahalanobis(self, coefficients: np.ndarray) -> float:
        """Return the Mahalanobis distance from the mean, with the full covariance; about the root of k is typical.

        :meth:`distance` ignores correlations and is divided by that root, so that 1 is typical.
        """
        c = as_coefficients(coefficients, self.k)
        apart = c - self.mean[: len(c)]
        values, vectors = np.linalg.eigh(self.covariance[: len(c), : len(c)])
        usable = values > values[-1] * len(values) * np.finfo(float).eps
        return float(np.sqrt((((apart @ vectors)[usable]) ** 2 / values[usable]).sum()))


def require_near(spread: Spread, rows: np.ndarray) -> None:
    """Raise `InvalidInputError` for coefficients ``(<= k,)`` or ``(n, <= k)`` of which only noise would be drawn.

    The population's width is the square root of its total variance, so that components of hardly any variance count
    little.
    """
    found, width = np.atleast_2d(rows).astype(np.float64), float(np.linalg.norm(spread.std))
    if not width > 0 or not len(found):
        return
    reach = float(np.linalg.norm(found - spread.mean[: found.shape[1]], axis=1).max()) / width
    if not reach <= FARTHEST:
        raise InvalidInputError(
            f"a point is {reach:.3g} times as far from the mean as the population is wide; beyond {FARTHEST:g} only "
            "noise is drawn; use smaller strengths, weights or coefficients"
        )


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows ``(n, k)`` divided by their lengths; a row of zeros stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))


def as_coefficients(what: np.ndarray, k: int, *, several: bool = False) -> np.ndarray:
    """Return coefficients as float64 ``(<= k,)``; with `several` also a matrix ``(n, <= k)``.

    Raises
    ------
    InvalidInputError
        For another shape, more than `k` coefficients, or values that are not finite.
    """
    c = as_array(what, "coefficients").astype(np.float64)
    if c.ndim not in ((1, 2) if several else (1,)) or not c.shape[-1]:
        expected = "a vector or a matrix" if several else "a vector"
        raise InvalidInputError(f"coefficients must be {expected}, got shape {c.shape}")
    if c.shape[-1] > k:
        raise InvalidInputError(f"this weight space has {k} coefficients per point, not {c.shape[-1]}")
    if not np.isfinite(c).all():
        raise InvalidInputError("coefficients contain NaN or infinite values")
    return c


def _standard_normal(count: int, k: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, k))
