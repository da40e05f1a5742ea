"""Edits: steps along directions in coefficient space, with checked arguments and their record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ..common.constraints import names, number, text
from ..common.text import nearest
from ..errors import InvalidInputError, UnknownNameError
from .directions.direction import Direction, UnreliableDirectionWarning, component_direction
from .directions.missing import reason_of
from .directions.synonyms import synonyms
from .population import Spread

STRONGEST = 100.0  # standard deviations; the demo's people are noise from about 30
MOST_STATED = 1e30  # the largest strength of an earlier edit that is added to


@dataclass(frozen=True)
class Edit:
    """Strengths by direction, in standard deviations of the population, and attributes whose scores are preserved."""

    strengths: Mapping[str, float]
    preserve: tuple[str, ...] = ()

    @classmethod
    def checked(cls, strengths: Mapping[str, float], preserve: Iterable[str] = ()) -> Edit:
        """Return an edit from a caller's arguments.

        Raises
        ------
        InvalidInputError
        """
        if not isinstance(strengths, Mapping):
            raise InvalidInputError(
                f"strengths must be a mapping like {{'Beard': 2.0}}, not {type(strengths).__name__}"
            )
        for name, strength in strengths.items():
            if not isinstance(name, str) or isinstance(strength, bool) or not isinstance(strength, Real):
                raise InvalidInputError(f"an edit needs an attribute's name and a number, not {name!r}: {strength!r}")
        kept = [preserve] if isinstance(preserve, str) else names().checked(preserve, "preserve")
        for name in kept:
            if name in strengths:
                raise InvalidInputError(f"{name} is both edited and preserved; leave it out of one")
        return cls(strengths, tuple(dict.fromkeys(kept)))

    def apply(self, c: np.ndarray, find: Callable[[str], Direction], std: np.ndarray) -> np.ndarray:
        """Return coefficients ``(<= k,)`` after the edit, padded where a direction needs more of them.

        Parameters
        ----------
        find : callable
            From a name to its direction.
        std : ndarray
            ``(k,)``: the population's standard deviations.
        """
        steps = []
        for name, strength in self.strengths.items():
            direction = find(name)
            amount = number().checked(strength, f"the strength of {name}")
            if abs(amount) > STRONGEST:
                raise InvalidInputError(
                    f"strength {amount:g} of {name} is more than {STRONGEST:g} standard deviations of the population, "
                    "where only noise is drawn; attributes usually show at 1 to 6",
                    name=name,
                )
            steps.append(amount * direction.sd * direction.editing)
        c = np.pad(c, (0, max(0, *(len(step) - len(c) for step in steps), 0)))  # missing coefficients are 0
        change = np.zeros_like(c)
        for step in steps:
            change[: len(step)] += step
        return np.asarray(c + preserving(change, [find(name).reading for name in self.preserve], std))

    def recorded(self, history: Mapping[str, Any]) -> dict[str, Any]:
        """Return the history of a point after the edit: strengths of one direction add up."""
        before, preserved = history.get("edits"), history.get("preserved")  # a file's, so of any type
        edits = dict(before) if isinstance(before, Mapping) else {}
        for name, strength in self.strengths.items():
            earlier = edits.get(name)
            known = isinstance(earlier, (int, float)) and abs(earlier) < MOST_STATED
            edits[name] = float(strength) + (float(earlier) if known else 0.0)  # type: ignore[arg-type]
        found = {**history, "edits": edits}
        if self.preserve:
            others = preserved if isinstance(preserved, list) else []
            found["preserved"] = sorted({*(name for name in others if isinstance(name, str)), *self.preserve})
        return found


def preserving(step: np.ndarray, readings: list[np.ndarray], std: np.ndarray) -> np.ndarray:
    """Return a step ``(k,)``, changed so that the scores of these reading directions stay.

    The change is the smallest one relative to the population's standard deviations ``(k,)``.
    """
    if not readings:
        return step
    readers = np.stack([reading.astype(np.float64) for reading in readings], 1)[: len(step)]
    spread = std[: len(step), None] ** 2 * readers
    amounts = np.linalg.lstsq(readers.T @ spread, readers.T @ step, rcond=1e-10)[0]
    return np.asarray(step - spread @ amounts)


def find_direction(
    name: str, directions: Mapping[str, Direction], spread: Spread, reasons: Mapping[str, str]
) -> Direction:
    """Return an attribute's direction, or for ``PC1`` to ``PCk`` a principal component as a slider.

    Parameters
    ----------
    reasons : mapping of str to str
        Attributes without a direction, each with the reason.

    Raises
    ------
    UnknownNameError
        Suggests the nearest names.
    """
    text().checked(name, "the name of a direction")
    if name in directions:
        return directions[name]
    k = len(spread.std)
    index = int(name[2:]) if name.startswith("PC") and name[2:].isascii() and name[2:].isdigit() else 0
    if 1 <= index <= k:
        return component_direction(index, k, float(spread.std[index - 1]), spread.rows)
    reason = reason_of(name, reasons)
    if reason is not None:
        raise UnknownNameError(f"no direction for {name}: {reason}")
    known = ", ".join([*synonyms(directions), f"PC1 to PC{k}"])
    if not directions:
        known += " only: build the space from a labeled dataset"
    close = nearest(name, list(directions))
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UnknownNameError(f"no attribute {name!r} in this weight space; {hint}available: {known}")


def warn_unreliable(directions: Mapping[str, Direction], stacklevel: int = 3) -> None:
    """Warn about directions that read held-out rows no better than permuted labels do."""
    for name, direction in directions.items():
        if direction.unreliable:
            warnings.warn(
                f"the direction of {name} is unreliable: {direction.unreliable}",
                UnreliableDirectionWarning,
                stacklevel=stacklevel,
            )
