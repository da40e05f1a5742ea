"""The plan of a dataset's next state: its rows, their labels and its manifest. Nothing is written here."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..labels.kinds import LabelKind
from ..manifest import DatasetManifest
from ..matrix.geometry import Geometry
from ..problems import Problems
from ..reader import DatasetReader
from .shard_writer import RowSource

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class RowPlan:
    """Where each row of the next state comes from: row ``number[i]`` of ``sources[source[i]]``.

    Source 0 is the present state, if there is one.
    """

    sources: list[RowSource]
    source: np.ndarray
    number: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[tuple[RowSource, Sequence[int] | np.ndarray]]) -> RowPlan:
        """Return a plan of the rows of several sources, one source after the other."""
        lengths = [len(numbers) for _, numbers in parts]
        source = np.repeat(np.arange(len(parts)), lengths)
        number = np.concatenate([np.asarray(numbers, np.int64) for _, numbers in parts])
        return cls([source for source, _ in parts], source, number)

    def pieces(self, start: int, stop: int) -> list[tuple[RowSource, list[int]]]:
        """Return rows `start` to before `stop` as runs of one source."""
        source, number = self.source[start:stop], self.number[start:stop]
        cuts = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(source)]
        return [(self.sources[int(source[a])], number[a:b].tolist()) for a, b in pairwise(cuts) if b > a]

    def unmoved(self) -> np.ndarray:
        """Return a mask of the rows that stay where they are in the present state."""
        return (self.source == 0) & (self.number == np.arange(len(self.source)))


@dataclass
class Plan:
    """The next state of a dataset.

    Attributes
    ----------
    manifest : DatasetManifest
        A draft: rows, columns, splits, digest and files are filled in by the commit, and facts about rows, such as
        the rounding error, cover only those of present datasets.
    ids : list of str
        Of the rows, in order.
    rows : RowPlan
    labels : DataFrame
        Normalized labels with a column ``id``, in row order.
    base : DatasetReader or None
        The present state, whose files are kept where they already hold what is wanted.
    geometry : Geometry or None
        How the matrix is cut; by default as that of `base`.
    resplit : bool
        Whether the split was made anew by the rule, so that rows may change sides.
    problems : Problems
        What was found wrong while planning; raised together with what writing finds.
    """

    manifest: DatasetManifest
    ids: list[str]
    rows: RowPlan
    labels: pd.DataFrame
    base: DatasetReader | None = None
    geometry: Geometry | None = None
    resplit: bool = False
    problems: Problems = field(default_factory=Problems)

    @property
    def view(self) -> str | None:
        """The dtype of the Parquet view; None without one."""
        return (self.manifest.view or {}).get("dtype")


def draft_of(dataset: DatasetReader, version: str | None = None) -> DatasetManifest:
    """Return a copy of a dataset's manifest whose fields may be replaced to plan a change."""
    draft = copy(dataset.manifest)
    draft.version = version or draft.version
    draft.view = {"dtype": (draft.view or {}).get("dtype", "float16")} if dataset.has_view else None
    return draft


def used_kinds(dataset: DatasetReader) -> dict[str, LabelKind]:
    """Return the kinds of columns that have values or an order; others take the kind of their first value."""
    kinds = dataset.manifest.kinds
    return {name: kind for name, kind in kinds.items() if kind.stays or dataset.labels[name].notna().any()}
