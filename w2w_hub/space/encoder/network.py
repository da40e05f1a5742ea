"""The network of an encoder in NumPy: five convolutions and two matrices, from a small picture to coefficients.

It is computed here without torch, so that a weight space encodes pictures wherever it opens. The convolutions of
:mod:`w2w_hub.models.encoder` are trained with batch normalization, which is folded into them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

STRIDES = (2, 2, 1, 2, 2)
KERNEL = 3
CONVOLUTIONS = tuple(f"conv.{i}" for i in range(len(STRIDES)))
DENSE = ("dense.0", "dense.1")
NAMES = tuple(f"{layer}.{part}" for layer in (*CONVOLUTIONS, *DENSE) for part in ("weight", "bias"))


def channels(width: int) -> tuple[int, ...]:
    """Return the channels after each convolution of a network of this width."""
    return width, 2 * width, 2 * width, 4 * width, 4 * width


def shapes(size: Sequence[int], width: int, hidden: int, k: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network.

    Parameters
    ----------
    size : (int, int)
        Height and width of the pictures that it takes.
    width : int
        Channels after the first convolution.
    hidden : int
        Outputs of the first matrix.
    k : int
        Coefficients that it predicts.
    """
    found: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for layer, outputs in zip(CONVOLUTIONS, channels(width), strict=True):
        found |= {f"{layer}.weight": (outputs, inputs, KERNEL, KERNEL), f"{layer}.bias": (outputs,)}
        inputs = outputs
    height, across = final_size(size)
    for layer, outputs, taken in zip(DENSE, (hidden, k), (inputs * height * across, hidden), strict=True):
        found |= {f"{layer}.weight": (outputs, taken), f"{layer}.bias": (outputs,)}
    return found


def final_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the height and width that are left of a picture after all convolutions."""
    height, across = size
    for stride in STRIDES:
        height, across = -(-height // stride), -(-across // stride)
    return height, across


def forward(tensors: Mapping[str, np.ndarray], pictures: np.ndarray) -> np.ndarray:
    """Return the network's outputs, float32 ``(n, k)``, for pictures ``(n, h, w, 3)`` in [0, 1]."""
    x = np.asarray(pictures, np.float32).transpose(0, 3, 1, 2) * 2 - 1
    for layer, stride in zip(CONVOLUTIONS, STRIDES, strict=True):
        x = _silu(_convolution(x, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"], stride))
    x = x.reshape(len(x), -1)
    first, second = DENSE
    x = _silu(x @ tensors[f"{first}.weight"].T + tensors[f"{first}.bias"])
    return np.asarray(x @ tensors[f"{second}.weight"].T + tensors[f"{second}.bias"], np.float32)


def _convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """Return a convolution with a border of zeros, ``(n, outputs, h, w)``."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (KERNEL, KERNEL), (2, 3))[:, :, ::stride, ::stride]
    n, inputs, height, across = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * across, inputs * KERNEL * KERNEL)
    found = columns @ weight.reshape(len(weight), -1).T + bias
    return np.asarray(found.reshape(n, height, across, len(weight)).transpose(0, 3, 1, 2))


def _silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-np.clip(x, -80, 80))), np.float32)


# ------------------------------------------------------------------ pictures
def reduction(size: Sequence[int], resolution: int) -> int:
    """Return by how many pixels per side to average, so that the shorter side keeps at least `resolution` pixels.

    The largest whole number that divides both sides.
    """
    height, across = size
    least = min(height, across)
    fitting = (n for n in range(max(1, least // resolution), 0, -1) if height % n == 0 and across % n == 0)
    return next(fitting, 1)


def reduced(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Return pictures ``(n, h, w, 3)`` averaged over squares of ``factor x factor`` pixels, float32."""
    n, height, across, depth = pictures.shape
    squares = pictures.reshape(n, height // factor, factor, across // factor, factor, depth)
    return np.asarray(squares.mean((2, 4), dtype=np.float32))


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    """Return pictures in [0, 1] as uint8."""
    return np.asarray((np.clip(pictures, 0, 1) * 255).round(), np.uint8)
