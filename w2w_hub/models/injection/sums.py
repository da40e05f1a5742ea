"""Computes W + scale * B @ A into second copies of the weights."""

from __future__ import annotations

import torch

from ...lora.adapter import Target
from ...lora.layout import ParameterLayout
from .stack import Injection


def write_sums(
    copies: list[torch.Tensor], originals: list[torch.Tensor], row: torch.Tensor, layout: ParameterLayout
) -> None:
    """Write each module's sum, computed in float32 and rounded once to its weight's dtype.

    Parameters
    ----------
    copies, originals : list of Tensor
        Output and input, in the order of the layout's slots; both of a pair have one shape, dtype and device.
    row : Tensor
        float32 ``(layout.size,)``.
    """
    device = row.device
    if device.type == "cuda" and layout.rank_one and all(copy.device == device for copy in copies):
        # kernel launches cost more than the writes: two foreach calls, with the same bits
        parts = row.split(layout.factor_sizes)
        torch._foreach_copy_(copies, originals)
        torch._foreach_addcmul_(copies, [b[:, None] for b in parts[1::2]], parts[::2], value=layout.scale)
        return
    pairs = layout.unflatten_batch(row[None]).values()
    for copy, original, (a, b) in zip(copies, originals, pairs, strict=True):
        write_sum(copy, original, a[0], b[0], layout.scale)


def write_sum(copy: torch.Tensor, original: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    """Write one module's sum; a is ``(r, columns)``, b ``(out, r)``."""
    a, b = a.to(copy.device), b.to(copy.device)
    if original.ndim > 2:  # a convolution, in any memory format
        torch.add(original, (b @ a).reshape(original.shape), alpha=scale, out=copy)
    elif a.shape[0] == 1:  # one pass over the weights, in float32 whatever their dtype
        torch.addcmul(original, b, a, value=scale, out=copy)
    elif copy.dtype in (torch.float32, torch.float64):
        torch.addmm(original, b.to(copy.dtype), a.to(copy.dtype), alpha=scale, out=copy)
    else:
        torch.add(original, b @ a, alpha=scale, out=copy)


def second_copy(owner: Injection, target: Target, weight: torch.Tensor) -> torch.Tensor:
    """Return storage for a weight's sum, reused from the last block unless the weight was moved or cast since."""
    copy = owner.copies.get(target)
    if copy is None or not _fits(copy, weight):
        with torch.inference_mode(False):  # usable outside of a caller's inference mode
            copy = owner.copies[target] = torch.empty_like(weight)
    return copy


def _fits(copy: torch.Tensor, weight: torch.Tensor) -> bool:
    result: bool = (
        copy.shape == weight.shape
        and copy.dtype == weight.dtype
        and copy.device == weight.device
        and copy.stride() == weight.stride()
        and copy.data_ptr() != weight.data_ptr()
    )
    return result
