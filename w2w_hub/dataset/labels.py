"""Labels: one typed row of metadata for each adapter."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked
from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError
from .problems import Problems

if TYPE_CHECKING:
    import pandas as pd

# columns with a meaning of their own, in the order in which they are stored
RESERVED = ("id", "split", "source", "licence", "consent", "row", "row_sha256")
DEFAULT_SPLIT = "train"
_KINDS = {"boolean": "binary", "Float64": "float"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPLIT = re.compile(r"[A-Za-z0-9]\w*(\.\w+)*", re.ASCII)  # the names that Hugging Face `datasets` takes too


@checked()
def read_labels(path: Path | str) -> pd.DataFrame:
    """Labels from a CSV (``.csv``, ``.tsv``), Parquet or JSON Lines file with an ``id`` column.

    Ids are text: ``0007`` keeps its zeros. An empty field of a CSV file is missing, and so are what pandas takes for
    it there (``NA``, ``NaN``, ``None``, ``null``).

    Examples
    --------
    >>> read_labels("labels.csv")   # id,split,Eyeglasses,Beard ...   # doctest: +SKIP
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"{path} is {'a folder, not a table' if path.is_dir() else 'not there'}")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
            if table.index.name == "id" and "id" not in table.columns:
                table = table.reset_index()
        elif suffix in (".jsonl", ".ndjson", ".json"):
            table = _read_json_lines(path)
        else:
            table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
    except (ValueError, OSError, RecursionError) as error:
        raise CorruptFileError(f"{path} cannot be read as a table: {_one_line(error)}") from error
    if "id" not in table.columns:
        raise InvalidInputError(f"{path} has no column 'id'; it has {', '.join(map(str, table.columns)) or 'none'}")
    return table


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=separator), [])
    for name, count in Counter(header).items():
        if count > 1 and name:
            raise ValueError(f"it has {count} columns {name!r}")
    with warnings.catch_warnings():
        # of rows that are longer than the header, pandas would take the first fields for an index
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # a converter keeps an id as it is written, also one that pandas would take for a number or for missing
            return pd.read_csv(path, sep=separator, converters={"id": str}, encoding="utf-8-sig", index_col=False)
        except pd.errors.ParserWarning:
            raise ValueError(f"rows have more fields than the {len(header)} columns of its first line") from None


def _read_json_lines(path: Path) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or any(isinstance(v, (dict, list)) for v in row.values()):
            raise ValueError(f"line {number} is no JSON object of plain values")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def normalise(
    labels: pd.DataFrame | None,
    ids: Sequence[str],
    *,
    problems: Problems | None = None,
    known: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The labels of `ids`, in their order: reserved columns, then typed attributes.

    Every binary column becomes nullable boolean, every numeric one float64, anything else a string;
    what a table does not say is missing, never false.

    Parameters
    ----------
    labels : DataFrame, optional
        With an ``id`` column, or the ids as its index; in any order. It must label exactly `ids`.
    problems : Problems, optional
        Where what is wrong is noted, to be raised with what else is; raised here without it.
    known : mapping of str to str, optional
        Kinds that columns already have; their values must fit.
    """
    import pandas as pd

    ids = list(ids)
    found = problems if problems is not None else Problems()
    for name in dict.fromkeys(ids):
        if not _NAME.fullmatch(name):
            found.add(InvalidInputError(f"row id {name!r}: use letters, digits, dots, dashes and underscores"))
    for name, count in Counter(ids).items():
        if count > 1:
            found.add(InvalidInputError(f"row id {name!r} occurs {count} times; ids must be unique"))
    table = pd.DataFrame({"id": ids}) if labels is None else as_table(labels)
    twice = table.columns.duplicated()
    for column in dict.fromkeys(table.columns[twice]):
        found.add(InvalidInputError(f"the labels have two columns {column!r}"))
    table = table.loc[:, ~twice]
    if labels is not None:
        table["id"] = table["id"].map(lambda v: "" if pd.isna(v) else str(v))
        for name in table["id"][table["id"].duplicated()].unique():
            found.add(InvalidInputError(f"the labels name id {name!r} twice"))
        labelled, wanted = set(table["id"]), set(ids)
        for names, text in (
            ([n for n in ids if n not in labelled], "rows have no labels, the first is {}; add them to the table"),
            (
                [n for n in table["id"] if n not in wanted],
                "labels are for unknown ids, the first is {}; leave them out",
            ),
        ):
            if names:
                found.add(UnknownNameError(f"{len(names)} {text.format(repr(names[0]))}"))
    # what is wrong so far must not hide what is wrong further on
    table = table.drop_duplicates("id").set_index("id").reindex(list(dict.fromkeys(ids))).reset_index(names="id")
    if "split" not in table.columns:
        table["split"] = DEFAULT_SPLIT
    unsplit = table["split"].isna() & table["id"].isin(set(table["id"]) if labels is None else labelled)
    if bool(unsplit.any()):
        found.add(InvalidInputError(f"every row needs a split; {int(unsplit.sum())} have none or it is missing"))
    result = {"id": table["id"].astype("string"), "split": table["split"].astype("string")}
    for name in ("source", "licence", "consent"):
        column = table[name] if name in table.columns else pd.Series([None] * len(table))
        with found.collecting(), _readable(name):
            result[name] = column.astype("string")
    for split in result["split"].dropna().unique():
        with found.collecting():
            require_split_name(str(split))
    for name in table.columns:
        if name not in RESERVED and name != "weights":
            with found.collecting(), _readable(str(name)):
                result[str(name)] = _typed(table[name], str(name), (known or {}).get(str(name)))
    if problems is None:
        found.settle()
    return pd.DataFrame(result)


def require_split_name(name: str) -> None:
    if not _SPLIT.fullmatch(name) or name == "all":
        raise InvalidInputError(f"split {name!r}: use letters, digits, underscores and single dots, and not 'all'")


def as_table(labels: Any) -> pd.DataFrame:
    """A copy of a table of labels with an ``id`` column, and text as the names of columns."""
    import pandas as pd

    if not isinstance(labels, pd.DataFrame):
        raise InvalidInputError(f"labels are a DataFrame with a column 'id', not a {type(labels).__name__}")
    if labels.columns.nlevels > 1 or ("id" not in labels.columns and labels.index.nlevels > 1):
        raise InvalidInputError("labels have columns and an index of one level; see DataFrame.reset_index")
    table = labels.copy() if "id" in labels.columns else labels.reset_index(names="id")
    table.columns = [str(name) for name in table.columns]
    return table


def _typed(column: pd.Series, name: str, known: str | None = None) -> pd.Series:
    import pandas as pd

    if known == "categorical":
        return column.astype(object).map(lambda v: pd.NA if pd.isna(v) else str(v)).astype("string")
    typed = _inferred(column, name)
    kind = _KINDS.get(str(typed.dtype), "categorical")
    if known is None or kind == known:
        return typed
    if not column.notna().any():
        return pd.Series(pd.NA, column.index, dtype="Float64" if known == "float" else "boolean")
    if known == "float" and kind == "binary" and not column.map(lambda v: isinstance(v, str)).any():
        return typed.astype("Float64")
    fits = _is_binary if known == "binary" else lambda value: not isinstance(value, str)
    odd = next((v for v in column.dropna() if not fits(v)), None)
    raise InvalidInputError(f"label {name!r} is {known}; the new rows would make it {kind} (a value is {odd!r})")


def _is_binary(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "false", "0", "1", "0.0", "1.0")


def _inferred(column: pd.Series, name: str) -> pd.Series:
    import pandas as pd

    if pd.api.types.is_bool_dtype(column.dtype):
        return column.astype("boolean")
    if not pd.api.types.is_numeric_dtype(column.dtype):
        column = column.astype(object)  # whatever holds them: what counts are the values
    known = column.dropna()
    odd = next((v for v in known if pd.api.types.is_list_like(v) or isinstance(v, complex)), None)
    if odd is not None:
        raise InvalidInputError(f"label column {name!r} holds {type(odd).__name__} values; labels are text or numbers")
    if getattr(column.dtype, "itemsize", 0) > 8:
        column, known = column.astype("float64"), known.astype("float64")
    texts = known.map(lambda v: str(v).strip().lower())
    if len(known) and texts.isin(("true", "false")).all():
        return column.map(lambda v: pd.NA if pd.isna(v) else str(v).strip().lower() == "true").astype("boolean")
    if len(known) and known.isin((0, 1)).all():  # booleans beside 0 and 1 too, as joined tables have them
        return column.astype("Float64").astype("boolean")
    numbers = pd.api.types.infer_dtype(known) in ("integer", "floating", "mixed-integer-float", "decimal")
    if numbers or pd.api.types.is_numeric_dtype(column.dtype):
        if not known.map(lambda v: abs(float(v)) != float("inf")).all():
            raise InvalidInputError(f"label column {name!r} holds infinite values")
        return (column.map(lambda v: None if pd.isna(v) else float(v)) if column.dtype == object else column).astype(
            "Float64"
        )
    return column.astype("string")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Say which column holds text that no file can hold, such as one half of a surrogate pair."""
    try:
        name.encode()
        yield
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"label column {name!r} holds {error.object!r}, which is no valid text") from None


def kinds(table: pd.DataFrame) -> dict[str, str]:
    """Attribute columns and their kind: ``binary``, ``float`` or ``categorical``."""
    return {
        str(name): _KINDS.get(str(table[name].dtype), "categorical") for name in table.columns if name not in RESERVED
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values; a missing one is None."""
    names = [str(name) for name in table.columns if name != "row"]
    columns = []
    for name in names:
        column = table[name]
        missing = column.isna().to_numpy(bool).tolist()
        values = column.astype(object).tolist()
        columns.append(
            [None if gone else v.item() if hasattr(v, "item") else v for v, gone in zip(values, missing, strict=True)]
        )
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
