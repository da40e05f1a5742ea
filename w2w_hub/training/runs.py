"""The folder of an unfinished training run: its plan, the state of the group in work, and finished rows."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from ..errors import AlreadyExistsError, InvalidInputError
from ..store.atomic import write_bytes, write_json
from ..store.manifest import read_json_in
from ..store.tensorfile import read_safetensors
from .trainer import Trainer

PLAN = "plan.json"
SAVE_SECONDS = 60.0


def unfinished(out: Path) -> Path:
    """Return the folder of the unfinished run whose result will be `out`."""
    return out.with_name(f".{out.name}.w2w-training")


@dataclass(frozen=True)
class Finished:
    """The rows of a finished group.

    Attributes
    ----------
    rows : ndarray
        float32 ``(n, size)``.
    lost : ndarray
        Boolean ``(n,)``: identities whose loss was not finite.
    at_once : int
        Identities that trained together.
    """

    rows: np.ndarray
    lost: np.ndarray
    at_once: int


class Run:
    """An unfinished run on disk, which a killed process leaves and the next one continues.

    Parameters
    ----------
    out : Path
        The result's path; the run is in a hidden folder beside it.
    plan : mapping
        Everything that decides the result, as JSON. A run goes on only under the same plan.
    resume : bool
        Whether to go on with a run that is there.

    Raises
    ------
    AlreadyExistsError
        If there is an unfinished run and `resume` is False.
    InvalidInputError
        If it has another plan.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], *, resume: bool):
        self.folder = unfinished(out)
        plan = json.loads(json.dumps(plan))
        self.saved = time.monotonic()
        if self.folder.is_dir() and not resume:
            raise AlreadyExistsError(
                f"{out} has an unfinished training run; go on with --resume (resume=True), or remove {self.folder}",
                path=self.folder,
            )
        if self.folder.is_dir() and (self.folder / PLAN).exists():
            before = read_json_in(self.folder, PLAN)
            changed = sorted(name for name in {*before, *plan} if before.get(name) != plan.get(name))
            if changed:
                raise InvalidInputError(
                    f"{out}: the unfinished run has other settings ({', '.join(changed)}); repeat its command, or "
                    f"remove {self.folder}",
                    path=self.folder,
                )
        else:
            write_json(self.folder / PLAN, plan)

    # ------------------------------------------------------------ the group in work
    def _state(self, group: int) -> Path:
        return self.folder / f"state-{group:05d}.safetensors"

    def save(self, group: int, trainer: Trainer, *, now: bool = False) -> None:
        """Save a group's state if the last time is a minute ago, or `now`."""
        if now or time.monotonic() - self.saved > SAVE_SECONDS:
            state = {name: values.detach().cpu().contiguous() for name, values in trainer.state().items()}
            write_bytes(self._state(group), safetensors.torch.save(state), replace=True)
            self.saved = time.monotonic()

    def restore(self, group: int, trainer: Trainer) -> None:
        """Bring a trainer to the saved state of its group, if there is one."""
        file = self._state(group)
        if file.exists():
            values, _ = read_safetensors(file)
            trainer.restore({name: torch.from_numpy(np.array(value)) for name, value in values.items()})

    # ------------------------------------------------------------ finished groups
    def _rows(self, group: int) -> Path:
        return self.folder / f"rows-{group:05d}.safetensors"

    def finished(self, group: int) -> Finished | None:
        """Return a finished group's rows; None if it is not finished."""
        file = self._rows(group)
        if not file.exists():
            return None
        values, _ = read_safetensors(file)
        return Finished(values["rows"], values["lost"].astype(bool), int(values["at_once"]))

    def finish(self, group: int, rows: torch.Tensor, lost: torch.Tensor, losses: torch.Tensor, at_once: int) -> None:
        """Keep a group's rows, and remove its state."""
        values = {
            "rows": rows.numpy(), "lost": lost.numpy().astype(np.uint8), "losses": losses.numpy(),
            "at_once": np.array(at_once),
        }  # fmt: skip
        write_bytes(self._rows(group), safetensors.numpy.save(values), replace=True)
        self._state(group).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the run, after its result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
