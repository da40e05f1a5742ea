"""Weights that carry gradients to one identity's row, beside what autograd itself makes of W + scale * B @ A."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from w2w_hub import ParameterLayout, W2WPipeline
from w2w_hub.errors import AdapterNotAppliedError
from w2w_hub.models.injection import (
    differentiable,
    inject,
    inject_differentiable,
    inject_hooks,
    inject_weights,
)
from w2w_hub.models.inversion import InversionSettings, Inverter
from w2w_hub.models.pipelines.inputs import encode_pictures, encode_text

CPU = torch.device("cpu")


def small(seed: int, channels_last: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, 4, (1, 3), padding="same"), nn.Flatten(2),
        nn.Linear(30, 7, bias=False), nn.SiLU(), nn.Linear(7, 6),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def by_autograd(model: nn.Module, layout: ParameterLayout, row: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    weights = dict(model.named_parameters())
    for slot, (a, b) in zip(layout.slots, layout.unflatten_batch(row[None]).values(), strict=True):
        name = f"{slot.target.module}.weight"
        weights[name] = weights[name].detach() + layout.scale * (b[0] @ a[0]).reshape(slot.weight_shape)
    return functional_call(model, weights, inputs)


@given(
    seed=st.integers(0, 1000), rank=st.integers(1, 3), scale=st.floats(0.1, 3), channels_last=st.booleans(),
    targets=st.lists(st.sampled_from(["0", "2", "4", "6"]), min_size=1, unique=True),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_gradients_and_outputs_are_those_of_autograd(
    seed: int, rank: int, scale: float, channels_last: bool, targets: list[str]
) -> None:
    model = small(seed, channels_last).requires_grad_(False)
    layout = ParameterLayout.from_model(model, targets, rank=rank, scale=scale)
    row, inputs = torch.randn(layout.size).requires_grad_(True), torch.randn(2, 3, 5, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain, expected = model(inputs), by_autograd(model, layout, row, inputs)
    [gradient] = torch.autograd.grad(expected.square().sum(), row)
    with inject_differentiable(model, layout, row[None]) as use:
        for _ in range(2):  # again in the same storage
            use(row)
            found = model(inputs)
            [ours] = torch.autograd.grad(found.square().sum(), row)
            torch.testing.assert_close(
                found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.detach().abs().max()))
            )
            torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(inputs), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_are_to_the_bit_those_that_are_drawn(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(24, 40, bias=False) for name in ("to_q", "to_v")}).to(dtype)
    layout = ParameterLayout.from_model(model, rank=1, scale=1.5)
    row = torch.randn(layout.size) * 0.1
    with inject_weights(model, layout, row):
        drawn = [module.weight.detach().clone() for module in model.values()]
    with inject_differentiable(model, layout, row.requires_grad_(True)):
        assert all(torch.equal(a, module.weight) for a, module in zip(drawn, model.values(), strict=True))
        x = torch.randn(5, 24, dtype=dtype)
        [gradient] = torch.autograd.grad(sum(module(x).sum() for module in model.values()), row)
    [exact] = torch.autograd.grad(
        sum((x.float() @ (1.5 * b[0] @ a[0]).T).sum() for a, b in layout.unflatten_batch(row[None]).values()), row
    )
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, exact, rtol=0.02, atol=0.01 * float(exact.abs().max()))


def test_a_graph_whose_weights_were_written_over_is_refused_rather_than_wrong() -> None:
    model = small(0)
    layout = ParameterLayout.from_model(model, ["4", "6"], rank=1, scale=1.0)
    row, inputs = torch.randn(layout.size).requires_grad_(True), torch.randn(2, 3, 5, 6)
    with inject_differentiable(model, layout, row) as use:
        loss = model(inputs).sum()
        use(row * 2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_what_was_drawn_before_comes_back_also_after_an_error() -> None:
    model, inputs = small(0).requires_grad_(False), torch.randn(2, 3, 5, 6)
    layout = ParameterLayout.from_model(model, ["0", "4"], rank=2, scale=1.0)
    first, second = torch.randn(2, layout.size)
    plain = model(inputs)
    with inject(model, layout, first):
        drawn = model(inputs)
        with inject_differentiable(model, layout, second):
            other = model(inputs)
            with inject_hooks(model, layout, first[None]):
                torch.testing.assert_close(model(inputs), drawn, rtol=1e-4, atol=1e-4)
            assert torch.equal(model(inputs), other)
        with pytest.raises(RuntimeError, match="mat1"), inject_differentiable(model, layout, second):
            model(inputs[..., :2])
        assert torch.equal(model(inputs), drawn)
    assert torch.equal(model(inputs), plain)
    assert not torch.allclose(other, drawn)
    assert not torch.allclose(drawn, plain)


def test_weights_that_are_moved_or_cast_inside_the_block_are_followed() -> None:
    model = small(0).requires_grad_(False)
    layout = ParameterLayout.from_model(model, ["4", "6"], rank=1, scale=1.0)
    row, inputs = torch.randn(layout.size), torch.randn(2, 3, 5, 6).double()
    with inject_differentiable(model, layout, row) as use:
        model.double()
        use(row)
        found = model(inputs)
    torch.testing.assert_close(found, by_autograd(model, layout, row.double(), inputs), rtol=1e-5, atol=1e-5)


def test_a_compiled_or_offloaded_model_is_left_to_hooks() -> None:
    model = small(0)
    layout = ParameterLayout.from_model(model, ["4"], rank=1, scale=1.0)
    assert differentiable(model, layout, CPU)
    assert not differentiable(model, layout, torch.device("meta"))
    model[4].compile()  # one block, as compile_repeated_blocks does it
    assert not differentiable(model, layout, CPU)
    assert not differentiable(torch.compile(small(0)), layout, CPU)
    with pytest.raises(AdapterNotAppliedError, match="inject_hooks"):  # noqa: SIM117
        with inject_differentiable(model, layout, torch.zeros(layout.size)):
            pass


@pytest.mark.slow
def test_one_person_is_inverted_in_the_weights_as_beside_them(
    pipe: W2WPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = pipe.render(["person-0005"], [("sks person", 1)], num_inference_steps=3, output_type="np")[0, 0]
    latents, text = encode_pictures(pipe, [picture])[None], encode_text(pipe, "sks person")[0]
    found = []
    for beside in (False, True):
        if beside:
            monkeypatch.setattr("w2w_hub.models.inversion.differentiable", lambda *_: False)
        options = InversionSettings(num_steps=12, batch_size=2, seed=3, restarts=2, prior=1e-3)
        inverter = Inverter(pipe.unet, pipe.scheduler, pipe.space, latents, text, options)
        with inverter.injected(inverter.vectors(inverter.start(0))):
            assert ("weight" in vars(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q)) != beside
        found.append(inverter.run()[0])
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4)
    np.testing.assert_allclose(found[0].point.coefficients, found[1].point.coefficients, rtol=1e-2, atol=1e-3)
    assert all("weight" not in vars(module) for module in pipe.unet.modules())
