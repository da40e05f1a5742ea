"""Test whether labels are in the order of the coefficients: the classes of an attribute then have different means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .frames import Values
from .torch_files import StoredTensor

COMPONENTS = 100  # leading ones, in which attributes differ most
ROWS_AT_ONCE = 4096
BETTER = 1.5  # ratio from which on another order fits better, not by chance


def label_fit(projections: StoredTensor, orders: Mapping[str, Mapping[str, Values]]) -> dict[str, float]:
    """Return how well binary labels fit the rows of coefficients in each of several orders; 1 is chance.

    Parameters
    ----------
    projections : StoredTensor
        ``(n, p)``.
    orders : mapping
        Name of an order to the columns of labels in it, each with n values.

    Returns
    -------
    dict
        For each order, the mean over attributes and components of the squared difference of the class means, divided
        by what it is on average if labels and rows have nothing to do with each other.
    """
    n, width = projections.shape[0], min(projections.shape[1], COMPONENTS)
    values = np.empty((n, width), np.float32)
    for start in range(0, n, ROWS_AT_ONCE):
        values[start : start + ROWS_AT_ONCE] = projections[start : start + ROWS_AT_ONCE, :width]
    values -= values.mean(0)
    values /= np.maximum(values.std(0), np.float32(1e-30))
    return {name: found for name, columns in orders.items() if (found := _fit(values, columns)) is not None}


def _fit(values: np.ndarray, columns: Mapping[str, Values]) -> float | None:
    """Return the mean fit of the binary columns; None without any that has both values."""
    found = []
    for column in columns.values():
        if all(isinstance(each, bool) for each in column):
            yes = np.asarray(column)
            count = int(yes.sum())
            if 0 < count < len(yes):
                differences = values[yes].mean(0, dtype=np.float64) - values[~yes].mean(0, dtype=np.float64)
                found.append(float((differences**2).mean() / (1 / count + 1 / (len(yes) - count))))
    return float(np.mean(found)) if found else None
