"""Labels: one typed row of metadata for each adapter."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def read_labels(path: Path | str) -> pd.DataFrame:
    """Labels from a CSV (``.csv``, ``.tsv``), Parquet or JSON Lines file with an ``id`` column.

    Ids are text: ``0007`` keeps its zeros. An empty field is missing.

    Examples
    --------
    >>> read_labels("labels.csv")   # id,split,Eyeglasses,Beard ...   # doctest: +SKIP
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"{path} is not there")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix in (".jsonl", ".ndjson", ".json"):
            table = _read_json_lines(path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            # a converter keeps an id as it is written, also one that pandas would take for a number or for missing
            table = pd.read_csv(path, sep=separator, converters={"id": str}, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise CorruptFileError(f"{path} cannot be read as a table: {_one_line(error)}") from error
    if "id" not in table.columns:
        raise InvalidInputError(f"{path} has no column 'id'; it has {', '.join(map(str, table.columns)) or 'none'}")
    return table


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
    table = pd.DataFrame({"id": ids}) if labels is None else labels.copy()
    if "id" not in table.columns:
        table = table.reset_index(names="id")
    if table.columns.duplicated().any():
        raise InvalidInputError(f"the labels have two columns {table.columns[table.columns.duplicated()][0]!r}")
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
        result[name] = column.astype("string")
    for split in result["split"].dropna().unique():
        if not _SPLIT.fullmatch(str(split)) or split == "all":
            found.add(
                InvalidInputError(f"split {split!r}: use letters, digits, underscores and single dots, and not 'all'")
            )
    for name in table.columns:
        if name not in RESERVED and name != "weights":
            with found.collecting():
                result[str(name)] = _typed(table[name], str(name), (known or {}).get(str(name)))
    if problems is None:
        found.settle()
    return pd.DataFrame(result)


def _typed(column: pd.Series, name: str, known: str | None = None) -> pd.Series:
    import pandas as pd

    if known == "categorical":
        return column.map(lambda v: pd.NA if pd.isna(v) else str(v)).astype("string")
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
    known = column.dropna()
    texts = known.map(lambda v: str(v).strip().lower())
    if len(known) and texts.isin(("true", "false")).all():
        return column.map(lambda v: pd.NA if pd.isna(v) else str(v).strip().lower() == "true").astype("boolean")
    if len(known) and known.isin((0, 1)).all():  # booleans beside 0 and 1 too, as joined tables have them
        return column.astype("Float64").astype("boolean")
    numbers = pd.api.types.infer_dtype(known) in ("integer", "floating", "mixed-integer-float")
    if numbers or pd.api.types.is_numeric_dtype(column.dtype):
        if not known.map(lambda v: abs(float(v)) != float("inf")).all():
            raise InvalidInputError(f"label column {name!r} holds infinite values")
        return column.astype("Float64")
    return column.astype("string")


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
