"""Editing directions: how the population moves with an attribute."""

from __future__ import annotations

import numpy as np

from ...errors import InvalidInputError
from .targets import MIN_ROWS_A_CLASS

# held where attributes overlap; nothing held; everything held; covariance times the reader's weights; those weights
EDITINGS = ("overlap", "means", "all", "covariance", "reading")
HELD_BY_METHOD = ("overlap", "means", "all")


def partial_effects(
    coefficients: np.ndarray, labels: np.ndarray, ridge: float = 1e-2, held: np.ndarray | None = None
) -> np.ndarray:
    """Effects of attributes ``(n, a)`` on coefficients ``(n, k)``, each with others held: ``(a, k)``.

    An attribute is held only where that means something: among the rows there must be some with both, some
    with either and some with neither (:func:`overlap`). Sunglasses come with eyeglasses, and a beard leaves no
    room for a mustache alone: holding those would leave part of the effect out. Where attributes do not
    depend on each other this is the difference of the classes' means. A missing label counts as the
    attribute's mean, so that it says nothing.

    Parameters
    ----------
    held : ndarray, optional
        Boolean ``(a, a)``: which attributes (columns) to hold for each (row); where they overlap without it.
    """
    if len(labels) != len(coefficients):
        raise InvalidInputError(f"{len(labels)} rows of labels for {len(coefficients)} rows of coefficients")
    centred = labels - np.nanmean(labels, axis=0)
    centred = np.where(np.isnan(centred), 0.0, centred)
    target = coefficients - coefficients.mean(0)
    covariance, cross = centred.T @ centred, centred.T @ target
    covariance += ridge * len(labels) * np.diag(centred.var(0))
    together = overlap(labels) if held is None else held
    effects = np.empty_like(cross)
    for j in range(labels.shape[1]):
        some = [j, *(int(i) for i in np.flatnonzero(together[j]) if i != j)]
        effects[j] = np.linalg.solve(covariance[np.ix_(some, some)], cross[some])[0]
    return effects


def overlap(labels: np.ndarray) -> np.ndarray:
    """Whether each pair of attributes ``(n, a)`` occurs in all four combinations: boolean ``(a, a)``.

    Each combination needs five rows, as a class does to be fitted at all; missing labels count as neither. A
    continuous attribute counts as there above its median.
    """
    halves = np.column_stack([_halves(column) for column in labels.T]) if labels.size else labels
    has, lacks = (halves == 1).astype(float), (halves == 0).astype(float)
    counts = (first.T @ second for first in (has, lacks) for second in (has, lacks))
    return np.logical_and.reduce([count >= MIN_ROWS_A_CLASS for count in counts])


def _halves(column: np.ndarray) -> np.ndarray:
    known = column[~np.isnan(column)]
    if np.isin(known, (0, 1)).all():
        return column
    return np.where(np.isnan(column), np.nan, column > np.median(known))
