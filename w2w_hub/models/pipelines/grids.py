"""Renders edits by strength, and the preview sheets of a card."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...common.constraints import as_list, either, has, instance, names, number, text, validated
from ...errors import InvalidInputError
from ...space.directions.synonyms import synonyms
from ...space.identity import Identity, edited
from ..pictures import contact_sheet

__all__ = ["strength_grid"]
SAMPLES, SLIDERS, STRENGTHS = 6, 5, (-3.0, 0.0, 3.0, 4.5)


@validated(
    pipe=has("render", "a pipeline with a weight space"), attribute=either(text(), instance(Mapping, "a mapping")),
    preserve=either(text(), names()), start=number(0, below=1),
)  # fmt: skip
def strength_grid(
    pipe: Any,
    identities: Sequence[Any],
    attribute: str | Mapping[str, Any],
    strengths: Sequence[float],
    case: tuple[str, int],
    *,
    unit: str = "sd",
    layers: str | Iterable[str] | None = None,
    preserve: Iterable[str] = (),
    start: float = 0.0,
    **options: Any,
) -> np.ndarray:
    """Return pictures of identities under one edit at several strengths.

    Parameters
    ----------
    pipe : W2WMixin
    identities : sequence
        Each anything that :attr:`W2WMixin.identity` accepts as one.
    attribute : str or mapping
        The attribute to push along, or what to set: ``{"hair_color": "RED"}``.
    strengths : sequence of float
        Of a push, in standard deviations of the population; of a set, its factors. 0 is the unedited identity.
    case : (str, int)
        Prompt and seed.
    unit, layers, preserve, start
        See :meth:`W2WMixin.edit`.
    **options
        Keywords of :meth:`W2WMixin.render`.

    Returns
    -------
    ndarray
        float32 ``(identities, strengths, height, width, 3)`` in [0, 1].
    """
    identities, strengths = as_list(identities, "identities"), as_list(strengths, "strengths")
    if not identities or not strengths:
        raise InvalidInputError("a grid needs at least one identity and one strength")
    if not isinstance(case, (tuple, list)):
        raise InvalidInputError(f"case must be a prompt and a seed, not {reprlib.repr(case)}")
    common: dict[str, Any] = {"unit": unit, "layers": layers, "preserve": preserve, "start": start}

    def edit(identity: Identity, strength: float) -> Identity:
        if isinstance(attribute, str):
            return edited(pipe.space, identity, {attribute: strength}, **common)
        return edited(pipe.space, identity, set=attribute, strength=strength, **common)

    jobs = [edit(identity, strength) for identity in map(pipe.resolve, identities) for strength in strengths]
    pictures = pipe.render(jobs, [case], **options)
    result: np.ndarray = pictures[:, 0].reshape(len(identities), len(strengths), *pictures.shape[2:])
    return result


def preview_sheets(pipe: Any, prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card's previews by name: a sheet of sampled identities and, if there are directions, one of edits."""
    samples, case = pipe.space.sample(SAMPLES, seed=0), (prompt, 0)
    pictures = pipe.render(samples, [case], **options)
    sheets = {"people": contact_sheet(pictures[:, 0][None], [""], [f"sample {i}" for i in range(SAMPLES)])}
    attributes = list(synonyms(pipe.space.directions))[:SLIDERS]
    if attributes:
        rows = [strength_grid(pipe, samples[:1], name, STRENGTHS, case, **options)[0] for name in attributes]
        columns = [f"{s:+g} sd" if s else "as it is" for s in STRENGTHS]
        sheets["sliders"] = contact_sheet(np.stack(rows), attributes, columns)
    return sheets
