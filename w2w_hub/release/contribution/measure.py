"""Measure all rows of a batch at once, before they are checked one by one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...dataset.initialization import a_mask, start_cosines
from ...dataset.manifest import row_digest
from ...dataset.sketches import (
    WIDTH,
    Sketches,
    nearest_units,
    norm_and_concentration,
    ratio_of,
    signed,
    sketch,
    sketch_of_signed,
)
from ...lora.layout import ParameterLayout

STEP = 44  # sketches' widths that are added at a time


@dataclass(frozen=True)
class Measured:
    """What is measured of one row; nothing of it is checked yet.

    Attributes
    ----------
    finite : bool
    cosine : float
        Of its A with the initialization's; 0 without one.
    norm, directions : float
        See :func:`w2w_hub.dataset.sketches.norm_and_concentration`.
    unit : ndarray or None
        Its sketch with length 1; None if the dataset has no sketches.
    near, waiting : (int, float) or None
        The number of the row of the dataset, and of the rows that wait for the next release, that it nearly equals, and
        the cosine.
    digest : str
        Of the row in the dataset's dtype.
    """

    finite: bool
    cosine: float
    norm: float
    directions: float
    unit: np.ndarray | None = None
    near: tuple[int, float] | None = None
    waiting: tuple[int, float] | None = None
    digest: str = ""


class _Facts(NamedTuple):
    """Of ``n`` rows: cosines, norms and concentrations ``(n,)``, sketches ``(n, 47)``, and which are finite."""

    cosines: np.ndarray
    norms: np.ndarray
    concentrations: np.ndarray
    sketches: np.ndarray
    finite: np.ndarray


def measure(
    rows: np.ndarray, layout: ParameterLayout, dtype: np.dtype, start: np.ndarray | None, sketches: Sketches | None,
    waiting: np.ndarray | None = None, digests: Sequence[str] | None = None,
) -> list[Measured]:  # fmt: skip
    """Measure the rows ``(n, size)`` of a batch.

    Parameters
    ----------
    dtype : dtype
        The dataset's.
    start : ndarray or None
        The initialization ``(size,)``.
    waiting : ndarray, optional
        Sketches ``(m, 47)`` of length 1 of the rows that wait for the next release.
    digests : sequence of str, optional
        Of the rows, if they are known.
    """
    count = len(rows)
    units: list[np.ndarray | None] = [None] * count
    near: list[tuple[int, float] | None] = [None] * count
    near_waiting = list(near)
    # values that are not finite have a verdict of their own; a sha256 runs beside NumPy
    with np.errstate(all="ignore"), ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1)) as threads:
        found_digests = threads.map(row_digest, rows.astype(dtype, copy=False)) if digests is None else digests
        facts = _facts(layout, rows, start)
        if sketches is not None:
            found = np.nan_to_num(sketches.units_of_sketches(facts.sketches))
            units = list(found)
            near = nearest_units(sketches.units, found, layout.size)
            if waiting is not None and len(waiting):
                near_waiting = nearest_units(waiting, found, layout.size)
        numbers = (facts.finite, facts.cosines.round(6), facts.norms, facts.concentrations)
        columns = [values.tolist() for values in numbers]
        return [Measured(*each) for each in zip(*columns, units, near, near_waiting, found_digests, strict=True)]


def _facts(layout: ParameterLayout, rows: np.ndarray, start: np.ndarray | None) -> _Facts:
    if layout.rank_one:
        return _rank_one_facts(layout, rows, start)
    cosines = np.zeros(len(rows)) if start is None else start_cosines(layout, start, rows)
    finite = np.array([np.isfinite(row).all() for row in rows], bool)
    return _Facts(cosines, *norm_and_concentration(layout, rows), sketch(rows), finite)


def _rank_one_facts(layout: ParameterLayout, rows: np.ndarray, start: np.ndarray | None) -> _Facts:
    """Return the facts of rank-1 rows, which are widened and squared once for all of them."""
    count, size = rows.shape
    cosines, squares, fourths, totals = (np.zeros(count) for _ in range(4))
    sketches = np.empty((count, WIDTH))
    starts = np.cumsum([0, *layout.factor_sizes[:-1]])
    wanted = None if start is None else start * a_mask(layout)
    length = 0.0 if wanted is None else float(np.sqrt(np.sum(wanted**2)))
    wide, product = np.empty(size), np.empty(size)
    for i, row in enumerate(rows):
        wide[:] = row
        lengths = np.add.reduceat(np.multiply(wide, wide, out=product), starts)
        each = lengths[0::2] * lengths[1::2]
        squares[i], fourths[i], totals[i] = each.sum(), (each**2).sum(), lengths.sum()
        of_start = length * float(np.sqrt(lengths[0::2].sum()))
        if wanted is not None and of_start:
            cosines[i] = np.multiply(wide, wanted, out=product).sum() / of_start
        sketches[i] = _sketch(wide, product)
    norms, concentrations = ratio_of(layout, squares, fourths)
    return _Facts(cosines, norms, concentrations, sketches, np.isfinite(totals))


def _sketch(row: np.ndarray, work: np.ndarray) -> np.ndarray:
    """Return the sketch of a row, which is summed in longer steps than that of :func:`sketch`, and so faster.

    The order of the sum changes its last bits, which no comparison sees; published sketches have one order.
    """
    whole = row.size - row.size % (WIDTH * STEP)
    steps = signed(row, work)[:whole].reshape(-1, WIDTH * STEP).sum(axis=0)
    made: np.ndarray = steps.reshape(STEP, WIDTH).sum(axis=0) + sketch_of_signed(work[whole:])
    return made


__all__ = ["Measured", "measure"]
