"""The denoising objective that training and inversion share, for many identities in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import InvalidInputError


def training_schedule(scheduler: Any) -> Any:
    """The noise that a base model was trained with, as a `DDPMScheduler`, of a scheduler of whatever sampler.

    Samplers disagree on what `add_noise` returns: Euler's is not scaled as the model expects its input.

    Raises
    ------
    InvalidInputError
        If the scheduler has no betas (flow matching).
    """
    from diffusers import DDPMScheduler

    if isinstance(scheduler, DDPMScheduler):
        return scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InvalidInputError(f"{type(scheduler).__name__} has no noise schedule of betas, which inversion needs")
    return DDPMScheduler.from_config(scheduler.config)


def draw_noise(
    generator: torch.Generator, latents: torch.Tensor, batch_size: int, noise_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and timesteps of one step, the same for every identity; timesteps are stratified.

    `latents` is ``(identities, pictures, c, h, w)``; the results are of ``identities * batch_size``
    samples, of which sample i belongs to identity ``i % identities``.
    """
    identities = latents.shape[0]
    strata = torch.randperm(batch_size, generator=generator) + torch.rand(batch_size, generator=generator)
    timesteps = (strata / batch_size * noise_steps).long().clamp(max=noise_steps - 1).to(latents.device)
    noise = torch.randn((batch_size, *latents.shape[2:]), generator=generator).to(latents.device, latents.dtype)
    return noise.repeat_interleave(identities, 0), timesteps.repeat_interleave(identities)


def pick(latents: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """The same pictures of every identity, in the samples' order of :func:`draw_noise`."""
    return latents[:, pictures].transpose(0, 1).flatten(0, 1)


def identity_losses(
    unet: torch.nn.Module,
    scheduler: Any,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    identities: int,
    mask: torch.Tensor | None = None,
    conditions: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Mean squared denoising error of each identity ``(identities,)``; `text` is ``(tokens, width)``.

    `mask` ``(samples, 1, h, w)`` in [0, 1] weighs the latents' positions; the error is a mean over its weight.
    `conditions` are one sample's further conditions, as SDXL's UNet has them.
    """
    prompt = text.to(clean.device)[None].expand(len(clean), -1, -1)
    added = {name: value[None].expand(len(clean), *value.shape) for name, value in (conditions or {}).items()}
    noisy = scheduler.add_noise(clean, noise, timesteps)
    predicted = unet(noisy, timesteps, prompt, added_cond_kwargs=added or None).sample
    target = diffusion_target(scheduler, clean, noise, timesteps)
    loss = F.mse_loss(predicted.float(), target.float(), reduction="none").mean(1, keepdim=True)
    loss = loss.mean((1, 2, 3)) if mask is None else (loss * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    return loss.view(-1, identities).mean(0)


def diffusion_target(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the UNet must predict under this scheduler's ``prediction_type``."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    raise InvalidInputError(f"the scheduler predicts {kind!r}; only epsilon and v_prediction can be trained on")
