"""Opens a base model for training, and encodes pictures and prompts with it, each once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import BaseModelMismatchError, InvalidInputError
from ..models.pipelines.inputs import encode_pictures, encode_text
from ..models.pipelines.loading import base_at, open_stock
from .data import Prompts
from .pictures import TrainingPicture
from .recipe import TrainingRecipe

VARIANTS = 16  # of a caption with parts left out
PICTURES_AT_ONCE = 8


def precision(recipe: TrainingRecipe, device: str) -> torch.dtype:
    """Return the dtype in which the model computes."""
    if recipe.precision != "auto":
        return torch.float32 if recipe.precision == "float32" else torch.bfloat16
    fast = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def open_base(base: Path | str, recipe: TrainingRecipe, device: str, **options: Any) -> Any:
    """Open a base model's stock pipeline, frozen, on a device.

    Parameters
    ----------
    base : path or str
        A diffusers folder, a weight space with an embedded base model, or a repository.

    Raises
    ------
    MissingPathError, CorruptFileError
        If it cannot be opened.
    BaseModelMismatchError
        If its denoiser is not a UNet.
    """
    pipe = open_stock(base_at(base, options), precision(recipe, device))
    if getattr(pipe, "unet", None) is None:
        raise BaseModelMismatchError(f"{base} is a {type(pipe).__name__}; only base models with a UNet can be trained")
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return pipe.to(device)


def encoded(pipe: Any, pictures: Sequence[Any]) -> torch.Tensor:
    """Return the scaled latents of pictures, encoded a few at a time."""
    parts = range(0, len(pictures), PICTURES_AT_ONCE)
    return torch.cat([encode_pictures(pipe, list(pictures[i : i + PICTURES_AT_ONCE])) for i in parts])


class PromptBook:
    """Numbers prompts and encodes each once."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.numbers: dict[str, int] = {}

    def number(self, prompt: str) -> int:
        return self.numbers.setdefault(prompt, len(self.numbers))

    def encoded(self) -> Prompts:
        found = [encode_text(self.pipe, prompt) for prompt in self.numbers]
        if not found:
            raise InvalidInputError("there are no prompts to train on")
        added = {name: torch.stack([more[name] for _, more in found]) for name in found[0][1]}
        return Prompts(torch.stack([text for text, _ in found]), added)


def caption_numbers(
    book: PromptBook, pictures: Sequence[TrainingPicture], recipe: TrainingRecipe, caption: str | None = None
) -> torch.Tensor:
    """Return each picture's prompts, int64 ``(pictures, variants)``: with dropout of captions' parts, several.

    Parameters
    ----------
    caption : str, optional
        Caption of the pictures that have none; by default the recipe's prompt.
    """
    variants = VARIANTS if recipe.caption_dropout > 0 else 1
    return torch.tensor(
        [
            [book.number(text) for text in with_parts_left_out(p.caption or caption or recipe.prompt, recipe, variants)]
            for p in pictures
        ]
    )


def with_parts_left_out(caption: str, recipe: TrainingRecipe, variants: int) -> list[str]:
    """Return variants of a caption; each part after its first comma is left out with the recipe's probability.

    The choice depends on the seed and on a part's place alone, so that it is the same for all identities.
    """
    first, *others = [part.strip() for part in caption.split(",")]
    chosen = []
    for variant in range(variants):
        rng = random.Random(f"{recipe.seed} {variant}")
        kept = [part for part in others if rng.random() >= recipe.caption_dropout]
        chosen.append(", ".join([first, *kept]))
    return chosen
