"""Converts pictures, masks and prompts to a base model's inputs."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from ...errors import InvalidInputError
from ...store.pictures import as_mask, open_mask, pixels
from ...store.pictures import nested as nested


def denoiser_of(pipe: Any) -> tuple[str, Any]:
    """Return the name of the component that predicts the noise, ``unet`` or ``transformer``, and its model."""
    name = "transformer" if getattr(pipe, "unet", None) is None else "unet"
    return name, getattr(pipe, name, None)


def picture_size(pipe: Any) -> tuple[int, int]:
    """Return the height and width in pixels that the base model was trained on."""
    size = denoiser_of(pipe)[1].config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


@torch.no_grad()
def encode_pictures(pipe: Any, pictures: Sequence[Any]) -> torch.Tensor:
    """Return scaled latents ``(pictures, c, h, w)`` on the execution device.

    Parameters
    ----------
    pictures : sequence
        PIL images or their paths; arrays ``(h, w, 3)``; tensors ``(3, h, w)``. See :func:`pixels`.

    Raises
    ------
    InvalidInputError
        For anything but a picture of the size that the base model generates.
    """
    found = np.stack([pixels(picture, picture_size(pipe)) for picture in pictures])
    processed = pipe.image_processor.preprocess(found)
    vae = pipe.vae
    encoded = vae.encode(processed.to(pipe._execution_device, vae.dtype)).latent_dist.mean
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return ((encoded - shift) * vae.config.scaling_factor).to(denoiser_of(pipe)[1].dtype)


def latent_masks(pipe: Any, masks: Sequence[Any]) -> torch.Tensor:
    """Return masks averaged over each latent's pixels, float32 ``(masks, 1, h, w)``.

    Parameters
    ----------
    masks : sequence
        PIL images that :func:`w2w_hub.models.pictures.as_mask` accepts, or their paths; arrays or tensors ``(h, w)``
        of booleans, of 0 to 1 or of 0 to 255.
    """
    size, found = picture_size(pipe), []
    for mask in masks:
        given = open_mask(mask) if isinstance(mask, (str, Path)) else mask
        given = as_mask(given) if isinstance(given, PIL.Image.Image) else given
        given = given.detach().float().cpu() if isinstance(given, torch.Tensor) else given
        try:
            values = np.asarray(given)
            values = values.astype(np.float32 if values.dtype.kind in "biuf" else np.void)
        except (TypeError, ValueError):
            raise InvalidInputError(f"{reprlib.repr(mask)} is not a mask; open it with PIL.Image.open") from None
        if values.shape != size:
            raise InvalidInputError(f"a mask is {values.shape}, this base model needs {size}")
        high = values.max()
        if not (np.isfinite(high) and values.min() >= 0 and 0 < high <= 255):
            raise InvalidInputError("a mask is empty or not in 0 to 1 (or 0 to 255); white pixels count")
        values = values / np.float32(255) if high > 1 else values
        found.append(torch.from_numpy(values)[None])
    return torch.nn.functional.avg_pool2d(torch.stack(found), pipe.vae_scale_factor)


@torch.no_grad()
def encode_text(pipe: Any, prompt: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the encoded prompt ``(tokens, width)`` and, for SDXL and SD3, added conditions of one picture."""
    device = pipe._execution_device
    given: dict[str, Any] = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    if denoiser_of(pipe)[0] == "transformer":
        encoded = pipe.encode_prompt(prompt, None, None, **given)
        return encoded[0][0], {"pooled_projections": encoded[2][0]}
    encoded = pipe.encode_prompt(prompt, **given)
    if getattr(pipe, "text_encoder_2", None) is None:
        return encoded[0][0], {}
    pooled, size = encoded[2][0], picture_size(pipe)
    times = torch.tensor([*size, 0, 0, *size], dtype=pooled.dtype, device=device)
    return encoded[0][0], {"text_embeds": pooled, "time_ids": times}
