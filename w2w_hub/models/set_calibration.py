"""Calibration of sets on pictures: the strength by which setting an attribute typically shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..common.callables import name_of
from ..common.constraints import has, names, optional, validated, whole
from ..common.progress import progress
from ..common.text import few
from ..errors import InvalidInputError
from ..space import Point, PopulationModel, WeightSpace
from ..space.edits import require_model
from .calibration import (
    CASES,
    CASES_RULE,
    MOST_PEOPLE,
    PEOPLE,
    STRENGTHS_RULE,
    Judge,
    PictureJudge,
    known_to_judge,
    people_without,
)

__all__ = ["calibrate_sets"]
STRENGTHS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
PICTURES = "pictures"  # key of the model's evidence


@validated(
    pipe=has("render", "a pipeline with a weight space"),
    judge=has("__call__", "a callable: pictures to attributes"),
    attributes=optional(names()),
    people=whole(1, MOST_PEOPLE),
    cases=CASES_RULE,
    strengths=STRENGTHS_RULE,
    batch_size=whole(1),
)
def calibrate_sets(
    pipe: Any,
    judge: Judge,
    attributes: Sequence[str] | None = None,
    *,
    people: int = PEOPLE,
    cases: Sequence[tuple[str, int]] = CASES,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int = 32,
    **options: Any,
) -> WeightSpace:
    """Measure on pictures at which strength sets work best, and return the space with it as their default.

    Fitted people without an attribute are drawn before and after it is set at each strength, under the same prompt and
    noise. The strength is the one with the largest product of two fractions: of pictures that show the attribute, and
    of other attributes that are as they were, both averaged over attributes. Held-out people are never drawn. Other
    attributes that a set brings or removes, such as another color of hair, do not count. The pipeline does not change.

    Parameters
    ----------
    pipe : W2WMixin
    judge : callable
        From pictures, float32 ``(n, height, width, 3)`` in [0, 1], to a mapping from attribute to n booleans or
        probabilities; .5 and more counts as shown.
    attributes : sequence of str, optional
        Attributes that are set to True; by default each that the judge knows.
    people : int
        People per attribute, at most; those in whose pictures the judge sees it already do not count.
    cases : sequence of (str, int)
        Prompts and seeds that everybody is drawn under.
    strengths : sequence of float
        Multiples of the model's step.
    batch_size : int
        Pictures that are drawn at once.
    **options
        Keywords of :meth:`W2WMixin.render`.

    Returns
    -------
    WeightSpace
        Its population model has the `strength`, and the fractions in ``evidence["pictures"]``.

    Raises
    ------
    InvalidInputError
        If the space has no population model or no rows, if the judge does not return what it should or knows none of
        the attributes, or if everybody shows all of them already.
    UnknownNameError
        If an attribute is none of the model's.

    Examples
    --------
    >>> from w2w_hub.demo.measure import read_avatars                                     # doctest: +SKIP
    >>> calibrated = calibrate_sets(pipe, read_avatars, people=8)                         # doctest: +SKIP
    >>> calibrated.save("calibrated")                                                     # doctest: +SKIP
    """
    space: WeightSpace = pipe.space
    model = require_model(space, "calibrating sets")
    for name in attributes or ():
        model.implied(model.mean, {name: True})  # raises for what cannot be set
    drawn = PictureJudge(pipe, judge, tuple(cases), batch_size, options)
    points = _fitted_people(space, 2 * people)
    before = drawn.judged(points, "people as they are")
    binary = [name for name, attribute in model.attributes.items() if attribute.truth is not None]
    chosen = known_to_judge(before, attributes or None, binary)
    totals = [_Total(strength) for strength in strengths]
    for name in progress(chosen, "calibrating"):
        without = people_without(before[name], people)
        if not without:
            continue
        stays = _what_stays(model, [points[i] for i in without], name, list(before))
        for total in totals:
            changed = [space.edit(points[i], set={name: True}, strength=total.strength) for i in without]
            after = drawn.judged(changed)
            same = np.stack([after[other] == before[other][without] for other in before])  # (attributes, people, cases)
            total.add(after[name].mean(), same[stays].mean() if stays.any() else 1.0)
    if not totals[0].shown:
        raise InvalidInputError(f"the pictures of everybody show {few(chosen)} already; choose other attributes")
    best = max(totals, key=lambda total: total.product)
    evidence = {
        "strengths": [total.strength for total in totals],
        "shown": [round(float(np.mean(total.shown)), 4) for total in totals],
        "kept": [round(float(np.mean(total.kept)), 4) for total in totals],
        "attributes": len(totals[0].shown), "people": people, "judge": name_of(judge),
        "cases": [list(case) for case in cases],
    }  # fmt: skip
    found = replace(model, strength=best.strength, evidence={**model.evidence, PICTURES: evidence})
    return replace(space, population_model=found)


@dataclass
class _Total:
    """Fractions at one strength, of each attribute."""

    strength: float
    shown: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)

    def add(self, shown: float, kept: float) -> None:
        self.shown.append(float(shown))
        self.kept.append(float(kept))

    @property
    def product(self) -> float:
        return float(np.mean(self.shown) * np.mean(self.kept))


def _fitted_people(space: WeightSpace, count: int) -> list[Point]:
    population = space.require_population("row to draw")
    rows = np.flatnonzero(population.fitted)
    if len(rows) > count:
        rows = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
    return [space.row(population.ids[i]) for i in rows]


def _what_stays(model: PopulationModel, points: Sequence[Point], name: str, judged: Sequence[str]) -> np.ndarray:
    """Return which judged attributes a set of one leaves as they are, boolean ``(attributes, people)``."""
    found = np.zeros((len(judged), len(points)), bool)
    for j, point in enumerate(points):
        own, new = model.read(point.coefficients), model.implied(point.coefficients, {name: True})
        found[:, j] = [other != name and other in own and own[other] == new[other] for other in judged]
    return found
