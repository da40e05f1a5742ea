"""Whom to train: folders of pictures by id, with captions and labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.constraints import path, validated
from ..dataset import read_labels
from ..errors import InvalidInputError, MissingPathError
from ..store.paths import short
from .pictures import require_caption

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
        A folder, whose subfolders' names are the ids; or a CSV, Parquet or JSON Lines file with the columns ``id`` and
        ``pictures`` (a folder, or one picture, relative to the file's folder), optionally ``caption``, and labels in
        the other columns.

    Returns
    -------
    people : list of Person
    labels : DataFrame or None
        The other columns, with a column ``id``.

    Raises
    ------
    MissingPathError
        If there is no such folder or file, or a folder of pictures is missing.
    InvalidInputError
        For a table without the two columns, an id that occurs twice, or a row without pictures.
    """
    source = Path(source)
    if source.is_dir():
        folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise MissingPathError(
                f"{source} has no folders; give a folder with one folder of pictures per identity", path=source
            )
        return [Person(folder.name, folder) for folder in folders], None
    table = read_labels(source)
    for column, what in (("id", "a name for each identity"), (PICTURES, "the folder of each identity's pictures")):
        if column not in table.columns:
            raise InvalidInputError(f"{source} has no column {column!r}: {what}; add it", path=source)
    ids = [str(i) for i in table["id"]]
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{source} has the id {short(twice)} twice; ids must be unique", path=source)
    if not ids:
        raise InvalidInputError(f"{source} has no rows; add one per identity", path=source)
    captions = table[CAPTION] if CAPTION in table.columns else [None] * len(table)
    people = []
    for name, folder, caption in zip(ids, table[PICTURES], captions, strict=True):
        if not isinstance(folder, str) or not folder:
            raise InvalidInputError(f"{source}: {short(name)} has no folder in the column {PICTURES!r}", path=source)
        person = Person(name, source.parent / folder, caption if isinstance(caption, str) and caption else None)
        require_caption(person.caption, f"{source}: the caption of {short(name)}")
        if not person.folder.exists():
            raise MissingPathError(
                f"{source}: the pictures of {short(name)} are not at {person.folder}; correct the table", path=source
            )
        people.append(person)
    labels = table.drop(columns=[c for c in (PICTURES, CAPTION) if c in table.columns])
    return people, labels if len(labels.columns) > 1 else None
