"""Injection of LoRA vectors into a torch model for the duration of a `with` block.

One identity is injected by swapping the storage of the target weights for a second copy that holds
W + scale * B @ A; several, or one in a model whose weights cannot be swapped, by forward hooks. The model's own values
are never written to, so that leaving the block restores pointers, bit for bit. Blocks can be nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...common.deprecated import renamed_names
from ...common.extras import optional_imports
from ...lora.layout import ParameterLayout

with optional_imports("diffusers"):
    import torch
    from torch import nn

from .gradients import differentiable, inject_differentiable
from .modules import base_digest, require_differentiable, rewritable, target_modules, uncompiled
from .rows import inject_hooks
from .stack import Use, injection, use_base
from .weights import inject_weights

__all__ = [
    "Use", "base_digest", "differentiable", "inject", "inject_differentiable", "inject_hooks", "inject_weights",
    "injection", "require_differentiable", "rewritable", "target_modules", "uncompiled", "use_base",
]  # fmt: skip


@contextmanager
def inject(
    model: nn.Module, layout: ParameterLayout, vectors: torch.Tensor, device: torch.device | None = None
) -> Iterator[Use]:
    """Inject one identity ``(size,)`` in the fastest way that the model allows, or several ``(n, size)`` by hooks.

    Yields
    ------
    callable
        Replaces the vectors by others of the same shape.
    """
    target_modules(model, layout)
    if vectors.ndim == 1 and rewritable(model, layout):
        with inject_weights(model, layout, vectors) as use:
            yield use
        return
    with inject_hooks(model, layout, torch.atleast_2d(vectors), device) as use_rows:
        yield lambda rows: use_rows(torch.atleast_2d(rows))


__getattr__ = renamed_names(
    __name__, base_shown="use_base", identity_shown="inject", rows_attached="inject_hooks",
    weights_differentiable="inject_differentiable", weights_rewritten="inject_weights",
)  # fmt: skip
