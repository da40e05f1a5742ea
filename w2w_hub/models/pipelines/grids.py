"""Grids of pictures: identities by strength of an edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...common.constraints import either, instance, names, number, text, validated
from .mixin import W2WMixin
from .previews import render_edits

__all__ = ["strength_grid"]


@validated(
    pipe=instance(W2WMixin, "a pipeline with a weight space"), attribute=text(), preserve=either(text(), names()),
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
    """Return pictures of identities under one attribute's edit at several strengths.

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
    **options
        As of :meth:`W2WMixin.render`.

    Returns
    -------
    ndarray
        float32 ``(identities, strengths, height, width, 3)`` in [0, 1].
    """
    return render_edits(
        pipe.space, pipe.render, identities, attribute, strengths, case, preserve=preserve, start=start, options=options
    )
