"""Keep the unparsed fields of a CSV file beside the parsed values, for columns that turn out to be text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .kinds import LabelKind
from .values import plain_values

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = "w2w_written"  # in the attrs of a table


class Written(dict[str, str]):
    """The CSV fields, as written, of columns that were parsed as numbers or booleans.

    It is kept in `DataFrame.attrs`, which pandas deep-copies in every operation and writes to Parquet as JSON. So it is
    a dict that stays empty, with the fields in attributes, and its deep copy is the same object.
    """

    def __init__(self, ids: Sequence[Any] = (), fields: Mapping[str, Sequence[Any]] | None = None) -> None:
        super().__init__()
        self.rows = {name: i for i, name in enumerate(ids)}
        self.fields = dict(fields or {})

    def __deepcopy__(self, memo: Any) -> Written:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other  # otherwise pandas would keep the attrs when it concatenates two tables

    __hash__ = None  # type: ignore[assignment]

    def text(self, column: str, row: str, value: Any) -> Any:
        """Return the field of a value; the value itself if it is text, missing, or has changed since it was parsed."""
        if value is None or isinstance(value, str) or row not in self.rows:
            return value
        field = self.fields[column][self.rows[row]]
        return field if isinstance(field, str) and _reads(field, value) else value


def _reads(field: str, value: Any) -> bool:
    word = field.strip().lower()
    if isinstance(value, bool):
        return word == str(value).lower()
    try:
        result: bool = float(word) == value
        return result
    except ValueError:
        return False


def as_written(table: pd.DataFrame, kinds: Mapping[str, LabelKind | None]) -> pd.DataFrame:
    """Return a table of labels, which has an ``id`` column, with unparsed fields in the columns that keep text."""
    import pandas as pd

    found = table.attrs.get(WRITTEN)
    if not isinstance(found, Written):
        return table
    made, ids = table.copy(), table["id"].tolist()
    for name in table.columns:
        kind = kinds.get(name)
        if kind is not None and kind.keeps_text and name in found.fields:
            values = zip(ids, plain_values(table[name], name), strict=True)
            made[name] = pd.Series([found.text(name, row, value) for row, value in values], table.index, dtype=object)
    made.attrs = {}
    return made
