"""The base class of the kinds of label columns, and the targets that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....errors import InvalidInputError
from ..scores import Score
from ..values import as_number, plain_value, shown

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MIN_ROWS_A_CLASS = 5
TEXT_TYPES = ("string", "large_string", "string_view")  # Arrow's names
NUMERIC = frozenset({int, float, bool})


@dataclass(frozen=True)
class AttributeTarget:
    """Numbers that a direction is fitted to: an attribute, or one level of it.

    Attributes
    ----------
    values : ndarray
        float64 ``(n,)``: 0 and 1, or the numbers of a graded kind; NaN where there is no label.
    """

    name: str
    attribute: str
    level: str | None
    kind: LabelKind
    values: np.ndarray

    def why_not(self, fitted: np.ndarray) -> str:
        """Return why no direction can be fitted to the rows of a boolean mask ``(n,)``; empty if one can."""
        values = self.values[fitted]
        known = values[~np.isnan(values)]
        if not len(known):
            return "no fitted row has a label"
        if np.ptp(known) == 0:
            return f"all {len(known)} labelled fitted rows have the same label"
        return self.kind.too_few(known)


@dataclass(frozen=True)
class LabelKind:
    """The kind of a label column: everything that differs from one kind to the next is a member of it.

    Attributes
    ----------
    name : str
        As users see it.
    stored : str
        In ``columns`` of a manifest.
    read_out : str
        In ``kind`` of a direction.
    arrow_types : tuple of str
        Arrow's names of the types that a stored column may have, the first as we write it.
    graded : bool
        The numbers of its targets are amounts, which are regressed on; else they are two classes, 0 and 1.
    keeps_text : bool
        A value is the text of a field as it is written in a file.
    stays : bool
        A column keeps this kind, which somebody stated, also when all of its values are replaced.
    score : Score
        How a direction's read-out of held-out rows is measured.
    group_names : tuple of str
        What the rows of :meth:`halves` are called, the lower ones first.
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
        """Return the kind of a dataset's column of this pandas dtype, None if it is not one of these."""
        raise NotImplementedError

    @classmethod
    def stated(cls, column: pd.Series, name: str) -> LabelKind | None:
        """Return the kind if a new column's dtype states it, whatever its values."""
        return None

    @classmethod
    def inferred(cls, known: set[Any], types: set[type], name: str) -> tuple[LabelKind, str] | None:
        """Return the kind, and what to warn about, if plain values that are not missing imply it."""
        return None

    # ----------------------------------------------------------------- values
    def convert(self, values: Sequence[Any], name: str, *, there: bool = False) -> list[Any]:
        """Return plain values as those of this kind, None where one is missing.

        Parameters
        ----------
        there : bool
            Whether the column has values already. What has no text of its own, such as 2.5 or true, then cannot be told
            from them and is not a value of a column of text.

        Raises
        ------
        InvalidInputError
            Names the column, its kind and the first value that cannot be of it.
        """
        made = self._convert(values)
        if made.count(None) == values.count(None):
            return made
        for value, result in zip(values, made, strict=True):
            if value is not None and result is None:
                number = not isinstance(value, str) and as_number(value) is not None
                other = "binary" if isinstance(value, bool) else "float" if number else "categorical"
                raise InvalidInputError(
                    f"label {name!r} is {self.name}; the new rows would make it {other} (a value is {shown(value)})"
                )
        return made

    def _convert(self, values: Sequence[Any]) -> list[Any]:
        """Plain values as those of this kind, None where one is missing or cannot be of it."""
        raise NotImplementedError

    def asked(self, value: Any, name: str, column: pd.Series) -> Any:
        """Return the value of an attribute that a caller asks for, read as one of this kind.

        Raises
        ------
        InvalidInputError
            If it cannot be a value of this kind, or is missing.
        UnknownNameError
            If no row has this level.
        """
        wrong = InvalidInputError(f"attribute {name!r} is {self.name}; no row can have the value {shown(value)}")
        try:
            value = plain_value(value, name)
        except InvalidInputError:
            raise wrong from None
        if value is None:
            raise InvalidInputError(
                f"a missing {name!r} cannot be asked for by value; for the rows without one: "
                f"dataset[dataset.labels[{name!r}].isna()]"
            )
        found = self._asked(value, name, column)
        if found is None:
            raise wrong
        return found

    def _asked(self, value: Any, name: str, column: pd.Series) -> Any:
        """A plain value as one of this kind, None if it cannot be one."""
        raise NotImplementedError

    # ---------------------------------------------------------------- storage
    @property
    def dtype(self) -> Any:
        """The nullable pandas dtype that a dataset's column has."""
        raise NotImplementedError

    def as_column(self, values: Sequence[Any], index: pd.Index) -> pd.Series:
        """Return values of this kind as a dataset's column."""
        import pandas as pd

        return pd.Series(list(values), index, dtype=self.dtype)

    def as_stored(self, column: pd.Series) -> pd.Series:
        """Return a dataset's column as it is written to a Parquet file."""
        return column

    def from_stored(self, column: pd.Series, name: str) -> pd.Series:
        """Return a column of a Parquet file as a dataset's column.

        Raises
        ------
        CorruptFileError
            If a value cannot be of this kind.
        """
        return column

    def arrow_type(self) -> pa.DataType:
        """Return the Arrow type of a stored column."""
        import pyarrow as pa

        return getattr(pa, {"bool": "bool_", "double": "float64"}.get(self.arrow_types[0], self.arrow_types[0]))()

    def to_json(self) -> dict[str, Any] | None:
        """Return what ``label_kinds`` says about a column of this kind; None if ``columns`` says all."""
        return None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LabelKind:
        """Return the kind that an entry of ``label_kinds`` describes.

        Raises
        ------
        InvalidInputError
        """
        return cls()

    def describe(self) -> str:
        """Return the kind in a few words, for cards and for comparing two datasets."""
        return self.name

    # ------------------------------------------------------------------ views
    def numbers(self, column: pd.Series) -> np.ndarray | None:
        """Return a column as float64 ``(n,)`` with NaN for missing; None for a kind without numbers."""
        return None

    def batch(self, column: pd.Series) -> np.ndarray | list[str]:
        """Return what a torch batch holds: float32 with NaN for missing, else text with ``""`` for missing."""
        numbers = self.numbers(column)
        if numbers is not None:
            return numbers.astype(np.float32)
        return ["" if v is None else str(v) for v in column.astype(object).where(column.notna(), None)]

    def export(self, column: pd.Series) -> tuple[pd.Series, pa.DataType, Any]:
        """Return a column for Hugging Face `datasets`: values, Arrow type, and a feature if the type is not enough."""
        return column, self.arrow_type(), None

    # ------------------------------------------------------------- directions
    def targets(self, name: str, column: pd.Series) -> list[AttributeTarget]:
        """Return what directions of a column are fitted to."""
        values = self.numbers(column)
        assert values is not None
        return [AttributeTarget(name, name, None, self, values)]

    def too_few(self, known: np.ndarray) -> str:
        """Return why these labels are too few for a direction; empty if they are not."""
        if self.graded:
            few = 2 * MIN_ROWS_A_CLASS
            return "" if len(known) >= few else f"{len(known)} fitted rows have a label, at least {few} are needed"
        has = int((known == 1).sum())
        for count, verb in ((has, "have"), (len(known) - has, "lack")):
            if count < MIN_ROWS_A_CLASS:
                return f"{count} of {len(known)} labelled fitted rows {verb} it, at least {MIN_ROWS_A_CLASS} are needed"
        return ""

    def halves(self, values: np.ndarray) -> np.ndarray:
        """Return targets' values ``(n,)`` as 1 and 0, the higher and the lower ones; NaN stays."""
        return values

    def value(self, linear: float) -> float:
        """Return a direction's read-out as users see it, from ``c @ reading + intercept``: here a probability."""
        return float(0.5 * (1 + np.tanh(0.5 * linear)))

    def show(self, value: float) -> str:
        """Return a read-out as the command line prints it."""
        return f"{value:.2f}"
