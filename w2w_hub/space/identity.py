"""Identities: an exact vector with its point in a weight space, resolved from a row, path, adapter or point."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.constraints import as_array, number
from ..common.equality import ByValue
from ..dialects import read_adapter
from ..errors import InvalidInputError, LayoutMismatchError, MissingPathError, UnknownNameError
from ..lora.adapter import Adapter
from .edits import warn_unreliable
from .points import Point, is_point, load_point
from .population import Population
from .weight_space import WeightSpace


@dataclass(frozen=True, eq=False)
class Identity(ByValue):
    """Exact weights that a pipeline injects, with their point in the space.

    For a point of the space the vector is its decoded weights. For an adapter the vector is the adapter itself and the
    point its projection; an edit moves both by the same step, so that nothing outside the space is lost.

    Attributes
    ----------
    vector : ndarray
        float32 ``(d,)``.
    point : Point
    start : float
        Fraction of the denoising schedule, 0 to 1, until which `early` is injected instead of `vector`.
    early : ndarray or None
        float32 ``(d,)``: the identity before its delayed edits.
    """

    vector: np.ndarray
    point: Point
    start: float = 0.0
    early: np.ndarray | None = None

    def at(self, fraction: float) -> np.ndarray:
        """Return the vector to inject at a fraction of the denoising schedule, 0 (its start) to 1."""
        return self.vector if self.early is None or fraction >= self.start else self.early


def resolve(space: WeightSpace, what: Any) -> Identity:
    """Return the identity of a point, coefficients, row id, adapter, or path of an adapter or saved point.

    Raises
    ------
    UnknownNameError
        For a string that is neither a row nor a path.
    InvalidInputError, LayoutMismatchError
        For coefficients that are not numbers or too many, and for a point or adapter of another space.
    """
    if isinstance(what, Identity):
        space.coefficients_of(what.point)  # a point of another space is refused
        return what
    if isinstance(what, str) and space.population is not None and what in space.population:
        return resolve(space, space.row(what))
    if isinstance(what, (str, Path)):
        return _from_path(space, what)
    if isinstance(what, Adapter):
        what.require_finite("this adapter")
        vector = space.coordinates.represent(what).astype(np.float32, copy=False)
        return Identity(vector, space.point(space.project(vector), made="projection"))
    point = what if isinstance(what, Point) else space.point(_coefficients(what))
    return Identity(space.decode(point), point)


def _from_path(space: WeightSpace, what: str | Path) -> Identity:
    path = Path(what)
    try:
        there = bool(str(what)) and path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if there:
        if is_point(path):
            return resolve(space, load_point(path))
        adapter = read_adapter(path)
        incompatibility = space.layout.incompatibility(adapter)
        if incompatibility:
            raise LayoutMismatchError(f"{path} does not fit the layout of space {space.name}: {incompatibility}")
        return resolve(space, adapter)
    if path.suffix in (".json", ".safetensors"):
        raise MissingPathError(f"{path} does not exist", path=path)
    raise UnknownNameError(
        f"{str(what)!r} is neither {_rows(space.population, str(what))}, nor a saved point, nor an adapter"
    )


def _rows(population: Population | None, name: str) -> str:
    """Describe the rows that a name could have meant, for an error."""
    if population is None:
        return "a row (this weight space was published without its population)"
    close = difflib.get_close_matches(name, population.ids, 3, 0.6)
    hint = f"similar: {', '.join(close)}" if close else f"they look like {', '.join(population.ids[:3])}"
    return f"a row of this weight space ({hint})"


def _coefficients(what: Any) -> np.ndarray:
    try:
        return as_array(what, "coefficients")
    except InvalidInputError:
        raise InvalidInputError(
            f"a {type(what).__name__} is not an identity; give coefficients, a Point, a row's id, an adapter or a path"
        ) from None


def adapter_of(space: WeightSpace, what: Any) -> Adapter:
    """Return what :func:`resolve` accepts as a LoRA for the space's base model."""
    return space.layout.unflatten(resolve(space, what).vector, base_model=space.compatibility.base_model)


# ---------------------------------------------------------------- edits
def edited(
    space: WeightSpace,
    identity: Identity,
    strengths: Mapping[str, float],
    *,
    start: float = 0.0,
    preserve: Iterable[str] = (),
) -> Identity:
    """Return an identity moved along editing directions; what lies outside the space stays.

    Parameters
    ----------
    strengths : mapping of str to float
        In standard deviations of the population along each direction.
    start : float
        Delayed injection: the unedited identity is injected until this fraction of the denoising schedule, so that the
        composition stays (the paper's T of 400 to 1,000 of 1,000 steps is 0.6 to 0).
    preserve : iterable of str
        Attributes whose score, by the reading direction, the edit leaves as it is; see :meth:`WeightSpace.edit`.

    Raises
    ------
    UnknownNameError
        For an attribute without a direction; suggests the nearest names.
    InvalidInputError
        If `start` is not in [0, 1), an attribute is both edited and preserved, or the identity has edits with another
        delay.

    Warns
    -----
    UnreliableDirectionWarning
        If a direction reads held-out rows no better than permuted labels do.
    """
    start = number(0, below=1).checked(start, "start, a fraction of the schedule,")
    if start and identity.start not in (0.0, start):
        raise InvalidInputError(
            f"this identity has edits with start={identity.start:g}, which all its edits share; got start={start:g}"
        )
    before = pad_to_k(space, identity.point)
    point = space.edit(before, strengths, preserve=preserve)
    warn_unreliable({name: space.direction(name) for name in strengths})
    step = space.decode(point) - space.decode(before)
    early = identity.early
    if start:
        early = identity.vector if early is None else early
    elif early is not None:
        early = early + step
    return Identity(identity.vector + step, point, max(start, identity.start), early)


def pad_to_k(space: WeightSpace, point: Point) -> Point:
    """Return a point with all of the space's coefficients, zeros for those that it leaves out."""
    c = space.coefficients_of(point)
    if len(c) == space.k:
        return point
    return space.point(np.pad(c, (0, space.k - len(c))), **point.history)
