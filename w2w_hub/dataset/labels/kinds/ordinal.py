"""Ordinal labels: text with a stated order of grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....common.text import ShellText, command
from ....errors import CorruptFileError, InvalidInputError, UnknownNameError
from ....store.paths import short
from ..values import as_text, plain_values
from .base import AttributeTarget, LabelKind
from .categorical import Categorical
from .continuous import Continuous

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Ordinal(Categorical):
    """Grades from the lowest to the highest, such as none < short < long.

    In memory, an ordinal column is an ordered pandas Categorical. On disk it is categorical, with its order in
    ``label_kinds`` of the manifest. Its one direction regresses on the position in the order, 0 for the lowest grade.

    Attributes
    ----------
    order : tuple of str
        The grades, lowest first.
    """

    order: tuple[str, ...] = ()

    name = "ordinal"
    read_out = Continuous.read_out
    graded = True
    stays = True
    score = Continuous.score
    group_names = ("lower grades", "higher grades")

    def __post_init__(self) -> None:
        if not self.order or not all(isinstance(grade, str) for grade in self.order):
            raise InvalidInputError(f"an order must be a list of text, not {short(self.order)}")
        if len(set(self.order)) < len(self.order):
            raise InvalidInputError(f"an order must list each grade once, not {short(self.order)}")

    @classmethod
    def of_dtype(cls, dtype: Any) -> LabelKind | None:
        import pandas as pd

        return cls(tuple(dtype.categories)) if isinstance(dtype, pd.CategoricalDtype) else None

    @classmethod
    def stated(cls, column: pd.Series, name: str) -> LabelKind | None:
        import pandas as pd

        if not isinstance(column.dtype, pd.CategoricalDtype) or not column.dtype.ordered:
            return None
        grades = plain_values(column.dtype.categories.to_series(), name)
        return cls.of_column(name, grades) if grades else None

    @classmethod
    def of_column(cls, name: str, grades: Sequence[Any]) -> Ordinal:
        """Return the kind of a column with these grades, lowest first; raises `InvalidInputError`."""
        try:
            return cls(tuple(map(as_text, grades)))
        except InvalidInputError as error:
            raise InvalidInputError(f"label {name!r}: {error}") from None

    @classmethod
    def inferred(cls, known: set[Any], types: set[type], name: str) -> tuple[LabelKind, str] | None:
        return None  # values do not imply an order

    @property
    def dtype(self) -> Any:
        import pandas as pd

        return pd.CategoricalDtype(list(self.order), ordered=True)

    def convert(self, values: Sequence[Any], name: str, *, existing: bool = False) -> list[Any]:
        found = super().convert(values, name, existing=existing)
        unknown = sorted({value for value in found if value is not None} - set(self.order))
        if unknown:
            order = f"{name}={','.join(self.order)},..."
            change = command("w2w relabel", ShellText("DATASET"), options=("--ordinal", order))
            raise InvalidInputError(
                f"label {name!r} has no grade {short(unknown[0])}; its order is {self._chain()}. Correct the value, or "
                f"set another order: {change}"
            )
        return found

    def levels(self, column: pd.Series) -> list[str]:
        return list(self.order)

    def as_stored(self, column: pd.Series) -> pd.Series:
        return column.astype("string")

    def from_stored(self, column: pd.Series, name: str) -> pd.Series:
        unknown = column[column.notna() & ~column.isin(self.order)]
        if len(unknown):
            raise CorruptFileError(f"column {name!r} has grade {short(unknown.iloc[0])}, not one of {self._chain()}")
        return column.astype(self.dtype)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.name, "order": list(self.order)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LabelKind:
        order = entry.get("order")
        return cls(tuple(order) if isinstance(order, list) else ())

    def describe(self) -> str:
        return f"{self.name}: {self._chain()}"

    def _chain(self) -> str:
        return " < ".join(self.order)

    def numbers(self, column: pd.Series) -> np.ndarray:
        places = {grade: float(i) for i, grade in enumerate(self.order)}
        return np.array([places.get(value, np.nan) for value in column.astype(object)], float)

    def export(self, column: pd.Series) -> tuple[pd.Series, pa.DataType, Any]:
        import pyarrow as pa
        from datasets import ClassLabel

        codes = column.cat.codes.astype("Int64")
        return codes.mask(codes < 0), pa.int64(), ClassLabel(names=list(self.order))

    def targets(self, name: str, column: pd.Series) -> list[AttributeTarget]:
        return [AttributeTarget(name, name, None, self, self.numbers(column))]

    def halves(self, values: np.ndarray) -> np.ndarray:
        """Cut the order where the two groups are most nearly of equal size."""
        known = values[~np.isnan(values)]
        cuts = np.unique(known)[1:]
        if not len(cuts):
            return np.where(np.isnan(values), np.nan, 0.0)
        best = min(cuts, key=lambda cut: abs(np.mean(known >= cut) - 0.5))
        return np.where(np.isnan(values), np.nan, values >= best)

    def value(self, linear: float) -> float:
        return linear

    def show(self, value: float) -> str:
        nearest = self.order[int(np.clip(round(value), 0, len(self.order) - 1))]
        return f"{value:.3g} ({nearest})"

    def require_order(self, stated: Ordinal, name: str) -> None:
        """Raise `UnknownNameError` or `InvalidInputError` unless the grades of added rows agree with this order."""
        for grade in stated.order:
            if grade not in self.order:
                raise UnknownNameError(f"label {name!r} has no grade {grade!r}; its order is {self._chain()}")
        places = [self.order.index(grade) for grade in stated.order]
        if places != sorted(places):
            raise InvalidInputError(
                f"label {name!r} has the order {self._chain()}; added rows cannot have {stated._chain()}"
            )
