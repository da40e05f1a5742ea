"""Labels from a file: CSV, Parquet or JSON Lines."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.arguments import checked
from ...common.limits import unpacked_limit
from ...errors import CorruptFileError, InvalidInputError, MissingPathError
from ...store.parquet import parquet_file, read_table
from ..problems import Problems
from .names import GIVEN, clean_columns
from .values import LARGEST_WHOLE, WHOLE, WORDS, exact_number
from .written import WRITTEN, Written

if TYPE_CHECKING:
    import pandas as pd

# what pandas takes for missing in a CSV file
MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
INFINITE = ("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity")
CELL_BYTES = 64  # of one value as a Python object
SEPARATORS = {"\t": "a tab", ";": "';'", "|": "'|'"}


@checked()
def read_labels(path: Path | str) -> pd.DataFrame:
    """Read labels from a CSV (``.csv``, ``.tsv``), Parquet or JSON Lines file with an ``id`` column.

    Nothing is rounded: ids are text (``0007`` keeps its zeros), whole numbers stay whole, and a column of a CSV file
    is one of numbers only if each is written as a program writes one (not ``007``, ``+5``, ``1_000``) and a double
    holds all of its digits; else it is text. Where a dataset has a column of text already, it takes the fields as they
    are written, ``2.50`` and ``true``: the table keeps them in its ``attrs``. An empty field of a CSV file is missing,
    and so are what pandas takes for it there (``NA``, ``NaN``, ``None``, ``null``). Blanks around the names of columns
    are dropped, and so is an index that pandas wrote, with a warning.

    Raises
    ------
    MissingPathError, CorruptFileError, InvalidInputError
        If there is no such file, it is not such a table, or its columns cannot be told apart.

    Examples
    --------
    >>> read_labels("labels.csv")   # id,split,Eyeglasses,Beard ...   # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"{path} is {'a folder, not a table' if path.is_dir() else 'not there'}", path=path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = _read_parquet(path)
        elif suffix in (".jsonl", ".ndjson", ".json"):
            table = _read_json_lines(path)
        else:
            table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
    except (
        ValueError,
        TypeError,
        LookupError,
        OSError,
        RecursionError,
        ArithmeticError,
        NotImplementedError,
        csv.Error,
    ) as error:
        raise CorruptFileError(f"{path} cannot be read as a table: {_one_line(error)}", path=path) from error
    found = Problems()
    named = clean_columns(table, found)
    hint = _hint(table)
    try:
        if not hint:
            found.raise_if_any()
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}", path=path) from None
    if "id" not in named.columns:
        raise InvalidInputError(
            f"{path} has no column 'id'; it has {', '.join(named.columns) or 'none'}{hint}", path=path
        )
    named.attrs = dict(table.attrs)
    return named


def _hint(table: pd.DataFrame) -> str:
    """Advice about a header that another separator would cut; empty if there is none."""
    header = str(table.columns[0]) if len(table.columns) == 1 else ""
    for separator, name in SEPARATORS.items():
        if "id" in [part.strip() for part in header.split(separator)] and separator in header:
            also = " or call it .tsv" if separator == "\t" else ""
            return f". Its fields are separated by {name}: save it with commas{also}"
    return ""


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with parquet_file(path, None) as file:
        names, limit = list(file.schema_arrow.names), unpacked_limit(path.stat().st_size)
        needed = file.metadata.num_rows * file.metadata.num_columns * CELL_BYTES
    if needed > limit:
        raise CorruptFileError(
            f"its values would take {needed:,} bytes; those of a file of its size may take {limit:,}"
        )
    read_table(path, names, None)  # held against the limit batch by batch
    # not float64 for whole numbers of which some are missing: that would round them
    table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    table.attrs = {}
    return table.reset_index() if table.index.name == "id" and "id" not in table.columns else table


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, strict=True)
        header = [name.strip() for name in next((row for row in rows if row), [])]
    for name, count in Counter(header).items():
        if name and count > 1:
            raise ValueError(f"it has {count} columns {name!r}")
    with warnings.catch_warnings():
        # of rows that are longer than the header, pandas would take the first fields for an index
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # as text: what a field means is told by the whole column, not by pandas
            table = pd.read_csv(
                path, sep=separator, dtype=object, keep_default_na=False, encoding="utf-8-sig", index_col=False
            )
        except pd.errors.ParserWarning:
            raise ValueError(f"rows have more fields than the {len(header)} columns of its first line") from None
    if len(table.columns) != len(header):
        raise ValueError(f"its first line has {len(header)} columns, the rows {len(table.columns)}")
    fields = [table.iloc[:, i].tolist() for i in range(len(header))]
    columns = [
        table.iloc[:, i].astype(object) if name == "id" else _csv_column(fields[i], table.index, name in GIVEN)
        for i, name in enumerate(header)
    ]
    made = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=table.index)
    made.columns = header
    typed = {name: fields[i] for i, name in enumerate(header) if columns[i].dtype != object}
    if typed and "id" in header:
        made.attrs[WRITTEN] = Written(fields[header.index("id")], typed)
    return made


def _csv_column(fields: Sequence[Any], index: pd.Index, text: bool = False) -> pd.Series:
    """Fields of one column as booleans, whole numbers, numbers or text, whichever all of them are; or as `text`."""
    import pandas as pd

    given = {field: None if field in MISSING or field != field else field for field in dict.fromkeys(fields)}
    known = {field: value.strip() for field, value in given.items() if value is not None}
    words, some = set(known.values()), len(known) < len(given)

    def column(read: Callable[[str], Any], dtype: str) -> pd.Series:
        made = {field: read(known[field]) if field in known else None for field in given}
        return pd.Series([made[field] for field in fields], index, dtype=dtype)

    if text:
        return pd.Series([given[field] for field in fields], index, dtype=object)
    if not known:
        return column(str, "float64")
    if {word.lower() for word in words} <= set(WORDS):
        return column(lambda word: word.lower() == "true", "boolean" if some else "bool")
    whole = all(len(word) <= 18 and WHOLE.fullmatch(word) for word in words)
    if whole and all(abs(int(word)) <= LARGEST_WHOLE for word in words):
        return column(int, "Int64" if some else "int64")
    infinite = {word for word in words if word.lower() in INFINITE}
    numbers = {word: float(word) if word in infinite else exact_number(word) for word in words}
    if None not in numbers.values() and len(infinite) < len(numbers):
        return column(numbers.__getitem__, "float64")
    return pd.Series([given[field] for field in fields], index, dtype=object)  # digits and blanks as they stand there


def _read_json_lines(path: Path) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line, parse_float=_json_number, object_pairs_hook=_once)
        if not isinstance(row, dict) or any(isinstance(v, (dict, list)) for v in row.values()):
            raise ValueError(f"line {number} is not a JSON object of plain values")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _json_number(text: str) -> Any:
    """Return a number with a point or exponent: a double if it holds all digits, else a `Decimal`."""
    from decimal import Decimal

    value = exact_number(text)
    return Decimal(text) if value is None else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"an object names {name!r} {count} times")
    return dict(pairs)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
