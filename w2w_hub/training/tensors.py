"""Training from encoded pictures: tensors in, rows of a dataset out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..common.constraints import has, instance, number, one_of, optional, positive, validated, whole
from ..errors import InvalidInputError
from ..lora.layout import ParameterLayout
from .data import Prompts, TrainingData
from .engines import KINDS
from .objective import objective_of
from .recipe import LARGEST_SEED, TrainingRecipe
from .trainer import Trainer


@validated(layout=instance(ParameterLayout, "a ParameterLayout"), seed=whole(0, LARGEST_SEED))
def kaiming_start(layout: ParameterLayout, seed: int) -> torch.Tensor:
    """Return PEFT's initialization as one vector ``(layout.size,)``: A Kaiming-uniform (a = sqrt 5), B zero."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.zeros(layout.size)
    for slot in layout.slots:
        a = torch.rand(slot.rank * slot.columns, generator=generator) * 2 - 1
        start[slot.offset : slot.b_offset] = a / math.sqrt(slot.columns)
    return start


@validated(
    unet=instance(torch.nn.Module, "a torch module"),
    layout=instance(ParameterLayout, "a ParameterLayout"),
    latents=instance(torch.Tensor, "a tensor"),
    text=instance(torch.Tensor, "a tensor"),
    start=instance(torch.Tensor, "a tensor"),
    steps=whole(1),
    batch_size=whole(1),
    learning_rate=positive(),
    average_last=number(0, 1),
    seed=whole(0, LARGEST_SEED),
    autocast_dtype=optional(instance(torch.dtype, "a torch dtype")),
    engine=one_of(*KINDS),
    on_step=optional(has("__call__", "a function")),
)
def train_identities(
    unet: torch.nn.Module,
    layout: ParameterLayout,
    scheduler: Any,
    latents: torch.Tensor,
    text: torch.Tensor,
    start: torch.Tensor,
    *,
    steps: int = 800,
    batch_size: int = 1,
    learning_rate: float = 3e-3,
    average_last: float = 0.25,
    seed: int = 0,
    autocast_dtype: torch.dtype | None = None,
    engine: str = "eager",
    on_step: Callable[[int, float], None] | None = None,
) -> torch.Tensor:
    """Train the adapters of `n` identities together, by Adam under a cosine, without class pictures.

    All identities use the same timesteps, noise and picture index at each step (common random numbers, as the paper's
    one seed for all runs does), so that rows differ by the identity alone. The timesteps of a step are stratified over
    the schedule, each picture is used equally often, and the returned weights are the mean over the last steps; this
    averages out the drift that all rows would share because their batches are small. Source: weights2weights, section
    4.1 (DreamBooth, rank 1, one seed); the variance reduction is ours.

    Parameters
    ----------
    unet : Module
        The base model's frozen UNet.
    scheduler : diffusers scheduler
        Defines the noise schedule and what the UNet predicts (``epsilon``, ``v_prediction``, or flow matching).
    latents : Tensor
        ``(n, pictures, c, h, w)``, scaled as the UNet expects.
    text : Tensor
        ``(tokens, width)`` encoded prompt, the same for all identities.
    start : Tensor
        ``(layout.size,)``: the shared initialization.
    batch_size : int
        Samples per identity and step.
    average_last : float
        Fraction of the steps, 0 to 1, at the end, whose weights are averaged; at least the last step.
    engine : {"eager", "compiled", "captured", "compiled+captured"}
        How steps run; "captured" needs a GPU, see :class:`w2w_hub.training.engines.Engine`.

    Returns
    -------
    Tensor
        float32 ``(n, layout.size)``.

    Raises
    ------
    InvalidInputError
        If an argument is out of its range, or a tensor has another shape or NaN in it.
    """
    if latents.ndim != 5 or not latents.numel():
        raise InvalidInputError(f"latents must be (n, pictures, c, h, w), not {tuple(latents.shape)}")
    if text.ndim != 2 or start.shape != (layout.size,):
        raise InvalidInputError(
            f"text must be (tokens, width) and start ({layout.size},), not {tuple(text.shape)} and {tuple(start.shape)}"
        )
    for name, values in (("latents", latents), ("text", text)):
        if not values.is_floating_point() or values.is_meta:
            raise InvalidInputError(f"{name} must be floating-point values, not {values.dtype} on {values.device}")
    captions = torch.zeros((latents.shape[1], 1), dtype=torch.long, device=latents.device)
    data = TrainingData(tuple(latents), (captions,) * len(latents), Prompts(text.to(latents.device)[None]))
    recipe = TrainingRecipe(
        class_prompt=None, steps=steps, batch_size=batch_size, learning_rate=learning_rate, schedule="cosine",
        weight_decay=0.0, max_grad_norm=None, average_last=average_last, seed=seed,
    )  # fmt: skip
    trainer = Trainer(
        unet, layout, objective_of(scheduler), data, start, recipe, engine=engine, autocast_dtype=autocast_dtype
    )
    while not trainer.done:
        losses = trainer.advance()
        if on_step is not None:
            on_step(trainer.step, float(losses.mean()))
    return trainer.rows()
