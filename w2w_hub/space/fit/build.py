"""Build a weight space: standardised PCA of a dataset's training split, the same for everyone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.constraints import either, flag, instance, names, number, one_of, optional, path, text, validated, whole
from ...common.version import __version__
from ...dataset import WeightDataset
from ...dataset.manifest import UNKNOWN
from ...errors import InitialisationError, InvalidInputError, UnknownNameError
from ..coordinates import Coordinates
from ..directions import fit_directions, why_not
from ..population import Population
from ..weight_space import WeightSpace
from .diagnostics import measure
from .engines import Engine, get_engine
from .engines.base import ids_digest
from .resume import ResumeFolder
from .rows import Rows
from .solvers import Plan, plan, solve

CANONICAL = "svd"
FOUND = "constant_numbers"  # in a saved recipe, beside what was asked for
WHEN_TO_STOP = (
    "tolerance",
    "max_passes",
    "algorithm",
)  # of the recipe, no matter to a pass: more may follow those kept


@validated(
    dataset=instance(WeightDataset, "an open WeightDataset"),
    k=optional(whole()),
    split=text(),
    rows=optional(names()),
    name=optional(text()),
    version=text(),
    directions=flag(),
    standardize=flag(),
    canonical=optional(one_of(CANONICAL)),
    engine=either(text(), instance(Engine, "an Engine")),
    device=optional(either(text(), names())),
    scheduler=optional(text()),
    memory=optional(whole(0)),
    solver=optional(text()),
    block=optional(whole(1)),
    tolerance=number(),
    max_passes=whole(1),
    seed=whole(0),
    block_rows=optional(whole(1)),
    checkpoint=optional(path()),
)
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
        Replace every adapter by one representative of its dW first (:mod:`w2w_hub.lora.canonical`), so that
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
        Folder in which the results of finished passes are kept: a build that was killed, or whose disk was full,
        continues from there when the same is run again. It stays until :func:`clear_passes` removes it, as
        :func:`w2w_hub.space.fit.build_and_save.build_and_save` does once the space is saved. Results of another build
        in it are removed; a folder with anything else in it is refused and left as it is.

    Raises
    ------
    InitialisationError
        If the dataset does not state one shared initialisation of its rows, without `canonical`.
    ConvergenceError
        If Krylov needs more than `max_passes`; with `checkpoint` a call that allows more continues.
    AlreadyExistsError, BusyError, DiskError
        If `checkpoint` is not an unfinished build, is used by another process, or cannot be written.
    """
    job = prepare(
        dataset, k, split=split, rows=rows, standardize=standardize, canonical=canonical, engine=engine, device=device,
        scheduler=scheduler, memory=memory, solver=solver, block=block, tolerance=tolerance, max_passes=max_passes,
        seed=seed, block_rows=block_rows,
    )  # fmt: skip
    runner, kept = job.engine, ResumeFolder(None)
    try:
        kept = runner.checkpoint = ResumeFolder(checkpoint, _passes(job.recipe))
        with runner.precision():
            found = solve(runner, job.fitted, job.k, job.plan, standardise=standardize)
            coefficients, squares = runner.projected(job.everybody, found.moments, found.basis)
    except InvalidInputError:
        kept.clear()  # it would fail again
        raise
    finally:
        kept.release()
        runner.checkpoint = ResumeFolder(None)
        runner.close()
    back = np.argsort(job.everybody.numbers)
    labels = dataset.labels["split"].to_numpy(str)
    used = np.zeros(len(dataset), bool)
    used[job.fitted.numbers] = True
    space = WeightSpace(
        coordinates=Coordinates(
            layout=dataset.layout,
            mean=found.moments.mean,
            std=found.moments.std,
            basis=found.basis,
            singular_values=found.singular_values,
            residuals=found.residuals,
            canonical=canonical is not None,
        ),
        population=Population(
            ids=dataset.ids,
            splits=labels,
            coefficients=coefficients[back],
            fitted_split=split,
            squared_norms=squares[back],
            left_out=() if rows is None else tuple(np.asarray(dataset.ids)[~used & (labels == split)].tolist()),
        ),
        recipe={**job.recipe, FOUND: found.moments.constant},
        compatibility=dataset.manifest.compatibility,
        name=name or f"{dataset.manifest.name}-space",
        version=version,
        licence=dataset.manifest.licence,
    )
    space.diagnostics = measure(space, found)
    if directions:
        space.diagnostics["no_direction"] = why_not(space, dataset)
        space.directions = fit_directions(space, dataset)
    return space


def clear_passes(space: WeightSpace, checkpoint: Path | str) -> None:
    """Remove the results that a build of this space kept; a folder that another build has taken since is left alone."""
    kept = ResumeFolder(None, _passes(space.recipe))
    kept.folder = Path(os.path.abspath(checkpoint))
    kept.clear()


def _passes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a recipe that a kept pass depends on."""
    return {name: value for name, value in recipe.items() if name not in (*WHEN_TO_STOP, FOUND)}


@dataclass(frozen=True)
class Job:
    """A build whose arguments are checked: its rows, its solver, and the engine, which its user closes."""

    fitted: Rows
    everybody: Rows
    k: int
    plan: Plan
    engine: Engine
    recipe: dict[str, Any]


def prepare(
    dataset: WeightDataset,
    k: int | None = None,
    *,
    split: str = "train",
    rows: Sequence[str] | None = None,
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
) -> Job:
    """Check what :func:`build_space` was asked for and state its recipe, before anything is computed."""
    if canonical is None and dataset.manifest.compatibility.initialisation == UNKNOWN:
        raise InitialisationError(
            f"{dataset.path} does not state its rows' shared initialisation, and B @ A does not determine A and B; "
            "if they share one, pack them with: w2w pack --initialisation NAME; if not, build with --canonical svd"
        )
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
    return Job(fitted, Rows(dataset, np.arange(len(dataset)), **options), k, how, runner, recipe)


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
