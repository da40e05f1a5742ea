"""Components: the result of a solver, with fixed signs and relative residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engines.base import Engine
from ..engines.ops import Array, Ops
from ..rows import Moments, Rows
from .base import Solver

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Components:
    """Principal components of the standardized matrix A.

    Attributes
    ----------
    singular_values : ndarray
        float64 ``(k,)``.
    basis : ndarray
        float32 ``(k, d)``.
    residuals : ndarray
        float64 ``(k,)``: ‖AᵀA v - s² v‖ / s² of each component.
    facts : dict
        Reported by the solver, for the diagnostics.
    """

    moments: Moments
    singular_values: np.ndarray
    basis: np.ndarray
    residuals: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)


def find_components(engine: Engine, rows: Rows, k: int, solver: Solver, *, standardize: bool = True) -> Components:
    """Return the first k components; `solver` has its settings filled in (:meth:`Solver.sized`).

    Raises
    ------
    InvalidInputError
        If the rows span fewer than k dimensions.
    ConvergenceError
        If the solver did not reach its accuracy.
    """
    ops = engine.ops
    moments, sketched = engine.moments(rows, solver.sketch(rows.n), standardize=standardize)
    values, residuals, basis, facts = solver.run(engine, rows, moments, sketched, k)
    basis = ops.cast(ops.array(basis, "f8"), "f4")
    basis *= ops.array(signs(basis, ops)[:, None], "f4")
    return Components(moments, np.sqrt(values), ops.numpy(basis), residuals / values, facts)


def signs(basis: Array, ops: Ops) -> np.ndarray:
    """Return 1 or -1 per component, by the published rule: the entry of largest magnitude becomes positive.

    `basis` is a float32 array ``(k, d)`` of the engine. Comparing in float32, with ties to the first entry, keeps
    rounding noise from choosing the entry.
    """
    found = np.empty(len(basis))
    for start in range(0, len(basis), ROWS_AT_ONCE):
        some = basis[start : start + ROWS_AT_ONCE]
        largest = some[list(range(len(some))), ops.largest(some)]
        found[start : start + len(some)] = np.sign(ops.numpy(largest))
    return found
