"""Pictures, masks and prompts as a base model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from ..errors import InvalidInputError


def nested(values: Any, several: bool) -> list[list[Any]]:
    """One list for each person, of one value or a list of them."""
    if several:
        return [list(v) if isinstance(v, (list, tuple)) else [v] for v in values]
    return [list(values) if isinstance(values, (list, tuple)) else [values]]


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
            picture = picture.convert("RGB")
        elif not isinstance(picture, (np.ndarray, torch.Tensor)):
            raise InvalidInputError(f"a {type(picture).__name__} is no picture; open it with PIL.Image.open")
        elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
            picture = picture.astype(np.float32) / np.float32(255)
        try:
            processed = pipe.image_processor.preprocess(picture)
        except (ValueError, RuntimeError, IndexError) as error:
            raise InvalidInputError(f"a picture of shape {np.shape(picture)} cannot be read ({error})") from error
        if processed.shape[1:] != (3, *size):
            raise InvalidInputError(
                f"pictures are {processed.shape[-1]}x{processed.shape[-2]} pixels of {processed.shape[1]} channels, "
                f"this base model needs {size[1]}x{size[0]} of 3"
            )
        found.append(processed)
    vae = pipe.vae
    encoded = vae.encode(torch.cat(found).to(pipe._execution_device, vae.dtype)).latent_dist.mean
    return (encoded * vae.config.scaling_factor).to(pipe.unet.dtype)


def latent_masks(pipe: Any, masks: Sequence[Any]) -> torch.Tensor:
    """Masks as shares of each latent's pixels, ``(masks, 1, h, w)``."""
    size, found = picture_size(pipe), []
    for mask in masks:
        values = np.asarray(mask.convert("L") if isinstance(mask, PIL.Image.Image) else mask)
        values = values.astype(np.float32)
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
