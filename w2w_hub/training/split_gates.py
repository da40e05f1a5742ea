"""Gates of feed-forward blocks as products of their own, which a compiler fuses better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from ..lora.layout import ParameterLayout


class SplitGates:
    """Computes the two halves of each frozen GEGLU layer by two products with half of its weights each.

    diffusers projects once and cuts the result in half, so that the backward pass has to put two gradients together
    into one tensor, eight times as wide as the block's input. The halves are the same numbers up to rounding.

    Parameters
    ----------
    model : Module
        The base model's denoiser, without adapters.
    layout : ParameterLayout
        Layers that it adapts stay as they are.
    """

    def __init__(self, model: nn.Module, layout: ParameterLayout):
        adapted = {model.get_submodule(slot.target.module) for slot in layout.slots}
        self.layers = [
            m for m in model.modules() if type(m) is GEGLU and type(m.proj) is nn.Linear and m.proj not in adapted
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Split the gates inside the block."""
        try:
            for layer in self.layers:
                layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
            yield
        finally:
            for layer in self.layers:
                layer.__dict__.pop("forward", None)


def _forward(layer: Any, hidden_states: Tensor) -> Tensor:
    weights, biases = layer.proj.weight.chunk(2), (None, None)
    if layer.proj.bias is not None:
        biases = layer.proj.bias.chunk(2)
    value, gate = (F.linear(hidden_states, *half) for half in zip(weights, biases, strict=True))
    result: Tensor = value * layer.gelu(gate)
    return result
