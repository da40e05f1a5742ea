"""StrengthCurve: what pushes along a direction do, by their strength."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np

from ...common.constraints import Rule, names, number, text, validated, whole
from ...common.display import Displayed
from ...common.equality import ByValue

REACHED = 0.8  # fraction of people who show the attribute, or keep every other one, at a strength that counts as good
SATURATED = 0.95  # fraction of the curve's range
NEARLY = 0.02  # by which the smallest of several good strengths may be worse than the best
LONGEST = 1000  # strengths of a curve
MOST_ROWS = 2**53  # the largest integer that every JSON reader represents exactly
FRACTIONS = ("shown", "kept", "least_kept", "inside")
JUDGE = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?", re.ASCII)


@dataclass(frozen=True, eq=False, repr=False)
class StrengthCurve(ByValue, Displayed):
    """The effect of pushes on people without the attribute, by strength; every fraction is of these people.

    Attributes
    ----------
    strengths : tuple of float
        Standard deviations of the population along the direction, ascending from 0.
    shown : tuple of float
        Fraction that shows the attribute, per strength. A continuous attribute is shown above the median.
    kept : tuple of float
        Fraction of the `others` that read as before, mean over people and attributes.
    least_kept : tuple of float
        Fraction that keeps the attribute which changes most; 1 without `others`.
    inside : tuple of float
        Fraction no farther from the population's mean than its farthest fitted row.
    rows : int
        Number of people.
    others : tuple of str
        The other attributes that count: those that occur independently of this one.
    judge : str
        Name of the judge of pictures; empty if readers of coefficients judged.
    cases : tuple of (str, int)
        Prompts and seeds of the pictures.
    settings : dict of str to float
        Numbers that the pictures were generated with, for instance ``num_inference_steps``.
    """

    strengths: tuple[float, ...]
    shown: tuple[float, ...]
    kept: tuple[float, ...]
    least_kept: tuple[float, ...]
    inside: tuple[float, ...]
    rows: int
    others: tuple[str, ...] = ()
    judge: str = ""
    cases: tuple[tuple[str, int], ...] = ()
    settings: dict[str, float] = field(default_factory=dict)

    def _facts(self) -> Mapping[str, object]:
        return {"judged by": self.judge or "readers of coefficients", "people": self.rows, **self.summary()}

    # ------------------------------------------------------------ what it says
    @property
    def reaches(self) -> float | None:
        """Smallest strength at which 80 % show the attribute; None if there is none."""
        return self.strength_of(REACHED)

    @property
    def saturates(self) -> float | None:
        """Smallest strength with 95 % of the range; None if `shown` never rises, or still rises at the end."""
        top = max(self.shown)
        found = None if self.range <= 0 else self.strength_of(self.shown[0] + SATURATED * self.range)
        still = len(self.shown) > 1 and top - self.shown[-2] > (1 - SATURATED) * self.range
        return None if still and self.shown[-1] == top < 1 else found

    @property
    def breaks(self) -> float | None:
        """Smallest strength at which fewer than 80 % keep one of the others; None if there is none."""
        lost = [1 - value for value in self.least_kept]
        return _crossing(self.strengths, lost, 1 - REACHED, beyond=True)

    @property
    def typical(self) -> float | None:
        """Recommended strength; None if no strength shows the attribute in at least half.

        The smallest one at which both the attribute is shown and the most affected other attribute is kept about as
        often as at the best, of those at which at least half of the people are inside of the population.
        """
        fine = np.linspace(0, self.strengths[-1], 40 * len(self.strengths) + 1)
        shown, least, inside = (np.interp(fine, self.strengths, getattr(self, f)) for f in ("shown", *FRACTIONS[2:]))
        both = np.where(inside >= 0.5, np.minimum(shown, least), -1.0)
        first = int(np.argmax(both >= both.max() - NEARLY))
        return float(fine[first]) if first and both.max() >= 0.5 else None

    @property
    def range(self) -> float:
        """Largest gain of `shown`."""
        return max(self.shown) - self.shown[0]

    @property
    def smoothness(self) -> float | None:
        """1 less the largest distance of `shown` from a straight line to its saturation, as a fraction of the range.

        At 1 equal steps look equal; :meth:`strength_of` gives strengths that look equally far apart.
        """
        end = self.saturates or self.strengths[-1]
        if self.range <= 0 or end <= 0:
            return None
        where = np.linspace(0, 1, 101)
        shown = np.interp(where * end, self.strengths, self.shown)
        line = self.shown[0] + where * (shown[-1] - self.shown[0])
        return float(np.clip(1 - np.abs(shown - line).max() / self.range, 0, 1))

    @property
    def preservation(self) -> float | None:
        """`kept` at the typical strength; None without one."""
        return None if self.typical is None else self.at(self.typical)["kept"]

    @validated(strength=number(0))
    def at(self, strength: float) -> dict[str, float]:
        """Return the fractions at a strength between 0 and the largest, interpolated; beyond it, those at the end."""
        return {name: float(np.interp(strength, self.strengths, getattr(self, name))) for name in FRACTIONS}

    @validated(shown=number(0, 1))
    def strength_of(self, shown: float) -> float | None:
        """Return the smallest strength at which a fraction shows the attribute, interpolated; None if there is none."""
        return _crossing(self.strengths, self.shown, shown)

    def summary(self) -> dict[str, float | None]:
        """Return what follows from the curve."""
        names = ("typical", "reaches", "saturates", "breaks", "range", "smoothness", "preservation")
        values = {name: getattr(self, name) for name in names}
        return {name: None if value is None else round(value, 4) for name, value in values.items()}

    # ------------------------------------------------------------ JSON
    def to_json(self) -> dict[str, Any]:
        """Return the fields, and for display :meth:`summary`."""
        stored: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in REQUIRED or value:
                stored[f.name] = [round(v, 6) for v in value] if f.name in ("strengths", *FRACTIONS) else value
        return {**stored, **self.summary()}

    @classmethod
    def from_json(cls, data: Any) -> StrengthCurve:
        """Return the curve of :meth:`to_json`; what follows from the fields, and fields of later versions, is ignored.

        Raises
        ------
        ValueError
            If a field is missing or invalid.
        """
        if not isinstance(data, Mapping):
            raise ValueError
        known = {}
        for f in fields(cls):
            if f.name in data:
                known[f.name] = RULES[f.name].take(data[f.name])
            elif f.name in REQUIRED:
                raise ValueError
        strengths = known["strengths"]
        rising = all(a < b for a, b in pairwise(strengths))
        if not strengths or strengths[0] != 0 or not rising:
            raise ValueError
        if any(len(known[name]) != len(strengths) for name in FRACTIONS):
            raise ValueError
        return cls(**known)


def _crossing(x: Sequence[float], y: Sequence[float], level: float, *, beyond: bool = False) -> float | None:
    """Return the first x at which the line through the points is at a level, or with `beyond` exceeds it."""
    for i, value in enumerate(y):
        if value > level or (value == level and not beyond):
            if i == 0:
                return float(x[0])
            return float(np.interp(level, [y[i - 1], value], [x[i - 1], x[i]]))
    return None


def _numbers(low: float, high: float) -> Rule:
    rule = number(low, high)

    def take(value: Any) -> tuple[float, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > LONGEST:
            raise ValueError
        return tuple(map(rule.take, value))

    return Rule(f"at most {LONGEST:,} numbers from {low:g} to {high:g}", take)


def as_fractions(values: Iterable[float]) -> tuple[float, ...]:
    """Return the fractions of a curve with the digits that are stored."""
    return tuple(round(float(value), 4) for value in values)


def as_case(value: Any) -> tuple[str, int]:
    """Return a prompt and a seed; raises ValueError for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError
    return text().take(value[0]), whole(0, 2**63 - 1).take(value[1])


def _cases(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, (list, tuple)) or len(value) > LONGEST:
        raise ValueError
    return tuple(map(as_case, value))


def _settings(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or len(value) > LONGEST:
        raise ValueError
    return {text().take(name): number().take(setting) for name, setting in value.items()}


def _judge(value: Any) -> str:
    if value and not JUDGE.fullmatch(text().take(value)):
        raise ValueError
    return str(value)


RULES: dict[str, Rule] = {
    "strengths": _numbers(0, 1e6),
    **dict.fromkeys(FRACTIONS, _numbers(0, 1)),
    "rows": whole(1, MOST_ROWS),
    "others": Rule("names", lambda value: tuple(names().take(value))),
    "judge": Rule("the name of a callable", _judge),
    "cases": Rule("pairs of a prompt and a seed", _cases),
    "settings": Rule("numbers by name", _settings),
}
REQUIRED = ("strengths", *FRACTIONS, "rows")


def curve_rule() -> Rule:
    """Rule of a stored curve."""
    return Rule(
        f"a strength curve: strengths ascending from 0 and, for each, {', '.join(FRACTIONS)} between 0 and 1",
        StrengthCurve.from_json,
    )
