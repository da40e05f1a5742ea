"""The plan of a dataset's next state: its rows, their labels and its metadata. Nothing is written here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...lora.layout import ParameterLayout
from ..labels.kinds import LabelKind
from ..manifest import Compatibility, DatasetManifest
from ..matrix.geometry import Geometry
from ..problems import Problems
from ..reader import DatasetReader
from .shard_writer import RowSource

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Metadata:
    """What a manifest states beside rows and labels.

    Attributes
    ----------
    view : str or None
        The dtype of the Parquet view; None without one.
    float16_max_error, rescaled
        Of the rows that are there already, see `DatasetManifest`.
    """

    name: str
    layout: ParameterLayout
    dtype: str
    version: str = "0.1.0"
    licence: str = "unknown"
    compatibility: Compatibility = field(default_factory=Compatibility)
    column_info: dict[str, dict[str, str]] = field(default_factory=dict)
    split_rule: dict[str, Any] | None = None
    view: str | None = "float16"
    float16_max_error: float | None = None
    rescaled: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: DatasetReader, version: str | None = None) -> Metadata:
        """Return the metadata of a dataset that is to change."""
        m: DatasetManifest = dataset.manifest
        return cls(
            name=m.name,
            layout=m.layout,
            dtype=m.dtype,
            version=version or m.version,
            licence=m.licence,
            compatibility=m.compatibility,
            column_info=dict(m.column_info),
            split_rule=m.split_rule,
            view=(m.view or {}).get("dtype", "float16") if dataset.has_view else None,
            float16_max_error=m.float16_max_error,
            rescaled=dict(m.rescaled or {}),
        )


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
    metadata : Metadata
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

    metadata: Metadata
    ids: list[str]
    rows: RowPlan
    labels: pd.DataFrame
    base: DatasetReader | None = None
    geometry: Geometry | None = None
    resplit: bool = False
    problems: Problems = field(default_factory=Problems)


def used_kinds(dataset: DatasetReader) -> dict[str, LabelKind]:
    """Return the kinds of columns that have values or an order; others take the kind of their first value."""
    kinds = dataset.manifest.kinds
    return {name: kind for name, kind in kinds.items() if kind.stays or dataset.labels[name].notna().any()}
