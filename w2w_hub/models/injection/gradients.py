"""Differentiable weight injection for one identity, batched into one autograd node to avoid kernel-launch overhead.

As a side branch, each LoRA layer costs about twelve small kernels, dominated by launch latency. Here the sums
W + scale * B @ A of all layers are computed by one autograd function, and each layer runs as fast as without LoRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ...errors import AdapterNotAppliedError
from ...lora.adapter import Target
from ...lora.layout import ParameterLayout
from .modules import compiled, rewritable, target_modules
from .stack import Injection, Use, drain, injection
from .sums import second_copy, write_sums


class _Sums(torch.autograd.Function):
    """Compute all modules' weights from one vector, and its gradient from theirs."""

    @staticmethod
    def forward(
        ctx: Any, row: torch.Tensor, layout: ParameterLayout, originals: list[torch.Tensor], copies: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        write_sums(copies, originals, row, layout)
        ctx.save_for_backward(row)
        ctx.layout = layout
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (row,), layout = ctx.saved_tensors, ctx.layout
        parts = row.split(layout.factor_sizes)
        found: list[torch.Tensor] = [row] * len(parts)
        for same in _group_by_shape(layout, gradients):  # one product for all layers of a shape
            slot, dtype = layout.slots[same[0]], gradients[same[0]].dtype
            a = torch.stack([parts[2 * i] for i in same]).to(dtype).view(-1, slot.rank, slot.columns)
            b = torch.stack([parts[2 * i + 1] for i in same]).to(dtype).view(-1, slot.outputs, slot.rank)
            stacked = torch.stack([gradients[i] for i in same]).reshape(-1, slot.outputs, slot.columns)
            grad_a = torch.bmm(b.transpose(1, 2), stacked).flatten(1).unbind()
            grad_b = torch.bmm(stacked, a.transpose(1, 2)).flatten(1).unbind()
            for i, *pair in zip(same, grad_a, grad_b, strict=True):
                found[2 * i : 2 * i + 2] = pair
        return torch.cat(found).to(row.dtype) * layout.scale, None, None, None


def _group_by_shape(layout: ParameterLayout, gradients: tuple[torch.Tensor, ...]) -> Iterable[list[int]]:
    """Group the slots' positions by shape and dtype; each group's products are one batched product."""
    groups: dict[Any, list[int]] = {}
    for i, (slot, gradient) in enumerate(zip(layout.slots, gradients, strict=True)):
        groups.setdefault((slot.size, gradient.dtype), []).append(i)
    return groups.values()


class _Differentiable:
    def __init__(self, owner: Injection, modules: dict[Target, nn.Linear | nn.Conv2d], layout: ParameterLayout):
        self.owner, self.modules, self.layout = owner, modules, layout
        self.vector = torch.empty(0)

    def use(self, vector: torch.Tensor) -> None:
        self.vector = vector
        # read again for each vector: the weight may have been moved, cast or loaded since
        originals = [module._parameters["weight"].data for module in self.modules.values()]  # type: ignore[union-attr]
        copies = [second_copy(self.owner, t, w) for t, w in zip(self.modules, originals, strict=True)]
        row = vector.reshape(-1).to(torch.float32)
        for module, weight in zip(self.modules.values(), _Sums.apply(row, self.layout, originals, copies), strict=True):  # type: ignore[no-untyped-call]
            module.__dict__["weight"] = weight  # found before the parameter, which stays as it is

    def enter(self) -> None:
        self.use(self.vector)

    def leave(self) -> None:
        drain(list(self.modules.values()), lambda module: module.__dict__.pop("weight", None))


def differentiable(model: nn.Module, layout: ParameterLayout, device: torch.device) -> bool:
    """Return whether :func:`inject_differentiable` works: plain weights on this device, and no compiled module.

    A compiled model's graph may hold the parameters themselves.
    """
    if not rewritable(model, layout) or compiled(model):
        return False
    weights = [module._parameters.get("weight") for module in target_modules(model, layout).values()]
    return all(weight is not None and weight.device == device for weight in weights)


@contextmanager
def inject_differentiable(model: nn.Module, layout: ParameterLayout, vector: torch.Tensor) -> Iterator[Use]:
    """Inject one identity so that gradients reach `vector`: target weights read W + scale * B @ A inside the block.

    The weights are bit for bit those of :func:`~w2w_hub.models.injection.inject_weights`. The parameters, and so the
    state dict, stay the originals. Yields a function that replaces the vector; a graph is valid until then.

    Parameters
    ----------
    vector : Tensor
        ``(1, layout.size)`` or ``(layout.size,)``, on the weights' device.

    Raises
    ------
    AdapterNotAppliedError
        If :func:`differentiable` returns False.
    """
    if not differentiable(model, layout, vector.device):
        raise AdapterNotAppliedError("the target weights are not plain tensors on this device; use inject_hooks")
    owner = injection(model)
    state = _Differentiable(owner, target_modules(model, layout), layout)
    state.vector = vector
    with owner.active(state):
        yield state.use
