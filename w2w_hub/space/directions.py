"""Directions of attributes: one to read them from coefficients, one to edit them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from ..dataset import WeightDataset
    from .space import WeightSpace

MIN_ROWS_A_CLASS = 5


@dataclass(frozen=True)
class Direction:
    """One attribute in coefficient space.

    Attributes
    ----------
    editing : ndarray
        float32 ``(k,)``, unit length: how the population moves with the attribute while the other
        attributes stay; + means more of it.
    sd : float
        Standard deviation of the fitted rows along `editing`: one unit of strength.
    reading : ndarray
        float32 ``(k,)``: the classifier's weights; the attribute's log-odds are ``c @ reading + intercept``.
    auc : float or None
        Area under the ROC curve of the reading direction on held-out rows; None without both classes there.
    positives, rows : int
        Fitted rows with the attribute, and with a label at all.
    held_out_rows : int
        Rows that `auc` is measured on.
    """

    editing: np.ndarray
    sd: float
    reading: np.ndarray
    intercept: float
    auc: float | None
    positives: int
    rows: int
    held_out_rows: int

    def probability(self, coefficients: np.ndarray) -> float:
        """The attribute's probability by the reading direction, of one point ``(>= k,)``."""
        logit = float(coefficients[: len(self.reading)] @ self.reading + self.intercept)
        return float(0.5 * (1 + np.tanh(0.5 * logit)))


def fit_directions(space: WeightSpace, dataset: WeightDataset, *, regularisation: float = 10.0) -> dict[str, Direction]:
    """A direction for each binary attribute with enough fitted rows in both classes.

    Editing directions are the attributes' partial effects on the coefficients (:func:`partial_effects`):
    how the population moves with the attribute while those entangled with it stay. A classifier's
    weights would be the wrong thing to move along: they live in components that hardly vary.

    Reading directions are logistic regressions on standardised coefficients.

    Parameters
    ----------
    regularisation : float
        Inverse strength C of the logistic regression's penalty, divided by the number of rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    binary = [name for name, kind in dataset.manifest.columns.items() if kind == "binary"]
    if not binary:
        return {}
    labels = np.stack([dataset.labels[n].astype("Float64").to_numpy(float, na_value=np.nan) for n in binary], 1)
    known = ~np.isnan(labels)
    usable = [
        j
        for j in range(len(binary))
        if min((labels[space.fitted, j] == 1).sum(), (labels[space.fitted, j] == 0).sum()) >= MIN_ROWS_A_CLASS
    ]
    if not usable:
        return {}
    fitted = space.fitted
    coefficients = space.coefficients.astype(np.float64)
    effects = partial_effects(coefficients[fitted], labels[fitted][:, usable])
    scale = np.maximum(space.coefficient_std, 1e-12)
    standardised = (coefficients - space.coefficient_mean) / scale
    result = {}
    for effect, j in zip(effects, usable, strict=True):
        train, test = fitted & known[:, j], ~fitted & known[:, j]
        truth = labels[:, j]
        model = LogisticRegression(C=regularisation / train.sum(), max_iter=500)
        model.fit(standardised[train], truth[train])
        weights = model.coef_[0] / scale
        unit = effect / np.linalg.norm(effect)
        both = len(np.unique(truth[test])) == 2
        result[binary[j]] = Direction(
            editing=unit.astype(np.float32),
            sd=float((coefficients[fitted] @ unit).std(ddof=1)),
            reading=weights.astype(np.float32),
            intercept=float(model.intercept_[0] - weights @ space.coefficient_mean),
            auc=float(roc_auc_score(truth[test], coefficients[test] @ weights)) if both else None,
            positives=int((truth[train] == 1).sum()),
            rows=int(train.sum()),
            held_out_rows=int(test.sum()),
        )
    return result


def partial_effects(coefficients: np.ndarray, labels: np.ndarray, ridge: float = 1e-2) -> np.ndarray:
    """Effects of attributes ``(n, a)`` on coefficients ``(n, k)``, each with the others held: ``(a, k)``.

    An attribute is held only where that means something: among the rows there must be some with both, some
    with either and some with neither (:func:`overlap`). Sunglasses come with eyeglasses, and a beard leaves no
    room for a mustache alone: holding those would leave part of the effect out. Where attributes do not
    depend on each other this is the difference of the classes' means. A missing label counts as the
    attribute's mean, so that it says nothing.
    """
    if len(labels) != len(coefficients):
        raise InvalidInputError(f"{len(labels)} rows of labels for {len(coefficients)} rows of coefficients")
    centred = labels - np.nanmean(labels, axis=0)
    centred = np.where(np.isnan(centred), 0.0, centred)
    target = coefficients - coefficients.mean(0)
    covariance, cross = centred.T @ centred, centred.T @ target
    covariance += ridge * len(labels) * np.diag(centred.var(0))
    together = overlap(labels)
    effects = np.empty_like(cross)
    for j in range(labels.shape[1]):
        held = [j, *(int(i) for i in np.flatnonzero(together[j]) if i != j)]
        effects[j] = np.linalg.solve(covariance[np.ix_(held, held)], cross[held])[0]
    return effects


def overlap(labels: np.ndarray) -> np.ndarray:
    """Whether each pair of binary attributes ``(n, a)`` occurs in all four combinations: boolean ``(a, a)``.

    Each combination needs five rows, as a class does to be fitted at all; missing labels count as neither.
    """
    has, lacks = (labels == 1).astype(float), (labels == 0).astype(float)
    counts = (first.T @ second for first in (has, lacks) for second in (has, lacks))
    return np.logical_and.reduce([count >= MIN_ROWS_A_CLASS for count in counts])
