"""Sliders for attributes that nobody labeled: directions trained inside the coordinates of a weight space."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.constraints import Rule, has, number, optional, positive, text, validated, whole
from ..common.extras import optional_imports
from ..common.progress import progress
from ..common.warn import warn_caller
from ..errors import InvalidInputError
from ..space import Direction, WeightSpace

with optional_imports("diffusers"):
    import torch

from .contrasts import Contrast, Denoiser, PictureContrast, PromptContrast, Prompts
from .injection import Use, inject_hooks, injection, require_differentiable
from .inversion import COUNT, SEED, frozen
from .pipelines.inputs import encode_pictures, encode_text

__all__ = ["SliderSettings", "fit_slider"]
NEUTRAL = "sks person"
PEOPLE = 24  # people whose predictions are contrasted, of which a quarter is held out
SCORED, RANDOM = 24, 39  # samples that a slider is scored on, and random directions beside it
RESAMPLED = 1000  # bootstrap samples of the interval
BETAS = (0.9, 0.99)
METHODS = {True: "slider, prompts", False: "slider, pictures"}
RULES = {
    "num_steps": COUNT, "learning_rate": positive(), "k": optional(whole(1)), "batch_size": COUNT, "prior": number(0),
    "eta": positive(), "seed": SEED,
}  # fmt: skip


@dataclass(frozen=True)
class SliderSettings:
    """Settings of a slider's training; :func:`fit_slider` takes the fields as keywords.

    Attributes
    ----------
    num_steps, learning_rate : int, float
        Adam on standardized coefficients, from no change.
    k : int, optional
        Number of components; all by default.
    batch_size : int
        People or pairs, each with a noise and a timestep, per step.
    prior : float
        Weight of the mean squared standardized coefficients in the loss: larger stays closer to the population.
    eta : float
        Factor of the contrast of prompts that a slider of its trained strength is to have.
    seed : int
        Seed of people, noises and timesteps.

    Raises
    ------
    InvalidInputError
        If a value is out of its range.
    """

    num_steps: int = 300
    learning_rate: float = 0.05
    k: int | None = None
    batch_size: int = 8
    prior: float = 0.0
    eta: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.checked(getattr(self, name), f"fit_slider: {name}"))


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


PROMPT = Rule("a text that is not empty", _prompt)


@validated(
    pipe=has("invert", "a pipeline with a weight space"), positive=optional(PROMPT), negative=optional(text()),
    prompt=PROMPT,
)  # fmt: skip
def fit_slider(
    pipe: Any,
    *,
    positive: str | None = None,
    negative: str | None = None,
    before: Sequence[Any] | None = None,
    after: Sequence[Any] | None = None,
    prompt: str = NEUTRAL,
    **options: Any,
) -> Direction:
    """Train a direction of the space that does what the contrast of two prompts, or of pairs of pictures, does.

    Concept Sliders (arXiv 2311.12092), with the slider restricted to the space: its parameters are the coefficients.
    Its evidence is the fraction of the contrast's loss that it explains on held-out people and noise (`r2`), beside
    that of random directions of the same length (`null`, `p_value`). The pipeline and its identity do not change.

    Parameters
    ----------
    pipe : W2WMixin
    positive, negative : str
        Prompts: more of the first and less of the second, as ``"sks person with glasses"`` and ``"sks person"``.
    before, after : list of pictures
        Instead of prompts: pairs of pictures of the size that the base model generates, which differ in the attribute.
        At least four pairs, of which a quarter is held out.
    prompt : str
        The neutral prompt, under which the slider is to work.
    **options
        Fields of :class:`SliderSettings`.

    Returns
    -------
    Direction
        Of kind ``"float"``: it reads where a point is along it, in standard deviations. :attr:`Direction.typical` is
        the strength that it was trained at. :meth:`WeightSpace.with_direction` adds it to a space.

    Raises
    ------
    InvalidInputError
        If there are neither two prompts nor pairs of pictures, or both; for pictures of another size; if the prompts
        do not differ to the model; if the loss is not finite.

    Examples
    --------
    >>> slider = fit_slider(pipe, positive="sks person glasses", negative="sks person")   # doctest: +SKIP
    >>> pipe.space.with_direction("glasses", slider).save("space-with-glasses")           # doctest: +SKIP
    """
    chosen = SliderSettings(**options)
    by_prompts = _require_one_contrast(positive, negative, before, after)
    space: WeightSpace = pipe.space
    k = space.coordinates.require_k(chosen.k)
    require_differentiable(pipe.unet)
    if by_prompts:
        people = _people(space, chosen.seed)
        drawn = pipe.render(people, [(prompt, chosen.seed)])[:, 0]
        trained: dict[str, Any] = {"positive": positive, "negative": negative, "eta": chosen.eta}
    else:
        drawn, people = [*before, *after], []  # type: ignore[misc]
        trained = {"pairs": len(drawn) // 2}
    with injection(pipe.unet).lock, torch.inference_mode(False), torch.enable_grad():
        try:
            latents = encode_pictures(pipe, drawn)
            words = [prompt, positive, negative] if by_prompts else [prompt]
            prompts = Prompts.of([encode_text(pipe, word) for word in words])
            denoiser = Denoiser(pipe.unet, pipe.scheduler, space, k, latents)
            contrast: Contrast
            if by_prompts:
                anchors = torch.stack([_standardized(denoiser, point.coefficients) for point in people])
                contrast = PromptContrast(denoiser, anchors, latents, prompts, chosen.eta)
            else:
                first, second = latents.chunk(2)
                contrast = PictureContrast(denoiser, first, second, prompts)
            fit = _Fit(denoiser, contrast, chosen)
            with frozen(pipe.unet), inject_hooks(pipe.unet, space.layout, denoiser.vectors(fit.start)) as use:
                slider = fit.descend(use)
                evidence = fit.evidence(use, slider)
        finally:
            pipe.maybe_free_model_hooks()
    trained |= {"prompt": prompt, "steps": chosen.num_steps, "seed": chosen.seed}
    step = (slider * denoiser.spread).cpu().numpy().astype(np.float64)
    return _direction(space, step, METHODS[by_prompts], trained, evidence, len(fit.train))


def _require_one_contrast(positive: Any, negative: Any, before: Any, after: Any) -> bool:
    """Return whether the contrast is of prompts."""
    prompts, pictures = (positive, negative), (before, after)
    given = [sum(part is not None for part in pair) for pair in (prompts, pictures)]
    if given == [2, 0]:
        if positive == negative:
            raise InvalidInputError("a slider needs two prompts that differ; change positive or negative")
        return True
    if given == [0, 2]:
        for name, pair in (("before", before), ("after", after)):
            if not isinstance(pair, (list, tuple)):
                raise InvalidInputError(f"{name} must be a list of pictures, not {type(pair).__name__}", name=name)
        if len(before) != len(after) or len(before) < 4:
            raise InvalidInputError(
                f"a slider needs at least 4 pairs of pictures, as many before as after; not {len(before)} and "
                f"{len(after)}"
            )
        return False
    raise InvalidInputError("a slider needs either positive and negative prompts, or pictures before and after")


def _people(space: WeightSpace, seed: int) -> list[Any]:
    if space.population is None:
        return space.sample(PEOPLE, seed)
    ids = space.population.ids
    picked = np.random.default_rng(seed).permutation(len(ids))[:PEOPLE]
    return [space.row(ids[i]) for i in sorted(picked.tolist())]


def _standardized(denoiser: Denoiser, coefficients: np.ndarray) -> torch.Tensor:
    found = torch.from_numpy(np.asarray(coefficients[: denoiser.k], np.float32)).to(denoiser.center.device)
    return (found - denoiser.center) / denoiser.spread.clamp(min=1e-12)


class _Descent:
    """Adam with one second moment for all coefficients of a point ``(..., k)``.

    With one per coefficient, those in which there is only noise would move as far as the others.
    """

    def __init__(self, values: torch.Tensor):
        self.values, self.taken = values, 0
        self.moment, self.square = torch.zeros_like(values), torch.zeros_like(values[..., :1])

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rate: float) -> None:
        self.taken += 1
        self.moment = BETAS[0] * self.moment + (1 - BETAS[0]) * gradient
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient.square().mean(-1, keepdim=True)
        first, second = (1 - beta**self.taken for beta in BETAS)
        self.values -= rate * (self.moment / first) / (self.square / second).sqrt().clamp(min=1e-20)


class _Fit:
    """One descent and its evidence; the last quarter of the examples, in a seeded order, is held out."""

    def __init__(self, denoiser: Denoiser, contrast: Contrast, settings: SliderSettings):
        self.denoiser, self.contrast, self.settings = denoiser, contrast, settings
        self.device = denoiser.center.device
        order = torch.randperm(contrast.examples, generator=torch.Generator().manual_seed(settings.seed))
        self.held_out, self.train = order.tensor_split([max(1, contrast.examples // 4)])
        self.start = torch.zeros(1, denoiser.k, device=self.device)

    def descend(self, use: Use) -> torch.Tensor:
        """Return the slider in standardized coefficients ``(k,)``; held-out examples have no influence on it."""
        settings, contrast = self.settings, self.contrast
        generator = torch.Generator().manual_seed(settings.seed)
        slider = self.start[0].clone().requires_grad_(True)
        learnt = [slider, *([contrast.anchors] if contrast.learns_anchors else [])]
        examples = torch.arange(contrast.examples) if contrast.learns_anchors else self.train
        counts = torch.zeros(contrast.examples, 1, device=self.device)
        counts[self.train] = 1
        descents = [_Descent(values) for values in learnt]
        good, recent = slider.detach().clone(), deque[float](maxlen=1)

        def status() -> str:
            return f"loss {recent[0]:.4f}" if recent else ""

        for step in progress(range(settings.num_steps), "training the slider", status=status):
            # decays in the last half, so that the slider converges
            rate = settings.learning_rate * min(1.0, 2 * (1 - step / settings.num_steps))
            picked = examples[torch.randint(len(examples), (settings.batch_size,), generator=generator)]
            batch = contrast.draw(use, generator, picked)
            loss = contrast.losses(use, slider * counts[picked], batch).mean()
            gradients = torch.autograd.grad(loss + settings.prior * slider.square().mean(), learnt)
            if not (torch.isfinite(loss) and all(torch.isfinite(gradient).all() for gradient in gradients)):
                return self._last_good(good, step)
            good = slider.detach().clone()
            recent.append(loss.item())
            for descent, gradient in zip(descents, gradients, strict=True):
                descent.step(gradient, rate)
        return slider.detach()

    def _last_good(self, good: torch.Tensor, step: int) -> torch.Tensor:
        if step == 0:
            raise InvalidInputError("the slider's loss is not finite; check the pictures, the prompts and the weights")
        warn_caller(
            f"the slider's loss is not finite at step {step} of {self.settings.num_steps}; training stops with the "
            "last good slider: use a smaller learning_rate, or float32 weights"
        )
        return good

    @torch.no_grad()
    def evidence(self, use: Use, slider: torch.Tensor) -> dict[str, Any]:
        """Return the evidence on held-out examples, as fields of a direction."""
        if not slider.any():
            raise InvalidInputError("the slider did not move: the contrast makes no difference to the base model")
        generator = torch.Generator().manual_seed(self.settings.seed + 1)
        size = self.settings.batch_size
        picked = self.held_out.repeat(-(-SCORED // len(self.held_out)))[:SCORED]
        batches = [self.contrast.draw(use, generator, part) for part in picked.split(size)]

        def losses(direction: torch.Tensor) -> np.ndarray:
            found = torch.cat([self.contrast.losses(use, direction, batch) for batch in batches])
            return np.asarray(found.cpu().numpy(), np.float64)

        without, of_slider = losses(torch.zeros_like(slider)), losses(slider)
        random = torch.randn((RANDOM, len(slider)), generator=generator).to(self.device)
        random *= slider.norm() / random.norm(dim=1, keepdim=True)
        nulls = np.array([1 - losses(other).sum() / without.sum() for other in progress(random, "random directions")])
        score = float(1 - of_slider.sum() / without.sum())
        drawn = np.random.default_rng(self.settings.seed).integers(0, len(without), (RESAMPLED, len(without)))
        resampled = 1 - of_slider[drawn].sum(1) / without[drawn].sum(1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        return {
            "r2": score,
            "interval": (float(low), float(high)),
            "interval_method": "bootstrap",
            "null": (float(nulls.mean()), float(np.quantile(nulls, 0.95))),
            "p_value": float((1 + (nulls >= score).sum()) / (1 + len(nulls))),
            "held_out_rows": len(self.held_out),
        }


def _direction(
    space: WeightSpace, step: np.ndarray, method: str, trained: dict[str, Any], evidence: dict[str, Any], rows: int
) -> Direction:
    """Return a step of the coefficients ``(<= k,)`` as a direction."""
    size, used = float(np.linalg.norm(step)), len(step)
    unit = np.pad(step / size, (0, space.k - used))
    if space.population is None:
        sd = float(np.sqrt(((unit * space.spread.std) ** 2).sum()))
    else:
        sd = float((space.population.coefficients[space.population.fitted].astype(np.float64) @ unit).std(ddof=1))
    reading = unit / sd
    return Direction(
        editing=unit.astype(np.float32),
        sd=sd,
        reading=reading.astype(np.float32),
        intercept=-float(reading @ space.spread.mean),
        auc=None,
        positives=0,
        rows=rows,
        kind="float",
        reading_method="position",
        editing_method=method,
        components=None if used == space.k else used,
        slider={**trained, "strength": size / sd},
        **evidence,
    )
