"""Rows of the tab Dataset: filters over labels, one page of rows, and counts per value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..dataset import WeightDataset
from ..dataset.labels.kinds import Continuous
from ..errors import W2WError
from ..space import WeightSpace

PAGE = 25  # rows
BINS, MOST_BARS = 12, 12
ANY = ""


@dataclass(frozen=True)
class Histogram:
    """Counts of one column over the chosen rows: ``(value in words, rows)``."""

    name: str
    bars: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RowPage:
    """One page of the rows that a filter chooses."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    page: int
    pages: int
    chosen: int
    total: int
    histograms: tuple[Histogram, ...]


@dataclass(frozen=True)
class Table:
    """Labels of the rows: of the dataset, or ids and splits of the space's population without one.

    Attributes
    ----------
    labels : DataFrame
        Indexed by row id.
    columns : tuple of str
        The columns that are shown, in order; `split` is the first.
    numbers : frozenset of str
        Those that hold numbers.
    """

    labels: pd.DataFrame
    columns: tuple[str, ...]
    numbers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, space: WeightSpace, dataset: WeightDataset | None) -> Table | None:
        """Return the table of a space; None without a dataset and a population."""
        if dataset is not None:
            kinds = dataset.manifest.kinds
            numbers = frozenset(name for name in dataset.attributes if isinstance(kinds[name], Continuous))
            labels = dataset.labels
            if space.population is not None:
                labels = labels[labels.index.isin(space.population.ids)]
            return cls(labels, ("split", *dataset.attributes), numbers)
        if space.population is None:
            return None
        ids = pd.Index(space.population.ids, name="id")
        return cls(pd.DataFrame({"split": np.asarray(space.population.splits)}, index=ids), ("split",))

    def values(self, name: str) -> list[str]:
        """Return the values of a column that a filter offers."""
        if name in self.numbers:
            return []
        return sorted({_word(value) for value in self.labels[name].dropna().unique()})

    def chosen(self, filters: Mapping[str, Any], words: str = "") -> pd.DataFrame:
        """Return the rows that have all these values, and `words` in their id; unknown columns choose nothing.

        Parameters
        ----------
        filters : mapping of str to str
            Values in words, as :meth:`values` returns them; an empty one is any. Of a number ``low..high``.
        """
        mask = np.ones(len(self.labels), bool)
        for name, wanted in filters.items():
            if not isinstance(wanted, str) or wanted == ANY:
                continue
            if name not in self.columns:
                mask[:] = False
            elif name in self.numbers:
                low, high = _range(wanted)
                mask &= self.labels[name].astype(float).between(low, high).to_numpy(bool, na_value=False)
            else:
                mask &= np.array([_word(value) == wanted for value in self.labels[name]], bool)
        if words:
            mask &= self.labels.index.str.contains(words, case=False, regex=False)
        return self.labels[mask]

    def page(self, filters: Mapping[str, Any], page: int = 0, words: str = "", histogram: str = "") -> RowPage:
        """Return one page of the chosen rows, with the counts of one column or of all."""
        found = self.chosen(filters, words)
        pages = max(1, -(-len(found) // PAGE))
        page = min(max(page, 0), pages - 1)
        part = found.iloc[page * PAGE : (page + 1) * PAGE]
        rows = tuple(
            (str(row_id), tuple(_word(value) for value in values))
            for row_id, values in zip(part.index, part[list(self.columns)].itertuples(index=False), strict=True)
        )
        counted = tuple(self.histogram(found, name) for name in self.columns if not histogram or name == histogram)
        return RowPage(self.columns, rows, page, pages, len(found), len(self.labels), counted)

    def histogram(self, rows: pd.DataFrame, name: str) -> Histogram:
        """Return the counts of a column: of each value, most frequent first, or of equal bins of a number."""
        column = rows[name].dropna()
        if name in self.numbers and len(column):
            counts, edges = np.histogram(column.astype(float), BINS)
            bars = [
                (f"{low:.3g} to {high:.3g}", int(n)) for low, high, n in zip(edges, edges[1:], counts, strict=False)
            ]
        else:
            counted = column.map(_word).value_counts()
            bars = [(str(value), int(count)) for value, count in counted.items()]
            if len(bars) > MOST_BARS:
                bars = [*bars[:MOST_BARS], ("others", sum(count for _, count in bars[MOST_BARS:]))]
        return Histogram(name, tuple(bars))


def _word(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition("..")
    try:
        return float(low or "-inf"), float(high or "inf")
    except ValueError:
        return float("nan"), float("nan")


def describe_dataset(dataset: WeightDataset | None) -> str:
    """Return a line about the dataset, or why there is none."""
    if dataset is None:
        return "The labels are not at hand: start with --dataset and the dataset that the space was built from."
    try:
        return f"{dataset.manifest.name} {dataset.manifest.version}, {len(dataset):,} rows, license {dataset.license}"
    except W2WError:
        return dataset.manifest.name
