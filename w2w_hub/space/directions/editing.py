"""Editing directions: the change of the population with an attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...common.deprecated import renamed_keywords
from ...common.text import counted
from ...dataset.labels.kinds import CONTINUOUS
from ...errors import InvalidInputError
from .targets import MIN_ROWS_A_CLASS


@renamed_keywords(held="controlled_for")
def partial_effects(
    coefficients: np.ndarray, labels: np.ndarray, ridge: float = 1e-2, controlled_for: np.ndarray | None = None
) -> np.ndarray:
    """Return the effects of attributes ``(n, a)`` on coefficients ``(n, k)``, controlled for each other: ``(a, k)``.

    By default an attribute is controlled for another only if there are rows with both, with either one and with
    neither (:func:`overlap`). Sunglasses come with eyeglasses, and a beard leaves no room
    for a mustache alone: controlling for those would leave part of the effect out. Where attributes do not depend on
    each other this is the difference of the classes' means. A missing label counts as the attribute's mean, so that
    it has no effect.

    Parameters
    ----------
    controlled_for : ndarray, optional
        Boolean ``(a, a)``: the attributes (columns) that each (row) is controlled for; by default where they overlap.
    """
    if len(labels) != len(coefficients):
        raise InvalidInputError(
            f"{counted(len(labels), 'row')} of labels for {counted(len(coefficients), 'row')} of coefficients"
        )
    centered = labels - np.nanmean(labels, axis=0)
    centered = np.where(np.isnan(centered), 0.0, centered)
    target = coefficients - coefficients.mean(0)
    covariance, cross = centered.T @ centered, centered.T @ target
    covariance += ridge * len(labels) * np.diag(centered.var(0))
    together = overlap(labels) if controlled_for is None else controlled_for
    effects = np.empty_like(cross)
    for j in range(labels.shape[1]):
        some = [j, *(int(i) for i in np.flatnonzero(together[j]) if i != j)]
        effects[j] = np.linalg.solve(covariance[np.ix_(some, some)], cross[some])[0]
    result: np.ndarray = effects
    return result


def overlap(labels: np.ndarray) -> np.ndarray:
    """Return whether each pair of attributes ``(n, a)`` occurs in all four combinations: boolean ``(a, a)``.

    Each combination needs five rows, as a class does to be fitted at all; missing labels count as neither. A
    continuous attribute counts as present above its median.
    """
    halves = np.column_stack([CONTINUOUS.halves(column) for column in labels.T]) if labels.size else labels
    has, lacks = (halves == 1).astype(float), (halves == 0).astype(float)
    counts = (first.T @ second for first in (has, lacks) for second in (has, lacks))
    result: np.ndarray = np.logical_and.reduce([count >= MIN_ROWS_A_CLASS for count in counts])
    return result


@dataclass(frozen=True)
class EditingMethod:
    """A way to find the vector that an edit moves along.

    Attributes
    ----------
    about : str
        One line of description for users.
    controls : callable or None
        From the halves of labels ``(n, a)`` to the attributes that each is controlled for ``(a, a)``; None for a method
        that looks at one attribute at a time.
    vector : callable
        From an attribute's partial effect, its reader's weights (on coefficients) and the coefficients' standard
        deviations, each ``(k,)``, to the vector ``(k,)`` of any length.
    """

    name: str
    about: str
    controls: Callable[[np.ndarray], np.ndarray] | None
    vector: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _effect(effect: np.ndarray, weights: np.ndarray, std: np.ndarray) -> np.ndarray:
    return effect


def _every(controlled: bool) -> Callable[[np.ndarray], np.ndarray]:
    return lambda halves: np.full((halves.shape[1],) * 2, controlled)


_METHODS = (
    EditingMethod("overlap", "class means apart, controlled for the attributes that overlap with it", overlap, _effect),
    EditingMethod("means", "class means apart", _every(False), _effect),
    EditingMethod("all", "class means apart, controlled for all other attributes", _every(True), _effect),
    EditingMethod(
        "covariance", "covariance of the coefficients times the reading direction", None, lambda e, w, std: w * std**2
    ),
    EditingMethod("reading", "the reading direction itself", None, lambda e, w, std: w),
)
EDITING_METHODS = {method.name: method for method in _METHODS}
CONTROLLING = tuple(method.name for method in _METHODS if method.controls is not None)
