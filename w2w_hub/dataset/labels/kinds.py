"""The kinds of label columns: what a value of each may be, and which kind a new column has."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

DTYPES = {"binary": "boolean", "float": "Float64", "categorical": "string"}
LARGEST_WHOLE = 2**53  # the largest whole number up to which a double holds every one
# what is true and what is false, as text in any case; nothing else is
TRUE, FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")
MINUS = ("-1", "-1.0")  # false where 1 is true and 0 does not occur, as in CelebA's attributes
WORDS = ("true", "false")
INF = float("inf")
SHOWN_LEVELS = 10
LONGEST_NUMBER = 400  # characters
# as programs write numbers: 007, +5, 1_000, 0x1F and 1,000 are text
NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64, uuid.UUID, PurePath)


def exact_number(text: str) -> float | None:
    """The double that a number's text stands for, None if the text says more than a double can hold.

    A double printed with as many digits must give the number back; a whole number must not exceed 2**53.
    """
    text = text.strip()
    if len(text) > LONGEST_NUMBER or not NUMBER.fullmatch(text):
        return None
    value = float(text)
    if repr(value) == text:
        return value
    if WHOLE.fullmatch(text):
        return value if abs(int(text)) <= LARGEST_WHOLE else None
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.lstrip("-").replace(".", "").lstrip("0")
    if not digits or (len(digits) <= 15 and 1e-300 < abs(value) < 1e300):
        return value
    if value == 0 or abs(value) == INF:
        return None
    # half of the last digit is what printing may have rounded off
    last = int(exponent or 0) - len(mantissa.partition(".")[2])
    return value if abs(Fraction(text) - Fraction(value)) * 2 <= Fraction(10) ** last else None


def plain_values(column: pd.Series, name: str) -> list[Any]:
    """A column's values as bool, int, float, `Decimal` or text; a missing one is None.

    Dates, times, UUIDs, paths, intervals and periods become their text.
    """
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biu":
        return column.tolist()
    if isinstance(column.dtype, np.dtype) and column.dtype in (np.float64, np.float32, np.float16):
        return [None if value != value else value for value in column.tolist()]
    try:
        values = column.astype(object).tolist()
    except (ValueError, OverflowError, NotImplementedError) as error:  # such as Arrow's times out of pandas' range
        raise InvalidInputError(f"label column {name!r} cannot be read: {' '.join(str(error).split())}") from error
    return [plain_value(value, name) for value in values]


def plain_value(value: Any, name: str) -> Any:
    """Return one value of a column as :func:`plain_values` does."""
    import pandas as pd

    if type(value) is str:
        return _text(value, name)
    if value is None or value is pd.NA or value is pd.NaT or type(value) is bool:
        return None if type(value) is not bool else value
    if isinstance(value, (float, np.floating)):
        if value != value:
            return None
        narrow = float(value)
        # of a longdouble that is whole, a double may be another number
        return int(value) if narrow != value and abs(narrow) != INF and value == np.rint(value) else narrow
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Decimal):
        return None if value.is_nan() else value
    if isinstance(value, str):
        return _text(str.__str__(value), name)
    if isinstance(value, (*_AS_TEXT, pd.Interval, pd.Period)):
        if value != value:
            return None
        try:
            return _text(str(value), name)
        except (NotImplementedError, OverflowError) as error:  # pandas reads years that it cannot print
            raise InvalidInputError(f"label column {name!r} holds a {type(value).__name__} out of range") from error
    raise InvalidInputError(
        f"label column {name!r} holds {type(value).__name__} values; labels are text, numbers, true or false"
    )


def _text(value: str, name: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"label column {name!r} holds {value!r}, which is no valid text") from None
    return value


def stated_kind(column: pd.Series) -> str | None:
    """The kind that a column's dtype states, whatever its values."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column.dtype):
        return "binary"
    if isinstance(column.dtype, pd.CategoricalDtype) and all(isinstance(c, str) for c in column.dtype.categories):
        return "categorical" if len(column.dtype.categories) else None
    if pd.api.types.is_numeric_dtype(column.dtype) and not column.notna().any():
        return "float"
    return None


def infer_kind(values: Sequence[Any], name: str) -> tuple[str, str | None]:
    """The kind of a new column by its plain values, and what to tell about it.

    - binary: true and false; 0 and 1; -1 and 1; text of true and false in any case, 0 and 1 beside it
    - float: numbers that a double holds
    - categorical: anything else, as its text. Numbers of more digits than a double holds are kept so.
    """
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return "categorical", None
    if kinds == {bool}:
        return "binary", None
    # of equal ones, such as 1 and True, one will do: their kinds are known
    known = {value for value in values if value is not None}
    if kinds <= {int, float, Decimal, bool}:
        if any(abs(value) == INF for value in known):
            raise InvalidInputError(f"label column {name!r} holds infinite values; give numbers, or leave them empty")
        if known <= {0, 1}:
            return "binary", None
        if bool not in kinds:
            if known <= {-1, 1}:
                return "binary", "-1 and 1 are taken as false and true"
            if all(_number(value) is not None for value in known):
                return "float", None
            return "categorical", "numbers of more digits than a double holds are kept as text"
        return "categorical", None
    words = {str(value).strip().lower() for value in known}
    if words <= {*TRUE, *FALSE} and (words & set(WORDS)):
        return "binary", "text is taken as false and true"
    if words <= {*MINUS, "1", "1.0"} and words & set(MINUS):
        return "binary", "-1 and 1 are taken as false and true"
    return "categorical", None


def convert(values: Sequence[Any], kind: str, name: str, *, there: bool = False) -> list[Any]:
    """Plain values as those of a kind: bool, float or text, None if missing.

    Parameters
    ----------
    there : bool
        Whether the column has values already. What has no text of its own, such as 2.5 or true, then cannot be told
        from them and is no value of a categorical one.

    Raises
    ------
    InvalidInputError
        Naming the column, its kind and the first value that cannot be of it.
    """
    if kind == "categorical":
        for value in values if there else ():
            if value is not None and not _has_text(value):
                raise InvalidInputError(
                    f"label {name!r} is categorical, and {_shown(value)} has no text of its own; give it as text"
                )
        return [None if value is None else _as_text(value) for value in values]
    if kind == "float":
        # what is true here may have been 1 of 0 and 1, or of -1 and 1
        made: list[Any] = [None if value is None or isinstance(value, bool) else _number(value) for value in values]
    else:
        given = {(type(value), value) for value in values if value is not None}
        words = {str(value).strip() for _, value in given if not isinstance(value, bool)}
        minus = not words & {"0", "0.0", "-0.0"}
        truth = {(kind_of, value): _truth(value, minus) for kind_of, value in given}
        made = [None if value is None else truth[type(value), value] for value in values]
    if made.count(None) == values.count(None):
        return made
    for value, result in zip(values, made, strict=True):
        if value is not None and result is None:
            number = not isinstance(value, str) and _number(value) is not None
            other = "binary" if isinstance(value, bool) else "float" if number else "categorical"
            raise InvalidInputError(
                f"label {name!r} is {kind}; the new rows would make it {other} (a value is {_shown(value)})"
            )
    return made


def asked_value(value: Any, kind: str, name: str, levels: Sequence[str]) -> Any:
    """The value of an attribute that a caller asks for, read as one of a column's kind.

    Parameters
    ----------
    levels : sequence of str
        Those of a categorical column.

    Raises
    ------
    InvalidInputError
        If it cannot be a value of this kind, or is missing.
    UnknownNameError
        If no row has this level.
    """
    wrong = InvalidInputError(f"attribute {name!r} is {kind}; no row can have the value {_shown(value)}")
    try:
        value = plain_value(value, name)
    except InvalidInputError:
        raise wrong from None
    if value is None:
        raise InvalidInputError(
            f"a missing {name!r} cannot be asked for by value; for the rows without one: "
            f"dataset[dataset.labels[{name!r}].isna()]"
        )
    if kind == "categorical":
        text = value if isinstance(value, str) else str(value)
        if text in levels and not isinstance(value, (bool, float)):
            return text
        if isinstance(value, str):
            more = f" and {len(levels) - SHOWN_LEVELS} more" if len(levels) > SHOWN_LEVELS else ""
            known = ", ".join(repr(level) for level in levels[:SHOWN_LEVELS]) or "none"
            raise UnknownNameError(f"attribute {name!r} has no level {value!r}; there are {known}{more}")
        raise wrong
    if kind == "float" and isinstance(value, bool):
        raise wrong
    found = _number(value) if kind == "float" else _truth(value, True)
    if found is None:
        raise wrong
    return found


def _number(value: Any) -> float | None:
    """A plain value as the double that is equal to it, None if there is none."""
    if type(value) is float:
        return value if abs(value) != INF else None
    if isinstance(value, int):
        return float(value) if abs(value) <= LARGEST_WHOLE else None
    return exact_number(str(value))


def _truth(value: Any, minus: bool) -> bool | None:
    """A plain value as true or false, None if it is neither; -1 is false if `minus`."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else str(float(value))
    if word in TRUE:
        return True
    return False if word in FALSE or word == "-0.0" or (minus and word in MINUS) else None


def _has_text(value: Any) -> bool:
    """Whether a plain value is text, or can be written in one way."""
    if isinstance(value, Decimal):  # it keeps its digits, but not how its exponent is written
        return value.is_finite() and "E" not in str(value)
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def as_column(values: Sequence[Any], kind: str, index: pd.Index) -> pd.Series:
    """Values of a kind as the nullable column that a dataset keeps."""
    import pandas as pd

    return pd.Series(list(values), index, dtype=DTYPES[kind])
