"""Where an exported identity comes from: the fields of its files' headers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..common.license_ids import strictest
from ..common.text import one_line
from ..common.version import __version__
from ..dialects.inspection import guess_base
from ..dialects.thumbnails import FIELD as THUMBNAIL
from ..lora.adapter import Adapter
from .notes import describe_edits

if TYPE_CHECKING:
    from .points import Point
    from .weight_space import WeightSpace

# of Stability's model metadata standard, which user interfaces show
ARCHITECTURES = {
    "Stable Diffusion 1.x": "stable-diffusion-v1/lora",
    "Stable Diffusion 2.x": "stable-diffusion-v2-512/lora",
    "SDXL": "stable-diffusion-xl-v1-base/lora",
    "Flux.1": "flux-1-dev/lora",
}
MODELSPEC = "1.0.1"
TRIGGER = "modelspec.trigger_phrase"
LONGEST_TRIGGER = 300  # characters
# licenses of base models whose repositories state them; those of others are unknown
BASE_LICENSES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "compvis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "black-forest-labs/flux.1-schnell": "apache-2.0",
    "w2w-hub/avatars-base": "apache-2.0",
}


def license_of_exports(license: str, base_model: str | None) -> str:
    """Return the license of an adapter made from a weight space: the strictest of the space's and its base model's.

    ``unknown`` if one is unknown, or if neither includes the other's conditions.
    """
    return strictest([license, BASE_LICENSES.get((base_model or "").lower())])


def provenance_of(
    space: WeightSpace, point: Point, adapter: Adapter, *, trigger: str | None = None, thumbnail: str | None = None
) -> dict[str, str]:
    """Return header fields that say how an adapter was made: ``modelspec.*`` for others, ``w2w.*`` for this package.

    Without a thumbnail they depend on the space, the point and the phrase, so that exports of one identity say the
    same.

    Parameters
    ----------
    trigger : str, optional
        The phrase in a prompt that shows the identity; by default the one that the space's rows were trained with.
    thumbnail : str, optional
        A picture as a data URI, see :func:`w2w_hub.space.thumbnails.thumbnail_of`.
    """
    recipe, history = space.recipe, dict(point.history)
    row = history.get("row")
    whose = (row if isinstance(row, str) else "an identity") + (" (edited)" if describe_edits(history) else "")
    fields: dict[str, object] = {
        "modelspec.sai_model_spec": MODELSPEC,
        "modelspec.architecture": ARCHITECTURES.get(guess_base(adapter)[0] or ""),
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{whose} of {space.name} {space.version}",
        "modelspec.license": license_of_exports(space.licence, space.compatibility.base_model),
        TRIGGER: one_line(trigger or trigger_phrase(space), LONGEST_TRIGGER),
        THUMBNAIL: thumbnail,
        "w2w.software": f"w2w_hub {__version__}",
        "w2w.space": f"{space.name} {space.version}",
        "w2w.space_digest": space.digest,
        "w2w.dataset": f"{recipe.get('dataset')} {recipe.get('dataset_version')}",
        "w2w.dataset_digest": recipe.get("dataset_digest"),
        "w2w.row": row,
        "w2w.history": json.dumps(history, sort_keys=True) if history else None,
    }
    revision = recipe.get("dataset_revision")
    if isinstance(revision, dict):
        fields["w2w.dataset_commit"] = f"{revision.get('repo')}@{revision.get('commit')}"
    return {name: value for name, value in fields.items() if isinstance(value, str) and value}


def trigger_phrase(space: WeightSpace) -> str:
    """Return the phrase that the rows of a space were trained with, as its recipe states it; empty if it does not."""
    stated = space.recipe.get("trigger_phrase")
    return stated.strip() if isinstance(stated, str) else ""


__all__ = ["BASE_LICENSES", "TRIGGER", "license_of_exports", "provenance_of", "trigger_phrase"]
