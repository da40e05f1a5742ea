"""Grids of pictures: identities by strength of an edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInputError
from ..space.identity import edited

if TYPE_CHECKING:
    from .mixin import W2WMixin


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
    if not len(identities) or not len(strengths):
        raise InvalidInputError("a grid needs at least one identity and one strength")
    pipe.space.direction(attribute)  # an unknown name is said before anything is drawn
    preserve = list(preserve)
    people = [pipe.resolve(identity) for identity in identities]
    jobs = [
        edited(pipe.space, person, {attribute: strength}, preserve=preserve, start=start)
        for person in people
        for strength in strengths
    ]
    drawn = pipe.render(jobs, [case], **options)
    return drawn[:, 0].reshape(len(people), len(strengths), *drawn.shape[2:])
