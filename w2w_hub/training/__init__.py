"""DreamBooth-LoRA training of one identity, or of many at once."""

from __future__ import annotations

from ..common.extras import optional_imports

with optional_imports("diffusers"):
    import torch  # noqa: F401

from .many import Person, TrainingResult, read_people, train_many
from .one import train_identity
from .pictures import TrainingPicture, read_pictures
from .recipe import TrainingRecipe
from .tensors import kaiming_start, train_identities
from .trainer import Trainer

__all__ = [
    "Person", "Trainer", "TrainingPicture", "TrainingRecipe", "TrainingResult", "kaiming_start", "read_people",
    "read_pictures", "train_identities", "train_identity", "train_many",
]  # fmt: skip
