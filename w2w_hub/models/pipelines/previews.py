"""Pictures of edits, and the sheets of a card's previews."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InvalidInputError
from ...space import WeightSpace
from ...space.identity import edited, resolve
from ..pictures import contact_sheet
from .inputs import as_list

Render = Callable[..., np.ndarray]  # W2WMixin.render of a pipeline
SAMPLES, SLIDERS, STRENGTHS = 6, 5, (-3.0, 0.0, 3.0, 4.5)


def render_edits(
    space: WeightSpace,
    render: Render,
    identities: Sequence[Any],
    attribute: str,
    strengths: Sequence[float],
    case: tuple[str, int],
    *,
    preserve: Iterable[str] = (),
    start: float = 0.0,
    options: Mapping[str, Any],
) -> np.ndarray:
    """Return pictures of identities by strength of an edit; see :func:`w2w_hub.models.pipelines.strength_grid`."""
    identities, strengths = as_list(identities, "identities"), as_list(strengths, "strengths")
    if not identities or not strengths:
        raise InvalidInputError("a grid needs at least one identity and one strength")
    space.direction(attribute)  # an unknown name is reported before anything is generated
    if not isinstance(case, (tuple, list)):
        raise InvalidInputError(f"case is a prompt and a seed, not {reprlib.repr(case)}")
    resolved = [resolve(space, identity) for identity in identities]
    jobs = [
        edited(space, identity, {attribute: strength}, preserve=preserve, start=start)
        for identity in resolved
        for strength in strengths
    ]
    pictures = render(jobs, [case], **options)
    return pictures[:, 0].reshape(len(resolved), len(strengths), *pictures.shape[2:])


def preview_sheets(space: WeightSpace, render: Render, prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card's previews by name: a sheet of sampled identities and, if there are directions, one of edits."""
    samples, case = space.sample(SAMPLES, seed=0), (prompt, 0)
    pictures = render(samples, [case], **options)
    sheets = {"people": contact_sheet(pictures[:, 0][None], [""], [f"sample {i}" for i in range(SAMPLES)])}
    names = list(space.directions)[:SLIDERS]
    if names:
        rows = [render_edits(space, render, [samples[0]], name, STRENGTHS, case, options=options)[0] for name in names]
        sheets["sliders"] = contact_sheet(np.stack(rows), names, [f"{s:+g} sd" if s else "as it is" for s in STRENGTHS])
    return sheets
