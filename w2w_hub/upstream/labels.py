"""Turn the published tables of labels into ids and columns in the order of the matrix.

The rows of the weights are in alphanumeric order of the folders from which they were read, so that folder ``10`` comes
before ``2``; the table names the folders in its index, or in a column ``file`` where the index names nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.text import counted, few
from ..dataset.groups import LARGEST_GROUP, names_persons
from ..dataset.labels.table import ROW_ID
from ..errors import CorruptFileError, InvalidInputError, UnknownNameError
from ..store.paths import short
from .frames import Frame, Values, frame_of, is_frame, plain_values
from .pickles import Array
from .torch_files import StoredTensor, open_file

if TYPE_CHECKING:
    import pandas as pd

MAX_CELLS, MOST = 10_000_000, 10_000  # values and columns of labels that are no table
FILE = "file"  # a column that names a row's folder or picture
ALPHANUMERIC, TABLE = ORDERS = ("alphanumeric", "table")
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
    table_order : list of int or None
        For each row of the table, its row here; None if the orders are equal.
    """

    ids: list[str]
    columns: dict[str, Values] = field(default_factory=dict)
    files: list[str] | None = None
    persons: str | None = None
    assumed: list[str] = field(default_factory=list)
    table_order: list[int] | None = None

    def in_table_order(self) -> dict[str, Values] | None:
        """Return the columns in the order of the table; None if that is the order of the ids."""
        if self.table_order is None:
            return None
        return {name: [values[i] for i in self.table_order] for name, values in self.columns.items()}

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


def read_identities(path: Path, rows: int | None, order: str = ALPHANUMERIC) -> Labels:
    """Return the labels of ``identity_df.pt``.

    Parameters
    ----------
    rows : int, optional
        Rows that the other files have.
    order : {"alphanumeric", "table"}
        The order of the rows of the other files.

    Raises
    ------
    CorruptFileError, InvalidInputError
        If it is not a DataFrame, has another number of rows, or has a column that is no label.
    """
    value = open_file(path)
    if not is_frame(value):
        raise CorruptFileError(f"{path} holds no DataFrame of labels; fetch it again", path=path)
    return _of_frame(frame_of(value, path), path, rows, order)


def read_concept_labels(path: Path, rows: int, prefix: str) -> Labels:
    """Return the labels of ``dog_labels.pt``: a DataFrame, or a list, or a dict of columns or of rows.

    Parameters
    ----------
    prefix : str
        Of the ids, where the file has no names.
    """
    value = open_file(path)
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
    """Return columns, and the names of the rows if these are keys of a dict.

    A pickle may name one part many times: what would be copied is counted before it is.
    """
    if isinstance(value, (Array, StoredTensor)) and (found := _matrix_columns(value, rows)) is not None:
        return found, None
    names: Values | None = None
    if isinstance(value, dict) and 0 < len(value) * rows <= MAX_CELLS:
        parts = list(value.values())
        if all(_length(each) == rows for each in parts):
            return {str(name): plain_values(each, path) for name, each in value.items()}, None
        keys = list(parts[0]) if isinstance(parts[0], dict) else []
        if len(keys) == rows and all(isinstance(each, dict) and each.keys() == parts[0].keys() for each in parts):
            return {str(name): plain_values([each[key] for key in keys], path) for name, each in value.items()}, keys
        if len(value) == rows:
            names, value = list(value), parts
    if isinstance(value, (list, tuple)) and len(value) == rows and all(isinstance(row, dict) for row in value):
        if sum(map(len, value)) <= MAX_CELLS and len(known := {name: None for row in value for name in row}) <= MOST:
            return {str(name): plain_values([row.get(name) for row in value], path) for name in known}, names
    elif _length(value) == rows:
        return {"label": plain_values(value, path)}, names
    raise CorruptFileError(
        f"{path}: its labels are no table, list or dict of {counted(rows, 'row')}, as many as there are weights; fetch "
        "both again",
        path=path,
    )


def _length(value: Any) -> int | None:
    """Return the length of a list or a one-dimensional array; None for anything else."""
    if isinstance(value, Array):
        return value.shape[0] if len(value.shape) == 1 else None
    return len(value) if isinstance(value, (list, tuple)) else None


def _matrix_columns(value: Array | StoredTensor, rows: int) -> dict[str, Values] | None:
    """Return the columns of a matrix of numbers, or a vector as one column; None for another shape."""
    if value.shape[:1] != (rows,) or len(value.shape) > 2 or math.prod(value.shape) > MAX_CELLS:
        return None
    values = value[...] if isinstance(value, StoredTensor) else value.values
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        return None
    if values.ndim == 1:
        return {"label": values.tolist()}
    return {f"label-{number}": column.tolist() for number, column in enumerate(values.T)}


# ------------------------------------------------------------------ a table
def _of_frame(frame: Frame, path: Path, rows: int | None, row_order: str = ALPHANUMERIC) -> Labels:
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
    order = list(range(len(folders)))
    if row_order == ALPHANUMERIC:
        order.sort(key=folders.__getitem__)
    short_names = [name.rstrip("/").rpartition("/")[2] for name in folders]
    chosen = short_names if _names(short_names) else folders
    wrong = next((name for name in chosen if not ROW_ID.fullmatch(name)), None)
    if wrong is not None:
        raise InvalidInputError(f"{path}: the folder {short(wrong)} cannot be a row's id", path=path)
    labels = Labels([chosen[i] for i in order])
    same = order == list(range(len(order)))
    if not same:
        labels.table_order = sorted(range(len(order)), key=order.__getitem__)
    where = f"the column {FILE!r}" if by_file else "the index"
    put = "as the table is" if same else "unlike the table, which was put into that order"
    rows_are = (
        "in the order of the table" if row_order == TABLE
        else f"in alphanumeric order of these names ({few(labels.ids, 3)}), {put}"
    )  # fmt: skip
    labels.assumed.append(
        f"{path.name}: {where} names each model's folder, and the rows of the other files are {rows_are}"
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
