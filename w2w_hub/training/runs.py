"""The folder of an unfinished training run: its plan, the state of the batch in work, and finished rows."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from ..common.interrupts import held_interrupts
from ..common.progress import notice, progress
from ..errors import AlreadyExistsError, CorruptFileError, InvalidInputError, OutOfMemoryError
from ..store.atomic import as_disk_error, write_bytes, write_json
from ..store.locks import lock_folder
from ..store.manifest import read_json_in
from ..store.paths import short
from ..store.tensorfile import read_safetensors
from .trainer import Trainer

DIGESTS = ("base", "layout", "start")  # in a plan: what a reader would not recognize
PLAN, LIMIT, PICTURES, TOGETHER = "plan.json", "limit.json", "pictures", "together"
SAVE_SECONDS = 60.0
ONE, CLASSES = "one identity", "class pictures"
SMALLER = "lower --batch-size, compute in bfloat16 (--precision), or choose another device"
ELSEWHERE = "compute in bfloat16 (--precision), choose another device, or train without them (--no-class-pictures)"
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

    A context manager, which holds the folder's lock and says of an error what is kept. A folder without a saved state
    is removed on leaving. A batch is a range of identities.

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
    part : bool
        Whether this is a process of a command that holds the lock already.

    Raises
    ------
    AlreadyExistsError
        If there is an unfinished run, and `resume` and `restart` are False.
    BusyError
        If another command is training it.
    InvalidInputError
        If it has another plan.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], *, resume: bool, restart: bool = False, part: bool = False):
        self.out, self.folder = out, unfinished(out)
        self.plan: dict[str, Any] = json.loads(json.dumps(plan))
        self.saved = time.monotonic()
        self.kept = "what is trained so far is kept"  # said of an error
        self._lock: int | None = None
        self._made: list[Path] = []  # folders that were made for the run's
        if part:
            return
        self._take()
        try:
            self._begin(resume=resume, restart=restart)
        except BaseException:
            self._leave()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        refused = getattr(error, "path", None) == self.folder  # the message itself says what to do
        if error is not None and self.begun and not refused:
            error.add_note(f"{self.kept}, and --resume (resume=True) goes on")
        self._leave()

    @property
    def begun(self) -> bool:
        """Whether something is saved."""
        return (self.folder / PLAN).exists()

    def _take(self) -> None:
        """Make the folder and lock it."""
        self._made = [path for path in (self.folder, *self.folder.parents) if not os.path.lexists(path)]
        with as_disk_error(self.out):
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = None
                with suppress(FileNotFoundError):  # its last holder removed it in between
                    lock = lock_folder(self.folder, "another training run")
                    if lock is None or os.path.samestat(os.fstat(lock), os.lstat(self.folder)):
                        self._lock = lock
                        return
                if lock is not None:
                    os.close(lock)

    def _leave(self) -> None:
        """Release the lock, and remove the folders that were made for nothing."""
        if not self.begun:
            for path in dict.fromkeys([self.folder, *self._made]):
                with suppress(OSError):  # not empty, or not there
                    path.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin(self, *, resume: bool, restart: bool) -> None:
        if not self.begun:
            self._clear()  # what is left of a removal that was killed
        elif not resume:
            if not restart:
                raise AlreadyExistsError(
                    f"{self.out} has an unfinished training run; go on with --resume (in Python: resume=True), or "
                    "start again with --force (overwrite=True)",
                    path=self.folder,
                )
            self._clear()
        else:
            changed = _changes(self._json(PLAN), self.plan)
            if changed:
                raise self._other(f"other settings ({'; '.join(changed)})")

    def _clear(self) -> None:
        """Remove everything in the folder, the plan first: without one, nothing is a run's."""
        with as_disk_error(self.folder):
            (self.folder / PLAN).unlink(missing_ok=True)
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _json(self, name: str) -> dict[str, Any]:
        with self._damage_explained(self.folder / name):
            return read_json_in(self.folder, name)

    @contextmanager
    def _damage_explained(self, file: Path) -> Iterator[None]:
        """Raise the error of a damaged file of the run with what to do about it."""
        try:
            yield
        except CorruptFileError as error:
            advice = "start again with --force (overwrite=True)"
            if file.name != PLAN:
                advice = f"remove it and go on with --resume (resume=True), which repeats that part, or {advice}"
            raise CorruptFileError(
                f"{file}, of the unfinished training run, is damaged; {advice}", path=self.folder
            ) from error

    def _require_same_pictures(self, before: str | None, now: str) -> None:
        if before != now:
            raise self._other("other pictures or captions")

    def _other(self, what: str) -> InvalidInputError:
        return InvalidInputError(
            f"{self.out}: the unfinished run had {what}; repeat its command, or start again with --force "
            "(overwrite=True)",
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
        with self._damage_explained(file):
            values, header = read_safetensors(file)
        self._require_same_pictures(header.get(PICTURES), pictures)
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
            with self._damage_explained(self._file("state", batch)):
                trainer.restore({name: torch.from_numpy(np.array(value)) for name, value in values.items()})

    # ------------------------------------------------------------ what fits in memory
    @property
    def limit(self) -> int | None:
        """The number of identities that fit in memory together, if it ran out before."""
        file = self.folder / LIMIT
        found = self._json(LIMIT).get("identities") if file.exists() else None
        return found if isinstance(found, int) and found > 0 else None

    @limit.setter
    def limit(self, identities: int) -> None:
        self._write_plan()
        write_json(self.folder / LIMIT, {"identities": identities}, replace=True)

    # ------------------------------------------------------------ finished batches
    def rows_file(self, batch: range) -> Path:
        """Return the path of a finished batch's rows."""
        return self._file("rows", batch)

    def has(self, batch: range) -> bool:
        """Return whether a batch is finished."""
        return self.rows_file(batch).exists()

    def finished(self, batch: range, pictures: str | None = None) -> Finished | None:
        """Return a finished batch's rows, or None; with `pictures`, raise if they were others."""
        file = self.rows_file(batch)
        if not file.exists():
            return None
        with self._damage_explained(file):
            values, header = read_safetensors(file)
            if {name: len(value) for name, value in values.items()} != dict.fromkeys(("rows", "lost"), len(batch)):
                raise CorruptFileError(f"{file} does not hold {len(batch)} rows", path=file)
        if pictures is not None:
            self._require_same_pictures(header.get(PICTURES), pictures)
        return Finished(values["rows"], values["lost"].astype(bool), int(header.get(TOGETHER, len(batch))))

    def finish(self, batch: range, pictures: str, trainer: Trainer) -> None:
        """Keep a batch's rows, and remove its state; the trainer's further identities only filled its batch."""
        rows, lost = trainer.rows()[: len(batch)], trainer.lost[: len(batch)]
        values = {"rows": rows.cpu().numpy(), "lost": lost.cpu().numpy().astype(np.uint8)}
        facts = {PICTURES: pictures, TOGETHER: str(len(trainer.data))}
        self._write(self.rows_file(batch), safetensors.numpy.save(values, facts))
        self._file("state", batch).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the run: its result is written, or there is none."""
        with suppress(OSError):
            self._clear()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words how a plan differs from another."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}: {change}" for change in _changes(old, new)]
        elif old != new:
            is_plain = all(isinstance(value, (str, int, float, type(None))) for value in (old, new))
            found.append(f"{name} {short(old)}, now {short(new)}" if is_plain and name not in DIGESTS else name)
    return found


@contextmanager
def memory_explained(what: str = ONE, advice: str = SMALLER) -> Iterator[None]:
    """Raise an error of one line where the memory of a device does not suffice for something."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"the memory of the device does not suffice for {what}; {advice}") from error


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
        except KeyboardInterrupt:
            if run is not None and not trainer.in_step:
                run.save(batch, pictures, trainer, now=True)
                run.kept = f"{text}: {trainer.step:,} of {trainer.recipe.steps:,} steps are kept"
            raise
