"""Make the small picture that an exported LoRA's header carries."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.pictures import as_rgb, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIDE = 256  # pixels, as the model metadata standard recommends
LARGEST = 24_000  # bytes of JPEG; a header has some kilobytes otherwise
QUALITIES = (90, 80, 65, 50, 35, 20, 10)


def thumbnail_of(picture: Picture | Path | str) -> str:
    """Return a picture as the data URI of a JPEG of at most 256 x 256 pixels and 24 kB.

    A smaller picture is enlarged by a whole factor.

    Raises
    ------
    MissingPathError, UnsafePathError, CorruptFileError, InvalidInputError
        See :func:`w2w_hub.store.pictures.open_picture`.
    """
    from PIL import Image

    made = open_picture(picture) if isinstance(picture, (str, Path)) else as_rgb(picture, "a thumbnail").copy()
    made.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    factor = SIDE // max(made.size)
    made = made.resize((made.width * factor, made.height * factor), Image.Resampling.NEAREST)
    for quality in QUALITIES:
        data = io.BytesIO()
        made.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= LARGEST:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


__all__ = ["thumbnail_of"]
