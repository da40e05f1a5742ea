"""The mixin over other stock classes, and pipelines made of pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from w2w_hub import ParameterLayout, W2WPipeline, WeightSpace
from w2w_hub.errors import BaseModelMismatchError, UnknownNameError
from w2w_hub.models.pipelines import (
    W2WMixin,
    W2WStableDiffusionImg2ImgPipeline,
    W2WStableDiffusionInpaintPipeline,
)
from w2w_hub.models.pipelines.inputs import encode_text
from w2w_hub.space import Coordinates, Population

from ..tiny_world import TinyWorld

FAST = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "np"}


class W2WXL(W2WMixin, StableDiffusionXLPipeline):
    stock_class = StableDiffusionXLPipeline


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(count: int = 1) -> Any:
    noises = [torch.Generator().manual_seed(0) for _ in range(count)]
    return noises if count > 1 else noises[0]


def image_options(stock: type) -> dict[str, Any]:
    picture = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    options: dict[str, Any] = {"image": picture, "strength": 0.75}
    if stock is StableDiffusionInpaintPipeline:
        options["mask_image"] = np.ones((1, 64, 64, 1), np.float32)
    return options


@pytest.mark.parametrize("cls", [W2WStableDiffusionImg2ImgPipeline, W2WStableDiffusionInpaintPipeline])
def test_image_to_image_and_inpainting_draw_identities(cls: Any, pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    other, options = quiet(cls.from_pipe(pipe)), image_options(cls.stock_class)
    assert other.unet is pipe.unet
    stock = quiet(cls.stock_class.from_pretrained(tiny_world.base, dtype=torch.float32))
    base = stock("sks person", generator=seeded(), **options, **FAST).images
    np.testing.assert_array_equal(other("sks person", generator=seeded(), **options, **FAST).images, base)
    alone = []
    for name in ("person-0000", "person-0001"):
        other.identity = name
        alone.append(other("sks person", generator=seeded(), **options, **FAST).images[0])
        assert np.abs(alone[-1] - base[0]).max() > 1e-4
    other.identity = ["person-0000", "person-0001"]
    options |= {k: np.repeat(options[k], 2, 0) for k in ("image", "mask_image") if k in options}
    together = other("sks person", generator=seeded(2), **options, **FAST).images
    np.testing.assert_allclose(together, alone, atol=1e-4)
    other.identity = None
    np.testing.assert_array_equal(pipe("sks person", generator=seeded(), **FAST).images.shape, (1, 64, 64, 3))


def test_a_schedule_that_starts_late_counts_from_the_whole_one(pipe: W2WPipeline) -> None:
    """With strength 0.5, image-to-image begins at half of the schedule: an edit from there on is drawn at once."""
    other = quiet(W2WStableDiffusionImg2ImgPipeline.from_pipe(pipe))
    options = image_options(StableDiffusionImg2ImgPipeline) | {"strength": 0.5}
    pictures = {}
    for start in (0.0, 0.5, 0.75):
        other.identity = "person-0000"
        other.edit({"Full_Beard": 3.0}, start=start)
        pictures[start] = other("sks person", generator=seeded(), **options, **FAST).images
    np.testing.assert_array_equal(pictures[0.5], pictures[0.0])
    assert np.abs(pictures[0.75] - pictures[0.0]).max() > 1e-5


def test_a_stock_pipeline_takes_a_space_and_gives_its_components_back(
    pipe: W2WPipeline, tiny_world: TinyWorld, tiny_space: Path
) -> None:
    stock = quiet(StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32))
    made = quiet(W2WPipeline.from_pipe(stock, space=WeightSpace.from_pretrained(tiny_space)))
    assert made.unet is stock.unet
    made.identity = pipe.identity = "person-0004"
    expected = pipe("sks person", generator=seeded(), **FAST).images
    np.testing.assert_array_equal(made("sks person", generator=seeded(), **FAST).images, expected)
    again = W2WStableDiffusionImg2ImgPipeline.from_pipe(made)
    assert again.space is made.space
    assert again.identity is made.identity
    plain = quiet(StableDiffusionPipeline.from_pipe(made))
    pipe.identity = None
    np.testing.assert_array_equal(
        plain("sks person", generator=seeded(), **FAST).images, pipe("sks person", generator=seeded(), **FAST).images
    )


def test_a_shared_component_keeps_its_dtype(tiny_space: Path) -> None:
    half = W2WPipeline.from_pretrained(tiny_space, torch_dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    other = W2WStableDiffusionImg2ImgPipeline.from_pipe(half)
    assert other.unet.dtype == half.unet.dtype == torch.bfloat16


def test_a_stock_pipeline_without_a_space_says_what_is_missing(tiny_world: TinyWorld) -> None:
    made = W2WPipeline.from_pipe(StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32))
    with pytest.raises(UnknownNameError, match="attach"):
        made.sample_identity(0)


@pytest.fixture(scope="module")
def xl(tiny_world: TinyWorld) -> StableDiffusionXLPipeline:
    """A tiny SDXL of random weights."""
    small = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
    torch.manual_seed(0)
    config = CLIPTextConfig(**{**small.text_encoder.config.to_dict(), "projection_dim": 32})
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64, attention_head_dim=2, norm_num_groups=4, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 32, use_linear_projection=True,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_config(small.vae.config), text_encoder=small.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(config).eval(), tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer, unet=unet.eval(), scheduler=DDIMScheduler.from_config(small.scheduler.config),
        add_watermarker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def xl_space(xl: StableDiffusionXLPipeline) -> WeightSpace:
    layout = ParameterLayout.from_model(xl.unet, rank=2, scale=1.5)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, layout.size)).astype(np.float32) * 0.2
    basis = np.linalg.qr(rows[:4].T)[0].T.astype(np.float32)
    coordinates = Coordinates(layout, rows.mean(0), np.ones(layout.size, np.float32), basis, np.ones(4))
    ids, splits = tuple(f"p{i}" for i in range(9)), np.full(9, "train")
    population = Population(ids, splits, (rows - rows.mean(0)) @ basis.T, "train")
    return WeightSpace(coordinates, population, recipe={})


def test_sdxl_follows_from_the_mixin_with_drawing_batches_and_inversion(
    xl: StableDiffusionXLPipeline, xl_space: WeightSpace
) -> None:
    pipe = quiet(W2WXL.from_pipe(xl, space=xl_space))
    text, conditions = encode_text(pipe, "sks person")
    expected = pipe.encode_prompt("sks person", None, "cpu", 1, False)
    torch.testing.assert_close(text, expected[0][0])
    torch.testing.assert_close(conditions["text_embeds"], expected[2][0])
    assert conditions["time_ids"].tolist() == [64, 64, 0, 0, 64, 64]
    base = pipe("sks person", generator=seeded(), **FAST).images
    alone = []
    for name in ("p0", "p1"):
        pipe.identity = name
        alone.append(pipe("sks person", generator=seeded(), **FAST).images[0])
    assert np.abs(alone[0] - base[0]).max() > 1e-3
    pipe.identity = ["p0", "p1"]
    np.testing.assert_allclose(pipe("sks person", generator=seeded(2), **FAST).images, alone, atol=1e-4)
    pipe.identity = None
    np.testing.assert_array_equal(pipe("sks person", generator=seeded(), **FAST).images, base)
    found = pipe.invert(alone[0], num_steps=5)
    assert len(found.losses) == 5
    assert np.isfinite(found.point.coefficients).all()


def test_sdxl_is_told_the_height_before_the_width(xl: StableDiffusionXLPipeline, xl_space: WeightSpace) -> None:
    pipe = W2WXL.from_pipe(xl, space=xl_space)
    try:
        pipe.unet.register_to_config(sample_size=(8, 12))
        _, conditions = encode_text(pipe, "sks person")
    finally:
        pipe.unet.register_to_config(sample_size=8)
    assert conditions["time_ids"].tolist() == [64, 96, 0, 0, 64, 96]


def test_sdxl_is_refused_for_stable_diffusion_naming_what_fits(
    xl: StableDiffusionXLPipeline, tiny_space: Path, tmp_path: Path
) -> None:
    subject = "StableDiffusionXLPipeline.* W2WPipeline"
    with pytest.raises(BaseModelMismatchError, match=subject):
        W2WPipeline.from_pipe(xl)
    xl.save_pretrained(tmp_path / "xl")
    with pytest.raises(BaseModelMismatchError, match=subject):
        W2WPipeline.from_base(tmp_path / "xl", WeightSpace.from_pretrained(tiny_space))
