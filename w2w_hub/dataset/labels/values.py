"""Convert label values to plain Python values, exact numbers and booleans."""

from __future__ import annotations

import datetime
import re
import uuid
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

LARGEST_WHOLE = 2**53  # a double represents every integer up to this one
TRUE, FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")  # as text in any case
MINUS = ("-1", "-1.0")  # false if 1 is true and 0 does not occur, as in CelebA's attributes
WORDS = ("true", "false")
INF = float("inf")
LONGEST_NUMBER = 400  # characters
# numbers as programs write them: 007, +5, 1_000, 0x1F and 1,000 are text
NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64, uuid.UUID, PurePath)


def exact_number(text: str) -> float | None:
    """Parse a number as a double; None if the text is not a number or a double cannot represent all of its digits.

    Printing the double with the same number of digits must reproduce the text; an integer must not exceed 2**53.
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
    # printing rounds by at most half a unit of the last digit
    last = int(exponent or 0) - len(mantissa.partition(".")[2])
    return value if abs(Fraction(text) - Fraction(value)) * 2 <= Fraction(10) ** last else None


def plain_values(column: pd.Series, name: str) -> list[Any]:
    """Return a column's values as bool, int, float, `Decimal` or text; a missing value is None.

    Dates, times, UUIDs, paths, intervals and periods become text.
    """
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biu":
        result: list[Any] = column.tolist()
        return result
    if isinstance(column.dtype, np.dtype) and column.dtype in (np.float64, np.float32, np.float16):
        return [None if value != value else value for value in column.tolist()]
    try:
        values = column.astype(object).tolist()
    except (ValueError, OverflowError, NotImplementedError) as error:  # such as Arrow times outside pandas' range
        raise InvalidInputError(f"label column {name!r} cannot be read: {' '.join(str(error).split())}") from error
    return [plain_value(value, name) for value in values]


def plain_value(value: Any, name: str) -> Any:
    """Convert one value of a column, see :func:`plain_values`."""
    import pandas as pd

    if type(value) is str:
        return _text(value, name)
    if value is None or value is pd.NA or value is pd.NaT or type(value) is bool:
        return None if type(value) is not bool else value
    if isinstance(value, (float, np.floating)):
        if value != value:
            return None
        narrow = float(value)
        # a double may not represent an integer longdouble
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
        except (NotImplementedError, OverflowError) as error:  # pandas can hold years that it cannot print
            raise InvalidInputError(f"label column {name!r} holds a {type(value).__name__} out of range") from error
    raise InvalidInputError(
        f"label column {name!r} has {type(value).__name__} values; labels are text, numbers or booleans"
    )


def _text(value: str, name: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"label column {name!r} has {value!r}, which is not valid Unicode") from None
    return value


def as_number(value: Any) -> float | None:
    """Return the double that is equal to a plain value; None if there is none."""
    if type(value) is float:
        return value if abs(value) != INF else None
    if isinstance(value, int):
        return float(value) if abs(value) <= LARGEST_WHOLE else None
    return exact_number(str(value))


def as_truth(value: Any, minus: bool) -> bool | None:
    """Return a plain value as a boolean; None if it is not one. -1 is false if `minus`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) > 1:  # which may be beyond the range of a double
        return None
    word = value.strip().lower() if isinstance(value, str) else str(float(value))
    if word in TRUE:
        return True
    return False if word in FALSE or word == "-0.0" or (minus and word in MINUS) else None


def has_text(value: Any) -> bool:
    """Return whether a plain value is text, or is written as text in only one way."""
    if isinstance(value, Decimal):  # keeps its digits, but not the spelling of its exponent
        return value.is_finite() and "E" not in str(value)
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def as_text(value: Any) -> str:
    """Return a plain value as text."""
    return value if isinstance(value, str) else str(value)
