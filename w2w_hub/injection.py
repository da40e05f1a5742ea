"""How flat vectors act on a torch model: its target weights swapped for a second copy, or rows beside them.

Both are undone when the block ends and can be nested. The model's own values are never written to: one
identity is drawn from a second copy of the target weights, W + scale * B @ A, whose storage stands in for the
originals' while the block runs, so a pointer is put back, not a number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .adapter import Target
from .base import digest_of_weights
from .errors import AdapterNotAppliedError, BaseModelMismatchError, InvalidInputError, LayoutMismatchError
from .layout import ParameterLayout

Use = Callable[[torch.Tensor], None]


# ---------------------------------------------------------------- the modules
def target_modules(model: nn.Module, layout: ParameterLayout) -> dict[Target, nn.Linear | nn.Conv2d]:
    """The layout's modules in a model, Linear or Conv2d; of one that PEFT has wrapped, the layer inside.

    Raises
    ------
    BaseModelMismatchError
        If one is missing or has another shape, naming the first.
    AdapterNotAppliedError
        If attention reads another copy of the weights (`fuse_qkv_projections`).
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
            + (f" (and {len(wrong) - 1} more modules)" if len(wrong) > 1 else "")
        )
    return found


_Shape = tuple[int, int, tuple[int, ...]]


def _shape_of(module: nn.Module | None) -> _Shape | None:
    """Inputs, outputs and kernel of a layer that has low-rank factors, or None."""
    if module is not None and hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features, ()
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return module.in_channels, module.out_channels, tuple(module.kernel_size)
    return None


def _words(module: nn.Module | None, shape: _Shape | None) -> str:
    if shape is None:
        return f"a {type(module).__name__}"
    kernel = f" with a kernel of {'x'.join(map(str, shape[2]))}" if shape[2] else ""
    return f"{shape[0]} -> {shape[1]}{kernel}"


def _path(model: nn.Module, target: Target) -> list[nn.Module]:
    """The modules from the model's child to the target, PEFT's wrappers left out; empty if there is none.

    Quicker than listing all modules, which for a large UNet costs more than writing an identity.
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
    """Whether attention reads one fused projection; `unfuse_qkv_projections` only puts the processor back."""
    processor = type(getattr(attention, "processor", None)).__name__
    return getattr(attention, "fused_projections", False) and processor.startswith("Fused")


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the module itself."""
    return getattr(model, "_orig_mod", model)


def base_digest(model: nn.Module, layout: ParameterLayout) -> str:
    """:func:`w2w_hub.base.digest_of_weights` of a model in memory (float32 or float16)."""

    def weight(target: Target) -> np.ndarray | None:
        path = _path(model, target)
        values = getattr(path[-1], "weight", None) if path else None
        return None if values is None or values.is_meta else values.detach().cpu().float().numpy()

    return digest_of_weights(layout, weight)


def rewritable(model: nn.Module, layout: ParameterLayout) -> bool:
    """Whether the target weights can be swapped: they are in memory, as plain floats of 16 bits or more.

    They cannot under sequential or group offloading, which keeps copies of its own, nor where they are quantised,
    sharded or stored in 8 bits (layerwise casting). An identity is then drawn beside them, unfused.

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
        plain &= not weight.is_meta and not any(_group_offloaded(outer) for outer in path)
    return plain


def _group_offloaded(module: nn.Module) -> bool:
    hooks = getattr(module, "_diffusers_hook", None)  # diffusers.hooks.HookRegistry
    return hooks is not None and hooks.get_hook("group_offloading") is not None


# ---------------------------------------------------------------- one model's injection
class Injection:
    """What is drawn from a model at the moment, as a stack: a call inside a callback may want something else.

    There is one for each model, whichever pipelines share it. Blocks of different threads wait for each other.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stack: list[_Weights | _Rows | None] = []
        self.buffers: dict[Target, torch.Tensor] = {}
        self.hooks: dict[Target, _RowsHook] = {}

    @contextmanager
    def show(self, state: _Weights | _Rows | None) -> Iterator[None]:
        """Draw `state` (None: the base model, exactly) inside the block, and what was drawn before after it."""
        with self.lock:
            depth = len(self.stack)
            before = self.stack[-1] if self.stack else None
            try:
                self.stack.append(state)
                if before is not None:
                    before.leave()
                if state is not None:
                    state.enter()
                yield
            finally:
                if state is not None:
                    state.leave()
                del self.stack[depth:]
                if before is not None:
                    before.enter()


_injections: WeakKeyDictionary[nn.Module, Injection] = WeakKeyDictionary()
_making = threading.Lock()


def injection(model: nn.Module) -> Injection:
    """The one :class:`Injection` of a model, compiled or not."""
    with _making:
        return _injections.setdefault(uncompiled(model), Injection())


@contextmanager
def base_shown(model: nn.Module) -> Iterator[None]:
    """The base model exactly, also inside a block that draws an identity."""
    with injection(model).show(None):
        yield


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


# ---------------------------------------------------------------- several identities, unfused
class _RowsHook:
    """The forward hook of one target. It outlives the blocks, so that a compiled model is not compiled again.

    `a` is ``(n, r, in)`` and `b` ``(n, out, r)``, one for each identity; of one identity beside Linear layers alone
    both have no first axis.
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
        """A is a convolution like the module's own, one group for each sample; B mixes its channels at each place."""
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
    """The factors of n identities, repeated for a batch in which sample i is of identity ``i % n``."""
    repeats, rest = divmod(samples, a.shape[0])
    if rest:
        raise LayoutMismatchError(f"a batch of {samples} samples cannot carry {a.shape[0]} identities")
    return (a.repeat(repeats, 1, 1), b.repeat(repeats, 1, 1)) if repeats > 1 else (a, b)


class _Rows:
    def __init__(self, owner: Injection, modules: dict[Target, nn.Linear | nn.Conv2d], layout: ParameterLayout):
        self.owner, self.modules, self.layout = owner, modules, layout
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        self.vectors = torch.empty(0)
        dtypes = {getattr(module.weight, "dtype", None) for module in modules.values()}
        self.half = next(iter(dtypes)) if dtypes in ({torch.bfloat16}, {torch.float16}) else None

    def use(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors
        values = vectors if self.half is None else vectors.to(self.half)  # at once, not module by module
        for target, (a, b) in self.factors(values).items():
            hook = self.owner.hooks.get(target)
            if hook is None or hook.scale != self.layout.scale:
                hook = self.owner.hooks[target] = _RowsHook(target, self.layout.scale)
            hook.a, hook.b = a, b

    def factors(self, values: torch.Tensor) -> dict[Target, tuple[torch.Tensor, torch.Tensor]]:
        """A and B of every module, as its hook takes them."""
        if len(values) != 1 or any(slot.kernel for slot in self.layout.slots):
            return self.layout.unflatten_batch(values)
        parts = values.flatten().split(self.layout.part_sizes)
        return {
            s.target: (a.view(s.rank, s.inputs), b.view(s.outputs, s.rank))
            for s, a, b in zip(self.layout.slots, parts[::2], parts[1::2], strict=True)
        }

    def enter(self) -> None:
        self.use(self.vectors)
        for target, module in self.modules.items():
            self.handles.append(module.register_forward_hook(self.owner.hooks[target]))

    def leave(self) -> None:
        _all(self.handles, lambda handle: handle.remove())
        for target in self.modules:  # no vectors, and no graph of their gradients, is held longer than drawn
            hook = self.owner.hooks.get(target)
            if hook is not None:
                hook.a = hook.b = torch.empty(0)


@contextmanager
def rows_attached(
    model: nn.Module, layout: ParameterLayout, vectors: torch.Tensor, device: torch.device | None = None
) -> Iterator[Use]:
    """Each sample of a batch carries its own adapter, unfused; gradients reach `vectors`.

    Yields a function that puts other vectors of the same shape in their place.

    Parameters
    ----------
    vectors : Tensor
        ``(n, layout.size)``. A batch of ``m`` samples (a multiple of n) uses row ``i % n`` for sample i,
        which suits both classifier-free guidance and several samples of each identity.
    device : device, optional
        Where the model computes, if `vectors` lie elsewhere.
    """
    owner = injection(model)
    state = _Rows(owner, target_modules(model, layout), layout)
    state.vectors = vectors if device is None else vectors.to(device)
    with owner.show(state):
        yield lambda rows: state.use(rows if device is None else rows.to(device))


# ---------------------------------------------------------------- one identity, in a second copy of the weights
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

    def write(self, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        """Put the sum into the second copy, rounded once to the weight's dtype."""
        where = self.buffer
        a, b = a.to(where.device), b.to(where.device)
        if self.original.ndim > 2:  # a convolution's, in whatever memory format
            torch.add(self.original, (b @ a).reshape(self.original.shape), alpha=scale, out=where)
        elif a.shape[0] == 1:  # one pass over the weights, in float32 whatever their dtype
            torch.addcmul(self.original, b, a, value=scale, out=where)
        elif where.dtype in (torch.float32, torch.float64):
            torch.addmm(self.original, b.to(where.dtype), a.to(where.dtype), alpha=scale, out=where)
        else:
            torch.add(self.original, b @ a, alpha=scale, out=where)

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
        self.plain = all(slot.rank == 1 and not slot.kernel for slot in layout.slots)

    @torch.inference_mode(False)  # what stays, the copy, must be usable outside a caller's inference mode too
    @torch.no_grad()
    def use(self, vector: torch.Tensor) -> None:
        self.vector = vector
        for swap in self.swaps:
            swap.follow()
        row = vector.to(self.swaps[0].buffer.device, torch.float32)
        pairs = {} if self.at_once(row.device) else self.layout.unflatten_batch(row[None])
        if pairs:
            for swap in self.swaps:
                a, b = pairs[swap.target]
                swap.write(a[0], b[0], self.layout.scale)
        else:
            _write_at_once(self.swaps, row, self.layout)
        if any(not torch.equal(s.buffer, s.original) for s in self.swaps):  # as a rule the first one does differ
            return
        if any(bool((b[0] @ a[0]).any()) for a, b in self.layout.unflatten_batch(row[None]).values()):
            raise AdapterNotAppliedError(
                "the identity changes no weight in this dtype; load the pipeline in float32 or bfloat16"
            )

    def at_once(self, device: torch.device) -> bool:
        """Whether to start the writes one by one takes longer than they do: rank 1, Linear layers of one GPU."""
        return device.type == "cuda" and self.plain and all(swap.buffer.device == device for swap in self.swaps)

    @torch.inference_mode(False)
    def enter(self) -> None:
        for target, module in self.modules.items():
            weight = module.weight.data
            buffer = self.owner.buffers.get(target)
            if buffer is None or not _fits(buffer, weight):
                buffer = self.owner.buffers[target] = torch.empty_like(weight)
            swap = _Swap(target, module, buffer)
            self.swaps.append(swap)
            swap.parameter.data = buffer
        self.use(self.vector)

    @torch.inference_mode(False)
    def leave(self) -> None:
        _all(self.swaps, _Swap.restore)


def _write_at_once(swaps: list[_Swap], row: torch.Tensor, layout: ParameterLayout) -> None:
    """What :meth:`_Swap.write` does to factors of rank 1, to the same bits, in two calls for all modules."""
    buffers = [swap.buffer for swap in swaps]  # in the order of slots, as modules are
    parts = row.split(layout.part_sizes)
    torch._foreach_copy_(buffers, [swap.original for swap in swaps])
    torch._foreach_addcmul_(buffers, [b[:, None] for b in parts[1::2]], parts[::2], value=layout.scale)


def _fits(buffer: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        buffer.shape == weight.shape
        and buffer.dtype == weight.dtype
        and buffer.device == weight.device
        and buffer.stride() == weight.stride()
        and buffer.data_ptr() != weight.data_ptr()
    )


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


def _all(things: list, action: Callable) -> None:  # type: ignore[type-arg]
    """Do it to all of a list, which is emptied; an interrupt is raised when all is done."""
    interrupt: KeyboardInterrupt | None = None
    while things:
        try:
            action(things[-1])
            things.pop()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
