"""Rebuild a space from its recipe, and measure how far two spaces agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.arguments import SPACE, checked
from ...common.constraints import either, flag, instance, names_by_name, optional, path, text
from ...common.text import ShellText, command, counted
from ...dataset.withdrawn import require_readable
from ...errors import InvalidInputError, MissingPopulationError
from ..directions.targets import require_dataset
from ..population_model.fit import GROUPS
from ..population_model.model import means_of
from .build import build_space
from .engines import Engine
from .solvers import solver_of

if TYPE_CHECKING:
    from ...dataset import WeightDataset
    from ..weight_space import WeightSpace

# between engines, thread counts and releases of a BLAS; measured in BENCHMARKS.md
SINGULAR_VALUE_BOUND, ANGLE_BOUND, MODEL_BOUND = 1e-5, 1e-3, 1e-3
COMPARED = 64  # configurations at which population models are compared
NEW = ShellText("NEW")
SEPARATED = 1e-2  # relative gap to the neighboring eigenvalues from which on a component is determined by itself


@dataclass(frozen=True)
class Agreement:
    """Differences between two spaces of one recipe.

    Attributes
    ----------
    identical : bool
        Mean, std and basis are equal bit for bit: the digests agree.
    singular_value_error : float
        Largest relative difference of a singular value.
    angle : float
        Sine of the largest angle between a component and its counterpart, over the separated ones.
    separated : int
        Components whose eigenvalue is at least 1 % away from its neighbors; only the span of others is determined.
    mean_error : float
        Largest difference of a mean or std, relative to std.
    model_error : float or None
        Difference of what the population models predict, relative to its size; None unless both spaces have one.
    """

    identical: bool
    singular_value_error: float
    angle: float
    separated: int
    mean_error: float
    model_error: float | None = None

    @property
    def within_bound(self) -> bool:
        """True if the differences are no larger than those between two engines."""
        errors = (self.singular_value_error, self.mean_error)
        same = self.identical or (max(errors) <= SINGULAR_VALUE_BOUND and self.angle <= ANGLE_BOUND)
        return same and (self.model_error or 0.0) <= MODEL_BOUND

    def to_json(self) -> dict[str, Any]:
        bounds = {
            "singular_value_bound": SINGULAR_VALUE_BOUND, "angle_bound": ANGLE_BOUND, "model_bound": MODEL_BOUND,
        }  # fmt: skip
        return {**asdict(self), "within_bound": self.within_bound, **bounds}


def compare_spaces(first: WeightSpace, second: WeightSpace) -> Agreement:
    """Compare two spaces of the same layout and number of components.

    Raises
    ------
    InvalidInputError
        If layouts or numbers of components differ.
    """
    if first.layout != second.layout or first.k != second.k:
        raise InvalidInputError(
            f"only spaces of the same layout and number of components can be compared, not {first.k} components of "
            f"{first.layout.size} features and {second.k} of {second.layout.size}"
        )
    one, other = first.coordinates, second.coordinates
    if one.digest == other.digest:
        return Agreement(True, 0.0, 0.0, int(separated(one.singular_values).sum()), 0.0, model_error(first, second))
    relative = np.abs(other.singular_values / np.maximum(one.singular_values, 1e-300) - 1)
    sines = np.array(
        [
            np.linalg.norm(b.astype(np.float64) - (a.astype(np.float64) @ b.astype(np.float64)) * a)
            for a, b in zip(one.basis, other.basis, strict=True)
        ]
    )
    apart = separated(one.singular_values)
    moved = np.maximum(np.abs(one.mean - other.mean), np.abs(one.std - other.std)) / one.std
    angle = float(sines[apart].max()) if apart.any() else 0.0
    return Agreement(
        False, float(relative.max()), angle, int(apart.sum()), float(moved.max()), model_error(first, second)
    )


def model_error(first: WeightSpace, second: WeightSpace) -> float | None:
    """Return the relative difference of two spaces' population models: of the weights of some people's means.

    None unless both have one; infinity if their factors differ.
    """
    one, other = first.population_model, second.population_model
    if one is None or other is None:
        return None
    if one == other and first.digest == second.digest:
        return 0.0
    if one.factors != other.factors or one.codes.shape != other.codes.shape:
        return float("inf")
    means = [
        means_of(model, one.codes[:COMPARED]) @ space.coordinates.basis
        for model, space in ((one, first), (other, second))
    ]
    return float(np.linalg.norm(means[0] - means[1]) / max(float(np.linalg.norm(means[0])), 1e-300))


def separated(singular_values: np.ndarray) -> np.ndarray:
    """Return which components are at least :data:`SEPARATED` away from both neighbors; the last one never is."""
    values = np.asarray(singular_values, float) ** 2
    below = np.append(values[:-1] - values[1:], 0.0)
    above = np.append(np.inf, below[:-1])
    apart: np.ndarray = np.minimum(below, above) > SEPARATED * values
    return apart


@checked(
    space=SPACE,
    directions=flag(),
    engine=optional(either(text(), instance(Engine, "an Engine"))),
    checkpoint=optional(path()),
)
def rebuild(
    space: WeightSpace, dataset: WeightDataset, *, engine: str | Engine | None = None, directions: bool = False,
    checkpoint: Path | str | None = None,
) -> WeightSpace:  # fmt: skip
    """Rebuild a space from its recipe.

    Parameters
    ----------
    engine : str or Engine, optional
        Instead of the recipe's.

    Raises
    ------
    DatasetChangedError
        If the dataset does not have the digest that the recipe names.
    WithdrawnError
        If rows that it was fitted on were withdrawn from the dataset's repository; the error names them.
    """
    recipe = space.recipe
    if "as_published" in recipe:
        raise InvalidInputError(
            f"{space.name} was imported as another project published it, not built from a recipe; build a weight space "
            f"of the imported rows with: {command('w2w build', dataset.path, options=('--k', space.k, '--out', NEW))}"
        )
    require_dataset(space, dataset)
    population = space.population
    if population is None:  # fitted ids are unknown, but the dataset is the same: equal counts mean the whole split
        split, rows = recipe["split"], None
        _require_rows(space, dataset, np.flatnonzero((dataset.labels["split"] == split).to_numpy(bool)))
        if dataset.manifest.splits.get(split) != recipe["rows"]:
            raise MissingPopulationError(
                f"{space.name} was fitted to {counted(recipe['rows'], 'row')} of {split!r} and was published without "
                f"their ids; {dataset.path} has another number of rows in that split, so it cannot be rebuilt"
            )
    else:
        split = population.fitted_split
        rows = population.fitted_ids
        _require_rows(space, dataset, np.array([dataset.position(row) for row in population.ids]))
        if not population.left_out and len(rows) == len(dataset.where(split=split)):
            rows = None
    return build_space(
        dataset, recipe.get("k", space.k), split=split, rows=rows, name=space.name, version=space.version,
        directions=directions, standardize=recipe.get("standardised", True), canonical=recipe.get("canonical"),
        population_model=space.population_model is not None, groups=_groups(space),
        solver=solver_of(recipe), engine=engine or recipe.get("engine", "numpy"), checkpoint=checkpoint,
    )  # fmt: skip


def _require_rows(space: WeightSpace, dataset: WeightDataset, indices: np.ndarray) -> None:
    """Raise `WithdrawnError` if rows of a space were withdrawn since."""
    build = command("w2w build", dataset.revision or dataset.path, options=("--out", ShellText("SPACE")))
    require_readable(dataset, indices, f"so that {space.name} cannot be rebuilt; build one without them: {build}")


def _groups(space: WeightSpace) -> dict[str, list[str]] | None:
    """Return the groups of exclusive attributes that the model was fitted with, if its evidence states any."""
    stated = {} if space.population_model is None else space.population_model.evidence.get(GROUPS)
    return names_by_name().take(stated) if stated else None
