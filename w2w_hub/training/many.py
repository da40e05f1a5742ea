"""Training of many identities, a batch at a time, into a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..common.arguments import place
from ..common.constraints import flag, instance, names, one_of, optional, path, validated, whole
from ..common.text import counted, file_size
from ..dataset import WeightDataset
from ..dataset.changes.commit import create, require_dataset_output
from ..dataset.changes.options import DatasetOptions, merged, plan_new
from ..dataset.changes.shard_writer import HALF_LIMIT
from ..dataset.changes.write import split_labels
from ..dataset.problems import Problems
from ..errors import ConvergenceError, DiskError
from ..models.pipelines import best_device
from .class_pictures import class_pictures
from .engines import AUTO, ENGINES, engine_for
from .opening import OpenedBase, open_base, require_device
from .people import read_people
from .pictures import note_left_out, require_readable
from .recipe import TrainingRecipe
from .runs import CLASSES, ELSEWHERE, Run, memory_explained
from .trained_rows import TrainedRows
from .workers import Job, Worker, halves, plan_of, work_on

if TYPE_CHECKING:
    import pandas as pd

IN_RUN = 4  # bytes of a number


@dataclass(frozen=True)
class TrainingResult:
    """Result of :func:`train_many`.

    Attributes
    ----------
    dataset : WeightDataset
    lost : list of str
        Ids of identities whose training diverged, which have no row: a loss or a weight was not finite or beyond the
        range of float16 where that is stored, or A does not resemble the initialization any more.
    batch_sizes : list of int
        Number of identities in each batch that trained together.
    """

    dataset: WeightDataset
    lost: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)


@validated(
    people=path(), base=place(), out=path(), recipe=instance(TrainingRecipe, "a TrainingRecipe"),
    reference=optional(path()), start=optional(path()), at_once=whole(1, 100_000), devices=optional(names()),
    engine=one_of(*ENGINES), cache=optional(path()), resume=flag(), overwrite=flag(),
)  # fmt: skip
def train_many(
    people: Path | str,
    base: Path | str,
    out: Path | str,
    *,
    recipe: TrainingRecipe = TrainingRecipe(),  # noqa: B008, it is immutable
    reference: Path | str | None = None,
    start: Path | str | None = None,
    at_once: int = 8,
    devices: Sequence[str] | None = None,
    engine: str = AUTO,
    cache: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Train a LoRA for each of many identities and write them as a dataset.

    `at_once` identities share each forward and backward pass; each gets the result of training alone, up to rounding.
    A killed run goes on with ``resume=True`` to the same bits, on the same machine with the same arguments. If memory
    runs out, a batch is halved, with a warning; the results then differ in rounding. The dataset's manifest records who
    trained together, and with which engine.

    Parameters
    ----------
    people : path
        A folder with one folder of pictures per identity, or a table; see :func:`read_people`.
    base : path or str
        The base model, see :func:`train_identity`.
    out : path
        The new dataset.
    at_once : int
        Identities per batch.
    devices : sequence of str, optional
        For several, such as ``["cuda:0", "cuda:1"]``, each has a process of its own with a part of the batches.
    engine : {"auto", "eager", "compiled", "captured", "compiled+captured"}
        See :func:`train_identity`. On a GPU, "auto" compiles where there are enough batches that it pays.
    reference
        See :func:`train_identity`; the new dataset has the dtype of a reference that is one.
    start, cache, resume, overwrite
        See :func:`train_identity`.
    **options
        Options of the dataset, see :class:`w2w_hub.dataset.DatasetOptions`.

    Raises
    ------
    MissingPathError, CorruptFileError, InvalidInputError
        If pictures, the table or the base model cannot be read, or the unfinished run had other settings or pictures.
    BaseModelMismatchError, LayoutMismatchError, InitializationError, AlreadyExistsError
        See :func:`train_identity`.
    BusyError
        If another command is training `out`.
    DiskError
        If the disk has no room for the rows.
    ConvergenceError
        If the training of all identities diverged.
    OutOfMemoryError
        If a device has too little memory for one identity.
    """
    target, (persons, labels) = require_dataset_output(Path(out), overwrite=overwrite), read_people(people)
    problems = Problems()  # of the dataset, found before the work and not after it
    ids = [person.id for person in persons]
    split_labels(labels, ids, merged(None, options).split_rule, problems)  # type: ignore[arg-type]
    problems.raise_if_any()
    chosen = list(devices) if devices else [best_device()]
    job = Job(
        persons, str(base), target, recipe, None if reference is None else Path(reference),
        None if start is None else Path(start), at_once, engine, None if cache is None else Path(cache),
    )  # fmt: skip
    steps = -(-len(job.batches) // len(chosen)) * recipe.steps
    job = replace(job, engine=engine_for(engine, chosen[0], at_once=min(at_once, len(persons)), steps=steps))
    for device in chosen:
        require_device(device, job.engine)
    opened = open_base(job.base, recipe, chosen[0], job.reference, job.start)
    job = replace(job, recipe=opened.recipe)
    start_adapter = opened.layout.unflatten(opened.start.numpy())
    stated = merged(None, {"compatibility": opened.compatibility, "start_adapter": start_adapter, **options})  # type: ignore[typeddict-item]
    with Run(target, plan_of(job, opened), resume=resume, restart=overwrite) as run:
        waiting = [batch for batch in job.batches if not run.has(batch)]
        untrained = sum(_untrained(run, batch) for batch in waiting)
        each = _stored_bytes(stated, opened.dtype)
        _require_room(target, len(persons), opened.layout.size, len(persons) * each + untrained * IN_RUN)
        folders = [job.people[number].folder for batch in waiting for number in batch]
        note_left_out(folders)
        require_readable(folders, opened.size)
        if len(chosen) == 1:
            Worker(job, opened, run).work(job.batches)
        else:
            if recipe.class_prompt is not None:
                with memory_explained(CLASSES, ELSEWHERE):
                    class_pictures(opened, recipe, job.cache)  # drawn once, for all processes
            opened.pipe.to("cpu")  # the first device's process opens it again
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            work_on(chosen, job, run)
        return _write(job, opened, run, labels, stated, overwrite)


def _stored_bytes(options: DatasetOptions, dtype: str) -> int:
    """Return the bytes of a number of a row in the dataset and its view."""
    view = "float16" if options.parquet_view is True else options.parquet_view
    return np.dtype(options.dtype or dtype).itemsize + (np.dtype(str(view)).itemsize if view else 0)


def _untrained(run: Run, batch: range) -> int:
    """Return how many identities of a batch have no rows yet; parts of it have, if memory ran out."""
    if run.has(batch):
        return 0
    return 1 if len(batch) == 1 else sum(_untrained(run, half) for half in halves(batch))


def _require_room(out: Path, rows: int, size: int, per_number: int) -> None:
    """Raise unless the disk has room for the dataset, and for the run's rows that are not trained yet.

    Parameters
    ----------
    size, per_number : int
        Numbers of a row, and the bytes that all rows need per number.
    """
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    needed, free = size * per_number, shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(
            f"{out}: {counted(rows, 'identity')} of {size:,} numbers need {file_size(needed)}, and {folder} has "
            f"{file_size(free)} free; choose a larger disk, or train fewer",
            path=out,
        )


def _write(
    job: Job, opened: OpenedBase, run: Run, labels: pd.DataFrame | None, options: DatasetOptions, overwrite: bool
) -> TrainingResult:
    """Write the finished batches as a dataset, without the identities that were lost."""
    halves_stored = "float16" in (opened.dtype, options.dtype, options.parquet_view) or options.parquet_view is True
    limit = HALF_LIMIT if halves_stored else float(np.finfo(np.float32).max)
    ids: list[str] = []
    lost: list[str] = []
    sizes: list[int] = []
    together: list[dict[str, Any]] = []
    places: list[tuple[Path, int]] = []
    for part in (part for batch in job.batches for part in _parts(run, batch)):
        done = run.finished(part)
        assert done is not None
        people = [job.people[number].id for number in part]
        sizes.append(len(part))
        together.append({"together": done.together, "ids": people})
        good = ~done.lost & (np.abs(done.rows) <= limit).all(1)  # False for NaN
        good[good] = opened.resembles_start(done.rows[good])
        for number, name in enumerate(people):
            (ids if good[number] else lost).append(name)
            if good[number]:
                places.append((run.rows_file(part), number))
    if not ids:
        run.remove()
        raise ConvergenceError(
            f"{job.out}: the training of all identities diverged; lower the learning rate, or compute in float32 "
            "(precision)"
        )
    if labels is not None:
        labels = labels[labels["id"].isin(ids)]
    problems = Problems()
    table = split_labels(labels, ids, options.split_rule, problems)
    rows = TrainedRows(places, opened.dtype)
    plan = plan_new(options, job.out, opened.layout, ids, rows, table, problems, np.dtype(opened.dtype))
    plan.start = opened.start.numpy()
    plan.manifest.training = [opened.record(job.engine) | {"batches": together}]
    dataset = create(job.out, plan, overwrite=overwrite)
    run.remove()
    return TrainingResult(dataset, lost, sizes)


def _parts(run: Run, batch: range) -> list[range]:
    """Return the parts of a batch that trained together: itself, or halves of it if memory ran out."""
    return [batch] if run.has(batch) else [part for half in halves(batch) for part in _parts(run, half)]
