from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub.dialects.names import dotted, is_module, target_of
from w2w_hub.dialects.sgm import is_sgm, sgm_name, unet_path
from w2w_hub.lora.adapter import Target

SD15 = {"cross_attention_dim": 768, "block_out_channels": (320, 640, 1280, 1280)}
SDXL = {
    "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
}  # fmt: skip


def modules(**config) -> list[str]:
    """Every Linear and convolution of a UNet, which costs no memory on the meta device."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return [n for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]


@pytest.fixture(scope="module")
def sd15() -> list[str]:
    return modules(**SD15)


@pytest.fixture(scope="module")
def sdxl() -> list[str]:
    return modules(**SDXL)


def test_every_module_of_sd15_and_sdxl_comes_back_from_its_underscored_name(sd15, sdxl):
    assert (len(sd15), len(sdxl)) == (282, 794)
    for path in sd15 + sdxl:
        assert dotted("unet", path.replace(".", "_")) == path


def test_every_module_of_sdxl_has_a_name_in_stabilitys_numbering_that_diffusers_undoes_to_the_same_module(sdxl):
    from types import SimpleNamespace

    from diffusers.loaders.lora_conversion_utils import (
        _convert_unet_lora_key,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    names = {path: f"lora_unet_{sgm_name(path)}" for path in sdxl}
    assert len(set(names.values())) == len(sdxl)
    mapped = _maybe_map_sgm_blocks_to_diffusers(
        {f"{name}.lora_down.weight": path for path, name in names.items()}, SimpleNamespace(layers_per_block=2)
    )
    for key, path in mapped.items():
        theirs = _convert_unet_lora_key(key).replace(".processor", "").replace("to_out_lora", "to_out.0.lora")
        theirs = theirs.removesuffix(".down.weight").removesuffix("_lora").removesuffix(".lora")
        assert theirs == path
    for path, name in names.items():
        assert is_sgm(name.removeprefix("lora_unet_"))
        assert unet_path(name.removeprefix("lora_unet_")) == path


REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536), "cross_attention_dim": 1280, "transformer_layers_per_block": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (6, 12, 24, 24), "projection_class_embeddings_input_dim": 2560,
}  # fmt: skip
OTHERS = {
    "Stable Diffusion 2.1": SD15 | {"cross_attention_dim": 1024, "use_linear_projection": True},
    "the refiner of SDXL": REFINER,
    "a distilled one": SDXL | {"time_cond_proj_dim": 256},
    "a small one": {
        "block_out_channels": (8, 16, 16), "layers_per_block": 3, "cross_attention_dim": 12, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": 11,
    },
    "seven blocks": {
        "block_out_channels": (8,) * 7, "cross_attention_dim": 12, "norm_num_groups": 4, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 7, "up_block_types": ("CrossAttnUpBlock2D",) * 7,
    },
    "with classes": SD15 | {"class_embed_type": "timestep"},
}  # fmt: skip


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_every_module_of_any_unet_of_stable_diffusion_is_known(config):
    names = modules(**config)
    assert [n for n in names if not is_module("unet", n) or target_of(f"unet.{n}") != Target("unet", n)] == []


def test_every_module_of_clip_and_t5_is_known_and_no_other(sd15):
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    with torch.device("meta"):
        clip = CLIPTextModelWithProjection(CLIPTextConfig(num_hidden_layers=2))
        t5 = T5EncoderModel(T5Config(num_layers=2, feed_forward_proj="gated-gelu"))
    for model in (clip, t5):
        names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        assert len(names) >= 13
        assert [n for n in names if target_of(f"text_encoder_2.{n}") is None] == []
    for name in (*sd15[:9], "text_model.encoder.layers.0.self_attn.qq_proj", "encoder.block.0.layer.2.SelfAttention.z"):
        assert target_of(f"text_encoder.{name}") is None


def test_the_motion_modules_of_animatediff_are_no_modules_of_a_unet():
    import torch
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        unet = UNetMotionModel(
            block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        )  # fmt: skip
    names = [n for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    motion = [n for n in names if "motion_modules" in n]
    assert len(motion) > 20
    assert [n for n in names if is_module("unet", n) == (n in motion)] == []


BLOCK = "mid_block.attentions.0.transformer_blocks.0"


@pytest.mark.parametrize(
    "path",
    [
        f"{BLOCK}.attn1.to_qq", f"{BLOCK}.attn3.to_q", f"{BLOCK}.attn1.processor.to_q", f"{BLOCK}.attn1.to_out",
        f"{BLOCK}.norm1", f"{BLOCK}.ff.net.1", f"{BLOCK}.attn1.to_q\n", f"{BLOCK}.attn1",
        "mid_block.attentions.0.attn1.to_q",
        "down_blocks.9.attentions.0.proj_in", "down_blocks.00.attentions.0.proj_in", "up_blocks.8.resnets.0.conv1",
        "mid_block.downsamplers.0.conv", "down_blocks.0.upsamplers.0.conv", "down_blocks.0.downsamplers.1.conv",
        "mid_block.to_q", "blocks.0.to_q", "down_blocks.0.temp_attentions.0.proj_in", "conv_norm_out", "conv_in.x",
        "down_blocks.0.resnets.0.spatial_res_block.conv1", "time_embedding", "down_blocks.\u0660.attentions.0.proj_in",
    ],
)  # fmt: skip
def test_a_dotted_path_that_no_unet_of_stable_diffusion_has_is_not_placed(path):
    for front in ("unet.", ""):
        assert target_of(front + path, "unet") is None


def test_a_transformers_attention_has_the_projections_that_diffusers_gives_it():
    for name in ("to_q", "to_out.0", "add_k_proj", "to_add_out"):
        assert is_module("transformer", f"transformer_blocks.3.attn.{name}")
    for name in ("to_qq", "q_proj", "to_out.1", "add_q"):
        assert not is_module("transformer", f"transformer_blocks.3.attn.{name}")
        assert not is_module("transformer", f"single_transformer_blocks.3.attn.{name}")
    assert is_module("transformer", "blocks.0.attn1.to_q")  # of a model whose names are not listed here


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),  # SD 1.x: no attention before it
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_11_1_proj_out", "up_blocks.3.attentions.2.proj_out"),
        ("middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        ("out_2", "conv_out"),
    ],
)
def test_numbers_outside_sdxl_are_stabilitys_too(name, path):
    assert unet_path(name) == path


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks_0_1_proj_in", "input_blocks_3_1_proj_in", "input_blocks_2_0_op", "output_blocks_1_2_conv",
        "middle_block_3_proj_in", "input_blocks_1_0_in_layers_0", "input_blocks_01_1_proj_in", "out_0",
        "down_blocks_0_attentions_0_transformer_blocks_0_attn3_to_q", "down_blocks_0_attentions_00_proj_in",
        "mid_block_resnets_0_norm1", "blocks_0_cross_attn_q_proj", "", "_", "down_blocks",
    ],
)  # fmt: skip
def test_a_name_that_no_module_has_is_not_placed(name):
    assert unet_path(name) is None


@given(name=st.text(max_size=40))
def test_no_text_breaks_the_grammar(name):
    for component in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        path = dotted(component, name)
        assert path is None or path.removeprefix("text_model.").replace(".", "_") == name.removeprefix("text_model_")


@pytest.mark.parametrize(
    ("path", "component", "target"),
    [
        ("unet.mid_block.attentions.0.proj_in", None, ("unet", "mid_block.attentions.0.proj_in")),
        ("unet.mid_block.to_q", None, None),
        ("text_encoder.encoder.layers.3.mlp.fc1", None, ("text_encoder", "text_model.encoder.layers.3.mlp.fc1")),
        (
            "encoder.layers.0.self_attn.q_proj", "text_encoder_2",
            ("text_encoder_2", "text_model.encoder.layers.0.self_attn.q_proj"),
        ),
        ("text_model.encoder.layers.0.mlp.fc2", None, ("text_encoder", "text_model.encoder.layers.0.mlp.fc2")),
        ("model.layers.0.q_proj", None, None),
        ("encoder.layers.0.q_proj", None, None),
    ],
)  # fmt: skip
def test_a_dotted_path_is_placed_by_its_prefix_its_first_name_or_what_was_stated(path, component, target):
    assert target_of(path, component) == (None if target is None else Target(*target))
