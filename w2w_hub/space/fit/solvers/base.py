"""Solver: the base class, and helpers that several solvers share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ....common.text import counted
from ....errors import InvalidInputError
from ..engines.base import Engine
from ..engines.ops import Array
from ..rows import Moments, Rows
from ..settings import Settings

# operations of a dense eigenproblem of size m are about EIGEN_COST / 4 * m^3, half of them at the speed of memory;
# a float64 operation costs DOUBLE
EIGEN_COST, DOUBLE = 40.0, 2.0
LARGEST_DENSE = 50_000  # 20 GB: larger dense eigenproblems are never chosen, but can be asked for
VECTORS_PER_STREAM = 16


class Eigenpairs(NamedTuple):
    """The k largest eigenpairs of AᵀA, A the standardized matrix ``(n, d)``.

    Attributes
    ----------
    values : ndarray
        float64 ``(k,)``, largest first.
    residuals : ndarray
        float64 ``(k,)``: ‖AᵀA v - λ v‖ of each pair.
    vectors : array of the engine, or ndarray
        float64 ``(k, d)``, orthonormal.
    facts : dict
        Recorded in the diagnostics: number of passes, estimated fraction of variance that is missed.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: Array
    facts: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Solver(Settings, ABC):
    """Finds the principal components of the standardized matrix with an engine's passes over it.

    A subclass is a frozen dataclass whose fields are its settings. It is usable as ``build_space(solver=...)`` at
    once; listed in :data:`w2w_hub.space.fit.solvers.SOLVERS` it is also known by its name, to recipes, to the command
    line and to the automatic choice.

    Attributes
    ----------
    name : str
        As in ``build_space(solver="gram")`` and in recipes.
    stopping : tuple of str
        Settings that only decide when to stop: an unfinished build that differs in them continues.
    """

    name: ClassVar[str]
    stopping: ClassVar[tuple[str, ...]] = ()

    def sized(self, n: int, d: int, k: int) -> Self:
        """Return this solver with its size-dependent settings filled in."""
        return self

    @abstractmethod
    def fits(self, n: int, d: int, k: int) -> bool:
        """Return whether the automatic choice may take this solver for k components of an ``(n, d)`` matrix."""

    @abstractmethod
    def cost(self, n: int, d: int, k: int) -> float:
        """Return the approximate number of float32 operations; it depends on the sizes only."""

    def sketch(self, n: int) -> np.ndarray | None:
        """Return a float32 matrix ``(b, n)`` that the pass for mean and std multiplies with the rows, or None."""
        return None

    @abstractmethod
    def run(self, engine: Engine, rows: Rows, moments: Moments, sketched: Array | None, k: int) -> Eigenpairs:
        """Return the k largest eigenpairs.

        Parameters
        ----------
        sketched : array of the engine or None
            The sketch times the standardized matrix, float64 ``(b, d)``.

        Raises
        ------
        InvalidInputError
            If the rows span fewer than k dimensions.
        ConvergenceError
            If the accuracy that the settings ask for was not reached.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the recipe's `algorithm`: one phrase to display."""

    def to_json(self) -> dict[str, Any]:
        """Return what a recipe records: the name and the settings."""
        return {"solver": self.name, **{name: getattr(self, name) for name in self.setting_names()}}

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any]) -> Self:
        """Return the solver with the settings that a recipe records."""
        return cls(**cls.known(recipe))


def dense_fits(n: int, d: int, k: int) -> bool:
    """Return whether a dense eigenproblem of the smaller side is small enough, or needed because k is large."""
    return min(n, d) <= LARGEST_DENSE or k >= min(n, d) // 4


def require_rank(values: np.ndarray, k: int, rows: Rows, floor: float | None = None, hint: str = "") -> None:
    """Raise an error if fewer than k eigenvalues exceed the fraction `floor` of the largest (by default rounding)."""
    floor = max(rows.n, rows.d) * np.finfo(float).eps if floor is None else floor
    rank = int((values > values[0] * floor).sum()) if len(values) and values[0] > 0 else 0
    if rank < k:
        raise InvalidInputError(f"the rows span only {counted(rank, 'dimension')}; use a k of at most {rank}{hint}")


def gaussian(count: int, size: int, seed: int) -> np.ndarray:
    """Draw independent normal values, float32 ``(count, size)``, on all cores; the number of cores changes no value."""
    drawn = np.empty((count, size), np.float32)
    starts = range(0, count, VECTORS_PER_STREAM)
    streams = np.random.SeedSequence(seed).spawn(len(starts))

    def draw(start: int) -> None:
        part = drawn[start : start + VECTORS_PER_STREAM]
        np.random.default_rng(streams[start // VECTORS_PER_STREAM]).standard_normal(out=part, dtype=np.float32)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(draw, starts))
    return drawn
