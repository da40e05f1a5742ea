"""AtlasContents: what an atlas holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...common.display import Displayed
from ..weight_space import WeightSpace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class AtlasContents(Displayed):
    """People of a weight space with positions, labels, nearest neighbors and pictures.

    Attributes
    ----------
    space : WeightSpace
    ids : tuple of str
    splits : ndarray
        str ``(n,)``.
    positions : ndarray
        float32 ``(n, 2)``: x and y.
    by : {"components", "directions", "umap"}
    axes : (str, str)
        Names of x and y.
    neighbors : ndarray
        int32 ``(n, m)``: positions in `ids` of each person's nearest neighbors, the nearest first.
    distances : ndarray
        float32 ``(n, m)``: one less the cosine of the coefficients.
    labels : DataFrame
        ``(n, columns)`` by id: the dataset's labels, or what the space's directions read from the weights.
    labeled_by : {"dataset", "space"}
        Which of the two.
    thumbnails : tuple of bytes or None
        A WebP picture of each person.
    """

    space: WeightSpace
    ids: tuple[str, ...]
    splits: np.ndarray
    positions: np.ndarray
    by: str
    axes: tuple[str, str]
    neighbors: np.ndarray
    distances: np.ndarray
    labels: pd.DataFrame
    labeled_by: str
    thumbnails: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def _facts(self) -> Mapping[str, object]:
        return {
            "people": len(self), "axes": " and ".join(self.axes), "neighbors": self.neighbors.shape[1],
            "labels": self.labels.shape[1], "labeled by": self.labeled_by,
            "pictures": "none" if self.thumbnails is None else len(self.thumbnails),
        }  # fmt: skip
