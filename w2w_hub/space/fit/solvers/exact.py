"""Exact solvers: a dense float64 eigenproblem of the smaller side of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..engines.base import Engine
from ..engines.ops import Array
from ..rows import Moments, Rows
from .base import DOUBLE, EIGEN_COST, Eigenpairs, Solver, dense_fits, require_rank


@dataclass(frozen=True)
class Covariance(Solver):
    """Exact components from the covariance matrix ``(d, d)``: for fewer features than rows."""

    name: ClassVar[str] = "covariance"

    def fits(self, n: int, d: int, k: int) -> bool:
        return d <= n and dense_fits(n, d, k)

    def cost(self, n: int, d: int, k: int) -> float:
        return DOUBLE * (n * d * d + EIGEN_COST * d**3 / 4)

    def run(self, engine: Engine, rows: Rows, moments: Moments, sketched: Array | None, k: int) -> Eigenpairs:
        covariance = engine.covariance(rows, moments)
        values, vectors = engine.ops.top(covariance.copy(), k)
        require_rank(values, k, rows)
        residuals = np.linalg.norm(covariance @ vectors - vectors * values, axis=0)
        return Eigenpairs(values, residuals, np.ascontiguousarray(vectors.T))

    def describe(self) -> str:
        return "eigenvectors of the covariance matrix, float64"


@dataclass(frozen=True)
class Gram(Solver):
    """Exact components from the products of the rows with each other ``(n, n)``: for fewer rows than features."""

    name: ClassVar[str] = "gram"

    def fits(self, n: int, d: int, k: int) -> bool:
        return n < d and dense_fits(n, d, k)

    def cost(self, n: int, d: int, k: int) -> float:
        return DOUBLE * (n * d * n * 0.5 + EIGEN_COST * n**3 / 4)

    def run(self, engine: Engine, rows: Rows, moments: Moments, sketched: Array | None, k: int) -> Eigenpairs:
        gram = engine.gram(rows, moments)
        values, vectors = engine.ops.top(gram.copy(), k)
        require_rank(values, k, rows)
        apart = gram @ vectors - vectors * values
        residuals = np.sqrt(np.maximum((apart * (gram @ apart)).sum(0), 0)) / np.sqrt(values)
        del gram
        weights = np.ascontiguousarray((vectors / np.sqrt(values)).T)
        return Eigenpairs(values, residuals, engine.back_projected(rows, moments, weights))

    def describe(self) -> str:
        return "eigenvectors of the sample-side Gram matrix, float64"
