"""Select rows by ids, indices, masks and attribute values."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.text import an, counted
from ..errors import InvalidInputError, RowIndexError, UnknownNameError
from .labels.kinds import LabelKind

if TYPE_CHECKING:
    import pandas as pd

WAYS = "rows are selected by an id, an index, a slice, a list of ids or indices, or a mask"


class RowIndex:
    """Resolves keys to row indices.

    Attributes
    ----------
    name : str
        The dataset's name in messages.
    labels : DataFrame
        Indexed by row id, in row order.
    """

    def __init__(self, name: str, labels: pd.DataFrame):
        self.name, self.labels = name, labels
        self._positions = {row: i for i, row in enumerate(labels.index)}

    def __len__(self) -> int:
        return len(self._positions)

    def position(self, row_id: str) -> int:
        """Return the index of the row with an id."""
        try:
            return self._positions[row_id]
        except (KeyError, TypeError):
            near = ", ".join(list(self._positions)[:3])
            raise UnknownNameError(f"{self.name} has no row {row_id!r}; its ids look like {near}") from None

    def one(self, key: Any) -> int | None:
        """Return the row index of a single id or index; None for any other key."""
        if isinstance(key, str):
            return self.position(key)
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            return self._number(int(key))
        if key is None or isinstance(key, (bool, np.bool_, float, complex, bytes, np.floating)) or _is_scalar(key):
            number = None if "bool" in str(getattr(key, "dtype", "bool")) else _whole(key)
            if number is None:
                raise InvalidInputError(f"{WAYS}, not by {key!r}")
            return self._number(number)
        return None

    def several(self, key: Any) -> np.ndarray:
        """Return the row indices, 0 to n - 1, of a slice, a list of ids or indices, or a mask.

        A mask that is a Series is aligned by its index of ids or row numbers; any other mask is in row order. A missing
        value of a mask selects nothing.

        Raises
        ------
        UnknownNameError, RowIndexError
            If there is no such row.
        InvalidInputError
            If the key is of another kind.
        """
        if isinstance(key, slice):
            return self._slice(key)
        if hasattr(key, "reindex") and hasattr(key, "to_numpy"):
            key = self._aligned(key)
        if isinstance(key, np.ndarray) and not np.ma.isMaskedArray(key) and key.dtype.kind in "biu":
            found = key
        else:
            found = self._listed(_values(key), _is_boolean(key))
        if found.ndim != 1:
            raise InvalidInputError(f"rows are selected by one-dimensional lists and masks, not of shape {found.shape}")
        if found.dtype == bool:
            if len(found) != len(self):
                raise InvalidInputError(f"a mask needs {counted(len(self), 'entry')}, not {len(found)}")
            return np.flatnonzero(found)
        if not len(found):
            return np.empty(0, np.int64)
        low, high = int(found.min()), int(found.max())
        if low < -len(self) or high >= len(self):
            raise RowIndexError(f"rows {low} to {high} do not all exist; there are {len(self)}, numbered from 0")
        return found.astype(np.int64) % len(self)

    def matching(self, kinds: Mapping[str, LabelKind], attributes: Mapping[str, Any]) -> np.ndarray:
        """Return a mask of the rows with these attribute values; a missing value never matches."""
        chosen = np.ones(len(self), bool)
        for name, value in attributes.items():
            column = self.labels[name]
            if np.ndim(value) or isinstance(value, (Mapping, Set)):
                raise InvalidInputError(f"attribute {name!r} is compared with a single value, not with {value!r}")
            wanted = kinds[name].parse(value, name, column)
            chosen &= (column == wanted).fillna(False).to_numpy(bool)
        return chosen

    def _number(self, number: int) -> int:
        if not -len(self) <= number < len(self):
            raise RowIndexError(f"row {number} does not exist; there are {len(self)}, numbered from 0")
        return number % len(self)

    def _slice(self, key: slice) -> np.ndarray:
        try:
            return np.arange(*key.indices(len(self)))
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"a slice of rows needs integers, not {key!r}: {error}") from None

    def _aligned(self, series: Any) -> Any:
        """Return the values of a Series; a mask is put in row order."""
        if getattr(series, "ndim", 1) != 1:
            raise InvalidInputError(f"{WAYS}, not by {an(type(series).__name__)}; choose one of its columns")
        values = series.astype(object).tolist()
        if not _is_boolean(series) and not _is_mask(values):
            return values
        names = list(getattr(series, "index", range(len(values))))
        if len(names) != len(self):
            raise InvalidInputError(f"a mask needs {counted(len(self), 'entry')}, not {len(names)}")
        values = np.array([not _is_missing(value) and bool(value) for value in values], bool)
        if names == list(self._positions) or names == list(range(len(self))):
            return values
        known: Mapping[Any, int] = self._positions
        if all(isinstance(n, (int, np.integer)) for n in names):
            known = {i: i for i in range(len(self))}
        if len(set(names)) != len(names) or any(name not in known for name in names):
            raise InvalidInputError(
                f"the index of the mask is neither the ids nor the row numbers of {self.name}; for a mask in row "
                "order, use mask.to_numpy()"
            )
        ordered = np.zeros(len(self), bool)
        ordered[[known[name] for name in names]] = values
        return ordered

    def _listed(self, values: list[Any], boolean: bool) -> np.ndarray:
        """Return plain values as a mask or as row indices."""
        if boolean or _is_mask(values):
            return np.array([value is not None and bool(value) for value in values], bool)
        rows = [self.one(value) for value in values]
        if None in rows:
            raise InvalidInputError(f"{WAYS}, not by {values[rows.index(None)]!r}")
        return np.array(rows, np.int64)


def _values(key: Any) -> list[Any]:
    """Return the values of a list-like key; missing ones are None."""
    if isinstance(key, (Set, Mapping)) or not isinstance(key, Iterable):
        raise InvalidInputError(f"{WAYS}, not by {an(type(key).__name__)}")
    if np.ma.isMaskedArray(key):
        if key.dtype != bool:
            raise InvalidInputError(f"{WAYS}, not by masked numbers")
        result: list[Any] = key.filled(False).tolist()
        return result
    for name in ("to_pylist", "tolist"):  # pyarrow; arrays, tensors and pandas
        if hasattr(key, name):
            key = getattr(key, name)()
            break
    return [None if _is_missing(value) else value for value in key]


def _is_missing(value: Any) -> bool:
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _is_boolean(key: Any) -> bool:
    """Return whether a list-like has a boolean dtype, even if all of its values are missing."""
    return str(getattr(key, "dtype", getattr(key, "type", ""))).startswith(("bool", "torch.bool"))


def _is_mask(values: Sequence[Any]) -> bool:
    """Return whether all values are booleans or missing, and not all missing."""
    known = [value for value in values if not _is_missing(value)]
    return bool(known) and all(isinstance(value, (bool, np.bool_)) for value in known)


def _is_scalar(key: Any) -> bool:
    return hasattr(key, "__index__") and np.ndim(key) == 0


def _whole(value: Any) -> int | None:
    """Return any library's integer as an int; None for any other value."""
    if isinstance(value, (float, complex, np.inexact)) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
