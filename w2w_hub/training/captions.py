"""Captions of one identity's pictures: a text file beside each picture, or a table in their folder."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..common.limits import MAX_JSON_BYTES
from ..common.text import few
from ..errors import CorruptFileError, InvalidInputError, W2WError
from ..store.paths import read_regular, short

# pictures too, which are not read: somebody who has a folder of them expects that they count
UNREAD = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".tga",
)  # fmt: skip
MAX_CAPTION = 4096  # characters
TABLES = ("metadata.jsonl", "metadata.csv")  # as in datasets' imagefolder
OTHER_TABLES = ("metadata.parquet", "metadata.json")
FILE_NAME, CAPTION_COLUMNS = "file_name", ("text", "caption", "prompt")


def read_captions(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Return the captions of an identity's pictures; those without one are left out.

    Parameters
    ----------
    folder : path
        The folder that may hold a table. It may also be the one picture.

    Raises
    ------
    CorruptFileError
        For a caption or a table that cannot be read.
    InvalidInputError
        If a table names a picture that is not there, or has no column of captions.
    """
    stated = _table(folder, {_normal(file.name) for file in files}) if folder.is_dir() else {}
    captions = {file: _sidecar(file) or stated.get(_normal(file.name)) for file in files}
    return {file: caption for file, caption in captions.items() if caption}


def _normal(name: str) -> str:
    """Return a file's name in the normal form of Unicode; some systems store another one than people type."""
    return unicodedata.normalize("NFC", name)


def misnamed_texts(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the text files of a folder if none of them has a picture's name."""
    texts = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".txt") if folder.is_dir() else []
    return [] if {sidecar_of(file) for file in files} & set(texts) else texts


def caption_files(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the files that :func:`read_captions` reads, of those that are there."""
    candidates = [*map(sidecar_of, files), *(folder / name for name in TABLES)]
    return [file for file in candidates if file.is_file()]


def sidecar_of(picture: Path) -> Path:
    """Return the path of the text file that may hold a picture's caption."""
    return picture.with_suffix(".txt")


def require_caption(text: str | None, where: str) -> None:
    """Raise if a caption is too long or not valid Unicode.

    Raises
    ------
    InvalidInputError
    """
    problem = _problem(text or "")
    if problem:
        raise InvalidInputError(f"{where} {problem}")


def require_no_table(folder: Path) -> None:
    """Raise if a folder of several identities has a table of captions, which would have no effect.

    Raises
    ------
    InvalidInputError
    """
    for name in (*TABLES, *OTHER_TABLES):
        if (folder / name).exists():
            raise InvalidInputError(
                f"{folder / name}: captions are read from each identity's own folder; move them there, or give a table "
                "with the columns id, pictures and caption",
                path=folder / name,
            )


def _problem(text: str) -> str:
    """Return what is wrong with a caption, to follow its name; else the empty text."""
    if len(text) > MAX_CAPTION:
        return f"has {len(text):,} characters; a caption has at most {MAX_CAPTION:,}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode; write it again"
    return ""


def _caption(value: object, where: str, path: Path) -> str | None:
    """Return a caption without line breaks; None for a missing or empty one."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise CorruptFileError(f"{where}: the caption is not a text", path=path)
    problem = _problem(value)
    if problem:
        raise CorruptFileError(f"{where}: the caption {problem}", path=path)
    return " ".join(value.split()) if value.strip(" \r\n\t,") else None


def _sidecar(picture: Path) -> str | None:
    file = sidecar_of(picture)
    return _caption(_text(file), str(file), file) if file.is_file() else None


def _text(path: Path) -> str:
    try:
        return read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not UTF-8 text; save it as UTF-8", path=path) from error


# ------------------------------------------------------------------ tables
def _table(folder: Path, names: set[str]) -> dict[str, str]:
    """Return the captions in the folder's table by file name; an empty mapping if there is none."""
    _require_readable_table(folder)
    file = next((folder / name for name in TABLES if (folder / name).exists()), None)
    if file is None:
        return {}
    found: dict[str, str | None] = {}
    columns: set[str] = set()
    for number, row in _json_rows(file) if file.suffix == ".jsonl" else _csv_rows(file):
        where, name = f"{file}: line {number}", row.get(FILE_NAME)
        if not isinstance(name, str):
            raise CorruptFileError(f"{where} has no {FILE_NAME}; add the name of its picture", path=file)
        name = _normal(str(PurePosixPath(name)))  # ./1.png is 1.png
        if name not in names and (folder / name).suffix.lower() in UNREAD and (folder / name).is_file():
            continue  # left out with a warning, as its picture is
        if name not in names:
            raise InvalidInputError(f"{where} names {short(name)}, which is not in the folder; correct it", path=file)
        if name in found:
            raise InvalidInputError(f"{where} names {short(name)} a second time; remove one of the lines", path=file)
        columns.update(row)
        found[name] = _caption(next((row[c] for c in CAPTION_COLUMNS if c in row), None), where, file)
    others = sorted(columns - {FILE_NAME})
    if others and columns.isdisjoint(CAPTION_COLUMNS):
        raise InvalidInputError(
            f"{file} has no captions: it has {few(others)}; rename the column that holds them to {CAPTION_COLUMNS[0]}",
            path=file,
        )
    return {name: caption for name, caption in found.items() if caption}


def _require_readable_table(folder: Path) -> None:
    there = [name for name in (*TABLES, *OTHER_TABLES) if (folder / name).exists()]
    if len(there) > 1:
        raise InvalidInputError(f"{folder} has {' and '.join(there)}; leave the one that holds the captions")
    for name in there:
        if name in OTHER_TABLES:
            raise InvalidInputError(
                f"{folder / name} is not read; save the captions as {TABLES[0]} or {TABLES[1]}", path=folder / name
            )


def _json_rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_text(file).split("\n"), 1):  # not splitlines: JSON may hold other line breaks
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptFileError(
                f'{file}: line {number} is not a JSON object such as {{"file_name": "1.png", "text": "..."}}; '
                "correct it",
                path=file,
            ) from error
        yield number, row


def _csv_rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.DictReader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise CorruptFileError(
                    f"{file}: line {rows.line_num} has not as many fields as the header; quote captions with commas",
                    path=file,
                )
            yield rows.line_num, {name.strip(): value for name, value in row.items()}
    except W2WError:
        raise
    except csv.Error as error:
        raise CorruptFileError(f"{file}: line {rows.line_num} is not CSV ({error}); correct it", path=file) from error
