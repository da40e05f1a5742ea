"""Which solver, by cost: a rule of the sizes alone, so that every machine makes the same choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....errors import InvalidInputError

SOLVERS = ("covariance", "gram", "krylov")
EXPECTED_PASSES = 10
# a dense eigenproblem of size m costs about 10 m^3 operations, half of them at the speed of memory;
# an operation in float64 costs two
EIGEN_COST, DOUBLE = 40.0, 2.0
CHEAP_COLUMNS = 6000  # eigenproblems up to this size cost next to nothing beside the passes
LARGEST_DENSE = 50_000  # 20 GB: beyond this a dense eigenproblem is not chosen, but can be asked for


@dataclass(frozen=True)
class Plan:
    """A solver with its settings, as recorded in the recipe.

    Attributes
    ----------
    solver : str
        ``"covariance"`` and ``"gram"`` are exact (float64); ``"krylov"`` iterates until the residuals say that it
        misses less than `tolerance` of the variance.
    block : int
        Vectors a pass.
    """

    solver: str
    block: int = 0
    tolerance: float = 0.0
    max_passes: int = 0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        if self.solver != "krylov":
            return {"solver": self.solver}
        return {
            "solver": self.solver,
            "block": self.block,
            "tolerance": self.tolerance,
            "max_passes": self.max_passes,
            "seed": self.seed,
        }

    @property
    def text(self) -> str:
        return {
            "covariance": "eigenvectors of the covariance matrix, float64",
            "gram": "eigenvectors of the sample-side Gram matrix, float64",
            "krylov": f"block Krylov, {self.block} vectors a pass, until less than {self.tolerance:g} of the variance "
            "is missed",
        }[self.solver]


def plan(
    n: int,
    d: int,
    k: int,
    *,
    solver: str | None = None,
    block: int | None = None,
    tolerance: float = 1e-6,
    max_passes: int = 40,
    seed: int = 0,
) -> Plan:
    """The cheapest solver for k components of an ``(n, d)`` matrix, or the one that is asked for."""
    if solver is not None and solver not in SOLVERS:
        raise InvalidInputError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
    if not 0 < tolerance < 1 or max_passes < 1 or (block is not None and block < 1) or seed < 0:
        raise InvalidInputError(
            f"tolerance must be between 0 and 1, max_passes and block at least 1 and seed not negative, not "
            f"{tolerance:g}, {max_passes}, {block} and {seed}"
        )
    block = min(block or default_block(k), n, d)
    if solver is None:
        dense = "covariance" if d <= n else "gram"
        side = min(n, d)
        exact = DOUBLE * (n * d * side * (1 if d <= n else 0.5) + EIGEN_COST * side**3 / 4)
        columns = EXPECTED_PASSES * block
        krylov = 4.0 * n * d * columns + 4.0 * d * columns**2 + DOUBLE * EIGEN_COST * columns**3 / 4
        worth_it = columns < side and krylov < exact
        solver = "krylov" if worth_it or (side > LARGEST_DENSE and k < side // 4) else dense
    if solver != "krylov":
        return Plan(solver)
    return Plan(solver, block, tolerance, max_passes, seed)


def default_block(k: int) -> int:
    """Vectors a pass: fewer of them reach more for the same products, but take more passes.

    For many components the eigenproblems of the subspace cost as much as the passes, and fewer vectors keep it small.
    """
    return max(k // 2 if k <= CHEAP_COLUMNS // 3 else k // 4, 6) + 10
