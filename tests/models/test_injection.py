"""How flat vectors act on plain torch layers, beside an independent W + scale * B @ A of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from w2w_hub import ParameterLayout
from w2w_hub.errors import AdapterNotAppliedError, BaseModelMismatchError, InvalidInputError, LayoutMismatchError
from w2w_hub.lora.adapter import Target
from w2w_hub.models.injection import (
    base_digest,
    differentiable,
    inject,
    inject_differentiable,
    inject_hooks,
    inject_weights,
    injection,
    require_differentiable,
    rewritable,
    target_modules,
    use_base,
)

CPU = torch.device("cpu")
LINEAR, CONVOLUTIONS = ["body.lin", "body.wide", "last"], ["one", "two", "three"]


class Net(nn.Module):
    """Convolutions of every option, and linear layers of which two have as many outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
        self.two = nn.Conv2d(4, 4, 3, padding=2, padding_mode="circular", stride=2)
        self.three = nn.Conv2d(4, 6, (1, 3), padding="same", padding_mode="reflect")
        self.body = nn.ModuleDict({"lin": nn.Linear(6, 5, bias=False), "wide": nn.Linear(5, 5)})
        self.last = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))
        x = torch.tanh(self.body["lin"](x.flatten(2).transpose(1, 2)))
        return self.last(torch.tanh(self.body["wide"](x)))


class Compiled(nn.Module):
    """What `torch.compile` puts around a module, which it keeps under this name."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self._orig_mod = module


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().requires_grad_(False)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(n: int = 2, seed: int = 3) -> torch.Tensor:
    return noise(seed, n, 3, 9, 8)


def adapted(model: nn.Module, layout: ParameterLayout, row: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What a model gives whose weights are W + scale * B @ A, by NumPy and a stock call."""
    weights, at = dict(model.named_parameters()), 0
    flat = row.detach().double().numpy()
    for slot in layout.slots:
        a = flat[at : at + slot.rank * slot.columns].reshape(slot.rank, -1)
        at += a.size
        b = flat[at : at + slot.outputs * slot.rank].reshape(-1, slot.rank)
        at += b.size
        name = f"{slot.target.module}.weight"
        change = torch.from_numpy(layout.scale * b @ a).reshape(weights[name].shape)
        weights[name] = (weights[name].double() + change).to(weights[name].dtype)
    assert at == len(flat)
    return functional_call(model, weights, (x,))


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


TARGETS = st.one_of(
    st.lists(st.sampled_from(LINEAR), min_size=1, unique=True),
    st.lists(st.sampled_from(CONVOLUTIONS), min_size=1, unique=True),
    st.lists(st.sampled_from(LINEAR + CONVOLUTIONS), min_size=1, unique=True),
)


@given(
    seed=st.integers(0, 99), targets=TARGETS, rank=st.integers(1, 3), scale=st.sampled_from([0.3, 1.0, 2.0]),
    people=st.integers(1, 3), repeats=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_sample_i_of_a_batch_is_drawn_with_row_i_modulo_n(
    seed: int, targets: list[str], rank: int, scale: float, people: int, repeats: int
) -> None:
    model, plainly = net(seed), net(seed)
    layout = ParameterLayout.from_model(model, targets, rank=rank, scale=scale)
    first, second = noise(seed, 2, people, layout.size) * 0.5
    x = pictures(people * repeats, seed)
    plain = model(x)
    with inject_hooks(model, layout, first, CPU if seed % 2 else None) as use:
        for rows in (first, second, first):
            use(rows)
            found = model(x)
            for i in range(len(x)):
                assert_close(found[i], adapted(plainly, layout, rows[i % people], x[i : i + 1])[0])
    assert torch.equal(model(x), plain)
    assert not any(module._forward_hooks for module in model.modules())
    if people == 1:  # the same in every way of one identity
        for shown in (inject, inject_weights, inject_differentiable):
            with shown(model, layout, first[0]) as use:
                assert_close(model(x), adapted(plainly, layout, first[0], x))
                use(second[0])
                assert_close(model(x), adapted(plainly, layout, second[0], x))
            assert torch.equal(model(x), plain)


@pytest.mark.parametrize("targets", [LINEAR, CONVOLUTIONS, LINEAR + CONVOLUTIONS])
def test_gradients_of_rows_are_those_of_the_weights_that_they_make(targets: list[str]) -> None:
    model, x = net(), pictures(4)
    layout = ParameterLayout.from_model(model, targets, rank=2, scale=0.7)
    rows = (noise(1, 2, layout.size) * 0.5).requires_grad_(True)
    with inject_hooks(model, layout, rows):
        [found] = torch.autograd.grad(model(x).square().sum(), rows)
    for i in range(2):
        for given_row in (rows[i].detach(), rows[i].detach().double()[None]):
            row = given_row.requires_grad_(True)
            with inject_differentiable(model, layout, row):
                [alone] = torch.autograd.grad(model(x[i::2]).square().sum(), row)
            assert alone.dtype == row.dtype
            assert alone.shape == row.shape
            assert_close(found[i], alone.reshape(-1).float(), 1e-3)


@pytest.mark.parametrize("targets", [LINEAR, CONVOLUTIONS])
@pytest.mark.parametrize(("samples", "people"), [(3, 2), (1, 2), (2, 3), (4, 3)])
def test_a_batch_that_is_no_multiple_of_the_identities_is_refused(
    targets: list[str], samples: int, people: int
) -> None:
    model = net()
    layout = ParameterLayout.from_model(model, targets)
    with pytest.raises(LayoutMismatchError), inject_hooks(model, layout, noise(0, people, layout.size)):
        model(pictures(samples))


def test_a_picture_without_a_batch_axis_is_drawn_like_one_with_it() -> None:
    model = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    holder = nn.ModuleDict({"conv": model})
    layout = ParameterLayout.from_model(holder, ["conv"], rank=2, scale=1.5)
    x, row = noise(0, 3, 6, 7), noise(1, 1, layout.size)
    with inject_hooks(holder, layout, row):
        alone, batch = model(x), model(x[None])
    assert alone.shape == (5, 6, 7)
    torch.testing.assert_close(alone, batch[0])


@pytest.mark.parametrize("targets", [LINEAR, CONVOLUTIONS])
@pytest.mark.parametrize("people", [1, 2])
def test_rows_are_added_in_the_dtype_that_autocast_gives_the_layer(targets: list[str], people: int) -> None:
    model, x = net(), pictures(2)
    layout = ParameterLayout.from_model(model, targets, rank=2, scale=0.5)
    rows = noise(1, people, layout.size)
    with inject_hooks(model, layout, rows):
        exact = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(x)
    assert found.dtype == torch.bfloat16
    assert_close(found.float(), exact, 0.05)


def test_a_layer_in_float32_beside_one_in_half_precision_gets_its_rows_in_float32() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"fine": nn.Linear(6, 7), "rough": nn.Linear(6, 7).to(torch.bfloat16)}).requires_grad_(False)
    layout = ParameterLayout.from_model(model, ["fine", "rough"], rank=2, scale=1.5)
    row, x = noise(1, layout.size), noise(2, 4, 6)
    parts = {t.module: (b[0] @ a[0]) * 1.5 for t, (a, b) in layout.unflatten_batch(row[None]).items()}
    for shown, given_row in ((inject_hooks, row[None]), (inject, row), (inject_differentiable, row)):
        with shown(model, layout, given_row):
            fine, rough = model["fine"](x), model["rough"](x.to(torch.bfloat16))
        torch.testing.assert_close(fine, model["fine"](x) + x @ parts["fine"].T, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rough.float(), model["rough"].float()(x) + x @ parts["rough"].T, rtol=0.1, atol=0.1)
        model["rough"].to(torch.bfloat16)


def test_no_vectors_are_held_after_the_block() -> None:
    model = net()
    for targets in (LINEAR, CONVOLUTIONS):
        layout = ParameterLayout.from_model(model, targets)
        with inject_hooks(model, layout, noise(0, 1, layout.size)):
            hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
            assert len(hooks) == len(layout.slots)
            assert all(hook.a.numel() and hook.b.numel() for hook in hooks)
        assert not any(hook.a.numel() or hook.b.numel() for hook in hooks)


# ---------------------------------------------------------------- one after and inside the other
@contextmanager
def nothing(*_: Any) -> Iterator[Callable[[torch.Tensor], None]]:
    yield lambda row: None


@given(ways=st.lists(st.sampled_from(["base", "weights", "rows", "gradients"]), min_size=1, max_size=5),
       changed=st.lists(st.booleans(), min_size=5, max_size=5), fails=st.booleans())  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_blocks_in_any_nesting_draw_their_own_and_what_was_drawn_before_comes_back(
    ways: list[str], changed: list[bool], fails: bool
) -> None:
    model, x = net(), pictures(2)
    layout = ParameterLayout.from_model(model, [*LINEAR, "two"], rank=1, scale=1.0)
    before = {name: (value.clone(), value.data_ptr()) for name, value in model.state_dict().items()}
    plain = model(x)

    def enter(depth: int) -> None:
        if depth == len(ways):
            if fails:
                raise ZeroDivisionError
            return
        row, other = noise(depth, 2, layout.size)
        if ways[depth] == "base":
            with use_base(model):
                assert torch.equal(model(x), plain)
                enter(depth + 1)
                assert torch.equal(model(x), plain)
            return
        shown = {"weights": inject, "rows": inject_hooks, "gradients": inject_differentiable}[ways[depth]]
        with shown(model, layout, row[None] if ways[depth] == "rows" else row) as use:
            if changed[depth]:
                row = other
                use(row[None] if ways[depth] == "rows" else row)
            found = model(x)
            assert_close(found, adapted(plainly, layout, row, x))
            try:
                enter(depth + 1)
            finally:
                assert torch.equal(model(x), found)

    plainly = net()
    try:
        enter(0)
    except ZeroDivisionError:
        assert fails
    assert torch.equal(model(x), plain)
    assert injection(model).stack == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.data_ptr() == before[name][1]


def test_a_model_and_its_compiled_form_have_one_injection_and_other_models_their_own() -> None:
    model, other = net(), net()
    assert injection(Compiled(model)) is injection(model)
    assert injection(model) is injection(model)
    assert injection(model) is not injection(other)


# ---------------------------------------------------------------- storage
@pytest.mark.parametrize("change", ["double", "channels last", "bfloat16", "new weights"])
def test_a_model_that_changes_between_two_blocks_is_drawn_with_what_it_has_now(change: str) -> None:
    model, x = net(), pictures()
    layout = ParameterLayout.from_model(model, LINEAR + CONVOLUTIONS, rank=2, scale=0.5)
    row = noise(1, layout.size)
    with inject(model, layout, row):
        model(x)
    if change == "channels last":
        model.to(memory_format=torch.channels_last)
    elif change == "new weights":
        model.load_state_dict(net(5).state_dict())
    else:
        model.to({"double": torch.double, "bfloat16": torch.bfloat16}[change])
    strides = [p.stride() for p in model.parameters()]
    x = x.to(model.last.weight.dtype)
    expected, plain = adapted(model, layout, row, x), model(x)
    for shown in (inject, inject_differentiable):
        with shown(model, layout, row):
            assert_close(model(x), expected, 0.05 if change == "bfloat16" else 1e-4)
            assert [p.stride() for p in model.parameters()] == strides
            assert [m.weight.stride() for m in target_modules(model, layout).values()] == [
                dict(model.named_parameters())[f"{t.module}.weight"].stride() for t in target_modules(model, layout)
            ]
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16])
def test_a_cast_inside_a_block_is_followed_by_the_next_vector_and_by_the_originals(dtype: torch.dtype) -> None:
    model, x, fresh = net(), pictures().to(dtype), net().to(dtype)
    layout = ParameterLayout.from_model(model, LINEAR, rank=2, scale=0.5)
    first, second = noise(1, 2, layout.size)
    with inject_weights(model, layout, first) as use:
        model.to(dtype)
        use(second)
        assert_close(model(x), adapted(fresh, layout, second, x), 0.05 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(model(x), fresh(x))
    assert all(p.dtype == dtype for p in model.parameters())
    with inject_weights(model, layout, first):
        model.float()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(a, b.float()) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_the_copy_of_one_block_is_used_by_the_next() -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR)
    pointers = []
    for seed in range(3):
        with inject(model, layout, noise(seed, layout.size)):
            pointers.append([m.weight.data_ptr() for m in target_modules(model, layout).values()])
    assert pointers[0] == pointers[1] == pointers[2]
    assert pointers[0] != [m.weight.data_ptr() for m in target_modules(model, layout).values()]


def test_an_identity_that_changes_some_weights_only_or_none_at_all_is_no_error() -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR, rank=2)
    for changed in range(-1, len(layout.slots)):
        for zero in (0, 1):  # A or B of the others
            row = noise(4, 1, layout.size)
            pairs = list(layout.unflatten_batch(row).values())
            for i, pair in enumerate(pairs):
                if i != changed:
                    pair[zero].zero_()
            before = [m.weight.clone() for m in target_modules(model, layout).values()]
            with inject(model, layout, row[0]):
                now = [m.weight.clone() for m in target_modules(model, layout).values()]
            same = [torch.equal(a, b) for a, b in zip(before, now, strict=True)]
            assert same == [i != changed for i in range(len(before))]


def test_a_cached_weight_of_autocast_is_not_used_for_another_vector_or_after_the_block() -> None:
    model, x = net().requires_grad_(True), pictures()
    layout = ParameterLayout.from_model(model, LINEAR)
    first, second = noise(1, 2, layout.size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(x)
        with inject(model, layout, first) as use:
            drawn = model(x)
            use(second)
            other = model(x)
        again = model(x)
    assert torch.equal(plain, again)
    for found in (drawn, other):
        assert (found - plain).abs().max() > 0.05
    assert (drawn - other).abs().max() > 0.05


# ---------------------------------------------------------------- refusals
def lacking() -> Net:
    model = net()
    del model.body["lin"]
    return model


WRONG: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "inputs": ("last", lambda: nn.Linear(6, 4)),
    "outputs": ("last", lambda: nn.Linear(5, 3)),
    "swapped": ("last", lambda: nn.Linear(4, 5)),
    "another kind": ("last", lambda: nn.Conv2d(5, 4, 1)),
    "no layer": ("last", lambda: nn.LayerNorm(4)),
    "kernel's second axis": ("one", lambda: nn.Conv2d(3, 4, (3, 3))),
    "kernel's first axis": ("one", lambda: nn.Conv2d(3, 4, (2, 2))),
    "kernel transposed": ("one", lambda: nn.Conv2d(3, 4, (2, 3))),
    "groups": ("two", lambda: nn.Conv2d(4, 4, 3, groups=2)),
    "a matrix": ("two", lambda: nn.Linear(4, 4)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_module_of_another_shape_is_refused_by_its_name_in_every_way_of_drawing(what: str) -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR + CONVOLUTIONS)
    assert list(target_modules(model, layout)) == [slot.target for slot in layout.slots]
    name, make = WRONG[what]
    setattr(model, name, make())
    row = noise(0, layout.size)
    for shown, vectors in (
        (inject, row), (inject, row[None]), (inject_hooks, row[None]), (inject_weights, row),
        (inject_differentiable, row),
    ):  # fmt: skip
        with pytest.raises(BaseModelMismatchError, match=f"unet.{name}"), shown(model, layout, vectors):
            pass


def test_modules_that_are_missing_are_refused_by_name() -> None:
    layout = ParameterLayout.from_model(net(), LINEAR)
    with pytest.raises(BaseModelMismatchError, match=r"unet\.body\.lin"):
        target_modules(lacking(), layout)
    with pytest.raises(BaseModelMismatchError, match=r"unet\.body\.lin"):
        base_digest(lacking(), layout)
    model = net()
    model.body["wide"].to("meta")
    with pytest.raises(BaseModelMismatchError, match=r"unet\.body\.wide"):
        base_digest(model, layout)


class Wrapper(nn.Module):
    """As PEFT wraps a layer."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.base_layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x)


def test_a_layer_is_found_below_any_number_of_wrappers_and_compiled_blocks() -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR)
    expected = list(target_modules(model, layout).values())
    digest = base_digest(model, layout)
    model.last = Wrapper(Wrapper(model.last))
    model.body = Compiled(model.body)
    for whole in (model, Compiled(model)):
        assert all(a is b for a, b in zip(target_modules(whole, layout).values(), expected, strict=True))
        assert base_digest(whole, layout) == digest
    assert not differentiable(model, layout, CPU)


class FusedAttnProcessor:
    """By its name one that reads fused projections."""


def test_attention_that_reads_fused_projections_is_refused_and_after_unfusing_is_not() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"to_q": nn.Linear(4, 4)})
            self.fused_projections, self.processor = True, FusedAttnProcessor()

    for depth in range(2):
        model: Any = Attention()
        if depth:
            model = nn.ModuleDict({"block": model})
        attention = model["block"] if depth else nn.ModuleDict({"block": model})["block"]
        whole = model if depth else nn.ModuleDict({"block": model})
        layout = ParameterLayout.from_model(whole, ["to_q"])
        with pytest.raises(AdapterNotAppliedError, match="to_q"):
            target_modules(whole, layout)
        attention.processor = object()  # `unfuse_qkv_projections` leaves the attribute behind
        assert len(target_modules(whole, layout)) == 1
        attention.processor, attention.fused_projections = FusedAttnProcessor(), False
        assert len(target_modules(whole, layout)) == 1


class Special(torch.Tensor):
    """Stands for a quantised or sharded tensor."""


def in_inference(layer: nn.Linear) -> None:
    with torch.inference_mode():
        layer.weight = nn.Parameter(torch.randn_like(layer.weight), requires_grad=False)


def cast_in_inference(layer: nn.Linear) -> None:
    with torch.inference_mode():
        layer.weight.data = layer.weight.data.clone()


def hooked_meta(layer: nn.Linear) -> None:
    layer.to("meta")
    layer._hf_hook = object()  # accelerate's, which brings the weights when they are needed


def stored(dtype: torch.dtype) -> Callable[[nn.Linear], None]:
    def change(layer: nn.Linear) -> None:
        layer.weight = nn.Parameter(layer.weight.data.to(dtype), requires_grad=False)

    return change


def special(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Special), requires_grad=False)


def offloaded(layer: nn.Linear) -> None:
    apply_group_offloading(layer, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


BESIDE = {
    "inference": in_inference, "cast in inference": cast_in_inference, "offloaded": hooked_meta,
    "8 bits": stored(torch.float8_e4m3fn), "integers": stored(torch.int16), "a tensor of its own kind": special,
    "group offloading": offloaded,
}  # fmt: skip


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("what", BESIDE)
def test_weights_that_cannot_be_swapped_are_left_to_hooks_wherever_they_stand(what: str, position: int) -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR)
    assert rewritable(model, layout)
    assert differentiable(model, layout, CPU)
    BESIDE[what](list(target_modules(model, layout).values())[position])
    assert not rewritable(model, layout)
    assert not differentiable(model, layout, CPU)
    row = noise(0, layout.size)
    for shown in (inject_weights, inject_differentiable):
        with pytest.raises(AdapterNotAppliedError), shown(model, layout, row):
            pass
    with inject(model, layout, row):
        assert all(module._forward_hooks for module in target_modules(model, layout).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_plain_floats_of_16_bits_or_more_are_swapped(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    layout = ParameterLayout.from_model(model, LINEAR)
    assert rewritable(model, layout)
    with inject(model, layout, noise(0, layout.size)):
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("position", range(3))
def test_weights_that_are_nowhere_are_refused_by_name(position: int) -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR)
    target, module = list(target_modules(model, layout).items())[position]
    module.to("meta")
    with pytest.raises(AdapterNotAppliedError, match=str(target)):
        rewritable(model, layout)


def test_a_vector_of_another_shape_is_refused() -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR)
    for shape in ((layout.size + 1,), (layout.size - 1,), (1, layout.size), (2, layout.size)):
        with pytest.raises(InvalidInputError), inject_weights(model, layout, torch.zeros(shape)):
            pass


@pytest.mark.parametrize("name", [name for name, _ in Net().named_parameters()])
def test_a_model_with_any_weight_made_in_inference_mode_takes_no_gradient_and_is_refused_by_its_name(name: str) -> None:
    model = net()
    require_differentiable(model)
    part, _, last = name.rpartition(".")
    with torch.inference_mode():
        model.get_submodule(part)._parameters[last] = nn.Parameter(torch.zeros(2), requires_grad=False)
    with pytest.raises(InvalidInputError, match=name):
        require_differentiable(model)


@pytest.mark.parametrize("name", ["one", "body.wide", "last"])
def test_layerwise_casting_of_any_layer_takes_no_gradient_and_is_refused_by_its_name(name: str) -> None:
    model = net()
    apply_layerwise_casting(model.get_submodule(name), torch.bfloat16, torch.float32)
    with pytest.raises(InvalidInputError, match=name):
        require_differentiable(model)


def test_a_base_digest_is_of_the_weights_alone_and_of_every_one_of_them() -> None:
    model = net()
    layout = ParameterLayout.from_model(model, LINEAR + CONVOLUTIONS)
    digest = base_digest(model, layout)
    assert base_digest(net(), layout) == digest
    assert base_digest(net().half(), layout) == digest
    model.last.bias.add_(1)
    assert base_digest(model, layout) == digest
    seen = {digest}
    for target, module in target_modules(model, layout).items():
        module.weight.view(-1)[-1] += 1
        seen.add(base_digest(model, layout))
        assert isinstance(target, Target)
    assert len(seen) == 1 + len(layout.slots)
    assert np.unique([len(d) for d in seen]).tolist() == [64]
