"""Each dialect against the library that owns it: what it writes is read alike, what is written it opens alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.dialects.stock import (
    add_to_text_encoder,
    assert_same_change,
    deltas_by_diffusers,
    deltas_in,
    linear_modules,
    load_pipeline,
    picture,
    random_adapter,
)
from tests.tiny_world import make_base
from w2w_hub import Adapter, read_adapter, write_adapter
from w2w_hub.dialects import recognize
from w2w_hub.lora.adapter import Target

UNET = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
)  # fmt: skip
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as these are slowed down by threads that wait for one another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    make_base(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(base: Path) -> Any:
    return load_pipeline(base)


@pytest.fixture(scope="module")
def everything(pipe: Any) -> Adapter:
    """Attention, feed-forward, convolutions and the text encoder, with ranks and scales that differ."""
    shapes = linear_modules(pipe.unet, "unet", UNET + CONVOLUTIONS)
    shapes |= linear_modules(pipe.text_encoder, "text_encoder", TEXT)
    return random_adapter(shapes, ranks=(2, 3, 1), scales=(4.0, 0.5))


@pytest.fixture(scope="module")
def attention(pipe: Any) -> Adapter:
    shapes = linear_modules(pipe.unet, "unet", UNET[:4])
    return random_adapter(shapes | linear_modules(pipe.text_encoder, "text_encoder", TEXT[:4]), scales=(1.0,))


def expected_of(adapter: Adapter) -> dict[Target, np.ndarray]:
    return {target: pair.delta() for target, pair in adapter.factors.items()}


# ------------------------------------------------------------- they write, we read
@pytest.mark.parametrize("with_metadata", [True, False], ids=["metadata", "without metadata"])
def test_what_diffusers_saves_now_is_read_with_the_change_it_makes(pipe, tmp_path, with_metadata):
    import torch
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    alpha = 6 if with_metadata else 2  # without metadata diffusers itself forgets an alpha
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_q", "to_v", "ff.net.2", "conv1"])
    try:
        pipe.unet.add_adapter(config)
        add_to_text_encoder(pipe, LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj", "fc1"]))
        for model in (pipe.unet, pipe.text_encoder):
            for name, value in model.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(value.data)
        extra = {}
        if with_metadata:
            extra["unet_lora_adapter_metadata"] = pipe.unet.peft_config["default"].to_dict()
            extra["text_encoder_lora_adapter_metadata"] = pipe.text_encoder.peft_config["default"].to_dict()
        StableDiffusionPipeline.save_lora_weights(
            tmp_path / "lora",
            unet_lora_layers=get_peft_model_state_dict(pipe.unet),
            text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder),
            **extra,
        )
        pipe.unet.save_lora_adapter(tmp_path / "unet-only", adapter_name="default")
        expected = deltas_in(pipe)
    finally:
        pipe.unload_lora_weights()
    adapter = read_adapter(tmp_path / "lora")
    assert adapter.dialect == "diffusers"
    assert_same_change(adapter, expected)
    alone = read_adapter(tmp_path / "unet-only")
    assert_same_change(alone, {t: d for t, d in expected.items() if t.component == "unet"})
    assert (
        ["lora_adapter_metadata" in place for place in adapter.metadata["scale_from"]] == [True] * 2
        if with_metadata
        else [False]
    )


def old_keys(adapter: Adapter, *, prefix: bool, text: str) -> dict[str, np.ndarray]:
    """The attention layers as diffusers 0.17 to 0.21 named them; `text` is the text encoder's spelling."""
    tensors = {}
    for target, pair in adapter.factors.items():
        parent, _, name = target.module.removesuffix(".0").rpartition(".")
        if target.component == "unet":
            stem = f"{'unet.' if prefix else ''}{parent}.processor.{name}_lora"
        elif text == "to_q_lora":
            old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}[name]
            stem = f"text_encoder.{parent}.{old}_lora"
        else:
            stem = f"text_encoder.{target.module}.lora_linear_layer"
        tensors |= {f"{stem}.down.weight": pair.A, f"{stem}.up.weight": pair.B}
    return tensors


@pytest.mark.parametrize("text", ["to_q_lora", "lora_linear_layer"])
def test_old_attention_processors_are_read_with_the_change_diffusers_makes(pipe, attention, tmp_path, text):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(old_keys(attention, prefix=True, text=text), file)
    adapter = read_adapter(file)
    assert adapter.dialect == "diffusers-attn-processor"
    assert adapter.metadata["scale_from"] == ["the dialect's only scale: it has no alpha"]
    assert_same_change(adapter, deltas_by_diffusers(pipe, file))


def test_old_attention_processors_without_a_prefix_are_the_unets(attention, tmp_path):
    unet = {t: p for t, p in attention.factors.items() if t.component == "unet"}
    save_file(old_keys(Adapter(unet), prefix=False, text=""), tmp_path / "a.safetensors")
    assert_same_change(read_adapter(tmp_path / "a.safetensors"), expected_of(Adapter(unet)))


def test_lora_down_and_up_beside_lora_linear_layer_are_read_with_the_change_diffusers_makes(pipe, everything, tmp_path):
    tensors = {}
    for target, pair in everything.factors.items():
        if pair.kernel:
            continue
        layer = "lora" if target.component == "unet" else "lora_linear_layer"
        tensors |= {f"{target}.{layer}.down.weight": pair.A, f"{target}.{layer}.up.weight": pair.B}
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, file)
    adapter = read_adapter(tmp_path)
    assert (adapter.dialect, {p.scale for p in adapter.factors.values()}) == ("diffusers", {1.0})
    assert_same_change(adapter, deltas_by_diffusers(pipe, file))


def kohya_keys(adapter: Adapter, text: str = "te") -> dict[str, np.ndarray]:
    """kohya's names by its own rule: dots become underscores, and alpha is a tensor without axes."""
    tensors = {}
    for target, pair in adapter.factors.items():
        part = "unet" if target.component == "unet" else text
        name = f"lora_{part}_{target.module.replace('.', '_')}"
        a, b = pair.A, pair.B
        if pair.kernel:
            a, b = a.reshape(pair.rank, -1, *pair.kernel), b.reshape(*b.shape, 1, 1)
        alpha = np.array(pair.scale * pair.rank, np.float32)
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": alpha}
    return tensors


@pytest.mark.parametrize("text", ["te", "te1"])
def test_kohya_files_with_their_own_ranks_and_alphas_are_read_with_the_change_diffusers_makes(
    pipe, everything, tmp_path, text
):
    file = tmp_path / "kohya.safetensors"
    save_file(kohya_keys(everything, text), file)
    adapter = read_adapter(file)
    assert adapter.dialect == "kohya"
    assert_same_change(adapter, expected_of(everything), rtol=1e-6)
    # diffusers mixes up alphas where ranks differ, so it is asked about one rank and alpha
    plain = random_adapter({t: p.weight_shape for t, p in everything.factors.items()}, scales=(4.0,))
    save_file(kohya_keys(plain, text), file)
    assert_same_change(read_adapter(file), deltas_by_diffusers(pipe, file))


def test_what_diffusers_converts_to_kohya_is_read_with_the_alpha_it_wrote(attention, tmp_path):
    import torch
    from diffusers.utils import convert_state_dict_to_kohya

    peft = {}
    for target, pair in attention.factors.items():
        peft[f"{target}.lora_A.weight"], peft[f"{target}.lora_B.weight"] = map(torch.from_numpy, (pair.A, pair.B))
    tensors = {k: v.numpy() for k, v in convert_state_dict_to_kohya(peft).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert adapter.dialect == "kohya"
    assert_same_change(adapter, expected_of(attention))


# ------------------------------------------------------------- we write, they open
def test_the_diffusers_file_of_everything_is_opened_with_its_change_and_changes_the_picture(pipe, everything, tmp_path):
    write_adapter(everything, tmp_path / "lora", ("diffusers",))
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    assert_same_change(everything, deltas_by_diffusers(pipe, file))
    base = picture(pipe)
    pipe.load_lora_weights(tmp_path / "lora", local_files_only=True)
    try:
        assert np.abs(picture(pipe) - base).max() > 0.01
    finally:
        pipe.unload_lora_weights()
    np.testing.assert_array_equal(picture(pipe), base)


@pytest.mark.parametrize("with_metadata", [True, False])
def test_a_diffusers_file_with_a_text_encoder_means_the_same_with_and_without_metadata(
    pipe, attention, tmp_path, with_metadata
):
    scaled = Adapter({t: type(p)(p.A, p.B, 13.5, p.kernel) for t, p in attention.factors.items()})
    write_adapter(scaled, tmp_path / "lora", ("diffusers",))
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    if not with_metadata:
        save_file(load_file(file), file)
    assert_same_change(scaled, deltas_by_diffusers(pipe, file))


def test_the_kohya_file_is_opened_by_diffusers_with_its_true_alpha_and_changes_the_picture(pipe, everything, tmp_path):
    plain = random_adapter({t: p.weight_shape for t, p in everything.factors.items()}, scales=(8.0,))
    write_adapter(plain, tmp_path / "lora", ("kohya",))
    file = tmp_path / "lora" / "kohya_lora.safetensors"
    assert {float(v) for k, v in load_file(file).items() if k.endswith(".alpha")} == {16.0}
    assert_same_change(plain, deltas_by_diffusers(pipe, file))
    base = picture(pipe)
    pipe.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    try:
        assert np.abs(picture(pipe) - base).max() > 0.01
    finally:
        pipe.unload_lora_weights()


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_the_peft_folder_of_each_model_is_opened_by_peft_with_its_change(base, everything, tmp_path, component):
    from peft import PeftModel

    mine = Adapter({t: p for t, p in everything.factors.items() if t.component == component})
    write_adapter(mine, tmp_path / "lora", ("peft",))
    pipe = load_pipeline(base)
    before = picture(pipe)
    model = PeftModel.from_pretrained(getattr(pipe, component), tmp_path / "lora")
    setattr(pipe, component, model.get_base_model())
    assert_same_change(mine, deltas_in(pipe))
    assert np.abs(picture(pipe) - before).max() > 1e-3


# ------------------------------------------------------------- round trips
@pytest.mark.parametrize("dialect", ["peft", "diffusers", "kohya"])
def test_what_is_written_is_read_back_with_the_same_change(everything, tmp_path, dialect):
    adapter = everything
    if dialect == "peft":
        adapter = Adapter({t: p for t, p in everything.factors.items() if t.component == "unet"})
    write_adapter(adapter, tmp_path / "lora", (dialect,))
    assert recognize(tmp_path / "lora").name == dialect
    again = read_adapter(tmp_path / "lora")
    assert {t: p.size for t, p in again.factors.items()} == {t: p.size for t, p in adapter.factors.items()}
    assert_same_change(again, expected_of(adapter), rtol=1e-6)
    if dialect != "diffusers":
        for target, pair in adapter.factors.items():
            np.testing.assert_array_equal(again.factors[target].A, pair.A)
            np.testing.assert_array_equal(again.factors[target].B, pair.B)
            assert again.factors[target].scale == pair.scale


def test_a_peft_text_encoder_of_transformers_5_is_read_under_the_canonical_path(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, projection_dim=8,
    )  # fmt: skip
    model = get_peft_model(CLIPTextModel(config), LoraConfig(r=2, target_modules=["q_proj", "fc2"]))
    model.save_pretrained(tmp_path / "lora")
    keys = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight" in keys
    assert [str(t) for t in sorted(read_adapter(tmp_path / "lora").factors, key=lambda t: t.sort_key)] == [
        f"text_encoder.text_model.encoder.layers.{i}.{name}" for i in (0, 1) for name in ("mlp.fc2", "self_attn.q_proj")
    ]


def written(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_all_three_writers_share_a_folder(attention, tmp_path):
    unet = Adapter({t: p for t, p in attention.factors.items() if t.component == "unet"})
    write_adapter(unet, tmp_path / "lora", ("peft", "diffusers", "kohya"))
    assert written(tmp_path / "lora") == [
        "adapter_config.json", "adapter_model.safetensors", "kohya_lora.safetensors",
        "pytorch_lora_weights.safetensors",
    ]  # fmt: skip
    for name in written(tmp_path / "lora")[1:]:
        assert_same_change(read_adapter(tmp_path / "lora" / name), expected_of(unet))
