"""The components of a matrix by the planned solver, with signs fixed and residuals beside them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....errors import InvalidInputError
from ..engines.base import Engine
from ..rows import Moments, Rows
from .choose import Plan
from .krylov import krylov

ROWS_AT_ONCE = 256
DRAWN_AT_ONCE = 16


@dataclass(frozen=True)
class Components:
    """Principal components of the standardised matrix A.

    Attributes
    ----------
    singular_values : ndarray
        float64 ``(k,)``.
    basis : ndarray
        float32 ``(k, d)``.
    residuals : ndarray
        float64 ``(k,)``: ‖AᵀA v - s² v‖ / s² of each component.
    facts : dict
        How it went: passes, estimated share of variance that is missed.
    """

    moments: Moments
    singular_values: np.ndarray
    basis: np.ndarray
    residuals: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


def solve(engine: Engine, rows: Rows, k: int, plan: Plan, *, standardise: bool = True) -> Components:
    """The k first components.

    Raises
    ------
    InvalidInputError
        If the rows span fewer than k dimensions.
    ConvergenceError
    """
    sketch, ops = None, engine.ops
    if plan.solver == "krylov":
        sketch = gaussian(plan.block, rows.n, plan.seed)
    moments, start = engine.moments(rows, sketch, standardise=standardise)
    facts: dict[str, Any] = {}
    if plan.solver == "krylov":
        assert start is not None
        values, residuals, basis, facts = krylov(engine, rows, moments, start, k, plan)
        _require_rank(values, k, rows, floor=1e-6)
    elif plan.solver == "gram":
        gram = engine.gram(rows, moments)
        values, vectors = ops.top(gram.copy(), k)
        _require_rank(values, k, rows)
        apart = gram @ vectors - vectors * values
        residuals = np.sqrt(np.maximum((apart * (gram @ apart)).sum(0), 0)) / np.sqrt(values)
        del gram
        basis = engine.back_projected(rows, moments, np.ascontiguousarray((vectors / np.sqrt(values)).T))
    else:
        covariance = engine.covariance(rows, moments)
        values, vectors = ops.top(covariance.copy(), k)
        _require_rank(values, k, rows)
        residuals = np.linalg.norm(covariance @ vectors - vectors * values, axis=0)
        basis = np.ascontiguousarray(vectors.T)
    basis = ops.cast(ops.array(basis, "f8"), "f4")
    basis *= ops.array(signs(basis, ops)[:, None], "f4")
    return Components(moments, np.sqrt(values), ops.numpy(basis), residuals / values, facts)


def _require_rank(values: np.ndarray, k: int, rows: Rows, floor: float | None = None) -> None:
    exact = floor is None
    floor = max(rows.n, rows.d) * np.finfo(float).eps if floor is None else floor
    rank = int((values > values[0] * floor).sum()) if len(values) and values[0] > 0 else 0
    if rank < k:
        hint = "" if exact else ", or for the exact solver (gram), which tells smaller components from rounding"
        raise InvalidInputError(f"the rows span only {rank} dimensions; ask for k of at most {rank}{hint}")


def gaussian(count: int, size: int, seed: int) -> np.ndarray:
    """Independent normal numbers, float32 ``(count, size)``, drawn by all processors; how many does not matter."""
    drawn = np.empty((count, size), np.float32)
    starts = range(0, count, DRAWN_AT_ONCE)
    streams = np.random.SeedSequence(seed).spawn(len(starts))

    def draw(start: int) -> None:
        part = drawn[start : start + DRAWN_AT_ONCE]
        np.random.default_rng(streams[start // DRAWN_AT_ONCE]).standard_normal(out=part, dtype=np.float32)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(draw, starts))
    return drawn


def signs(basis: Any, ops: Any) -> np.ndarray:
    """The published rule: in every component the entry of largest magnitude is positive.

    Returns 1 or -1 for each of a float32 array ``(k, d)`` of `ops`. float32 and ties to the first, so that rounding
    noise cannot choose the entry.
    """
    found = np.empty(len(basis))
    for start in range(0, len(basis), ROWS_AT_ONCE):
        some = basis[start : start + ROWS_AT_ONCE]
        largest = some[list(range(len(some))), ops.largest(some)]
        found[start : start + len(some)] = np.sign(ops.numpy(largest))
    return found
