"""Trains one LoRA per identity, for many identities in one batch, with common random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ...common.constraints import has, instance, number, optional, positive, validated, whole
from ...errors import InvalidInputError
from ...lora.layout import ParameterLayout
from ..denoising import draw_noise, identity_losses, pick, training_schedule
from ..injection import inject_hooks

LARGEST_SEED = 2**64 - 1  # that torch's generators accept


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
    on_step: Callable[[int, float], None] | None = None,
) -> torch.Tensor:
    """Train the adapters of `n` identities together.

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
        Defines the noise schedule and what the UNet predicts (``epsilon`` or ``v_prediction``).
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
    for name, values in (("latents", latents), ("text", text), ("start", start)):
        if not torch.isfinite(values).all():
            raise InvalidInputError(f"{name} hold NaN or infinite values")
    n, pictures = latents.shape[:2]
    device = latents.device
    weights = start.to(device, torch.float32)[None].repeat(n, 1)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    mean, averaged_from = torch.zeros_like(weights), steps - max(1, round(steps * average_last))
    scheduler = training_schedule(scheduler)
    noise_steps = scheduler.config.num_train_timesteps
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [torch.randperm(pictures, generator=generator) for _ in range(steps * batch_size // pictures + 1)]
    )
    for step in range(steps):
        picked = order[step * batch_size : (step + 1) * batch_size]
        noise, t = draw_noise(generator, latents, batch_size, noise_steps)
        rows = weights.detach().requires_grad_(True)
        with (
            inject_hooks(unet, layout, rows),
            torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None),
        ):
            losses = identity_losses(unet, scheduler, pick(latents, picked), noise, t, text, n)
        # a sum over identities, so that no gradient depends on another identity
        (gradient,) = torch.autograd.grad(losses.sum(), rows)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        rate = learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        denominator = (second / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
        weights.addcdiv_(first / (1 - 0.9 ** (step + 1)), denominator, value=-rate)
        if step >= averaged_from:
            mean += (weights - mean) / (step - averaged_from + 1)
        if on_step is not None:
            on_step(step + 1, float(losses.detach().mean()))
    return mean
