"""Converts pictures, masks and prompts to a base model's inputs."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from ...errors import InvalidInputError
from ..pictures import as_mask, as_rgb

SLACK = 1e-2  # tolerated beyond 0 and 1, since resampling overshoots


def as_list(values: Any, what: str) -> list[Any]:
    """Return several values as a list.

    Raises
    ------
    InvalidInputError
        For a string, bytes, a mapping or a single value.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise InvalidInputError(f"{what} must be a list, not {reprlib.repr(values)}")
    return list(values)


def nested(values: Any, several: bool, axes: int) -> list[list[Any]]:
    """Return one list of values per person; an array of more than `axes` axes is a stack of values."""

    def each(given: Any) -> list[Any]:
        items = list(given) if isinstance(given, (list, tuple)) else [given]
        return [part for item in items for part in (item if getattr(item, "ndim", 0) > axes else [item])]

    return [each(person) for person in values] if several else [each(values)]


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
        PIL images; arrays ``(h, w, 3)``; tensors ``(3, h, w)``. See :func:`pixels`.

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


def pixels(picture: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a picture as float32 ``(height, width, 3)`` in [0, 1].

    Parameters
    ----------
    picture : PIL image, ndarray or Tensor
        A PIL image that :func:`w2w_hub.models.pictures.as_rgb` accepts. An array ``(h, w, 3)`` or a tensor
        ``(3, h, w)``, in RGB order, of uint8 or of floats in 0 to 1.
    size : (int, int)
        Required height and width.

    Raises
    ------
    InvalidInputError
        For another size, number of channels or dtype, NaN, and floats out of range.
    """
    if isinstance(picture, PIL.Image.Image):
        values, order = np.asarray(as_rgb(picture)), "(h, w, 3)"
    elif isinstance(picture, np.ndarray):
        values, order = picture, "(h, w, 3)"
    elif isinstance(picture, torch.Tensor):
        whole = picture.detach().cpu()
        values, order = (whole.float() if whole.is_floating_point() else whole).numpy(), "(3, h, w)"
        if values.ndim == 3:
            values = values.transpose(1, 2, 0)
    else:
        raise InvalidInputError(f"{reprlib.repr(picture)} is not a picture; open it with PIL.Image.open")
    if values.ndim != 3 or values.shape[2] != 3:
        raise InvalidInputError(f"a picture of shape {tuple(np.shape(picture))} is not {order}")
    if values.shape[:2] != size:
        channels = "" if isinstance(picture, PIL.Image.Image) else " of 3 channels"
        raise InvalidInputError(
            f"a picture is {values.shape[1]}x{values.shape[0]} pixels{channels}, this base model needs "
            f"{size[1]}x{size[0]}"
        )
    return _in_zero_to_one(values)


def _in_zero_to_one(values: np.ndarray) -> np.ndarray:
    """Return pixels as float32 in 0 to 1; values in another range are refused, not scaled."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    if values.dtype.kind != "f":
        raise InvalidInputError(f"a picture of {values.dtype}; give uint8 in 0 to 255 or floats in 0 to 1")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InvalidInputError("a picture holds NaN or infinite values; replace them")
    if low < -SLACK or high > 1 + SLACK:
        raise InvalidInputError(f"a picture of floats must be in 0 to 1, this one is in {low:.3g} to {high:.3g}")
    return np.clip(values.astype(np.float32), 0, 1)


def latent_masks(pipe: Any, masks: Sequence[Any]) -> torch.Tensor:
    """Return masks averaged over each latent's pixels, float32 ``(masks, 1, h, w)``.

    Parameters
    ----------
    masks : sequence
        PIL images that :func:`w2w_hub.models.pictures.as_mask` accepts; arrays or tensors ``(h, w)`` of booleans,
        of 0 to 1 or of 0 to 255.
    """
    size, found = picture_size(pipe), []
    for mask in masks:
        given = as_mask(mask) if isinstance(mask, PIL.Image.Image) else mask
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
