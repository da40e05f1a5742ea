"""DreamBooth-LoRA training of one identity, or of a batch of identities at once."""

from __future__ import annotations

from ...common.extras import optional_imports

with optional_imports("diffusers"):
    import torch  # noqa: F401

from .identities import kaiming_start, train_identities

__all__ = ["kaiming_start", "train_identities"]
