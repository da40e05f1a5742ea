from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import factors
from w2w_hub import Adapter, ParameterLayout
from w2w_hub.errors import InvalidInputError, LayoutMismatchError, UnsupportedFormatError
from w2w_hub.lora.adapter import LoraFactors, Target

part = st.one_of(
    st.sampled_from(["down_blocks", "mid_block", "up_blocks", "to_q", "to_v"]),
    st.from_regex(r"[0-9]{1,3}", fullmatch=True),
)
targets = st.builds(
    Target,
    st.sampled_from(["unet", "text_encoder", "text_encoder_2", "prior"]),
    st.lists(part, min_size=1, max_size=4).map(".".join),
)
linear = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
kernels = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
shapes = st.one_of(linear, st.builds(lambda size, kernel: (*size, kernel), linear, kernels))


def factors_of(size: tuple, seed: int) -> LoraFactors:
    """Random factors of a Linear module or a convolution, scale 2."""
    rank, inputs, outputs, kernel = (*size, ())[:4]
    flat = factors(rank, inputs * math.prod(kernel), outputs, scale=2.0, seed=seed)
    return LoraFactors(flat.A, flat.B, 2.0, kernel)


sizes = st.dictionaries(targets, shapes, min_size=1, max_size=6)


@given(sizes=sizes, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_unflatten_then_flatten_gives_the_same_numbers(sizes, seed):
    layout = ParameterLayout(sizes, 1.5)
    vector = np.random.default_rng(seed).normal(size=layout.size).astype(np.float32)
    np.testing.assert_array_equal(layout.flatten(layout.unflatten(vector)), vector)


@given(sizes=sizes, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_flatten_then_unflatten_gives_every_factor_back(sizes, seed):
    adapter = Adapter({t: factors_of(shape, seed + i) for i, (t, shape) in enumerate(sizes.items())})
    back = ParameterLayout.from_adapter(adapter).unflatten(ParameterLayout.from_adapter(adapter).flatten(adapter))
    assert back.factors.keys() == adapter.factors.keys()
    for target, pair in adapter.factors.items():
        np.testing.assert_array_equal(back.factors[target].A, pair.A)
        np.testing.assert_array_equal(back.factors[target].B, pair.B)
        assert back.factors[target].scale == 2.0
        assert back.factors[target].size == pair.size


@given(sizes=sizes, seed=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_the_digest_does_not_depend_on_the_order_in_which_modules_are_given(sizes, seed: random.Random):
    shuffled = list(sizes.items())
    seed.shuffle(shuffled)
    assert ParameterLayout(dict(shuffled), 1.0).digest == ParameterLayout(sizes, 1.0).digest


@given(sizes=sizes)
@settings(deadline=None, max_examples=40)
def test_a_layout_survives_json_with_its_digest(sizes):
    layout = ParameterLayout(sizes, 0.1)
    again = ParameterLayout.from_json(layout.to_json())
    assert again == layout
    assert again.slots == layout.slots


@given(numbers=st.lists(st.integers(0, 2000), min_size=2, max_size=8, unique=True))
def test_numbers_in_module_paths_are_ordered_as_numbers(numbers):
    layout = ParameterLayout({Target("unet", f"blocks.{n}.to_q"): (1, 1, 1) for n in numbers}, 1.0)
    assert [int(s.target.module.split(".")[1]) for s in layout.slots] == sorted(numbers)


def test_block_9_comes_before_block_10_and_both_before_words():
    names = ["blocks.10.to_q", "blocks.x.to_q", "blocks.9.to_v", "blocks.9.to_q"]
    layout = ParameterLayout({Target("unet", n): (1, 1, 1) for n in names}, 1.0)
    assert [s.target.module for s in layout.slots] == [
        "blocks.9.to_q",
        "blocks.9.to_v",
        "blocks.10.to_q",
        "blocks.x.to_q",
    ]


def test_slots_lie_one_behind_the_other_and_fill_the_vector(layout):
    assert [s.offset for s in layout.slots] == [0, *(s.end for s in layout.slots[:-1])]
    assert layout.slots[-1].end == layout.size == len(layout) == 122


def test_a_slot_holds_A_and_then_B_row_by_row():
    layout = ParameterLayout({Target("unet", "mid_block.to_q"): (2, 3, 2)}, 1.0)
    pair = layout.unflatten(np.arange(10)).factors[Target("unet", "mid_block.to_q")]
    assert pair.A.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert pair.B.tolist() == [[6, 7], [8, 9]]


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 4.0},
        {"module": "mid_block.to_k"},
        {"component": "text_encoder"},
        {"shape": (2, 4, 5)},
        {"shape": (1, 4, 4)},
        {"shape": (1, 3, 5)},
    ],
    ids=str,
)
def test_the_digest_changes_with_scale_module_component_and_each_shape(change):
    def make(component="unet", module="mid_block.to_q", shape=(1, 4, 5), scale=3.0):
        return ParameterLayout({Target(component, module): shape}, scale)

    assert make().digest == make().digest
    assert make(**change).digest != make().digest
    assert make(**change) != make()


def test_a_scale_other_than_the_reference_is_folded_into_B(layout, adapter):
    other = Adapter({t: type(p)(p.A, p.B, 6.0) for t, p in adapter.factors.items()})
    again = layout.unflatten(layout.flatten(other))
    for target, pair in other.factors.items():
        np.testing.assert_array_equal(again.factors[target].A, pair.A)
        np.testing.assert_allclose(again.factors[target].delta(), pair.delta(), rtol=1e-6)


def test_a_ratio_that_float32_cannot_hold_is_refused_with_its_module(layout, adapter):
    far = Adapter({t: type(p)(p.A, p.B * 1e6, 1e38) for t, p in adapter.factors.items()})
    with pytest.raises(InvalidInputError, match=r"lora-9: B of unet\."):
        layout.flatten(far, where="lora-9")


def test_unflattened_factors_do_not_share_memory_with_the_vector(layout):
    vector = np.ones(layout.size, np.float32)
    first = next(iter(layout.unflatten(vector).factors.values()))
    first.A[:] = 5
    assert (vector == 1).all()


def test_a_batch_of_torch_rows_keeps_its_gradient_and_its_memory(layout):
    import torch

    rows = torch.zeros(3, layout.size, requires_grad=True)
    pieces = layout.unflatten_batch(rows)
    a, b = pieces[layout.slots[-1].target]
    assert a.shape == (3, 2, 5)
    assert b.shape == (3, 4, 2)
    (2 * a).sum().backward()
    assert rows.grad is not None
    assert rows.grad.sum() == 2 * a.numel()
    assert a.data_ptr() == rows.data_ptr() + 4 * layout.slots[-1].offset


def test_the_layout_of_sd15_is_the_order_of_weights2weights_99648_numbers():
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        )
    layout = ParameterLayout.from_model(unet, rank=1, scale=27)
    assert layout.size == 99_648
    assert len(layout.slots) == 64
    # weights2weights concatenates the tensors of a PEFT file in the order of its sorted keys
    keys = [f"base_model.model.{s.target.module}.lora_{f}.weight" for s in layout.slots for f in "AB"]
    assert keys == sorted(keys)
    linear = dict(unet.named_modules())
    for slot in layout.slots:
        assert (slot.outputs, slot.inputs) == tuple(linear[slot.target.module].weight.shape)
    assert layout.digest == "d798f1bc9eb91575eff8b014a0467920933053acbe28ff2783e0b2ade4293acf"


def test_the_layout_of_sdxl_costs_no_memory_and_counts_blocks_as_numbers():
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=2048, block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        )  # fmt: skip
    layout = ParameterLayout.from_model(unet, rank=4)
    assert len(layout.slots) == 280
    numbers = [
        int(s.target.module.split(".")[4])
        for s in layout.slots
        if s.target.module.startswith("mid_block.attentions.0.")
    ]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(10))


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["conv1"], 8), (["to_out.0"], 8), (["mid_block.attentions.0.proj_in"], 1), (["out.0", "onv1"], 0),
        (r".*attn[12]\.to_[qv]", 16), (r"mid_block\..*conv[12]", 4), ("to_q", 0),
    ],
    ids=str,
)  # fmt: skip
def test_a_models_modules_are_named_by_the_end_of_their_path_or_one_expression(tiny_unet, targets, count):
    if not count:
        with pytest.raises(InvalidInputError, match="Linear"):
            ParameterLayout.from_model(tiny_unet(), targets)
        return
    layout = ParameterLayout.from_model(tiny_unet(), targets, rank=2)
    assert len(layout.slots) == count
    modules = dict(tiny_unet().named_modules())
    for slot in layout.slots:
        assert slot.weight_shape == tuple(modules[slot.target.module].weight.shape)


def test_a_grouped_convolution_is_refused_by_name():
    import torch

    with pytest.raises(InvalidInputError, match=r"conv .* 2 "):
        ParameterLayout.from_model(torch.nn.ModuleDict({"conv": torch.nn.Conv2d(4, 4, 3, groups=2)}), ["conv"])


def test_a_convolutions_kernel_is_in_layout_digest_and_json_and_comes_back():
    plain = ParameterLayout({Target("unet", "conv1"): (2, 12, 5)}, 1.0)
    conv = ParameterLayout({Target("unet", "conv1"): (2, 3, 5, (2, 2))}, 1.0)
    assert plain.size == conv.size == 2 * 12 + 5 * 2
    assert plain.digest != conv.digest
    assert conv.to_json()["slots"] == [["unet", "conv1", 2, 3, 5, 2, 2]]
    assert ParameterLayout.from_json(conv.to_json()) == conv
    assert "kernel 2x2 instead of none (Linear) in unet.conv1" in plain.differences(conv)
    pair = conv.unflatten(np.arange(conv.size)).factors[Target("unet", "conv1")]
    assert (pair.kernel, pair.weight_shape, pair.delta().shape) == ((2, 2), (5, 3, 2, 2), (5, 3, 2, 2))
    a, _ = conv.unflatten_batch(np.zeros((7, conv.size)))[Target("unet", "conv1")]
    assert a.shape == (7, 2, 12)


def test_a_batch_of_numpy_rows_is_viewed_not_copied(layout):
    rows = np.zeros((3, layout.size), np.float32)
    for a, b in layout.unflatten_batch(rows).values():
        a += 1
        b += 2
    assert set(np.unique(rows)) == {1.0, 2.0}


def test_a_model_without_the_target_modules_is_refused_by_name():
    import torch

    with pytest.raises(InvalidInputError, match="to_q or to_v"):
        ParameterLayout.from_model(torch.nn.Linear(2, 2))


def test_of_several_scales_the_most_frequent_is_the_reference_and_the_others_ratios_are_told(adapter):
    first, second = list(adapter.factors)[:2]
    mixed = Adapter(adapter.factors | {first: factors(scale=6.0), second: factors(scale=-1.5)})
    layout = ParameterLayout.from_adapter(mixed)
    assert layout.scale == 3.0
    assert layout.scale_ratios(mixed) == {first: 2.0, second: -0.5}
    again = layout.unflatten(layout.flatten(mixed))
    for target, pair in mixed.factors.items():
        np.testing.assert_allclose(again.factors[target].delta(), pair.delta(), rtol=1e-6)
    assert ParameterLayout.from_adapter(mixed, scale=0.5).scale == 0.5


def test_an_adapter_without_a_positive_scale_is_laid_out_with_reference_1():
    off = Adapter({Target("unet", "mid_block.to_q"): factors(scale=0.0)})
    layout = ParameterLayout.from_adapter(off)
    assert layout.scale == 1.0
    assert not layout.unflatten(layout.flatten(off)).factors[Target("unet", "mid_block.to_q")].delta().any()


def test_an_adapter_of_another_shape_is_refused_with_module_and_sizes(layout, adapter):
    first = layout.slots[0].target
    wrong = Adapter(adapter.factors | {first: factors(rank=1)})
    with pytest.raises(LayoutMismatchError, match=f"lora-7 .*rank 1 .* 2 .*{first}"):
        layout.flatten(wrong, where="lora-7")


def test_an_adapter_that_lacks_a_module_and_has_another_is_refused_with_both(layout, adapter):
    kept = dict(list(adapter.factors.items())[1:]) | {Target("unet", "mid_block.extra"): factors()}
    with pytest.raises(LayoutMismatchError) as caught:
        layout.flatten(Adapter(kept))
    assert str(layout.slots[0].target) in str(caught.value)
    assert "unet.mid_block.extra" in str(caught.value)


def test_equal_layouts_have_no_differences_and_a_scale_is_one(layout):
    sizes = {s.target: (s.rank, s.inputs, s.outputs) for s in layout.slots}
    assert layout.differences(ParameterLayout(sizes, 3.0)) == ""
    assert layout.differences(ParameterLayout(sizes, 4.0)) == "scale 4 instead of 3"


def test_a_vector_of_another_length_is_refused(layout):
    with pytest.raises(LayoutMismatchError, match="122"):
        layout.unflatten(np.zeros(121))
    with pytest.raises(LayoutMismatchError, match="122"):
        layout.unflatten_batch(np.zeros((2, 121)))


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 1, -1)], ids=str)
def test_a_module_without_a_rank_or_size_is_refused(shape):
    with pytest.raises(InvalidInputError, match="unet"):
        ParameterLayout({Target("unet", "mid_block.to_q"): shape}, 1.0)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_reference_scale_must_be_a_positive_number(scale):
    with pytest.raises(InvalidInputError, match="scale"):
        ParameterLayout({Target("unet", "mid_block.to_q"): (1, 1, 1)}, scale)


@pytest.mark.parametrize(
    "change", [{"slots": []}, {"slots": [["unet", "x"]]}, {"slots": None}, {"scale": "a"}, {"scale": None}], ids=str
)
def test_json_that_is_no_layout_is_refused(layout, change):
    with pytest.raises(UnsupportedFormatError, match="layout"):
        ParameterLayout.from_json(layout.to_json() | change)


BAD_NUMBERS = [
    0,
    -1,
    True,
    False,
    1.5,
    2.0,
    "2",
    None,
    [],
    float("nan"),
    float("inf"),
    float("-inf"),
    2**31,
    2**62,
    10**400,
]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("place", [2, 3, 4, 5, 6])
def test_a_size_in_json_that_is_not_a_whole_number_within_the_limits_is_refused(place: int, bad: object) -> None:
    good = ["unet", "mid_block.conv", 2, 3, 5, 3, 3]
    assert ParameterLayout.from_json({"slots": [good], "scale": 1.0}).size == 2 * (27 + 5)
    slot = [*good[:place], bad, *good[place + 1 :]]
    with pytest.raises(UnsupportedFormatError):
        ParameterLayout.from_json({"slots": [slot], "scale": 1.0})


@pytest.mark.parametrize(
    "bad",
    [0, -2.0, True, False, None, "1", [1.0], float("nan"), float("inf"), float("-inf"), 10**400],
    ids=lambda value: repr(value)[:12],
)
def test_a_scale_in_json_that_is_not_a_positive_number_is_refused(layout: ParameterLayout, bad: object) -> None:
    with pytest.raises(UnsupportedFormatError, match="scale"):
        ParameterLayout.from_json(layout.to_json() | {"scale": bad})


@pytest.mark.parametrize(
    "slots",
    [
        "unet", {}, 7, [7], [None], ["unetx"], [{}], [["unet", "a"]], [["unet", 7, 1, 1, 1]], [[None, "a", 1, 1, 1]],
        [["unet", ["a"], 1, 1, 1]], [["unet", "a", 1, 1, 1], ["unet", "a", 2, 1, 1]],
        [["unet", "a", 1, 1, 1, 1, 1, 1, 1]], [["unet", "9" * 5000, 1, 1, 1]], [["u" * 5000, "a", 1, 1, 1]],
        [["unet", "a", 2**30, 2**30, 1]], [["unet", "a", 1, 1, 1]] * 100_001,
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_slots_in_json_that_are_not_slots_are_refused_in_one_bounded_line(slots: object) -> None:
    for data in ({"slots": slots, "scale": 1.0}, json.loads(json.dumps({"slots": slots, "scale": 1}))):
        with pytest.raises(UnsupportedFormatError) as caught:
            ParameterLayout.from_json(data)
        assert len(str(caught.value)) < 2100
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, 7, "layout", [], {}, {"slots": []}, {"scale": 1.0}], ids=repr)
def test_json_that_is_not_a_layout_is_refused(data: object) -> None:
    with pytest.raises(UnsupportedFormatError):
        ParameterLayout.from_json(data)


def test_numpys_integers_make_the_layout_that_pythons_make() -> None:
    plain = ParameterLayout({Target("unet", "conv"): (2, 3, 5, (3, 3))}, 2)
    numpys = ParameterLayout({Target("unet", "conv"): (*np.array([2, 3, 5]), tuple(np.array([3, 3])))}, np.float32(2))
    assert numpys.digest == plain.digest
    assert numpys.slots == plain.slots
    assert hash(numpys) == hash(plain)


@pytest.mark.parametrize(
    "size",
    [7, "abc", (1, 2), (1, 2, 3, 4), (1, 2, 3, (1,), 5), (1, 2, 3, (1.5,)), (1, 2, 3, (1,) * 4), (True, 2, 3)],
    ids=repr,
)  # fmt: skip
def test_a_size_that_is_not_one_is_refused_by_its_module(size: object) -> None:
    with pytest.raises(InvalidInputError, match=r"unet\.conv"):
        ParameterLayout({Target("unet", "conv"): size}, 1.0)


def test_json_with_slots_in_another_order_is_refused(layout):
    data = layout.to_json()
    with pytest.raises(UnsupportedFormatError, match="order"):
        ParameterLayout.from_json(data | {"slots": data["slots"][::-1]})


def test_a_text_encoders_layout_names_its_modules_as_read_adapters_do():
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        model = CLIPTextModel(
            CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
        )
    layout = ParameterLayout.from_model(model, ["q_proj"], component="text_encoder")
    assert [str(s.target) for s in layout.slots] == ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"]


@pytest.mark.parametrize("options", [{"rank": 1.5}, {"rank": True}, {"targets": "("}, {"targets": []}], ids=str)
def test_a_rank_that_is_no_integer_and_targets_that_name_nothing_are_refused(tiny_unet, options):
    with pytest.raises(InvalidInputError):
        ParameterLayout.from_model(tiny_unet(), **options)


def test_one_vector_in_place_of_a_batch_is_refused_with_its_shape(layout):
    with pytest.raises(LayoutMismatchError, match="rows"):
        layout.unflatten_batch(np.zeros(layout.size))


def test_an_unflattened_adapter_has_the_base_model_that_is_stated_and_the_reference_scale(layout):
    vector = np.arange(layout.size, dtype=np.float32)
    for base_model in (None, "org/base"):
        adapter = layout.unflatten(vector, base_model)
        assert adapter.base_model == base_model
        assert {pair.scale for pair in adapter.factors.values()} == {layout.scale}
    assert layout.unflatten(vector).base_model is None


def nested(paths: dict[str, object]) -> object:
    """A torch module with these modules at these paths."""
    import torch

    root = torch.nn.Module()
    for path, module in paths.items():
        place = root
        *parents, last = path.split(".")
        for name in parents:
            if not hasattr(place, name):
                place.add_module(name, torch.nn.Module())
            place = getattr(place, name)
        place.add_module(last, module)
    return root


def test_a_models_modules_are_found_at_every_depth_and_spelled_as_adapters_are_read():
    torch = pytest.importorskip("torch")
    paths = ("to_q", "a.to_q", "a.b.to_q", "a.not_to_q", "encoder.layers.0.self_attn.q_proj", "x.encoder.q_proj")
    model = nested({path: torch.nn.Linear(3, 2) for path in paths})
    found = ParameterLayout.from_model(model, ["to_q", "q_proj"], rank=2, scale=1.5, component="text_encoder_2")
    assert {str(slot.target) for slot in found.slots} == {
        "text_encoder_2.to_q", "text_encoder_2.a.to_q", "text_encoder_2.a.b.to_q", "text_encoder_2.x.encoder.q_proj",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
    }  # fmt: skip
    assert {slot.size for slot in found.slots} == {(2, 3, 2)}
    assert found.scale == 1.5
    bare = ParameterLayout.from_model(model, "encoder.*", component="unet")
    assert [slot.target.module for slot in bare.slots] == ["encoder.layers.0.self_attn.q_proj"]


@pytest.mark.slow
@given(sizes=sizes, seed=st.integers(0, 2**32 - 1), scales=st.tuples(*[st.floats(0.01, 100)] * 2))
@settings(deadline=None, max_examples=40)
def test_a_folded_scale_is_rounded_to_float32_once(sizes, seed, scales):
    own, reference = scales
    layout = ParameterLayout(sizes, reference)
    pairs = {t: factors_of(shape, seed + i) for i, (t, shape) in enumerate(sizes.items())}
    adapter = Adapter({t: LoraFactors(p.A, p.B, own, p.kernel) for t, p in pairs.items()})
    vector = layout.flatten(adapter)
    for slot in layout.slots:
        pair = pairs[slot.target]
        np.testing.assert_array_equal(vector[slot.offset : slot.b_offset], pair.A.ravel())
        folded = (pair.B.astype(np.float64) * (own / reference)).astype(np.float32)
        np.testing.assert_array_equal(vector[slot.b_offset : slot.end], folded.ravel())
