"""Draws the thumbnails of an atlas."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.constraints import has, instance, text, validated, whole
from ..common.extras import optional_imports
from ..common.progress import progress
from ..errors import InvalidInputError
from ..space.atlas import Atlas
from .inversion import SEED
from .pictures import to_picture

with optional_imports("diffusers"):
    from PIL import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["draw_atlas"]
AT_ONCE, QUALITY = 32, 82


@validated(
    pipe=has("render", "a pipeline with a weight space"), atlas=instance(Atlas, "an Atlas"), prompt=text(), seed=SEED,
    size=whole(16, 512),
)  # fmt: skip
def draw_atlas(
    pipe: Any, atlas: Atlas, *, prompt: str = "sks person", seed: int = 0, size: int = 64, **options: Any
) -> Atlas:
    """Return an atlas with a picture of each person: of their point, all with the same prompt and noise.

    Pictures are drawn and compressed part by part, so that memory does not grow with the number of people.

    Parameters
    ----------
    pipe : W2WMixin
        A pipeline of the atlas' space.
    size : int
        Pixels of the longer side; pictures that are smaller are not enlarged.
    **options
        Of the stock pipeline's call, for instance `num_inference_steps`.

    Raises
    ------
    InvalidInputError
        If the pipeline has another weight space.
    """
    if pipe.space.digest != atlas.space.digest:
        raise InvalidInputError(
            f"the pipeline has the weight space {pipe.space.digest[:12]}, the atlas is of {atlas.space.digest[:12]}"
        )
    thumbnails: list[bytes] = []
    for start in progress(range(0, len(atlas), AT_ONCE), "drawing people"):
        drawn = pipe.render(list(atlas.ids[start : start + AT_ONCE]), [(prompt, seed)], batch_size=AT_ONCE, **options)
        thumbnails += [_compressed(picture, size) for picture in drawn[:, 0]]
    return replace(atlas, thumbnails=tuple(thumbnails))


def _compressed(values: np.ndarray, size: int) -> bytes:
    picture: Picture = to_picture(values)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=QUALITY, method=4)
    return data.getvalue()
