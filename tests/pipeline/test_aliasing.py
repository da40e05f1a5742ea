"""An identity still takes effect, and leaves no trace, after whatever a user does to the pipeline's modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig

from w2w_hub import W2WPipeline
from w2w_hub.errors import AdapterNotAppliedError

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


def compiled(pipe: W2WPipeline) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


CHANGES: dict[str, Callable[[W2WPipeline], object]] = {
    "to float64": lambda p: p.to(torch.float64),
    "to bfloat16": lambda p: p.to(torch.bfloat16),
    "to the cpu": lambda p: p.to("cpu"),
    "load_state_dict(assign=True)": assigned,
    "a style LoRA": add_style,
    "set_adapters": two_styles,
    "fuse_lora": fused_style,
    "channels last": lambda p: p.unet.to(memory_format=torch.channels_last),
    "torch.compile": compiled,
    "attention slicing": lambda p: p.enable_attention_slicing(1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_identity_takes_effect_and_leaves_no_trace_after(name: str, pipe: W2WPipeline) -> None:
    CHANGES[name](pipe)
    weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    plain = draw(pipe)
    point = pipe.sample_identity(0)
    alone = draw(pipe)
    assert np.abs(alone - plain).max() > 1e-3
    pipe.identity = [point, pipe.space.sample(2, seed=7)[1]]
    together = draw(pipe, ["sks person"] * 2)
    np.testing.assert_allclose(together[0], alone[0], atol=0.05 if "bfloat16" in name else 2e-4)
    pipe.identity = None
    assert all(torch.equal(weights[k], v) for k, v in pipe.unet.state_dict().items())
    np.testing.assert_array_equal(draw(pipe), plain)


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
