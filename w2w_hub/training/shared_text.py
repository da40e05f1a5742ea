"""Frozen projections of prompts, such as the keys of cross-attention: computed once instead of in each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .data import Prompts


class SharedText:
    """Outputs of the layers that read the encoded prompt itself, one per prompt.

    Only what the frozen weights give is kept. Where such a layer is adapted (``to_v`` of cross-attention), its factors
    are applied to the text in each step as ever, by the hook that comes after the layer.

    Parameters
    ----------
    model : Module
        The base model's denoiser, without adapters.
    call : callable
        Called without arguments, runs the model once on all prompts; sample i must have prompt i.
    prompts : Prompts
    """

    def __init__(self, model: nn.Module, call: Callable[[], Any], prompts: Prompts):
        calls: Counter[nn.Module] = Counter()
        outputs: dict[nn.Module, torch.Tensor] = {}

        def keep(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            calls[module] += 1
            if args and args[0] is prompts.text:
                outputs[module] = output.detach().clone()

        handles = [m.register_forward_hook(keep) for m in model.modules() if type(m) is nn.Linear]
        try:
            with torch.no_grad():
                call()
        finally:
            for handle in handles:
                handle.remove()
        self.layers = {module: _Kept(values) for module, values in outputs.items() if calls[module] == 1}

    @contextmanager
    def used(self, which: torch.Tensor) -> Iterator[None]:
        """Use the kept outputs inside the block, for samples with these prompts, int64 ``(samples,)``."""
        try:
            for module, kept in self.layers.items():
                kept.which = which
                module.forward = kept.forward  # type: ignore[method-assign]
            yield
        finally:
            for module in self.layers:
                module.__dict__.pop("forward", None)


class _Kept:
    """The forward pass of one layer: a look-up by prompt."""

    def __init__(self, values: torch.Tensor):
        self.values, self.which = values, torch.empty(0, dtype=torch.long)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.values[self.which]
