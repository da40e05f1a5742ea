"""Where inversions start: the population's mean, an encoder's guess, or any identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.text import counted
from ..errors import InvalidInputError
from ..space import Point, WeightSpace
from ..space.identity import Identity

MEAN, ENCODED = "mean", "encoded"


@dataclass(frozen=True)
class Start:
    """Where one person's optimization starts.

    Attributes
    ----------
    coefficients : ndarray
        float ``(<= k,)``; those that are left out are 0.
    record : mapping
        How the point was made, for the history of the inversion.
    """

    coefficients: np.ndarray
    record: Mapping[str, Any] = field(default_factory=dict)

    def standardized(self, space: WeightSpace, k: int) -> np.ndarray:
        """Return its first k coefficients in standard deviations of the population about its mean, float64 ``(k,)``."""
        mean, std = space.spread.mean[:k], space.spread.std[:k]
        given = np.zeros(k)
        given[: len(self.coefficients)] = self.coefficients[:k]
        return np.asarray(np.divide(given - mean, std, out=np.zeros(k), where=std > 0))


def find_starts(
    space: WeightSpace, starts: Sequence[Any], people: Sequence[Sequence[Any]], resolve: Callable[[Any], Identity]
) -> list[Start] | None:
    """Return where each person's inversion starts; None if all do at the population's mean.

    Parameters
    ----------
    starts : sequence
        One for all people, or one per person: ``"mean"``, ``"encoded"``, or what `resolve` takes.
    people : sequence of sequence
        Pictures of each person, for the encoder.

    Raises
    ------
    InvalidInputError
        If there are not as many starts as people, and if the space has no encoder.
    """
    each = list(starts) * (len(people) if len(starts) == 1 else 1)
    if len(each) != len(people):
        raise InvalidInputError(
            f"start: {counted(len(people), 'person needs', 'people need')} one start or {len(people)}, not {len(each)}"
        )
    if all(_is(what, MEAN) for what in each):
        return None
    known = [None if _is(what, MEAN) or _is(what, ENCODED) else resolve(what).point for what in starts]
    known *= len(people) if len(starts) == 1 else 1
    return [_one(space, *given) for given in zip(each, known, people, strict=True)]


def _one(space: WeightSpace, what: Any, known: Point | None, pictures: Sequence[Any]) -> Start:
    point: Any = known
    if known is None:
        point = space.mean_point() if _is(what, MEAN) else space.encode(list(pictures))
    return Start(point.coefficients, point.history or {"made": "coefficients"})


def _is(what: Any, name: str) -> bool:
    return isinstance(what, str) and what == name
