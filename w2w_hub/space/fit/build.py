"""Build a weight space: standardized PCA of a dataset's training split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.arguments import DATASET, SPACE
from ...common.constraints import (
    Rule,
    either,
    flag,
    instance,
    names,
    names_by_name,
    one_of,
    optional,
    path,
    text,
    validated,
    whole,
)
from ...dataset import WeightDataset
from ...dataset.labels.kinds import BINARY
from ...errors import InvalidInputError
from ..coordinates import Coordinates
from ..directions import fit_directions, why_not
from ..population import Population
from ..population_model import fit_population_model
from ..population_model.discovery import checked_groups
from ..weight_space import WeightSpace
from .diagnostics import measure
from .engines import Engine
from .job import FOUND, Job, passes
from .old_keywords import flat_keywords
from .resume import ResumeFolder
from .solvers import AUTO, Solver
from .solvers.components import Components, find_components

CANONICAL = "svd"


def _solvers(value: Any) -> Any:
    """Return one solver, or a list of several."""
    several = value if isinstance(value, (list, tuple)) else [value]
    if not several or not all(isinstance(one, (str, Solver)) for one in several):
        raise ValueError
    return value


@flat_keywords
@validated(
    dataset=DATASET,
    k=optional(whole()),
    split=text(),
    rows=optional(names()),
    name=optional(text()),
    version=text(),
    directions=flag(),
    population_model=flag(),
    groups=optional(names_by_name()),
    standardize=flag(),
    canonical=optional(one_of(CANONICAL)),
    solver=optional(Rule("a solver's name, a Solver or a list of them", _solvers)),
    engine=either(text(), instance(Engine, "an Engine")),
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
    population_model: bool = True,
    groups: Mapping[str, Sequence[str]] | None = None,
    standardize: bool = True,
    canonical: str | None = None,
    solver: str | Solver | Sequence[str | Solver] | None = AUTO,
    engine: str | Engine = "numpy",
    checkpoint: Path | str | None = None,
) -> WeightSpace:
    """Fit a standardized PCA to one split of a dataset, and directions for its attributes.

    The mean and standard deviation (ddof 1) are those of the fitted split. The data is streamed, never loaded as a
    whole. Rows are summed in the order of their ids and in tiles of a fixed size, so that neither their order in the
    file, nor shards, nor an engine's `block_rows` changes a bit. Sign rule: the entry of largest magnitude of
    every component is positive.

    Parameters
    ----------
    k : int, optional
        Components to keep; at most the number of fitted rows less one, which is the default.
    rows : sequence of str, optional
        Ids of the rows of `split` to fit; by default all. The others count as held out.
    directions : bool
        Fit a direction for each attribute.
    population_model : bool
        Fit a :class:`PopulationModel`, by which attributes are set and people are sampled; None without labels.
    groups : mapping of str to sequence of str, optional
        Binary columns that exclude each other, by the name of their group: ``{"hair": ["Black_Hair", "Blond_Hair"]}``.
        By default they are found from the labels.
    standardize : bool
        If False, columns are centered but not scaled; the recipe records this.
    canonical : {"svd"}, optional
        Replace every adapter by one representative of its dW first (:mod:`w2w_hub.lora.canonical`), so that
        rows of several or unknown initializations can be compared. Recorded, and applied by
        :meth:`WeightSpace.project`.
    solver : {"auto", "gram", "covariance", "krylov"}, Solver or list of them
        Algorithm, by name or with settings: ``Krylov(tolerance=1e-4)``. The cheapest for the sizes is chosen from all
        (``"auto"``) or from a list. :class:`Gram` and :class:`Covariance` are exact in float64; :class:`Krylov`
        iterates until, by its residuals, less than `tolerance` of the components' variance is missed.
    engine : {"numpy", "torch", "dask"} or Engine
        Library and devices that compute, by name or with settings: ``TorchEngine(["cuda:0", "cuda:1"])``,
        ``DaskEngine("tcp://host:8786")``. The same engine with the same number of threads gives the same bits;
        another one the same space within the bound in BENCHMARKS.md.
    checkpoint : path, optional
        Folder in which the results of finished passes are kept: a build that was killed, or whose disk was full,
        continues from there when the same call is repeated. Neither this function nor :meth:`WeightSpace.save` removes
        the folder: call :func:`clear_passes` once the space is saved. Results of another build in it are replaced; a
        folder that contains anything else is refused and left as it is.

    Raises
    ------
    InitializationError
        If the dataset does not state one shared initialization of its rows, without `canonical`.
    ConvergenceError
        If Krylov needs more than its `max_passes`; with `checkpoint` a call that allows more continues.
    AlreadyExistsError, BusyError, DiskError
        If `checkpoint` is not an unfinished build, is used by another process, or cannot be written.

    Examples
    --------
    >>> space = build_space(people, 200, engine=TorchEngine("cuda"), checkpoint="passes")   # doctest: +SKIP
    >>> space.save("space")   # doctest: +SKIP
    >>> clear_passes(space, "passes")   # doctest: +SKIP
    """
    job = Job.checked(
        dataset, k, split=split, rows=rows, standardize=standardize, canonical=canonical, solver=solver, engine=engine
    )
    kinds = dataset.manifest.kinds
    checked_groups(groups, [name for name in kinds if kinds[name].name == BINARY.name])  # before anything is computed
    with job.engine.running():
        recipe = job.recipe()
        kept = ResumeFolder(checkpoint, passes(recipe))
        found, coefficients, squares = _computed(job, kept)
    labels = dataset.labels["split"].to_numpy(str)
    used = np.zeros(len(dataset), bool)
    used[job.chosen] = True
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
            coefficients=coefficients,
            fitted_split=split,
            squared_norms=squares,
            left_out=() if rows is None else tuple(np.asarray(dataset.ids)[~used & (labels == split)].tolist()),
        ),
        recipe={**recipe, FOUND: found.moments.constant},
        compatibility=dataset.manifest.compatibility,
        name=name or f"{dataset.manifest.name}-space",
        version=version,
        licence=dataset.license,
    )
    space.diagnostics = measure(space, found)
    if directions:
        space.diagnostics["no_direction"] = why_not(space, dataset)
        space.directions = fit_directions(space, dataset)
    if population_model:
        space.population_model = fit_population_model(space, dataset, groups=groups)
    return space


@validated(space=SPACE, folder=path())
def clear_passes(space: WeightSpace, folder: Path | str) -> None:
    """Remove the results of finished passes that ``build_space(checkpoint=folder)`` kept while building this space.

    Call it once the space is saved. Only files that a build wrote are removed, and the folder if it is empty then. A
    folder that does not exist, is in use or belongs to another build is left as it is, without an error.

    Parameters
    ----------
    space : WeightSpace
        The space that was built, or the saved one.
    folder : path
        The `checkpoint` of that build.
    """
    kept = ResumeFolder(None, passes(space.recipe))
    kept.folder = Path(os.path.abspath(folder))
    kept.clear()


def _computed(job: Job, kept: ResumeFolder) -> tuple[Components, np.ndarray, np.ndarray]:
    """Return the components, and all rows' coefficients and squared norms in the dataset's order.

    Results of finished passes are stored in `kept`, which is unlocked afterwards.
    """
    engine, everyone = job.engine, job.rows(np.arange(len(job.dataset)))
    engine.resume = kept
    try:
        found = find_components(engine, job.rows(job.chosen), job.k, job.solver, standardize=job.standardize)
        coefficients, squares = engine.projected(everyone, found.moments, found.basis)
    except InvalidInputError:
        kept.clear()  # it would fail again
        raise
    finally:
        kept.release()
    back = np.argsort(everyone.indices)
    return found, coefficients[back], squares[back]
