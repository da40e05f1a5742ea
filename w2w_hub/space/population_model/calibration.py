"""The typical strength of a step that sets attributes, measured by cross-validation on the fitted rows.

f, the mean of people with given attributes, varies less than people do, because it is shrunk and explains only a part
of the variance. The typical step is longer by the ratio of the two standard deviations, so that people with and without
an attribute end up as far apart as in the population. It follows from coefficients alone, not from pictures.

For comparison, linear readers of the left-out rows say at which strength the median person's score reaches that of
people who have the attribute. A person is never read by a reader that was fitted with that person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...common.progress import progress
from .factors import Attribute, Exclusion, Factor
from .hyperparameters import Hyperparameters
from .kernel import Kernel, Similarities, belief_of
from .readers import Ridge, fit_readers, read_codes
from .regression import fit
from .setting import Setter

FOLDS, ONE_FOLD_FROM, TESTED, COMPONENTS = 4, 2048, 1024, 512
PEOPLE, TARGETS = 8, 60  # per target and fold; targets at most
FEWEST = 5  # people with and without an attribute, in a fold
WEAKEST, STRONGEST = 1.0, 2.0


@dataclass(frozen=True)
class Calibration:
    """A typical step's `strength`, and what linear readers ask for, by attribute and value."""

    strength: float
    by_attribute: dict[str, float]


def calibrate(
    factors: tuple[Factor, ...],
    attributes: Mapping[str, Attribute],
    excluded: tuple[Exclusion, ...],
    chosen: Hyperparameters,
    codes: np.ndarray,
    coefficients: np.ndarray,
) -> Calibration:
    """Measure on codes ``(n, factors)`` and coefficients ``(n, k)`` of the fitted rows."""
    c = coefficients[:, :COMPONENTS]
    kernel = Kernel(factors, chosen.rhos)
    people = explained = 0.0
    asked: dict[str, list[tuple[float, float]]] = {}
    for test in progress(_folds(len(codes)), "calibrating sets"):
        train, held = np.setdiff1d(np.arange(len(codes)), test), c[test].astype(np.float64)
        mean = c[train].mean(0, dtype=np.float64)
        model = fit(kernel, chosen.noise, codes[train], c[train], mean)
        people += float(((held - mean) ** 2).sum())
        explained += float((model.predict(codes[test]) ** 2).sum())
        own = read_codes(factors, fit_readers(factors, codes[train], c[train]).scores(held))
        setter = Setter(factors, attributes, excluded, model.codes, model.counts)
        similar = Similarities(kernel, model.codes)
        for name, value, judge in _judges(attributes, codes[test], held):
            for i in judge.lacking[:PEOPLE]:
                new = similar.of(setter.plan({name: value}, own[i])) - similar.of(belief_of(own[i]))
                asked.setdefault(f"{name}={value}", []).append(judge.asks(i, new @ model.weights))
    strength = (people / explained) ** 0.5 if explained > 0 else WEAKEST
    ratios = {name: np.sum(pairs, 0) for name, pairs in asked.items()}
    return Calibration(
        round(float(np.clip(strength, WEAKEST, STRONGEST)), 2),
        {name: round(float(missing / gained), 2) for name, (missing, gained) in ratios.items() if gained > 0},
    )


def _folds(count: int) -> list[np.ndarray]:
    """Return the left-out rows of each fold; of many rows, one fold of some."""
    order = np.random.default_rng(0).permutation(count)
    if count > ONE_FOLD_FROM:
        return [np.sort(order[:TESTED])]
    return [np.sort(order[fold::FOLDS]) for fold in range(FOLDS)] if count >= 2 * FOLDS else []


@dataclass(frozen=True)
class _Judge:
    """A linear reader of one value, fitted to left-out rows.

    `real` ``(n,)`` are the scores of the rows, each by a fit without it; `pull` what each row adds to its own.
    """

    ridge: Ridge
    rows: np.ndarray
    target: int
    real: np.ndarray
    pull: np.ndarray
    having: np.ndarray
    lacking: np.ndarray

    def asks(self, i: int, step: np.ndarray) -> tuple[float, float]:
        """Return what a person lacks of the median score of those who have it, and what a step gains."""
        ridge = self.ridge
        own = (step / ridge.std) @ ridge.inverse @ ((self.rows[i] - ridge.mean) / ridge.std)
        gained = float(step @ ridge.weights[self.target] - self.pull[i] * own)
        return float(np.median(self.real[self.having]) - self.real[i]), gained


def _judges(
    attributes: Mapping[str, Attribute], codes: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[str, object, _Judge]]:
    targets = list(_targets(attributes, codes))[:TARGETS]
    if not targets:
        return
    truth = np.stack([has for _, _, has in targets], 1)
    centered = np.where(np.isnan(truth), 0.0, truth - np.nanmean(truth, 0))
    ridge = Ridge.fitted(rows, lambda part: centered[part])
    real = ridge.left_out(rows, centered)
    pull = (centered - ridge.scores(rows)) / (1 - ridge.leverage(rows))[:, None]
    for j, (name, value, has) in enumerate(targets):
        having, lacking = np.flatnonzero(has == 1), np.flatnonzero(has == 0)
        yield name, value, _Judge(ridge, rows, j, real[:, j], pull[:, j], having, lacking)


def _targets(attributes: Mapping[str, Attribute], codes: np.ndarray) -> Iterator[tuple[str, object, np.ndarray]]:
    """Yield attribute, value and who has it, 1, 0 or NaN ``(n,)``, of those that enough rows have and lack."""
    for name, attribute in attributes.items():
        if attribute.is_number:
            continue
        levels = codes[:, list(attribute.factors)]
        known = ~np.isnan(levels).any(1)
        for value in (True,) if attribute.truth is not None else attribute.levels:
            has = np.full(len(codes), np.nan)
            has[known] = attribute.allowed(value)[tuple(levels[known].astype(int).T)]
            if min((has == 1).sum(), (has == 0).sum()) >= FEWEST:
                yield name, value, has
