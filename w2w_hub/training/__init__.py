"""DreamBooth-LoRA training of one identity, or of many at once."""

from __future__ import annotations

from ..common.extras import optional_imports

with optional_imports("diffusers"):
    import torch  # noqa: F401

from .many import TrainingResult, train_many
from .one import train_identity
from .people import Person, read_people
from .pictures import TrainingPicture, read_pictures
from .recipe import TrainingRecipe
from .tensors import kaiming_start, train_identities
from .validation import Validation

__all__ = [
    "Person", "TrainingPicture", "TrainingRecipe", "TrainingResult", "Validation", "kaiming_start", "read_people",
    "read_pictures", "train_identities", "train_identity", "train_many",
]  # fmt: skip
