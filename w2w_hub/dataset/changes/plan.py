"""Plan the next state of a dataset: rows, labels and a draft of the manifest, without writing anything."""

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
    """The origin of the rows of the next state: row i is row ``number[i]`` of ``sources[source[i]]``.

    Source 0 is the current state, if there is one.
    """

    sources: list[RowSource]
    source: np.ndarray
    number: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[tuple[RowSource, Sequence[int] | np.ndarray]]) -> RowPlan:
        """Return a plan that concatenates rows of several sources."""
        lengths = [len(numbers) for _, numbers in parts]
        source = np.repeat(np.arange(len(parts)), lengths)
        number = np.concatenate([np.asarray(numbers, np.int64) for _, numbers in parts])
        return cls([source for source, _ in parts], source, number)

    def pieces(self, start: int, stop: int) -> list[tuple[RowSource, list[int]]]:
        """Return rows `start` to before `stop` as runs of rows of the same source."""
        source, number = self.source[start:stop], self.number[start:stop]
        cuts = [0, *(np.flatnonzero(np.diff(source)) + 1).tolist(), len(source)]
        return [(self.sources[int(source[a])], number[a:b].tolist()) for a, b in pairwise(cuts) if b > a]

    def unmoved(self) -> np.ndarray:
        """Return a mask of the rows that keep their index in the current state."""
        result: np.ndarray = (self.source == 0) & (self.number == np.arange(len(self.source)))
        return result


@dataclass
class Plan:
    """The next state of a dataset.

    Attributes
    ----------
    manifest : DatasetManifest
        A draft. The commit fills in rows, columns, splits, digest and files, and updates facts about rows, such as the
        rounding error.
    ids : list of str
        Row ids, in row order.
    rows : RowPlan
    labels : DataFrame
        Normalized labels with a column ``id``, in row order.
    base : DatasetReader or None
        The current state, whose unchanged files are kept.
    geometry : Geometry or None
        Chunks and shards of the matrix; by default those of `base`.
    start : ndarray or None
        The initialization of all rows ``(size,)`` to publish; by default that of `base`.
    resplit : bool
        The rule has split the rows again, so that rows may move to other splits.
    problems : Problems
        Errors found while planning, to be raised together with those found while writing.
    """

    manifest: DatasetManifest
    ids: list[str]
    rows: RowPlan
    labels: pd.DataFrame
    base: DatasetReader | None = None
    geometry: Geometry | None = None
    start: np.ndarray | None = None
    resplit: bool = False
    problems: Problems = field(default_factory=Problems)

    @property
    def view(self) -> str | None:
        """The dtype of the Parquet view; None without one."""
        return (self.manifest.view or {}).get("dtype")


def draft_of(dataset: DatasetReader, version: str | None = None) -> DatasetManifest:
    """Return a copy of a dataset's manifest, to be changed by a plan."""
    draft = copy(dataset.manifest)
    draft.version = version or draft.version
    draft.view = {"dtype": (draft.view or {}).get("dtype", "float16")} if dataset.has_view else None
    return draft


def used_kinds(dataset: DatasetReader) -> dict[str, LabelKind]:
    """Return the kinds of columns that have values or an order; for other columns, the first values will decide."""
    kinds = dataset.manifest.kinds
    return {name: kind for name, kind in kinds.items() if kind.stays or dataset.labels[name].notna().any()}
