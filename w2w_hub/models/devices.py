"""The devices of torch that models run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def best_device() -> str:
    """Return the fastest kind of device that torch finds on this machine: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one inside the block; other devices need no such thing.

    Streams, graphs and pinned memory belong to the current device, which is the first one whatever tensors are on: a
    graph that is captured there holds nothing of what runs on another.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
