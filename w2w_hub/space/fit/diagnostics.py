"""Diagnostics of a space: explained variance on fitted and held-out rows, errors, and null models beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .nulls import gaussian_spectrum

if TYPE_CHECKING:
    from ..population import Population
    from ..weight_space import WeightSpace
    from .solvers.components import Components

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def measure(space: WeightSpace, found: Components) -> dict[str, Any]:
    """Return the diagnostics of a new space; every fraction is of variance about the fitted mean."""
    explained = np.cumsum(found.singular_values**2) / found.moments.total
    d = space.layout.size - found.moments.constant
    population = space.require_population("row to measure")
    fitted, errors = population.fitted, population.reconstruction_error()
    noise = np.cumsum(gaussian_spectrum(int(fitted.sum()), d))[: space.k]
    return {
        "orthogonality_error": orthogonality(space.coordinates.basis),
        "largest_residual": float(found.residuals.max()),
        **found.facts,
        "explained_variance": at_steps(explained),
        "held_out": held_out(population),
        "reconstruction_error": {
            kind: _spread(errors[chosen])
            for kind, chosen in (("fitted", fitted), ("held_out", ~fitted))
            if chosen.any()
        },
        "nulls": {
            "mean_only": 0.0,
            "gaussian_spectrum": at_steps(noise),
            "held_out_chance": at_steps(np.minimum(np.arange(1, space.k + 1) / max(d, 1), 1.0)),
        },
    }


def orthogonality(basis: np.ndarray, columns: int = 8192) -> float:
    """Return the largest entry of |V Vᵀ - 1| of the published float32 basis ``(k, d)``."""
    product = np.zeros((len(basis), len(basis)))
    for start in range(0, basis.shape[1], columns):
        part = basis[:, start : start + columns].astype(np.float64)
        product += part @ part.T
    return float(np.abs(product - np.eye(len(basis))).max())


def at_steps(cumulative: np.ndarray) -> dict[str, float]:
    """Return the values of a curve over the number of components at round numbers and at its end."""
    counts = [c for c in STEPS if c < len(cumulative)] + [len(cumulative)]
    return {str(c): round(float(cumulative[c - 1]), 6) for c in counts if c}


def held_out_curve(population: Population) -> np.ndarray:
    """Return the fraction of the held-out rows' variance that the first 1 to k components explain, ``(k,)``."""
    chosen = ~population.fitted
    assert population.squared_norms is not None
    captured = (population.coefficients[chosen].astype(np.float64) ** 2).sum(0)
    return np.cumsum(captured) / max(float(population.squared_norms[chosen].sum()), 1e-300)


def held_out(population: Population) -> dict[str, Any]:
    """Return the explained variance of held-out rows; reconstruction by the mean alone explains 0 by definition."""
    count = int((~population.fitted).sum())
    if not count:
        return {"rows": 0}
    return {"rows": count, "explained_variance": at_steps(held_out_curve(population)), "mean_only": 0.0}


def _spread(errors: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "p95": float(np.quantile(errors, 0.95)),
        "largest": float(errors.max()),
    }
