"""Identities: an exact vector with its coordinates in a space, made from whatever names one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Adapter
from ..errors import UnknownNameError
from ..formats import read_adapter
from .space import Point, WeightSpace
from .storage import load_point


@dataclass(frozen=True)
class Identity:
    """What a pipeline draws: an exact vector, and its coordinates in the space.

    For a point of the space both say the same. For an adapter the vector is the adapter itself and the
    point its projection; an edit moves both by the same step, so nothing outside the space is lost.
    """

    vector: np.ndarray
    point: Point


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
        vector = space.layout.flatten(what)
        return Identity(vector, space.point(space.project(vector), made="projection"))
    point = what if isinstance(what, Point) else space.point(np.asarray(what, np.float32))
    return Identity(space.decode(point), point)


def edited(space: WeightSpace, identity: Identity, strengths: Mapping[str, float]) -> Identity:
    """An identity moved along editing directions; what lies outside the space stays."""
    point = space.edit(identity.point, strengths)
    return Identity(identity.vector + (space.decode(point) - space.decode(identity.point)), point)
