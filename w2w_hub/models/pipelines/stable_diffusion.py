"""Stable Diffusion 1.x and 2.x with a weight space."""

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from .mixin import W2WMixin


class W2WPipeline(W2WMixin, StableDiffusionPipeline):  # type: ignore[misc]
    """Stable Diffusion 1.x or 2.x with a weight space.

    Everything that :class:`diffusers.StableDiffusionPipeline` takes and does, it takes and does too.

    Examples
    --------
    >>> pipe = W2WPipeline.from_pretrained("space")                  # doctest: +SKIP
    >>> pipe.sample_identity(seed=0)                                 # doctest: +SKIP
    >>> pipe.edit({"Eyeglasses": 2.0})                               # doctest: +SKIP
    >>> pipe("sks person", num_inference_steps=15).images[0]         # doctest: +SKIP
    """

    stock_class = StableDiffusionPipeline
