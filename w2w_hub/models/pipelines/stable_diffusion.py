"""Stable Diffusion 1.x and 2.x with a weight space: text-to-image, image-to-image and inpainting."""

from __future__ import annotations

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from .mixin import W2WMixin


class W2WPipeline(W2WMixin, StableDiffusionPipeline):  # type: ignore[misc]
    """Stable Diffusion 1.x or 2.x with a weight space.

    Accepts everything that :class:`diffusers.StableDiffusionPipeline` accepts.

    Examples
    --------
    >>> pipe = W2WPipeline.from_pretrained("space")                  # doctest: +SKIP
    >>> pipe.sample_identity(seed=0)                                 # doctest: +SKIP
    >>> pipe.edit(set={"Sunglasses": True})                          # doctest: +SKIP
    >>> pipe("sks person", num_inference_steps=15).images[0]         # doctest: +SKIP
    """

    stock_class = StableDiffusionPipeline


class W2WStableDiffusionImg2ImgPipeline(W2WMixin, StableDiffusionImg2ImgPipeline):  # type: ignore[misc]
    """Image-to-image with Stable Diffusion 1.x or 2.x and a weight space.

    Examples
    --------
    >>> img2img = W2WStableDiffusionImg2ImgPipeline.from_pipe(pipe)  # with its identity   # doctest: +SKIP
    >>> img2img("sks person", image=picture, strength=0.6).images[0]                       # doctest: +SKIP
    """

    stock_class = StableDiffusionImg2ImgPipeline


class W2WStableDiffusionInpaintPipeline(W2WMixin, StableDiffusionInpaintPipeline):  # type: ignore[misc]
    """Inpainting with Stable Diffusion 1.x or 2.x and a weight space.

    Examples
    --------
    >>> inpaint = W2WStableDiffusionInpaintPipeline.from_pipe(pipe)  # with its identity   # doctest: +SKIP
    >>> inpaint("sks person", image=picture, mask_image=mask).images[0]                    # doctest: +SKIP
    """

    stock_class = StableDiffusionInpaintPipeline
