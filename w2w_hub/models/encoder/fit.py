"""Fit an encoder: draw pictures of known points, train a network on them, and measure it on other points."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...common.constraints import has, optional, path, validated
from ...common.extras import optional_imports
from ...common.limits import MAX_ENCODER_BYTES, MAX_ENCODER_PIXELS
from ...common.version import __version__
from ...errors import InvalidInputError
from ...space import Spread, WeightSpace
from ...space.encoder.encoder import Encoder
from ...space.encoder.network import reduction
from ...space.encoder.stated import stored_bytes

with optional_imports("diffusers"):
    import torch

from ..injection import base_digest, use_base
from ..pipelines.inputs import picture_size
from ..pipelines.loading import EXACT
from .clock import Clock
from .evidence import held_out_points, measure
from .network import EncoderNetwork
from .pairs import Pairs, Plan, default_prompts, draw, draw_pairs
from .settings import MOST_COMPONENTS, EncoderSettings
from .training import EncoderTrainer, train

PICTURES_EACH = 2  # of a held-out point


@validated(pipe=has("invert", "a pipeline with a weight space"), work=optional(path()))
def fit_encoder(pipe: Any, *, work: Path | str | None = None, **options: Any) -> Encoder:
    """Fit an encoder to a weight space: a small network that guesses a person's point from one picture.

    The pipeline draws pictures of varied rows and of samples, under many prompts and noises, with its
    :attr:`~W2WPipeline.generation` settings; a network learns which point each of them shows. The loss is the squared
    error of the coefficients, so that components count by their variance. The evidence is measured on drawn pictures
    of rows that were not used, beside nulls.

    Parameters
    ----------
    pipe : W2WMixin
        Its device is used for both.
    work : path, optional
        Folder in which drawn pictures and the state of the training are kept. A call with the same settings goes on
        from them; one with other settings of the training draws no picture again.
    **options
        Fields of :class:`EncoderSettings`.

    Returns
    -------
    Encoder
        Set ``pipe.space.encoder`` to it, or store it with :meth:`WeightSpace.add_encoder` or :meth:`Encoder.save`.
        The same seed gives the same encoder on the same machine, up to rounding.

    Raises
    ------
    InvalidInputError
        If a setting is out of its range, the encoder would be larger than one may be, or the fit diverged.

    Examples
    --------
    >>> pipe.space.encoder = fit_encoder(pipe, pictures=24_000, steps=5_000)          # doctest: +SKIP
    >>> pipe.identity = pipe.invert("picture.png", start="encoded", num_steps=40)     # doctest: +SKIP
    """
    settings, folder = EncoderSettings(**options), None if work is None else Path(work)
    space: WeightSpace = pipe.space
    k = min(space.k, MOST_COMPONENTS) if settings.k is None else space.coordinates.require_k(settings.k)
    prompts = list(settings.prompts) or default_prompts()
    size, clock = picture_size(pipe), Clock(settings.minutes)
    rows, held_out = held_out_points(space, settings.seed)
    factor = _factor(size, settings, k)
    plan = Plan(prompts, factor, settings.seed, pipe.generation, settings.draw_batch_size)
    pairs = draw_pairs(pipe, plan, rows, settings.pictures, folder, clock.has_time_to_draw)
    pairs = Pairs(pairs.pictures, pairs.coefficients[:, :k])

    mean, std = space.spread.mean[:k], space.spread.std[:k]
    with torch.inference_mode(False), torch.enable_grad():
        network = _new_network(pairs.pictures.shape[1:3], settings, k)
        trainer = EncoderTrainer(
            network, pairs, mean, std, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
            seed=settings.seed, device=torch.device(pipe._execution_device),
        )  # fmt: skip
        name = hashlib.sha256(f"{plan.digest(space, rows)} {settings} {len(pairs)}".encode()).hexdigest()[:12]
        file = None if folder is None else folder / f"training-{name}.safetensors"
        losses = train(trainer, settings.steps, clock, file)
    recipe = {
        **asdict(settings), "pictures": len(pairs), "steps": trainer.step, "prompts": prompts, "k": k,
        "generation": dict(pipe.generation), "device": trainer.device.type,
        "software": {"w2w_hub": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
    }  # fmt: skip
    tensors, spread = network.folded(), Spread(mean, std, space.spread.rows)
    if not all(np.isfinite(values).all() for values in tensors.values()):
        raise InvalidInputError(
            f"the fit diverged: the loss was {losses[-1][1] if losses else 'not finite'} at the end; use a smaller "
            "learning_rate",
            name="learning_rate",
        )
    encoder = Encoder(tensors, spread, space.digest, _base_digest(pipe), size, factor, recipe)
    pictures = _pictures_of(pipe, plan, held_out.points)
    evidence = {"of": held_out.what, **measure(encoder, pictures, held_out.points), "loss": losses}
    return replace(encoder, evidence=evidence)


def _factor(size: tuple[int, int], settings: EncoderSettings, k: int) -> int:
    """Return by how much pictures are averaged, after a check that the encoder will be one that can be read."""
    factor = reduction(size, settings.resolution)
    height, across = (side // factor for side in size)
    if height * across > MAX_ENCODER_PIXELS:
        raise InvalidInputError(
            f"an encoder takes at most {MAX_ENCODER_PIXELS:,} pixels, not {across}x{height}; choose a resolution below "
            f"{settings.resolution}",
            name="resolution",
        )
    needed = stored_bytes((height, across), settings.width, settings.hidden, k)
    if needed > MAX_ENCODER_BYTES:
        raise InvalidInputError(
            f"an encoder has at most {MAX_ENCODER_BYTES:,} bytes, not {needed:,}; choose a smaller hidden (now "
            f"{settings.hidden:,}), width ({settings.width}) or resolution ({settings.resolution})",
            name="hidden",
        )
    return factor


def _new_network(size: Any, settings: EncoderSettings, k: int) -> EncoderNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return EncoderNetwork(size, settings.width, settings.hidden, k)


def _pictures_of(pipe: Any, plan: Plan, points: np.ndarray) -> np.ndarray:
    """Return pictures of held-out points, each under prompts and noises that no training picture has."""
    rng = plan.rng(2**31)  # no chunk has this number
    people = np.repeat(points, PICTURES_EACH, 0)
    prompts = [plan.prompts[i] for i in rng.integers(len(plan.prompts), size=len(people))]
    return draw(pipe, people, prompts, rng.integers(2**62, size=len(people)).tolist(), plan)


def _base_digest(pipe: Any) -> str | None:
    """Return the digest of the base model's target weights; None if it is not known in this dtype."""
    stated: str | None = pipe.space.compatibility.base_digest
    if stated is not None or next(pipe.unet.parameters()).dtype not in EXACT:
        return stated
    with use_base(pipe.unet):
        return base_digest(pipe.unet, pipe.space.layout)
