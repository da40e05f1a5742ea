"""People of a state: the identity before its edits, and after."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..space import Point, WeightSpace
from ..space.edits import TYPICAL
from ..space.identity import Identity, edited, resolve
from .state import Mixed, Origin, Row, Sampled, Saved, State


@dataclass(frozen=True)
class People:
    """One person before and after the edits of a state, and what was warned of on the way."""

    before: Identity
    after: Identity
    notes: tuple[str, ...] = ()


def point_of(space: WeightSpace, origin: Origin) -> Point:
    """Return the point of a person.

    Raises
    ------
    UnknownNameError, InvalidInputError, MissingPopulationError
        For a row, an attribute or a number of coefficients that the space does not have.
    """
    match origin:
        case Sampled():
            attributes = dict(origin.attributes) or None
            return space.sample(1, origin.seed, origin.truncation, attributes=attributes)[0]
        case Row():
            return space.row(origin.id)
        case Saved():
            return space.point(np.asarray(origin.coefficients, np.float32))
        case Mixed():
            points = [point_of(space, part) for part, _ in origin.parts]
            return space.interpolate(points, [share for _, share in origin.parts])


def people_of(space: WeightSpace, state: State, own: Identity | None = None) -> People:
    """Return the person of a state before and after its edits.

    Parameters
    ----------
    own : Identity, optional
        The person's exact weights, an upload's, of which the state holds the projection.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = own or resolve(space, point_of(space, state.person))
        after = edit(space, before, state) if state.is_edited else before
    return People(before, after, tuple(dict.fromkeys(str(each.message) for each in caught)))


def edit(space: WeightSpace, before: Identity, state: State) -> Identity:
    """Return an identity after the edits of a state."""
    pushes = {name: amount for name, amount in state.pushes.items() if amount}
    factor = TYPICAL if state.factor is None or not state.wanted else state.factor
    return edited(
        space, before, pushes or None, set=state.wanted or None, strength=factor, preserve=state.preserve,
        start=state.start,
    )  # fmt: skip


def saved(identity: Identity) -> Saved:
    """Return the point of an identity as a person of a state."""
    return Saved(tuple(identity.point.coefficients.tolist()))
