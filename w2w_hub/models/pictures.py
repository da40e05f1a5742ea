"""Reading of pictures and masks from untrusted files, contact sheets with captions, and animations."""

from __future__ import annotations

import io
import reprlib
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.constraints import as_array, flag, names, validated, whole
from ..common.constraints import path as path_rule
from ..common.constraints import text as text_rule
from ..common.extras import optional_imports
from ..common.limits import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS
from ..errors import CorruptFileError, InvalidInputError, W2WError
from ..store.atomic import write_bytes
from ..store.paths import read_regular
from .captions import LINE, draw_line, lines_of, width_of

with optional_imports("diffusers"):
    from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

INK, PAPER = "#222222", "#ffffff"
GAP = 4
WIDEST_NAME, NARROWEST = 240, 56  # pixels: a row's caption is wrapped to the one, a column's to no less than the other
SCALE = whole(1, 64)
# no format that runs a program (EPS), holds a document (PDF) or reads other files
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(path: Path | str) -> Picture:
    """Return the picture in a file as 8-bit RGB, see :func:`as_rgb`.

    The file must be PNG, JPEG, WebP, TIFF, GIF or BMP, a regular file (or a link to one) of at most
    :data:`MAX_PICTURE_BYTES` with at most :data:`MAX_PICTURE_PIXELS`. A phone's JPEG may hold several pictures, of
    which the first is returned; other files of several pictures are refused.

    Raises
    ------
    MissingPathError, UnsafePathError
        If it is not there, or a folder, pipe or device.
    CorruptFileError
        If it is not such a picture, too large, or damaged.
    InvalidInputError
        If it holds several pictures, or one whose color space is not stated.
    """
    return as_rgb(_loaded(path), str(path))


def open_mask(path: Path | str) -> Picture:
    """Return the picture in a file as 8-bit gray, see :func:`open_picture` and :func:`as_mask`."""
    return as_mask(_loaded(path), str(path))


def _loaded(path: Path | str) -> Picture:
    path = path_rule().checked(path, "a picture's path")
    data = read_regular(path, MAX_PICTURE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # our own limit is lower
            picture: Picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PICTURE_PIXELS:
                raise CorruptFileError(
                    f"{path} has {width} x {height} pixels; a picture has at most {MAX_PICTURE_PIXELS:,}", path=path
                )
            several = getattr(picture, "n_frames", 1)
            if several > 1 and picture.format != "MPO":
                raise InvalidInputError(
                    f"{path} holds {several} pictures; save the one to use as a file of its own", path=path
                )
            picture.load()
    except W2WError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptFileError(
            f"{path}: a picture has at most {MAX_PICTURE_PIXELS:,} pixels ({error})", path=path
        ) from error
    except Exception as error:  # decoders raise many types for broken data
        raise CorruptFileError(
            f"{path} is not a readable picture ({type(error).__name__}); save it as PNG or JPEG", path=path
        ) from error
    return picture


def as_rgb(picture: Picture, name: str = "a picture") -> Picture:
    """Return a picture as 8-bit RGB, upright, on white where it is transparent.

    The orientation in its EXIF is applied. 16-bit gray is rounded to 8 bits; a color profile is not applied.

    Raises
    ------
    InvalidInputError
        For modes of unknown range or color space: 32-bit integers and floats, LAB.
    """
    picture = _upright(_eight_bits(picture, name))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = _with_alpha(picture, name)
    return Image.alpha_composite(Image.new("RGBA", picture.size, PAPER), picture).convert("RGB")


def as_mask(picture: Picture, name: str = "a mask") -> Picture:
    """Return a picture as 8-bit gray, upright: white pixels count.

    Raises
    ------
    InvalidInputError
        As :func:`as_rgb` raises, and if a pixel is transparent, which may mean either.
    """
    picture = _upright(_eight_bits(picture, name))
    if picture.has_transparency_data:
        picture = _with_alpha(picture, name)
        if np.asarray(picture)[..., 3].min(initial=255) < 255:
            raise InvalidInputError(
                f"{name} has transparent pixels; save it without transparency: white counts, black does not"
            )
    return picture.convert("L")


def _eight_bits(picture: Picture, name: str) -> Picture:
    """Return a picture with at most 8 bits per channel; its EXIF and transparency are kept."""
    if not isinstance(picture, Image.Image):
        raise InvalidInputError(f"{name} must be a PIL image, not {reprlib.repr(picture)}")
    try:
        picture.load()  # before its EXIF is read: Pillow turns a TIFF upright by itself
    except Exception as error:
        raise CorruptFileError(f"{name} cannot be decoded ({type(error).__name__}); save it again") from error
    if picture.mode.startswith("I;16"):
        wide = np.asarray(picture).astype(np.float64)
        narrow = Image.fromarray((wide / 257).round().astype(np.uint8))
        clear = picture.info.get("transparency")
        if clear is not None:
            narrow.putalpha(Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8)))
        narrow.info["exif"] = picture.getexif().tobytes() if _orientation(picture) != 1 else b""
        return narrow
    if picture.mode not in MODES:
        raise InvalidInputError(f"{name} has the mode {picture.mode}, whose range is unknown; save it as 8-bit RGB")
    return picture


def _with_alpha(picture: Picture, name: str) -> Picture:
    """Return a picture with transparency as RGBA."""
    clear = picture.info.get("transparency")
    if picture.mode in ("1", "L", "RGB") and not _is_byte(clear):
        # 16 bits per channel, of which Pillow kept 8: which pixels are transparent is lost
        raise InvalidInputError(f"{name} has a transparent color of 16 bits per channel; save it with an alpha channel")
    if picture.mode == "PA":
        return picture.convert("RGBA")
    return (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")


def _is_byte(clear: Any) -> bool:
    values = clear if isinstance(clear, tuple) else (clear,)
    return all(isinstance(value, int) and 0 <= value <= 255 for value in values)


def _upright(picture: Picture) -> Picture:
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Picture) -> int:
    """Return the orientation in a picture's EXIF; 1 (upright) if there is none that can be read."""
    try:
        stated = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF says nothing about the pixels
        return 1
    return stated if isinstance(stated, int) and stated in TURNS else 1


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
