"""Pictures of one identity and their captions, from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..common.checks import is_whole
from ..common.constraints import Rule, path, validated
from ..common.limits import MAX_JSON_BYTES
from ..common.text import counted
from ..common.warn import warn_caller
from ..errors import CorruptFileError, InvalidInputError, MissingPathError
from ..models.pictures import open_picture
from ..store.paths import read_regular, short

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
MAX_CAPTION = 4096  # characters
MAX_PICTURES = 10_000
SIZE = Rule("a height and a width in pixels", lambda value: _size(value))
METADATA, CAPTION_COLUMNS = "metadata.jsonl", ("text", "caption", "prompt")


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
        What a sidecar file or ``metadata.jsonl`` says; None if neither does.
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

    A caption is the text of ``NAME.txt`` beside ``NAME.png``, or the field ``text`` of the line in ``metadata.jsonl``
    whose ``file_name`` is the picture's, as in `datasets`' imagefolder.

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
        If ``metadata.jsonl`` names a picture that is not there.
    """
    folder = Path(folder)
    files = picture_files(folder)
    stated = _metadata(folder, {file.name for file in files}) if folder.is_dir() else {}
    found = []
    for file in files:
        picture, cropped = fitted(open_picture(file), size)
        found.append(TrainingPicture(file, picture, _sidecar(file) or stated.get(file.name), cropped))
    return found


def _size(value: object) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(is_whole, value)) or min(value) < 1:
        raise ValueError
    return int(value[0]), int(value[1])


def picture_files(folder: Path) -> list[Path]:
    """Return the files of an identity's pictures, sorted by name; `folder` may be one picture."""
    if folder.is_dir():
        files = sorted(file for file in folder.iterdir() if _is_picture(file))
    elif folder.exists():
        files = [folder]
    else:
        raise MissingPathError(f"{folder} does not exist; give a folder of pictures of one person", path=folder)
    if not files:
        raise MissingPathError(
            f"{folder} has no pictures; put files with one of the suffixes {', '.join(SUFFIXES)} into it", path=folder
        )
    if len(files) > MAX_PICTURES:
        raise InvalidInputError(f"{folder} has {len(files):,} pictures; one identity has at most {MAX_PICTURES:,}")
    return files


def fingerprint(folders: Sequence[Path | str]) -> str:
    """Return a digest of the names and contents of identities' pictures and captions, without decoding them."""
    digest = hashlib.sha256()
    for folder in map(Path, folders):
        files, metadata = picture_files(folder), folder / METADATA
        parts = [*files, *(file.with_suffix(".txt") for file in files), metadata]
        there = [part for part in parts if part.is_file()]
        digest.update(f"{len(there)}\n".encode())  # a picture that goes from one identity to the next is a change
        for part in there:
            digest.update(part.name.encode() + b"\0" + hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def note_cropped(pictures: Sequence[TrainingPicture]) -> None:
    """Warn if pictures were cropped."""
    cropped = sum(picture.cropped > 0 for picture in pictures)
    if cropped:
        were = "was" if cropped == 1 else "were"
        warn_caller(f"{cropped} of {counted(len(pictures), 'picture')} {were} cropped to the middle")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def fitted(picture: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, float]:
    """Return a picture cropped to the middle and resized to (height, width), and the fraction that was cropped."""
    height, width = size
    scale = min(picture.width / width, picture.height / height)
    wide, high = width * scale, height * scale
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    box = (left, top, left + wide, top + high)
    cropped = 1 - wide * high / (picture.width * picture.height)
    if picture.size == (width, height):
        return picture, 0.0
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box), max(0.0, cropped)


def _sidecar(path: Path) -> str | None:
    file = path.with_suffix(".txt")
    return _caption(_text(file), file) if file.is_file() else None


def _text(path: Path) -> str:
    try:
        return read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not UTF-8 text; save it as UTF-8", path=path) from error


def _caption(text: object, where: Path) -> str | None:
    if not isinstance(text, str) or len(text) > MAX_CAPTION:
        raise CorruptFileError(f"{where}: a caption is text of at most {MAX_CAPTION:,} characters", path=where)
    return " ".join(text.split()) or None


def require_caption(text: str | None, where: str) -> None:
    """Raise if a caption is too long.

    Raises
    ------
    InvalidInputError
    """
    if text is not None and len(text) > MAX_CAPTION:
        raise InvalidInputError(f"{where} has {len(text):,} characters; a caption has at most {MAX_CAPTION:,}")


def _metadata(folder: Path, names: set[str]) -> Mapping[str, str]:
    """Return the captions in ``metadata.jsonl`` by file name; an empty mapping if there is no such file."""
    file = folder / METADATA
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
            if not isinstance(name, str):
                raise TypeError
            caption = next((row[column] for column in CAPTION_COLUMNS if column in row), None)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorruptFileError(
                f"{file}: line {number} is not a JSON object with a file_name; correct it", path=file
            ) from error
        if name not in names:
            raise InvalidInputError(f"{file}: line {number} names {short(name)}, which is not in the folder", path=file)
        if name in found:
            raise InvalidInputError(f"{file}: line {number} names {short(name)} a second time", path=file)
        text = None if caption is None else _caption(caption, file)
        if text:
            found[name] = text
    return found
