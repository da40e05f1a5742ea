"""The names that columns and splits of labels may have."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...errors import InvalidInputError
from ..problems import Problems

if TYPE_CHECKING:
    import pandas as pd

# columns with a meaning of their own, in the order in which they are stored
RESERVED = ("id", "split", "source", "licence", "consent", "row", "row_sha256")
SPLIT_NAME = re.compile(r"[A-Za-z0-9]\w*(\.\w+)*", re.ASCII)  # the names that Hugging Face `datasets` takes too
GIVEN = ("id", "split", "source", "licence", "consent")  # those that a caller states
TAKEN = ("row", "row_sha256", "weights", "coefficients")  # those of our own tables that nobody may state
DEFAULT_SPLIT = "train"
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.ASCII | re.IGNORECASE)  # no files on Windows
# what pandas and pyarrow call an index that was written as a column
_INDEX = re.compile(r"Unnamed: \d+(\.\d+)*|(__)?index_level_\d+(__)?", re.ASCII)


def is_split_name(name: object) -> bool:
    """Return whether a split may have this name, which is also a file's."""
    return isinstance(name, str) and SPLIT_NAME.fullmatch(name) is not None and name != "all"


def require_split_name(name: str) -> None:
    """Raise `InvalidInputError` unless a split can be called so, and its files exist on every system."""
    if not isinstance(name, str) or not SPLIT_NAME.fullmatch(name) or name.lower() == "all":
        raise InvalidInputError(f"split {name!r}: use letters, digits, underscores and single dots, and not 'all'")
    if _DEVICE.fullmatch(name):
        raise InvalidInputError(f"split {name!r}: Windows can have no file of that name; choose another")


def require_splits(names: Iterable[str], existing: Iterable[str], found: Problems) -> None:
    """Note splits that cannot be called so, or whose files are one file where case does not count.

    Parameters
    ----------
    existing : iterable of str
        Splits that a dataset has already; they stay what they are.
    """
    known, old = {name.lower(): name for name in existing}, set(existing)
    for name in dict.fromkeys(names):
        if name in old:
            continue
        with found.collecting():
            require_split_name(name)
        other = known.setdefault(name.lower(), name)
        if other != name:
            found.add(
                InvalidInputError(f"splits {other!r} and {name!r} differ in case alone; give them one name or two")
            )


def clean_columns(table: pd.DataFrame, found: Problems, existing: Iterable[str] = ()) -> pd.DataFrame:
    """Return a table whose columns have names that can be told apart; a written index is left out with a warning.

    Names lose the blanks around them. Noted in `found`, and left out, are columns without a name, two of one name,
    names that differ in case alone from another's or from one with a meaning of its own, and names that cannot be
    printed.

    Parameters
    ----------
    existing : iterable of str
        Columns that a dataset has already; they stay what they are.
    """
    old = set(existing)
    names = [name if name in old else _name(name) for name in table.columns]
    kept, index = [], []
    for position, name in enumerate(names):
        if name and not _INDEX.fullmatch(name):
            kept.append(position)
        elif _is_index(table.iloc[:, position]):
            index.append(repr(name) if name else f"{position + 1} without a name")
        else:
            label = f"column {name!r} is a written index by its name, but not by its values" if name else ""
            found.add(
                InvalidInputError(f"{label or f'column {position + 1} of the labels has no name'}; name it or drop it")
            )
    if index:
        warnings.warn(f"labels: a written index is left out, column {', '.join(index)}", stacklevel=4)
    table = table.iloc[:, kept].copy()
    table.columns = [names[position] for position in kept]
    for name, count in Counter(table.columns).items():
        if count > 1:
            found.add(InvalidInputError(f"the labels have {'two' if count == 2 else count} columns {name!r}"))
    table = table.loc[:, ~table.columns.duplicated()]
    wrong = set()
    alike = {name.lower(): name for name in (*RESERVED, *TAKEN, *old)}
    for name in table.columns:
        if name in old:
            continue
        with found.collecting():
            _require_printable(name)
        other = alike.setdefault(name.lower(), name)
        if other != name:
            wrong.add(name)
            own = other in RESERVED or other in TAKEN
            text = f"label column {name!r} differs in case alone from {other!r}"
            found.add(
                InvalidInputError(f"{text}{', which has a meaning of its own' if own else ''}; rename or drop it")
            )
    return table.drop(columns=sorted(wrong))


def without_own_columns(table: pd.DataFrame, found: Problems) -> pd.DataFrame:
    """Return a table of labels without the columns that a dataset makes itself.

    They are left out of a table that a dataset wrote, and refused by name in any other.
    """
    taken = [name for name in TAKEN if name in table.columns]
    if taken and not _is_ours(table):
        for name in taken:
            found.add(
                InvalidInputError(f"label column {name!r}: a dataset makes a column of that name itself; rename it")
            )
    return table.drop(columns=taken)


def _name(name: Any) -> str:
    if name is None or name != name:
        return ""
    return str(name).strip().strip("\ufeff").strip()


def _require_printable(name: str) -> None:
    if not name.isprintable():
        raise InvalidInputError(f"label column {name!r}: a name is text without control characters; rename it")


def _is_index(column: pd.Series) -> bool:
    """Return whether a column without a name says nothing: no value at all, or each row's own number."""
    import pandas as pd

    if not column.notna().any():
        return True
    numbers = pd.to_numeric(column, errors="coerce") if column.map(_is_scalar).all() else column[:0]
    return bool(len(numbers) == len(column) and numbers.notna().all() and numbers.is_unique and not (numbers % 1).any())


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str)) or hasattr(value, "dtype")


def _is_ours(table: pd.DataFrame) -> bool:
    """Return whether `row` and `row_sha256` are what a dataset wrote there."""
    if not {"row", "row_sha256"} <= set(table.columns) or "coefficients" in table.columns:
        return False
    digests, rows = table["row_sha256"].tolist(), table["row"].tolist()
    return all(isinstance(d, str) and re.fullmatch("[0-9a-f]{64}", d) for d in digests) and all(
        isinstance(r, int) and r >= 0 for r in (r.item() if hasattr(r, "item") else r for r in rows)
    )
