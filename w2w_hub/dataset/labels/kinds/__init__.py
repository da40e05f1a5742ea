"""The kinds of label columns, and which kind a column has.

To add a kind, write a file with a subclass of :class:`LabelKind` and name it in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....errors import InvalidInputError
from ....store.paths import short
from .base import MIN_ROWS_A_CLASS, AttributeTarget, LabelKind
from .binary import Binary
from .categorical import Categorical
from .continuous import Continuous
from .ordinal import Ordinal

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BINARY",
    "CATEGORICAL",
    "CONTINUOUS",
    "KINDS",
    "MIN_ROWS_A_CLASS",
    "STORED",
    "AttributeTarget",
    "Binary",
    "Categorical",
    "Continuous",
    "LabelKind",
    "Ordinal",
    "infer_kind",
    "kind_of",
    "read_out_kind",
    "stated_kind",
    "stored_kind",
    "stored_kinds",
]

BINARY, CATEGORICAL, CONTINUOUS = Binary(), Categorical(), Continuous()
# tried in this order; the last accepts every column
KINDS: tuple[type[LabelKind], ...] = (Binary, Continuous, Ordinal, Categorical)
_DESCRIBED = {kind.name: kind for kind in KINDS if kind.name != kind.stored}  # those with entries in `label_kinds`
_PLAIN = {kind.stored: kind for kind in KINDS if kind.name == kind.stored}
STORED = tuple(sorted(_PLAIN))


def stated_kind(column: pd.Series, name: str = "label") -> LabelKind | None:
    """Return the kind that a column's dtype implies; None if the values decide."""
    return next((found for kind in KINDS if (found := kind.stated(column, name)) is not None), None)


def infer_kind(values: Sequence[Any], name: str) -> tuple[LabelKind, str]:
    """Return the kind of a new column from its plain values, and a warning, which may be empty.

    Binary for booleans, 0 and 1, -1 and 1, or text of these; float for numbers that a double represents exactly;
    categorical for anything else, as text.
    """
    types = {type(value) for value in values if value is not None}
    known = {value for value in values if value is not None}  # 1 and True are equal; `types` tells them apart
    return next(found for kind in KINDS if (found := kind.inferred(known, types, name)) is not None)


def kind_of(column: pd.Series) -> LabelKind:
    """Return the kind of a dataset's column."""
    return next(found for kind in KINDS if (found := kind.of_dtype(column.dtype)) is not None)


def stored_kind(name: str, stored: Any, entry: Any = None) -> LabelKind:
    """Return the kind of a column from ``columns`` and ``label_kinds`` of a manifest.

    An entry with an unknown kind is ignored.

    Raises
    ------
    InvalidInputError
    """
    if not isinstance(stored, str) or stored not in _PLAIN:
        raise InvalidInputError(f"column {short(name)} is of kind {short(stored)}, not {'/'.join(STORED)}")
    described = _described(name, entry)
    if described is None:
        return _PLAIN[stored]()
    if described.stored != stored:
        raise InvalidInputError(f"column {short(name)} is {described.name} in label_kinds, but {stored} in columns")
    return described


def stored_kinds(columns: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, LabelKind]:
    """Return the kind of each attribute of a manifest, see :func:`stored_kind`."""
    return {name: stored_kind(name, stored, entries.get(name)) for name, stored in columns.items()}


def read_out_kind(name: str, read_out: str, entry: Any = None) -> LabelKind:
    """Return the kind of label that a direction reads, from its ``kind`` and ``label_kind``.

    Raises
    ------
    InvalidInputError
    """
    described = _described(name, entry)
    return _PLAIN[read_out]() if described is None or described.read_out != read_out else described


def _described(name: str, entry: Any) -> LabelKind | None:
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise InvalidInputError(f"label_kinds of column {short(name)} is {short(entry)}, which does not name a kind")
    kind = _DESCRIBED.get(entry["kind"])
    try:
        return None if kind is None else kind.from_json(entry)
    except InvalidInputError as error:
        raise InvalidInputError(f"column {short(name)}: {error}") from None
