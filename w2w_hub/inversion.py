"""Inversion: the point of a space under which a frozen base model explains given pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .denoising import draw_noise, identity_losses, pick
from .errors import InvalidInputError
from .injection import rows_attached
from .progress import progress
from .space import Point, WeightSpace

WINDOW = 50  # steps whose losses are averaged to see whether they still fall
COMPARED = 64  # fixed noises and timesteps under which restarts are compared


@dataclass(frozen=True)
class Inversion:
    """An inverted point and the denoising loss of every step."""

    point: Point
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Settings:
    """How to invert; see :meth:`w2w_hub.W2WPipeline.invert`."""

    num_steps: int = 400
    learning_rate: float = 0.1
    k: int | None = None
    batch_size: int = 4
    prior: float = 0.0
    tolerance: float = 0.0
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.restarts) < 1 or not self.learning_rate > 0:
            raise InvalidInputError(
                "num_steps, batch_size and restarts must be at least 1 and learning_rate positive; got "
                f"{self.num_steps}, {self.batch_size}, {self.restarts}, {self.learning_rate}"
            )
        if not self.prior >= 0 or not self.tolerance >= 0:
            raise InvalidInputError(f"prior and tolerance must not be negative; got {self.prior}, {self.tolerance}")


class Inverter:
    """Inverts several people at once; each gets a point of its own, as it would alone.

    Parameters
    ----------
    latents : Tensor
        ``(people, pictures, c, h, w)``, scaled as the UNet expects.
    text : Tensor
        ``(tokens, width)``, the encoded prompt.
    masks : Tensor, optional
        ``(people, pictures, 1, h, w)`` in [0, 1]: which latents count.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        scheduler: Any,
        space: WeightSpace,
        latents: torch.Tensor,
        text: torch.Tensor,
        settings: Settings,
        masks: torch.Tensor | None = None,
    ):
        self.unet, self.scheduler, self.space, self.settings = unet, scheduler, space, settings
        self.latents, self.text, self.masks = latents, text, masks
        k = self.k = space._k(settings.k)
        device = latents.device
        self.basis = torch.from_numpy(space.basis[:k]).to(device)
        self.spread = torch.from_numpy(space.coefficient_std[:k]).to(device, torch.float32)
        self.centre = torch.from_numpy(space.coefficient_mean[:k]).to(device, torch.float32)
        self.mean, self.std = (torch.from_numpy(v).to(device) for v in (space.mean, space.std))

    def run(self) -> list[Inversion]:
        people = len(self.latents)
        best: list[tuple[float, torch.Tensor, list[float], int]] = []
        with frozen(self.unet):
            for restart in range(self.settings.restarts):
                found, history = self.descend(self.start(restart), restart)
                errors = self.compare(found) if self.settings.restarts > 1 else [0.0] * people
                tried = [(errors[i], found[i], [float(x) for x in history[i]], restart) for i in range(people)]
                best = tried if not best else [min(a, b, key=lambda t: t[0]) for a, b in zip(best, tried, strict=True)]
        return [self.result(*entry) for entry in best]

    def start(self, restart: int) -> torch.Tensor:
        """Standardised coefficients to begin with: the mean, and then seeded points near it."""
        shape, device = (len(self.latents), self.k), self.latents.device
        if restart == 0:
            return torch.zeros(shape, device=device)
        generator = torch.Generator().manual_seed(self.settings.seed + restart)
        return 0.5 * torch.randn((1, self.k), generator=generator).expand(shape).to(device)

    def losses(self, standardised: torch.Tensor, generator: torch.Generator, samples: int) -> torch.Tensor:
        """Denoising error of each person under shared noise ``(people,)``."""
        people, pictures = self.latents.shape[:2]
        vectors = (self.centre + standardised * self.spread) @ self.basis * self.std + self.mean
        picked = torch.randint(pictures, (samples,), generator=generator)
        noise, t = draw_noise(generator, self.latents, samples, self.scheduler.config.num_train_timesteps)
        mask = None if self.masks is None else pick(self.masks, picked)
        with rows_attached(self.unet, self.space.layout, vectors):
            return identity_losses(
                self.unet, self.scheduler, pick(self.latents, picked), noise, t, self.text, people, mask
            )

    def descend(self, start: torch.Tensor, restart: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Adam from `start`: the final standardised coefficients and the losses ``(people, steps)``."""
        settings = self.settings
        standardised = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([standardised], lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=1e-10)
        generator = torch.Generator().manual_seed(settings.seed + restart)
        history: list[torch.Tensor] = []

        def status() -> str:
            return f"loss {history[-1].mean():.4f}" if history else ""

        good = standardised.detach().clone()
        for step in progress(range(settings.num_steps), "inverting", status=status):
            for group in optimizer.param_groups:  # the last third decays, so that the point settles
                group["lr"] = settings.learning_rate * min(1.0, 3 * (1 - step / settings.num_steps))
            loss = self.losses(standardised, generator, settings.batch_size)
            optimizer.zero_grad()
            (loss.sum() + settings.prior * standardised.square().mean(1).sum()).backward()
            finite = bool(torch.isfinite(loss).all() and torch.isfinite(standardised.grad).all())  # type: ignore[arg-type]
            if not finite and not history:
                raise InvalidInputError("the loss is not finite at the first step; are the pictures and the weights?")
            if not finite:
                warnings.warn(
                    f"the loss is not finite at step {step} of {settings.num_steps}; the inversion stops with the "
                    "last good point: use a smaller learning_rate, or float32 weights",
                    stacklevel=2,
                )
                return good, torch.stack(history, 1)
            good = standardised.detach().clone()
            optimizer.step()
            history.append(loss.detach().cpu())
            if settings.tolerance and self.settled(history):
                break
        return standardised.detach(), torch.stack(history, 1)

    def settled(self, history: list[torch.Tensor]) -> bool:
        """Whether the mean loss of the last steps fell by less than `tolerance` of itself."""
        if len(history) < 2 * WINDOW or len(history) % WINDOW:
            return False
        earlier, later = (
            float(torch.stack(part).mean()) for part in (history[-2 * WINDOW : -WINDOW], history[-WINDOW:])
        )
        return earlier - later < self.settings.tolerance * earlier

    @torch.no_grad()
    def compare(self, standardised: torch.Tensor) -> list[float]:
        """Each person's error under the same noises and timesteps for every restart."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        rounds = max(1, COMPARED // self.settings.batch_size)
        errors = sum(self.losses(standardised, generator, self.settings.batch_size) for _ in range(rounds)) / rounds
        errors = errors + self.settings.prior * standardised.square().mean(1)
        return [float(error) for error in errors]

    def result(self, error: float, standardised: torch.Tensor, losses: list[float], restart: int) -> Inversion:
        coefficients: np.ndarray = (self.centre + standardised * self.spread).cpu().numpy()
        history: dict[str, Any] = {"steps": len(losses), "seed": self.settings.seed, "k": self.k}
        if self.settings.restarts > 1:
            history |= {"restarts": self.settings.restarts, "restart": restart, "error": round(error, 6)}
        return Inversion(self.space.point(coefficients, made="inversion", **history), tuple(losses))


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """No parameter takes gradients inside the block; those that did before do so after it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
