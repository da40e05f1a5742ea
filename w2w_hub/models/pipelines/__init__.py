"""diffusers pipelines with a weight space: one class per stock class, and the mixin for others."""

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

from ...common.pipelines import PIPELINES
from ..inversion import InversionSettings
from .grids import strength_grid
from .handover import StockPipelineWarning
from .mixin import PROMPT, W2WMixin
from .registry import AutoW2WPipeline, pipeline_for
from .stable_diffusion import W2WPipeline, W2WStableDiffusionImg2ImgPipeline, W2WStableDiffusionInpaintPipeline

__all__ = [
    "PROMPT", "AutoW2WPipeline", "InversionSettings", "StockPipelineWarning", "W2WMixin", "W2WPipeline",
    "W2WStableDiffusionImg2ImgPipeline", "W2WStableDiffusionInpaintPipeline", "best_device", "pipeline_for",
    "strength_grid",
]  # fmt: skip
globals().update({row.name: pipeline_for(row.stock) for row in PIPELINES})  # the classes of every family


def best_device() -> str:
    """Return the fastest kind of device that torch finds on this machine: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
