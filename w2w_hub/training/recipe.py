"""The settings of a training run."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..common.constraints import Rule, names, number, one_of, optional, positive, unicode_text, whole
from ..errors import InvalidInputError

SCHEDULES = ("constant", "cosine")
PROMPT = unicode_text()
TARGETS = Rule("a list of names of modules", lambda value: _targets(value))
PRECISIONS = ("auto", "float32", "bfloat16")
MOST_SAMPLES = 20_000_000  # whose order is drawn before the first step
LARGEST_SEED = 2**64 - 1  # that torch's generators accept


@dataclass(frozen=True)
class TrainingRecipe:
    """Settings of DreamBooth-LoRA training; the defaults are those of weights2weights for Stable Diffusion 1.5.

    Attributes
    ----------
    prompt : str
        Prompt of pictures without a caption, with the identity's token.
    class_prompt : str or None
        Prompt of the class pictures, which the base model draws of other people (prior preservation); None trains
        without them.
    prior_weight : float
        Weight of the class pictures' loss.
    class_pictures : int
        Number of class pictures.
    caption_dropout : float
        Probability, 0 to 1, of leaving out each comma-separated part of a caption after its first part.
    rank, alpha : int, float
        Rank of the adapters, and their scale times the rank.
    targets : tuple of str
        Suffixes of the adapted modules, like PEFT's ``target_modules``.
    steps : int
        Optimizer steps.
    batch_size : int
        Pictures per identity and step; with class pictures, as many of these in addition.
    learning_rate : float
        Of AdamW, with betas 0.9 and 0.999.
    schedule : {"constant", "cosine"}
        The learning rate over the steps.
    weight_decay : float
    max_grad_norm : float or None
        Largest norm of an identity's gradient; a larger one is scaled down. None does not clip.
    average_last : float
        Fraction of the steps, 0 to 1, at the end, whose weights are averaged; 0 returns the last step's.
    seed : int
        Seed of noise, timesteps, picture order and caption parts: the same for all identities of a dataset.
    precision : {"auto", "float32", "bfloat16"}
        In which the model computes; the adapters are float32. "auto" is bfloat16 on a GPU that has it, else float32.

    Notes
    -----
    Source: weights2weights, section 4.1 and its training command (rank 1, alpha 27, 800 steps, one picture and one
    class picture per step, seed 0 for everybody).
    """

    prompt: str = "sks person"
    class_prompt: str | None = "person"
    prior_weight: float = 1.0
    class_pictures: int = 200
    caption_dropout: float = 0.0
    rank: int = 1
    alpha: float = 27.0
    targets: tuple[str, ...] = ("to_q", "to_v")
    steps: int = 800
    batch_size: int = 1
    learning_rate: float = 1e-4
    schedule: str = "constant"
    weight_decay: float = 1e-2
    max_grad_norm: float | None = 1.0
    average_last: float = 0.0
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.checked(getattr(self, name), f"TrainingRecipe: {name}"))
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.steps * self.batch_size > MOST_SAMPLES:
            raise InvalidInputError(
                f"TrainingRecipe: steps times batch_size is {self.steps * self.batch_size:,}, but at most "
                f"{MOST_SAMPLES:,}",
                name="steps",
            )

    @property
    def scale(self) -> float:
        """Scale of the adapters: alpha / rank."""
        return self.alpha / self.rank

    def with_(self, **options: Any) -> TrainingRecipe:
        """Return a copy with other values; None leaves a value as it is."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"targets": list(self.targets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingRecipe:
        """Read the settings that :meth:`to_json` wrote.

        Raises
        ------
        InvalidInputError
            For an unknown setting or a value out of range.
        """
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise InvalidInputError(f"a training recipe is a mapping of names to values, not {reprlib.repr(data)}")
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise InvalidInputError(f"a training recipe has no setting {unknown[0]!r}", name=unknown[0])
        return cls(**data)


def _targets(value: Any) -> list[str]:
    found: list[str] = names().take(value)
    if not found or not all(found):
        raise ValueError
    return found


RULES: dict[str, Rule] = {
    "prompt": PROMPT, "class_prompt": optional(PROMPT), "prior_weight": number(0), "class_pictures": whole(1, 100_000),
    "caption_dropout": number(0, 1), "rank": whole(1, 4096), "alpha": positive(), "targets": TARGETS, "steps": whole(1),
    "batch_size": whole(1), "learning_rate": positive(), "schedule": one_of(*SCHEDULES), "weight_decay": number(0),
    "max_grad_norm": optional(positive()), "average_last": number(0, 1), "seed": whole(0, LARGEST_SEED),
    "precision": one_of(*PRECISIONS),
}  # fmt: skip
