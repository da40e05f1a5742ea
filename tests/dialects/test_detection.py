from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import factors
from w2w_hub import Adapter, read_adapter, write_adapter
from w2w_hub.dialects import recognize
from w2w_hub.dialects.checkpoint import Checkpoint
from w2w_hub.dialects.kohya import DEFAULT as KOHYAS_DEFAULT
from w2w_hub.dialects.reading import parse_checkpoint
from w2w_hub.dialects.registry import dialect_of
from w2w_hub.errors import InvalidInputError, NotACheckpointError, ScaleConflictError, UnsupportedFormatError, W2WError
from w2w_hub.lora.adapter import LoraFactors, Target

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{MODULE.replace('.', '_')}"
A, B = factors().A, factors().B
WIDE_A, WIDE_B = factors(2, 3072, 3072).A, factors(2, 3072, 3072).B  # Flux.1's width
PAIRS = {
    "peft": {f"base_model.model.{MODULE}.lora_A.weight": A, f"base_model.model.{MODULE}.lora_B.weight": B},
    "diffusers": {f"unet.{MODULE}.lora.down.weight": A, f"unet.{MODULE}.lora.up.weight": B},
    "diffusers-attn-processor": {
        f"unet.{MODULE[:-5]}.processor.to_k_lora.{half}.weight": t for half, t in (("down", A), ("up", B))
    },
    "kohya": {f"{KOHYA}.lora_down.weight": A, f"{KOHYA}.lora_up.weight": B},
    "lycoris": {f"{KOHYA}.hada_w{i}_{n}": t for i in "12" for n, t in (("a", B), ("b", A))},
    "cloneofsimo": {"unet:0:down": A, "unet:0:up": B},
    "flux-xlabs": {
        f"double_blocks.0.processor.proj_lora1.{half}.weight": t for half, t in (("down", WIDE_A), ("up", WIDE_B))
    },
    "flux-bfl": {
        f"diffusion_model.double_blocks.0.img_attn.proj.lora_{n}.weight": t for n, t in (("A", WIDE_A), ("B", WIDE_B))
    },
    "onetrainer": {f"lora_transformer_proj_out.lora_{half}.weight": t for half, t in (("down", A), ("up", B))},
    "mlx": {"model.layers.0.self_attn.q_proj.lora_a": A.T.copy(), "model.layers.0.self_attn.q_proj.lora_b": B.T.copy()},
}


def saved(tmp_path: Path, tensors: dict[str, np.ndarray], **metadata: str) -> Path:
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata or None)
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("dialect", PAIRS)
def test_each_dialect_is_recognised_whatever_comes_first(tmp_path, dialect):
    tensors = {"<first>": np.ones(768, np.float32)} | PAIRS[dialect]
    assert recognize(saved(tmp_path, tensors)).name == dialect


@pytest.mark.parametrize("first", PAIRS)
@pytest.mark.parametrize("second", PAIRS)
def test_a_file_of_two_dialects_is_an_error_that_names_both(tmp_path, first, second):
    both = PAIRS[first] | PAIRS[second]
    if first == second or {first, second} == {"kohya", "lycoris"}:  # LyCORIS' own plain modules have kohya's names
        return
    with pytest.raises(UnsupportedFormatError, match=r"a\.safetensors") as caught:
        recognize(saved(tmp_path, both))
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_a_language_models_mlx_adapter_is_refused_with_the_reason(tmp_path):
    with pytest.raises(UnsupportedFormatError, match="MLX"):
        read_adapter(saved(tmp_path, PAIRS["mlx"]))
    (tmp_path / "mlx").mkdir()
    save_file(PAIRS["mlx"], tmp_path / "mlx" / "adapters.safetensors")
    (tmp_path / "mlx" / "adapter_config.json").write_text(
        '{"fine_tune_type": "lora", "lora_parameters": {"scale": 20}}'
    )
    with pytest.raises(UnsupportedFormatError, match="MLX"):
        read_adapter(tmp_path / "mlx")
    np.savez(tmp_path / "adapters.npz", **PAIRS["mlx"])
    with pytest.raises(UnsupportedFormatError, match="MLX"):
        read_adapter(tmp_path / "adapters.npz")


def test_an_ordinary_model_is_no_checkpoint(tmp_path):
    with pytest.raises(NotACheckpointError, match=r"a\.safetensors"):
        read_adapter(saved(tmp_path, {"conv_in.weight": np.ones((2, 2)), "conv_in.bias": np.ones(2)}))


@pytest.mark.parametrize("key", ["<krk>", "emb_params"])
def test_a_textual_inversion_vector_is_refused_by_name(tmp_path, key):
    with pytest.raises(NotACheckpointError, match=key):
        read_adapter(saved(tmp_path, {key: np.ones((1, 768), np.float32)}))


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_vectors_and_differences_that_travel_along_are_ignored_keys(tmp_path, dialect):
    beside = {"<s1>": np.ones(768, np.float32), "lora_unet_conv_norm_out.w_norm": np.ones(3, np.float32)}
    adapter = read_adapter(saved(tmp_path, PAIRS[dialect] | beside, **{"<s1>": "<embed>"}))
    assert (sorted(adapter.ignored_keys), len(adapter.factors)) == (sorted(beside), 1)


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "diffusers-attn-processor", "flux-bfl", "peft"])
def test_a_key_that_belongs_to_nothing_is_an_error_that_lists_it(tmp_path, dialect):
    with pytest.raises(UnsupportedFormatError, match="stray"):
        read_adapter(saved(tmp_path, PAIRS[dialect] | {"stray": np.ones(3, np.float32)}), alpha=2)


@pytest.mark.parametrize("magnitude", [f"{KOHYA}.dora_scale", f"unet.{MODULE}.lora_magnitude_vector"])
@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "lycoris"])
def test_dora_is_refused_with_the_reason_in_every_dialect(tmp_path, dialect, magnitude):
    path = saved(tmp_path, PAIRS[dialect] | {magnitude: np.ones(7, np.float32)})
    with pytest.raises(UnsupportedFormatError, match=magnitude):
        read_adapter(path)


# ---------------------------------------------------------------- scale
def test_kohyas_alpha_is_missing_or_zero_for_scale_1_and_that_is_reported(tmp_path):
    for alpha in ({}, {f"{KOHYA}.alpha": np.array(0, np.float32)}):
        adapter = read_adapter(saved(tmp_path, PAIRS["kohya"] | alpha))
        assert [p.scale for p in adapter.factors.values()] == [1.0]
        assert adapter.metadata["scale_from"] == [KOHYAS_DEFAULT]


@pytest.mark.parametrize(("alpha", "scale"), [(16, 8.0), (-2, -1.0), (1, 0.5)])
def test_kohyas_alpha_tensor_over_the_rank_is_the_scale(tmp_path, alpha, scale):
    adapter = read_adapter(saved(tmp_path, PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(alpha, np.float16)}))
    assert [p.scale for p in adapter.factors.values()] == [scale]


def test_kohyas_header_must_agree_with_the_tensors_unless_told_which_to_trust(tmp_path):
    header = {"ss_network_alpha": "16.0", "ss_network_dim": "2"}
    path = saved(tmp_path, PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(4, np.float32)}, **header)
    with pytest.raises(ScaleConflictError, match=r"scale 8.* 2.*--trust"):
        read_adapter(path)
    assert next(iter(read_adapter(path, trust="tensors").factors.values())).scale == 2
    assert next(iter(read_adapter(path, trust="config").factors.values())).scale == 8
    folded = header | {"ss_network_args": '{"rs_lora": "True"}', "ss_network_alpha": "2.0"}
    rs = saved(tmp_path, PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(2 * 2**0.5, np.float16)}, **folded)
    assert next(iter(read_adapter(rs).factors.values())).scale == pytest.approx(2**0.5, rel=1e-3)


@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_diffusers_header_states_the_scale_with_or_without_the_component(tmp_path, prefix):
    tensors = {f"{prefix}{MODULE}.lora_A.weight": A, f"{prefix}{MODULE}.lora_B.weight": B}
    header = {f"{prefix}r": 2, f"{prefix}lora_alpha": 5, f"{prefix}use_rslora": True}
    adapter = read_adapter(saved(tmp_path, tensors, lora_adapter_metadata=json.dumps(header)))
    assert [p.scale for p in adapter.factors.values()] == [5 / 2**0.5]
    header |= {f"{prefix}alpha_pattern": {"attn1.to_q": 8}, f"{prefix}use_rslora": False}
    adapter = read_adapter(saved(tmp_path, tensors, lora_adapter_metadata=json.dumps(header)))
    assert [p.scale for p in adapter.factors.values()] == [4.0]
    with pytest.raises(ScaleConflictError, match=r"4 .*lora_adapter_metadata.* 1 "):
        read_adapter(
            saved(
                tmp_path, tensors | {f"{prefix}{MODULE}.alpha": np.array(2.0)}, lora_adapter_metadata=json.dumps(header)
            )
        )


def test_pefts_configuration_and_the_files_header_must_agree(peft_folder):
    folder = peft_folder()
    tensors = load_file(folder / "adapter_model.safetensors")
    for alpha in (6, 12):
        header = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": alpha})}
        save_file(tensors, folder / "adapter_model.safetensors", metadata=header)
        if alpha == 6:
            assert {p.scale for p in read_adapter(folder).factors.values()} == {3.0}
        else:
            with pytest.raises(ScaleConflictError, match=r"3 .*adapter_config\.json.* 6 .*lora_adapter_metadata"):
                read_adapter(folder)


def test_an_alpha_is_stated_where_a_checkpoint_states_none_and_must_agree_where_it_does(tmp_path):
    for dialect in ("peft", "diffusers", "kohya"):
        path = saved(tmp_path, PAIRS[dialect])
        assert [p.scale for p in read_adapter(path, alpha=27).factors.values()] == [13.5]
    path = saved(tmp_path, PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(2, np.float32)})
    with pytest.raises(ScaleConflictError, match=r"13\.5"):
        read_adapter(path, alpha=27)


@pytest.mark.parametrize(("trust", "scale"), [("tensors", 3.0), ("config", 0.75)])
def test_a_rank_that_disagrees_is_settled_by_the_caller(peft_folder, trust, scale):
    folder = peft_folder()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(W2WError, match=r"2.*adapter_config\.json.* 8.*--trust"):
        read_adapter(folder)
    assert {p.scale for p in read_adapter(folder, trust=trust).factors.values()} == {scale}


# ---------------------------------------------------------------- real key lists
MANIFESTS = {
    "anima_lora_kohya_format": ("kohya", "33 "),
    "anima_lora_kohya_with_te_format": ("kohya", "27 "),
    "anima_lora_lokr_format": ("lycoris", "DoRA"),
    "anima_lora_peft_format": ("diffusers", "12 "),
    "flux_control_lora_format": ("flux-bfl", 504),
    "flux_dora_onetrainer_format": ("onetrainer", "DoRA"),
    "flux_lokr_bfl_format": ("lycoris", "read_deltas"),
    "flux_lora_aitoolkit_format": ("flux-bfl", 418),
    "flux_lora_diffusers_base_model_format": ("peft", "adapter_config\.json"),
    "flux_lora_diffusers_format": ("diffusers", 494),
    "flux_lora_diffusers_no_proj_mlp_format": ("diffusers", 342),
    "flux_lora_kohya_format": ("kohya", 494),
    "flux_lora_kohya_with_te1_format": ("kohya", 566),
    "flux_lora_xlabs_format": ("flux-xlabs", 24),
    "krea2_lora_kohya_format": ("kohya", "120 "),
    "qwen_image_lora_diffusers_format": ("diffusers", 3),
    "qwen_image_lora_kohya_format": ("lycoris", "read_deltas"),
}


def of_keys(name: str, shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A checkpoint of these keys and shapes but rank 1, to keep it small."""
    for key, shape in shapes.items():
        if key.endswith(("lora_A.weight", "down.weight")):
            shapes[key] = (1, *shape[1:])
        elif key.endswith(("lora_B.weight", "up.weight")):
            shapes[key] = (shape[0], 1)
    zeros = {key: np.zeros(shape, np.float16) for key, shape in shapes.items()}
    return Checkpoint(Path(name), shapes, dict.fromkeys(shapes, "F16"), lambda: zeros)


@pytest.mark.fixtures
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_real_list_of_keys_is_classified_and_read_or_refused_with_its_reason(real_lora, name):
    data = json.loads((real_lora("key_manifests") / f"{name}.json").read_text())["data"]["state_dict_keys"]
    checkpoint = of_keys(name, {key: tuple(shape) for key, shape in data.items()})
    dialect, outcome = MANIFESTS[name]
    assert dialect_of(checkpoint).name == dialect
    if isinstance(outcome, int):
        assert len(parse_checkpoint(checkpoint).factors) == outcome
    else:
        with pytest.raises(W2WError, match=outcome):
            parse_checkpoint(checkpoint)


@pytest.mark.fixtures
def test_every_real_list_of_keys_is_in_that_table(real_lora):
    names = {path.stem for path in real_lora("key_manifests").iterdir()}
    assert names == {*MANIFESTS, "rockerBOO_keys"}


@pytest.mark.fixtures
def test_the_keys_of_many_files_are_classified_by_their_algorithm_and_all_are_placed(real_lora):
    from w2w_hub.dialects.kohya import split_key, target_of_name

    keys = json.loads((real_lora("key_manifests") / "rockerBOO_keys.json").read_text())
    kinds = {"lokr": "lycoris", "hada": "lycoris", "oft_": "lycoris", "lora_down": "kohya"}
    for mark, dialect in kinds.items():
        mine = {key: (2, 2) for key in keys if f".{mark}" in key}
        assert mine
        assert dialect_of(of_keys(mark, mine)).name == dialect
    placed = Counter(target_of_name(m[0], m[1]) is not None for key in keys if (m := split_key(key)))
    assert placed == {True: len(keys)}


def test_a_scale_too_small_for_kohyas_alpha_is_not_read_back_as_scale_1(tmp_path):
    target = Target("unet", MODULE)
    write_adapter(Adapter({target: LoraFactors(A, B, 1e-60)}), tmp_path / "out", ("kohya",))
    assert abs(read_adapter(tmp_path / "out").factors[target].delta()).max() < 1e-38


@pytest.mark.parametrize("names", ["ab", "aa"])
def test_factors_of_two_named_adapters_are_never_paired_or_merged(tmp_path, names):
    other = MODULE.replace("to_q", "to_v")
    keys = [
        f"unet.{m}.lora_{half}.{n}.weight"
        for m, ns in ((MODULE, names), (other, "bb"))
        for half, n in zip("AB", ns, strict=True)
    ]
    path = saved(tmp_path, dict(zip(keys, (A, B, A, B), strict=True)))
    with pytest.raises(UnsupportedFormatError, match="a, b"):
        read_adapter(path)


def test_factors_that_do_not_multiply_are_refused_with_the_file(tmp_path):
    path = saved(tmp_path, {f"unet.{MODULE}.lora_A.weight": A, f"unet.{MODULE}.lora_B.weight": B[:, :1].copy()})
    with pytest.raises(InvalidInputError, match=r"a\.safetensors: unet\."):
        read_adapter(path)
