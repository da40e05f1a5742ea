"""Read labels from CSV, Parquet and JSON Lines files."""

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
from ...store.paths import missing
from ..problems import Problems
from .names import GIVEN, clean_columns, reserved_name
from .values import LARGEST_WHOLE, WHOLE, WORDS, exact_number
from .written import WRITTEN, Written

if TYPE_CHECKING:
    import pandas as pd

# what pandas reads as missing in a CSV file
MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
INFINITE = ("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity")
CELL_BYTES = 64  # per value, as a Python object
SEPARATORS = {"\t": "a tab", ";": "';'", "|": "'|'"}
UNREADABLE = (
    ValueError, TypeError, LookupError, OSError, RecursionError, ArithmeticError, NotImplementedError,
)  # fmt: skip


@checked()
def read_labels(path: Path | str) -> pd.DataFrame:
    """Read labels from a CSV (``.csv``, ``.tsv``), Parquet or JSON Lines file with an ``id`` column.

    Nothing is rounded: ids are text (``0007`` keeps its zeros), integers stay integers, and a column of a CSV file
    is numeric only if a double represents each of its numbers exactly and none is written like ``007``, ``+5`` or
    ``1_000``; otherwise it is text. The unparsed fields are kept in the table's ``attrs``, so that a dataset's existing
    text column gets ``2.50`` and ``true`` as written. Missing values of a CSV file are those of pandas: empty fields,
    ``NA``, ``NaN``, ``None``, ``null``. Column names are stripped, ``license`` becomes ``licence``, the name in the
    dataset, and an index column that pandas wrote is dropped with a warning.

    Raises
    ------
    MissingPathError, CorruptFileError, InvalidInputError
        If the file does not exist, is not such a table, or has ambiguous column names.

    Examples
    --------
    >>> read_labels("labels.csv")   # id,split,Eyeglasses,Beard ...   # doctest: +SKIP
    """
    path = Path(path)
    if path.is_dir():
        raise MissingPathError(f"{path} is a folder, not a table", path=path)
    if not path.is_file():
        raise missing(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = _read_parquet(path)
        elif suffix in (".jsonl", ".ndjson", ".json"):
            table = _read_json_lines(path)
        else:
            table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
    except (*UNREADABLE, csv.Error) as error:
        raise CorruptFileError(
            f"{path} cannot be read as a table: {' '.join(str(error).split())}", path=path
        ) from error
    found = Problems()
    named = clean_columns(table, found, respell=False)
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
    """Return advice if another separator would split the header; else the empty text."""
    header = str(table.columns[0]) if len(table.columns) == 1 else ""
    for separator, name in SEPARATORS.items():
        if "id" in [part.strip() for part in header.split(separator)] and separator in header:
            also = " or call it .tsv" if separator == "\t" else ""
            return f". Its separator is {name}: save it with commas{also}"
    return ""


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with parquet_file(path, None) as file:
        names, limit = list(file.schema_arrow.names), unpacked_limit(path.stat().st_size)
        needed = file.metadata.num_rows * file.metadata.num_columns * CELL_BYTES
    if needed > limit:
        raise CorruptFileError(f"its values need {needed:,} bytes in memory; the limit for its size is {limit:,}")
    read_table(path, names, None)  # checks the limit batch by batch
    # float64, the default for integers with missing values, would round them
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
        # for rows that are longer than the header, pandas would use the first fields as an index
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # as text, since the type of a column depends on all of its fields
            table = pd.read_csv(
                path, sep=separator, dtype=object, keep_default_na=False, encoding="utf-8-sig", index_col=False
            )
        except pd.errors.ParserWarning:
            raise ValueError(f"rows have more fields than the {len(header)} columns of the header") from None
    if len(table.columns) != len(header):
        raise ValueError(f"the header has {len(header)} columns, the rows have {len(table.columns)}")
    fields = [table.iloc[:, i].tolist() for i in range(len(header))]
    columns = [
        table.iloc[:, i].astype(object) if name == "id" else _csv_column(fields[i], table.index, name in GIVEN)
        for i, name in enumerate(map(reserved_name, header))
    ]
    made = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=table.index)
    made.columns = header
    typed = {name: fields[i] for i, name in enumerate(header) if columns[i].dtype != object}
    if typed and "id" in header:
        made.attrs[WRITTEN] = Written(fields[header.index("id")], typed)
    return made


def _csv_column(fields: Sequence[Any], index: pd.Index, text: bool = False) -> pd.Series:
    """Parse the fields of a column as booleans, integers or floats if all of them are; else, or if `text`, as text."""
    import pandas as pd

    given = {field: None if field in MISSING or field != field else field for field in dict.fromkeys(fields)}
    known = {field: value.strip() for field, value in given.items() if value is not None}
    words, some = set(known.values()), len(known) < len(given)

    def column(read: Callable[[str], Any], dtype: str) -> pd.Series:
        made = {field: read(known[field]) if field in known else None for field in given}
        return pd.Series([made[field] for field in fields], index, dtype=dtype)

    unparsed = pd.Series([given[field] for field in fields], index, dtype=object)
    if text:
        return unparsed
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
    return unparsed


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
    """Parse a number with a point or exponent as a double if that is exact, else as a `Decimal`."""
    from decimal import Decimal

    value = exact_number(text)
    return Decimal(text) if value is None else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"an object has {name!r} {count} times")
    return dict(pairs)
