"""What a pipeline hands on: its parts to stock pipelines, copies of itself, its dtype; and what `render` refuses."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

import w2w_hub
from w2w_hub import ParameterLayout, W2WPipeline, WeightSpace
from w2w_hub.errors import InvalidInputError
from w2w_hub.models.injection import inject_hooks
from w2w_hub.models.pipelines import StockPipelineWarning, W2WStableDiffusionImg2ImgPipeline

from ..tiny_world import TinyWorld

FAST = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}


def draw(pipe: Any, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe("sks person", generator=torch.Generator().manual_seed(0), **{**FAST, **options}).images


def controlled(pipe: W2WPipeline) -> Any:
    unet = pipe.unet.config
    net = ControlNetModel(
        block_out_channels=unet.block_out_channels, layers_per_block=1, norm_num_groups=4,
        down_block_types=unet.down_block_types, cross_attention_dim=32, attention_head_dim=2,
        conditioning_embedding_out_channels=(4, 4),
    )  # fmt: skip
    return StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=net)


STOCK: dict[str, Callable[[W2WPipeline], Any]] = {
    "text to image": StableDiffusionPipeline.from_pipe,
    "image to image": StableDiffusionImg2ImgPipeline.from_pipe,
    "inpainting": StableDiffusionInpaintPipeline.from_pipe,
    "control net": controlled,
    "components": lambda pipe: StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False),
    "some components": lambda pipe: StableDiffusionPipeline(
        **{k: v for k, v in pipe.components.items() if k != "image_encoder"}, requires_safety_checker=False
    ),
    "of ours with an image encoder": lambda pipe: StableDiffusionImg2ImgPipeline.from_pipe(
        W2WStableDiffusionImg2ImgPipeline.from_pipe(pipe)
    ),
}


IMG2IMG, ANY = "W2WStableDiffusionImg2ImgPipeline.from_pipe(pipe)", "W2WPipeline or W2WStableDiffusionImg2ImgPipeline"
HAS_IT = {
    "text to image": "W2WPipeline.from_pipe(pipe)", "image to image": IMG2IMG,
    "inpainting": "W2WStableDiffusionInpaintPipeline.from_pipe(pipe)", "components": ANY, "some components": ANY,
    "control net": "class W2WVariant(W2WMixin, StableDiffusionControlNetPipeline)",
    "of ours with an image encoder": IMG2IMG,
}  # fmt: skip


@pytest.mark.parametrize("way", sorted(STOCK))
def test_a_stock_pipeline_made_of_this_one_says_that_it_draws_the_base_model(way: str, pipe: W2WPipeline) -> None:
    pipe.identity = "person-0000"
    with pytest.warns(StockPipelineWarning) as told:
        STOCK[way](pipe)
    [warning] = [warning for warning in told if warning.category is StockPipelineWarning]
    assert Path(warning.filename).name == "test_handover.py"
    assert HAS_IT[way] in str(warning.message)


@pytest.mark.parametrize("way", ["image to image", "components"])
def test_an_identity_that_is_set_after_a_stock_pipeline_was_made_says_so_once(way: str, pipe: W2WPipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        STOCK[way](pipe)  # the base model is what is drawn
    with pytest.warns(StockPipelineWarning):
        pipe.identity = "person-0000"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe.identity = "person-0001"


@pytest.mark.parametrize(
    ("auto", "ours"),
    [
        (AutoPipelineForText2Image, "W2WPipeline"), (AutoPipelineForImage2Image, "W2WStableDiffusionImg2ImgPipeline"),
        (AutoPipelineForInpainting, "W2WStableDiffusionInpaintPipeline"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["person-0000", None])
def test_auto_pipelines_refuse_with_the_class_that_keeps_the_identity(
    auto: Any, ours: str, name: str | None, pipe: W2WPipeline
) -> None:
    pipe.identity = name
    with pytest.raises(InvalidInputError, match=rf"{auto.__name__}.* {ours}\.from_pipe\(pipe\)"):
        auto.from_pipe(pipe)
    assert getattr(w2w_hub, ours).from_pipe(pipe).identity is pipe.identity


def test_a_stock_pipeline_is_warned_of_once_for_each_identity(pipe: W2WPipeline) -> None:
    for name in ("person-0000", "person-0001"):
        pipe.identity = name
        with pytest.warns(StockPipelineWarning):
            StableDiffusionImg2ImgPipeline.from_pipe(pipe)
        with warnings.catch_warnings():
            warnings.simplefilter("error", StockPipelineWarning)
            StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
            StableDiffusionImg2ImgPipeline.from_pipe(pipe)


def test_the_stock_base_class_refuses_or_says_so(pipe: W2WPipeline) -> None:
    pipe.identity = "person-0000"
    with pytest.warns(StockPipelineWarning), pytest.raises(ValueError, match="DiffusionPipeline"):
        DiffusionPipeline.from_pipe(pipe)  # diffusers' own error: it has no parts


def test_moving_saving_and_our_own_variants_say_nothing(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.identity = "person-0000"
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPipelineWarning)
        other = W2WStableDiffusionImg2ImgPipeline.from_pipe(pipe)
        other.to("cpu")
        pipe.save_pretrained(tmp_path / "saved")
        copy.deepcopy(pipe).enable_attention_slicing()
        offloaded = copy.deepcopy(pipe)
        offloaded.enable_sequential_cpu_offload(device="cpu")
        offloaded.remove_all_hooks()
        draw(other, image=torch.zeros(1, 3, 64, 64), strength=0.9)
        assert pipe.dtype == torch.float32
        assert "unet" in repr(pipe)
    assert other.identity is pipe.identity


def test_a_deep_copy_draws_the_same_identity_and_is_a_pipeline_of_its_own(pipe: W2WPipeline) -> None:
    pipe.identity = "person-0000"
    expected = draw(pipe)
    other = copy.deepcopy(pipe)
    np.testing.assert_array_equal(draw(other), expected)
    other.identity = None
    assert np.abs(draw(other) - expected).max() > 1e-3
    np.testing.assert_array_equal(draw(pipe), expected)


# ---------------------------------------------------------------- dtypes
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"dtype": "bf16"}, torch.bfloat16), ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "fp16"}, torch.float16), ({"dtype": "half"}, torch.float16), ({"dtype": "fp32"}, torch.float32),
        ({"torch_dtype": torch.float16}, torch.float16), ({}, torch.float32),
        ({"dtype": "bf16", "torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"dtype": {"unet": "bf16", "default": "float32"}}, torch.bfloat16),
    ],
)  # fmt: skip
def test_a_dtype_is_what_was_asked_for_by_whatever_name(
    given: dict[str, Any], expected: torch.dtype, tiny_space: Path
) -> None:
    pipe = W2WPipeline.from_pretrained(tiny_space, **given)
    assert pipe.unet.dtype == expected
    if isinstance(given.get("dtype"), dict):
        assert pipe.vae.dtype == torch.float32


@pytest.mark.parametrize("wrong", ["brain", "int8", "Linear", "", torch.int64, torch.complex64, 16, float, np.float16])
def test_what_is_no_floating_dtype_is_refused(wrong: Any, tiny_space: Path, tiny_world: TinyWorld) -> None:
    for way in (
        lambda **options: W2WPipeline.from_pretrained(tiny_space, **options),
        lambda **options: W2WPipeline.from_base(tiny_world.base, WeightSpace.from_pretrained(tiny_space), **options),
    ):
        for option in ({"dtype": wrong}, {"torch_dtype": wrong}, {"dtype": {"unet": wrong}}):
            with pytest.raises(InvalidInputError, match="dtype"):
                way(**option)


def test_two_dtypes_that_disagree_are_refused(tiny_space: Path) -> None:
    with pytest.raises(InvalidInputError, match="torch_dtype"):
        W2WPipeline.from_pretrained(tiny_space, dtype="bf16", torch_dtype=torch.float16)


# ---------------------------------------------------------------- render
@pytest.mark.parametrize(
    "option",
    [
        {"output_type": "pil"}, {"output_type": "latent"}, {"output_type": "pt"}, {"return_dict": False},
        {"generator": None}, {"num_images_per_prompt": 2}, {"latents": torch.zeros(1)}, {"prompt": "x"},
        {"prompt_embeds": torch.zeros(1)},
    ],
)  # fmt: skip
def test_render_refuses_what_it_gives_the_call_itself(option: dict[str, Any], pipe: W2WPipeline) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(option))):
        pipe.render(["person-0000"], [("sks person", 0)], **option)


# ---------------------------------------------------------------- what must not come along
def test_another_space_that_is_attached_leaves_no_identity_of_the_first(tiny_space: Path) -> None:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    base = draw(pipe)
    pipe.identity = "person-0000"
    pipe.attach(WeightSpace.from_pretrained(tiny_space, k=3))
    assert pipe.identity is None
    assert pipe.space.k == 3
    np.testing.assert_array_equal(draw(pipe), base)


def test_an_edit_of_identities_with_the_base_model_among_them_is_refused_and_changes_none(pipe: W2WPipeline) -> None:
    for mixed in (["person-0000", None], [None, "person-0001", "person-0002"]):
        pipe.identity = mixed
        before = pipe.identity
        with pytest.raises(InvalidInputError):
            pipe.edit({"Sunglasses": 1.0})
        assert pipe.identity is before
    assert pipe.identity[0] is None
    assert len(pipe.identity) == 3


def test_two_layouts_on_one_model_are_each_drawn_at_their_own_scale(pipe: W2WPipeline) -> None:
    layout = pipe.space.layout
    doubled = ParameterLayout({slot.target: slot.size for slot in layout.slots}, 2 * layout.scale)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))

    def predicted(drawn: ParameterLayout, vector: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(np.stack([vector, 0 * vector]))
        with torch.no_grad(), inject_hooks(pipe.unet, drawn, rows):
            return pipe.unet(x, 3, text).sample

    vector = pipe.space.decode(pipe.space.row("person-0000"))
    twice = layout.flatten(doubled.unflatten(vector))  # the same weights at the first scale
    plain, expected = predicted(layout, vector), predicted(layout, twice)
    assert (plain - expected).abs().max() > 1e-3
    torch.testing.assert_close(predicted(doubled, vector), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predicted(layout, vector), plain)
