"""Find signs that several rows show one person, who should then be in one split only.

Nothing is decided by them: they lead to a warning that names the option that splits by persons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.text import ShellText, command, counted
from ..common.warn import warn_caller
from .labels.names import RESERVED
from .splits import SplitRule, group_names, states_splits

if TYPE_CHECKING:
    import pandas as pd

# names of columns that say who is shown, alone or as a word of the name: person, Person_ID, subject.name
PERSON_WORDS = frozenset(
    ("person", "people", "subject", "identity", "individual", "character", "celebrity", "celeb", "participant",
     "speaker", "actor", "who", "name")
)  # fmt: skip
ID_WORDS = frozenset(("id", "number", "no", "key", "uuid", "label"))
LARGEST_GROUP = 20  # rows of one person on average; larger groups are kinds of people, such as men and women
MANY_VALUES = 50  # from which on a text column whose values have few rows each is taken to name persons
# the end of a row's id that tells the rows of one person apart: ann-2, ann_v3, ann.copy, annb
_END = re.compile(r"[-_.](?:v|seed|step|epoch|run|take|img|image|copy)?[-_.]?\d*$|\d+$", re.ASCII | re.IGNORECASE)


class SharedPersonWarning(UserWarning):
    """Warning that several rows seem to show one person, and that a split does not keep them together."""


def warn_of_shared_persons(table: pd.DataFrame, rule: SplitRule | None, path: Path | str) -> None:
    """Warn if several rows seem to show one person, and nothing keeps them in one split.

    Parameters
    ----------
    table : DataFrame
        Normalized labels with a column ``id``.
    rule : SplitRule, optional
        How the rows were split.
    """
    if rule is not None and not rule.by_rows:
        return
    if rule is None and states_splits(table):
        return  # the caller has split them
    sign = _sign(table)
    if sign is None:
        return
    column, reason = sign
    word = ShellText("COLUMN") if column is None else column
    label = "" if column else "label the rows with the person, and "
    risk = "rows of one person may be in several splits" if rule is not None else "no rows are held out"
    then = command("w2w relabel", Path(path), options=("--split-by", word, "--holdout", 0.1))
    warn_caller(f"{reason}, and {risk}; to hold out whole persons, {label}run: {then}", SharedPersonWarning)


def _sign(table: pd.DataFrame) -> tuple[str | None, str] | None:
    """Return the column, or None for the ids, by which several rows show one person, and the reason."""
    n = len(table)
    for name in table.columns:
        if name in RESERVED:
            continue
        values = group_names(table[name]).dropna()
        groups = values.nunique()
        if groups < 2 or groups == len(values):
            continue
        text = str(table[name].dtype) == "string"
        named = names_persons(name) and len(values) <= 5 * LARGEST_GROUP * groups
        if named or (text and groups >= MANY_VALUES and len(values) <= 4 * groups):
            rows = counted(len(values), "row")
            return (
                name,
                f"column {name!r} has {counted(groups, 'value')} for {rows}, as if several rows show one person",
            )
    stems = Counter(map(_stem, table["id"].tolist()))
    shared = {stem: count for stem, count in stems.items() if count > 1}
    if len(stems) > 1 and 2 * sum(shared.values()) >= n and n <= LARGEST_GROUP * len(stems):
        first = next(stem for stem in map(_stem, table["id"].tolist()) if stem in shared)
        alike = [name for name in table["id"].tolist() if _stem(name) == first][:2]
        return None, f"ids such as {' and '.join(alike)} look as if several rows show one person"
    return None


def names_persons(column: str) -> bool:
    """Return whether a column's name says that it holds who is shown."""
    words: Sequence[str] = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower())
    return any(word in PERSON_WORDS for word in words) and all(word in PERSON_WORDS | ID_WORDS for word in words)


def _stem(row_id: str) -> str:
    """Return an id without the end that tells the rows of one person apart; the id itself if nothing is left."""
    return _END.sub("", row_id) or row_id
