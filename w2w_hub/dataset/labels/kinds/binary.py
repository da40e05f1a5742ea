"""Binary labels: true or false."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..scores import AUC, Score
from ..values import FALSE, MINUS, TRUE, WORDS, as_truth
from .base import NUMERIC, LabelKind

if TYPE_CHECKING:
    import pandas as pd


SIGNS = "-1 and 1 are read as false and true"


class Binary(LabelKind):
    """Booleans; a direction classifies them."""

    name = stored = read_out = "binary"
    arrow_types = ("bool",)
    score: ClassVar[Score] = AUC

    @classmethod
    def of_dtype(cls, dtype: Any) -> LabelKind | None:
        return cls() if str(dtype) == "boolean" else None

    @classmethod
    def stated(cls, column: pd.Series, name: str) -> LabelKind | None:
        import pandas as pd

        return cls() if pd.api.types.is_bool_dtype(column.dtype) else None

    @classmethod
    def inferred(cls, known: set[Any], types: set[type], name: str) -> tuple[LabelKind, str] | None:
        """Accept booleans, 0 and 1, -1 and 1, and text of these in any case."""
        if not known:
            return None
        if types <= NUMERIC | {Decimal}:
            if known <= {0, 1}:
                return cls(), ""
            return (cls(), SIGNS) if bool not in types and known <= {-1, 1} else None
        words = {str(value).strip().lower() for value in known}
        if words <= {*TRUE, *FALSE} and words & set(WORDS):
            return cls(), "text is read as false and true"
        if words <= {*MINUS, "1", "1.0"} and words & set(MINUS):
            return cls(), SIGNS
        return None

    @property
    def dtype(self) -> str:
        return "boolean"

    def _convert(self, values: Sequence[Any]) -> list[Any]:
        given = {(type(value), value) for value in values if value is not None}
        words = {str(value).strip() for _, value in given if not isinstance(value, bool)}
        minus = not words & {"0", "0.0", "-0.0"}
        truth = {(kind, value): as_truth(value, minus) for kind, value in given}
        return [None if value is None else truth[type(value), value] for value in values]

    def _parse(self, value: Any, name: str, column: pd.Series) -> bool | None:
        return as_truth(value, True)

    def values_text(self, column: pd.Series) -> str:
        return "its values are True and False"

    def numbers(self, column: pd.Series) -> np.ndarray:
        result: np.ndarray = column.astype("Float64").to_numpy(float, na_value=np.nan)
        return result
