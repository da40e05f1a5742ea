"""Pictures of an identity while it trains: the same prompts and noise after every so many steps."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..common.constraints import Rule, names, optional, whole
from ..common.warn import warn_caller
from ..dialects.generation import SETTINGS as GENERATION
from ..errors import InvalidInputError
from ..models.injection import inject_hooks
from ..models.pictures import contact_sheet, open_picture
from ..store.atomic import remove_output, require_output, write_bytes, write_json
from ..store.manifest import read_json_in
from ..store.replacing import files_named
from .opening import OpenedBase
from .recipe import LARGEST_SEED, PROMPT, TrainingRecipe
from .trainer import Trainer

SHEET, SETTINGS = "sheet.png", "settings.json"
PROMPTS = Rule("a list of strings of valid Unicode", lambda value: [PROMPT.take(text) for text in names().take(value)])
OWN = files_named("step-*.png", SHEET, SETTINGS)
DRAWN_WITH = {"num_inference_steps": 25, "guidance_scale": 7.5}
MOST_COLUMNS, LARGEST_SIDE, DOUBLED = 16, 256, 128  # steps on the sheet; pixels; smaller pictures are doubled


@dataclass(frozen=True)
class Validation:
    """Which pictures are drawn while an identity trains.

    Attributes
    ----------
    every : int
        Steps from one picture to the next; they are also drawn before the first step and after the last.
    prompts : tuple of str
        By default the recipe's prompt.
    seed : int
        Seed of the initial noise, the same for every picture.
    num_inference_steps, guidance_scale : int, float, optional
        By default those of the weight space that is the base model, else 25 and 7.5.
    """

    every: int = 100
    prompts: tuple[str, ...] = ()
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.checked(getattr(self, name), f"Validation: {name}"))
        object.__setattr__(self, "prompts", tuple(self.prompts))


RULES: dict[str, Rule] = {
    "every": whole(1), "prompts": PROMPTS, "seed": whole(0, LARGEST_SEED),
    **{name: optional(rule) for name, rule in GENERATION.items()},
}  # fmt: skip


class ValidationPictures:
    """The folder ``OUT-validation``: a picture per step and prompt, and a contact sheet over the steps.

    The pictures change nothing of the training: they are drawn with a scheduler and a generator of their own.

    Raises
    ------
    AlreadyExistsError
        If the folder exists, without `resume` or `overwrite`.
    InvalidInputError
        If its pictures were drawn with other settings.
    """

    def __init__(
        self, validation: Validation, opened: OpenedBase, recipe: TrainingRecipe, out: Path, *, resume: bool,
        overwrite: bool,
    ):  # fmt: skip
        self.every, self.seed, self.opened, self.recipe = validation.every, validation.seed, opened, recipe
        self.prompts = validation.prompts or (recipe.prompt,)
        given = {name: getattr(validation, name) for name in DRAWN_WITH}
        given = {name: value for name, value in given.items() if value is not None}
        self.settings: dict[str, Any] = {**DRAWN_WITH, **opened.generation, **given}
        self.folder = out.with_name(f"{out.name}-validation")
        wanted = json.loads(json.dumps(asdict(validation) | self.settings | {"prompts": self.prompts}))
        if resume and self.folder.is_dir():
            found = read_json_in(self.folder, SETTINGS) if (self.folder / SETTINGS).exists() else wanted
            if found != wanted:
                raise InvalidInputError(
                    f"{self.folder}: these pictures were drawn with other settings; repeat them, or remove the folder",
                    path=self.folder,
                )
        else:
            require_output(self.folder, overwrite=overwrite, own=OWN)
            remove_output(self.folder, OWN)
        self.wanted, self.started = wanted, False

    def __call__(self, trainer: Trainer) -> None:
        """Draw if it is time to, and write the pictures and the sheet so far."""
        step, is_first, self.started = trainer.step, not self.started, True
        is_due = step % self.every == 0 or step == self.recipe.steps
        if not is_due or bool(trainer.lost.any()):
            return
        if is_first and self._is_drawn(step):
            return  # drawn before the run was interrupted
        try:
            pictures = self.drawn(trainer.averaged[0])
        except torch.OutOfMemoryError:
            warn_caller(f"{self.folder}: memory ran out while drawing at step {step:,}; not drawn")
            return
        if not (self.folder / SETTINGS).exists():
            write_json(self.folder / SETTINGS, self.wanted, replace=True)
        for prompt, picture in enumerate(pictures):
            write_bytes(self.file(step, prompt), _png(picture), replace=True)
        write_bytes(self.folder / SHEET, _png(self.sheet(step)), replace=True)

    def file(self, step: int, prompt: int) -> Path:
        """Return the path of a picture, by step and the number of its prompt."""
        return self.folder / f"step-{step:06d}-{prompt}.png"

    def _is_drawn(self, step: int) -> bool:
        return all(self.file(step, prompt).exists() for prompt in range(len(self.prompts)))

    def drawn(self, row: torch.Tensor) -> list[Image.Image]:
        """Draw one picture per prompt with a row injected."""
        pipe = self.opened.pipe
        scheduler, pipe.scheduler = pipe.scheduler, copy.deepcopy(pipe.scheduler)
        try:
            with inject_hooks(self.opened.denoiser, self.opened.layout, row[None]):
                return [
                    pipe(prompt, generator=torch.Generator().manual_seed(self.seed), **self.settings).images[0]
                    for prompt in self.prompts
                ]
        finally:
            pipe.scheduler = scheduler

    def sheet(self, step: int) -> Image.Image:
        """Return a sheet with a row per prompt and a column per step up to this one; of many steps, some."""
        prompts = range(len(self.prompts))
        steps = [number for number in sorted({*range(0, step + 1, self.every), step}) if self._is_drawn(number)]
        places = np.linspace(0, len(steps) - 1, min(len(steps), MOST_COLUMNS)).round().astype(int)
        steps = [steps[place] for place in places]
        pictures = [[_small(open_picture(self.file(n, p))) for n in steps] for p in prompts]
        values = np.array([[np.asarray(picture) for picture in row] for row in pictures]) / np.float32(255)
        scale = 2 if values.shape[3] <= DOUBLED else 1
        return contact_sheet(values, self.prompts, [f"step {n:,}" for n in steps], scale=scale)


def _small(picture: Image.Image) -> Image.Image:
    """Return a picture with no side above `LARGEST_SIDE`."""
    shown = picture.copy()
    shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return shown


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()
