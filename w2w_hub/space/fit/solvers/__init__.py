"""Solvers: principal components of the standardized matrix from an engine's passes over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ....errors import InvalidInputError
from .base import Eigenpairs, Solver
from .exact import Covariance, Gram
from .krylov import Krylov

__all__ = ["SOLVERS", "Covariance", "Eigenpairs", "Gram", "Krylov", "Solver", "choose", "get_solvers", "solver_of"]

# every solver by its name; a new one is added here. The first is taken where two cost the same.
SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Covariance, Gram, Krylov)}
AUTO = "auto"
FIRST = "gram"  # the only one before recipes recorded a solver


def get_solvers(solver: str | Solver | Sequence[str | Solver] | None = AUTO, **settings: Any) -> list[Solver]:
    """Return the solvers to choose from: all for ``"auto"``, else those that are given.

    Parameters
    ----------
    **settings
        For solvers given by name; each takes those that it has.

    Raises
    ------
    InvalidInputError
        If there is no such solver, or a setting is invalid.
    """
    if solver is None or solver == AUTO:
        solver = list(SOLVERS)
    given = [solver] if isinstance(solver, (str, Solver)) else solver
    return [one if isinstance(one, Solver) else _class_of(one).from_json(settings) for one in given]


def choose(n: int, d: int, k: int, solvers: Iterable[Solver] | None = None) -> Solver:
    """Return the cheapest solver for k components of an ``(n, d)`` matrix, with its settings filled in.

    The sizes alone decide, so that every machine makes the same choice. A single solver is always taken.
    """
    sized = [solver.sized(n, d, k) for solver in (get_solvers() if solvers is None else solvers)]
    suitable = [solver for solver in sized if solver.fits(n, d, k)] if len(sized) > 1 else sized
    return min(suitable or sized, key=lambda solver: solver.cost(n, d, k))


def solver_of(recipe: Mapping[str, Any]) -> Solver:
    """Return the solver that a recipe records."""
    return _class_of(recipe.get("solver", FIRST)).from_json(recipe)


def _class_of(name: str) -> type[Solver]:
    if name not in SOLVERS:
        raise InvalidInputError(f"unknown solver {name!r}; choose from {', '.join(SOLVERS)}")
    return SOLVERS[name]
