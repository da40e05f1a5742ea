"""Injection by forward hooks: LoRA as a side branch of each layer, one identity per sample of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from ...common.text import counted
from ...errors import LayoutMismatchError
from ...lora.adapter import Target
from ...lora.layout import ParameterLayout
from .modules import target_modules
from .stack import Injection, Use, drain, injection


class _LoraHook:
    """The forward hook of one target, reused by later blocks so that a compiled model is not compiled again.

    `a` is ``(n, r, in)`` and `b` ``(n, out, r)`` for n identities; for one identity and Linear layers only, both lack
    the first axis.
    """

    def __init__(self, target: Target, scale: float):
        self.target, self.scale = target, scale
        self.a = self.b = torch.empty(0)

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x, a, b = args[0].to(output.dtype), self.a.to(output.dtype), self.b.to(output.dtype)
        if isinstance(module, nn.Conv2d):
            return self._convolved(module, x, a, b, output)
        if a.ndim == 2:
            down = F.linear(x, a).reshape(-1, a.shape[0])
            flat = output.reshape(-1, output.shape[-1])
            return torch.addmm(flat, down, b.T, alpha=self.scale).reshape(output.shape)
        a, b = _for_each_sample(x.shape[0], a, b)
        samples = x.reshape(x.shape[0], -1, x.shape[-1])
        down = torch.bmm(samples, a.transpose(1, 2))
        flat = output.reshape(samples.shape[0], -1, output.shape[-1])
        return torch.baddbmm(flat, down, b.transpose(1, 2), alpha=self.scale).reshape(output.shape)

    def _convolved(
        self, module: nn.Conv2d, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        """Apply A as a convolution with the module's settings and one group per sample, then B to its channels."""
        single = x.ndim == 3
        x = x[None] if single else x
        a, b = _for_each_sample(x.shape[0], a, b)
        padding: str | tuple[int, ...] = module.padding  # type: ignore[assignment]
        if module.padding_mode != "zeros":
            x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode), (0, 0)
        n, rank = a.shape[:2]
        down = F.conv2d(
            x.reshape(1, n * x.shape[1], *x.shape[2:]), a.reshape(n * rank, x.shape[1], *module.kernel_size),
            None, module.stride, padding, module.dilation, n,
        )  # fmt: skip
        added = torch.bmm(b, down.reshape(n, rank, -1)).reshape(n, -1, *down.shape[2:])
        return torch.add(output, added[0] if single else added, alpha=self.scale)


def _for_each_sample(samples: int, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat the factors of n identities for a batch in which sample i belongs to identity ``i % n``."""
    repeats, rest = divmod(samples, a.shape[0])
    if rest:
        raise LayoutMismatchError(
            f"a batch of {counted(samples, 'sample')} cannot carry {counted(a.shape[0], 'identity')}"
        )
    return (a.repeat(repeats, 1, 1), b.repeat(repeats, 1, 1)) if repeats > 1 else (a, b)


class _Hooks:
    def __init__(self, owner: Injection, modules: dict[Target, nn.Linear | nn.Conv2d], layout: ParameterLayout):
        self.owner, self.modules, self.layout = owner, modules, layout
        self.vectors = torch.empty(0)
        dtypes = {getattr(module.weight, "dtype", None) for module in modules.values()}
        self.half = next(iter(dtypes)) if dtypes in ({torch.bfloat16}, {torch.float16}) else None

    def use(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors
        values = vectors if self.half is None else vectors.to(self.half)  # one cast instead of one per module
        for target, (a, b) in self.factors(values).items():
            hook = self.owner.hooks.get(target)
            if hook is None or hook.scale != self.layout.scale:
                hook = self.owner.hooks[target] = _LoraHook(target, self.layout.scale)
            hook.a, hook.b = a, b

    def factors(self, values: torch.Tensor) -> dict[Target, tuple[torch.Tensor, torch.Tensor]]:
        """Return A and B of each module in the shape that its hook expects."""
        if len(values) != 1 or any(slot.kernel for slot in self.layout.slots):
            return self.layout.unflatten_batch(values)
        parts = values.flatten().split(self.layout.factor_sizes)
        return {
            s.target: (a.view(s.rank, s.inputs), b.view(s.outputs, s.rank))
            for s, a, b in zip(self.layout.slots, parts[::2], parts[1::2], strict=True)
        }

    def enter(self) -> None:
        self.leave()
        self.use(self.vectors)
        for target, module in self.modules.items():
            module.register_forward_hook(self.owner.hooks[target])

    def leave(self) -> None:
        drain(list(self.modules), self._remove_hook)

    def _remove_hook(self, target: Target) -> None:
        hook, hooks = self.owner.hooks.get(target), self.modules[target]._forward_hooks
        if hook is None:
            return
        for key in [key for key, other in hooks.items() if other is hook]:  # an interrupt may lose a handle
            hooks.pop(key, None)
        hook.a = hook.b = torch.empty(0)  # release the vectors and their graph


@contextmanager
def inject_hooks(
    model: nn.Module, layout: ParameterLayout, vectors: torch.Tensor, device: torch.device | None = None
) -> Iterator[Use]:
    """Inject one adapter per sample of a batch, unfused; gradients reach `vectors`.

    Yields a function that replaces the vectors by others of the same shape.

    Parameters
    ----------
    vectors : Tensor
        ``(n, layout.size)``. The batch is a multiple of n samples, of which sample i uses row ``i % n``; this fits
        classifier-free guidance and several samples per identity.
    device : device, optional
        Where the model computes, if `vectors` are on another device.
    """
    owner = injection(model)
    state = _Hooks(owner, target_modules(model, layout), layout)
    state.vectors = vectors if device is None else vectors.to(device)
    with owner.active(state):
        yield lambda rows: state.use(rows if device is None else rows.to(device))
