"""Build a weight space: standardised PCA of a dataset's training split, the same for everyone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..dataset import WeightDataset
from ..dataset.manifest import UNKNOWN
from ..errors import InitialisationError, InvalidInputError, UnknownNameError, W2WError
from .checkpoint import Checkpoint
from .diagnostics import measure
from .directions import fit_directions, why_not
from .engines import Engine, get_engine
from .engines.base import ids_digest
from .rows import Rows
from .solvers import Plan, plan, solve
from .space import WeightSpace

CANONICAL = "svd"


def build_space(
    dataset: WeightDataset,
    k: int | None = None,
    *,
    split: str = "train",
    rows: Sequence[str] | None = None,
    name: str | None = None,
    version: str = "0.1.0",
    directions: bool = True,
    standardize: bool = True,
    canonical: str | None = None,
    engine: str | Engine = "numpy",
    device: str | Sequence[str] | None = None,
    scheduler: str | None = None,
    memory: int | None = None,
    solver: str | None = None,
    block: int | None = None,
    tolerance: float = 1e-6,
    max_passes: int = 40,
    seed: int = 0,
    block_rows: int | None = None,
    checkpoint: Path | str | None = None,
) -> WeightSpace:
    """Standardised PCA of one split, and directions for its attributes.

    Mean and standard deviation (ddof 1) are of the fitted split. The data is streamed, never held as a whole. Rows
    are taken in the order of their ids and summed in tiles of a fixed size, so that neither the order in the file,
    nor shards, nor `block_rows` changes a bit. Sign rule: the entry of largest magnitude of every component is
    positive.

    Parameters
    ----------
    k : int, optional
        Components to keep; at most the number of fitted rows less one, which is the default.
    rows : sequence of str, optional
        Ids of the rows of `split` to fit; all of them without it. The others count as held out.
    standardize : bool
        Without it the columns are only centred: a declared variant, recorded in the recipe.
    canonical : {"svd"}, optional
        Replace every adapter by one representative of its dW first (:mod:`w2w_hub.canonical`), so that
        rows of several or unknown initialisations can be compared. Recorded, and applied by
        :meth:`WeightSpace.project`.
    engine : {"numpy", "torch", "dask"} or Engine
        What computes. `device` is of torch (``"cuda"``, ``["cuda:0", "cuda:1"]``), `scheduler` an address for Dask,
        `memory` the bytes of rows that each GPU keeps. The same engine with the same number of threads gives the
        same bits; another one the same space within the bound in BENCHMARKS.md.
    solver : {"gram", "covariance", "krylov"}, optional
        The cheapest for the sizes without it. The first two are exact in float64; Krylov iterates until its residuals
        say that it misses less than `tolerance` of the components' variance, `block` vectors a pass.
    seed : int
        Of Krylov's start.
    block_rows : int, optional
        Rows read at once. Changes memory and speed only.
    checkpoint : path, optional
        Folder in which the results of finished passes are kept until the build is done: one that was killed goes on
        from there when it is started again.

    Raises
    ------
    InitialisationError
        If the dataset does not state one shared initialisation of its rows, without `canonical`.
    ConvergenceError
        If Krylov needs more than `max_passes`.
    """
    if canonical not in (None, CANONICAL):
        raise InvalidInputError(f"canonical must be {CANONICAL!r} or None, not {canonical!r}")
    if canonical is None and dataset.manifest.compatibility.initialisation == UNKNOWN:
        raise InitialisationError(
            f"{dataset.path} does not state its rows' shared initialisation, and B @ A does not determine A and B; "
            "if they share one, pack them with: w2w pack --initialisation NAME; if not, build with --canonical svd"
        )
    if block_rows is not None and block_rows < 1:
        raise InvalidInputError(f"block_rows must be at least 1, not {block_rows}")
    chosen = _chosen(dataset, split, rows)
    n, d = len(chosen), dataset.layout.size
    if n < 2:
        raise InvalidInputError(f"a weight space needs at least two rows; split {split!r} has {n}")
    most = min(n - 1, d)
    if k is None:
        k = most
    if not 1 <= k <= most:
        raise InvalidInputError(f"k must be 1 to {most} for {n} rows of {d} numbers, not {k}")
    how = plan(n, d, k, solver=solver, block=block, tolerance=tolerance, max_passes=max_passes, seed=seed)
    runner = get_engine(engine, device=device, scheduler=scheduler, memory=memory)
    options: dict[str, Any] = {
        "canonical": canonical is not None, "block_rows": block_rows, "tile_numbers": runner.tile_numbers,
    }  # fmt: skip
    fitted = Rows(dataset, chosen, **options)
    recipe = _recipe(dataset, fitted, k, split, standardize, canonical, how, runner)
    runner.checkpoint = Checkpoint(checkpoint, recipe)
    try:
        with runner.precision():
            found = solve(runner, fitted, k, how, standardise=standardize)
            basis = found.basis
            everybody = Rows(dataset, np.arange(len(dataset)), **options)
            coefficients, squares = runner.projected(everybody, found.moments, basis)
    except W2WError:
        runner.checkpoint.clear()  # it would fail again
        raise
    finally:
        runner.close()
    back = np.argsort(everybody.numbers)
    labels = dataset.labels["split"].to_numpy(str)
    used = np.zeros(len(dataset), bool)
    used[chosen] = True
    space = WeightSpace(
        layout=dataset.layout,
        mean=found.moments.mean,
        std=found.moments.std,
        basis=basis,
        singular_values=found.singular_values,
        residuals=found.residuals,
        ids=dataset.ids,
        splits=labels,
        coefficients=coefficients[back],
        squared_norms=squares[back],
        fitted_split=split,
        left_out=() if rows is None else tuple(np.asarray(dataset.ids)[~used & (labels == split)].tolist()),
        recipe={**recipe, "constant_numbers": found.moments.constant},
        compatibility=dataset.manifest.compatibility,
        name=name or f"{dataset.manifest.name}-space",
        version=version,
        licence=dataset.manifest.licence,
    )
    space.diagnostics = measure(space, found)
    if directions:
        space.diagnostics["no_direction"] = why_not(space, dataset)
        space.directions = fit_directions(space, dataset)
    runner.checkpoint.clear()
    return space


def _chosen(dataset: WeightDataset, split: str, rows: Sequence[str] | None) -> np.ndarray:
    if split not in dataset.manifest.splits:
        raise UnknownNameError(f"no split {split!r}; there are {', '.join(dataset.manifest.splits)}")
    inside = dataset.where(split=split)
    if rows is None:
        return inside
    numbers = np.array(sorted({dataset.position(row) for row in rows}), int)
    outside = np.setdiff1d(numbers, inside)
    if len(outside):
        raise InvalidInputError(f"row {dataset.ids[outside[0]]!r} is not in split {split!r}, which is to be fitted")
    return numbers


def _recipe(
    dataset: WeightDataset,
    fitted: Rows,
    k: int,
    split: str,
    standardize: bool,
    canonical: str | None,
    how: Plan,
    runner: Engine,
) -> dict[str, Any]:
    return {
        "dataset": dataset.manifest.name,
        "dataset_version": dataset.manifest.version,
        "dataset_digest": dataset.manifest.digest,
        **({"dataset_revision": dataset.revision.to_json()} if dataset.revision else {}),
        "rows": fitted.n,
        "row_ids_sha256": ids_digest(fitted.ids),
        "k": k,
        "split": split,
        "standardised": standardize,
        "canonical": canonical,
        "algorithm": how.text,
        **how.to_json(),
        **runner.describe(),
        "tile_rows": fitted.tile_rows,
        "software": {"w2w_hub": __version__, "numpy": np.__version__},
    }
