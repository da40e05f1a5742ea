"""Facts that the page shows beside its controls: what can be changed and how well, and what an edit did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..space import Direction, Population, WeightSpace
from ..space.directions.synonyms import synonyms
from ..space.identity import Identity
from ..space.population import unit_rows

WIDEST = 6.0  # standard deviations of a slider without a strength curve
COMPARED_ROWS = 500  # rows whose nearest neighbors are measured
SHOWN_CHANGES = 8


# ---------------------------------------------------------------- what can be changed
@dataclass(frozen=True)
class Slider:
    """A push along one direction.

    Attributes
    ----------
    name, label : str
        The direction, and its name in words.
    limit : float
        Largest strength either way, in standard deviations.
    marks : tuple of (float, str)
        Strengths of note: where the attribute is gone in most people who have it, where it shows in most who lack it,
        where it no longer grows, where others suffer.
    reading : str
        How well the attribute is read on held-out rows.
    doubt : str
        Reason not to trust the direction; empty if there is none.
    """

    name: str
    label: str
    limit: float
    marks: tuple[tuple[float, str], ...] = ()
    reading: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Control:
    """One attribute: the values that it can be set to, and the sliders along it.

    Attributes
    ----------
    kind : str
        ``"switch"``, ``"choice"``, ``"number"``, or ``"push"`` for one that can only be pushed.
    levels : tuple of (str, str)
        Values of a choice, each with its name in words.
    """

    name: str
    label: str
    kind: str
    levels: tuple[tuple[str, str], ...] = ()
    low: float = 0.0
    high: float = 0.0
    sliders: tuple[Slider, ...] = field(default=())


def controls_of(space: WeightSpace) -> list[Control]:
    """Return a control per attribute: those of the population model first, then what has a direction only."""
    model = space.population_model
    found: list[Control] = []
    groups: dict[str, list[Slider]] = {}
    for name, direction in space.directions.items():
        groups.setdefault(direction.attribute or name, []).append(slider_of(name, direction))
    for name, attribute in ({} if model is None else model.attributes).items():
        sliders = tuple(groups.pop(name, ()))
        if attribute.truth is not None:
            found.append(Control(name, in_words(name), "switch", sliders=sliders))
        elif attribute.is_number and attribute.low is not None and attribute.high is not None:
            found.append(Control(name, in_words(name), "number", (), attribute.low, attribute.high, sliders))
        else:
            levels = tuple((level, in_words(level)) for level in attribute.levels)
            found.append(Control(name, in_words(name), "choice", levels, sliders=sliders))
    return found + [Control(name, in_words(name), "push", sliders=tuple(each)) for name, each in groups.items()]


def slider_of(name: str, direction: Direction) -> Slider:
    """Return the slider along a direction, with what is known of its strengths."""
    curve, marks = direction.picture_curve or direction.curve, []
    if curve is not None:
        found = ((curve.reaches, "shows"), (curve.saturates, "full"), (curve.breaks, "others change"))
        marks = [(round(value, 1), word) for value, word in found if value is not None and value > 0]
    against = direction.removal_curve
    if against is not None and against.reaches:
        marks.insert(0, (-round(against.reaches, 1), "gone"))
    top = max([WIDEST, *(abs(value) for value, _ in marks), direction.typical or 0])
    label = in_words(direction.level or direction.attribute or name)
    return Slider(name, label, float(math.ceil(top)), tuple(marks), reading_of(direction), direction.unreliable)


def reading_of(direction: Direction) -> str:
    """Return how well a direction reads held-out rows, in words."""
    if direction.score is None:
        return "not measured"
    return f"{direction.read_out.score.name} {direction.score:.2f} on {direction.held_out_rows:,} held-out rows"


def in_words(name: str) -> str:
    """Return a column or level as people read it: ``Full_Beard`` is ``Full beard``."""
    plain = " ".join(name.replace("_", " ").split())
    if not plain:
        return name
    return plain if any(map(str.isdigit, plain)) and len(plain) < 4 else plain[0].upper() + plain[1:].lower()


def own_values(space: WeightSpace, identity: Identity) -> dict[str, Any]:
    """Return the attributes that are read from a person's coefficients; empty without a population model."""
    model = space.population_model
    return {} if model is None else model.read(identity.point.coefficients.astype(np.float64))


# ---------------------------------------------------------------- what an edit did
@dataclass(frozen=True)
class Change:
    """What an edit changed in one attribute.

    Attributes
    ----------
    before, after : float
        A probability of 0 to 1, or a value.
    share : float
        Size of the change: of a probability its difference, of a value the difference in standard deviations / 4.
    wanted : bool
        True if the edit asked for it.
    """

    name: str
    label: str
    before: float
    after: float
    share: float
    is_probability: bool
    wanted: bool


def changes_of(
    space: WeightSpace, before: Identity, after: Identity, asked: Sequence[str], most: int = SHOWN_CHANGES
) -> list[Change]:
    """Return what else moved: the wanted attributes, then the others that changed most."""
    c0, c1 = (identity.point.coefficients.astype(np.float64) for identity in (before, after))
    found = []
    for name in synonyms(space.directions):
        direction = space.directions[name]
        old, new = direction.read(c0), direction.read(c1)
        sure = not direction.read_out.graded
        width = 1.0 if sure else 4 * _deviation(space, direction)
        share = min(abs(new - old) / max(width, 1e-12), 1.0)
        wanted = name in asked or direction.attribute in asked
        label = in_words(direction.attribute or name)
        label += "" if direction.level is None else f": {in_words(direction.level).lower()}"
        found.append(Change(name, label, old, new, share, sure, wanted))
    asked_for = [each for each in found if each.wanted and each.share >= 0.01]
    others = [each for each in found if not each.wanted and each.share >= 0.02]
    return sorted(asked_for, key=_size)[:most] + sorted(others, key=_size)[:most]


def _size(change: Change) -> float:
    return -change.share


def _deviation(space: WeightSpace, direction: Direction) -> float:
    """Return the standard deviation of a direction's reading over the population."""
    count = len(direction.reading)
    return float(np.linalg.norm(direction.reading.astype(np.float64) * space.spread.std[:count]))


# ---------------------------------------------------------------- neighbors
@dataclass(frozen=True)
class Neighbors:
    """The fitted rows that are most like a person.

    Attributes
    ----------
    rows : tuple of (str, float)
        Ids and cosines, the most similar first.
    usual : float or None
        The largest cosine that people who were held out have to their nearest fitted row.
    is_row : bool
        True if the person is a fitted row.
    """

    rows: tuple[tuple[str, float], ...]
    usual: float | None
    is_row: bool

    @property
    def warning(self) -> str:
        """Warns of a copy: a person nearer to a fitted row than any held-out person is; empty if there is no need."""
        if not self.rows or self.is_row or self.usual is None or self.rows[0][1] <= self.usual:
            return ""
        row, cosine = self.rows[0]
        return (
            f"This person is nearly a copy of {row}: similarity {cosine:.2f}; people who are not in the data reach at "
            f"most {self.usual:.2f}."
        )


def neighbors_of(space: WeightSpace, identity: Identity, usual: float | None, count: int = 4) -> Neighbors | None:
    """Return the rows nearest to a person; None in a space without its population."""
    if space.population is None:
        return None
    row = identity.point.history.get("row")
    edited = bool(identity.point.history.get("edits") or identity.point.history.get("steps"))
    found = space.nearest(identity.point, count)
    return Neighbors(tuple(found), usual, bool(found) and row == found[0][0] and not edited)


def usual_similarity(population: Population | None) -> float | None:
    """Return the largest cosine of held-out rows to their nearest fitted rows; of fitted rows to others without them.

    At most 500 rows are compared, evenly spread over all. None for fewer than two fitted rows.
    """
    if population is None or int(population.fitted.sum()) < 2:
        return None
    fitted, held = np.flatnonzero(population.fitted), np.flatnonzero(~population.fitted)
    given = held if len(held) else fitted
    given = given[np.linspace(0, len(given) - 1, min(len(given), COMPARED_ROWS)).astype(int)]
    rows = unit_rows(population.coefficients[fitted].astype(np.float32))
    cosines = unit_rows(population.coefficients[given].astype(np.float32)) @ rows.T
    if not len(held):
        cosines[np.arange(len(given)), np.searchsorted(fitted, given)] = -1.0
    return float(cosines.max(1).max())


def distance_note(space: WeightSpace, identity: Identity) -> str:
    """Warn of a person farther from the mean than every fitted row; empty if there is no need."""
    farthest, distance = space.largest_distance, space.distance(identity.point)
    if farthest is None or distance <= farthest:
        return ""
    return (
        f"This is farther from the average than anybody in the data ({distance:.1f} against {farthest:.1f}); use less."
    )


def strip_values(space: WeightSpace, name: str, count: int = 9) -> list[float]:
    """Return the strengths of a strip along a direction or principal component, from low to high.

    They reach 1.5 times the typical strength, or else the ends of the slider, and include 0 if `count` is odd.
    """
    direction = space.direction(name)
    limit = slider_of(name, direction).limit
    limit = limit if direction.typical is None else min(limit, 1.5 * direction.typical)
    return [round(float(x), 2) for x in np.linspace(-limit, limit, count)]


def values_in_words(values: Mapping[str, Any]) -> dict[str, str]:
    """Return attribute values as people read them."""

    def word(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return in_words(value).lower() if isinstance(value, str) else f"{value:.3g}"

    return {name: word(value) for name, value in values.items()}
