from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.conftest import factors
from w2w_hub import Adapter, ParameterLayout, read_adapter, write_adapter
from w2w_hub.dialects import recognize
from w2w_hub.dialects.patterns import PatternTable
from w2w_hub.errors import InvalidInputError, MissingPathError, ScaleConflictError, UnsupportedFormatError
from w2w_hub.lora.adapter import Target

TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
PREFIX = "base_model.model."


def edit_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def pefts_deltas(folder: Path, unet) -> dict[str, np.ndarray]:
    """The change of every adapted weight as the real PEFT makes it."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(unet, folder)
    return {
        name.removeprefix(PREFIX): module.get_delta_weight("default").detach().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def assert_means_the_same_as_in_peft(folder: Path, unet) -> None:
    expected = pefts_deltas(folder, unet)
    adapter = read_adapter(folder)
    assert {str(t) for t in adapter.factors} == {f"unet.{name}" for name in expected}
    for target, pair in adapter.factors.items():
        np.testing.assert_allclose(pair.delta(), expected[target.module], rtol=1e-5, atol=1e-6)


# -------------------------------------------------------- against the real PEFT
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {
            "target_modules": ["to_q", "to_k", "to_out.0"],
            "rank_pattern": {"to_k": 3},
            "alpha_pattern": {"attn2.to_q": 1},
        },
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
        {"target_modules": ["conv1", "conv_in", "proj_in", "conv_shortcut"]},
    ],
    ids=["plain", "rslora", "patterns", "gaussian", "convolutions"],
)
def test_a_folder_of_the_real_peft_is_read_with_the_change_that_peft_makes(peft_folder, tiny_unet, options):
    folder = peft_folder(**options)
    assert recognize(folder).name == "peft"
    assert_means_the_same_as_in_peft(folder, tiny_unet())


def test_the_scale_is_alpha_over_rank_and_with_rslora_over_its_root(peft_folder):
    assert {p.scale for p in read_adapter(peft_folder("a")).factors.values()} == {3.0}
    assert {p.scale for p in read_adapter(peft_folder("b", use_rslora=True)).factors.values()} == {6 / 2**0.5}


def test_a_folder_read_and_written_again_means_the_same_to_peft(peft_folder, tiny_unet, tmp_path):
    before = pefts_deltas(peft_folder(), tiny_unet())
    write_adapter(read_adapter(tmp_path / "lora"), tmp_path / "again", ("peft",))
    after = pefts_deltas(tmp_path / "again", tiny_unet())
    assert before.keys() == after.keys()
    for name, delta in before.items():
        assert np.abs(delta).max() > 0.1
        np.testing.assert_array_equal(after[name], delta)


def test_mixed_ranks_and_scales_are_written_so_that_peft_reads_them(peft_folder, tiny_unet, tmp_path):
    read = read_adapter(peft_folder()).factors
    mixed = {
        t: factors(1 + i % 3, p.A.shape[1], p.B.shape[0], scale=[1.0, 0.3][i % 2], seed=i)
        for i, (t, p) in enumerate(read.items())
    }
    write_adapter(Adapter(mixed), tmp_path / "mixed", ("peft",))
    deltas = pefts_deltas(tmp_path / "mixed", tiny_unet())
    assert {f"unet.{name}" for name in deltas} == {str(t) for t in mixed}
    for target, pair in mixed.items():
        np.testing.assert_allclose(deltas[target.module], pair.delta(), rtol=1e-5, atol=1e-6)
    assert_means_the_same_as_in_peft(tmp_path / "mixed", tiny_unet())


def test_the_flat_vector_of_a_rank_one_folder_is_its_tensors_in_sorted_key_order(peft_folder):
    folder = peft_folder(r=1, lora_alpha=27)
    tensors = load_file(folder / "adapter_model.safetensors")
    adapter = read_adapter(folder)
    layout = ParameterLayout.from_adapter(adapter)
    assert layout.scale == 27
    np.testing.assert_array_equal(
        layout.flatten(adapter), np.concatenate([tensors[k].ravel() for k in sorted(tensors)])
    )


@given(alpha=st.integers(1, 128), rank=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_an_integer_alpha_is_written_as_it_was(tmp_path_factory, alpha, rank):
    folder = tmp_path_factory.mktemp("a") / "lora"
    write_adapter(Adapter({Target("unet", TO_Q): factors(rank, scale=alpha / rank)}), folder, ("peft",))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["alpha_pattern"]) == (rank, alpha, {})
    assert read_adapter(folder).factors[Target("unet", TO_Q)].scale == alpha / rank


# --------------------------------------------------------------- what is in a file
def test_the_adapters_name_in_a_key_is_ignored_as_weights2weights_writes_it(peft_folder):
    plain = read_adapter(peft_folder())
    folder = peft_folder("named")
    edit_weights(folder, lambda ts: {k.replace(".weight", ".identity1.weight"): v for k, v in ts.items()})
    named = read_adapter(folder)
    layout = ParameterLayout.from_adapter(plain)
    np.testing.assert_array_equal(layout.flatten(named), layout.flatten(plain))


def test_the_weights_file_is_read_with_the_config_beside_it(peft_folder):
    folder = peft_folder()
    layout = ParameterLayout.from_adapter(read_adapter(folder))
    np.testing.assert_array_equal(
        layout.flatten(read_adapter(folder / "adapter_model.safetensors")), layout.flatten(read_adapter(folder))
    )


def test_ordinary_weights_that_travel_along_are_reported_and_left_out(peft_folder):
    folder = peft_folder(modules_to_save=["conv_out"])
    adapter = read_adapter(folder)
    assert sorted(adapter.ignored_keys) == [f"{PREFIX}conv_out.bias", f"{PREFIX}conv_out.weight"]
    assert {t.module.rsplit(".", 1)[1] for t in adapter.factors} == {"to_q", "to_v"}


def test_the_base_models_name_is_kept_as_a_hint(peft_folder, tmp_path):
    folder = peft_folder()
    edit_config(folder, base_model_name_or_path="someone/model")
    write_adapter(read_adapter(folder), tmp_path / "again", ("peft",))
    assert read_adapter(tmp_path / "again").base_model == "someone/model"


def test_bfloat16_factors_are_read_as_float32_without_loss(peft_folder):
    import torch
    from safetensors import torch as safetensors_torch

    folder = peft_folder()
    path = folder / "adapter_model.safetensors"
    narrow = {k: v.bfloat16() for k, v in safetensors_torch.load_file(path).items()}
    safetensors_torch.save_file(narrow, path)
    pair = read_adapter(folder).factors[Target("unet", TO_Q)]
    assert pair.A.dtype == pair.B.dtype == np.float32
    np.testing.assert_array_equal(pair.A, narrow[f"{PREFIX}{TO_Q}.lora_A.weight"].to(torch.float32).numpy())


def value_of(pattern: dict[str, int], module: str, default: int) -> int:
    return PatternTable(pattern, "a pattern").value(module, default)


def test_a_pattern_matches_whole_names_at_the_end_of_a_path_as_in_peft():
    assert value_of({"to_q": 7}, "a.attn1.to_q", 1) == 7
    assert value_of({"q": 7}, "a.attn1.to_q", 1) == 1
    assert value_of({"attn1": 7}, "a.attn1.to_q", 1) == 1
    assert value_of({r".*attn[12]\.to_q": 7, "to_q": 8}, "a.attn1.to_q", 1) == 7


# ----------------------------------------------------------------- components
@pytest.mark.parametrize(
    ("path", "target"),
    [
        (f"{PREFIX}down_blocks.0.resnets.0.time_emb_proj", "unet.down_blocks.0.resnets.0.time_emb_proj"),
        (
            f"{PREFIX}text_model.encoder.layers.0.self_attn.q_proj",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
        (f"{PREFIX}transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_q"),
        ("up_blocks.0.attentions.1.proj_out", "unet.up_blocks.0.attentions.1.proj_out"),
        ("unet.conv_in", "unet.conv_in"),
        ("text_encoder_2.text_projection", "text_encoder_2.text_projection"),
    ],
)
def test_the_component_is_known_by_the_module_path_or_a_pipelines_prefix(peft_folder, path, target):
    folder = peft_folder()
    pair = factors()
    edit_weights(folder, lambda _: {f"{path}.lora_A.weight": pair.A, f"{path}.lora_B.weight": pair.B})
    assert [str(t) for t in read_adapter(folder).factors] == [target]


@pytest.mark.parametrize(
    "module", ["model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_attn", "encoder.layers.0.q_proj"]
)
def test_a_module_of_another_kind_of_model_is_refused_not_taken_for_a_unets(peft_folder, module):
    folder = peft_folder()
    pair = factors()
    edit_weights(
        folder, lambda _: {f"{PREFIX}{module}.lora_A.weight": pair.A, f"{PREFIX}{module}.lora_B.weight": pair.B}
    )
    with pytest.raises(UnsupportedFormatError, match=f"{module}.lora_A.weight"):
        read_adapter(folder)


def test_a_text_encoders_adapter_is_written_and_read_back_as_the_text_encoders(tmp_path):
    target = Target("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")
    write_adapter(Adapter({target: factors()}), tmp_path / "lora", ("peft",))
    assert list(read_adapter(tmp_path / "lora").factors) == [target]


def test_two_components_do_not_fit_one_folder(tmp_path):
    both = {Target("unet", TO_Q): factors(), Target("text_encoder", "text_model.x.q_proj"): factors()}
    with pytest.raises(InvalidInputError, match="text_encoder and unet"):
        write_adapter(Adapter(both), tmp_path / "lora", ("peft",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [Target("text_encoder_2", "text_model.x.q_proj"), Target("unet", "blocks.0.to_q")])
def test_a_component_that_would_not_be_read_back_is_not_written(tmp_path, target):
    with pytest.raises(InvalidInputError, match=str(target)):
        write_adapter(Adapter({target: factors()}), tmp_path / "lora", ("peft",))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "LOKR"}, "LOKR"),
        ({"peft_type": None}, "None"),
        ({"use_dora": True}, "use_dora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_qalora": True}, "use_qalora"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
    ],
)
def test_a_config_under_which_the_change_is_no_low_rank_sum_is_refused(peft_folder, options, message):
    folder = peft_folder()
    edit_config(folder, **options)
    with pytest.raises(UnsupportedFormatError, match=message):
        read_adapter(folder)


def test_a_dora_folder_of_the_real_peft_is_refused_even_if_its_config_denies_it(peft_folder):
    folder = peft_folder(use_dora=True)
    with pytest.raises(UnsupportedFormatError, match=r"DoRA.*16"):
        read_adapter(folder)
    edit_config(folder, use_dora=False)
    with pytest.raises(UnsupportedFormatError, match="lora_magnitude_vector"):
        read_adapter(folder)


def test_two_adapters_in_one_file_are_refused_with_their_names(peft_folder):
    folder = peft_folder()
    edit_weights(
        folder,
        lambda ts: {k.replace(".weight", f".{name}.weight"): v for k, v in ts.items() for name in ("ann", "bob")},
    )
    with pytest.raises(UnsupportedFormatError, match=r"ann, bob|bob, ann"):
        read_adapter(folder)


def test_one_module_under_two_names_is_refused(peft_folder):
    folder = peft_folder()
    edit_weights(folder, lambda ts: ts | {k.removeprefix(PREFIX): v + 1 for k, v in ts.items()})
    with pytest.raises(UnsupportedFormatError, match=r"lora_[AB]\.weight"):
        read_adapter(folder)


def test_an_alpha_in_the_file_must_agree_with_the_config(peft_folder):
    folder = peft_folder()
    edit_weights(folder, lambda ts: ts | {f"{PREFIX}{TO_Q}.alpha": np.array(6, np.float32)})
    adapter = read_adapter(folder)
    assert adapter.factors[Target("unet", TO_Q)].scale == 3
    assert adapter.ignored_keys == ()
    edit_weights(folder, lambda ts: ts | {f"{PREFIX}{TO_Q}.alpha": np.array(2, np.float32)})
    with pytest.raises(ScaleConflictError, match=rf"{TO_Q} .*3 .*adapter_config\.json.* 1 "):
        read_adapter(folder)


def test_a_pickled_adapter_is_named_and_not_opened(peft_folder):
    folder = peft_folder()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(MissingPathError, match=r"adapter_model\.bin"):
        read_adapter(folder)


# ------------------------------------------------------------------ real files
@pytest.mark.fixtures
def test_a_real_unet_adapter_is_read_with_its_own_numbers_and_scale_4(real_lora):
    folder = real_lora("peft-unet-r4-alpha16")
    tensors = load_file(folder / "adapter_model.safetensors")
    adapter = read_adapter(folder)
    assert len(adapter.factors) == 128
    assert adapter.ignored_keys == ()
    for target, pair in adapter.factors.items():
        assert (target.component, pair.rank, pair.scale) == ("unet", 4, 4.0)
        np.testing.assert_array_equal(pair.A, tensors[f"{PREFIX}{target.module}.lora_A.weight"])
        np.testing.assert_array_equal(pair.B, tensors[f"{PREFIX}{target.module}.lora_B.weight"])
    layout = ParameterLayout.from_adapter(adapter)
    assert (layout.size, layout.scale) == (sum(t.size for t in tensors.values()), 4.0)


@pytest.mark.fixtures
def test_a_real_unet_adapter_changes_a_weight_as_the_real_peft_does(real_lora):
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    folder = real_lora("peft-unet-r4-alpha16")
    config = LoraConfig.from_pretrained(folder)
    adapter = read_adapter(folder)
    target = max(adapter.factors, key=lambda t: np.abs(adapter.factors[t].B).max() * (t.module.count("down_blocks.0")))
    pair = adapter.factors[target]
    layer = Linear(torch.nn.Linear(320, 320), "default", config, r=config.r, lora_alpha=config.lora_alpha)
    layer.lora_A["default"].weight.data = torch.from_numpy(pair.A)
    layer.lora_B["default"].weight.data = torch.from_numpy(pair.B)
    expected = layer.get_delta_weight("default").detach().numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(pair.delta(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.fixtures
def test_a_real_text_encoder_adapter_is_the_text_encoders(real_lora):
    folder = real_lora("peft-text-encoder-r8")
    tensors = load_file(folder / "adapter_model.safetensors")
    adapter = read_adapter(folder)
    assert len(adapter.factors) == 24
    for target, pair in adapter.factors.items():
        assert (target.component, pair.rank, pair.scale) == ("text_encoder", 8, 1.0)
        np.testing.assert_array_equal(pair.A, tensors[f"{PREFIX}{target.module}.lora_A.weight"])
    numbers = [int(s.target.module.split(".")[3]) for s in ParameterLayout.from_adapter(adapter).slots]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 11


@pytest.mark.parametrize("name", ["x.bin", "y.safetensors"])
def test_a_config_that_may_belong_to_another_weights_file_is_named_with_that_file(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"{path}.lora_A.weight": np.ones((1, 4), np.float32),
        f"{path}.lora_B.weight": np.ones((3, 1), np.float32),
    }
    torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, tmp_path / "x.bin")
    save_file(tensors, tmp_path / "y.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}', "utf-8")
    (other,) = {"x.bin", "y.safetensors"} - {name}
    with pytest.raises(MissingPathError, match=re.escape(other)):
        read_adapter(tmp_path / name, allow_torch=True)
