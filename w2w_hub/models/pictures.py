"""Contact sheets with captions, and animations; what reads pictures is in :mod:`w2w_hub.store.pictures`."""

from __future__ import annotations

import io
import reprlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.constraints import as_array, flag, names, validated, whole
from ..common.constraints import path as path_rule
from ..common.constraints import text as text_rule
from ..common.extras import optional_imports
from ..errors import InvalidInputError
from ..store.atomic import write_bytes
from ..store.pictures import PAPER as PAPER
from ..store.pictures import as_mask as as_mask
from ..store.pictures import as_rgb as as_rgb
from ..store.pictures import open_mask as open_mask
from ..store.pictures import open_picture as open_picture
from .captions import LINE, draw_line, lines_of, width_of

with optional_imports("diffusers"):
    from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

INK = "#222222"
GAP = 4
WIDEST_NAME, NARROWEST = 240, 56  # pixels: a row's caption is wrapped to the one, a column's to no less than the other
SCALE = whole(1, 64)


@validated(scale=SCALE)
def to_picture(values: np.ndarray, scale: int = 1) -> Picture:
    """Return a float array ``(h, w, 3)`` in [0, 1] as a picture, enlarged without smoothing."""
    values = as_array(values, "a picture")
    if values.ndim != 3 or values.shape[2] != 3 or not values.size or not np.isfinite(values).all():
        raise InvalidInputError(f"a picture must be finite numbers of shape (h, w, 3), not {values.shape}")
    picture = Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


@validated(rows=names(), columns=names(), scale=SCALE, title=text_rule())
def contact_sheet(
    pictures: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, scale: int = 2, title: str = ""
) -> Picture:
    """Return one sheet of captioned pictures.

    Parameters
    ----------
    pictures : ndarray
        Float ``(rows, columns, h, w, 3)`` in [0, 1].
    rows, columns : sequence of str
        Captions in any script, see :mod:`.captions`; they are wrapped, a column's to its width.
    """
    pictures = as_array(pictures, "pictures")
    if pictures.ndim != 5 or not pictures.size or pictures.shape[:2] != (len(rows), len(columns)):
        raise InvalidInputError(f"{len(rows)} x {len(columns)} captions for pictures of shape {pictures.shape}")
    height, width = (side * scale for side in pictures.shape[2:4])
    heads = [lines_of(text, max(NARROWEST, width)) for text in columns]
    names = [lines_of(text, WIDEST_NAME, most=max(1, height // LINE)) for text in rows]
    top = LINE * (max(map(len, heads)) + (2 if title else 0)) + GAP
    left = max(width_of(line) for lines in names for line in lines) + 3 * GAP
    sheet = Image.new("RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw_line(draw, (GAP, 2), title, INK)
    for j, lines in enumerate(heads):
        _draw_lines(draw, (left + j * (width + GAP), top - LINE * len(lines) - GAP // 2), lines)
    for i, lines in enumerate(names):
        y = top + i * (height + GAP)
        _draw_lines(draw, (GAP, y + (height - LINE * len(lines)) // 2), lines)
        for j in range(len(columns)):
            sheet.paste(to_picture(pictures[i, j], scale), (left + j * (width + GAP), y))
    return sheet


def _draw_lines(draw: ImageDraw.ImageDraw, position: tuple[int, int], lines: Sequence[str]) -> None:
    for i, line in enumerate(lines):
        draw_line(draw, (position[0], position[1] + LINE * i), line, INK)


@validated(rows=names(), frames=names(), scale=SCALE)
def animation(pictures: np.ndarray, rows: Sequence[str], frames: Sequence[str], *, scale: int = 2) -> list[Picture]:
    """Return frames that run forward and back: frame j shows column j of `pictures`, rows side by side.

    Parameters
    ----------
    pictures : ndarray
        Float ``(rows, frames, h, w, 3)`` in [0, 1].
    """
    pictures = as_array(pictures, "pictures")
    if pictures.ndim != 5 or pictures.shape[:2] != (len(rows), len(frames)):
        raise InvalidInputError(f"{len(rows)} x {len(frames)} captions for pictures of shape {pictures.shape}")
    shown = [contact_sheet(pictures[:, j][None], [""], rows, scale=scale, title=text) for j, text in enumerate(frames)]
    return shown + shown[-2:0:-1]


@validated(path=path_rule(), milliseconds=whole(1), overwrite=flag())
def save_picture(
    picture: Picture | Sequence[Picture], path: Path | str, *, milliseconds: int = 250, overwrite: bool = False
) -> None:
    """Write a picture, or several as an animation (``.gif``, ``.webp``, ``.png``), all or nothing.

    Parameters
    ----------
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    AlreadyExistsError
    InvalidInputError
        If Pillow cannot write the suffix's format.
    """
    path = Path(path)
    kind = picture_kind(path)
    pictures = [picture] if isinstance(picture, Image.Image) else picture
    if not isinstance(pictures, (list, tuple)) or not pictures or not all(isinstance(p, Image.Image) for p in pictures):
        raise InvalidInputError(f"expected a PIL image or a list of them, not {reprlib.repr(picture)}")
    first, *others = pictures
    options: dict[str, Any] = {}
    if others:
        options = {"save_all": True, "append_images": others, "duration": milliseconds, "loop": 0}
    if kind == "GIF":
        options["optimize"] = False
    data = io.BytesIO()
    try:
        first.save(data, kind, **options)
    except (KeyError, OSError, ValueError, OverflowError, struct.error) as error:
        raise InvalidInputError(f"{path}: this picture cannot be written as {kind} ({error})", path=path) from error
    write_bytes(path, data.getvalue(), replace=overwrite)


@validated(path=path_rule())
def picture_kind(path: Path | str) -> str:
    """Return Pillow's name for the format of a path's suffix."""
    Image.init()
    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise InvalidInputError(
            f"{path}: pictures are not written with this suffix; choose .png, .jpg, .webp or .gif", path=path
        )
    return kind
