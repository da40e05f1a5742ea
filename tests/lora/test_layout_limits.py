"""Layouts and adapters held to references of their own, and to both sides of each limit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from w2w_hub import Adapter, ParameterLayout
from w2w_hub.errors import InvalidInputError, LayoutMismatchError
from w2w_hub.lora.adapter import LoraFactors, Target, natural_key

RNG = np.random.default_rng(5)


def target(name: str, component: str = "unet") -> Target:
    return Target(component, name)


def pair(rank: int, inputs: int, outputs: int, scale: float = 2.0, kernel: tuple[int, ...] = ()) -> LoraFactors:
    a = RNG.normal(size=(rank, inputs * math.prod(kernel))).astype(np.float32)
    return LoraFactors(a, RNG.normal(size=(outputs, rank)).astype(np.float32), scale, kernel)


# ---------------------------------------------------------------- of a model
def a_model():
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q = nn.Linear(3, 5)
            self.block = nn.ModuleDict({"to_q": nn.Linear(4, 2), "into_q": nn.Linear(2, 2), "to_v": nn.Linear(6, 7)})
            self.wide = nn.Conv2d(4, 6, (3, 1))
            self.other = nn.ModuleDict({"to_q_proj": nn.Linear(2, 2), "norm": nn.LayerNorm(4)})

    return Model()


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (("to_q", "to_v"), {"to_q", "block.to_q", "block.to_v"}),
        ("block\\.to_[qv]", {"block.to_q", "block.to_v"}),
        (["block.to_q"], {"block.to_q"}),
        (["wide", "to_v"], {"wide", "block.to_v"}),
        (["norm", "into_q"], {"block.into_q"}),
    ],
)
def test_a_models_slots_have_the_shapes_of_its_weights(targets, names):
    model = a_model()
    layout = ParameterLayout.from_model(model, targets, rank=3, scale=0.5, component="prior")
    found = {slot.target.module: slot for slot in layout.slots}
    assert set(found) == names
    assert layout.scale == 0.5
    for name, slot in found.items():
        assert slot.weight_shape == tuple(model.get_submodule(name).weight.shape)
        assert slot.rank == 3
        assert slot.target.component == "prior"
    assert layout.size == sum(3 * (math.prod(s.weight_shape[1:]) + s.weight_shape[0]) for s in layout.slots)


def test_without_options_a_models_layout_is_rank_one_scale_one_of_q_and_v_in_the_unet():
    layout = ParameterLayout.from_model(a_model())
    assert {str(s.target) for s in layout.slots} == {"unet.to_q", "unet.block.to_q", "unet.block.to_v"}
    assert layout.rank_one
    assert layout.scale == 1.0


# ------------------------------------------------------------- of an adapter
@pytest.mark.parametrize(
    ("scales", "reference"),
    [
        ([3.0, 3.0, 1.0], 3.0),
        ([3.0, 1.0], 1.0),
        ([1.0, 3.0], 1.0),
        ([5.0, 2.0, 2.0, 5.0, 1.0], 2.0),
        ([0.0, 0.0, 2.0], 1.0),
        ([-2.0, -2.0, 3.0], 1.0),
        ([0.5], 0.5),
    ],
)
def test_the_reference_scale_is_the_most_frequent_and_of_equally_frequent_the_smallest(scales, reference):
    adapter = Adapter({target(f"m{i}"): pair(1, 2, 3, scale) for i, scale in enumerate(scales)})
    assert ParameterLayout.from_adapter(adapter).scale == reference
    assert ParameterLayout.from_adapter(adapter, scale=7.0).scale == 7.0


def test_every_modules_own_scale_is_folded_into_its_B_and_told_and_A_stays():
    scales = {"a": 0.5, "b": 2.0, "c": 8.0, "d": -1.0, "e": 0.0}
    adapter = Adapter({target(name): pair(2, 3, 4, scale) for name, scale in scales.items()})
    layout = ParameterLayout.from_adapter(adapter, scale=2.0)
    assert layout.scale_ratios(adapter) == {target(name): s / 2 for name, s in scales.items() if s != 2.0}
    back = layout.unflatten(layout.flatten(adapter))
    for where, given in adapter.factors.items():
        np.testing.assert_array_equal(back.factors[where].A, given.A)
        np.testing.assert_array_equal(back.factors[where].B, given.B * np.float32(given.scale / 2))
        np.testing.assert_allclose(back.factors[where].delta(), given.delta(), rtol=1e-6, atol=1e-12)


def test_the_change_of_a_convolution_is_the_sum_over_its_ranks():
    given = pair(2, 3, 4, 1.5, (2, 5))
    a = given.A.astype(np.float64).reshape(2, 3, 2, 5)
    np.testing.assert_allclose(given.delta(), 1.5 * np.einsum("or,rihw->oihw", given.B.astype(np.float64), a))
    assert (given.rank, given.inputs, given.outputs) == (2, 3, 4)
    assert given.size == (2, 3, 4, (2, 5))
    assert given.weight_shape == given.delta().shape


def test_only_linear_layers_of_rank_one_throughout_are_rank_one():
    sizes = {target("a"): (1, 2, 3), target("b"): (1, 4, 5)}
    assert ParameterLayout(sizes, 1.0).rank_one
    assert not ParameterLayout(sizes | {target("c"): (2, 2, 2)}, 1.0).rank_one
    assert not ParameterLayout(sizes | {target("c"): (1, 2, 2, (1, 1))}, 1.0).rank_one


def test_factors_lie_in_the_vector_as_slots_say_for_numpy_and_torch_alike():
    import torch

    layout = ParameterLayout({target("b"): (2, 3, 4), target("a"): (1, 2, 3, (3, 1)), target("c"): (3, 1, 1)}, 1.0)
    rows = RNG.normal(size=(4, layout.size)).astype(np.float32)
    parts, tensors = layout.unflatten_batch(rows), layout.unflatten_batch(torch.from_numpy(rows))
    end = 0
    for slot in layout.slots:
        assert slot.offset == end
        end = slot.end
        a, b = parts[slot.target]
        np.testing.assert_array_equal(a, rows[:, slot.offset : slot.b_offset].reshape(4, slot.rank, slot.columns))
        np.testing.assert_array_equal(b, rows[:, slot.b_offset : slot.end].reshape(4, slot.outputs, slot.rank))
        for mine, theirs in zip((a, b), tensors[slot.target], strict=True):
            np.testing.assert_array_equal(mine, theirs.numpy())
    assert end == layout.size == len(layout)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({target("a"): (2, 3, 4), target("b"): (2, 9, 4)}, ["unet.b", "9", "3"]),
        ({target("a"): (2, 3, 4), target("b"): (2, 3, 9)}, ["unet.b", "9", "4"]),
        ({target("a"): (7, 3, 4), target("b"): (2, 3, 4)}, ["unet.a", "7", "2"]),
        ({target("a"): (2, 3, 4), target("b"): (2, 3, 4, (5, 6))}, ["unet.b", "5x6"]),
        ({target("a"): (2, 3, 4)}, ["unet.b"]),
        ({target("a"): (2, 3, 4), target("b"): (2, 3, 4), target("zz"): (1, 1, 1)}, ["unet.zz"]),
    ],
)
def test_what_differs_is_named_and_what_an_adapter_lacks_is_not_taken_for_what_it_has(other, words):
    mine = ParameterLayout({target("a"): (2, 3, 4), target("b"): (2, 3, 4)}, 2.0)
    theirs = ParameterLayout(other, 2.0)
    told = mine.differences(theirs)
    assert all(word in told for word in words)
    assert told != theirs.differences(mine)
    adapter = theirs.unflatten(np.ones(theirs.size))
    assert mine.incompatibility(adapter) == told
    assert theirs.incompatibility(adapter) == ""
    with pytest.raises(LayoutMismatchError) as caught:
        mine.flatten(adapter, where="somebody")
    assert "somebody" in str(caught.value)
    assert told in str(caught.value)


# -------------------------------------------------------------------- order
def test_paths_that_read_as_the_same_number_have_an_order_of_their_own():
    names = ["b.1", "b.01", "b.001", "b.2", "b.10", "b.x", "1"]
    keys = [natural_key(name) for name in names]
    assert len(set(keys)) == len(names)
    sizes = {target(name): (1, i + 1, 1) for i, name in enumerate(names)}
    digests = {ParameterLayout(dict(order), 1.0).digest for order in itertools.permutations(list(sizes.items())[:4])}
    assert len(digests) == 1


# ------------------------------------------------------------------- limits
@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({target("a"): (1, 1, 1, (1, 1, 1))}, {target("a"): (1, 1, 1, (1, 1, 1, 1))}),
        (
            {target("a"): (2**10, 2**29, 2**29)},
            {target("a"): (2**10, 2**29, 2**29), target("b"): (1, 1, 1)},
        ),
        ({target("a"): (1, 2**31 - 1, 1)}, {target("a"): (1, 2**31, 1)}),
        ({target("a"): (1, 1, 2**31 - 1)}, {target("a"): (1, 1, 2**31)}),
        ({target("a" * 1024): (1, 1, 1)}, {target("a" * 1025): (1, 1, 1)}),
        ({target("a", "c" * 1024): (1, 1, 1)}, {target("a", "c" * 1025): (1, 1, 1)}),
        ({target("a"): (1, 1, 1, (1, 3))}, {target("a"): (1, 1, 1, (0, 3))}),
        ({target("a"): (1, 1, 1)}, {target("a"): (0, 1, 1)}),
        ({target("a"): (1, 1, 1)}, {target("a"): (1, 0, 1)}),
        ({target("a"): (1, 1, 1)}, {target("a"): (1, 1, 0)}),
    ],
    ids=["axes", "numbers", "inputs", "outputs", "module", "component", "kernel", "rank", "no input", "no output"],
)
def test_a_layout_is_taken_up_to_each_limit_and_refused_beyond_it(good, bad):
    layout = ParameterLayout(good, 1.0)
    assert ParameterLayout.from_json(layout.to_json()) == layout
    with pytest.raises(InvalidInputError):
        ParameterLayout(bad, 1.0)


def test_too_many_modules_are_refused():
    with pytest.raises(InvalidInputError, match="100,001"):
        ParameterLayout({target(str(i)): (1, 1, 1) for i in range(100_001)}, 1.0)


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_scale_is_taken_up_to_what_float32_holds_of_either_sign(sign):
    factors = pair(1, 2, 3)
    assert Adapter({target("a"): LoraFactors(factors.A, factors.B, sign * LARGEST)}).factors
    with pytest.raises(InvalidInputError):
        Adapter({target("a"): LoraFactors(factors.A, factors.B, sign * np.nextafter(LARGEST, np.inf))})


@pytest.mark.parametrize("kernel", [(-1, -1), (0,), (2, -1), (-2, -1)])
def test_a_kernel_of_less_than_one_is_refused_also_where_its_product_divides(kernel):
    with pytest.raises(InvalidInputError):
        Adapter({target("a"): LoraFactors(np.ones((1, 4), np.float32), np.ones((2, 1), np.float32), 1.0, kernel)})


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_a_value_that_is_not_finite_is_found_wherever_it_stands(factor, value, place):
    adapter = Adapter({target("a"): pair(2, 3, 4), target("b"): pair(2, 3, 4)})
    adapter.require_finite("it")
    getattr(adapter.factors[target("b")], factor).flat[place] = value
    with pytest.raises(InvalidInputError) as caught:
        adapter.require_finite("it")
    assert f"unet.b {factor}" in str(caught.value)


def test_opposite_infinities_are_found_and_large_finite_values_are_not_taken_for_them():
    adapter = Adapter({target("a"): pair(2, 3, 4)})
    adapter.factors[target("a")].A[:] = LARGEST
    adapter.require_finite("it")
    adapter.factors[target("a")].A.flat[:2] = np.inf, -np.inf
    with pytest.raises(InvalidInputError, match="2 values"):
        adapter.require_finite("it")
