"""The diffusers pipeline whose weights have sliders; :class:`W2WMixin` makes one of other stock pipelines."""

from __future__ import annotations

from ...errors import missing_extra

try:
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import PIL.Image  # noqa: F401
    import torch
    import transformers  # noqa: F401
except ImportError as error:
    raise missing_extra(error.name or "diffusers", "diffusers") from None

from .mixin import PROMPT, W2WMixin
from .stable_diffusion import W2WPipeline

__all__ = ["PROMPT", "W2WMixin", "W2WPipeline", "best_device"]


def best_device() -> str:
    """The fastest kind of device that torch has here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
