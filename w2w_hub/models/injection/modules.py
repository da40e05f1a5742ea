"""Finds a layout's modules in a torch model, and checks that their weights can be swapped or differentiated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...common.text import an, counted
from ...dialects.base_model import digest_of_weights
from ...errors import AdapterNotAppliedError, BaseModelMismatchError, InvalidInputError
from ...lora.adapter import Target
from ...lora.layout import ParameterLayout


def target_modules(model: nn.Module, layout: ParameterLayout) -> dict[Target, nn.Linear | nn.Conv2d]:
    """Return the layout's modules in a model, Linear or Conv2d, without PEFT's wrappers.

    Raises
    ------
    BaseModelMismatchError
        If modules are missing or have another shape; names the first.
    AdapterNotAppliedError
        If attention reads fused copies of the weights (`fuse_qkv_projections`).
    """
    found: dict[Target, nn.Linear | nn.Conv2d] = {}
    wrong = []
    for slot in layout.slots:
        path = _path(model, slot.target)
        module = path[-1] if path else None
        shape, expected = _shape_of(module), (slot.inputs, slot.outputs, slot.kernel)
        if shape != expected:
            is_there = "is missing" if module is None else f"is {_words(module, shape)}"
            wrong.append(f"{slot.target} {is_there}, expected {_words(None, expected)}")
        elif any(_fused(outer) for outer in path):
            raise AdapterNotAppliedError(
                f"{slot.target} is fused into another projection; call pipe.unfuse_qkv_projections() first"
            )
        else:
            found[slot.target] = module  # type: ignore[assignment]
    if wrong:
        raise BaseModelMismatchError(
            f"this base model does not fit the layout: {wrong[0]}"
            + (f" (and {counted(len(wrong) - 1, 'more module')})" if len(wrong) > 1 else "")
        )
    return found


_Shape = tuple[int, int, tuple[int, ...]]


def _shape_of(module: nn.Module | None) -> _Shape | None:
    """Return inputs, outputs and kernel of a layer that can have low-rank factors, or None."""
    if module is not None and hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features, ()
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return module.in_channels, module.out_channels, tuple(module.kernel_size)
    return None


def _words(module: nn.Module | None, shape: _Shape | None) -> str:
    if shape is None:
        return an(type(module).__name__)
    kernel = f" with a kernel of {'x'.join(map(str, shape[2]))}" if shape[2] else ""
    return f"{shape[0]} -> {shape[1]}{kernel}"


def _path(model: nn.Module, target: Target) -> list[nn.Module]:
    """Return the modules from the model's child to the target, without PEFT's wrappers; empty if there is none.

    Listing all modules of a large UNet would take longer than writing an identity.
    """
    module, found = uncompiled(model), []
    for name in target.module.split("."):
        inner: Any = getattr(module, name, None)
        while isinstance(getattr(inner, "base_layer", None), nn.Module):
            inner = inner.base_layer
        if not isinstance(inner, nn.Module):
            return []
        module = uncompiled(inner)  # blocks may be compiled one by one
        found.append(module)
    return found


def _fused(attention: nn.Module) -> bool:
    """Return whether attention reads one fused projection; `unfuse_qkv_projections` only restores the processor."""
    processor = type(getattr(attention, "processor", None)).__name__
    return getattr(attention, "fused_projections", False) and processor.startswith("Fused")


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the module itself."""
    return getattr(model, "_orig_mod", model)


def compiled(model: nn.Module) -> bool:
    """Return whether the model or one of its modules runs through `torch.compile`."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


def base_digest(model: nn.Module, layout: ParameterLayout) -> str:
    """Return the base digest of a model in memory (float32 or float16), as `digest_of_weights` defines it."""

    def weight(target: Target) -> np.ndarray | None:
        path = _path(model, target)
        values = getattr(path[-1], "weight", None) if path else None
        return None if values is None or values.is_meta else values.detach().cpu().float().numpy()

    return digest_of_weights(layout, weight)


def rewritable(model: nn.Module, layout: ParameterLayout) -> bool:
    """Return whether the target weights can be swapped: in memory, as plain floats of 16 bits or more.

    Sequential and group offloading keep copies of their own, and weights that are quantized, sharded, stored in 8 bits
    (layerwise casting) or made in inference mode cannot be swapped either. Identities are then injected by hooks.

    Raises
    ------
    AdapterNotAppliedError
        If there are no weights at all (the meta device, without offloading that brings them).
    """
    plain = True
    for slot in layout.slots:
        path = _path(model, slot.target)
        weight = path[-1].weight
        if weight.is_meta and not hasattr(path[-1], "_hf_hook"):
            raise AdapterNotAppliedError(f"{slot.target} has no weights in memory (meta device); load the base model")
        plain &= type(weight.data) is torch.Tensor and weight.is_floating_point() and weight.element_size() > 1
        plain &= not weight.is_meta and not any(_has_hook(outer, "group_offloading") for outer in path)
        plain &= not _made_in_inference(weight)
    return plain


def _has_hook(module: nn.Module, name: str) -> bool:
    hooks = getattr(module, "_diffusers_hook", None)  # diffusers.hooks.HookRegistry
    return hooks is not None and hooks.get_hook(name) is not None


def _made_in_inference(weight: torch.Tensor) -> bool:
    result: bool = weight.is_inference() or weight.data.is_inference()
    return result


def require_differentiable(model: nn.Module) -> None:
    """Raise unless gradients can flow through a model.

    Raises
    ------
    InvalidInputError
        If its weights were made in inference mode, or are stored in a dtype that they do not compute in.
    """
    for name, module in model.named_modules():
        if _has_hook(module, "layerwise_casting"):
            raise InvalidInputError(
                f"{name} is stored in another dtype than it computes in (layerwise casting), which stops "
                "gradients; load the pipeline without it to invert"
            )
    for name, weight in model.named_parameters():
        if _made_in_inference(weight):
            raise InvalidInputError(
                f"{name} was loaded or cast under torch.inference_mode(), which stops gradients; load the pipeline "
                "outside of it to invert"
            )
