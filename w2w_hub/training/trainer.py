"""The optimizer loop: n identities in one forward and backward pass, each sample with its own factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..errors import CorruptFileError, InvalidInputError
from ..lora.layout import ParameterLayout
from ..models.devices import current
from ..models.injection import inject_hooks
from .data import Batch, Draws, TrainingData, sent
from .engines import Engine
from .objective import Objective, predict, sample_losses
from .recipe import TrainingRecipe
from .shared_text import SharedText
from .split_gates import SplitGates

BETAS, EPS = (0.9, 0.999), 1e-8
STATE = ("weights", "first", "second", "mean")


class Trainer:
    """Trains the adapters of n identities together, with the result of training each alone.

    No gradient crosses identities: the loss is a sum over them, and a batch is normalized per sample. An identity
    whose loss is not finite is reported in `lost`; the others go on.

    Parameters
    ----------
    model : Module
        The base model's denoiser, frozen. Its dtype is the dtype of computation.
    start : Tensor
        float32 ``(layout.size,)``: the shared initialization, see :func:`kaiming_start`.
    engine : str or Engine
        How steps run, see :class:`Engine`. Give one to all trainers of a model, so that it is compiled once.

    Attributes
    ----------
    device : torch.device
        That of the data, on which steps run.
    step : int
        Finished steps.
    in_step : bool
        Whether an interrupt left a step half done, so that the state is of no use.
    weights : Tensor
        float32 ``(n, layout.size)``.
    losses : Tensor
        float32 ``(n,)``: each identity's loss in the last step.
    lost : Tensor
        Boolean ``(n,)``: identities with a loss that was not finite.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: ParameterLayout,
        objective: Objective,
        data: TrainingData,
        start: torch.Tensor,
        recipe: TrainingRecipe,
        *,
        engine: str | Engine = "eager",
        autocast_dtype: torch.dtype | None = None,
    ):
        if start.shape != (layout.size,) or not torch.isfinite(start).all():
            raise InvalidInputError(f"start must be {layout.size:,} finite numbers, not {tuple(start.shape)}")
        self.engine = Engine(engine) if isinstance(engine, str) else engine
        self.engine.require(data.device)
        self.model, self.layout, self.objective, self.data, self.recipe = model, layout, objective, data, recipe
        self.autocast_dtype = autocast_dtype
        self.draws = Draws(data, objective.steps, recipe.steps, recipe.batch_size, recipe.seed)
        self.weights = start.to(data.device, torch.float32)[None].repeat(len(data), 1)
        self.first, self.second, self.mean = (torch.zeros_like(self.weights) for _ in range(3))
        self.losses = torch.zeros(len(data), device=data.device)
        self.lost = torch.zeros(len(data), dtype=torch.bool, device=data.device)
        self.step, self.in_step, self.device = 0, False, data.device
        self._call, self._capture = self.engine.callable_of(model), self.engine.capture()
        self._text = self._shared_text()
        self._gates = SplitGates(model, layout) if self.engine.splits_gates else None
        self._factors = torch.ones(3, device=data.device)  # learning rate and the two bias corrections of a step

    @property
    def averaged_from(self) -> int:
        return self.recipe.steps - max(1, round(self.recipe.steps * self.recipe.average_last))

    @property
    def done(self) -> bool:
        return self.step >= self.recipe.steps

    def advance(self) -> torch.Tensor:
        """Take one step and return the losses ``(n,)``, on the device."""
        with current(self.device):
            return self._advance()

    def _advance(self) -> torch.Tensor:
        self.in_step = True
        batch = self.draws.batch(self.step)
        rate = self.recipe.learning_rate
        if self.recipe.schedule == "cosine":
            rate *= 0.5 + 0.5 * math.cos(math.pi * self.step / self.recipe.steps)
        corrections = [1 - beta ** (self.step + 1) for beta in BETAS]
        self._factors.copy_(sent(torch.tensor([rate, *corrections]), self.data.device))
        with self.engine.one_line_errors():
            if self._capture is None:
                self.work(batch)
            else:
                self._capture.step(self, batch)
        self.engine.compiles_next = False
        if self.step >= self.averaged_from:
            self.mean += (self.weights - self.mean) / (self.step - self.averaged_from + 1)
        self.lost |= ~torch.isfinite(self.losses)
        self.step += 1
        self.in_step = False
        return self.losses

    @property
    def averaged(self) -> torch.Tensor:
        """The weights as far as they are averaged, float32 ``(n, layout.size)``: what :meth:`rows` will return."""
        return self.mean if self.step > self.averaged_from else self.weights

    def rows(self) -> torch.Tensor:
        """Return the trained weights, float32 ``(n, layout.size)``: the mean over the last steps.

        Raises
        ------
        InvalidInputError
            Before the last step.
        """
        if not self.done:
            raise InvalidInputError(f"{self.step} of {self.recipe.steps} steps are done; advance to the last one")
        return self.mean

    # ------------------------------------------------------------ one step
    def identity_losses(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of each identity ``(n,)``: its pictures' plus the weighted one of the class pictures."""
        text, added = self.data.prompts.of(batch.prompts)
        shared = nullcontext() if self._text is None else self._text.used(batch.prompts)
        split = nullcontext() if self._gates is None else self._gates.used()
        with inject_hooks(self.model, self.layout, rows), shared, split, self._autocast():
            losses = sample_losses(self._call, self.objective, batch.clean, batch.noise, batch.t, text, added)
        kinds = losses.view(-1, self.recipe.batch_size, len(self.data)).mean(1)
        return kinds[0] if len(kinds) == 1 else kinds[0] + self.recipe.prior_weight * kinds[1]

    def _autocast(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = torch.autocast(
            self.data.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        )
        return found

    def _shared_text(self) -> SharedText | None:
        """Return what the frozen layers make of the prompts, if the engine keeps that and a step repeats prompts."""
        data, prompts = self.data, self.data.prompts
        count, kinds = len(prompts.text), 1 if data.class_latents is None else 2
        if not self.engine.shares_text or count > kinds * self.recipe.batch_size * len(data):
            return None
        latents = data.latents[0][:1].expand(count, *data.latents[0].shape[1:])
        time = self.objective.time(torch.zeros(count, dtype=torch.long, device=data.device))

        def call() -> None:
            with self._autocast():
                predict(self.model, latents, time, prompts.text, prompts.added)

        return SharedText(self.model, call, prompts)

    def work(self, batch: Batch) -> None:
        """Compute the gradients of one step's samples, and update the weights."""
        with torch.enable_grad():
            leaf = self.weights.detach().requires_grad_(True)
            losses = self.identity_losses(leaf, batch)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        self.losses.copy_(losses.detach())
        self._update(gradient)

    def _update(self, gradient: torch.Tensor) -> None:
        """One step of AdamW for each identity."""
        if self.recipe.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient = gradient * (self.recipe.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        rate, first_correction, second_correction = self._factors.unbind()
        if self.recipe.weight_decay:
            self.weights.mul_(1 - rate * self.recipe.weight_decay)
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square(), 1 - BETAS[1])
        denominator = (self.second / second_correction).sqrt_().add_(EPS)
        self.weights.sub_(self.first / first_correction / denominator * rate)

    # ------------------------------------------------------------ steps that do not count
    def kept(self) -> list[torch.Tensor]:
        """Return copies of what a step changes."""
        return [getattr(self, name).clone() for name in STATE]

    def put_back(self, kept: Sequence[torch.Tensor]) -> None:
        """Undo all steps since :meth:`kept`, in the same memory."""
        for name, values in zip(STATE, kept, strict=True):
            getattr(self, name).copy_(values)

    # ------------------------------------------------------------ stopping and going on
    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that a later :meth:`restore` needs to go on to the same bits."""
        found = {name: getattr(self, name) for name in (*STATE, "losses", "lost")}
        return found | {"step": torch.tensor(self.step), "generator": self.draws.generator.get_state()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state of the same identities and recipe.

        Raises
        ------
        CorruptFileError
            If it belongs to another run.
        """
        mine = self.state()
        wrong = sorted(name for name in {*mine, *state} if name not in state or name not in mine
                       or state[name].shape != mine[name].shape)  # fmt: skip
        if wrong:
            raise CorruptFileError(
                f"the saved state of training does not fit: {', '.join(wrong)}; start again without it"
            )
        for name in (*STATE, "losses", "lost"):
            getattr(self, name).copy_(state[name])
        self.step = int(state["step"])
        self.draws.generator.set_state(state["generator"].cpu())
