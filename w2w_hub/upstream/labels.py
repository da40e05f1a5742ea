"""Turn the published tables of labels into ids and columns in the order of the matrix.

The rows of the weights are in alphanumeric order of the folders from which they were read, so that folder ``10`` comes
before ``2``; the table names the folders in its index, or in a column ``file`` where the index names nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.text import counted, few
from ..dataset.groups import LARGEST_GROUP, names_persons
from ..dataset.labels.table import ROW_ID
from ..errors import CorruptFileError, InvalidInputError, UnknownNameError
from ..store.paths import short
from .frames import Frame, Values, frame_of, is_frame, plain_values
from .torch_files import open_file

if TYPE_CHECKING:
    import pandas as pd

FILE = "file"  # a column that names a row's folder or picture
CODINGS = {frozenset((0, 1)): "0/1", frozenset((-1, 1)): "-1/+1"}


@dataclass
class Labels:
    """Labels of the rows of a matrix, in its order.

    Attributes
    ----------
    ids : list of str
    columns : dict
        Name to values: booleans, numbers or text, None where one is missing.
    files : list of str or None
        The picture or folder that a column ``file`` names, where that is not the id.
    persons : str or None
        The column that says who is shown, if several rows can show one person.
    assumed : list of str
    """

    ids: list[str]
    columns: dict[str, Values] = field(default_factory=dict)
    files: list[str] | None = None
    persons: str | None = None
    assumed: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Return the labels with the ids as index."""
        import pandas as pd

        columns = {}
        for name, values in self.columns.items():
            known = [v for v in values if v is not None]
            kind = "boolean" if all(isinstance(v, bool) for v in known) else None
            kind = kind or ("Float64" if all(isinstance(v, (int, float)) for v in known) else "string")
            columns[name] = pd.array(values, dtype=kind)
        return pd.DataFrame(columns, index=pd.Index(self.ids, dtype=object, name="id"))


def read_identities(path: Path, rows: int | None) -> Labels:
    """Return the labels of ``identity_df.pt``.

    Parameters
    ----------
    rows : int, optional
        Rows that the other files have.

    Raises
    ------
    CorruptFileError, InvalidInputError
        If it is not a DataFrame, has another number of rows, or has a column that is no label.
    """
    value = open_file(path).value
    if not is_frame(value):
        raise CorruptFileError(f"{path} holds no DataFrame of labels; fetch it again", path=path)
    return _of_frame(frame_of(value, path), path, rows)


def read_concept_labels(path: Path, rows: int, prefix: str) -> Labels:
    """Return the labels of ``dog_labels.pt``: a DataFrame, or a list, or a dict of columns or of rows.

    Parameters
    ----------
    prefix : str
        Of the ids, where the file has no names.
    """
    value = open_file(path).value
    if is_frame(value):
        kind, frame = "table without names", frame_of(value, path)
    else:
        columns, names = _columns(value, path, rows)
        kind, frame = type(value).__name__, Frame(columns, names or list(range(rows)), names is None)
    if not frame.is_default or len(frame) != rows or FILE in frame.columns:
        return _of_frame(frame, path, rows)
    assumed = [f"{path.name}: it is a {kind}, whose entries are in the order of the rows"]
    labels = Labels(default_ids(rows, prefix), assumed=assumed)
    _add_columns(labels, frame, list(range(rows)), path)
    return labels


def default_ids(rows: int, prefix: str) -> list[str]:
    """Return ids for rows that have no names."""
    return [f"{prefix}-{number:06d}" for number in range(rows)]


def _columns(value: Any, path: Path, rows: int) -> tuple[dict[str, Values], Values | None]:
    """Return columns, and the names of the rows if these are keys of a dict of rows."""
    names: Values | None = None
    if isinstance(value, dict) and value:
        columns = {str(name): plain_values(each, path) for name, each in value.items()}
        if all(each is not None and len(each) == rows for each in columns.values()):
            return {name: each for name, each in columns.items() if each is not None}, None
        if len(value) == rows:
            names, value = list(value), list(value.values())
    if isinstance(value, (list, tuple)) and len(value) == rows and all(isinstance(row, dict) for row in value):
        known = list(dict.fromkeys(str(name) for row in value for name in row))
        found = [{str(name): each for name, each in row.items()} for row in value]
        if len(known) * rows <= 10_000_000:
            parts = {name: plain_values([row.get(name) for row in found], path) for name in known}
            return {name: each for name, each in parts.items() if each is not None}, names
    listed = plain_values(value, path)
    if listed is not None and len(listed) == rows:
        return {"label": listed}, names
    raise CorruptFileError(
        f"{path}: its labels are no table, list or dict of {counted(rows, 'row')}, as many as there are weights; fetch "
        "both again",
        path=path,
    )


# ------------------------------------------------------------------ a table
def _of_frame(frame: Frame, path: Path, rows: int | None) -> Labels:
    if rows is not None and len(frame) != rows:
        raise InvalidInputError(
            f"{path} has labels of {counted(len(frame), 'model')}, the other files have {counted(rows, 'row')}; put "
            "the files of one population together",
            path=path,
        )
    files = frame.columns.get(FILE)
    by_file = frame.is_default and files is not None and _names(files)
    folders = [str(name) for name in (files if by_file and files is not None else frame.index)]
    if not _names(folders):
        twice = next(name for name, count in Counter(folders).items() if count > 1 or not name)
        raise InvalidInputError(f"{path}: the folder {short(twice)} occurs twice, so its rows have no names", path=path)
    order = sorted(range(len(folders)), key=folders.__getitem__)
    short_names = [name.rstrip("/").rpartition("/")[2] for name in folders]
    chosen = short_names if _names(short_names) else folders
    wrong = next((name for name in chosen if not ROW_ID.fullmatch(name)), None)
    if wrong is not None:
        raise InvalidInputError(f"{path}: the folder {short(wrong)} cannot be a row's id", path=path)
    where = f"the column {FILE!r}" if by_file else "the index"
    labels = Labels([chosen[i] for i in order])
    labels.assumed.append(
        f"{path.name}: {where} names each model's folder, and the rows of the other files are in alphanumeric order of "
        f"these names ({few(labels.ids, 3)}), "
        + ("as the table is" if order == sorted(order) else "unlike the table, which was put into that order")
    )
    if files is not None and not by_file:
        labels.files = [str(files[i]) for i in order]
    _add_columns(labels, frame, order, path)
    return labels


def _names(values: Values) -> bool:
    """Return whether values can name rows: text or whole numbers, none missing, each once."""
    plain = all((isinstance(v, str) and v) or type(v) is int for v in values)
    return plain and len(set(map(str, values))) == len(values)


def _add_columns(labels: Labels, frame: Frame, order: list[int], path: Path) -> None:
    codings: Counter[str] = Counter()
    for name, values in frame.columns.items():
        if name == FILE:
            continue
        ordered = [values[i] for i in order]
        known = {v for v in ordered if v is not None}
        if names_persons(name):
            ordered = [None if v is None else str(v) for v in ordered]
            if labels.persons is None and 1 < len(known) < len(ordered) <= LARGEST_GROUP * 5 * len(known):
                labels.persons = name if None not in ordered else None
        elif all(isinstance(v, (bool, int, float)) for v in known) and known <= {-1, 0, 1}:
            coding = next((text for coded, text in CODINGS.items() if known <= coded), None)
            if coding is None:
                raise CorruptFileError(
                    f"{path}: the column {short(name)} has -1, 0 and 1, so it is coded neither 0/1 nor -1/+1; fetch it "
                    "again",
                    path=path,
                )
            codings[coding] += len(known) > 1
            ordered = [None if v is None else v > 0 for v in ordered]
        elif any(isinstance(v, str) for v in known):
            ordered = [None if v is None else str(v) for v in ordered]
        labels.columns[name] = ordered
    if +codings:
        what = ", ".join(f"{counted(count, 'column')} {coding}" for coding, count in (+codings).items())
        labels.assumed.append(f"{path.name}: yes and no are coded as 1 and 0 or 1 and -1: {what}")


def group_column(labels: Labels, asked: str | None) -> str | None:
    """Return the column by which a split keeps all rows of one person together; None if there is none.

    Raises
    ------
    UnknownNameError
        If a column is asked for that the labels do not have.
    """
    if asked is not None and asked not in labels.columns:
        raise UnknownNameError(
            f"the labels have no column {asked!r}; there are {few(list(labels.columns))}", name=asked
        )
    return asked or labels.persons
