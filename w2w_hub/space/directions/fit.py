"""Fit the directions of a dataset's attributes in a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...common.arguments import DATASET, SPACE
from ...common.constraints import (
    either,
    flag,
    names,
    names_by_name,
    one_of,
    optional,
    positive,
    validated,
    whole,
)
from ...common.deprecated import renamed_keywords
from ...common.progress import progress
from ...dataset import WeightDataset
from ...dataset.labels.kinds import AttributeTarget
from ...errors import InvalidInputError
from ..population import Population
from .curve import StrengthCurve
from .direction import Direction
from .editing import CONTROLLING, EDITING_METHODS, EditingMethod, partial_effects
from .pushes import measure_curves
from .reading import READINGS, choose_components, fit_reading
from .targets import FittedSpace, preserved_by_name, targets_of


@renamed_keywords(regularisation="regularization")
@validated(
    space=SPACE,
    dataset=DATASET,
    attributes=optional(names()),
    reading=one_of(*READINGS),
    editing=one_of(*EDITING_METHODS),
    whiten=flag(),
    preserve=optional(either(names_by_name(), names())),
    components=optional(either(one_of("cv"), whole())),
    regularization=positive(),
    seed=whole(0),
)
def fit_directions(
    space: FittedSpace,
    dataset: WeightDataset,
    *,
    attributes: Sequence[str] | None = None,
    reading: str = "logistic",
    editing: str = "overlap",
    whiten: bool = False,
    preserve: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    components: int | str | None = None,
    regularization: float = 10.0,
    seed: int = 0,
) -> dict[str, Direction]:
    """Fit a direction for each binary, continuous and ordinal attribute, and for each level of a categorical one.

    Editing directions are the attributes' partial effects on the coefficients (:func:`partial_effects`): how the
    population moves with the attribute while those entangled with it stay. A classifier's weights are unsuitable
    for edits: they are largest in components that hardly vary. The default is the method whose edits were most
    effective, see BENCHMARKS.md.

    Parameters
    ----------
    attributes : sequence of str, optional
        Columns, or levels as ``Hair=red``; by default every one that can be fitted.
    reading : {"logistic", "ridge", "lda"}
        Linear model for binary attributes and levels; continuous and ordinal ones use ridge regression.
    editing : {"overlap", "means", "all", "covariance", "reading"}
        ``"overlap"`` (default), ``"means"`` and ``"all"``: the difference of class means, controlled for the attributes
        that overlap with this one, for none, or for all. ``"covariance"``: the population's covariance times the
        reading direction. ``"reading"``: the reading direction itself.
    whiten : bool
        Divide the editing direction by the coefficients' variances.
    preserve : sequence of str, or mapping of name to sequence, optional
        Attributes to control for instead of those that overlap; ``[]`` for none.
    components : int or "cv", optional
        Leading components to use: a number, or the number that reads the attribute best in cross-validation on the
        fitted rows; all by default.
    regularization : float
        Inverse strength C of the logistic regression's penalty, divided by the number of rows.
    seed : int
        Seed of the folds of ``components="cv"``, of the null of permuted labels, of the bootstrap, and of the rows
        that strength curves are measured on.

    Raises
    ------
    DatasetChangedError, InvalidInputError, UnknownNameError
    """
    method = EDITING_METHODS[editing]
    if preserve is not None and method.controls is None:
        raise InvalidInputError(f"preserve cannot be combined with editing={editing!r}; use {', '.join(CONTROLLING)}")
    if isinstance(components, int) and not 1 <= components <= space.k:
        raise InvalidInputError(f"components must be 1 to {space.k} in this weight space, not {components}")
    wanted, _ = targets_of(space, dataset, attributes)
    if not wanted:
        return {}
    targets = wanted if attributes is None else targets_of(space, dataset)[0]
    population = space.require_population("row to fit directions to")
    fitted, coefficients = population.fitted, population.coefficients.astype(np.float64)
    controlled_for = _controlled_for(targets, fitted, method, preserve)
    labels = np.column_stack([t.values[fitted] for t in targets])
    effects = partial_effects(coefficients[fitted], labels, controlled_for=controlled_for)
    fit = _Fit(population, coefficients, method, reading, whiten, components, regularization, seed)
    names = [t.name for t in targets]
    found = {}
    for target in progress(wanted, "directions"):
        j = names.index(target.name)
        others = tuple(names[i] for i in np.flatnonzero(controlled_for[j]) if i != j) if method.controls else ()
        direction = fit.direction(target, effects[j], others)
        if direction is not None:
            found[target.name] = direction
    curves = measure_curves(population, found, targets, controlled_for=controlled_for, unit=fit.unit, seed=seed)
    none: dict[str, StrengthCurve] = {}
    return {
        name: replace(direction, curve=own.get("curve"), removal_curve=own.get("removal_curve"))
        for name, direction in found.items()
        for own in (curves.get(name, none),)
    }


@dataclass(frozen=True)
class _Fit:
    """Options of one call, and the coefficients ``(n, k)`` that its directions are fitted to."""

    population: Population
    coefficients: np.ndarray
    method: EditingMethod
    reading: str
    whiten: bool
    components: int | str | None
    regularization: float
    seed: int

    @cached_property
    def scale(self) -> np.ndarray:
        result: np.ndarray = np.maximum(self.population.std, 1e-12)
        return result

    @cached_property
    def standardized(self) -> np.ndarray:
        result: np.ndarray = (self.coefficients - self.population.mean) / self.scale
        return result

    def direction(
        self, target: AttributeTarget, effect: np.ndarray, controlled_for: tuple[str, ...]
    ) -> Direction | None:
        """Return a target's direction; None if the rows do not move with it at all."""
        kind, fitted = target.kind, self.population.fitted
        known = ~np.isnan(target.values)
        train, test = fitted & known, ~fitted & known
        truth = target.values[train]
        use = self._components(target, train)
        slopes, intercept = fit_reading(
            self.standardized[train][:, :use], truth, self.reading, self.regularization, kind.graded
        )
        weights = np.concatenate([slopes, np.zeros(self.population.k - use)]) / self.scale
        unit = self.unit(effect, weights, use)
        if unit is None:
            return None
        scores = self.standardized[test][:, :use] @ (weights * self.scale)[:use]
        return Direction(
            editing=unit.astype(np.float32),
            sd=float((self.coefficients[fitted] @ unit).std(ddof=1)),
            reading=weights.astype(np.float32),
            intercept=float(intercept - weights @ self.population.mean),
            positives=int(train.sum() if kind.graded else (truth == 1).sum()),
            rows=int(train.sum()),
            held_out_rows=int(test.sum()),
            kind=kind.read_out,
            attribute=target.attribute,
            level=target.level,
            reading_method="ridge" if kind.graded else self.reading,
            editing_method=f"{self.method.name}, whitened" if self.whiten else self.method.name,
            controlled_for=controlled_for,
            components=None if use == self.population.k else use,
            label_kind=kind.to_json(),
            **{"auc": None, **kind.score.evidence(target.values[test], scores, intercept, self.seed)},
        )

    def _components(self, target: AttributeTarget, train: np.ndarray) -> int:
        if self.components == "cv":
            return choose_components(self.standardized[train], target.values[train], target.kind.graded, self.seed)
        return self.population.k if self.components is None else int(self.components)

    def unit(self, effect: np.ndarray, weights: np.ndarray, use: int) -> np.ndarray | None:
        """Return the editing direction in the first components, of unit length; None if it is zero."""
        vector = self.method.vector(effect, weights, self.scale).copy()
        if self.whiten:
            vector /= self.scale**2
        vector[use:] = 0
        size = np.linalg.norm(vector)
        return vector / size if size > 0 else None


def _controlled_for(
    targets: Sequence[AttributeTarget],
    fitted: np.ndarray,
    method: EditingMethod,
    preserve: Sequence[str] | Mapping[str, Sequence[str]] | None,
) -> np.ndarray:
    """Return which attributes (columns) each one (row) is controlled for, boolean ``(a, a)``."""
    if preserve is not None:
        return preserved_by_name(targets, preserve)
    # effects are not used by a method without controls
    controls = method.controls or EDITING_METHODS["means"].controls
    assert controls is not None
    return controls(np.column_stack([t.kind.halves(t.values[fitted]) for t in targets]))
