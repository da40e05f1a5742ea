"""Fit the directions of a dataset's attributes in a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import SPACE
from ...common.constraints import (
    either,
    flag,
    instance,
    names,
    names_by_name,
    one_of,
    optional,
    positive,
    validated,
    whole,
)
from ...common.progress import progress
from ...dataset import WeightDataset
from ...errors import InvalidInputError, UnknownNameError
from .direction import Direction
from .editing import EDITINGS, HELD_BY_METHOD, overlap, partial_effects
from .evidence import auc, auc_interval, auc_null, p_value, r2, r2_interval, r2_null
from .reading import READINGS, choose_components, fit_reading
from .targets import Target, targets_of

if TYPE_CHECKING:
    from ..weight_space import WeightSpace


@validated(
    space=SPACE,
    dataset=instance(WeightDataset, "an open WeightDataset"),
    attributes=optional(names()),
    reading=one_of(*READINGS),
    editing=one_of(*EDITINGS),
    whiten=flag(),
    preserve=optional(either(names_by_name(), names())),
    components=optional(either(one_of("cv"), whole())),
    regularisation=positive(),
    seed=whole(0),
)
def fit_directions(
    space: WeightSpace,
    dataset: WeightDataset,
    *,
    attributes: Sequence[str] | None = None,
    reading: str = "logistic",
    editing: str = "overlap",
    whiten: bool = False,
    preserve: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    components: int | str | None = None,
    regularisation: float = 10.0,
    seed: int = 0,
) -> dict[str, Direction]:
    """A direction for each binary and continuous attribute, and for each level of a categorical one.

    Editing directions are the attributes' partial effects on the coefficients (:func:`partial_effects`): how the
    population moves with the attribute while those entangled with it stay. A classifier's weights would be the
    wrong thing to move along: they live in components that hardly vary. The default is the one whose edits reached
    most, see BENCHMARKS.md.

    Parameters
    ----------
    attributes : sequence of str, optional
        Columns, or levels as ``Hair=red``; by default every one that can be fitted.
    reading : {"logistic", "ridge", "lda"}
        Reader of binary attributes and levels; continuous ones are read by ridge regression.
    editing : {"overlap", "means", "all", "covariance", "reading"}
        Class means apart with those attributes held that overlap with it (default), with nothing held, with all of
        them held; the population's covariance times the reader's weights; or those weights.
    whiten : bool
        Divide the editing direction by the coefficients' variances.
    preserve : sequence of str, or mapping of name to sequence, optional
        What to hold instead of what overlaps; ``[]`` for nothing.
    components : int or "cv", optional
        Leading components to use: a number, or the number that reads the attribute best in cross-validation on the
        fitted rows; all by default.
    regularisation : float
        Inverse strength C of the logistic regression's penalty, divided by the number of rows.
    seed : int
        Seed of the folds of ``components="cv"``, of the null of permuted labels and of the bootstrap.

    Raises
    ------
    DatasetChangedError, InvalidInputError, UnknownNameError
    """
    if preserve is not None and editing not in HELD_BY_METHOD:
        raise InvalidInputError(f"preserve does not go with editing={editing!r}; use {', '.join(HELD_BY_METHOD)}")
    if isinstance(components, int) and not 1 <= components <= space.k:
        raise InvalidInputError(f"components must be 1 to {space.k} in this weight space, not {components}")
    wanted, _ = targets_of(space, dataset, attributes)
    everything = wanted if attributes is None else targets_of(space, dataset)[0]
    if not wanted:
        return {}
    population = space.require_population("row to fit directions to")
    fitted, coefficients = population.fitted, population.coefficients.astype(np.float64)
    scale = np.maximum(population.std, 1e-12)
    standardised = (coefficients - population.mean) / scale
    order = [t.name for t in everything]
    held = _held(everything, fitted, editing, preserve)
    labels = np.column_stack([t.values[fitted] for t in everything])
    effects = partial_effects(coefficients[fitted], labels, held=held)
    result = {}
    for target in progress(wanted, "directions"):
        j = order.index(target.name)
        continuous = target.kind == "float"
        known = ~np.isnan(target.values)
        train, test = fitted & known, ~fitted & known
        use = _components(components, standardised[train], target.values[train], continuous, space.k, seed)
        weights, intercept = fit_reading(
            standardised[train][:, :use], target.values[train], reading, regularisation, continuous
        )
        weights = np.concatenate([weights, np.zeros(space.k - use)]) / scale
        effect = effects[j].copy()
        if editing == "reading":
            effect = weights.copy()
        elif editing == "covariance":
            effect = weights * scale**2
        if whiten:
            effect /= scale**2
        effect[use:] = 0
        size = np.linalg.norm(effect)
        if not size > 0:
            continue  # the rows do not move with it at all
        unit = effect / size
        result[target.name] = Direction(
            editing=unit.astype(np.float32),
            sd=float((coefficients[fitted] @ unit).std(ddof=1)),
            reading=weights.astype(np.float32),
            intercept=float(intercept - weights @ population.mean),
            positives=int((target.values[train] == 1).sum()) if not continuous else int(train.sum()),
            rows=int(train.sum()),
            held_out_rows=int(test.sum()),
            kind=target.kind,
            attribute=target.attribute,
            level=target.level,
            reading_method="ridge" if continuous else reading,
            editing_method=f"{editing}, whitened" if whiten else editing,
            held=tuple(order[i] for i in np.flatnonzero(held[j]) if i != j) if editing in HELD_BY_METHOD else (),
            components=None if use == space.k else use,
            **_evidence(
                target.values[test],
                standardised[test][:, :use] @ (weights * scale)[:use],
                intercept,
                continuous,
                seed,
            ),
        )
    return result


def _evidence(truth: np.ndarray, scores: np.ndarray, intercept: float, continuous: bool, seed: int) -> dict[str, Any]:
    """The held-out figure with interval and null; None where it cannot be measured."""
    nothing: dict[str, Any] = {"auc": None}
    if continuous:
        if len(truth) < 3 or np.ptp(truth) == 0:
            return nothing
        predicted = scores + intercept
        figure, null = r2(truth, predicted), r2_null(truth, predicted, seed)
        interval, method = r2_interval(truth, predicted, seed)
        nothing["r2"] = figure
    else:
        if len(np.unique(truth)) < 2:
            return nothing
        figure, null = auc(truth, scores), auc_null(truth, scores, seed)
        interval, method = auc_interval(truth, scores)
        nothing["auc"] = figure
    return {
        **nothing,
        "interval": interval,
        "interval_method": method,
        "null": (float(null.mean()), float(np.quantile(null, 0.95))),
        "p_value": p_value(figure, null),
    }


def _components(
    asked: int | str | None, standardised: np.ndarray, truth: np.ndarray, continuous: bool, k: int, seed: int
) -> int:
    if asked == "cv":
        return choose_components(standardised, truth, continuous, seed)
    return k if asked is None else int(asked)


def _held(
    targets: list[Target],
    fitted: np.ndarray,
    editing: str,
    preserve: Sequence[str] | Mapping[str, Sequence[str]] | None,
) -> np.ndarray:
    """Which attributes (columns) are held for each (row), boolean ``(a, a)``."""
    known = [t.name for t in targets]
    if preserve is None:
        if editing == "all":
            return np.ones((len(known), len(known)), bool)
        if editing == "means":
            return np.zeros((len(known), len(known)), bool)
        return overlap(np.column_stack([t.values[fitted] for t in targets]))
    held = np.zeros((len(known), len(known)), bool)
    for i, name in enumerate(known):
        for other in preserve.get(name, ()) if isinstance(preserve, Mapping) else preserve:
            own = [j for j, t in enumerate(targets) if other in (t.name, t.attribute)]
            if not own:
                raise UnknownNameError(f"no attribute {other!r} to preserve; there are {', '.join(known)}")
            held[i, [j for j in own if targets[j].attribute != targets[i].attribute]] = True
    return held
