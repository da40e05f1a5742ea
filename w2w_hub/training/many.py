"""Training of many identities, a batch at a time, into a dataset."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..common.arguments import place
from ..common.constraints import flag, instance, names, one_of, optional, path, validated, whole
from ..common.text import one_line
from ..dataset import WeightDataset, read_labels, write_dataset
from ..dataset.manifest import Compatibility
from ..errors import ConvergenceError, DiskError, InvalidInputError, MissingPathError
from ..lora.layout import ParameterLayout
from ..models.injection import base_digest
from ..models.pipelines import best_device
from ..models.pipelines.inputs import picture_size
from ..store.atomic import require_new
from .encoding import open_base
from .objective import objective_of
from .one import encode, plan_of, start_vector, train
from .pictures import read_pictures
from .recipe import TrainingRecipe
from .runs import Run
from .trainer import ENGINES, Trainer

if TYPE_CHECKING:
    import pandas as pd

PICTURES, CAPTION = "pictures", "caption"


@dataclass(frozen=True)
class Person:
    """One identity to train: its id, its folder of pictures, and the caption of pictures without one."""

    id: str
    folder: Path
    caption: str | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`train_many` made.

    Attributes
    ----------
    dataset : WeightDataset
    lost : list of str
        Ids of identities whose loss was not finite; they have no row.
    batch_sizes : list of int
        Identities of each batch that trained together.
    """

    dataset: WeightDataset
    lost: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)


def read_people(source: Path | str) -> tuple[list[Person], pd.DataFrame | None]:
    """Read whom to train: a folder with one folder of pictures per identity, or a table.

    Parameters
    ----------
    source : path
        A folder, whose subfolders' names are the ids; or a CSV, Parquet or JSON Lines file with the columns ``id`` and
        ``pictures`` (a folder relative to the file's), optionally ``caption``, and labels in the other columns.

    Returns
    -------
    people : list of Person
    labels : DataFrame or None
        The other columns, with the ids as index.

    Raises
    ------
    MissingPathError
        If there is no such folder or file, or a folder of pictures is missing.
    InvalidInputError
        For an id that occurs twice.
    """
    source = Path(source)
    if source.is_dir():
        folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise MissingPathError(f"{source} has no folders; give a folder with one folder of pictures per identity")
        return [Person(folder.name, folder) for folder in folders], None
    table = read_labels(source)
    if PICTURES not in table.columns:
        raise InvalidInputError(f"{source} has no column {PICTURES!r}, the folder of each identity's pictures")
    ids = [str(i) for i in table["id"]]
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise InvalidInputError(f"{source} has the id {one_line(twice[0], 80)} twice; ids must be unique")
    captions = table[CAPTION] if CAPTION in table.columns else [None] * len(table)
    people = [
        Person(i, source.parent / str(folder), caption if isinstance(caption, str) and caption else None)
        for i, folder, caption in zip(ids, table[PICTURES], captions, strict=True)
    ]
    missing = next((person for person in people if not person.folder.is_dir()), None)
    if missing is not None:
        raise MissingPathError(f"{source}: the pictures of {missing.id} are not at {missing.folder}", path=source)
    labels = table.drop(columns=[c for c in (PICTURES, CAPTION) if c in table.columns])
    return people, labels if len(labels.columns) > 1 else None


@validated(
    people=path(), base=place(), out=path(), recipe=instance(TrainingRecipe, "a TrainingRecipe"),
    layout=optional(instance(ParameterLayout, "a ParameterLayout")), start=optional(path()), at_once=whole(1, 100_000),
    devices=optional(names()), engine=one_of(*ENGINES), cache=optional(path()), resume=flag(),
)  # fmt: skip
def train_many(
    people: Path | str,
    base: Path | str,
    out: Path | str,
    *,
    recipe: TrainingRecipe = TrainingRecipe(),  # noqa: B008, it is immutable
    layout: ParameterLayout | None = None,
    start: Path | str | None = None,
    at_once: int = 8,
    devices: Sequence[str] | None = None,
    engine: str = "eager",
    cache: Path | str | None = None,
    resume: bool = False,
    **options: Any,
) -> TrainingResult:
    """Train a LoRA for each of many identities and write them as a dataset.

    `at_once` identities share each forward and backward pass; each gets the result of training alone, up to rounding.
    A killed run goes on with ``resume=True`` to the same bits, on the same machine with the same arguments. If memory
    runs out, a batch is halved, with a warning.

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
    layout, start, engine, cache, resume
        See :func:`train_identity`.
    **options
        Options of the dataset, see :class:`w2w_hub.dataset.DatasetOptions`.

    Raises
    ------
    MissingPathError, CorruptFileError, InvalidInputError
        If pictures, the table or the base model cannot be read.
    DiskError
        If the disk has no room for the rows.
    ConvergenceError
        If no identity has a finite loss.
    """
    target, (persons, labels) = require_new(Path(out)), read_people(people)
    chosen = list(devices) if devices else [best_device()]
    job = _Job(
        persons, str(base), target, recipe, layout, None if start is None else Path(start), at_once, engine,
        None if cache is None else Path(cache),
    )  # fmt: skip
    worker = _Worker(job, chosen[0], resume=resume)
    _require_room(target, len(persons), worker.layout.size)
    if len(chosen) == 1:
        worker.work(range(len(job.groups)))
    else:
        _work_in_processes(job, chosen)
    return _write(job, worker, labels, options)


@dataclass(frozen=True)
class _Job:
    people: list[Person]
    base: str
    out: Path
    recipe: TrainingRecipe
    layout: ParameterLayout | None
    start: Path | None
    at_once: int
    engine: str
    cache: Path | None

    @property
    def groups(self) -> list[list[Person]]:
        return [self.people[i : i + self.at_once] for i in range(0, len(self.people), self.at_once)]


class _Worker:
    """Trains groups on one device."""

    def __init__(self, job: _Job, device: str, *, resume: bool):
        self.job, self.pipe = job, open_base(job.base, job.recipe, device)
        unet, recipe = self.pipe.unet, job.recipe
        self.layout = job.layout or ParameterLayout.from_model(unet, recipe.targets, recipe.rank, recipe.scale)
        self.start = start_vector(self.layout, job.start)
        people = {person.id: str(person.folder) for person in job.people}
        plan = plan_of(self.pipe, self.layout, self.start, recipe, {}, job.engine, folders=people, at_once=job.at_once)
        self.run = Run(job.out, plan, resume=resume)

    def work(self, groups: Sequence[int]) -> None:
        for number in groups:
            if self.run.finished(number) is None:
                self._train(number)

    def _train(self, number: int) -> None:
        group, size = self.job.groups[number], picture_size(self.pipe)
        pictures = [read_pictures(person.folder, size) for person in group]
        captions = [person.caption for person in group]
        data = encode(pictures, self.pipe, self.layout, self.job.recipe, captions, self.job.cache)
        parts = [list(range(len(group)))]
        while True:
            try:
                trainers = [self._trained(number, data, part, len(parts)) for part in parts]
                break
            except torch.OutOfMemoryError:
                if len(parts[0]) == 1:
                    raise
                torch.cuda.empty_cache()
                parts = [half for part in parts for half in (part[: len(part) // 2], part[len(part) // 2 :]) if half]
                warnings.warn(
                    f"memory ran out with {len(group)} identities in a batch; training {len(parts[0])} at once, whose "
                    "results differ in rounding",
                    stacklevel=2,
                )
        rows, lost, losses = (torch.cat([values[i] for values in trainers]) for i in range(3))
        self.run.finish(number, rows, lost, losses, len(parts[0]))

    def _trained(
        self, number: int, data: Any, part: list[int], parts: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        whole_group = parts == 1
        trainer = Trainer(
            self.pipe.unet, self.layout, objective_of(self.pipe.scheduler), data if whole_group else data.part(part),
            self.start, self.job.recipe, engine=self.job.engine,
        )  # fmt: skip
        if whole_group:
            self.run.restore(number, trainer)
        groups = len(self.job.groups)
        train(trainer, self.run if whole_group else None, number, f"batch {number + 1} of {groups}")
        return trainer.rows().cpu(), trainer.lost.cpu(), trainer.losses.cpu()


def _work(job: _Job, device: str, groups: list[int]) -> None:
    _Worker(job, device, resume=True).work(groups)


def _work_in_processes(job: _Job, devices: list[str]) -> None:
    """Share the groups out over one process per device; no gradients cross."""
    context = multiprocessing.get_context("spawn")
    count = len(job.groups)
    processes = [
        context.Process(target=_work, args=(job, device, list(range(i, count, len(devices)))))
        for i, device in enumerate(devices)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [device for device, process in zip(devices, processes, strict=True) if process.exitcode]
    if failed:
        raise InvalidInputError(f"training on {', '.join(failed)} failed, see above; go on with --resume")


def _require_room(out: Path, rows: int, size: int) -> None:
    """Raise unless the disk has room for the rows, in the run and in the dataset with its view."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    needed, free = rows * size * (4 + 4 + 4 + 2), shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(
            f"{rows:,} rows of {size:,} numbers need {needed / 1e9:,.1f} GB, {folder} has {free / 1e9:,.1f} GB free",
            path=out,
        )


def _write(job: _Job, worker: _Worker, labels: pd.DataFrame | None, options: dict[str, Any]) -> TrainingResult:
    """Write the finished groups as a dataset, without those that were lost."""
    ids: list[str] = []
    lost: list[str] = []
    sizes: list[int] = []
    matrix = np.lib.format.open_memmap(
        worker.run.folder / "rows.npy", mode="w+", dtype=np.float32, shape=(len(job.people), worker.layout.size)
    )
    for number, group in enumerate(job.groups):
        done = worker.run.finished(number)
        assert done is not None
        sizes.append(done.at_once)
        for person, row, gone in zip(group, done.rows, done.lost, strict=True):
            if gone or not np.isfinite(row).all():
                lost.append(person.id)
            else:
                matrix[len(ids)] = row
                ids.append(person.id)
    if not ids:
        raise ConvergenceError(f"{job.out}: no identity has a finite loss; lower the learning rate")
    if labels is not None:
        labels = labels[labels["id"].astype(str).isin(ids)]
    digest = hashlib.sha256(worker.start.numpy().tobytes()).hexdigest()
    start = "peft-seed-0" if job.start is None else f"start-{digest[:12]}"
    record = Compatibility(job.base, base_digest(worker.pipe.unet, worker.layout), start)
    dataset = write_dataset(
        matrix[: len(ids)], job.out, layout=worker.layout, ids=ids, labels=labels,
        **{"compatibility": record, **options},
    )  # fmt: skip
    worker.run.remove()
    return TrainingResult(dataset, lost, sizes)
