"""Whom to train: folders of pictures by id, with captions and labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.checks import is_whole
from ..common.constraints import path, validated
from ..dataset import read_labels
from ..errors import InvalidInputError, MissingPathError
from ..store.paths import exists, missing, short
from .captions import require_caption, require_no_table
from .pictures import picture_files

if TYPE_CHECKING:
    import pandas as pd

PICTURES, CAPTION = "pictures", "caption"


@dataclass(frozen=True)
class Person:
    """One identity to train: its id, its folder of pictures, and the caption of pictures without one."""

    id: str
    folder: Path
    caption: str | None = None


@validated(source=path())
def read_people(source: Path | str) -> tuple[list[Person], pd.DataFrame | None]:
    """Read whom to train: a folder with one folder of pictures per identity, or a table.

    Parameters
    ----------
    source : path
        A folder, whose subfolders' names are the ids; hidden ones are left out. Or a CSV, Parquet or JSON Lines file
        with the columns ``id`` and ``pictures`` (a folder, or one picture; if not absolute, relative to the file's
        folder), optionally ``caption``, and labels in the other columns.

    Returns
    -------
    people : list of Person
    labels : DataFrame or None
        The other columns, with a column ``id``.

    Raises
    ------
    MissingPathError
        If there is no such folder or file, or an identity's pictures are missing.
    CorruptFileError
        If the table cannot be read.
    InvalidInputError
        For a table without the two columns, an id that is missing or occurs twice, or a row without pictures.
    """
    source = Path(source)
    if source.is_dir():
        people, labels = _people_in(source), None
    elif exists(source):
        people, labels = _people_of(source, read_labels(source))
    else:
        raise missing(source, "give a folder with one folder of pictures per identity, or a table")
    for person in people:
        picture_files(person.folder)  # said before anything is trained
    return people, labels


def _people_in(source: Path) -> list[Person]:
    """Return a person per folder of a folder."""
    folders = sorted(path for path in source.iterdir() if not path.name.startswith(".") and _is_folder(path))
    if not folders:
        raise MissingPathError(
            f"{source} has no folders; give a folder with one folder of pictures per identity", path=source
        )
    require_no_table(source)
    return [Person(folder.name, folder) for folder in folders]


def _is_folder(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise MissingPathError(f"{path} is a link to a folder that is not there; correct or remove it", path=path)
    return path.is_dir()


def _people_of(source: Path, table: pd.DataFrame) -> tuple[list[Person], pd.DataFrame | None]:
    """Return a person per row of a table, and the labels in its other columns."""
    if PICTURES not in table.columns:
        raise InvalidInputError(
            f"{source} has no column {PICTURES!r}: the folder of each identity's pictures; add it", path=source
        )
    ids = [_id(value, source, number) for number, value in enumerate(table["id"], 1)]
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{source} has the id {short(twice)} twice; ids must be unique", path=source)
    if not ids:
        raise InvalidInputError(f"{source} has no rows; add one per identity", path=source)
    captions = table[CAPTION] if CAPTION in table.columns else [None] * len(table)
    people = []
    for name, folder, caption in zip(ids, table[PICTURES], captions, strict=True):
        folder = str(folder) if is_whole(folder) else folder  # folders called 1, 2, 3
        if not isinstance(folder, str) or not folder:
            raise InvalidInputError(f"{source}: {short(name)} has no folder in the column {PICTURES!r}", path=source)
        person = Person(name, source.parent / folder, _caption(caption, source, name))
        if not exists(person.folder):
            raise MissingPathError(
                f"{source}: the pictures of {short(name)} are not at {person.folder}; correct the table", path=source
            )
        people.append(person)
    labels = table.drop(columns=[c for c in (PICTURES, CAPTION) if c in table.columns])
    labels["id"] = ids
    return people, labels if len(labels.columns) > 1 else None


def _id(value: Any, source: Path, number: int) -> str:
    """Return a row's id: a text, or a whole number as one."""
    if _is_missing(value):
        raise InvalidInputError(f"{source}: row {number:,} has no id; add one, or remove the row", path=source)
    is_text = isinstance(value, str) and value.isprintable()
    if not is_text and not is_whole(value):
        raise InvalidInputError(
            f"{source}: row {number:,} has the id {short(value)}; an id is a printable text or a whole number",
            path=source,
        )
    return str(value)


def _caption(value: Any, source: Path, name: str) -> str | None:
    """Return a row's caption; None for a missing one."""
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise InvalidInputError(f"{source}: the caption of {short(name)} is {short(value)}, not a text", path=source)
    require_caption(value, f"{source}: the caption of {short(name)}")
    return value


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return not value.strip() if isinstance(value, str) else bool(pd.isna(value))
