"""Training loops that stop on time and resume, and their log."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> str:
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


class Stage:
    """One stage of the recipe: its checkpoint, its clock and its figures.

    Parameters
    ----------
    work : Path
        The recipe's working folder.
    name : str
        The stage's name; the checkpoint is ``work/<name>.checkpoint.pt``.
    minutes : float
        After so many minutes :meth:`steps` saves a checkpoint and raises :class:`OutOfTime`.
    """

    def __init__(self, work: Path, name: str, minutes: float):
        self.work, self.name, self.minutes = work, name, minutes
        self.started = time.monotonic()
        self.checkpoint = work / f"{name}.checkpoint.pt"
        self.before = 0.0  # seconds spent in earlier runs

    def say(self, *words: object) -> None:
        line = f"[{self.name} {self.seconds():7.1f} s] " + " ".join(map(str, words))
        print(line, flush=True)
        with open(self.work / "log.txt", "a") as file:
            file.write(line + "\n")

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def steps(
        self, total: int, save: Callable[[], Any], load: Callable[[Any], None], every: int = 200
    ) -> Iterator[int]:
        """Yield the steps still to do; `save` and `load` carry the state over an interruption."""
        first = 0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=DEVICE, weights_only=True)
            first, self.before = state["step"], state["seconds"]
            load(state["state"])
            self.say(f"resumed at step {first} of {total}")
        for step in range(first, total):
            if time.monotonic() - self.started > 60 * self.minutes:
                self._write(step, save())
                raise OutOfTime(f"{self.name}: stopped at step {step} of {total}; run the same command again")
            if step > first and step % every == 0:
                self._write(step, save())
            yield step

    def _write(self, step: int, state: Any) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        torch.save({"step": step, "seconds": self.seconds(), "state": state}, partial)
        os.replace(partial, self.checkpoint)

    def done(self, **figures: Any) -> None:
        """Write the stage's figures into ``recipe.json`` and drop its checkpoint."""
        path = self.work / "recipe.json"
        recipe = json.loads(path.read_text()) if path.exists() else {}
        recipe[self.name] = {"machine": machine(), "minutes": round(self.seconds() / 60, 2), **figures}
        path.write_text(json.dumps(recipe, indent=1))
        self.checkpoint.unlink(missing_ok=True)
        self.say("done", json.dumps(figures))


class OutOfTime(Exception):
    """Raised when a stage's time is over; its state is saved."""


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 ``(n, 64, 64, 3)`` to float ``(n, 3, 64, 64)`` in [-1, 1] on the device."""
    return images.to(DEVICE).permute(0, 3, 1, 2).float() / 127.5 - 1
