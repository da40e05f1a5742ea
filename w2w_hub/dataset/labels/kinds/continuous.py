"""Continuous labels: numbers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....errors import InvalidInputError
from ..scores import R2, Score
from ..values import INF, as_number
from .base import NUMERIC, LabelKind

if TYPE_CHECKING:
    import pandas as pd


class Continuous(LabelKind):
    """Numbers that a double represents exactly; a direction regresses on them."""

    name = stored = read_out = "float"
    arrow_types = ("double",)
    graded = True
    score: ClassVar[Score] = R2
    group_names = ("below the median", "above the median")

    @classmethod
    def of_dtype(cls, dtype: Any) -> LabelKind | None:
        return cls() if str(dtype) == "Float64" else None

    @classmethod
    def stated(cls, column: pd.Series, name: str) -> LabelKind | None:
        import pandas as pd

        # a column of 0 and 1 is binary, so the dtype decides only for a column without values
        return cls() if pd.api.types.is_numeric_dtype(column.dtype) and not column.notna().any() else None

    @classmethod
    def inferred(cls, known: set[Any], types: set[type], name: str) -> tuple[LabelKind, str] | None:
        """Accept numbers that a double represents exactly."""
        if not known or not types <= NUMERIC | {Decimal}:
            return None
        if any(abs(value) == INF for value in known):
            raise InvalidInputError(f"label column {name!r} has infinite values; replace them or leave them empty")
        return (cls(), "") if bool not in types and all(as_number(v) is not None for v in known) else None

    @property
    def dtype(self) -> str:
        return "Float64"

    def _convert(self, values: Sequence[Any]) -> list[Any]:
        # a boolean has no unique number: true may stand for 1 of (0, 1) or of (-1, 1)
        return [None if value is None or isinstance(value, bool) else as_number(value) for value in values]

    def _parse(self, value: Any, name: str, column: pd.Series) -> float | None:
        return None if isinstance(value, bool) else as_number(value)

    def values_text(self, column: pd.Series) -> str:
        known = self.numbers(column)[column.notna().to_numpy(bool)]
        if not len(known):
            return "it has no values"
        return f"its values are numbers from {known.min():.6g} to {known.max():.6g}"

    def numbers(self, column: pd.Series) -> np.ndarray:
        result: np.ndarray = column.to_numpy(float, na_value=np.nan)
        return result

    def halves(self, values: np.ndarray) -> np.ndarray:
        known = values[~np.isnan(values)]
        if np.isin(known, (0, 1)).all():
            return values
        return np.where(np.isnan(values), np.nan, values > np.median(known))

    def value(self, linear: float) -> float:
        return linear

    def show(self, value: float) -> str:
        return f"{value:.3g}"
