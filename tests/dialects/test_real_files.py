"""Checkpoints from the wild, each compared with the tensors in its own file, read by safetensors itself."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from w2w_hub import ParameterLayout, read_adapter
from w2w_hub.dialects import read_deltas
from w2w_hub.errors import NotACheckpointError, UnsupportedFormatError
from w2w_hub.lora.adapter import Target

pytestmark = pytest.mark.fixtures


def total(adapter) -> float:
    """The sum of all factors, which no order of keys changes."""
    return float(sum(p.A.sum(dtype=np.float64) + p.B.sum(dtype=np.float64) for p in adapter.factors.values()))


@pytest.mark.parametrize(
    ("folder", "dialect", "modules"),
    [
        ("diffusers-attn-processor", "diffusers-attn-processor", 128),
        ("diffusers-lora-down-up", "diffusers", 128),
        ("peft-unet-r4-alpha16", "peft", 128),
        ("peft-text-encoder-r8", "peft", 24),
    ],
)
def test_every_number_of_a_file_is_in_its_adapter(real_lora, folder, dialect, modules):
    path = real_lora(folder)
    tensors = load_file(next(path.glob("*.safetensors")))
    adapter = read_adapter(path)
    assert (adapter.dialect, len(adapter.factors), adapter.ignored_keys) == (dialect, modules, ())
    assert ParameterLayout.from_adapter(adapter).size == sum(t.size for t in tensors.values())
    assert total(adapter) == pytest.approx(sum(float(t.sum(dtype=np.float64)) for t in tensors.values()), rel=1e-9)


def test_an_old_processors_out_projection_is_the_first_of_its_list(real_lora):
    path = real_lora("diffusers-attn-processor")
    tensors = load_file(path / "pytorch_lora_weights.safetensors")
    stem = "up_blocks.3.attentions.2.transformer_blocks.0.attn2"
    pair = read_adapter(path).factors[Target("unet", f"{stem}.to_out.0")]
    np.testing.assert_array_equal(pair.A, tensors[f"{stem}.processor.to_out_lora.down.weight"])
    np.testing.assert_array_equal(pair.B, tensors[f"{stem}.processor.to_out_lora.up.weight"])


def test_kohya_equals_the_peft_folder_it_was_made_from_to_float16_and_both_have_scale_4(real_lora):
    kohya, peft = read_adapter(real_lora("kohya")), read_adapter(real_lora("peft-unet-r4-alpha16"))
    assert {p.scale for a in (kohya, peft) for p in a.factors.values()} == {4.0}
    layout = ParameterLayout.from_adapter(peft)
    assert ParameterLayout.from_adapter(kohya) == layout
    rounded = layout.flatten(peft).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(layout.flatten(kohya), rounded)


@pytest.mark.parametrize(
    ("name", "rank", "vectors"), [("analog_svd_rank4", 4, ()), ("lora_disney_inpainting", 1, ("<s1>", "<s2>"))]
)
def test_cloneofsimos_numbered_files_are_read_completely(real_lora, name, rank, vectors):
    path = real_lora("cloneofsimo") / f"{name}.safetensors"
    tensors = load_file(path)
    adapter = read_adapter(path)
    assert {p.rank for p in adapter.factors.values()} == {rank}
    assert adapter.ignored_keys == vectors
    assert sum(t.component == "unet" for t in adapter.factors) == 144
    assert sum(t.component == "text_encoder" for t in adapter.factors) == 48
    np.testing.assert_array_equal(
        adapter.factors[Target("unet", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj")].B,
        tensors["unet:4:up"],
    )
    last = adapter.factors[Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0")]
    np.testing.assert_array_equal(last.A, tensors["unet:143:down"])


def test_cloneofsimos_list_is_opened_only_when_asked_and_its_embedding_refused_by_name(real_lora):
    folder = real_lora("cloneofsimo")
    adapter = read_adapter(folder / "lora_kiriko2.text_encoder.pt", allow_torch=True)
    assert len(adapter.factors) == 48
    assert {(t.component, p.rank) for t, p in adapter.factors.items()} == {("text_encoder", 4)}
    with pytest.raises(UnsupportedFormatError, match="--allow-torch"):
        read_adapter(folder / "lora_kiriko2.ti.pt")
    with pytest.raises(NotACheckpointError, match="<krk>"):
        read_adapter(folder / "lora_kiriko2.ti.pt", allow_torch=True)


def test_a_real_lokr_gives_the_dense_change_of_every_module_convolutions_included(real_lora):
    folder = real_lora("lycoris")
    tensors = load_file(folder / "smart_falcon_4_lokr.safetensors")
    deltas = read_deltas(folder)
    assert len(deltas) * 5 == len(tensors)
    conv = "up_blocks.3.resnets.0.conv1"
    t = {
        k.partition(".")[2]: v.astype(np.float64)
        for k, v in tensors.items()
        if k.startswith(f"lora_unet_{conv.replace('.', '_')}.")
    }
    expected = np.kron(t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w2_a"] @ t["lokr_w2_b"]) * (4 / 4)
    np.testing.assert_allclose(deltas[Target("unet", conv)], expected.reshape(320, 960, 3, 3), rtol=1e-12)
    assert deltas[Target("unet", "down_blocks.1.resnets.0.conv_shortcut")].shape == (640, 320)
    with pytest.raises(UnsupportedFormatError, match="LoKr"):
        read_adapter(folder)
