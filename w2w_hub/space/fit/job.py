"""Job: a build with checked arguments, and the recipe that records them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...common.text import ShellText, command, counted
from ...common.version import __version__
from ...dataset import WeightDataset
from ...dataset.licenses import stated_consent
from ...dataset.manifest import UNKNOWN
from ...dataset.training_records import trigger_phrase
from ...dataset.withdrawn import require_readable
from ...errors import InitializationError, InvalidInputError, UnknownNameError
from ..manifest import ids_digest
from .engines import Engine, get_engine
from .rows import Rows
from .solvers import AUTO, SOLVERS, Solver, choose, get_solvers

FOUND = "constant_numbers"  # in a saved recipe: found by the build, not asked for


@dataclass(frozen=True)
class Job:
    """Everything that determines the components of a space.

    Attributes
    ----------
    chosen : ndarray
        Row indices that are fitted.
    solver : Solver
        With its settings filled in.
    """

    dataset: WeightDataset
    chosen: np.ndarray
    k: int
    split: str
    standardize: bool
    canonical: str | None
    solver: Solver
    engine: Engine

    @classmethod
    def checked(
        cls, dataset: WeightDataset, k: int | None = None, *, split: str = "train", rows: Sequence[str] | None = None,
        standardize: bool = True, canonical: str | None = None,
        solver: str | Solver | Sequence[str | Solver] | None = AUTO, engine: str | Engine = "numpy",
    ) -> Self:  # fmt: skip
        """Return the job for arguments of :func:`build_space`, checked before anything starts."""
        if canonical is None and dataset.manifest.compatibility.initialisation == UNKNOWN:
            name_it = command("w2w relabel", dataset.path, options=("--initialization", ShellText("NAME")))
            raise InitializationError(
                f"{dataset.path} does not state its rows' shared initialization, and B @ A does not determine A and "
                f"B; if they share one, name it: {name_it}; if not, build with --canonical svd",
                path=dataset.path,
            )
        chosen = _row_indices(dataset, split, rows)
        n, d = len(chosen), dataset.layout.size
        if n < 2:
            raise InvalidInputError(f"a weight space needs at least two rows; split {split!r} has {n}")
        most = min(n - 1, d)
        k = most if k is None else k
        if not 1 <= k <= most:
            raise InvalidInputError(f"k must be 1 to {most} for {n} rows of {counted(d, 'feature')}, not {k}")
        solver = choose(n, d, k, get_solvers(solver))
        return cls(dataset, chosen, k, split, standardize, canonical, solver, get_engine(engine))

    @property
    def readable(self) -> np.ndarray:
        """The indices of all rows but the withdrawn ones."""
        return np.setdiff1d(np.arange(len(self.dataset)), list(self.dataset.withdrawn))

    # ------------------------------------------------------------ while the engine is running
    def rows(self, indices: np.ndarray) -> Rows:
        """Return rows of the dataset as the engine streams them."""
        return self.engine.rows(self.dataset, indices, canonical=self.canonical is not None)

    def recipe(self) -> dict[str, Any]:
        """Return the description of the build that the manifest records."""
        dataset, fitted = self.dataset, self.rows(self.chosen)
        trigger = trigger_phrase(dataset.manifest.training or (), fitted.ids)
        return {
            "dataset": dataset.manifest.name,
            "dataset_version": dataset.manifest.version,
            "dataset_digest": dataset.manifest.digest,
            **({"dataset_revision": dataset.revision.to_json()} if dataset.revision else {}),
            "rows": fitted.n,
            "row_ids_sha256": ids_digest(fitted.ids),
            "k": self.k,
            "split": self.split,
            "standardised": self.standardize,
            "canonical": self.canonical,
            "algorithm": self.solver.describe(),
            **self.solver.to_json(),
            **self.engine.describe(),
            "tile_rows": fitted.tile_rows,
            "software": {"w2w_hub": __version__, "numpy": np.__version__},
            **({} if trigger is None else {"trigger_phrase": trigger}),
            **({} if dataset.manifest.imported is None else {"imported": self._imported()}),
        }

    def _imported(self) -> dict[str, Any]:
        """Return where the rows were imported from, with the license and consent that they state now."""
        labels, stated = self.dataset.labels, dict(self.dataset.manifest.imported or {})
        return stated | {"license": self.dataset.license, "consent": stated_consent(labels["consent"].tolist())}


def passes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a recipe that the results of passes depend on, which excludes when the solver stops."""
    left_out = {"algorithm", "trigger_phrase", FOUND}.union(*(solver.stopping for solver in SOLVERS.values()))
    return {name: value for name, value in recipe.items() if name not in left_out}


def _row_indices(dataset: WeightDataset, split: str, ids: Sequence[str] | None) -> np.ndarray:
    """Return the indices of a split's rows, or of those with these ids, which must be in it."""
    if split not in dataset.manifest.splits:
        raise UnknownNameError(f"no split {split!r}; available: {', '.join(dataset.manifest.splits)}")
    inside = dataset.where(split=split)
    if ids is None:
        return inside
    indices = np.array(sorted({dataset.position(row) for row in ids}), int)
    require_readable(dataset, indices)
    outside = np.setdiff1d(indices, inside)
    if len(outside):
        raise InvalidInputError(f"row {dataset.ids[outside[0]]!r} is not in split {split!r}, the split to fit")
    return indices
