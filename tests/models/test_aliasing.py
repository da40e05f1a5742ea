"""An identity still takes effect, and leaves no trace, after whatever a user does to the pipeline's modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, get_peft_model_state_dict
from torch._dynamo.testing import CompileCounter

from w2w_hub import ParameterLayout, W2WPipeline
from w2w_hub.errors import AdapterNotAppliedError
from w2w_hub.models.injection import identity_shown

FAST = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}


@pytest.fixture
def pipe(tiny_space: Path) -> W2WPipeline:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: W2WPipeline, prompt: object = "sks person") -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **FAST).images


def add_style(pipe: W2WPipeline, name: str = "style", seed: int = 0) -> None:
    """A LoRA of another rank on the same attention layers, with weights that matter."""
    torch.manual_seed(seed)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"]), adapter_name=name)
    with torch.no_grad():
        for key, parameter in pipe.unet.named_parameters():
            if f"lora_B.{name}" in key:
                parameter.normal_(std=0.3)


def two_styles(pipe: W2WPipeline) -> None:
    add_style(pipe, "first", 1)
    add_style(pipe, "second", 2)
    pipe.set_adapters("first")


def fused_style(pipe: W2WPipeline) -> None:
    add_style(pipe)
    pipe.fuse_lora()


def assigned(pipe: W2WPipeline) -> None:
    pipe.unet.load_state_dict({k: v.clone() for k, v in pipe.unet.state_dict().items()}, assign=True)


def style_file(pipe: W2WPipeline) -> None:
    """An ordinary style LoRA from a file, as most people have them."""
    add_style(pipe, "made")
    state = get_peft_model_state_dict(pipe.unet, adapter_name="made")
    pipe.unet.delete_adapters("made")
    pipe.load_lora_weights({f"unet.{k}": v for k, v in state.items()}, adapter_name="loaded")
    pipe.set_adapters("loaded", 0.7)


def unfused_style(pipe: W2WPipeline) -> None:
    fused_style(pipe)
    pipe.unfuse_lora()


def unloaded_style(pipe: W2WPipeline) -> None:
    style_file(pipe)
    pipe.unload_lora_weights()


def grouped(pipe: W2WPipeline) -> None:
    cpu = torch.device("cpu")
    pipe.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def in_eight_bits(pipe: W2WPipeline) -> None:
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


CHANGES: dict[str, Callable[[W2WPipeline], object]] = {
    "to float64": lambda p: p.to(torch.float64),
    "to bfloat16": lambda p: p.to(torch.bfloat16),
    "half()": lambda p: p.unet.half() and p.text_encoder.half() and p.vae.half(),
    "to the cpu": lambda p: p.to("cpu"),
    "load_state_dict(assign=True)": assigned,
    "a style LoRA": add_style,
    "set_adapters": two_styles,
    "fuse_lora": fused_style,
    "channels last": lambda p: p.unet.to(memory_format=torch.channels_last),
    "load_lora_weights": style_file,
    "unfuse_lora": unfused_style,
    "unload_lora_weights": unloaded_style,
    "model offloading": lambda p: cpu_offload_with_hook(p.unet, torch.device("cpu")),
    "sequential offloading": lambda p: cpu_offload(p.unet, torch.device("cpu")),
    "group offloading": grouped,
    "layerwise casting": in_eight_bits,
    "another attention processor": lambda p: p.unet.set_attn_processor(AttnProcessor()),
    "fuse and unfuse of projections": lambda p: (p.fuse_qkv_projections(), p.unfuse_qkv_projections()),
    "attention slicing": lambda p: p.enable_attention_slicing(1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_identity_takes_effect_and_leaves_no_trace_after(name: str, pipe: W2WPipeline) -> None:
    CHANGES[name](pipe)
    plain = draw(pipe)
    weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    point = pipe.sample_identity(0)
    alone = draw(pipe)
    assert np.abs(alone - plain).max() > 1e-3
    pipe.identity = [point, pipe.space.sample(2, seed=7)[1]]
    together = draw(pipe, ["sks person"] * 2)
    np.testing.assert_allclose(together[0], alone[0], atol={"to bfloat16": 0.05, "half()": 1e-2}.get(name, 2e-4))
    pipe.identity = None
    assert all(same(weights[k], v) for k, v in pipe.unet.state_dict().items())
    np.testing.assert_array_equal(draw(pipe), plain)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit-equal; meta tensors, whose values are elsewhere, are the same if their shapes are."""
    return a.shape == b.shape if a.is_meta else torch.equal(a, b)


def test_a_style_acts_beside_an_identity_as_the_sum_of_both(pipe: W2WPipeline) -> None:
    point = pipe.sample_identity(0)
    identity_alone = draw(pipe)
    add_style(pipe)
    both = draw(pipe)
    pipe.identity = None
    style_alone = draw(pipe)
    assert np.abs(both - identity_alone).max() > 1e-3
    assert np.abs(both - style_alone).max() > 1e-3
    pipe.fuse_lora()
    pipe.identity = point
    np.testing.assert_allclose(draw(pipe), both, atol=2e-4)


def test_saved_and_opened_again_an_identity_draws_the_same(pipe: W2WPipeline, tmp_path: Path) -> None:
    point = pipe.sample_identity(0)
    expected = draw(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    again = W2WPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    again.identity = point
    np.testing.assert_allclose(draw(again), expected, atol=1e-5)


@pytest.mark.parametrize("how", ["regional", pytest.param("whole", marks=pytest.mark.slow)])
def test_a_compiled_model_is_not_compiled_again_for_another_identity(how: str, pipe: W2WPipeline) -> None:
    counter = CompileCounter()
    plain = draw(pipe)
    a, b = pipe.space.sample(2, seed=7)
    alone = []
    for point in (a, b):
        pipe.identity = point
        alone.append(draw(pipe)[0])
    pipe.identity = None
    if how == "whole":
        pipe.unet = torch.compile(pipe.unet, backend=counter)
    else:
        pipe.unet.compile_repeated_blocks(backend=counter)
    np.testing.assert_allclose(draw(pipe), plain, atol=1e-5)
    compiled = counter.frame_count
    assert compiled > 0
    for point, expected in zip((a, b), alone, strict=True):
        pipe.identity = point
        np.testing.assert_allclose(draw(pipe)[0], expected, atol=2e-4)
    assert counter.frame_count == compiled  # one identity costs what the plain model does
    for pair in ((0, 1), (1, 0)):
        pipe.identity = [(a, b)[i] for i in pair]
        noises = [torch.Generator().manual_seed(0) for _ in pair]
        pictures = pipe("sks person", generator=noises, **FAST).images
        np.testing.assert_allclose(pictures, [alone[i] for i in pair], atol=2e-4)
        if pair == (0, 1):
            compiled = counter.frame_count
    assert counter.frame_count == compiled
    pipe.identity = None
    np.testing.assert_allclose(draw(pipe), plain, atol=1e-5)


def test_storage_that_moves_in_the_middle_of_a_call_is_followed(pipe: W2WPipeline) -> None:
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    pipe.sample_identity(0)
    expected = draw(pipe)

    def move(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        pipeline.unet.to(torch.float64).to(torch.float32)  # new storage, as a move to a device gives
        return kwargs

    moved = pipe("sks person", generator=torch.Generator().manual_seed(0), callback_on_step_end=move, **FAST).images
    np.testing.assert_array_equal(moved, expected)
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())
    np.testing.assert_array_equal(draw(pipe), expected)


def test_weights_that_are_replaced_in_the_middle_of_a_call_stay(pipe: W2WPipeline) -> None:
    pipe.sample_identity(0)
    pipe.edit({"Full_Beard": 1.0}, start=0.5)

    def replace(pipeline: W2WPipeline, step: int, timestep: int, kwargs: dict) -> dict:
        assigned(pipeline)
        return kwargs

    with pytest.raises(AdapterNotAppliedError, match="was replaced while an identity was drawn"):
        pipe("sks person", callback_on_step_end=replace, **FAST)


def test_fused_projections_are_refused_since_they_hold_another_copy(pipe: W2WPipeline) -> None:
    pipe.fuse_qkv_projections()
    pipe.sample_identity(0)
    with pytest.raises(AdapterNotAppliedError, match="unfuse_qkv_projections"):
        draw(pipe)


def test_an_identity_too_small_for_the_dtype_is_an_error_and_an_empty_one_is_not(pipe: W2WPipeline) -> None:
    pipe.to(torch.bfloat16)
    layout = pipe.space.layout
    row = torch.from_numpy(pipe.space.decode(pipe.space.mean_point()))
    with (
        pytest.raises(AdapterNotAppliedError, match="changes no weight"),
        identity_shown(pipe.unet, layout, row * 1e-6),
    ):
        pass
    for b in layout.unflatten_batch(row[None]).values():
        b[1].zero_()  # a LoRA as it is before training
    with identity_shown(pipe.unet, layout, row):
        pass


def test_weights_that_are_not_in_memory_are_refused(pipe: W2WPipeline) -> None:
    pipe.unet.to("meta")
    pipe.sample_identity(0)
    with pytest.raises(AdapterNotAppliedError, match="no weights in memory"):
        draw(pipe)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading needs a GPU to move the weights to")
def test_an_identity_takes_effect_under_model_offloading(pipe: W2WPipeline) -> None:
    pipe.enable_model_cpu_offload()
    plain = draw(pipe)
    pipe.sample_identity(0)
    assert np.abs(draw(pipe) - plain).max() > 1e-3
    pipe.identity = None
    np.testing.assert_array_equal(draw(pipe), plain)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_sum_is_taken_in_float32_and_rounded_once(dtype: torch.dtype, rank: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(24, 40, bias=False)}).to(dtype)
    layout = ParameterLayout.from_model(model, rank=rank, scale=1.5)
    original, row = model["to_q"].weight.data.clone(), torch.randn(layout.size) * 0.1
    [(a, b)] = layout.unflatten_batch(row[None]).values()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = (original.double() + 1.5 * (b[0].double() @ a[0].double())).to(wide).to(dtype)
    with identity_shown(model, layout, row):
        found = model["to_q"].weight.data.clone()
    step = {torch.float32: 1e-6, torch.float64: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(found, expected, rtol=step, atol=1e-6)
    if found.element_size() == 2:  # but for ties the rounding is that of the exact sum
        assert (found == expected).double().mean() > 0.99
    assert torch.equal(model["to_q"].weight.data, original)
