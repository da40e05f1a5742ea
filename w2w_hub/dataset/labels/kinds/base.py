"""The base class of the kinds of label columns, and the regression targets of their directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....common.text import counted
from ....errors import InvalidInputError
from ....store.paths import short
from ..scores import Score
from ..values import as_number, plain_value

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MIN_ROWS_A_CLASS = 5
TEXT_TYPES = ("string", "large_string", "string_view")  # Arrow's names
NUMERIC = frozenset({int, float, bool})


@dataclass(frozen=True)
class AttributeTarget:
    """The regression target of a direction: an attribute, or one level of it.

    Attributes
    ----------
    values : ndarray
        float64 ``(n,)``: 0 and 1, or the numbers of a graded kind; NaN where the label is missing.
    """

    name: str
    attribute: str
    level: str | None
    kind: LabelKind
    values: np.ndarray

    def why_not(self, fitted: np.ndarray) -> str:
        """Return why a direction cannot be fitted to the rows of a mask ``(n,)``; empty if it can."""
        values = self.values[fitted]
        known = values[~np.isnan(values)]
        if not len(known):
            return "no fitted row has a label"
        if np.ptp(known) == 0:
            return f"all {len(known)} labeled fitted rows have the same label"
        return self.kind.too_few(known)


@dataclass(frozen=True)
class LabelKind:
    """The kind of a label column, with everything that depends on the kind.

    Attributes
    ----------
    name : str
        The name that users see.
    stored : str
        The value in ``columns`` of a manifest.
    read_out : str
        The value in ``kind`` of a direction.
    arrow_types : tuple of str
        Names of the Arrow types that a stored column may have; the first one is written.
    graded : bool
        True if targets are amounts to regress on; False if they are the classes 0 and 1.
    keeps_text : bool
        True if a value is the unparsed text of a CSV field.
    stays : bool
        True if a column keeps this kind even when all of its values are replaced.
    score : Score
        The measure of a direction's read-out on held-out rows.
    group_names : tuple of str
        Names of the two groups of :meth:`halves`, the lower one first.
    """

    name: ClassVar[str]
    stored: ClassVar[str]
    read_out: ClassVar[str]
    arrow_types: ClassVar[tuple[str, ...]]
    graded: ClassVar[bool] = False
    keeps_text: ClassVar[bool] = False
    stays: ClassVar[bool] = False
    score: ClassVar[Score]
    group_names: ClassVar[tuple[str, str]] = ("without", "with")

    # ------------------------------------------------------------- which kind
    @classmethod
    def of_dtype(cls, dtype: Any) -> LabelKind | None:
        """Return the kind of a dataset's column of this pandas dtype; None if the dtype is another kind's."""
        raise NotImplementedError

    @classmethod
    def stated(cls, column: pd.Series, name: str) -> LabelKind | None:
        """Return the kind if a new column's dtype implies it; None if not."""
        return None

    @classmethod
    def inferred(cls, known: set[Any], types: set[type], name: str) -> tuple[LabelKind, str] | None:
        """Return the kind and a warning if the plain non-missing values imply it; None if not."""
        return None

    # ----------------------------------------------------------------- values
    def convert(self, values: Sequence[Any], name: str, *, existing: bool = False) -> list[Any]:
        """Convert plain values to this kind; a missing value is None.

        Parameters
        ----------
        existing : bool
            The column exists already. A text column then refuses values such as 2.5 and True, whose text is ambiguous.

        Raises
        ------
        InvalidInputError
            Names the column, its kind and the first value that cannot be converted.
        """
        made = self._convert(values)
        if made.count(None) == values.count(None):
            return made
        for value, result in zip(values, made, strict=True):
            if value is not None and result is None:
                number = not isinstance(value, str) and as_number(value) is not None
                other = "binary" if isinstance(value, bool) else "float" if number else "categorical"
                raise InvalidInputError(
                    f"label {name!r} is {self.name}; the new rows would make it {other} (a value is {short(value)})"
                )
        return made

    def misstated(self, value: Any, name: str) -> str:
        """Return why a plain value (a boolean, number or text) is not stored as it is; empty if it is."""
        try:
            made = self.convert([value], name, existing=True)[0]
        except InvalidInputError as error:
            return str(error)
        alike = isinstance(made, str) == isinstance(value, str) and isinstance(made, bool) == isinstance(value, bool)
        return "" if alike and made == value else f"label {name!r} is {self.name}, and {short(value)} is not"

    def _convert(self, values: Sequence[Any]) -> list[Any]:
        """Convert plain values to this kind; None for a missing value and for one that cannot be converted."""
        raise NotImplementedError

    def parse(self, value: Any, name: str, column: pd.Series) -> Any:
        """Convert the value that a caller compares a column with.

        Raises
        ------
        InvalidInputError
            If the value is missing or cannot be converted.
        UnknownNameError
            If no row has this level.
        """
        wrong = InvalidInputError(
            f"attribute {name!r} is {self.name}; no row can have the value {short(value)}: {self.values_text(column)}",
            name=name,
        )
        try:
            value = plain_value(value, name)
        except InvalidInputError:
            raise wrong from None
        if value is None:
            raise InvalidInputError(
                f"attribute {name!r} cannot be compared with a missing value; rows without a value are "
                f"dataset[dataset.labels[{name!r}].isna()]"
            )
        found = self._parse(value, name, column)
        if found is None:
            raise wrong
        return found

    def values_text(self, column: pd.Series) -> str:
        """Return the values of a column as a clause, for error messages."""
        raise NotImplementedError

    def _parse(self, value: Any, name: str, column: pd.Series) -> Any:
        """Convert a plain value to this kind; None if it cannot be converted."""
        raise NotImplementedError

    # ---------------------------------------------------------------- storage
    @property
    def dtype(self) -> Any:
        """The nullable pandas dtype of a dataset's column."""
        raise NotImplementedError

    def as_column(self, values: Sequence[Any], index: pd.Index) -> pd.Series:
        """Return converted values as a dataset's column."""
        import pandas as pd

        return pd.Series(list(values), index, dtype=self.dtype)

    def as_stored(self, column: pd.Series) -> pd.Series:
        """Return a dataset's column as it is stored in Parquet."""
        return column

    def from_stored(self, column: pd.Series, name: str) -> pd.Series:
        """Return a stored column as a dataset's column.

        Raises
        ------
        CorruptFileError
            If a value is not of this kind.
        """
        return column

    def arrow_type(self) -> pa.DataType:
        """Return the Arrow type of a stored column."""
        import pyarrow as pa

        return getattr(pa, {"bool": "bool_", "double": "float64"}.get(self.arrow_types[0], self.arrow_types[0]))()

    def to_json(self) -> dict[str, Any] | None:
        """Return the entry of ``label_kinds``; None if ``columns`` describes the kind completely."""
        return None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LabelKind:
        """Return the kind that an entry of ``label_kinds`` describes; raises `InvalidInputError`."""
        return cls()

    def describe(self) -> str:
        """Return a short description, for cards and for the comparison of datasets."""
        return self.name

    # ------------------------------------------------------------------ views
    def numbers(self, column: pd.Series) -> np.ndarray | None:
        """Return a column as float64 ``(n,)`` with NaN for missing values; None for a text kind."""
        return None

    def batch(self, column: pd.Series) -> np.ndarray | list[str]:
        """Return a column for torch: float32 with NaN for missing values, or text with ``""`` for them."""
        numbers = self.numbers(column)
        if numbers is not None:
            return numbers.astype(np.float32)
        return ["" if v is None else str(v) for v in column.astype(object).where(column.notna(), None)]

    def export(self, column: pd.Series) -> tuple[pd.Series, pa.DataType, Any]:
        """Return a column for Hugging Face `datasets`: values, Arrow type, and a feature if the type needs one."""
        return column, self.arrow_type(), None

    # ------------------------------------------------------------- directions
    def targets(self, name: str, column: pd.Series) -> list[AttributeTarget]:
        """Return the regression target of each direction of a column."""
        values = self.numbers(column)
        assert values is not None
        return [AttributeTarget(name, name, None, self, values)]

    def too_few(self, known: np.ndarray) -> str:
        """Return why there are too few labels for a direction; empty if there are enough."""
        if self.graded:
            few = 2 * MIN_ROWS_A_CLASS
            have = counted(len(known), "fitted row has", "fitted rows have")
            return "" if len(known) >= few else f"{have} a label, at least {few} are needed"
        has = int((known == 1).sum())
        for count, verb in ((has, "have"), (len(known) - has, "lack")):
            if count < MIN_ROWS_A_CLASS:
                return f"{count} of {len(known)} labeled fitted rows {verb} it, at least {MIN_ROWS_A_CLASS} are needed"
        return ""

    def halves(self, values: np.ndarray) -> np.ndarray:
        """Return target values ``(n,)`` as 1 for the higher and 0 for the lower group; NaN stays."""
        return values

    def value(self, linear: float) -> float:
        """Return the read-out of a direction from ``c @ reading + intercept``: by default a probability."""
        return float(0.5 * (1 + np.tanh(0.5 * linear)))

    def show(self, value: float) -> str:
        """Format a read-out for the command line: a probability, unless a kind reads values."""
        return f"{100 * value:.0f} %"
