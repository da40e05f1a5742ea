"""What a denoiser is trained to predict: noise, velocity, or the flow from data to noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from ..errors import InvalidInputError
from ..models.denoising import diffusion_target, training_schedule
from ..models.injection import uncompiled


class Objective(Protocol):
    """A noise schedule with its training target; `t` is ``(samples,)``, whole numbers from 0 to ``steps - 1``."""

    steps: int

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor: ...

    def target(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor: ...

    def time(self, t: torch.Tensor) -> torch.Tensor:
        """Return the timesteps as the model takes them."""
        ...


class DiffusionObjective:
    """Predict the noise or the velocity of a DDPM schedule, as the scheduler's ``prediction_type`` says."""

    def __init__(self, scheduler: Any):
        self.scheduler = training_schedule(scheduler)
        self.steps = int(self.scheduler.config.num_train_timesteps)
        one = torch.zeros(1, 1, 1, 1)
        diffusion_target(self.scheduler, one, one, torch.zeros(1, dtype=torch.long))  # refuses other predictions

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.scheduler.add_noise(clean, noise, t)
        return result

    def target(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return diffusion_target(self.scheduler, clean, noise, t)

    def time(self, t: torch.Tensor) -> torch.Tensor:
        return t


class FlowObjective:
    """Predict noise - data on the straight path between them, as rectified-flow models do (SD3, Flux).

    A timestep t has the noise level (t + 1) / steps, shifted as the scheduler's ``shift`` says.
    """

    def __init__(self, scheduler: Any):
        if scheduler.config.get("use_dynamic_shifting"):
            raise InvalidInputError(
                f"{type(scheduler).__name__} shifts its noise by the size of a picture (use_dynamic_shifting), which "
                "training does not support; set a fixed shift"
            )
        self.steps = int(scheduler.config.num_train_timesteps)
        self.shift = float(scheduler.config.shift)

    def _level(self, t: torch.Tensor) -> torch.Tensor:
        level = (t.float() + 1) / self.steps
        return self.shift * level / (1 + (self.shift - 1) * level)

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = self._level(t).view(-1, *[1] * (clean.ndim - 1))
        return ((1 - level) * clean + level * noise).to(clean.dtype)

    def target(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return noise - clean

    def time(self, t: torch.Tensor) -> torch.Tensor:
        return self._level(t) * self.steps


def objective_of(scheduler: Any) -> Objective:
    """Return the training objective of a base model's scheduler.

    Raises
    ------
    InvalidInputError
        If the scheduler has neither betas nor flow-matching noise levels, or its model predicts something else.
    """
    if type(scheduler).__name__.startswith("FlowMatch"):
        return FlowObjective(scheduler)
    return DiffusionObjective(scheduler)


def predict(
    model: torch.nn.Module,
    noisy: torch.Tensor,
    time: torch.Tensor,
    text: torch.Tensor,
    added: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Call a denoiser: a UNet, or a transformer that takes latents as they are (SD3's)."""
    result: torch.Tensor
    if "pooled_projections" in added or type(uncompiled(model)).__name__ == "SD3Transformer2DModel":
        result = model(hidden_states=noisy, timestep=time, encoder_hidden_states=text, **added).sample
    else:
        result = model(noisy, time, text, added_cond_kwargs=dict(added) or None).sample
    return result


def sample_losses(
    model: torch.nn.Module, objective: Objective, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor,
    text: torch.Tensor, added: Mapping[str, torch.Tensor],
) -> torch.Tensor:  # fmt: skip
    """Return the mean squared error of each sample's prediction, float32 ``(samples,)``."""
    predicted = predict(model, objective.noisy(clean, noise, t), objective.time(t), text, added)
    errors = F.mse_loss(predicted.float(), objective.target(clean, noise, t).float(), reduction="none")
    return errors.flatten(1).mean(1)
