"""Pictures for people: contact sheets with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import CorruptFileError, InvalidInputError, MissingPathError, missing_extra

try:
    from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
except ImportError:
    raise missing_extra("pillow", "diffusers") from None

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

INK, PAPER, LINE = "#222222", "#ffffff", 15


def open_picture(path: Path | str) -> Picture:
    """One picture as RGB, or an error that names the file."""
    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"{path} is not there")
    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise CorruptFileError(f"{path} is not a readable picture ({error})") from error


def to_picture(values: np.ndarray, scale: int = 1) -> Picture:
    """A float picture ``(h, w, 3)`` in [0, 1], enlarged without smoothing."""
    picture = Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def contact_sheet(
    pictures: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, scale: int = 2, title: str = ""
) -> Picture:
    """One captioned sheet.

    Parameters
    ----------
    pictures : ndarray
        Float ``(rows, columns, h, w, 3)`` in [0, 1].
    rows, columns : sequence of str
        Captions; a column's is wrapped to its width.
    """
    if pictures.ndim != 5 or pictures.shape[:2] != (len(rows), len(columns)):
        raise InvalidInputError(f"{len(rows)} x {len(columns)} captions for pictures of shape {pictures.shape}")
    font = ImageFont.load_default(12)
    height, width = (side * scale for side in pictures.shape[2:4])
    gap = 4
    wrapped = [textwrap.wrap(text, max(8, width // 7)) or [""] for text in columns]
    top = LINE * (max(map(len, wrapped)) + (2 if title else 0)) + gap
    left = max((int(font.getlength(text)) for text in rows), default=0) + 3 * gap
    sheet = Image.new("RGB", (left + len(columns) * (width + gap), top + len(rows) * (height + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, 2), title, fill=INK, font=font)
    for j, lines in enumerate(wrapped):
        start = top - LINE * len(lines) - gap // 2
        for i, line in enumerate(lines):
            draw.text((left + j * (width + gap), start + LINE * i), line, fill=INK, font=font)
    for i, text in enumerate(rows):
        y = top + i * (height + gap)
        draw.text((gap, y + height // 2 - LINE // 2), text, fill=INK, font=font)
        for j in range(len(columns)):
            sheet.paste(to_picture(pictures[i, j], scale), (left + j * (width + gap), y))
    return sheet
