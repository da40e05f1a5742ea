"""Pictures, masks and prompts as a base model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from ..errors import InvalidInputError
from ..pictures import as_rgb

SLACK = 1e-2  # beyond 0 and 1, as resampling overshoots


def nested(values: Any, several: bool, axes: int) -> list[list[Any]]:
    """One list for each person, of one value or a list of them; an array of more than `axes` axes is a stack."""

    def each(given: Any) -> list[Any]:
        items = list(given) if isinstance(given, (list, tuple)) else [given]
        return [part for item in items for part in (item if getattr(item, "ndim", 0) > axes else [item])]

    return [each(person) for person in values] if several else [each(values)]


def picture_size(pipe: Any) -> tuple[int, int]:
    """Height and width, in pixels, that the base model was trained on."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


@torch.no_grad()
def encode_pictures(pipe: Any, pictures: Sequence[Any]) -> torch.Tensor:
    """Scaled latents ``(pictures, c, h, w)`` on the device that computes.

    Raises
    ------
    InvalidInputError
        For what is no picture, and one of another size than the base model draws.
    """
    size, found = picture_size(pipe), []
    for picture in pictures:
        if isinstance(picture, PIL.Image.Image):
            picture, given = as_rgb(picture), picture.size[::-1]
        elif isinstance(picture, (np.ndarray, torch.Tensor)):
            picture = _in_zero_to_one(picture)
            given = picture.shape[-2:] if isinstance(picture, torch.Tensor) else picture.shape[:2]
        else:
            raise InvalidInputError(f"a {type(picture).__name__} is no picture; open it with PIL.Image.open")
        try:
            processed = pipe.image_processor.preprocess(picture)
        except (ValueError, RuntimeError, IndexError) as error:
            raise InvalidInputError(f"a picture of shape {np.shape(picture)} cannot be read ({error})") from error
        if processed.shape[1:] != (3, *size):
            raise InvalidInputError(
                f"pictures are {processed.shape[-1]}x{processed.shape[-2]} pixels of {processed.shape[1]} channels, "
                f"this base model needs {size[1]}x{size[0]} of 3"
            )
        if tuple(given) != size:  # it was rounded to the size that is needed
            raise InvalidInputError(
                f"a picture is {given[1]}x{given[0]} pixels, this base model needs {size[1]}x{size[0]}"
            )
        found.append(processed)
    vae = pipe.vae
    encoded = vae.encode(torch.cat(found).to(pipe._execution_device, vae.dtype)).latent_dist.mean
    return (encoded * vae.config.scaling_factor).to(pipe.unet.dtype)


def _in_zero_to_one(picture: Any) -> Any:
    """An array or tensor as floats in 0 to 1; what is in another range is refused, not scaled."""
    if picture.dtype in (np.uint8, torch.uint8):
        return picture.astype(np.float32) / np.float32(255) if isinstance(picture, np.ndarray) else picture / 255
    floats = picture.is_floating_point() if isinstance(picture, torch.Tensor) else picture.dtype.kind == "f"
    if not floats:
        raise InvalidInputError(f"a picture of {picture.dtype} is not in 0 to 255 as uint8 nor in 0 to 1 as floats")
    low, high = (float(picture.min()), float(picture.max())) if np.prod(picture.shape) else (0.0, 0.0)
    if low < -SLACK or high > 1 + SLACK:
        raise InvalidInputError(f"a picture of floats must be in 0 to 1, this one is in {low:.3g} to {high:.3g}")
    return picture


def latent_masks(pipe: Any, masks: Sequence[Any]) -> torch.Tensor:
    """Masks as shares of each latent's pixels, ``(masks, 1, h, w)``."""
    size, found = picture_size(pipe), []
    for mask in masks:
        try:
            values = np.asarray(mask.convert("L") if isinstance(mask, PIL.Image.Image) else mask).astype(np.float32)
        except (TypeError, ValueError):
            raise InvalidInputError(f"a {type(mask).__name__} is no mask; open it with PIL.Image.open") from None
        if values.max(initial=0) > 1:
            values = values / np.float32(255)
        if values.shape != size:
            raise InvalidInputError(f"a mask is {values.shape}, this base model needs {size}")
        if not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
            raise InvalidInputError("a mask is empty or not in 0 to 1 (or 0 to 255); white pixels count")
        found.append(torch.from_numpy(values)[None])
    return torch.nn.functional.avg_pool2d(torch.stack(found), pipe.vae_scale_factor)


@torch.no_grad()
def encode_text(pipe: Any, prompt: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The encoded prompt ``(tokens, width)`` and, for SDXL, the further conditions of one picture."""
    device = pipe._execution_device
    encoded = pipe.encode_prompt(prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    if getattr(pipe, "text_encoder_2", None) is None:
        return encoded[0][0], {}
    pooled, size = encoded[2][0], picture_size(pipe)
    times = torch.tensor([*size, 0, 0, *size], dtype=pooled.dtype, device=device)
    return encoded[0][0], {"text_embeds": pooled, "time_ids": times}
