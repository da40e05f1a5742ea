"""How flat vectors act on a torch model: in a second copy of its target weights, or beside its layers.

All ways are undone when the block ends and can be nested. The model's own values are never written to: one
identity is drawn from a second copy of the target weights, W + scale * B @ A, whose storage stands in for the
originals' while the block runs, so a pointer is put back, not a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...lora.layout import ParameterLayout
from .gradients import differentiable, weights_differentiable
from .modules import base_digest, require_differentiable, rewritable, target_modules, uncompiled
from .rows import rows_attached
from .stack import Use, base_shown, injection
from .weights import weights_rewritten

__all__ = [
    "Use", "base_digest", "base_shown", "differentiable", "identity_shown", "injection", "require_differentiable",
    "rewritable", "rows_attached", "target_modules", "uncompiled", "weights_differentiable", "weights_rewritten",
]  # fmt: skip


@contextmanager
def identity_shown(
    model: nn.Module, layout: ParameterLayout, vectors: torch.Tensor, device: torch.device | None = None
) -> Iterator[Use]:
    """One identity ``(size,)`` in the cheapest way that the model allows, or several ``(n, size)`` beside it."""
    target_modules(model, layout)
    if vectors.ndim == 1 and rewritable(model, layout):
        with weights_rewritten(model, layout, vectors) as use:
            yield use
        return
    with rows_attached(model, layout, torch.atleast_2d(vectors), device) as use_rows:
        yield lambda rows: use_rows(torch.atleast_2d(rows))
