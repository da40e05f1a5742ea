"""Evidence of a population model: how much of the variance of unseen people it explains, and what others do."""

from __future__ import annotations

from typing import Any

import numpy as np

from .factors import Factor
from .hyperparameters import COMPONENTS, NOISES, Hyperparameters, left_out_errors, sample_of
from .kernel import Kernel, additive
from .regression import Regression

ROWS = 1024  # on which the models to compare with are fitted
FEWEST, HELD_OUT_ROWS = 10, 2048


def evidence_of(
    model: Regression,
    factors: tuple[Factor, ...],
    chosen: Hyperparameters,
    fitted: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    mean: np.ndarray,
) -> dict[str, Any]:
    """Return fractions of explained variance: of the model, an additive one, and the model of permuted labels.

    On held-out rows where there are enough, else on fitted rows that are left out one by one.

    Parameters
    ----------
    fitted, held_out : (ndarray, ndarray)
        Codes ``(n, factors)`` and coefficients ``(n, k)``.
    """
    rows = sample_of(len(fitted[0]), ROWS)
    codes, values = fitted[0][rows], fitted[1][rows, :COMPONENTS].astype(np.float64) - mean[:COMPONENTS]
    labeled = ~np.isnan(held_out[0]).all(1)
    there = np.flatnonzero(labeled)[:HELD_OUT_ROWS]
    mixed = codes[np.random.default_rng(0).permutation(len(codes))]
    kernel = Kernel(factors, chosen.rhos)
    grams = {"additive": additive(factors, codes, codes), "permuted": kernel.matrix(mixed, mixed)}
    noises = {"additive": NOISES, "permuted": (chosen.noise,)}
    found: dict[str, Any] = {"mean_only": 0.0}
    left = {name: left_out_errors(gram, noises[name], values) for name, gram in grams.items()}
    if len(there) < FEWEST:
        total = float((values**2).sum())
        own = left_out_errors(kernel.matrix(codes, codes), (chosen.noise,), values)
        errors = {"model": own, **left}
        return {"rows": len(rows), "held_out": False, **found} | {
            name: round(1 - float(error.min()) / max(total, 1e-300), 4) for name, error in errors.items()
        }
    truth = held_out[1][there].astype(np.float64) - mean
    found["model"] = _explained(truth, model.predict(held_out[0][there]))
    others = {
        "additive": additive(factors, held_out[0][there], codes),
        "permuted": kernel.matrix(held_out[0][there], mixed),
    }
    for name, cross in others.items():
        noise = noises[name][int(left[name].argmin())]
        weights = np.linalg.solve(grams[name] + noise * np.eye(len(codes)), values)
        found[name] = _explained(truth[:, :COMPONENTS], cross @ weights)
    return {"rows": len(there), "held_out": True, **found}


def _explained(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the fraction of the squares about the fitted mean that a prediction explains."""
    return round(1 - float(((truth - predicted) ** 2).sum()) / max(float((truth**2).sum()), 1e-300), 4)
