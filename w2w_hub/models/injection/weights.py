"""One identity in a model's weights: a second copy of them, W + scale * B @ A, stands in for the originals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...errors import AdapterNotAppliedError, InvalidInputError
from ...lora.adapter import Target
from ...lora.layout import ParameterLayout
from .modules import rewritable, target_modules
from .stack import Injection, Use, every, injection
from .sums import second_copy, write_sums


class _Swap:
    """One module's weight: the parameter, its own storage, and the second copy that stands in for it."""

    def __init__(self, target: Target, module: nn.Linear | nn.Conv2d, buffer: torch.Tensor):
        self.target, self.module, self.parameter = target, module, module.weight
        self.original, self.buffer, self.pointer = module.weight.data, buffer, buffer.data_ptr()

    def follow(self) -> None:
        """Take up with where the second copy is now; it may have been moved or cast since."""
        if self.module._parameters.get("weight") is not self.parameter:
            raise AdapterNotAppliedError(
                f"{self.target} was replaced while an identity was drawn; load weights between calls, not inside one"
            )
        if self.parameter.data_ptr() != self.pointer or self.parameter.dtype != self.buffer.dtype:
            # offloading or a cast moved the copy: what stands there is a copy too, and the original follows it
            self.buffer = self.parameter.data
            self.pointer = self.buffer.data_ptr()
            self.original = self.original.to(self.buffer.device, self.buffer.dtype)

    def restore(self) -> None:
        now = self.parameter.data
        if self.module.weight is self.parameter and now.data_ptr() != self.original.data_ptr():
            self.parameter.data = self.original.to(now.device, now.dtype)


class _Weights:
    def __init__(
        self,
        owner: Injection,
        modules: dict[Target, nn.Linear | nn.Conv2d],
        layout: ParameterLayout,
        vector: torch.Tensor,
    ):
        self.owner, self.modules, self.layout, self.vector = owner, modules, layout, vector
        self.swaps: list[_Swap] = []

    @torch.inference_mode(False)  # what stays, the copy, must be usable outside a caller's inference mode too
    @torch.no_grad()
    def use(self, vector: torch.Tensor) -> None:
        self.vector = vector
        for swap in self.swaps:
            swap.follow()
        row = vector.to(self.swaps[0].buffer.device, torch.float32)
        write_sums([s.buffer for s in self.swaps], [s.original for s in self.swaps], row, self.layout)
        torch.clear_autocast_cache()  # which knows a weight by its parameter, whatever that reads by now
        if any(not torch.equal(s.buffer, s.original) for s in self.swaps):  # as a rule the first one does differ
            return
        if any(bool((b[0] @ a[0]).any()) for a, b in self.layout.unflatten_batch(row[None]).values()):
            raise AdapterNotAppliedError(
                "the identity changes no weight in this dtype; load the pipeline in float32 or bfloat16"
            )

    @torch.inference_mode(False)
    def enter(self) -> None:
        self.leave()
        for target, module in self.modules.items():
            buffer = second_copy(self.owner, target, module.weight.data)
            swap = _Swap(target, module, buffer)
            self.swaps.append(swap)
            swap.parameter.data = buffer
        self.use(self.vector)

    @torch.inference_mode(False)
    def leave(self) -> None:
        every(self.swaps, _Swap.restore)
        torch.clear_autocast_cache()


@contextmanager
def weights_rewritten(model: nn.Module, layout: ParameterLayout, vector: torch.Tensor) -> Iterator[Use]:
    """One identity at the plain model's cost: target weights read W + scale * B @ A inside the block.

    The sum is taken in float32 and rounded once to the weights' dtype. The originals come back bit
    for bit, also after an error. Yields a function that writes another vector ``(layout.size,)``.
    The second copy is kept for the next block.
    """
    modules = target_modules(model, layout)
    if not rewritable(model, layout):
        raise AdapterNotAppliedError(
            "the target weights are not in memory as floats of 16 bits or more (offloaded or quantised); "
            "use rows_attached"
        )
    if vector.shape != (layout.size,):
        raise InvalidInputError(f"expected a vector of {layout.size} numbers, got shape {tuple(vector.shape)}")
    owner = injection(model)
    state = _Weights(owner, modules, layout, vector)
    with owner.show(state):
        yield state.use
