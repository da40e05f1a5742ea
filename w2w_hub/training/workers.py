"""Workers of a large training run: batches of identities on one device, or on several in a process each."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..common.interrupts import interrupt
from ..common.processes import worker_processes
from ..common.progress import progress
from ..common.text import counted, duration
from ..common.warn import warn_caller
from ..models.devices import current
from ..models.pipelines.quiet import no_loading_bars
from .data import TrainingData
from .encoding import class_latents_of, encode
from .engines import Engine
from .opening import OpenedBase, open_base
from .people import Person
from .pictures import fingerprint, read_pictures
from .recipe import TrainingRecipe
from .runs import Run, memory_explained, train
from .trainer import Trainer

ADVICE = "lower --at-once, or train on fewer devices"


@dataclass(frozen=True)
class Job:
    """Arguments of :func:`train_many`, for another process."""

    people: list[Person]
    base: str
    out: Path
    recipe: TrainingRecipe
    reference: Path | None
    start: Path | None
    at_once: int
    engine: str
    cache: Path | None

    @property
    def batches(self) -> list[range]:
        """Positions of the identities that train together."""
        count = len(self.people)
        return [range(i, min(i + self.at_once, count)) for i in range(0, count, self.at_once)]


def plan_of(job: Job, opened: OpenedBase) -> dict[str, Any]:
    """Return everything besides the pictures that decides the result of a job."""
    people = [[person.id, person.caption] for person in job.people]
    return opened.plan(job.engine, people=people, at_once=job.at_once)


def halves(batch: range) -> tuple[range, range]:
    """Return the two halves of a batch of several identities."""
    middle = batch.start + len(batch) // 2
    return range(batch.start, middle), range(middle, batch.stop)


class Worker:
    """Trains batches on one device.

    Parameters
    ----------
    bars : bool
        Whether to show each batch's progress.
    """

    def __init__(self, job: Job, opened: OpenedBase, run: Run, *, bars: bool = True):
        self.job, self.opened, self.run, self.bars = job, opened, run, bars
        self.engine = Engine(job.engine)  # one for all batches, so that the model is compiled once
        self.most = min(job.at_once, run.limit or job.at_once)  # identities that fit in memory together

    @cached_property
    def class_latents(self) -> torch.Tensor | None:
        """The encoded class pictures, the same for all batches."""
        return class_latents_of(self.opened, self.job.recipe, self.job.cache)

    def work(self, batches: Sequence[range]) -> None:
        """Train what is not finished yet."""
        began, trained = time.monotonic(), 0
        for number, batch in enumerate(batches, 1):
            text = f"batch {number:,} of {len(batches):,}"
            if trained:
                each = (time.monotonic() - began) / trained
                text += f" (all in about {duration(each * (len(batches) - number + 1))})"
            trained += not self.run.has(batch)
            self._train(batch, text)

    def _train(self, batch: range, text: str) -> None:
        if len(batch) <= self.most or self.run.has(batch):
            try:
                with memory_explained() if len(batch) == 1 else nullcontext():
                    self._train_together(batch, text)
                return
            except torch.OutOfMemoryError:
                self.run.limit = self.most = max(map(len, halves(batch)))
                warn_caller(
                    f"memory ran out with {counted(len(batch), 'identity')} in a batch; training at most {self.most} "
                    "at once, whose results differ in rounding"
                )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # now that the error no longer holds what filled the memory
        for half in halves(batch):
            self._train(half, text)

    def _train_together(self, batch: range, text: str) -> None:
        job, opened, people = self.job, self.opened, self.job.people[batch.start : batch.stop]
        digest = fingerprint([person.folder for person in people])
        if self.run.finished(batch, digest) is not None:
            return
        pictures = [read_pictures(person.folder, opened.size) for person in people]
        data = encode(pictures, [person.caption for person in people], opened, job.recipe, self.class_latents)
        if self.engine.compiles:
            data = _filled(data, min(self.most, len(job.people)))
        trainer = Trainer(
            opened.denoiser, opened.layout, opened.objective, data, opened.start, job.recipe,
            engine=self.engine,
        )  # fmt: skip
        train(trainer, text, self.run, batch, digest, bar=self.bars)
        self.run.finish(batch, digest, trainer)


def _filled(data: TrainingData, count: int) -> TrainingData:
    """Return data of `count` identities, the last one repeated: a compiled model takes batches of one size."""
    return data.part([min(i, len(data) - 1) for i in range(max(count, len(data)))])


def work_on(devices: Sequence[str], job: Job, run: Run) -> None:
    """Share the batches out over one process per device; no gradients cross."""
    count = len(job.batches)
    with worker_processes(len(devices), ADVICE) as pool:
        found = [pool.submit(_work, job, device, i, len(devices)) for i, device in enumerate(devices)]
        try:
            for _ in progress(_as_finished(found, job, run), f"training on {len(devices)} devices", total=count):
                pass
            for message in dict.fromkeys(message for future in found for message in future.result()):
                warn_caller(message)
        except BaseException:  # also Ctrl-C
            for process in list((pool._processes or {}).values()):  # public since Python 3.14: terminate_workers
                process.terminate()  # leaving the pool waits for them, until the state of their step is saved
            raise


def _work(job: Job, device: str, first: int, step: int) -> list[str]:
    """Train some of the batches; return the warnings, which this process does not show."""
    no_loading_bars()
    with warnings.catch_warnings(record=True) as caught, current(torch.device(device)), _ended_after_a_step():
        opened = open_base(job.base, job.recipe, device, job.reference, job.start)
        run = Run(job.out, plan_of(job, opened), resume=True, part=True)
        Worker(job, opened, run, bars=False).work(job.batches[first::step])
    return [str(warning.message) for warning in caught]


@contextmanager
def _ended_after_a_step() -> Iterator[None]:
    """End this process on SIGTERM, which the command sends when it ends, between two steps: the state is saved.

    Ctrl-C reaches it through the command. A second SIGTERM, as of a batch system that sends it to all processes, does
    not make it lose the step.
    """
    came = False

    def end(number: int, frame: Any) -> None:
        nonlocal came
        if not came:
            came = True
            interrupt(number, frame)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _as_finished(found: Sequence[Future[list[str]]], job: Job, run: Run) -> Iterator[int]:
    """Yield once per finished batch; raise the first error of a process."""
    seen, waiting = 0, True
    while waiting:
        done, others = wait(found, timeout=1, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        waiting = bool(others)
        now = len(job.batches) if not waiting else sum(map(run.has, job.batches))
        yield from range(seen, now)
        seen = max(seen, now)
