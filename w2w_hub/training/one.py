"""Training of one identity, from a folder of pictures to a LoRA checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..common.arguments import place
from ..common.constraints import flag, has, instance, one_of, optional, path, text, validated
from ..common.progress import progress
from ..dialects import read_adapter, write_adapter
from ..dialects.writing import DEFAULT_DIALECTS
from ..errors import ConvergenceError, LayoutMismatchError
from ..lora.adapter import Adapter
from ..lora.layout import ParameterLayout
from ..models.injection import base_digest
from ..models.pipelines import best_device
from ..models.pipelines.inputs import picture_size
from ..store.atomic import require_new
from .class_pictures import class_pictures
from .data import TrainingData
from .encoding import PromptBook, caption_numbers, encoded, open_base
from .objective import objective_of
from .pictures import TrainingPicture, read_pictures
from .recipe import TrainingRecipe
from .runs import Run
from .tensors import kaiming_start
from .trainer import ENGINES, Trainer

START_SEED = 0


@validated(
    pictures=path(), base=place(), out=optional(path()), recipe=instance(TrainingRecipe, "a TrainingRecipe"),
    layout=optional(instance(ParameterLayout, "a ParameterLayout")), start=optional(path()), caption=optional(text()),
    device=optional(text()), engine=one_of(*ENGINES), cache=optional(path()), resume=flag(),
    on_step=optional(has("__call__", "a function")),
)  # fmt: skip
def train_identity(
    pictures: Path | str,
    base: Path | str,
    out: Path | str | None = None,
    *,
    recipe: TrainingRecipe = TrainingRecipe(),  # noqa: B008, it is immutable
    layout: ParameterLayout | None = None,
    start: Path | str | None = None,
    caption: str | None = None,
    device: str | None = None,
    engine: str = "eager",
    cache: Path | str | None = None,
    resume: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Adapter:
    """Train a LoRA of one identity from a folder of pictures (DreamBooth with prior preservation).

    Parameters
    ----------
    pictures : path
        A folder of pictures of one person, with captions in ``NAME.txt`` or ``metadata.jsonl`` if there are any; see
        :func:`read_pictures`.
    base : path or str
        The base model: a diffusers folder, a weight space with an embedded base model, or a repository.
    out : path, optional
        A new folder for the adapter, in the PEFT and diffusers dialects.
    layout : ParameterLayout, optional
        Layout of the dataset that the adapter is for. By default the recipe's rank, alpha and target modules decide.
    start : path, optional
        Adapter to start from, whose B may be zero: the shared initialization of a dataset. By default PEFT's, with
        seed 0.
    caption : str, optional
        Caption of the pictures without one; by default the recipe's prompt.
    device : str, optional
        By default the fastest of the machine.
    engine : {"eager", "compiled", "captured"}
        See :class:`Trainer`.
    cache : path, optional
        Folder of cached class pictures.
    resume : bool
        Go on with an unfinished run of the same settings; needs `out`.
    on_step : callable, optional
        Called with the number of finished steps and the loss.

    Returns
    -------
    Adapter

    Raises
    ------
    MissingPathError, CorruptFileError
        If pictures or the base model cannot be read.
    LayoutMismatchError
        If `start` has another layout.
    ConvergenceError
        If the loss is not finite.
    AlreadyExistsError
        If `out` exists, or an unfinished run of it and `resume` is False.

    Notes
    -----
    Source: weights2weights, section 4.1, whose settings are the defaults of :class:`TrainingRecipe`.
    """
    target = None if out is None else require_new(Path(out))
    device = device or best_device()
    pipe = open_base(base, recipe, device)
    found = read_pictures(pictures, picture_size(pipe))
    layout = layout or ParameterLayout.from_model(pipe.unet, recipe.targets, recipe.rank, recipe.scale)
    vector = start_vector(layout, start)
    run = None
    if target is not None:
        run = Run(target, plan_of(pipe, layout, vector, recipe, {"identity": found}, engine), resume=resume)
    data = encode([found], pipe, layout, recipe, [caption], None if cache is None else Path(cache))
    trainer = Trainer(pipe.unet, layout, objective_of(pipe.scheduler), data, vector, recipe, engine=engine)
    if run is not None:
        run.restore(0, trainer)
    train(trainer, run, 0, "training", on_step)
    if bool(trainer.lost.any()):
        raise ConvergenceError(
            f"{pictures}: the loss is not finite; lower the learning rate, or compute in float32 (precision)"
        )
    adapter = layout.unflatten(trainer.rows()[0].cpu().numpy())
    adapter.base_model = str(base)
    if target is not None:
        write_adapter(adapter, target, DEFAULT_DIALECTS)
        assert run is not None
        run.remove()
    return adapter


def start_vector(layout: ParameterLayout, start: Path | str | None) -> torch.Tensor:
    """Return the initialization in an adapter's file, or PEFT's with seed 0, float32 ``(layout.size,)``."""
    if start is None:
        return kaiming_start(layout, START_SEED)
    adapter = read_adapter(start)
    found = ParameterLayout.from_adapter(adapter, scale=layout.scale)
    if found.digest != layout.digest:
        raise LayoutMismatchError(f"{start}: {layout.differences(found)}; start from an adapter of the same layout")
    return torch.from_numpy(layout.flatten(adapter))


def plan_of(
    pipe: Any, layout: ParameterLayout, start: torch.Tensor, recipe: TrainingRecipe,
    people: dict[str, list[TrainingPicture]], engine: str, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return everything that decides the result of a run, for its folder."""
    import hashlib

    pictures = {
        name: [
            [picture.path.name, hashlib.sha256(picture.image.tobytes()).hexdigest()[:16], picture.caption]
            for picture in shown
        ]
        for name, shown in people.items()
    }
    return {
        "recipe": recipe.to_json(), "layout": layout.digest, "base": base_digest(pipe.unet, layout),
        "start": hashlib.sha256(start.numpy().tobytes()).hexdigest(), "pictures": pictures, "engine": engine,
        "dtype": str(pipe.unet.dtype), "device": str(pipe.device.type), **more,
    }  # fmt: skip


def _fingerprint(picture: TrainingPicture) -> list[str | None]:
    return [picture.path.name, hashlib.sha256(picture.image.tobytes()).hexdigest(), picture.caption]


def encode(
    people: list[list[TrainingPicture]], pipe: Any, layout: ParameterLayout, recipe: TrainingRecipe,
    captions: list[str | None], cache: Path | None,
) -> TrainingData:  # fmt: skip
    """Encode pictures, captions and class pictures, each once."""
    book = PromptBook(pipe)
    numbers = [caption_numbers(book, shown, recipe, caption) for shown, caption in zip(people, captions, strict=True)]
    class_latents, class_prompt = None, 0
    if recipe.class_prompt is not None:
        class_prompt = book.number(recipe.class_prompt)
        class_latents = encoded(pipe, class_pictures(pipe, layout, recipe, cache))
    latents = [encoded(pipe, [picture.image for picture in shown]) for shown in people]
    device = latents[0].device
    return TrainingData(
        tuple(latents), tuple(number.to(device) for number in numbers), book.encoded(), class_latents, class_prompt
    )


def train(
    trainer: Trainer, run: Run | None, group: int, text: str, on_step: Callable[[int, float], None] | None = None
) -> None:
    """Advance to the last step with a progress bar, and save the state once a minute and on an interrupt."""
    shown: list[float] = []

    def status() -> str:
        return f"loss {sum(shown) / len(shown):.4f}" if shown else ""

    left = range(trainer.step, trainer.recipe.steps)
    try:
        for step in progress(left, text, total=len(left), status=status):
            losses = trainer.advance()
            if on_step is not None or step % 10 == 0:  # reading a loss waits for the device
                shown[:] = [*shown[-19:], float(losses.mean())]
            if on_step is not None:
                on_step(trainer.step, shown[-1])
            if run is not None:
                run.save(group, trainer)
    except KeyboardInterrupt:
        if run is not None:
            run.save(group, trainer, now=True)
        raise
