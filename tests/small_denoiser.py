"""A denoiser of one linear layer, a weight space for it, and plain torch descents to compare with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler

from w2w_hub import ParameterLayout, WeightSpace
from w2w_hub.lora.adapter import Target
from w2w_hub.models.denoising import draw_noise
from w2w_hub.space import Coordinates, Population

CHANNELS, WIDTH, TOKENS, SIDE = 3, 5, 4, 2
LAYOUT = ParameterLayout({Target("unet", "to_q"): (2, CHANNELS, CHANNELS)}, 1.5)
K = 4


class Denoiser(torch.nn.Module):
    """Mixes the channels of each position, then adds what prompt, timestep and conditions say."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.to_q = torch.nn.Linear(CHANNELS, CHANNELS)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        self.seen: list[dict[str, Any]] = []

    def forward(self, noisy: Any, timesteps: Any, prompt: Any, added_cond_kwargs: Any = None) -> Any:
        mixed = self.to_q(noisy.permute(0, 2, 3, 1))
        self.seen.append({"dtype": mixed.dtype, "conditions": added_cond_kwargs, "noisy": noisy.detach().clone()})
        shift = prompt.mean((1, 2)) + timesteps / 1000
        if added_cond_kwargs:
            shift = shift + added_cond_kwargs["time_ids"].mean(1)
        return SimpleNamespace(sample=mixed.permute(0, 3, 1, 2) + shift[:, None, None, None])


def small_space(k: int = K, rows: int = 12) -> WeightSpace:
    """Random, with coefficients off zero whose spreads differ."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(LAYOUT.size, k)))[0].T.astype(np.float32)
    coefficients = (rng.normal(size=(rows, k)) * np.arange(k, 0, -1) + [0.5 * (-1) ** i for i in range(k)]).astype("f4")
    mean = (0.3 * rng.normal(size=LAYOUT.size)).astype(np.float32)
    std = rng.uniform(0.05, 0.4, LAYOUT.size).astype(np.float32)
    coordinates = Coordinates(LAYOUT, mean, std, basis, np.arange(k, 0, -1).astype(float))
    splits = np.array(["train"] * (rows - 3) + ["test"] * 3)
    population = Population(tuple(f"r{i}" for i in range(rows)), splits, coefficients, "train")
    return WeightSpace(coordinates, population, recipe={})


def scheduler(kind: str = "v_prediction") -> DDPMScheduler:
    return DDPMScheduler(prediction_type=kind, beta_schedule="scaled_linear")


def pictures(people: int = 1, each: int = 3, seed: int = 5) -> torch.Tensor:
    return torch.randn((people, each, CHANNELS, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def prompt() -> torch.Tensor:
    return 0.3 * torch.randn((TOKENS, WIDTH), generator=torch.Generator().manual_seed(2))


def denoising_error(
    vector: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, *,
    kind: str = "v_prediction", mask: torch.Tensor | None = None, condition: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Mean squared error of one person's samples, from the definitions alone."""
    model = Denoiser()
    a = vector[: 2 * CHANNELS].view(2, CHANNELS)
    b = vector[2 * CHANNELS :].view(CHANNELS, 2)
    weight = model.to_q.weight.detach() + 1.5 * b @ a
    bar = scheduler().alphas_cumprod[timesteps][:, None, None, None]
    noisy = bar.sqrt() * clean + (1 - bar).sqrt() * noise
    shift = (prompt().mean() + timesteps / 1000 + condition)[:, None, None, None]
    found = torch.einsum("oc,nchw->nohw", weight, noisy) + model.to_q.bias.detach()[:, None, None] + shift
    wanted = noise if kind == "epsilon" else bar.sqrt() * noise - (1 - bar).sqrt() * clean
    errors = ((found - wanted) ** 2).mean(1)
    if mask is None:
        return errors.mean((1, 2)).mean()
    weights = mask[:, 0]
    return ((errors * weights).sum((1, 2)) / weights.sum((1, 2))).mean()


def drawn(generator: torch.Generator, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and timesteps as one person sees them."""
    return draw_noise(generator, pictures(1), samples, 1000)
