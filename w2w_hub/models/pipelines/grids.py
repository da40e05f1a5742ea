"""Grids of pictures: identities by strength of an edit."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers import DiffusionPipeline

from ...common.constraints import either, instance, names, number, text, validated
from ...errors import InvalidInputError
from ...space.identity import edited
from ..pictures import contact_sheet

if TYPE_CHECKING:
    from .mixin import W2WMixin

__all__ = ["strength_grid"]
PEOPLE, SLIDERS, STRENGTHS = 6, 5, (-3.0, 0.0, 3.0, 4.5)  # of a card's previews


def listed(values: Any, what: str) -> list[Any]:
    """Return what a caller gave for several things as a list; one string or mapping is refused."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise InvalidInputError(f"{what} must be a list, not {reprlib.repr(values)}")
    return list(values)


@validated(
    pipe=instance(DiffusionPipeline, "a pipeline"), attribute=text(), preserve=either(text(), names()),
    start=number(0, below=1),
)  # fmt: skip
def strength_grid(
    pipe: W2WMixin,
    identities: Sequence[Any],
    attribute: str,
    strengths: Sequence[float],
    case: tuple[str, int],
    *,
    preserve: Iterable[str] = (),
    start: float = 0.0,
    **options: Any,
) -> np.ndarray:
    """Pictures of identities under one attribute's edit at several strengths.

    Parameters
    ----------
    identities : sequence
        What :attr:`W2WMixin.identity` accepts for one.
    strengths : sequence of float
        In standard deviations of the population; 0 is the identity as it is.
    case : (str, int)
        The prompt and the seed.
    preserve, start
        As :meth:`W2WMixin.edit` takes them.

    Returns
    -------
    ndarray
        float32 ``(identities, strengths, height, width, 3)`` in [0, 1].
    """
    identities, strengths = listed(identities, "identities"), listed(strengths, "strengths")
    if not identities or not strengths:
        raise InvalidInputError("a grid needs at least one identity and one strength")
    pipe.space.direction(attribute)  # an unknown name is said before anything is drawn
    if not isinstance(case, (tuple, list)):
        raise InvalidInputError(f"case is a prompt and a seed, not {reprlib.repr(case)}")
    people = [pipe.resolve(identity) for identity in identities]
    jobs = [
        edited(pipe.space, person, {attribute: strength}, preserve=preserve, start=start)
        for person in people
        for strength in strengths
    ]
    drawn = pipe.render(jobs, [case], **options)
    return drawn[:, 0].reshape(len(people), len(strengths), *drawn.shape[2:])


def preview_sheets(pipe: W2WMixin, prompt: str, **options: Any) -> dict[str, Any]:
    """A sheet of sampled people and, if there are directions, one of sliders, for a card."""
    space = pipe.space
    people = space.sample(PEOPLE, seed=0)
    sheets = {}
    drawn = pipe.render(people, [(prompt, 0)], **options)
    sheets["people"] = contact_sheet(drawn[:, 0][None], [""], [f"sample {i}" for i in range(PEOPLE)])
    names = list(space.directions)[:SLIDERS]
    if names:
        rows = [strength_grid(pipe, [people[0]], name, STRENGTHS, (prompt, 0), **options)[0] for name in names]
        sheets["sliders"] = contact_sheet(np.stack(rows), names, [f"{s:+g} sd" if s else "as it is" for s in STRENGTHS])
    return sheets
