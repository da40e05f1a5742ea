"""How a flat vector acts on a torch model: rows beside its weights, or its weights rewritten for a while.

Both are undone when the block ends; the model's own parameters come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from .adapter import Target
from .base import digest_of_weights
from .errors import AdapterNotAppliedError, BaseModelMismatchError, LayoutMismatchError
from .layout import ParameterLayout

Use = Callable[[torch.Tensor], None]


def target_modules(model: nn.Module, layout: ParameterLayout) -> dict[Target, nn.Linear]:
    """The layout's modules in a model.

    Raises
    ------
    BaseModelMismatchError
        If one is missing or has another shape, naming the first.
    """
    named = dict(uncompiled(model).named_modules())
    found: dict[Target, nn.Linear] = {}
    wrong = []
    for slot in layout.slots:
        module = named.get(slot.target.module)
        shape = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if shape != (slot.inputs, slot.outputs):
            is_there = "is missing" if module is None else f"is {shape[0]} -> {shape[1]}"
            wrong.append(f"{slot.target} {is_there}, expected {slot.inputs} -> {slot.outputs}")
        else:
            found[slot.target] = module  # type: ignore[assignment]
    if wrong:
        raise BaseModelMismatchError(
            f"this base model does not fit the layout: {wrong[0]}"
            + (f" (and {len(wrong) - 1} more modules)" if len(wrong) > 1 else "")
        )
    return found


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the module itself."""
    return getattr(model, "_orig_mod", model)


def base_digest(model: nn.Module, layout: ParameterLayout) -> str:
    """:func:`w2w_hub.base.digest_of_weights` of a model in memory (float32 or float16)."""
    named = dict(uncompiled(model).named_modules())

    def weight(target: Target) -> np.ndarray | None:
        values = getattr(named.get(target.module), "weight", None)
        return None if values is None else values.detach().cpu().float().numpy()

    return digest_of_weights(layout, weight)


@contextmanager
def rows_attached(model: nn.Module, layout: ParameterLayout, vectors: torch.Tensor) -> Iterator[Use]:
    """Each sample of a batch carries its own adapter, unfused; gradients reach `vectors`.

    Yields a function that puts other vectors of the same shape in their place.

    Parameters
    ----------
    vectors : Tensor
        ``(n, layout.size)``. A batch of ``m`` samples (a multiple of n) uses row ``i % n`` for sample i,
        which suits both classifier-free guidance and several samples of each identity.
    """
    pairs: dict[Target, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = []

    def use(rows: torch.Tensor) -> None:
        pairs.update(layout.unflatten_batch(rows))

    def hook_for(target: Target):
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            x, (a, b) = args[0], pairs[target]
            repeats, rest = divmod(x.shape[0], a.shape[0])
            if rest:
                raise LayoutMismatchError(f"a batch of {x.shape[0]} samples cannot carry {a.shape[0]} identities")
            down = a.to(x.dtype).repeat(repeats, 1, 1).transpose(1, 2)
            up = b.to(x.dtype).repeat(repeats, 1, 1).transpose(1, 2)
            return torch.baddbmm(output, torch.bmm(x, down), up, alpha=layout.scale)

        return hook

    use(vectors)
    try:
        for target, module in target_modules(model, layout).items():
            handles.append(module.register_forward_hook(hook_for(target)))
        yield use
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def weights_rewritten(model: nn.Module, layout: ParameterLayout, vector: torch.Tensor) -> Iterator[Use]:
    """One identity at the plain model's cost: target weights read W + scale * B @ A inside the block.

    The sum is taken in float32 and rounded once to the weights' dtype. The originals come back bit
    for bit, also after an error. Yields a function that writes another vector ``(layout.size,)``.
    """
    modules = target_modules(model, layout)
    for target, module in modules.items():
        if module.weight.device.type == "meta":
            raise AdapterNotAppliedError(
                f"{target} has no weights in memory (sequential offloading); use enable_model_cpu_offload instead"
            )
    originals = {target: module.weight.detach().clone() for target, module in modules.items()}

    @torch.no_grad()
    def use(row: torch.Tensor) -> None:
        changed = False
        pairs = layout.unflatten_batch(row[None].float())
        for target, module in modules.items():
            original = originals[target].to(module.weight.device)  # offloading may have moved the module
            a, b = (factor[0].to(original.device) for factor in pairs[target])
            module.weight.copy_(original.float() + layout.scale * (b @ a))
            changed = changed or not torch.equal(module.weight, original)
        if not changed and bool(row.any()):
            raise AdapterNotAppliedError(
                "the identity changes no weight in this dtype; load the pipeline in float32 or bfloat16"
            )

    try:
        use(vector)
        yield use
    finally:
        with torch.no_grad():
            for target, module in modules.items():
                module.weight.copy_(originals[target])
