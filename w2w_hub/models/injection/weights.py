"""Injection by weights: a second copy that holds W + scale * B @ A replaces the target weights' storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...errors import AdapterNotAppliedError, InvalidInputError
from ...lora.adapter import Target
from ...lora.layout import ParameterLayout
from .modules import rewritable, target_modules
from .stack import Injection, Use, drain, injection
from .sums import second_copy, write_sums


class _Swap:
    """One module's weight: the parameter, its own storage, and the second copy that replaces it."""

    def __init__(self, target: Target, module: nn.Linear | nn.Conv2d, buffer: torch.Tensor):
        self.target, self.module, self.parameter = target, module, module.weight
        self.original, self.buffer, self.pointer = module.weight.data, buffer, buffer.data_ptr()

    def follow(self) -> None:
        """Find the second copy again; it may have been moved or cast since."""
        if self.module._parameters.get("weight") is not self.parameter:
            raise AdapterNotAppliedError(
                f"{self.target} was replaced while an identity was injected; load weights between calls, not inside one"
            )
        if self.parameter.data_ptr() != self.pointer or self.parameter.dtype != self.buffer.dtype:
            # offloading or a cast made its own copy; move or cast the original too
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

    @torch.inference_mode(False)  # the copy must be usable outside of a caller's inference mode
    @torch.no_grad()
    def use(self, vector: torch.Tensor) -> None:
        self.vector = vector
        for swap in self.swaps:
            swap.follow()
        row = vector.to(self.swaps[0].buffer.device, torch.float32)
        write_sums([s.buffer for s in self.swaps], [s.original for s in self.swaps], row, self.layout)
        torch.clear_autocast_cache()  # its key is the parameter, not the storage
        if any(not torch.equal(s.buffer, s.original) for s in self.swaps):  # usually the first one differs
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
        drain(self.swaps, _Swap.restore)
        torch.clear_autocast_cache()


@contextmanager
def inject_weights(model: nn.Module, layout: ParameterLayout, vector: torch.Tensor) -> Iterator[Use]:
    """Inject one identity at no cost per call: target weights read W + scale * B @ A inside the block.

    The sum is computed in float32 and rounded once to the weights' dtype. The originals are restored bit for bit, also
    after an error. Yields a function that replaces the vector, ``(layout.size,)``. The second copy of the weights is
    reused by the next block.
    """
    modules = target_modules(model, layout)
    if not rewritable(model, layout):
        raise AdapterNotAppliedError(
            "the target weights are not in memory as floats of 16 bits or more (offloaded or quantized); "
            "use inject_hooks"
        )
    if vector.shape != (layout.size,):
        raise InvalidInputError(f"expected a vector of shape ({layout.size},), got {tuple(vector.shape)}")
    owner = injection(model)
    state = _Weights(owner, modules, layout, vector)
    with owner.active(state):
        yield state.use
