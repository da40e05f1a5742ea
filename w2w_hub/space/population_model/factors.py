"""Factors of a population and attributes as functions of their levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.display import Displayed
from ...common.equality import ByValue
from ...common.text import available, few, nearest
from ...dataset.labels.kinds import CONTINUOUS
from ...dataset.labels.values import as_number, as_truth
from ...errors import InvalidInputError, UnknownNameError

MOST_FACTORS, MOST_LEVELS = 1000, 1000  # of a model, and of a factor; readers refuse more
NONE = "none"  # the level of a group of exclusive attributes of which a person has none
SHOWN_LEVELS = 10


@dataclass(frozen=True, eq=False, repr=False)
class Factor(ByValue, Displayed):
    """One variable of the model: a number, or levels of which a person has exactly one.

    Attributes
    ----------
    name : str
    columns : tuple of str
        Label columns that give its value: one, or several binary ones that exclude each other.
    levels : tuple of str
        Empty for a number. Of a group of binary columns: ``none``, then the columns.
    shares : ndarray
        float64 ``(levels,)``: fraction of the fitted rows with each level. Of a number: 15 quantiles, which stand for
        a missing value.
    center, scale : float
        Mean and standard deviation of a number; 0 and 1 for levels.
    """

    name: str
    columns: tuple[str, ...]
    levels: tuple[str, ...]
    shares: np.ndarray
    center: float = 0.0
    scale: float = 1.0

    def _facts(self) -> Mapping[str, object]:
        return {"": self.name, "columns": self.columns, "levels": self.levels or "a number"}

    @property
    def is_number(self) -> bool:
        return not self.levels


@dataclass(frozen=True, eq=False, repr=False)
class Attribute(ByValue, Displayed):
    """A label column that can be set, as a function of one or two factors.

    Attributes
    ----------
    name : str
    kind : {"binary", "categorical", "ordinal", "float"}
    factors : tuple of int
        Positions of the factors that determine it.
    truth : ndarray or None
        Boolean, one axis for each factor: the levels that have a binary attribute; None for other kinds.
    levels : tuple of str
        Levels that a categorical or ordinal attribute can be set to.
    low, high : float or None
        Smallest and largest value among the fitted rows, of numbers.
    """

    name: str
    kind: str
    factors: tuple[int, ...]
    truth: np.ndarray | None = None
    levels: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def _facts(self) -> Mapping[str, object]:
        return {"": self.name, "kind": self.kind, "values": self.values_text}

    @property
    def is_number(self) -> bool:
        return self.kind == CONTINUOUS.name

    @property
    def values_text(self) -> str:
        """The values that it can be set to, as a clause."""
        if self.truth is not None:
            return "its values are True and False"
        if self.is_number:
            return f"its values are numbers from {self.low:.6g} to {self.high:.6g}"
        return f"its levels are {few([repr(level) for level in self.levels], SHOWN_LEVELS)}"

    def checked(self, value: Any) -> Any:
        """Return a wanted value as a bool, a level or a float.

        Raises
        ------
        UnknownNameError
            For a level that does not exist; suggests the nearest.
        InvalidInputError
            For any other value that it cannot have.
        """
        wrong = InvalidInputError(
            f"attribute {self.name!r} is {self.kind} and cannot be set to {value!r}: {self.values_text}", name=self.name
        )
        if isinstance(value, np.generic):
            value = value.item()
        if self.truth is not None:
            # no number but 0 and 1, and no text but true and false: 4.5 is a push, not a set
            found = as_truth(value, False) if isinstance(value, (bool, int, float, str)) else None
            if found is None:
                raise wrong
            return found
        if self.is_number:
            number = as_number(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
            if number is None or number != number:
                raise wrong
            assert self.low is not None
            assert self.high is not None
            if not self.low <= number <= self.high:
                raise wrong
            return number
        if isinstance(value, str) and value in self.levels:
            return value
        if isinstance(value, str):
            close = nearest(value, self.levels)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise UnknownNameError(
                f"attribute {self.name!r} has no level {value!r}; {hint}{self.values_text}", name=self.name
            )
        raise wrong

    def allowed(self, value: Any) -> np.ndarray:
        """Return which levels of its factors give a checked value, boolean with one axis for each factor."""
        if self.truth is not None:
            return np.asarray(self.truth == value)
        return np.array([level == value for level in self.levels])


@dataclass(frozen=True, eq=False, repr=False)
class Exclusion(ByValue, Displayed):
    """Levels of two factors that exclude each other: a boolean `table` ``(levels of first, levels of second)``."""

    first: int
    second: int
    table: np.ndarray


def find_attribute(attributes: Mapping[str, Attribute], name: Any) -> Attribute:
    """Return an attribute by name; raises `UnknownNameError`, which suggests the nearest."""
    if name in attributes:
        return attributes[name]
    known = available(name, list(attributes), "w2w directions SPACE")
    raise UnknownNameError(f"no attribute {name!r} can be set in this weight space; {known}", name=str(name))
