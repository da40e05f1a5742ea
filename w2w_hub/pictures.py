"""Pictures for people: contact sheets with captions, and sweeps that move."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CorruptFileError, InvalidInputError, MissingPathError, missing_extra
from .files import write_bytes

try:
    from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
except ImportError:
    raise missing_extra("pillow", "diffusers") from None

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

INK, PAPER, LINE = "#222222", "#ffffff", 15
GAP = 4


def open_picture(path: Path | str) -> Picture:
    """One picture as RGB, or an error that names the file."""
    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"{path} is not there")
    try:
        return as_rgb(Image.open(path))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptFileError(f"{path} is not a readable picture ({error})") from error


def as_rgb(picture: Picture) -> Picture:
    """A picture as 8-bit RGB; of 16-bit grey the upper 8 bits.

    Raises
    ------
    InvalidInputError
        For modes whose range nothing states: 32-bit integers and floats.
    """
    if picture.mode.startswith("I;16"):
        wide = np.asarray(picture).astype(np.float64)
        return Image.fromarray((wide / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise InvalidInputError(f"a picture of mode {picture.mode} does not state its range; save it with 8 bits")
    return picture.convert("RGB")


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
    wrapped = [textwrap.wrap(text, max(8, width // 7)) or [""] for text in columns]
    top = LINE * (max(map(len, wrapped)) + (2 if title else 0)) + GAP
    left = max((int(font.getlength(text)) for text in rows), default=0) + 3 * GAP
    sheet = Image.new("RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, 2), title, fill=INK, font=font)
    for j, lines in enumerate(wrapped):
        start = top - LINE * len(lines) - GAP // 2
        for i, line in enumerate(lines):
            draw.text((left + j * (width + GAP), start + LINE * i), line, fill=INK, font=font)
    for i, text in enumerate(rows):
        y = top + i * (height + GAP)
        draw.text((GAP, y + height // 2 - LINE // 2), text, fill=INK, font=font)
        for j in range(len(columns)):
            sheet.paste(to_picture(pictures[i, j], scale), (left + j * (width + GAP), y))
    return sheet


def animation(pictures: np.ndarray, rows: Sequence[str], frames: Sequence[str], *, scale: int = 2) -> list[Picture]:
    """A sweep there and back: frame j shows column j of `pictures`, all rows side by side, under its caption.

    Parameters
    ----------
    pictures : ndarray
        Float ``(rows, frames, h, w, 3)`` in [0, 1].
    """
    shown = [contact_sheet(pictures[:, j][None], [""], rows, scale=scale, title=text) for j, text in enumerate(frames)]
    return shown + shown[-2:0:-1]


def save_picture(picture: Picture | Sequence[Picture], path: Path | str, *, milliseconds: int = 250) -> None:
    """Write a new picture, or several as an animation (``.gif``, ``.webp``, ``.png``), all or nothing.

    Raises
    ------
    AlreadyExistsError
    InvalidInputError
        If the name's ending is no kind of picture that can be written.
    """
    path = Path(path)
    kind = picture_kind(path)
    first, *others = [picture] if isinstance(picture, Image.Image) else list(picture)
    options: dict[str, Any] = {}
    if others:
        options = {"save_all": True, "append_images": others, "duration": milliseconds, "loop": 0}
    if kind == "GIF":
        options["optimize"] = False
    data = io.BytesIO()
    first.save(data, kind, **options)
    write_bytes(path, data.getvalue())


def picture_kind(path: Path | str) -> str:
    """Pillow's name of the kind of picture that a path's ending stands for."""
    Image.init()
    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise InvalidInputError(f"{path}: no picture is written under this ending; choose .png, .jpg, .webp or .gif")
    return kind
