"""Validate the names of label columns and splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...common.warn import warn_caller
from ...errors import InvalidInputError
from ..problems import Problems

if TYPE_CHECKING:
    import pandas as pd

GIVEN = ("id", "split", "source", "licence", "consent")  # reserved columns that a caller may give
RESERVED = (*GIVEN, "row", "row_sha256")  # columns that are not attributes, in stored order
STATED = ("source", "licence", "consent")  # what every published row must state
SPELLINGS = {"license": "licence"}  # what a caller may call a reserved column, in any case of letters
TAKEN = ("row", "row_sha256", "weights", "coefficients")  # columns that only a dataset writes
CONTRIBUTOR = "contributor"  # attribute: the account that offered a row, set by the release
CONTRIBUTOR_SOURCE = "the account on the Hub that offered the row"  # in `column_info`, by which it is known
SPLIT_NAME = re.compile(r"[A-Za-z0-9]\w*(\.\w+)*", re.ASCII)  # accepted by Hugging Face `datasets` too
DEFAULT_SPLIT = "train"
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.ASCII | re.IGNORECASE)  # reserved by Windows
# names that pandas and pyarrow give to an index that is written as a column
_INDEX = re.compile(r"Unnamed: \d+(\.\d+)*|(__)?index_level_\d+(__)?", re.ASCII)


def is_split_name(name: object) -> bool:
    """Return whether a split may have this name, which is also the name of a file."""
    return isinstance(name, str) and SPLIT_NAME.fullmatch(name) is not None and name != "all"


def require_split_name(name: str) -> None:
    """Raise `InvalidInputError` unless a split may have this name, on every operating system."""
    if not isinstance(name, str) or not SPLIT_NAME.fullmatch(name) or name.lower() == "all":
        raise InvalidInputError(f"split {name!r}: use letters, digits, underscores and single dots, and not 'all'")
    if _DEVICE.fullmatch(name):
        raise InvalidInputError(f"split {name!r}: Windows reserves this file name; choose another")


def require_splits(names: Iterable[str], existing: Iterable[str], found: Problems) -> None:
    """Collect invalid names of splits, and names that differ only in case, which some file systems cannot store.

    Parameters
    ----------
    existing : iterable of str
        Splits of the dataset, which are valid.
    """
    known, old = {name.lower(): name for name in existing}, set(existing)
    for name in dict.fromkeys(names):
        if name in old:
            continue
        with found.collecting():
            require_split_name(name)
        other = known.setdefault(name.lower(), name)
        if other != name:
            found.add(InvalidInputError(f"splits {other!r} and {name!r} differ only in case; rename one of them"))


def clean_columns(
    table: pd.DataFrame, found: Problems, existing: Iterable[str] = (), *, respell: bool = True
) -> pd.DataFrame:
    """Return a table with stripped and unique column names; an index column is dropped with a warning.

    Columns without a name, with a duplicate name, with a name that differs only in case from another or from a
    reserved one, or with a name that is not printable are dropped, and collected in `found`. A column ``license`` is
    the reserved ``licence``, unless there is one, too, or the dataset has an attribute of that name.

    Parameters
    ----------
    existing : iterable of str
        Columns of the dataset, which are valid.
    respell : bool
        False leaves ``license`` as it is, for a caller that does not know the dataset.
    """
    old = set(existing)
    given = names = [name if name in old else _name(name) for name in table.columns]
    if respell:
        names = [name if name in old or reserved_name(name) in given else reserved_name(name) for name in given]
    kept, index = [], []
    for position, name in enumerate(names):
        if name and not _INDEX.fullmatch(name):
            kept.append(position)
        elif _is_index(table.iloc[:, position]):
            index.append(repr(name) if name else f"{position + 1} without a name")
        else:
            label = f"column {name!r} has the name, but not the values, of an index" if name else ""
            found.add(
                InvalidInputError(f"{label or f'column {position + 1} of the labels has no name'}; name it or drop it")
            )
    if index:
        warn_caller(f"labels: dropped an index column, {', '.join(index)}")
    table = table.iloc[:, kept].copy()
    table.columns = [names[position] for position in kept]
    for name, count in Counter(table.columns).items():
        if count > 1:
            spelled = dict.fromkeys(given[position] for position in kept if names[position] == name)
            text = " and ".join(map(repr, spelled))
            found.add(InvalidInputError(f"the labels have {'two' if count == 2 else count} columns {text}"))
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
            text = f"label column {name!r} differs only in case from {'the reserved ' if own else ''}{other!r}"
            found.add(InvalidInputError(f"{text}; rename or drop it"))
    return table.drop(columns=sorted(wrong))


def without_own_columns(table: pd.DataFrame, found: Problems) -> pd.DataFrame:
    """Return a table of labels without the columns that only a dataset writes.

    They are dropped from a table that a dataset wrote, and collected as errors in any other.
    """
    taken = [name for name in TAKEN if name in table.columns]
    if taken and not _is_ours(table):
        for name in taken:
            found.add(InvalidInputError(f"label column {name!r}: the name is reserved for datasets; rename it"))
    return table.drop(columns=taken)


def reserved_name(name: str) -> str:
    """Return the name under which a column is stored: ``licence`` for ``license``, any other as it is."""
    return SPELLINGS.get(name.lower(), name)


def asked_name(name: str) -> str:
    """Return the name under which messages ask for a stored column, as options do: ``license`` for ``licence``."""
    return {stored: asked for asked, stored in SPELLINGS.items()}.get(name, name)


def _name(name: Any) -> str:
    if name is None or name != name:
        return ""
    return str(name).strip().strip("\ufeff").strip()


def _require_printable(name: str) -> None:
    if not name.isprintable():
        raise InvalidInputError(f"label column {name!r}: the name has control characters; rename it")


def _is_index(column: pd.Series) -> bool:
    """Return whether a column without a name contains no values, or a unique integer per row."""
    import pandas as pd

    if not column.notna().any():
        return True
    numbers = pd.to_numeric(column, errors="coerce") if column.map(_is_scalar).all() else column[:0]
    return bool(len(numbers) == len(column) and numbers.notna().all() and numbers.is_unique and not (numbers % 1).any())


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str)) or hasattr(value, "dtype")


def _is_ours(table: pd.DataFrame) -> bool:
    """Return whether a dataset wrote the columns `row` and `row_sha256`."""
    if not {"row", "row_sha256"} <= set(table.columns) or "coefficients" in table.columns:
        return False
    digests, rows = table["row_sha256"].tolist(), table["row"].tolist()
    return all(isinstance(d, str) and re.fullmatch("[0-9a-f]{64}", d) for d in digests) and all(
        isinstance(r, int) and r >= 0 for r in (r.item() if hasattr(r, "item") else r for r in rows)
    )
