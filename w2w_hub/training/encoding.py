"""Pictures and prompts encoded by the base model, each once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.text import counted
from ..common.warn import warn_caller
from ..errors import InvalidInputError
from ..models.pipelines.inputs import encode_pictures, encode_text
from ..models.pipelines.quiet import no_truncation_notes
from .class_pictures import class_pictures
from .data import Prompts, TrainingData
from .opening import OpenedBase
from .pictures import TrainingPicture
from .recipe import TrainingRecipe

VARIANTS = 16  # of a caption with parts left out
PICTURES_AT_ONCE = 8


def encode(
    people: Sequence[Sequence[TrainingPicture]], captions: Sequence[str | None], base: OpenedBase,
    recipe: TrainingRecipe, class_latents: torch.Tensor | None,
) -> TrainingData:  # fmt: skip
    """Return the encoded pictures and captions of identities.

    Parameters
    ----------
    captions : sequence of str or None
        Caption of each identity's pictures that have none; by default the recipe's prompt.
    class_latents : Tensor or None
        The encoded class pictures, see :func:`class_latents_of`.
    """
    book = _PromptBook(base.pipe)
    numbers = [_numbers(book, shown, recipe, caption) for shown, caption in zip(people, captions, strict=True)]
    class_prompt = 0 if recipe.class_prompt is None else book.number(recipe.class_prompt)
    latents = [_latents(base, [picture.image for picture in shown], str(shown[0].path.parent)) for shown in people]
    device = latents[0].device
    prompts = book.encoded()
    _require_finite(base, prompts.text, "text encoder", "a prompt or caption")
    return TrainingData(
        tuple(latents), tuple(number.to(device) for number in numbers), prompts, class_latents, class_prompt
    )


def class_latents_of(base: OpenedBase, recipe: TrainingRecipe, cache: Path | None = None) -> torch.Tensor | None:
    """Return the encoded class pictures, which all identities share; None for a recipe without any."""
    if recipe.class_prompt is None:
        return None
    return _latents(base, class_pictures(base, recipe, cache), "the class pictures")


def _latents(base: OpenedBase, pictures: Sequence[Any], where: str) -> torch.Tensor:
    """Return the scaled latents of pictures, encoded a few at a time; `where` they are is named in an error."""
    parts = range(0, len(pictures), PICTURES_AT_ONCE)
    found = torch.cat([encode_pictures(base.pipe, list(pictures[i : i + PICTURES_AT_ONCE])) for i in parts])
    _require_finite(base, found, "autoencoder", where)
    return found


def _require_finite(base: OpenedBase, values: torch.Tensor, encoder: str, of_what: str) -> None:
    if not torch.isfinite(values).all():
        raise InvalidInputError(
            f"{base.name}: its {encoder} makes NaN or infinite values of {of_what}; compute in float32 (--precision), "
            "or check the base model"
        )


class _PromptBook:
    """Numbers prompts and encodes each once."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.numbers: dict[str, int] = {}

    def number(self, prompt: str) -> int:
        return self.numbers.setdefault(prompt, len(self.numbers))

    def encoded(self) -> Prompts:
        with no_truncation_notes(self.pipe):  # of prompts that are too long, which is said once
            found = [encode_text(self.pipe, prompt) for prompt in self.numbers]
        if not found:
            raise InvalidInputError("there are no prompts to train on")
        self._note_long()
        added = {name: torch.stack([more[name] for _, more in found]) for name in found[0][1]}
        return Prompts(torch.stack([text for text, _ in found]), added)

    def _note_long(self) -> None:
        """Warn of prompts that the text encoder reads only in part."""
        tokenizer = getattr(self.pipe, "tokenizer", None)
        most = getattr(tokenizer, "model_max_length", None)
        if tokenizer is None or most is None:
            return
        with no_truncation_notes(self.pipe):
            long = [prompt for prompt in self.numbers if len(tokenizer(prompt).input_ids) > most]
        if long:
            prompts = counted(len(long), "prompt or caption is", "prompts and captions are")
            warn_caller(f"{prompts} longer than the {most:,} tokens that the base model reads; the rest has no effect")


def _numbers(
    book: _PromptBook, pictures: Sequence[TrainingPicture], recipe: TrainingRecipe, caption: str | None
) -> torch.Tensor:
    """Return each picture's prompts, int64 ``(pictures, variants)``: with dropout of captions' parts, several."""
    variants = VARIANTS if recipe.caption_dropout > 0 else 1
    texts = [with_parts_left_out(p.caption or caption or recipe.prompt, recipe, variants) for p in pictures]
    return torch.tensor([[book.number(text) for text in each] for each in texts])


def with_parts_left_out(caption: str, recipe: TrainingRecipe, variants: int) -> list[str]:
    """Return variants of a caption; each part after its first comma is left out with the recipe's probability.

    The choice depends on the seed and on a part's place alone, so that it is the same for all identities.
    """
    first, *others = [part.strip() for part in caption.split(",") if part.strip()] or [""]
    chosen = []
    for variant in range(variants):
        rng = random.Random(f"{recipe.seed} {variant}")
        kept = [part for part in others if rng.random() >= recipe.caption_dropout]
        chosen.append(", ".join([first, *kept]))
    return chosen
