"""Identities: an exact vector with its coordinates in a space, made from whatever names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Adapter
from ..errors import InvalidInputError, UnknownNameError
from ..formats import read_adapter
from .space import Point, WeightSpace
from .storage import load_point


@dataclass(frozen=True)
class Identity:
    """What a pipeline draws: an exact vector, and its coordinates in the space.

    For a point of the space both say the same. For an adapter the vector is the adapter itself and the
    point its projection; an edit moves both by the same step, so nothing outside the space is lost.

    Attributes
    ----------
    vector : ndarray
        float32 ``(d,)``.
    point : Point
    start : float
        Share of the denoising schedule, 0 to 1, until which `early` is drawn instead of `vector`.
    early : ndarray or None
        float32 ``(d,)``: the identity before its delayed edits.
    """

    vector: np.ndarray
    point: Point
    start: float = 0.0
    early: np.ndarray | None = None

    def at(self, share: float) -> np.ndarray:
        """The vector that is drawn when so much of the schedule, 0 to 1, is over."""
        return self.vector if self.early is None or share >= self.start else self.early


def resolve(space: WeightSpace, what: Any) -> Identity:
    """A point, coefficients, row id, adapter, or the path of an adapter or a saved point, as an identity."""
    if isinstance(what, Identity):
        return what
    if isinstance(what, (str, Path)):
        if isinstance(what, str) and what in space.ids:
            return resolve(space, space.row(what))
        path = Path(what)
        if path.suffix == ".json" and path.is_file():
            return resolve(space, load_point(path))
        if path.exists():
            return resolve(space, read_adapter(path))
        raise UnknownNameError(
            f"{what!r} is neither a row of this weight space (they look like {', '.join(space.ids[:3])}), "
            "nor a saved point, nor an adapter"
        )
    if isinstance(what, Adapter):
        vector = space.represent(what).astype(np.float32, copy=False)
        return Identity(vector, space.point(space.project(vector), made="projection"))
    point = what if isinstance(what, Point) else space.point(np.asarray(what, np.float32))
    return Identity(space.decode(point), point)


def edited(
    space: WeightSpace,
    identity: Identity,
    strengths: Mapping[str, float],
    *,
    start: float = 0.0,
    preserve: Sequence[str] = (),
) -> Identity:
    """An identity moved along editing directions; what lies outside the space stays.

    Parameters
    ----------
    preserve : sequence of str
        Attributes whose read-out the edit must leave as it is, see :meth:`WeightSpace.edit`.
    start : float
        Delayed injection: until this share of the denoising schedule the identity is drawn as it was, so that
        the composition stays (the paper's T of 400 to 1,000 of 1,000 steps is 0.6 to 0).

    Raises
    ------
    InvalidInputError
        If `start` is not in [0, 1), or the identity has edits that are delayed otherwise.

    Warns
    -----
    UnreliableDirectionWarning
        If a direction reads held-out rows no better than permuted labels do.
    """
    if not 0 <= start < 1:
        raise InvalidInputError(f"start must be at least 0 and below 1, not {start}: a share of the schedule")
    if start and identity.start not in (0.0, start):
        raise InvalidInputError(
            f"this identity has edits that start at {identity.start:g} of the schedule; give the same, not {start:g}"
        )
    space.warn_unreliable(strengths)
    point = space.edit(identity.point, strengths, preserve=preserve)
    step = space.decode(point) - space.decode(identity.point)
    early = identity.early
    if start:
        early = identity.vector if early is None else early
    elif early is not None:
        early = early + step
    return Identity(identity.vector + step, point, max(start, identity.start), early)
