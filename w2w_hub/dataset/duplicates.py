"""Find duplicate rows: the same weights under two ids, or nearly the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..common.arguments import checked
from ..common.deprecated import deprecated_alias, renamed_keywords
from ..common.display import Displayed
from ..common.progress import progress
from .weight_dataset import WeightDataset

SKETCH = 256  # random projections per row; a pair above the threshold is missed only beyond SAFETY deviations
SAFETY = 8.0
FEW_ROWS = 8  # with fewer rows, the mean is mostly the row itself
ROWS_A_BLOCK = 64
PAIRS_A_BLOCK = 2048


@dataclass(repr=False)
class Duplicates(Displayed):
    """Groups of ids with equal rows, and pairs of rows that are nearly equal.

    Attributes
    ----------
    exact : list of list of str
        In row order.
    near : list of (str, str, float)
        Both ids and their cosine, largest first.
    """

    exact: list[list[str]] = field(default_factory=list)
    near: list[tuple[str, str, float]] = field(default_factory=list)

    def redundant_ids(self) -> list[str]:
        """Return the ids to remove so that the first row of each group of equal rows remains."""
        return [name for group in self.exact for name in group[1:]]

    superfluous = deprecated_alias("Duplicates.superfluous", redundant_ids)


@renamed_keywords(centred="centered")
@checked()
def find_duplicates(
    dataset: WeightDataset, cosine: float | None = 0.99, *, centered: bool = True, seed: int = 0
) -> Duplicates:
    """Find exact duplicates by digest and near ones by cosine similarity.

    Rows trained from one initialization have similar directions, so the dataset's mean is subtracted first (from 8
    rows on). Candidates are found with 256 random projections per row and then measured exactly; time grows with the
    square of the number of rows.

    Parameters
    ----------
    cosine : float or None
        Smallest similarity of near duplicates; None finds exact ones only.
    centered : bool
        Subtract the mean before the cosine is taken.
    """
    found = Duplicates()
    groups: dict[str, list[int]] = {}
    for number, digest in enumerate(dataset.labels["row_sha256"]):
        groups.setdefault(digest, []).append(number)
    found.exact = [[dataset.ids[n] for n in numbers] for numbers in groups.values() if len(numbers) > 1]
    if cosine is None:
        return found
    first = np.array([numbers[0] for numbers in groups.values()])  # one row per group of equal rows
    first = first[~np.isin(first, list(dataset.withdrawn))]
    d = dataset.layout.size
    mean = np.zeros(d, np.float32)
    if centered and len(first) >= FEW_ROWS:
        mean = dataset.mean_std(None)[0].astype(np.float32)
    size = min(SKETCH, d)
    projection = np.random.default_rng(seed).standard_normal((d, size), np.float32) if size < d else None
    sketch = np.empty((len(first), size), np.float32)
    starts = range(0, len(first), ROWS_A_BLOCK)
    for start in progress(starts, "sketching rows"):
        part = slice(start, start + ROWS_A_BLOCK)
        rows = dataset[first[part]].astype(np.float32) - mean
        sketch[part] = rows if projection is None else rows @ projection
    lengths = np.sqrt((sketch.astype(np.float64) ** 2).sum(1))
    sketch /= np.where(lengths > 0, lengths, 1)[:, None].astype(np.float32)
    slack = 1e-5 if projection is None else SAFETY * (1 - cosine**2) / np.sqrt(size) + 1e-3
    for start in progress(range(0, len(first), PAIRS_A_BLOCK), "comparing rows"):
        near = sketch[start : start + PAIRS_A_BLOCK] @ sketch[start:].T
        left, right = np.nonzero(near >= cosine - slack)
        keep = right > left  # each pair once
        for i, j in zip(left[keep] + start, right[keep] + start, strict=True):
            value = _cosine(dataset, int(first[i]), int(first[j]), mean)
            if value >= cosine:
                found.near.append((dataset.ids[first[i]], dataset.ids[first[j]], value))
    found.near.sort(key=lambda pair: -pair[2])
    return found


def _cosine(dataset: WeightDataset, i: int, j: int, mean: np.ndarray) -> float:
    a, b = dataset[[i, j]].astype(np.float64) - mean
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0
