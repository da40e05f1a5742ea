"""Labels: one typed row of metadata for each adapter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

# columns with a meaning of their own, in the order in which they are stored
RESERVED = ("id", "split", "source", "licence", "consent", "row", "row_sha256")
DEFAULT_SPLIT = "train"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPLIT = re.compile(r"[A-Za-z0-9]\w*(\.\w+)*", re.ASCII)  # the names that Hugging Face `datasets` takes too


def read_labels(path: Path | str) -> pd.DataFrame:
    """Labels from a CSV or Parquet file with an ``id`` column.

    Examples
    --------
    >>> read_labels("labels.csv")   # id,split,Eyeglasses,Beard ...   # doctest: +SKIP
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"{path} is not there")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"id": str})
    except (ValueError, OSError) as error:
        raise CorruptFileError(f"{path} cannot be read as a table: {error}") from error
    if "id" not in table.columns:
        raise InvalidInputError(f"{path} has no column 'id'; it has {', '.join(map(str, table.columns))}")
    return table


def normalise(labels: pd.DataFrame | None, ids: list[str]) -> pd.DataFrame:
    """The labels of `ids`, in their order: reserved columns, then typed attributes.

    Every binary column becomes nullable boolean, every numeric one float64, anything else a string;
    what a table does not say is missing, never false.
    """
    import pandas as pd

    for name in ids:
        if not _NAME.fullmatch(name):
            raise InvalidInputError(f"row id {name!r}: use letters, digits, dots, dashes and underscores")
    doubled = pd.Index(ids)[pd.Index(ids).duplicated()]
    if len(doubled):
        raise InvalidInputError(f"row id {doubled[0]!r} occurs {ids.count(doubled[0])} times; ids must be unique")
    table = pd.DataFrame({"id": ids}) if labels is None else labels.copy()
    if "id" not in table.columns:
        table = table.reset_index(names="id")
    table["id"] = table["id"].astype(str)
    if table["id"].duplicated().any():
        raise InvalidInputError(f"the labels name id {table['id'][table['id'].duplicated()].iloc[0]!r} twice")
    labelled = set(table["id"])
    missing = [name for name in ids if name not in labelled]
    if missing:
        raise UnknownNameError(
            f"{len(missing)} rows have no labels, the first is {missing[0]!r}; add them to the table"
        )
    table = table.set_index("id").loc[ids].reset_index()
    if "split" not in table.columns:
        table["split"] = DEFAULT_SPLIT
    result = {"id": table["id"].astype("string"), "split": table["split"].astype("string")}
    for name in ("source", "licence", "consent"):
        column = table[name] if name in table.columns else pd.Series([None] * len(table))
        result[name] = column.astype("string")
    if bool(result["split"].isna().any()):
        raise InvalidInputError("every row needs a split; some are missing")
    for split in result["split"].unique():
        if not _SPLIT.fullmatch(str(split)) or split == "all":
            raise InvalidInputError(f"split {split!r}: use letters, digits, underscores and single dots, and not 'all'")
    for name in table.columns:
        if name not in RESERVED and name != "weights":
            result[str(name)] = _typed(table[name], str(name))
    return pd.DataFrame(result)


def _typed(column: pd.Series, name: str) -> pd.Series:
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
    names = {"boolean": "binary", "Float64": "float"}
    return {
        str(name): names.get(str(table[name].dtype), "categorical") for name in table.columns if name not in RESERVED
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values; a missing one is None."""
    import pandas as pd

    plain = []
    for row in table.drop(columns=["row"], errors="ignore").to_dict("records"):
        values = {str(k): None if pd.isna(v) else (v.item() if hasattr(v, "item") else v) for k, v in row.items()}
        plain.append(values)
    return plain
