"""diffusers pipelines with a weight space: one class per stock class, and the mixin for others."""

from __future__ import annotations

from typing import Any

from ...common.extras import optional_imports
from .quiet import no_torchvision_note

with optional_imports("diffusers"), no_torchvision_note():
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import PIL.Image  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from diffusers import StableDiffusionPipeline  # noqa: F401, which imports what diffusers itself imports late

from ...common.lazy import public_names
from ...common.pipelines import PIPELINES

with no_torchvision_note():
    from ..devices import best_device
    from ..inversion import InversionSettings
    from .grids import strength_grid
    from .handover import StockPipelineWarning
    from .inverting import PROMPT
    from .mixin import W2WMixin
    from .registry import AutoW2WPipeline, pipeline_for
    from .stable_diffusion import W2WPipeline, W2WStableDiffusionImg2ImgPipeline, W2WStableDiffusionInpaintPipeline

__all__ = [
    "PROMPT", "AutoW2WPipeline", "InversionSettings", "StockPipelineWarning", "W2WMixin", "W2WPipeline",
    "W2WStableDiffusionImg2ImgPipeline", "W2WStableDiffusionInpaintPipeline", "best_device", "pipeline_for",
    "strength_grid",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # the classes of every family in the table
    for row in PIPELINES:
        if row.name == name:
            return pipeline_for(row.stock)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return public_names(__name__, {*__all__, *(row.name for row in PIPELINES)})
