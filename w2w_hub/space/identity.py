"""Identities: an exact vector with its point in a weight space; edits of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.constraints import number
from ..common.display import Displayed, brief, percent
from ..common.equality import ByValue
from ..errors import InvalidInputError
from ..lora.adapter import Adapter
from .edits import TYPICAL, Edit, warn_unreliable
from .layers import decode_step
from .lookup import find_own_row, find_point, is_row
from .notes import describe_edits, describe_history
from .points import Point
from .provenance import provenance_of
from .weight_space import WeightSpace

if TYPE_CHECKING:
    from ..dataset import WeightDataset

DECODED_AT_ONCE = 16  # whose vectors are parts of one array, which is kept as long as any of them


@dataclass(frozen=True, eq=False, repr=False)
class Identity(ByValue, Displayed):
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
    exact : bool
        True if the vector is an adapter's own weights, which may have more than the point.
    layer_wise : bool
        True if an edit of some layers moved the vector out of the space, so that it has more than the point.
    """

    vector: np.ndarray
    point: Point
    start: float = 0.0
    early: np.ndarray | None = None
    exact: bool = False
    layer_wise: bool = False

    @property
    def note(self) -> str:
        """What is injected, in words: a row's point in the space or its own weights, and how much these share."""
        history, known = self.point.history, self.point.explained_ratio
        if self.layer_wise and not self.exact:
            inside = "" if known is None else f"; {percent(known)} of the variance in the weight space"
            return describe_history(history) + inside
        if not self.exact:
            return describe_history(history, known)
        whose = f"{brief(history['row'])}: its own LoRA" if "row" in history else "an adapter's own weights"
        inside = "" if known is None else f", {percent(known)} of the variance in the weight space"
        return whose + inside + describe_edits(history)

    @property
    def explained_ratio(self) -> float | None:
        """Fraction of the variance of a row's or an adapter's weights that its point keeps; None if not recorded."""
        return self.point.explained_ratio

    def _facts(self) -> Mapping[str, object]:
        delayed = {"edits start at": f"{self.start:.3g} of the schedule"} if self.start else {}
        return {"": self.note, "weights": self.vector, "weight space": self.point.basis_digest[:12], **delayed}

    def at(self, fraction: float) -> np.ndarray:
        """Return the vector to inject at a fraction of the denoising schedule, 0 (its start) to 1."""
        return self.vector if self.early is None or fraction >= self.start else self.early


def resolve(space: WeightSpace, what: Any, dataset: WeightDataset | None = None) -> Identity:
    """Return the identity of a point, coefficients, row id, adapter, its weights, or path of an adapter or saved point.

    Parameters
    ----------
    dataset : WeightDataset, optional
        The dataset in which a row's id means its own LoRA; without it, an id means the row's point in the space.

    Raises
    ------
    UnknownNameError
        For a string that is neither a row nor a path.
    InvalidInputError, LayoutMismatchError
        For coefficients that are not numbers or too many, and for a point or adapter of another space.
    """
    if dataset is not None and isinstance(what, str) and is_row(what, space, dataset):
        own = find_own_row(space, dataset, what)
        return Identity(own[1], own[0], exact=True)
    found = _found(space, what)
    return found if isinstance(found, Identity) else Identity(space.decode(found), found)


def _found(space: WeightSpace, what: Any) -> Identity | Point:
    """Return the identity of what has weights of its own, else the point to decode."""
    if isinstance(what, Identity):
        find_point(space, what.point)  # a point of another space is refused
        return what
    point, weights = find_point(space, what)
    return point if weights is None else Identity(weights, point, exact=True)


def resolve_several(space: WeightSpace, items: Sequence[Any]) -> tuple[Identity | None, ...]:
    """Return the identities of several things that :func:`resolve` accepts, in which None stays None.

    Of many, points are decoded together, sixteen at a time, which reads the basis once for all of them: up to rounding,
    each is what :func:`resolve` returns. Of few, each is that to the bit.
    """
    if len(items) < DECODED_AT_ONCE:
        return tuple(None if item is None else resolve(space, item) for item in items)
    found: list[Identity | None] = [None] * len(items)
    points: dict[int, Point] = {}
    for i, item in enumerate(items):
        if item is None:
            continue
        one = _found(space, item)
        if isinstance(one, Identity):
            found[i] = one
        else:
            points[i] = one
    waiting = list(points)
    for start in range(0, len(waiting), DECODED_AT_ONCE):
        part = waiting[start : start + DECODED_AT_ONCE]
        coefficients = np.zeros((len(part), space.k))
        for row, i in zip(coefficients, part, strict=True):
            row[: len(points[i].coefficients)] = points[i].coefficients
        for i, vector in zip(part, space.decode(coefficients), strict=True):
            found[i] = Identity(vector, points[i])
    return tuple(found)


def adapter_of(space: WeightSpace, what: Any, *, trigger: str | None = None, thumbnail: str | None = None) -> Adapter:
    """Return what :func:`resolve` accepts as a LoRA for the space's base model, with where it comes from.

    `trigger` and `thumbnail` are those of :func:`~w2w_hub.space.provenance.provenance_of`.
    """
    found = resolve(space, what)
    adapter = space.layout.unflatten(found.vector, base_model=space.compatibility.base_model)
    adapter.metadata = provenance_of(space, found.point, adapter, trigger=trigger, thumbnail=thumbnail)
    return adapter


# ---------------------------------------------------------------- edits
def edited(
    space: WeightSpace,
    identity: Identity,
    strengths: Mapping[str, float] | None = None,
    *,
    set: Mapping[str, Any] | None = None,
    strength: float | str = TYPICAL,
    unit: str = "sd",
    layers: str | Iterable[str] | None = None,
    start: float = 0.0,
    preserve: Iterable[str] = (),
) -> Identity:
    """Return an identity after pushes along editing directions, sets of attributes, or both.

    What lies outside the space stays.

    Parameters
    ----------
    strengths, set, strength, unit, preserve
        See :meth:`WeightSpace.edit`.
    layers : str or iterable of str, optional
        Limit the edit to these layers, see :func:`w2w_hub.space.layers.select_layers`; the weights of all others stay
        bit for bit. Such a step leaves the space: the identity's vector moves by all of it, its point by its
        projection.
    start : float
        Delayed injection: the unedited identity is injected until this fraction of the denoising schedule, so that the
        composition stays (the paper's T of 400 to 1,000 of 1,000 steps is 0.6 to 0).

    Raises
    ------
    UnknownNameError
        For an attribute without a direction, or a layer, that does not exist; suggests the nearest names.
    InvalidInputError
        If `start` is not in [0, 1), an attribute is both edited and preserved, or the identity has edits with another
        delay; and as :meth:`WeightSpace.edit` does.

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
    edit = Edit.checked(strengths, preserve, wanted=set, strength=strength, unit=unit, layers=layers)
    before = pad_to_k(space, identity.point)
    moved = edit.moved(space, before.coefficients.astype(np.float64))
    point = space.point_with(moved.after, edit.recorded(before.history, moved), before.explained_ratio)
    warn_unreliable({name: space.direction(name) for name in edit.strengths})
    if moved.change is None:
        step = decode_step(space.coordinates, point.coefficients.astype(np.float64) - before.coefficients)
    else:
        step = moved.change
    vector = identity.vector + step
    layer_wise = identity.layer_wise or moved.layer_wise
    if layer_wise:
        point = replace(point, explained_ratio=share_inside(space, vector, point))
    early = identity.early
    if start:
        early = identity.vector if early is None else early
    elif early is not None:
        early = early + step
    return Identity(vector, point, max(start, identity.start), early, identity.exact, layer_wise)


def share_inside(space: WeightSpace, vector: np.ndarray, point: Point) -> float:
    """Return the fraction of the variance of weights ``(d,)`` that their point keeps."""
    whole = (vector.astype(np.float64) - space.coordinates.mean) / space.coordinates.std
    total, inside = float(whole @ whole), point.coefficients.astype(np.float64)
    return float(np.clip(inside @ inside / total, 0, 1)) if total else 1.0


def pad_to_k(space: WeightSpace, point: Point) -> Point:
    """Return a point with all of the space's coefficients, zeros for those that it leaves out."""
    c = space.coefficients_of(point)
    if len(c) == space.k:
        return point
    return space.point_with(np.pad(c, (0, space.k - len(c))), point.history, point.explained_ratio)
