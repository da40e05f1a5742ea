"""The network of an encoder while it is fitted: :mod:`w2w_hub.space.encoder.network` with batch normalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...common.extras import optional_imports
from ...space.encoder.network import CONVOLUTIONS, DENSE, KERNEL, STRIDES, channels, final_size

with optional_imports("diffusers"):
    import torch
    import torch.nn.functional as F
    from torch import nn


class EncoderNetwork(nn.Module):
    """Five convolutions and two matrices, see :func:`w2w_hub.space.encoder.network.shapes` for the arguments."""

    def __init__(self, size: Sequence[int], width: int, hidden: int, k: int):
        super().__init__()
        sides, (height, across) = (3, *channels(width)), final_size(size)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, KERNEL, stride, 1, bias=False)
            for inputs, outputs, stride in zip(sides, sides[1:], STRIDES, strict=False)
        )
        self.normalizations = nn.ModuleList(nn.BatchNorm2d(outputs) for outputs in sides[1:])
        self.first = nn.Linear(sides[-1] * height * across, hidden)
        self.second = nn.Linear(hidden, k)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return standardized coefficients ``(n, k)`` for pictures ``(n, 3, h, w)`` in [0, 1]."""
        x = pictures * 2 - 1
        for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True):
            x = F.silu(normalization(convolution(x)))
        found: torch.Tensor = self.second(F.silu(self.first(x.flatten(1))))
        return found

    @torch.no_grad()
    def folded(self) -> dict[str, np.ndarray]:
        """Return the tensors of the NumPy network, float32 values of float16; normalizations are in convolutions."""
        found: dict[str, torch.Tensor] = {}
        for name, convolution, normalization in zip(CONVOLUTIONS, self.convolutions, self.normalizations, strict=True):
            gain = normalization.weight.double() / (normalization.running_var.double() + normalization.eps).sqrt()
            found[f"{name}.weight"] = convolution.weight.double() * gain[:, None, None, None]
            found[f"{name}.bias"] = normalization.bias.double() - normalization.running_mean.double() * gain
        for name, matrix in zip(DENSE, (self.first, self.second), strict=True):
            found |= {f"{name}.weight": matrix.weight, f"{name}.bias": matrix.bias}
        return {name: value.half().float().cpu().numpy() for name, value in found.items()}
