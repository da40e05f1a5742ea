"""Inversion: the point of a space under which a frozen base model explains given pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .denoising import draw_noise, identity_losses, pick
from .errors import InvalidInputError
from .injection import rows_attached
from .progress import progress
from .space import Point, WeightSpace


@dataclass(frozen=True)
class Inversion:
    """An inverted point and the denoising loss of every step."""

    point: Point
    losses: tuple[float, ...]


def invert_latents(
    unet: torch.nn.Module,
    scheduler: Any,
    space: WeightSpace,
    latents: torch.Tensor,
    text: torch.Tensor,
    *,
    num_steps: int = 400,
    learning_rate: float = 0.1,
    k: int | None = None,
    batch_size: int = 4,
    prior: float = 0.0,
    seed: int = 0,
) -> list[Inversion]:
    """Invert several people at once; each gets a point of its own.

    Parameters
    ----------
    latents : Tensor
        ``(people, pictures, c, h, w)``, scaled as the UNet expects.
    text : Tensor
        ``(tokens, width)``, the encoded prompt.

    Other parameters are those of :meth:`w2w_hub.W2WPipeline.invert`.
    """
    if num_steps < 1 or batch_size < 1 or not learning_rate > 0 or prior < 0:
        raise InvalidInputError(
            f"num_steps and batch_size must be at least 1, learning_rate positive and prior not negative; got "
            f"{num_steps}, {batch_size}, {learning_rate}, {prior}"
        )
    k = space._k(k)
    people, pictures = latents.shape[:2]
    device = latents.device
    basis = torch.from_numpy(space.basis[:k]).to(device)
    spread = torch.from_numpy(space.coefficient_std[:k]).to(device, torch.float32)
    centre = torch.from_numpy(space.coefficient_mean[:k]).to(device, torch.float32)
    mean, std = (torch.from_numpy(v).to(device) for v in (space.mean, space.std))
    standardised = torch.zeros((people, k), device=device, requires_grad=True)
    optimizer = torch.optim.Adam([standardised], lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-10)
    generator = torch.Generator().manual_seed(seed)
    frozen = [p for p in unet.parameters() if p.requires_grad]
    history = []
    try:
        for p in frozen:
            p.requires_grad_(False)
        for step in progress(range(num_steps), "inverting"):
            for group in optimizer.param_groups:  # the last third decays, so that the point settles
                group["lr"] = learning_rate * min(1.0, 3 * (1 - step / num_steps))
            vectors = (centre + standardised * spread) @ basis * std + mean
            picked = torch.randint(pictures, (batch_size,), generator=generator)
            noise, t = draw_noise(generator, latents, batch_size, scheduler.config.num_train_timesteps)
            with rows_attached(unet, space.layout, vectors):
                loss = identity_losses(unet, scheduler, pick(latents, picked), noise, t, text, people)
            optimizer.zero_grad()
            (loss.sum() + prior * standardised.square().mean(1).sum()).backward()
            optimizer.step()
            history.append(loss.detach().cpu())
    finally:
        for p in frozen:
            p.requires_grad_(True)
    final = (centre + standardised.detach() * spread).cpu().numpy()
    losses = torch.stack(history, 1)
    return [
        Inversion(
            space.point(c, made="inversion", steps=num_steps, seed=seed, k=k),
            tuple(float(x) for x in losses[i]),
        )
        for i, c in enumerate(final)
    ]
