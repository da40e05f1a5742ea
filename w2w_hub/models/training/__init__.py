"""DreamBooth-LoRA for one identity, or for a batch of them at once."""

from __future__ import annotations

from .identities import kaiming_start, train_identities

__all__ = ["kaiming_start", "train_identities"]
