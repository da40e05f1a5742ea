"""Calibration of pushes on pictures: strength curves that a judge of pictures measures."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..common.callables import name_of
from ..common.constraints import Rule, as_list, has, names, number, optional, validated, whole
from ..common.progress import progress
from ..common.text import few
from ..errors import InvalidInputError
from ..space import Direction, Point, WeightSpace
from ..space.directions.curve import LONGEST, StrengthCurve, as_case, as_fractions
from ..space.directions.synonyms import synonyms

__all__ = ["calibrate"]
STRENGTHS = (1.5, 3.0, 4.5, 6.0, 8.0)
CASES = (("sks person", 0),)
PEOPLE = 24
MOST_PEOPLE = 10_000
Judge = Callable[[np.ndarray], Mapping[str, Any]]


def _strengths(value: Any) -> tuple[float, ...]:
    found = tuple(number(above=0, high=100).take(strength) for strength in as_list(value, "strengths"))
    if not 0 < len(found) < LONGEST or list(found) != sorted(set(found)):
        raise ValueError
    return found


def _cases(value: Any) -> tuple[tuple[str, int], ...]:
    found = tuple(as_case(case) for case in as_list(value, "cases"))
    if not 0 < len(found) <= LONGEST:
        raise ValueError
    return found


CASES_RULE = Rule("pairs of a prompt and a seed", _cases)
STRENGTHS_RULE = Rule("ascending numbers above 0 and at most 100", _strengths)


@validated(
    pipe=has("render", "a pipeline with a weight space"),
    judge=has("__call__", "a callable: pictures to attributes"),
    attributes=optional(names()),
    people=whole(1, MOST_PEOPLE),
    cases=CASES_RULE,
    strengths=STRENGTHS_RULE,
    batch_size=whole(1),
)
def calibrate(
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
    """Measure how strong pushes must be on pictures, and return the space with these curves.

    People without an attribute are drawn as they are and pushed along its editing direction, under the same prompt and
    noise. Held-out rows come first, then fitted ones, or without a population sampled points. The pipeline and its
    identity do not change.

    Parameters
    ----------
    pipe : W2WMixin
    judge : callable
        From pictures, float32 ``(n, height, width, 3)`` in [0, 1], to a mapping from attribute to n booleans or
        probabilities; .5 and more counts as shown.
    attributes : sequence of str, optional
        Directions to calibrate; by default each that the judge knows, of those that say the same only the first.
    people : int
        People per attribute, at most; those in whose pictures the judge sees it already do not count.
    cases : sequence of (str, int)
        Prompts and seeds that everybody is drawn under.
    strengths : sequence of float
        In standard deviations of the population.
    batch_size : int
        Pictures that are drawn at once.
    **options
        Keywords of :meth:`W2WMixin.render`.

    Returns
    -------
    WeightSpace
        Its directions have a `picture_curve`, from which :attr:`Direction.typical` comes; else it is the pipeline's.

    Raises
    ------
    InvalidInputError
        If the judge does not return what it should, or knows none of the attributes.
    UnknownNameError
        If an attribute has no direction.

    Examples
    --------
    >>> from w2w_hub.demo.measure import read_avatars                                     # doctest: +SKIP
    >>> calibrated = calibrate(pipe, read_avatars, ["Full_Beard"], people=8)              # doctest: +SKIP
    >>> calibrated.save("calibrated")                                                     # doctest: +SKIP
    """
    drawn = PictureJudge(pipe, judge, tuple(cases), batch_size, options)
    work = _Calibration(drawn, (0.0, *strengths))
    space: WeightSpace = pipe.space
    asked = {name: space.direction(name) for name in attributes or ()}
    points = work.people(2 * people)
    before = drawn.judged(points, "people as they are")
    found = dict(space.directions)
    for name in progress(known_to_judge(before, list(asked) or None, synonyms(found)), "calibrating"):
        without = people_without(before[name], people)
        if name in found and without:
            first = {other: shown[without] for other, shown in before.items()}
            curve = work.curve(name, found[name], [points[i] for i in without], first)
            found[name] = replace(found[name], picture_curve=curve)
    return replace(space, directions=found)


@dataclass(frozen=True)
class PictureJudge:
    """Draws people under some cases and lets a judge read the pictures."""

    pipe: Any
    judge: Judge
    cases: tuple[tuple[str, int], ...]
    batch_size: int
    options: Mapping[str, Any]

    def judged(self, points: Sequence[Point], text: str = "") -> dict[str, np.ndarray]:
        """Return per attribute whether each picture shows it, boolean ``(points, cases)``."""
        starts = range(0, len(points), self.batch_size)
        parts = []
        for start in progress(starts, text) if text else starts:
            drawn = self.pipe.render(
                points[start : start + self.batch_size], self.cases, batch_size=self.batch_size, **self.options
            )
            parts.append(self._read(drawn.reshape(-1, *drawn.shape[2:])))
        if any(part.keys() != parts[0].keys() for part in parts):
            raise InvalidInputError("the judge returned other attributes for other pictures; return the same each time")
        return {n: np.concatenate([p[n] for p in parts]).reshape(len(points), len(self.cases)) for n in parts[0]}

    def _read(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        answer = self.judge(pictures)
        if not isinstance(answer, Mapping):
            raise InvalidInputError(f"the judge must return a mapping by attribute, not {type(answer).__name__}")
        found = {}
        for name, given in answer.items():
            try:
                values = np.asarray(given)
                fits = values.dtype.kind in "bf" and values.shape == (len(pictures),)
                fits = fits and (values.dtype.kind == "b" or bool(((values >= 0) & (values <= 1)).all()))
            except (TypeError, ValueError):
                fits = False
            if not fits or not isinstance(name, str):
                raise InvalidInputError(
                    f"the judge must return {len(pictures)} booleans or probabilities for {name!r}, "
                    f"not {reprlib.repr(given)}"
                )
            found[name] = np.asarray(values >= 0.5)
        return found


def known_to_judge(before: Mapping[str, np.ndarray], wanted: Sequence[str] | None, offered: Iterable[str]) -> list[str]:
    """Return the attributes to calibrate: the wanted ones, or else those on offer that a judge's answers are about.

    Raises
    ------
    InvalidInputError
        If the answers are about none on offer, or not about one that is wanted.
    """
    offered = list(offered)
    chosen = [name for name in offered if name in before] if wanted is None else list(wanted)
    unknown = [name for name in chosen if name not in before]
    if unknown or not chosen:
        raise InvalidInputError(f"the judge knows {few(list(before)) or 'no attribute'}, not {few(unknown or offered)}")
    return chosen


def people_without(shown: np.ndarray, most: int) -> list[int]:
    """Return the positions of the first people none of whose pictures show an attribute, of ``(people, cases)``."""
    return [int(i) for i in np.flatnonzero(~shown.any(1))[:most]]


@dataclass(frozen=True)
class _Calibration:
    """What is drawn, and the strengths of pushes."""

    drawn: PictureJudge
    strengths: tuple[float, ...]

    @property
    def space(self) -> WeightSpace:
        space: WeightSpace = self.drawn.pipe.space
        return space

    def people(self, count: int) -> list[Point]:
        population = self.space.population
        if population is None:
            return self.space.sample(count, seed=0)
        order = np.argsort(population.fitted, kind="stable")[:count]  # the held-out rows first
        return [self.space.row(population.ids[i]) for i in order]

    def curve(
        self, name: str, direction: Direction, points: list[Point], before: Mapping[str, np.ndarray]
    ) -> StrengthCurve:
        """Return the strength curve of pushing `points`, whose own pictures are judged as `before`."""
        others = [other for other in before if self._counts(other, name, direction)]
        shown, kept, inside = [], [], []
        for strength in self.strengths:
            pushed = [self.space.edit(point, {name: strength}) for point in points]
            after = self.drawn.judged(pushed) if strength else before
            shown.append(after[name].mean())
            kept.append([(after[other] == before[other]).mean() for other in others] or [1.0])
            farthest = self.space.largest_distance
            distances = np.array([self.space.distance(point) for point in pushed])
            inside.append(1.0 if farthest is None else (distances <= farthest * (1 + 1e-9)).mean())
        numbers = {**self.drawn.pipe.generation, **self.drawn.options}
        return StrengthCurve(
            strengths=self.strengths,
            shown=as_fractions(shown),
            kept=as_fractions(np.mean(kept, axis=1)),
            least_kept=as_fractions(np.min(kept, axis=1)),
            inside=as_fractions(inside),
            rows=len(points),
            others=tuple(others),
            judge=name_of(self.drawn.judge),
            cases=self.drawn.cases,
            settings={key: value for key, value in numbers.items() if type(value) in (int, float)},
        )

    def _counts(self, other: str, name: str, direction: Direction) -> bool:
        """Return whether an attribute is one that a push should leave: one that occurs independently."""
        if direction.curve is not None:
            return other in direction.curve.others
        found = self.space.directions.get(other)
        return other != name and (found is None or found.attribute is None or found.attribute != direction.attribute)
