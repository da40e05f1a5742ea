"""Settings of the fit of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...common.constraints import names, optional, positive, whole
from ...common.limits import MAX_ENCODER_WIDTH

MANY = 100_000_000
COUNT = whole(1, MANY)
RULES = {
    "pictures": whole(2, MANY), "steps": COUNT, "batch_size": whole(2, MANY), "learning_rate": positive(),
    "minutes": optional(positive()), "k": optional(whole(1)), "width": whole(1, MAX_ENCODER_WIDTH),
    "hidden": whole(1, 65_536), "resolution": whole(1), "prompts": names(), "draw_batch_size": COUNT,
    "seed": whole(0, 2**31 - 1),
}  # fmt: skip
MOST_COMPONENTS = 1000  # that are predicted by default: one picture tells nothing of those after them


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of an encoder's fit; :func:`w2w_hub.fit_encoder` takes the fields as keywords.

    Attributes
    ----------
    pictures : int
        Number of pictures that the pipeline draws to learn from.
    steps, batch_size, learning_rate : int, int, float
        Of the network's training with AdamW.
    minutes : float, optional
        Stop when this time has passed: drawing takes at most two thirds of it, and training the rest. What was done
        is recorded; the result is that of fewer pictures and steps, and depends on the machine.
    prompts : sequence of str
        Prompts of the pictures; by default "sks person" in many contexts.
    k : int, optional
        Components to predict, the first ones; by default all, at most 1,000.
    width, hidden : int
        Size of the network: channels after the first convolution, and values before the last matrix.
    resolution : int
        Larger pictures are averaged until their shorter side has about as many pixels.
    draw_batch_size : int
        Pictures that the pipeline draws at once; changes no result but by rounding.
    seed : int
        Seed of points, noises, the network and its training.

    Raises
    ------
    InvalidInputError
        If a value is out of its range.
    """

    pictures: int = 24_000
    steps: int = 5_000
    batch_size: int = 256
    learning_rate: float = 0.002
    minutes: float | None = None
    prompts: Sequence[str] = ()
    k: int | None = None
    width: int = 32
    hidden: int = 256
    resolution: int = 64
    draw_batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.checked(getattr(self, name), f"fit_encoder: {name}"))
