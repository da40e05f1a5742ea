"""Read pictures and masks from files of strangers, and any picture as numbers; without torch."""

from __future__ import annotations

import io
import reprlib
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.constraints import path as path_rule
from ..common.extras import optional_imports
from ..common.limits import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS
from ..errors import CorruptFileError, InvalidInputError, W2WError
from .paths import read_regular

with optional_imports("diffusers"):
    from PIL import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["as_mask", "as_rgb", "open_mask", "open_picture"]
PAPER = "#ffffff"  # behind transparent pixels
SLACK = 1e-2  # tolerated beyond 0 and 1, since resampling overshoots
# no format that runs a program (EPS), holds a document (PDF) or reads other files
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
ORIENTATION = 0x0112
_FILTERS = threading.Lock()  # filters of warnings are the whole process's, and pictures are opened by threads
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
        with _FILTERS, warnings.catch_warnings():
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


# ------------------------------------------------------------------ numbers
def pixels(picture: Any, size: tuple[int, int], needed_by: str = "this base model") -> np.ndarray:
    """Return a picture as float32 ``(height, width, 3)`` in [0, 1].

    Parameters
    ----------
    picture : PIL image, ndarray, Tensor or path
        A PIL image that :func:`as_rgb` accepts, or the path of one that :func:`open_picture` opens. An array
        ``(h, w, 3)`` or a tensor ``(3, h, w)``, in RGB order, of uint8 or of floats in 0 to 1.
    size : (int, int)
        Required height and width.
    needed_by : str
        What requires it, for an error.

    Raises
    ------
    InvalidInputError
        For another size, number of channels or dtype, NaN, and floats out of range.
    MissingPathError, UnsafePathError, CorruptFileError
        As :func:`open_picture` raises them.
    """
    whose = "a picture"
    if isinstance(picture, (str, Path)):
        whose, picture = str(picture), open_picture(picture)
    if isinstance(picture, Image.Image):
        values, order = np.asarray(as_rgb(picture)), "(h, w, 3)"
    elif isinstance(picture, np.ndarray):
        values, order = picture, "(h, w, 3)"
    elif hasattr(picture, "detach"):
        whole = picture.detach().cpu()
        values, order = (whole.float() if whole.is_floating_point() else whole).numpy(), "(3, h, w)"
        if values.ndim == 3:
            values = values.transpose(1, 2, 0)
    else:
        raise InvalidInputError(f"{reprlib.repr(picture)} is not a picture; open it with PIL.Image.open")
    if values.ndim != 3 or values.shape[2] != 3:
        raise InvalidInputError(f"a picture of shape {tuple(np.shape(picture))} is not {order}")
    if values.shape[:2] != size:
        channels = "" if isinstance(picture, Image.Image) else " of 3 channels"
        raise InvalidInputError(
            f"{whose} is {values.shape[1]}x{values.shape[0]} pixels{channels}, {needed_by} needs {size[1]}x{size[0]}"
        )
    return _in_zero_to_one(values)


def nested(values: Any, several: bool, axes: int) -> list[list[Any]]:
    """Return one list of values per person; an array of more than `axes` axes is a stack of values."""

    def each(given: Any) -> list[Any]:
        items = list(given) if isinstance(given, (list, tuple)) else [given]
        return [part for item in items for part in (item if getattr(item, "ndim", 0) > axes else [item])]

    return [each(person) for person in values] if several else [each(values)]


def is_several(pictures: Any) -> bool:
    """Return whether pictures are those of several people, a list of lists."""
    return isinstance(pictures, (list, tuple)) and bool(pictures) and isinstance(pictures[0], (list, tuple))


def _in_zero_to_one(values: np.ndarray) -> np.ndarray:
    """Return pixels as float32 in 0 to 1; values in another range are refused, not scaled."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    if values.dtype.kind != "f":
        raise InvalidInputError(f"a picture of {values.dtype}; give uint8 in 0 to 255 or floats in 0 to 1")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InvalidInputError("a picture holds NaN or infinite values; replace them")
    if low < -SLACK or high > 1 + SLACK:
        raise InvalidInputError(f"a picture of floats must be in 0 to 1, this one is in {low:.3g} to {high:.3g}")
    return np.clip(values.astype(np.float32), 0, 1)
