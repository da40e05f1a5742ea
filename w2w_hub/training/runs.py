"""The folder of an unfinished training run: its plan, the state of the batch in work, and finished rows."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from ..common.interrupts import held_interrupts
from ..common.progress import notice, progress
from ..errors import AlreadyExistsError, InvalidInputError
from ..store.atomic import write_bytes, write_json
from ..store.manifest import read_json_in
from ..store.tensorfile import read_safetensors
from .trainer import Trainer

PLAN, LIMIT, PICTURES, TOGETHER = "plan.json", "limit.json", "pictures", "together"
SAVE_SECONDS = 60.0
COMPILING = "compiling the base model, once, which takes minutes"


def unfinished(out: Path) -> Path:
    """Return the folder of the unfinished run whose result will be `out`."""
    return out.with_name(f".{out.name}.w2w-training")


@dataclass(frozen=True)
class Finished:
    """A finished batch.

    Attributes
    ----------
    rows : ndarray
        float32 ``(n, size)``.
    lost : ndarray
        Boolean ``(n,)``: whether the loss was not finite.
    together : int
        Identities in a forward pass, including copies that only filled the batch.
    """

    rows: np.ndarray
    lost: np.ndarray
    together: int


class Run:
    """An unfinished run on disk, which a killed process leaves and the next one continues.

    The folder appears with the first saved state. A batch is a range of identities.

    Parameters
    ----------
    out : Path
        The result's path; the run is in a hidden folder beside it.
    plan : mapping
        Everything that decides the result besides the pictures, as JSON. A run goes on only under the same plan.
    resume : bool
        Whether to go on with a run that is there.
    restart : bool
        Whether to remove a run that is there.

    Raises
    ------
    AlreadyExistsError
        If there is an unfinished run, and `resume` and `restart` are False.
    InvalidInputError
        If it has another plan.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], *, resume: bool, restart: bool = False):
        self.out, self.folder = out, unfinished(out)
        self.plan: dict[str, Any] = json.loads(json.dumps(plan))
        self.saved = time.monotonic()
        if os.path.lexists(self.folder) and not resume:
            if not restart:
                raise AlreadyExistsError(
                    f"{out} has an unfinished training run; go on with --resume (in Python: resume=True), or start "
                    "again with --force (overwrite=True)",
                    path=self.folder,
                )
            self.remove()
        if (self.folder / PLAN).exists():
            before = read_json_in(self.folder, PLAN)
            self._require_same(name for name in {*before, *self.plan} if before.get(name) != self.plan.get(name))

    def _require_same(self, changed: Any) -> None:
        names = ", ".join(sorted(changed))
        if names:
            raise InvalidInputError(
                f"{self.out}: the unfinished run had other settings or pictures ({names}); repeat its command, or "
                "start again with --force (overwrite=True)",
                path=self.folder,
            )

    def _file(self, kind: str, batch: range) -> Path:
        return self.folder / f"{kind}-{batch.start:06d}-{batch.stop:06d}.safetensors"

    def _write(self, file: Path, data: bytes) -> None:
        self._write_plan()
        write_bytes(file, data, replace=True)

    def _write_plan(self) -> None:
        if not (self.folder / PLAN).exists():
            write_json(self.folder / PLAN, self.plan, replace=True)  # other processes write the same

    def _read(self, file: Path, pictures: str) -> dict[str, np.ndarray] | None:
        if not file.exists():
            return None
        values, header = read_safetensors(file)
        self._require_same([PICTURES] if header.get(PICTURES) != pictures else [])
        return values

    # ------------------------------------------------------------ the batch in work
    def save(self, batch: range, pictures: str, trainer: Trainer, *, now: bool = False) -> None:
        """Save a batch's state if the last time is a minute ago, or `now`; `pictures` is their fingerprint."""
        if now or time.monotonic() - self.saved > SAVE_SECONDS:
            state = {name: values.detach().cpu().contiguous() for name, values in trainer.state().items()}
            self._write(self._file("state", batch), safetensors.torch.save(state, {PICTURES: pictures}))
            self.saved = time.monotonic()

    def restore(self, batch: range, pictures: str, trainer: Trainer) -> None:
        """Bring a trainer to the saved state of its batch, if there is one.

        Raises
        ------
        InvalidInputError
            If its pictures were others.
        """
        values = self._read(self._file("state", batch), pictures)
        if values is not None:
            trainer.restore({name: torch.from_numpy(np.array(value)) for name, value in values.items()})

    # ------------------------------------------------------------ what fits in memory
    @property
    def limit(self) -> int | None:
        """The number of identities that fit in memory together, if it ran out before."""
        file = self.folder / LIMIT
        found = read_json_in(self.folder, LIMIT).get("identities") if file.exists() else None
        return found if isinstance(found, int) and found > 0 else None

    @limit.setter
    def limit(self, identities: int) -> None:
        self._write_plan()
        write_json(self.folder / LIMIT, {"identities": identities}, replace=True)

    # ------------------------------------------------------------ finished batches
    def has(self, batch: range) -> bool:
        """Return whether a batch is finished."""
        return self._file("rows", batch).exists()

    def finished(self, batch: range, pictures: str | None = None) -> Finished | None:
        """Return a finished batch's rows, or None; with `pictures`, raise if they were others."""
        file = self._file("rows", batch)
        if not file.exists():
            return None
        values, header = read_safetensors(file)
        self._require_same([PICTURES] if pictures not in (None, header.get(PICTURES)) else [])
        return Finished(values["rows"], values["lost"].astype(bool), int(header.get(TOGETHER, len(batch))))

    def finish(self, batch: range, pictures: str, trainer: Trainer) -> None:
        """Keep a batch's rows, and remove its state; the trainer's further identities only filled its batch."""
        rows, lost = trainer.rows()[: len(batch)], trainer.lost[: len(batch)]
        values = {"rows": rows.cpu().numpy(), "lost": lost.cpu().numpy().astype(np.uint8)}
        facts = {PICTURES: pictures, TOGETHER: str(len(trainer.data))}
        self._write(self._file("rows", batch), safetensors.numpy.save(values, facts))
        self._file("state", batch).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the run: its result is written, or it starts again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def train(
    trainer: Trainer,
    text: str,
    run: Run | None = None,
    batch: range = range(1),
    pictures: str = "",
    on_step: Callable[[int, float], None] | None = None,
    *,
    watch: Callable[[Trainer], None] | None = None,
    bar: bool = True,
) -> None:
    """Advance to the last step with progress, from the state that the run has of the batch.

    The state is saved once a minute and on an interrupt, which acts between two steps and says what was kept. `watch`
    is called with the trainer before the first step and after every step, and changes nothing of it.
    """
    if run is not None:
        run.restore(batch, pictures, trainer)
    steps, recent = range(trainer.step, trainer.recipe.steps), list[float]()

    def status() -> str:
        return f"loss {sum(recent) / len(recent):.4f}" if recent else ""

    with held_interrupts() as release:
        try:
            if watch is not None:
                watch(trainer)
                release()
            for step in progress(steps, text, total=len(steps), status=status) if bar else steps:
                with notice(COMPILING) if bar and trainer.engine.compiles_next else nullcontext():
                    losses = trainer.advance()
                if on_step is not None or step % 10 == 0:  # reading a loss waits for the device
                    recent[:] = [*recent[-19:], float(losses.nanmean())]
                if on_step is not None:
                    on_step(trainer.step, recent[-1])
                if run is not None:
                    run.save(batch, pictures, trainer)
                if watch is not None:
                    watch(trainer)
                release()
        except KeyboardInterrupt as interrupt:
            if run is not None and not trainer.in_step:
                run.save(batch, pictures, trainer, now=True)
                done = f"{trainer.step:,} of {trainer.recipe.steps:,} steps"
                interrupt.add_note(f"{text}: {done} are kept, and --resume (resume=True) goes on")
            raise
