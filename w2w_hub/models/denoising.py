"""The denoising loss of training and inversion, for many identities in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.extras import optional_imports
from ..errors import InvalidInputError

with optional_imports("diffusers"):
    import torch
    import torch.nn.functional as F


def training_schedule(scheduler: Any) -> Any:
    """Return the training noise schedule as a `DDPMScheduler`, from any sampler's scheduler.

    Samplers disagree on what `add_noise` returns: Euler's is not scaled to the model's input.

    Raises
    ------
    InvalidInputError
        If the scheduler has no betas (flow matching).
    """
    from diffusers import DDPMScheduler

    if isinstance(scheduler, DDPMScheduler):
        return scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InvalidInputError(f"{type(scheduler).__name__} has no betas; inversion needs a DDPM noise schedule")
    return DDPMScheduler.from_config(scheduler.config)


def draw_noise(
    generator: torch.Generator, latents: torch.Tensor, batch_size: int, noise_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the noise and timesteps of one step, the same for all identities; timesteps are stratified.

    `latents` is ``(identities, pictures, c, h, w)``. The results have ``identities * batch_size`` samples; sample i
    belongs to identity ``i % identities``.
    """
    identities = latents.shape[0]
    strata = torch.randperm(batch_size, generator=generator) + torch.rand(batch_size, generator=generator)
    timesteps = (strata / batch_size * noise_steps).long().clamp(max=noise_steps - 1).to(latents.device)
    noise = torch.randn((batch_size, *latents.shape[2:]), generator=generator).to(latents.device, latents.dtype)
    return noise.repeat_interleave(identities, 0), timesteps.repeat_interleave(identities)


def pick(latents: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Select the same pictures of each identity, in the sample order of :func:`draw_noise`."""
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
    """Return the mean squared denoising error per identity, float32 ``(identities,)``.

    Parameters
    ----------
    clean, noise, timesteps : Tensor
        ``(samples, c, h, w)`` twice and ``(samples,)``; sample i belongs to identity ``i % identities``.
    text : Tensor
        ``(tokens, width)``, the encoded prompt of all samples.
    mask : Tensor, optional
        ``(samples, 1, h, w)`` in [0, 1]: weights of the latents' positions in the mean.
    conditions : mapping, optional
        Added conditions of one sample, which SDXL's UNet requires.
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
    """Return the UNet's training target under this scheduler's ``prediction_type``."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    raise InvalidInputError(f"the scheduler predicts {kind!r}; only epsilon and v_prediction can be trained on")
