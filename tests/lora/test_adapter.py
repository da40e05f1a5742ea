from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import factors
from w2w_hub import Adapter, ParameterLayout
from w2w_hub.errors import InvalidInputError
from w2w_hub.lora.adapter import LoraFactors, Target

TARGET = Target("unet", "mid_block.to_q")


def test_the_change_of_a_weight_is_scale_times_B_times_A_in_float64():
    pair = LoraFactors(np.float32([[1, 2, 3]]), np.float32([[10], [1e-9]]), 0.5)
    np.testing.assert_allclose(pair.delta(), [[5, 10, 15], [0.5e-9, 1e-9, 1.5e-9]], rtol=1e-7)
    assert pair.delta().dtype == np.float64
    assert pair.rank == 1


def test_components_are_ordered_as_pipelines_have_them_and_unknown_ones_come_last():
    names = ["text_encoder_2", "prior", "text_encoder", "unet", "transformer"]
    ordered = sorted((Target(name, "x") for name in names), key=lambda t: t.sort_key)
    assert [t.component for t in ordered] == ["unet", "transformer", "text_encoder", "text_encoder_2", "prior"]


def test_a_target_reads_as_component_and_module():
    assert str(TARGET) == "unet.mid_block.to_q"


def test_an_adapter_without_modules_is_refused():
    with pytest.raises(InvalidInputError, match="adapter"):
        Adapter({})


@pytest.mark.parametrize(
    ("a", "b"), [((2, 6), (7, 3)), ((6,), (7, 6)), ((2, 6, 1, 1), (7, 2)), ((6, 2), (7, 2))], ids=str
)
def test_factors_that_do_not_multiply_are_refused_with_module_and_shapes(a, b):
    with pytest.raises(InvalidInputError, match=r"unet\.mid_block\.to_q"):
        Adapter({TARGET: LoraFactors(np.ones(a, np.float32), np.ones(b, np.float32), 1.0)})


@pytest.mark.parametrize("kernel", [(4,), (2, 2), (0, 3)], ids=str)
def test_a_kernel_that_does_not_divide_the_columns_is_refused(kernel):
    pair = factors(2, 6, 7)
    with pytest.raises(InvalidInputError, match=r"unet\.mid_block\.to_q.*\(2, 6\)"):
        Adapter({TARGET: LoraFactors(pair.A, pair.B, 1.0, kernel)})


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(InvalidInputError, match=r"unet\.mid_block\.to_q: scale"):
        Adapter({TARGET: factors(scale=scale)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["A", "B"])
def test_a_value_that_is_no_number_is_counted_and_placed(name, value):
    pair = factors()
    getattr(pair, name)[1, 1] = value
    with pytest.raises(InvalidInputError, match=f"lora-3: 1 .*{TARGET} {name} "):
        Adapter({TARGET: pair}).require_finite("lora-3")


def test_finite_factors_pass():
    Adapter({TARGET: factors()}).require_finite("lora-3")


def test_factors_and_adapters_compare_by_value_and_hash_alike(adapter: Adapter, layout: ParameterLayout) -> None:
    again = layout.unflatten(layout.flatten(adapter))
    assert again == adapter
    target, pair = next(iter(adapter.factors.items()))
    assert again.factors[target] == pair
    assert hash(again.factors[target]) == hash(pair)
    other = replace(pair, A=pair.A + 1)
    assert other != pair
    assert other != "factors"
    assert Adapter({**adapter.factors, target: other}) != adapter
    assert replace(pair, scale=pair.scale + 1) != pair


@pytest.mark.parametrize(
    "change",
    [
        {"A": [[1.0]]}, {"B": None}, {"A": np.ones((2, 6), int)}, {"scale": "3"}, {"scale": None}, {"kernel": None},
        {"kernel": (3.0, 3)}, {"A": np.array([[None]])},
    ],
)  # fmt: skip
def test_factors_of_other_types_are_refused_by_the_module(change: dict, adapter: Adapter) -> None:
    target, pair = next(iter(adapter.factors.items()))
    with pytest.raises(InvalidInputError, match=str(target)):
        Adapter({target: replace(pair, **change)})
