"""What a slider is trained on: the contrast of two prompts, or of pictures before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..common.extras import optional_imports
from ..space import WeightSpace

with optional_imports("diffusers"):
    import torch

from .denoising import diffusion_target, draw_noise, training_schedule
from .injection import Use


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts ``(prompts, tokens, width)`` and, for SDXL, the added conditions of each."""

    text: torch.Tensor
    conditions: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, encoded: Sequence[tuple[torch.Tensor, Mapping[str, torch.Tensor]]]) -> Prompts:
        """Return the results of :func:`encode_text` together."""
        names = encoded[0][1]
        return cls(
            torch.stack([text for text, _ in encoded]),
            {name: torch.stack([added[name] for _, added in encoded]) for name in names},
        )


class Denoiser:
    """A base model with a weight space, as a function of standardized coefficients; gradients reach them."""

    def __init__(self, unet: torch.nn.Module, scheduler: Any, space: WeightSpace, k: int, like: torch.Tensor):
        self.unet, self.scheduler, self.k = unet, training_schedule(scheduler), k
        device = like.device
        # as in an inversion, a basis in bfloat16 takes half the memory
        wide = torch.float32 if like.dtype != torch.bfloat16 else torch.bfloat16
        self.basis = torch.from_numpy(np.ascontiguousarray(space.coordinates.basis[:k])).to(device, wide)
        self.spread = torch.from_numpy(space.spread.std[:k]).to(device, torch.float32)
        self.center = torch.from_numpy(space.spread.mean[:k]).to(device, torch.float32)
        self.mean, self.std = (torch.from_numpy(v).to(device) for v in (space.coordinates.mean, space.coordinates.std))

    def vectors(self, standardized: torch.Tensor) -> torch.Tensor:
        """Return adapter vectors ``(n, d)`` of standardized coefficients ``(n, k)``."""
        coefficients = self.center + standardized * self.spread
        return (coefficients.to(self.basis.dtype) @ self.basis).float() * self.std + self.mean

    def noises(self, generator: torch.Generator, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a noise and a timestep for each latent ``(n, c, h, w)``."""
        return draw_noise(generator, clean[None], len(clean), self.scheduler.config.num_train_timesteps)

    def predict(
        self, use: Use, standardized: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor,
        prompts: Prompts, which: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Return float32 predictions ``(n, c, h, w)``; sample i is of point i, under the prompt ``which[i]``."""
        use(self.vectors(standardized))
        added = {name: values[which] for name, values in prompts.conditions.items()}
        noisy = self.scheduler.add_noise(clean, noise, t)
        found = self.unet(noisy, t, prompts.text[which].to(clean.dtype), added_cond_kwargs=added or None).sample
        result: torch.Tensor = found.float()
        return result


@dataclass(frozen=True)
class Batch:
    """Inputs of a step: latents, noise and timesteps of n samples, and what is predicted without the slider."""

    anchors: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    neutral: torch.Tensor
    wanted: torch.Tensor


class Contrast(Protocol):
    """Something that a slider can be trained on, made of several examples."""

    examples: int
    anchors: torch.Tensor  # (examples, k)
    learns_anchors: bool  # from the examples; else they are given

    def draw(self, use: Use, generator: torch.Generator, picked: torch.Tensor) -> Batch:
        """Draw noise for some of the examples."""
        ...

    def losses(self, use: Use, slider: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss per sample ``(n,)`` of a slider, in standardized coefficients: ``(k,)``, or ``(n, k)``."""
        ...


class PromptContrast:
    """Concept Sliders (arXiv 2311.12092): the slider does to the neutral prompt what the contrast of two others does.

    At +1 the prediction under the neutral prompt is pulled to the one without the slider, plus `eta` times the
    difference between the predictions under the positive and the negative prompt; at -1, to less of it. All
    predictions are those of the population's people (`anchors`), so that the slider works on them.

    Parameters
    ----------
    anchors : Tensor
        ``(examples, k)``, standardized coefficients of people.
    latents : Tensor
        ``(examples, c, h, w)``: their pictures.
    prompts : Prompts
        The neutral, the positive and the negative one.
    """

    def __init__(self, denoiser: Denoiser, anchors: torch.Tensor, latents: torch.Tensor, prompts: Prompts, eta: float):
        self.denoiser, self.anchors, self.latents, self.prompts = denoiser, anchors, latents, prompts
        self.learns_anchors = False
        self.eta, self.examples = eta, len(latents)

    @torch.no_grad()
    def draw(self, use: Use, generator: torch.Generator, picked: torch.Tensor) -> Batch:
        anchors, clean = self.anchors[picked], self.latents[picked]
        noise, t = self.denoiser.noises(generator, clean)
        n = len(clean)
        which = torch.arange(3, device=clean.device).repeat_interleave(n)
        inputs = (_times(anchors, 3), _times(clean, 3), _times(noise, 3), _times(t, 3))
        neutral, positive, negative = self.denoiser.predict(use, *inputs, self.prompts, which).split(n)
        return Batch(anchors, clean, noise, t, neutral, self.eta * (positive - negative))

    def losses(self, use: Use, slider: torch.Tensor, batch: Batch) -> torch.Tensor:
        moved = torch.cat([batch.anchors + slider, batch.anchors - slider])
        inputs = (moved, _times(batch.clean, 2), _times(batch.noise, 2), _times(batch.t, 2))
        which = torch.zeros(len(moved), dtype=torch.long, device=moved.device)
        more, less = self.denoiser.predict(use, *inputs, self.prompts, which).split(len(batch.clean))
        errors = (more - batch.neutral - batch.wanted).square() + (less - batch.neutral + batch.wanted).square()
        return errors.mean((1, 2, 3)) / 2


class PictureContrast:
    """Pairs of pictures: half of the slider on one side of a point explains that before, on the other that after.

    The point of each pair, its anchor, is what the two have in common. It is found along with the slider, as by an
    inversion, from the population's mean.

    Parameters
    ----------
    before, after : Tensor
        ``(examples, c, h, w)``: latents of pairs.
    prompts : Prompts
        The neutral prompt.
    """

    def __init__(self, denoiser: Denoiser, before: torch.Tensor, after: torch.Tensor, prompts: Prompts):
        self.denoiser, self.before, self.after, self.prompts = denoiser, before, after, prompts
        self.examples, self.learns_anchors = len(before), True
        self.anchors = torch.zeros(len(before), denoiser.k, device=before.device, requires_grad=True)

    def draw(self, use: Use, generator: torch.Generator, picked: torch.Tensor) -> Batch:
        before, after = self.before[picked], self.after[picked]
        noise, t = self.denoiser.noises(generator, before)
        clean, noises, times = torch.cat([before, after]), _times(noise, 2), _times(t, 2)
        target = diffusion_target(self.denoiser.scheduler, clean, noises, times).float()
        return Batch(self.anchors[picked], clean, noises, times, torch.zeros_like(target), target)

    def losses(self, use: Use, slider: torch.Tensor, batch: Batch) -> torch.Tensor:
        moved = torch.cat([batch.anchors - slider / 2, batch.anchors + slider / 2])
        which = torch.zeros(len(moved), dtype=torch.long, device=moved.device)
        found = self.denoiser.predict(use, moved, batch.clean, batch.noise, batch.t, self.prompts, which)
        first, second = (found - batch.wanted).square().mean((1, 2, 3)).chunk(2)
        return (first + second) / 2


def _times(values: torch.Tensor, times: int) -> torch.Tensor:
    return values.repeat(times, *[1] * (values.ndim - 1))
