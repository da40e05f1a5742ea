"""Label columns of the fitted rows as arrays, and the reasons why some are no attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.text import counted
from ...dataset.labels.kinds import BINARY, CONTINUOUS, MIN_ROWS_A_CLASS, LabelKind
from .factors import MOST_FACTORS, MOST_LEVELS

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 100  # of a categorical column
MOST_COLUMNS = min(MOST_FACTORS, MOST_LEVELS - 1)  # as many factors, or one whose levels are they all and none


@dataclass(frozen=True)
class Column:
    """One label column.

    Attributes
    ----------
    kind : str
        Name of the kind of label.
    levels : tuple of str
        Levels that occur often enough; ``("False", "True")`` of a binary column, empty for numbers.
    values : ndarray
        float64 ``(n,)``: position of the level, or the number; NaN where it is missing or too rare.
    """

    name: str
    kind: str
    levels: tuple[str, ...]
    values: np.ndarray

    @property
    def is_binary(self) -> bool:
        return self.kind == BINARY.name


def columns_of(
    labels: pd.DataFrame, kinds: Mapping[str, LabelKind], used: np.ndarray
) -> tuple[list[Column], dict[str, str]]:
    """Return the columns that are attributes, and the reason for each that is none.

    Parameters
    ----------
    labels : DataFrame
        Labels of all rows.
    used : ndarray
        Boolean ``(n,)``: rows that decide which levels there are.
    """
    found: list[Column] = []
    reasons: dict[str, str] = {}
    for name, kind in kinds.items():
        column, reason = _column(name, kind, labels[name], used)
        if reason or len(found) == MOST_COLUMNS:
            reasons[name] = reason or f"{MOST_COLUMNS} columns before it are attributes, more than these are not used"
        else:
            found.append(column)
    return found, reasons


def _column(name: str, kind: LabelKind, labels: pd.Series, used: np.ndarray) -> tuple[Column, str]:
    if kind.name == BINARY.name:
        values = kind.numbers(labels)
        assert values is not None
        few = min(int((values[used] == 1).sum()), int((values[used] == 0).sum()))
        reason = f"{few} fitted rows are in its smaller class, at least {MIN_ROWS_A_CLASS} are needed"
        return Column(name, kind.name, ("False", "True"), values), "" if few >= MIN_ROWS_A_CLASS else reason
    if kind.name == CONTINUOUS.name:
        values = kind.numbers(labels)
        assert values is not None
        known = values[used & ~np.isnan(values)]
        reason = ""
        if len(known) < 2 * MIN_ROWS_A_CLASS or np.ptp(known) == 0:
            reason = f"{counted(len(known), 'fitted row has', 'fitted rows have')} a value, or all have the same"
        return Column(name, kind.name, (), values), reason
    texts: Any = labels.astype("string").to_numpy(object, na_value=None)
    order = kind.levels(labels)  # type: ignore[attr-defined]
    if len(order) > MOST_CATEGORIES and not hasattr(kind, "order"):
        return Column(name, kind.name, (), np.empty(0)), f"{len(order):,} levels are more than {MOST_CATEGORIES}"
    counts = {level: int((texts[used] == level).sum()) for level in order}
    levels = tuple(level for level in order if counts[level] >= MIN_ROWS_A_CLASS)
    if len(levels) > MOST_LEVELS:
        return Column(name, kind.name, (), np.empty(0)), f"{len(levels):,} levels are more than {MOST_LEVELS:,}"
    places = {level: float(i) for i, level in enumerate(levels)}
    values = np.array([places.get(value, np.nan) for value in texts])
    reason = "" if len(levels) > 1 else f"fewer than two levels have {MIN_ROWS_A_CLASS} fitted rows"
    return Column(name, kind.name, levels, values), reason
