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
    assert (other.dialect, len(other.passengers)) == ("flux-bfl", 1)
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


@pytest.mark.parametrize("name", ["lora_unet_single_blocks_0_linear1", "lora_unet_double_blocks_0_img_attn_qkv"])
def test_a_model_with_fluxs_names_and_other_sizes_is_refused(tmp_path, name):
    a, b = np.ones((2, 6), np.float32), np.ones((54, 2), np.float32)
    save_file({f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match=r"has 6 inputs and 54 outputs, Flux.1 has"):
        read_adapter(tmp_path / "a.safetensors")


def test_a_block_that_flux_does_not_have_is_refused(tmp_path):
    pair = {
        f"lora_unet_double_blocks_19_img_mlp_0.lora_{h}.weight": np.ones((2, 2), np.float32) for h in ("down", "up")
    }
    save_file(pair, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match="2 keys name no module"):
        read_adapter(tmp_path / "a.safetensors")
