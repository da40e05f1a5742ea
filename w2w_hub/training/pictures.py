"""Pictures of one identity, from a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ..common.checks import is_whole
from ..common.constraints import Rule, path, validated
from ..common.limits import MAX_PICTURE_BYTES
from ..common.progress import progress
from ..common.text import counted, few
from ..common.warn import warn_caller
from ..errors import InvalidInputError, MissingPathError
from ..models.pictures import open_picture
from ..store.paths import exists, missing, read_regular
from .captions import UNREAD, caption_files, misnamed_texts, read_captions

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
MAX_PICTURES = 10_000
MOST_THREADS = 8  # each holds a picture in memory
SIZE = Rule("a height and a width in pixels", lambda value: _size(value))


@dataclass(frozen=True)
class TrainingPicture:
    """A picture of the size that the base model draws.

    Attributes
    ----------
    path : Path
        Its file.
    image : PIL image
        8-bit RGB, upright, cropped to the middle and resized.
    caption : str or None
        What a text file beside it or the folder's table says; None if neither does.
    cropped : float
        Fraction of its pixels that the crop left out.
    """

    path: Path
    image: Image.Image
    caption: str | None
    cropped: float


@validated(folder=path(), size=SIZE)
def read_pictures(folder: Path | str, size: tuple[int, int]) -> list[TrainingPicture]:
    """Read the pictures of one identity, in the order of their names.

    A caption is the text of ``NAME.txt`` beside ``NAME.png``, or the field ``text`` (or ``caption``, or ``prompt``) of
    the line in ``metadata.jsonl`` or ``metadata.csv`` whose ``file_name`` is the picture's, as in `datasets`'
    imagefolder. Subfolders and hidden files are left out; so are pictures of other formats, with a warning.

    Parameters
    ----------
    folder : path
        A folder of pictures, or one picture.
    size : (int, int)
        Height and width of the base model's pictures: others are cropped to the middle and resized.

    Raises
    ------
    MissingPathError
        If it is not there, or holds no picture.
    CorruptFileError
        For a picture or caption that cannot be read.
    InvalidInputError
        If the table names a picture that is not there, or has no captions; for a file of several pictures.
    """
    folder = Path(folder)
    files = picture_files(folder)
    captions = read_captions(folder, files)
    found = []
    for file in files:
        picture, cropped = fitted(open_picture(file), size)
        found.append(TrainingPicture(file, picture, captions.get(file), cropped))
    return found


def _size(value: object) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(is_whole, value)) or min(value) < 1:
        raise ValueError
    return int(value[0]), int(value[1])


def picture_files(folder: Path) -> list[Path]:
    """Return the files of an identity's pictures, sorted by name; `folder` may be one picture.

    Raises
    ------
    MissingPathError
        If it is not there, or holds no picture; for a link in it that leads nowhere.
    InvalidInputError
        If there are too many.
    """
    if not exists(folder):
        raise missing(folder, "give a folder of pictures of one person")
    if not folder.is_dir():
        return [folder]
    try:
        files = sorted(file for file in folder.iterdir() if _is_picture(file))
    except OSError as error:
        raise MissingPathError(f"{folder} cannot be read: {error.strerror}", path=folder) from error
    if not files:
        raise MissingPathError(f"{folder} has no pictures; {_advice(folder)}", path=folder)
    lost = next((file for file in files if not file.exists()), None)
    if lost is not None:
        raise MissingPathError(f"{lost} is a link to a file that is not there; correct or remove it", path=lost)
    if len(files) > MAX_PICTURES:
        raise InvalidInputError(f"{folder} has {len(files):,} pictures; one identity has at most {MAX_PICTURES:,}")
    return files


def _advice(folder: Path) -> str:
    """Return what to do about a folder without pictures."""
    if _unread(folder):
        return f"{_unread(folder)[0].name} has a format that is not read, save it as JPEG or PNG"
    if any(_is_picture(file) for below in folder.iterdir() if below.is_dir() for file in below.iterdir()):
        return "its folders have: give one of them, or train one identity per folder with w2w train-many"
    return f"put files with one of the suffixes {', '.join(SUFFIXES)} into it"


def _unread(folder: Path) -> list[Path]:
    """Return the pictures in a folder whose format is not read."""
    return sorted(file for file in folder.iterdir() if _has_suffix(file, UNREAD)) if folder.is_dir() else []


def require_readable(folders: Sequence[Path], size: tuple[int, int] | None = None) -> None:
    """Raise unless all pictures and captions of identities can be read; done before the first one is trained on.

    Parameters
    ----------
    size : (int, int), optional
        Height and width to which pictures will be cropped; a warning says how many are.

    Raises
    ------
    MissingPathError, CorruptFileError, InvalidInputError
        As :func:`read_pictures` raises them.
    """
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # decoders release Python's lock
        checked = pool.map(partial(_opened, size=size), folders)
        cropped = [left_out for each in progress(checked, "checking pictures", total=len(folders)) for left_out in each]
    note_cropped(cropped)


def _opened(folder: Path, size: tuple[int, int] | None) -> list[float]:
    """Open everything of an identity; return the fraction of each picture that will be cropped."""
    files = picture_files(folder)
    read_captions(folder, files)
    pictures = map(open_picture, files)
    return [0.0 if size is None else _cropped(picture, size) for picture in pictures]


def fingerprint(folders: Sequence[Path | str]) -> str:
    """Return a digest of the names and contents of identities' pictures and captions, without decoding them."""
    digest = hashlib.sha256()
    for folder in map(Path, folders):
        files = list(_read_files(folder))
        digest.update(f"{len(files)}\n".encode())  # a picture that goes from one identity to the next is a change
        for file in files:
            data = read_regular(file, MAX_PICTURE_BYTES)
            digest.update(os.fsencode(file.name) + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()


def _read_files(folder: Path) -> Iterator[Path]:
    files = picture_files(folder)
    yield from files
    yield from caption_files(folder, files)


def note_left_out(folders: Sequence[Path]) -> None:
    """Warn if folders hold pictures of formats that are not read, or captions that belong to no picture."""
    unread = [file for folder in folders for file in _unread(folder)]
    if unread:
        pictures = counted(len(unread), "picture was", "pictures were")
        warn_caller(f"{pictures} left out, since the format is not read: {_some(unread)}; save as JPEG or PNG")
    texts = [file for folder in folders for file in misnamed_texts(folder, picture_files(folder))]
    if texts:
        files = counted(len(texts), "text file has", "text files have")
        warn_caller(f"{files} no picture's name, so it is no caption: {_some(texts)}; that of 1.png is in 1.txt")


def _some(files: Sequence[Path]) -> str:
    return few([str(file) for file in files], 2)


def note_cropped(cropped: Sequence[float]) -> None:
    """Warn if parts of pictures are left out, by the fraction of each."""
    some = sum(fraction > 0 for fraction in cropped)
    if some:
        were = "was" if some == 1 else "were"
        warn_caller(f"{some:,} of {counted(len(cropped), 'picture')} {were} cropped to the middle")


def _is_picture(path: Path) -> bool:
    return _has_suffix(path, SUFFIXES)


def _has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def fitted(picture: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, float]:
    """Return a picture cropped to the middle and resized to (height, width), and the fraction that was cropped."""
    height, width = size
    if picture.size == (width, height):
        return picture, 0.0
    wide, high = _kept(picture, size)
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    box = (left, top, left + wide, top + high)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box), _cropped(picture, size)


def _kept(picture: Image.Image, size: tuple[int, int]) -> tuple[float, float]:
    """Return the width and height of the part of a picture that has the proportions of a (height, width)."""
    height, width = size
    scale = min(picture.width / width, picture.height / height)
    return width * scale, height * scale


def _cropped(picture: Image.Image, size: tuple[int, int]) -> float:
    """Return the fraction of a picture that is not kept."""
    wide, high = _kept(picture, size)
    return max(0.0, 1 - wide * high / (picture.width * picture.height))
