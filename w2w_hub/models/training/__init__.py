"""DreamBooth-LoRA training of one identity, or of a batch of identities at once."""

from __future__ import annotations

from .identities import kaiming_start, train_identities

__all__ = ["kaiming_start", "train_identities"]
