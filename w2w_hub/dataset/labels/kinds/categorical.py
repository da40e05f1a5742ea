"""Categorical labels: text with unordered levels."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....common.text import few, nearest
from ....errors import InvalidInputError, UnknownNameError
from ....store.paths import short
from ..scores import AUC, Score
from ..values import as_text, has_text
from .base import NUMERIC, TEXT_TYPES, AttributeTarget, LabelKind
from .binary import Binary

if TYPE_CHECKING:
    import pandas as pd

SHOWN_LEVELS = 10


class Categorical(LabelKind):
    """Text; each level has its own direction, ``attribute=level``, against all other levels."""

    name = stored = read_out = "categorical"
    arrow_types = TEXT_TYPES
    keeps_text = True
    score: ClassVar[Score] = AUC

    @classmethod
    def of_dtype(cls, dtype: Any) -> LabelKind | None:
        return cls()

    @classmethod
    def stated(cls, column: pd.Series, name: str) -> LabelKind | None:
        import pandas as pd

        if not isinstance(column.dtype, pd.CategoricalDtype) or not len(column.dtype.categories):
            return None
        return cls() if all(isinstance(c, str) for c in column.dtype.categories) else None

    @classmethod
    def inferred(cls, known: set[Any], types: set[type], name: str) -> tuple[LabelKind, str] | None:
        """Accept anything as its text, including numbers that a double cannot represent exactly."""
        numeric = bool(known) and types <= NUMERIC | {Decimal} and bool not in types
        return cls(), "numbers with more digits than a double can represent are kept as text" if numeric else ""

    @property
    def dtype(self) -> Any:
        return "string"

    def convert(self, values: Sequence[Any], name: str, *, existing: bool = False) -> list[Any]:
        for value in values if existing else ():
            if value is not None and not has_text(value):
                raise InvalidInputError(
                    f"label {name!r} is {self.name}, but {short(value)} is not text; write it as text"
                )
        return [None if value is None else as_text(value) for value in values]

    def levels(self, column: pd.Series) -> list[str]:
        """Return the levels that occur in a column, sorted."""
        return sorted(column.dropna().unique())

    def _parse(self, value: Any, name: str, column: pd.Series) -> str | None:
        levels = self.levels(column)
        text = as_text(value)
        if text in levels and not isinstance(value, (bool, float)):
            return text
        if isinstance(value, str):
            close = nearest(value, levels)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise UnknownNameError(
                f"attribute {name!r} has no level {value!r}; {hint}{self.values_text(column)}", name=name
            )
        return None

    def values_text(self, column: pd.Series) -> str:
        levels = [repr(level) for level in self.levels(column)]
        return f"its levels are {few(levels, SHOWN_LEVELS) or 'none'}"

    def targets(self, name: str, column: pd.Series) -> list[AttributeTarget]:
        texts = column.astype("string")
        missing = texts.isna().to_numpy(bool)
        levels = sorted(set(texts[~missing]))
        if not levels:
            return [AttributeTarget(name, name, None, Binary(), np.full(len(texts), np.nan))]
        plain = texts.fillna("").to_numpy(object)
        return [
            AttributeTarget(
                f"{name}={level}", name, level, self, np.where(missing, np.nan, (plain == level).astype(float))
            )
            for level in levels
        ]
