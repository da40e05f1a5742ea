"""Null model of the spectrum: Gaussian noise of the same shape."""

from __future__ import annotations

import numpy as np


def gaussian_spectrum(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return squared singular values of n centered rows of d independent Gaussian values, scaled to sum to 1.

    Exact in distribution without making the matrix: its bidiagonal form has independent chi-distributed entries
    (Dumitriu and Edelman 2002, Matrix models for beta ensembles).

    Returns
    -------
    ndarray
        float64 ``(min(n - 1, d),)``, largest first.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    large, small = max(n - 1, d), min(n - 1, d)
    if small < 1:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    diagonal = np.sqrt(rng.chisquare(large - np.arange(small)))
    below = np.sqrt(rng.chisquare(small - 1 - np.arange(small - 1))) if small > 1 else np.empty(0)
    main = diagonal**2 + np.concatenate([[0.0], below**2])
    values = np.maximum(eigvalsh_tridiagonal(main, diagonal[:-1] * below), 0)[::-1]
    spectrum: np.ndarray = values / values.sum()
    return spectrum
