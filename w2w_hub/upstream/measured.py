"""Measure in one pass over the published rows what their mean, deviations and components are of.

The components of standardized data are eigenvectors of its covariance: applying it to one returns the component itself,
times its eigenvalue. The recipe that weights2weights published has a fallback that decomposes the weights as they are,
neither centered nor standardized; the same test of those matrices tells which one the published components are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.progress import progress
from .torch_files import StoredTensor

ROWS_AT_ONCE = 64
PROBES = 10  # components whose residuals are measured
EIGENVECTOR = 0.1  # largest residual, relative to the eigenvalue, of what counts as an eigenvector
KINDS = ("standardized", "centered", "as they are")


@dataclass(frozen=True)
class Measured:
    """What a pass over the rows found.

    Attributes
    ----------
    squared_norms : ndarray
        float64 ``(n,)``: of each standardized row.
    facts : dict
        ``mean_error`` and ``std_error``: the largest difference from the rows' own mean and standard deviation (ddof
        1), relative to the latter; ``components_of``: the data that the components are eigenvectors of, or None;
        ``residuals``: for each kind of data, the median relative residual of the first components.
    """

    squared_norms: np.ndarray
    facts: dict[str, Any]


def measure_rows(rows: StoredTensor, mean: np.ndarray, std: np.ndarray, basis: np.ndarray) -> Measured:
    """Compare mean, deviations and the first components with the rows.

    Parameters
    ----------
    mean, std : ndarray
        float32 ``(d,)``.
    basis : ndarray
        float32 ``(m, d)``: the first components.
    """
    n, d = rows.shape
    probes = basis[:PROBES].astype(np.float64)
    norms = np.empty(n)
    first, second = np.zeros(d), np.zeros(d)
    applied = {kind: np.zeros_like(probes) for kind in KINDS}
    for start in progress(range(0, n, ROWS_AT_ONCE), "measuring rows"):
        raw = rows[start : start + ROWS_AT_ONCE].astype(np.float64)
        applied["as they are"] += (raw @ probes.T).T @ raw
        raw -= mean
        first += raw.sum(0)
        second += np.einsum("ij,ij->j", raw, raw)
        applied["centered"] += (raw @ probes.T).T @ raw
        raw /= std
        applied["standardized"] += (raw @ probes.T).T @ raw
        norms[start : start + ROWS_AT_ONCE] = np.einsum("ij,ij->i", raw, raw)
    found = np.sqrt(np.maximum(second - first**2 / n, 0) / max(n - 1, 1))
    width = np.where(found > 0, found, 1)
    constant = (found == 0) & (std == 1)
    residuals = {kind: float(np.median(_residuals(values, probes))) for kind, values in applied.items()}
    best = min(residuals, key=residuals.__getitem__)
    return Measured(norms, {
        "mean_error": float(np.abs(first / n / width).max()),
        "std_error": float(np.where(constant, 0, np.abs(found - std) / width).max()),
        "components_of": best if residuals[best] <= EIGENVECTOR else None,
        "residuals": residuals,
    })  # fmt: skip


def _residuals(applied: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return ``|C v - s v| / s`` of each vector ``(m, d)``, s being its Rayleigh quotient."""
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    quotients = np.einsum("ij,ij->i", vectors, applied) / np.maximum(lengths, 1e-300)
    left = np.linalg.norm(applied - quotients[:, None] * vectors, axis=1)
    return np.asarray(left / np.maximum(np.abs(quotients) * np.sqrt(lengths), 1e-300))
