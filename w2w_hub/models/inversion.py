"""Inversion: gradient descent on coefficients so that the frozen base model denoises given pictures best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.constraints import flag, number, optional, positive, whole
from ..common.deprecated import renamed_names
from ..common.display import Displayed
from ..common.extras import optional_imports
from ..common.progress import progress
from ..common.warn import warn_caller
from ..errors import InvalidInputError
from ..space import Point, WeightSpace

with optional_imports("diffusers"):
    import torch

from .denoising import draw_noise, identity_losses, pick, training_schedule
from .devices import current
from .injection import Use, differentiable, inject_differentiable, inject_hooks, require_differentiable, rewritable
from .injection.stack import drain
from .starts import Start

WINDOW = 50  # steps per mean loss of the convergence test
COMPARED = 64  # noises and timesteps on which restarts are compared
CHECKED = 10  # steps between checks of the losses, each of which synchronizes with the device
WARM_UP = 3  # eager steps before a graph is captured, as torch.cuda.graph asks for


SEED = whole(0, 2**63 - 1)  # the range of torch's generators
COUNT = whole(1, 1_000_000)
RULES = {
    "num_steps": COUNT, "learning_rate": positive(), "k": optional(whole(1)), "batch_size": COUNT, "prior": number(0),
    "tolerance": number(0, below=1), "restarts": COUNT, "seed": SEED, "capture": optional(flag()),
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Inversion(Displayed):
    """A point found by inversion, and the denoising loss of each step; a pipeline takes it as an identity."""

    point: Point
    losses: tuple[float, ...]

    def _facts(self) -> Mapping[str, object]:
        loss = f"{self.losses[0]:.4f} to {self.losses[-1]:.4f}" if self.losses else "not recorded"
        return {"steps": len(self.losses), "loss": loss, "weight space": self.point.basis_digest[:12]}


@dataclass(frozen=True)
class InversionSettings:
    """Settings of an inversion; :meth:`w2w_hub.W2WPipeline.invert` takes the fields as keywords.

    Attributes
    ----------
    num_steps, learning_rate : int, float
        Adam on standardized coefficients from the population's mean (paper, section 4.2 and appendix F).
    k : int, optional
        Number of components; all by default.
    batch_size : int
        Noises and timesteps per step.
    prior : float
        Weight of the squared standardized coefficients in the loss: larger stays closer to the population.
    tolerance : float
        Stop when the mean loss of 50 steps is less than this fraction below that of the 50 before; 0 never stops.
    restarts : int
        Number of optimizations from different starts; the best per person, on the same noise, is returned.
    seed : int
        Seed of noises, timesteps and starts: the same seed gives the same point.
    capture : bool, optional
        Replay the step as a CUDA graph; by default where the model allows it.

    Raises
    ------
    InvalidInputError
        If a value is out of its range.
    """

    num_steps: int = 400
    learning_rate: float = 0.1
    k: int | None = None
    batch_size: int = 4
    prior: float = 0.0
    tolerance: float = 0.0
    restarts: int = 1
    seed: int = 0
    capture: bool | None = None

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.checked(getattr(self, name), f"invert: {name}"))


__getattr__ = renamed_names(__name__, Settings="InversionSettings")


@dataclass
class Batch:
    """The inputs of one step, in storage that a captured graph reads again."""

    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor | None

    def copy_(self, other: Batch) -> None:
        self.clean.copy_(other.clean)
        self.noise.copy_(other.noise)
        self.timesteps.copy_(other.timesteps)
        if self.mask is not None and other.mask is not None:
            self.mask.copy_(other.mask)


class Inverter:
    """Inverts several people in one batch, each to the point that it would reach alone.

    Parameters
    ----------
    latents : Tensor
        ``(people, pictures, c, h, w)``, scaled as the UNet expects.
    text : Tensor
        ``(tokens, width)``, the encoded prompt.
    masks : Tensor, optional
        ``(people, pictures, 1, h, w)`` in [0, 1]: weights of the latents in the loss.
    conditions : mapping, optional
        Added conditions of one sample, which SDXL's UNet requires.
    starts : sequence of Start, optional
        Where each person's optimization starts; by default the population's mean.
    callback : callable, optional
        Called with the people's inversions so far after the first step and every 10; if it returns True, the descent
        ends, and no other restart follows.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        scheduler: Any,
        space: WeightSpace,
        latents: torch.Tensor,
        text: torch.Tensor,
        settings: InversionSettings,
        masks: torch.Tensor | None = None,
        conditions: Mapping[str, torch.Tensor] | None = None,
        starts: Sequence[Start] | None = None,
        callback: Callable[[list[Inversion]], object] | None = None,
    ):
        self.callback, self.stopped = callback, False
        require_differentiable(unet)
        self.unet, self.space, self.settings = unet, space, settings
        self.scheduler = training_schedule(scheduler)
        self.latents, self.text, self.masks, self.conditions = latents, text, masks, conditions
        k = self.k = space.coordinates.require_k(settings.k)
        device = latents.device
        # a basis in bfloat16, as its products with a bfloat16 model are, takes half the memory
        wide = torch.float32 if latents.dtype != torch.bfloat16 else torch.bfloat16
        self.basis = torch.from_numpy(np.ascontiguousarray(space.coordinates.basis[:k])).to(device, wide)
        self.spread = torch.from_numpy(space.spread.std[:k]).to(device, torch.float32)
        self.center = torch.from_numpy(space.spread.mean[:k]).to(device, torch.float32)
        self.mean, self.std = (torch.from_numpy(v).to(device) for v in (space.coordinates.mean, space.coordinates.std))
        self.starts = None if starts is None else list(starts)
        self.first = torch.zeros((len(latents), k), device=device)
        if self.starts is not None:
            rows = [start.standardized(space, k) for start in self.starts]
            self.first = torch.from_numpy(np.stack(rows)).to(device, torch.float32)
        captures = device.type == "cuda" and rewritable(unet, space.layout)  # offloading copies inside the step
        self.capture = captures if settings.capture is None else settings.capture

    def run(self) -> list[Inversion]:
        """Return each person's point, the best of the restarts."""
        with current(self.latents.device):
            return self._run()

    def _run(self) -> list[Inversion]:
        try:
            return self.best_of_restarts()
        except _NotCapturedError as error:
            reason = str(error)
        warn_caller(f"the inversion step could not be captured and runs eagerly ({reason})")
        self.capture = False
        return self.best_of_restarts()

    def best_of_restarts(self) -> list[Inversion]:
        people = len(self.latents)
        best: list[tuple[float, torch.Tensor, list[float], int]] = []
        with frozen(self.unet), self.injected(self.vectors(self.start(0))) as use:
            for restart in range(self.settings.restarts):
                found, history = self.descend(use, restart)
                errors = self.compare(use, found) if self.settings.restarts > 1 else [0.0] * people
                tried = [(errors[i], found[i], [float(x) for x in history[i]], restart) for i in range(people)]
                best = tried if not best else [min(a, b, key=lambda t: t[0]) for a, b in zip(best, tried, strict=True)]
                if self.stopped:
                    break
        starts: Sequence[Start | None] = self.starts or [None] * people
        return [self.result(*entry, start) for entry, start in zip(best, starts, strict=True)]

    def injected(self, vectors: torch.Tensor) -> AbstractContextManager[Use]:
        """Inject the people's vectors: one person's into the weights, several by hooks.

        A captured step has no launch overhead to save, and hooks need no second copy of the weights.
        """
        layout = self.space.layout
        if len(vectors) == 1 and not self.capture and differentiable(self.unet, layout, vectors.device):
            return inject_differentiable(self.unet, layout, vectors)
        return inject_hooks(self.unet, layout, vectors)

    def start(self, restart: int) -> torch.Tensor:
        """Return standardized coefficients to start from: the starts, and for later restarts seeded points near."""
        if restart == 0:
            return self.first.clone()
        generator = torch.Generator().manual_seed(self.settings.seed + restart)
        near = 0.5 * torch.randn((1, self.k), generator=generator)
        return self.first + near.to(self.first.device)

    # ------------------------------------------------------------ the loss
    def vectors(self, standardized: torch.Tensor) -> torch.Tensor:
        """Return the people's vectors ``(people, d)``, one matrix product for all layers."""
        coefficients = self.center + standardized * self.spread
        return (coefficients.to(self.basis.dtype) @ self.basis).float() * self.std + self.mean

    def draw(self, generator: torch.Generator) -> Batch:
        """Draw the pictures, noise and timesteps of the next step, the same for all people."""
        samples = self.settings.batch_size
        picked = torch.randint(self.latents.shape[1], (samples,), generator=generator)
        noise, t = draw_noise(generator, self.latents, samples, self.scheduler.config.num_train_timesteps)
        return Batch(
            pick(self.latents, picked), noise, t, None if self.masks is None else pick(self.masks, picked)
        )  # fmt: skip

    def losses(self, use: Use, standardized: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the denoising error per person, ``(people,)``."""
        use(self.vectors(standardized))
        return identity_losses(
            self.unet, self.scheduler, batch.clean, batch.noise, batch.timesteps, self.text, len(self.latents),
            batch.mask, self.conditions,
        )  # fmt: skip

    # ------------------------------------------------------------ the descent
    def descend(self, use: Use, restart: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Run Adam from a start; return the final standardized coefficients and the losses ``(people, steps)``."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed + restart)
        descent = Descent(self, use, self.start(restart), self.draw(torch.Generator().manual_seed(0)))
        history: list[torch.Tensor] = []
        read = 0  # steps whose losses are on the CPU

        def status() -> str:
            return f"loss {history[read - 1].mean():.4f}" if read else ""

        for step in progress(range(settings.num_steps), "inverting", status=status):
            # decays in the last third, so that the point converges
            rate = settings.learning_rate * min(1.0, 3 * (1 - step / settings.num_steps))
            history.append(descent.step(self.draw(generator), rate))
            if step and (step + 1) % CHECKED and step + 1 < settings.num_steps:
                continue
            history[read:] = [loss.cpu() for loss in history[read:]]
            read = len(history)
            good = int(descent.count)  # finite steps before the first that was not
            if good < read:
                return self.last_good(descent, history[:good])
            if settings.tolerance and self.converged(history):
                break
            if self.callback is not None and self.callback(self.results(descent, history, restart)) is True:
                self.stopped = True
                break
        return descent.standardized.detach(), torch.stack(history, 1)

    def results(self, descent: Descent, history: list[torch.Tensor], restart: int) -> list[Inversion]:
        """Return each person's inversion so far."""
        starts: Sequence[Start | None] = self.starts or [None] * len(self.latents)
        each = zip(descent.standardized.detach(), torch.stack(history, 1).tolist(), starts, strict=True)
        return [self.result(0.0, point, losses, restart, start) for point, losses, start in each]

    def last_good(self, descent: Descent, history: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Warn, and return the last step at which all losses and gradients were finite."""
        if not history:
            raise InvalidInputError(
                "the loss is not finite at the first step; check the pictures and the weights for NaN and infinity"
            )
        warn_caller(
            f"the loss is not finite at step {len(history)} of {self.settings.num_steps}; the inversion stops with the "
            "last good point: use a smaller learning_rate, or float32 weights"
        )
        return descent.good.detach(), torch.stack(history, 1)

    def converged(self, history: list[torch.Tensor]) -> bool:
        """Return whether the mean loss of the last steps fell by less than the fraction `tolerance`."""
        if len(history) < 2 * WINDOW or len(history) % WINDOW:
            return False
        earlier, later = (
            float(torch.stack(part).mean()) for part in (history[-2 * WINDOW : -WINDOW], history[-WINDOW:])
        )
        return earlier - later < self.settings.tolerance * earlier

    @torch.no_grad()
    def compare(self, use: Use, standardized: torch.Tensor) -> list[float]:
        """Return each person's error, under the same noises and timesteps for all restarts."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        rounds = max(1, COMPARED // self.settings.batch_size)
        errors = torch.stack([self.losses(use, standardized, self.draw(generator)) for _ in range(rounds)]).mean(0)
        errors = errors + self.settings.prior * standardized.square().mean(1)
        return [float(error) if torch.isfinite(error) else float("inf") for error in errors]

    def result(
        self, error: float, standardized: torch.Tensor, losses: list[float], restart: int, start: Start | None
    ) -> Inversion:
        coefficients: np.ndarray = (self.center + standardized * self.spread).cpu().numpy()
        history: dict[str, Any] = {"steps": len(losses), "seed": self.settings.seed, "k": self.k}
        if start is not None:
            history["start"] = dict(start.record)
        history["loss"] = [round(losses[0], 6), round(losses[-1], 6)]
        if self.settings.restarts > 1:
            history |= {"restarts": self.settings.restarts, "restart": restart, "error": round(error, 6)}
        return Inversion(self.space.point(coefficients, made="inversion", **history), tuple(losses))


class _NotCapturedError(Exception):
    """The model's step cannot be captured as a CUDA graph."""


@dataclass
class Descent:
    """One descent with Adam, whose step can be captured and replayed as a CUDA graph.

    All inputs and results of a step, and whether all was finite so far, stay on the device in fixed storage, so that
    no step synchronizes. The arithmetic is the same with and without a graph.
    """

    inverter: Inverter
    use: Use
    start: torch.Tensor
    batch: Batch
    graph: Any = field(default=None, init=False)
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        start = self.start
        self.standardized = start.clone().requires_grad_(True)
        self.good, self.loss = start.clone(), torch.zeros(len(start), device=start.device)
        self.alive = torch.ones((), dtype=torch.bool, device=start.device)
        self.count = torch.zeros((), dtype=torch.long, device=start.device)
        on_gpu = start.device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(start.device) if on_gpu and self.inverter.capture else None
        self.rate: Any = torch.zeros((), device=start.device) if on_gpu else 0.0
        self.optimizer = torch.optim.Adam(
            [self.standardized], lr=self.rate, betas=(0.9, 0.999), weight_decay=1e-10, capturable=on_gpu
        )

    def step(self, batch: Batch, rate: float) -> torch.Tensor:
        """Take one step; return the losses before it ``(people,)``, on the device."""
        if self.graph is None:
            self.batch = batch
        else:
            self.batch.copy_(batch)
        if isinstance(self.rate, torch.Tensor):
            self.rate.fill_(rate)
        else:
            self.optimizer.param_groups[0]["lr"] = rate
        if self.graph is not None:
            self.graph.replay()
        elif self.inverter.capture and self.taken >= WARM_UP:
            self.capture_graph()
        elif self.inverter.capture:
            # warm up on the stream of the capture, where autograd accumulates the gradients of a leaf seen there first
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.arithmetic()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            self.arithmetic()
        self.taken += 1
        return self.loss.clone()

    def arithmetic(self) -> None:
        settings = self.inverter.settings
        loss = self.inverter.losses(self.use, self.standardized, self.batch)
        total = loss.sum() + settings.prior * self.standardized.square().mean(1).sum()
        (gradient,) = torch.autograd.grad(total, self.standardized)
        self.standardized.grad = gradient
        with torch.no_grad():
            self.loss.copy_(loss)
            self.alive &= torch.isfinite(loss).all() & torch.isfinite(gradient).all()
            self.count += self.alive
            self.good.copy_(torch.where(self.alive, self.standardized, self.good))
        self.optimizer.step()

    def capture_graph(self) -> None:
        """Capture the step as a CUDA graph and replay it once, since capturing alone computes nothing."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.arithmetic()
        except RuntimeError as error:  # something in this model synchronizes with the CPU
            # the context manager then fails too, with a less useful error
            raise _NotCapturedError(str(error.__context__ or error).splitlines()[0]) from error
        self.graph = graph
        graph.replay()


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Turn off `requires_grad` of all parameters inside the block, and restore it after."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        drain(trained, lambda p: p.requires_grad_(True))
