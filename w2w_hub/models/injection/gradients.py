"""One identity in a model's weights, with gradients: for a descent that a GPU starts part by part.

Beside a layer, an adapter with its gradients is a dozen small products that take longer to start than to compute.
Here the sums W + scale * B @ A of all layers are one node of the graph, and each layer is as fast as without.
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
from .stack import Injection, Use, every, injection
from .sums import second_copy, write_sums


class _Sums(torch.autograd.Function):
    """From one row to every module's weight, and from their gradients to the row's."""

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
        for same in _alike(layout, gradients):  # one product for all layers of a shape
            slot, dtype = layout.slots[same[0]], gradients[same[0]].dtype
            a = torch.stack([parts[2 * i] for i in same]).to(dtype).view(-1, slot.rank, slot.columns)
            b = torch.stack([parts[2 * i + 1] for i in same]).to(dtype).view(-1, slot.outputs, slot.rank)
            stacked = torch.stack([gradients[i] for i in same]).reshape(-1, slot.outputs, slot.columns)
            of_a = torch.bmm(b.transpose(1, 2), stacked).flatten(1).unbind()
            of_b = torch.bmm(stacked, a.transpose(1, 2)).flatten(1).unbind()
            for i, *pair in zip(same, of_a, of_b, strict=True):
                found[2 * i : 2 * i + 2] = pair
        return torch.cat(found).to(row.dtype) * layout.scale, None, None, None


def _alike(layout: ParameterLayout, gradients: tuple[torch.Tensor, ...]) -> Iterable[list[int]]:
    """Positions of the slots, grouped by what makes their products one."""
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
        # read anew for every vector: a weight that was moved, cast or loaded since is followed
        originals = [module._parameters["weight"].data for module in self.modules.values()]  # type: ignore[union-attr]
        copies = [second_copy(self.owner, t, w) for t, w in zip(self.modules, originals, strict=True)]
        row = vector.reshape(-1).to(torch.float32)
        for module, weight in zip(self.modules.values(), _Sums.apply(row, self.layout, originals, copies), strict=True):  # type: ignore[no-untyped-call]
            module.__dict__["weight"] = weight  # found before the parameter, which stays as it is

    def enter(self) -> None:
        self.use(self.vector)

    def leave(self) -> None:
        every(list(self.modules.values()), lambda module: module.__dict__.pop("weight", None))


def differentiable(model: nn.Module, layout: ParameterLayout, device: torch.device) -> bool:
    """Whether :func:`weights_differentiable` fits: plain weights on this device, in a model that is not compiled.

    A compiled model's graph may hold the parameters themselves.
    """
    if not rewritable(model, layout) or compiled(model):
        return False
    weights = [module._parameters.get("weight") for module in target_modules(model, layout).values()]
    return all(weight is not None and weight.device == device for weight in weights)


@contextmanager
def weights_differentiable(model: nn.Module, layout: ParameterLayout, vector: torch.Tensor) -> Iterator[Use]:
    """One identity by target weights that read W + scale * B @ A inside the block; gradients reach `vector`.

    The weights are to the bit those of :func:`~w2w_hub.models.injection.weights_rewritten`. The parameters, and so the
    state dict, stay the originals. Yields a function that puts another vector in place; a graph lives until then.

    Parameters
    ----------
    vector : Tensor
        ``(1, layout.size)`` or ``(layout.size,)``, on the weights' device.

    Raises
    ------
    AdapterNotAppliedError
        If :func:`differentiable` says that it does not fit.
    """
    if not differentiable(model, layout, vector.device):
        raise AdapterNotAppliedError("the target weights are not plain tensors of this device; use rows_attached")
    owner = injection(model)
    state = _Differentiable(owner, target_modules(model, layout), layout)
    state.vector = vector
    with owner.show(state):
        yield state.use
