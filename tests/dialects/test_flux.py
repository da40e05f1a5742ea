from __future__ import annotations

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2w_hub import Adapter, read_adapter
from w2w_hub.errors import UnsupportedFormatError

WIDTH = 3072  # diffusers' converter knows no other
DOUBLE = {
    "img_attn_proj": (WIDTH, WIDTH), "img_attn_qkv": (WIDTH, 3 * WIDTH), "txt_attn_proj": (WIDTH, WIDTH),
    "txt_attn_qkv": (WIDTH, 3 * WIDTH), "img_mlp_0": (WIDTH, 4 * WIDTH), "img_mlp_2": (4 * WIDTH, WIDTH),
    "txt_mlp_0": (WIDTH, 4 * WIDTH), "txt_mlp_2": (4 * WIDTH, WIDTH), "img_mod_lin": (WIDTH, 6 * WIDTH),
    "txt_mod_lin": (WIDTH, 6 * WIDTH),
}  # fmt: skip
SINGLE = {"linear1": (WIDTH, 7 * WIDTH), "linear2": (5 * WIDTH, WIDTH), "modulation_lin": (WIDTH, 3 * WIDTH)}
OUTSIDE = {
    "img_in": (64, WIDTH), "txt_in": (4096, WIDTH), "time_in_in_layer": (256, WIDTH),
    "time_in_out_layer": (WIDTH, WIDTH), "vector_in_in_layer": (768, WIDTH), "vector_in_out_layer": (WIDTH, WIDTH),
    "guidance_in_in_layer": (256, WIDTH), "guidance_in_out_layer": (WIDTH, WIDTH),
}  # fmt: skip
LAST = {"final_layer_linear": (WIDTH, 64), "final_layer_adaLN_modulation_1": (WIDTH, 2 * WIDTH)}


def flux(names: dict[str, tuple[int, int]], rank: int = 2) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.normal(size=(rank, inputs)).astype(np.float32),
            rng.normal(size=(outputs, rank)).astype(np.float32),
        )
        for name, (inputs, outputs) in names.items()
    }


def all_names() -> dict[str, tuple[int, int]]:
    blocks = {f"double_blocks_{i}_{n}": s for i in (0, 18) for n, s in DOUBLE.items()}
    return blocks | {f"single_blocks_{i}_{n}": s for i in (3, 37) for n, s in SINGLE.items()} | OUTSIDE | LAST


def assert_same_products(adapter: Adapter, theirs: dict[str, np.ndarray]) -> None:
    """The same modules as in a state dict of diffusers, whose dW times a vector is the same."""
    modules = {k.removesuffix(".lora_A.weight") for k in theirs if k.endswith(".lora_A.weight")}
    assert {t.module for t in adapter.factors} == {m.removeprefix("transformer.") for m in modules}
    for target, pair in adapter.factors.items():
        name = next(m for m in (f"transformer.{target.module}", target.module) if m in modules)
        a, b = theirs[f"{name}.lora_A.weight"], theirs[f"{name}.lora_B.weight"]
        probe = np.random.default_rng(1).normal(size=a.shape[1])
        expected = b.astype(np.float64) @ (a @ probe)
        found = pair.scale * (pair.B.astype(np.float64) @ (pair.A @ probe))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def converted(convert, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import torch

    return {k: v.numpy() for k, v in convert({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}).items()}


def test_kohyas_flux_is_read_with_the_change_that_diffusers_makes(tmp_path):
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    tensors = {}
    for name, (a, b) in flux(all_names()).items():
        alpha = 2 if name in LAST else 8  # diffusers drops the alpha of the last layer
        tensors |= {
            f"lora_unet_{name}.lora_down.weight": a,
            f"lora_unet_{name}.lora_up.weight": b,
            f"lora_unet_{name}.alpha": np.array(alpha, np.float32),
        }
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert adapter.dialect == "kohya"
    assert len(adapter.factors) == 2 * 14 + 2 * 6 + 10
    assert_same_products(adapter, converted(_convert_kohya_flux_lora_to_diffusers, tensors))


def dotted_name(name: str) -> str:
    """As Black Forest Labs' own module paths are."""
    name = re.sub(r"_blocks_(\d+)_", r"_blocks.\1.", name)
    for part in ("img_attn", "txt_attn", "img_mlp", "txt_mlp", "img_mod", "txt_mod", "modulation"):
        name = name.replace(f"{part}_", f"{part}.")
    return re.sub(r"^(time_in|vector_in|guidance_in|final_layer)_", r"\1.", name).replace(
        "modulation_1", "modulation.1"
    )


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
def test_black_forest_labs_dotted_names_mean_the_same_as_kohyas(tmp_path, prefix):
    names = all_names()
    dots = {name: dotted_name(name) for name in names}
    kohya, dotted = {}, {f"{prefix}double_blocks.0.img_attn.norm.key_norm.scale": np.ones(128, np.float32)}
    for name, (a, b) in flux(names).items():
        kohya |= {f"lora_unet_{name}.lora_down.weight": a, f"lora_unet_{name}.lora_up.weight": b}
        dotted |= {f"{prefix}{dots[name]}.lora_A.weight": a, f"{prefix}{dots[name]}.lora_B.weight": b}
    save_file(kohya, tmp_path / "kohya.safetensors")
    save_file(dotted, tmp_path / "bfl.safetensors")
    one, other = read_adapter(tmp_path / "kohya.safetensors"), read_adapter(tmp_path / "bfl.safetensors")
    assert (other.dialect, len(other.ignored_keys)) == ("flux-bfl", 1)
    assert one.factors.keys() == other.factors.keys()
    for target, pair in one.factors.items():
        np.testing.assert_array_equal(other.factors[target].A, pair.A)
        np.testing.assert_array_equal(other.factors[target].B, pair.B)


def test_xlabs_flux_is_read_with_the_change_that_diffusers_makes(tmp_path):
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    names = {
        f"double_blocks.0.processor.{n}_lora{i}": (WIDTH, WIDTH * (3 if n == "qkv" else 1))
        for n in ("qkv", "proj")
        for i in (1, 2)
    }
    names |= {
        "single_blocks.1.processor.qkv_lora": (WIDTH, 3 * WIDTH),
        "single_blocks.1.processor.proj_lora": (5 * WIDTH, WIDTH),
    }
    tensors = {}
    for name, (a, b) in flux(names).items():
        tensors |= {f"{name}.down.weight": a, f"{name}.up.weight": b}
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert adapter.dialect == "flux-xlabs"
    assert_same_products(adapter, converted(_convert_xlabs_flux_lora_to_diffusers, tensors))


def kohya(names: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Tensors of rank 1 in kohya's spelling; only their shapes matter."""
    return {
        f"lora_unet_{name}.lora_{half}.weight": np.zeros(shape, np.float32)
        for name, (inputs, outputs) in names.items() for half, shape in (("down", (1, inputs)), ("up", (outputs, 1)))
    }  # fmt: skip


def refused(tmp_path, tensors: dict[str, np.ndarray], **metadata: str) -> str:
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata or None)
    with pytest.raises(UnsupportedFormatError) as caught:
        read_adapter(tmp_path / "a.safetensors")
    return str(caught.value)


EVERY_NAME = {f"double_blocks_0_{n}": s for n, s in DOUBLE.items()} | {
    f"single_blocks_0_{n}": s for n, s in SINGLE.items()
} | OUTSIDE | LAST  # fmt: skip


@pytest.mark.parametrize("side", [0, 1], ids=["inputs", "outputs"])
@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_module_with_another_width_than_fluxs_is_refused_in_both_spellings(tmp_path, name, side):
    sizes = list(EVERY_NAME[name])
    sizes[side] += 3 * WIDTH  # that of FLUX.2's MLPs
    beside = {"double_blocks_1_img_mod_lin": EVERY_NAME["double_blocks_0_img_mod_lin"]}
    tensors = kohya({name: (sizes[0], sizes[1])} | beside)
    dotted = {
        key.replace(f"lora_unet_{n}", f"diffusion_model.{dotted_name(n)}")
        .replace("lora_down", "lora_A").replace("lora_up", "lora_B"): value
        for n in (name, *beside) for key, value in tensors.items() if key.startswith(f"lora_unet_{n}.")
    }  # fmt: skip
    for spelled in (tensors, dotted):
        assert f"{sizes[0]} inputs and {sizes[1]} outputs" in refused(tmp_path, spelled)


@pytest.mark.parametrize("inputs", [64, 128, 384])
def test_the_first_layer_of_fluxs_tools_takes_a_picture_or_a_mask_besides(tmp_path, inputs):
    save_file(
        kohya({"img_in": (inputs, WIDTH), "double_blocks_0_img_mod_lin": (WIDTH, 6 * WIDTH)}),
        tmp_path / "a.safetensors",
    )
    assert len(read_adapter(tmp_path / "a.safetensors").factors) == 2


DIFFUSERS = {
    "single_transformer_blocks.0.attn.to_q": (1, 1), "single_transformer_blocks.0.proj_mlp": (1, 4),
    "single_transformer_blocks.0.proj_out": (5, 1), "single_transformer_blocks.0.norm.linear": (1, 3),
    "transformer_blocks.0.attn.to_add_out": (1, 1), "transformer_blocks.0.ff.net.0.proj": (1, 4),
    "transformer_blocks.0.ff_context.net.2": (4, 1), "transformer_blocks.0.norm1_context.linear": (1, 6),
}  # fmt: skip


@pytest.mark.parametrize("spelling", ["diffusers", "peft", "onetrainer"])
def test_in_diffusers_names_too_only_fluxs_widths_are_taken_for_flux(tmp_path, spelling):
    def tensors(sizes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
        front, halves = {
            "diffusers": ("transformer.", ("lora_A", "lora_B")),
            "peft": ("base_model.model.", ("lora_A", "lora_B")),
            "onetrainer": ("lora_transformer_", ("lora_down", "lora_up")),
        }[spelling]
        found = {}
        for name, (ins, outs) in sizes.items():
            path = front + (name.replace(".", "_") if spelling == "onetrainer" else name)
            found |= {f"{path}.{halves[0]}.weight": np.zeros((1, ins), np.float32)}
            found |= {f"{path}.{halves[1]}.weight": np.zeros((outs, 1), np.float32)}
        return found

    for width in (WIDTH, 48):  # and a small model for tests
        good = {name: (i * width, o * width) for name, (i, o) in DIFFUSERS.items()}
        save_file(tensors(good), tmp_path / "a.safetensors")
        assert len(read_adapter(tmp_path / "a.safetensors", alpha=1).factors) == len(DIFFUSERS)
        for name, (inputs, outputs) in good.items():
            for wrong in ((inputs + 8, outputs), (inputs, outputs + 8)):
                save_file(tensors(good | {name: wrong}), tmp_path / "a.safetensors")
                with pytest.raises(UnsupportedFormatError, match=name):
                    read_adapter(tmp_path / "a.safetensors", alpha=1)
    save_file(tensors({name: (i * 6144, o * 6144) for name, (i, o) in DIFFUSERS.items()}), tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match="6144"):
        read_adapter(tmp_path / "a.safetensors", alpha=1)


# HunyuanVideo, as its own code names it, as musubi-tuner writes it, and with attention alone
def test_hunyuan_video_is_never_taken_for_flux(tmp_path):
    attention = {f"double_blocks_{i}_img_attn_qkv": (WIDTH, 3 * WIDTH) for i in range(19)}
    shared = attention | {"single_blocks_0_linear1": (WIDTH, 7 * WIDTH), "single_blocks_0_linear2": (5 * WIDTH, WIDTH)}
    for names in (attention, shared, {"single_blocks_37_linear2": (5 * WIDTH, WIDTH)}):
        assert "HunyuanVideo" in refused(tmp_path, kohya(names))
        for header in ({"modelspec.architecture": "hunyuan-video/lora"}, {"ss_base_model_version": "hunyuan_video"}):
            assert next(iter(header)) in refused(tmp_path, kohya(names | {"img_in": (64, WIDTH)}), **header)
        for header in ({"modelspec.architecture": "flux-1-dev/lora"}, {"ss_network_module": "networks.lora_flux"}):
            save_file(kohya(names), tmp_path / "b.safetensors", metadata=header)
            assert {t.component for t in read_adapter(tmp_path / "b.safetensors").factors} == {"transformer"}
    own = {
        f"diffusion_model.double_blocks.0.img_attn_qkv.lora_{half}.weight": np.zeros(shape, np.float32)
        for half, shape in (("A", (1, WIDTH)), ("B", (3 * WIDTH, 1)))
    }
    assert "Flux.1" in refused(tmp_path, own)


@pytest.mark.parametrize(
    "header", ["flux-2-dev/lora", "flux2", "FLUX.2-klein-4B", "chroma", "flux.1-chroma", "wan2.1", "sd3.5-large"]
)
def test_a_header_that_names_another_model_is_believed(tmp_path, header):
    tensors = kohya({"double_blocks_0_img_mod_lin": (WIDTH, 6 * WIDTH)})
    assert "ss_base_model_version" in refused(tmp_path, tensors, ss_base_model_version=header)


@pytest.mark.parametrize(
    "header", ["flux1", "flux.1_kontext", "flux-1-dev/lora", "Flux.1-Krea-dev", "", "stable-diffusion-v1"]
)
def test_a_header_that_names_flux_or_nothing_is_no_obstacle(tmp_path, header):
    tensors = kohya({"double_blocks_0_img_mod_lin": (WIDTH, 6 * WIDTH)})
    save_file(tensors, tmp_path / "a.safetensors", metadata={"modelspec.architecture": header})
    assert len(read_adapter(tmp_path / "a.safetensors").factors) == 1


@pytest.mark.parametrize("front", ["diffusion_model.", "", "transformer.", "lora_unet_"])
@pytest.mark.parametrize(
    "name",
    ["double_stream_modulation_img.lin", "distilled_guidance_layer.layers.0.in_layer", "single_stream_modulation.lin",
     "txt_in.individual_token_refiner.blocks.0.mlp.fc1", "time_in.mlp.0"],
)  # fmt: skip
def test_flux_2_and_chroma_with_their_own_modules_are_of_another_model_not_of_several_files(tmp_path, front, name):
    tensors = kohya({"double_blocks_0_img_mod_lin": (WIDTH, 6 * WIDTH)} if front == "lora_unet_" else {})
    if not tensors:
        tensors = {
            f"{front}double_blocks.0.img_attn.qkv.lora_{half}.weight": np.zeros(shape, np.float32)
            for half, shape in (("A", (1, WIDTH)), ("B", (3 * WIDTH, 1)))
        }
        tensors |= {f"{front}{name}.lora_{half}.weight": np.zeros((2, 2), np.float32) for half in "AB"}
    else:
        tensors |= {
            f"{front}{name.replace('.', '_')}.lora_{h}.weight": np.zeros((2, 2), np.float32) for h in ("down", "up")
        }
    assert name.partition(".")[0] in refused(tmp_path, tensors)


T5 = {"encoder_block_0_layer_0_SelfAttention_q": (8, 8), "encoder_block_23_layer_1_DenseReluDense_wi_0": (8, 16)}


def text(part: str, names: dict[str, tuple[int, int]] = T5) -> dict[str, np.ndarray]:
    return {key.replace("lora_unet", f"lora_{part}"): value for key, value in kohya(names).items()}


def test_the_t5_of_kohyas_flux_is_the_second_text_encoder_and_that_of_sd3_the_third(tmp_path):
    blocks = kohya({"single_blocks_0_modulation_lin": (WIDTH, 3 * WIDTH)})
    clip = text("te1", {"text_model_encoder_layers_0_mlp_fc1": (6, 6)})
    second = text("te2", {"text_model_encoder_layers_0_mlp_fc1": (6, 6)})

    def components(tensors, options=None, **metadata) -> set[str]:
        save_file(tensors, tmp_path / "a.safetensors", metadata=metadata or None)
        return {t.component for t in read_adapter(tmp_path / "a.safetensors", **(options or {})).factors}

    assert components(blocks | clip | text("te3")) == {"transformer", "text_encoder", "text_encoder_2"}
    assert components(blocks | text("te2")) == {"transformer", "text_encoder_2"}  # the first versions' number
    assert components(clip | second | text("te3")) == {"text_encoder", "text_encoder_2", "text_encoder_3"}
    assert components(clip | text("te3"), ss_network_module="networks.lora_flux") == {"text_encoder", "text_encoder_2"}
    assert components(text("te3"), {"component": "text_encoder_3"}) == {"text_encoder_3"}
    assert components(text("te3"), {"component": "text_encoder_2"}) == {"text_encoder_2"}
    assert components(text("te3"), **{"modelspec.architecture": "stable-diffusion-3.5-large/lora"}) == {
        "text_encoder_3"
    }
    assert "lora_te3" in refused(tmp_path, clip | text("te3"))
    assert "lora_te2" in refused(tmp_path, blocks | second)  # Flux.1 has no second CLIP
    assert "lora_te3" in refused(tmp_path, blocks | text("te3", {"text_model_encoder_layers_0_mlp_fc1": (6, 6)}))


def test_a_block_that_flux_does_not_have_is_refused(tmp_path):
    pair = {
        f"lora_unet_double_blocks_19_img_mlp_0.lora_{h}.weight": np.ones((2, 2), np.float32) for h in ("down", "up")
    }
    save_file(pair, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match="double_blocks_19_img_mlp_0"):
        read_adapter(tmp_path / "a.safetensors")
