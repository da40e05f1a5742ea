"""What is not read: refused with the reason that is true of it, whatever else the file looks like."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from tests.conftest import factors
from tests.dialects.test_detection import KOHYA, MODULE, PAIRS, A, B
from w2w_hub import Adapter, read_adapter, write_adapter
from w2w_hub.cli import main
from w2w_hub.dialects import convert_adapter, options, read_deltas, recognize
from w2w_hub.dialects.scales import Stated, agree_on_scale
from w2w_hub.errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    ScaleConflictError,
    UnsupportedFormatError,
    W2WError,
)
from w2w_hub.lora.adapter import Target

UNET = Target("unet", MODULE)


def saved(tmp_path: Path, tensors: dict[str, np.ndarray], **metadata: str) -> Path:
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata or None)
    return tmp_path / "a.safetensors"


def edit(folder: Path, **changes) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def reason(path: Path, error: type[W2WError] = UnsupportedFormatError, **options) -> str:
    with pytest.raises(error) as caught:
        read_adapter(path, **options)
    return str(caught.value)


# ---------------------------------------------------------------- PEFT's options
def pefts_fields() -> dict[str, object]:
    """Every option of the installed PEFT with its default."""
    from peft import LoraConfig

    return {f.name: getattr(LoraConfig(), f.name) for f in dataclasses.fields(LoraConfig)}


def test_every_option_of_the_installed_peft_was_judged():
    """If this fails, PEFT has a new option: find out whether the change of a weight is still scale * B @ A with it."""
    assert set(pefts_fields()) - options.HARMLESS - options.REFUSED.keys() == set()
    assert not options.HARMLESS & options.REFUSED.keys()


def test_every_default_of_the_installed_peft_is_accepted(peft_folder):
    plain = {k: v for k, v in pefts_fields().items() if isinstance(v, (bool, int, str, type(None), list, dict, float))}
    folder = edit(peft_folder(), **(plain | {"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    assert len(read_adapter(folder).factors) == 16


@pytest.mark.parametrize("value", [True, {"x": 1}, [1], 16, "yes"], ids=repr)
@pytest.mark.parametrize("option", [*options.REFUSED, "use_some_new_method", "new_config", "lora_beta"])
def test_an_option_that_changes_what_the_tensors_mean_or_is_unknown_is_refused_by_its_name(peft_folder, option, value):
    assert option in reason(edit(peft_folder(), **{option: value}))


@pytest.mark.parametrize("place", ["unet.", ""])
def test_options_in_a_header_are_judged_alike(tmp_path, place):
    tensors = {f"unet.{MODULE}.lora_A.weight": A, f"unet.{MODULE}.lora_B.weight": B}
    for option in ("use_bdlora", "kasa_config", "some_new_option"):
        header = {f"{place}r": 2, f"{place}lora_alpha": 2, f"{place}{option}": {"x": 1}}
        assert option in reason(saved(tmp_path, tensors, lora_adapter_metadata=json.dumps(header)))


def test_a_real_folder_of_block_diagonal_lora_is_refused(tmp_path, tiny_unet):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import BdLoraConfig

    config = LoraConfig(r=4, target_modules=["to_q", "to_k"], use_bdlora=BdLoraConfig(["to_q"], ["to_k"], 2))
    get_peft_model(tiny_unet(), config).save_pretrained(tmp_path / "lora")
    assert "use_bdlora" in reason(tmp_path / "lora")


@pytest.mark.parametrize("off", [False, None, {}, [], "", 0], ids=repr)
def test_an_unknown_option_that_is_off_is_no_obstacle(peft_folder, off):
    assert len(read_adapter(edit(peft_folder(), some_new_option=off)).factors) == 16


@pytest.mark.parametrize("start", ["pissa", "olora", "corda", "loftq", "lora_ga", "new", 1, ["eva"]], ids=repr)
def test_an_initialisation_that_may_change_the_base_weights_is_refused(peft_folder, start):
    assert "init_lora_weights" in reason(edit(peft_folder(), init_lora_weights=start))


@pytest.mark.parametrize("value", ["true", 2, []], ids=repr)
def test_rslora_that_is_neither_true_nor_false_is_refused(peft_folder, value):
    assert "use_rslora" in reason(edit(peft_folder(), use_rslora=value), CorruptFileError)


# ---------------------------------------------------------------- changes of whole weights
CHANGED = {
    "kohya": KOHYA,
    "diffusers": f"unet.{MODULE}",
    "lycoris": KOHYA,
    "diffusers-attn-processor": f"unet.{MODULE}",
}


@pytest.mark.parametrize("tail", ["diff", "set_weight", "w_norm", "weight"])
@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 3, 3), (7, 1)], ids=str)
@pytest.mark.parametrize("dialect", CHANGED)
def test_a_change_of_a_whole_weight_is_not_left_out_in_silence(tmp_path, dialect, shape, tail):
    key = f"{CHANGED[dialect].replace('attn1', 'attn2')}.{tail}"
    path = saved(tmp_path, PAIRS[dialect] | {key: np.ones(shape, np.float32)})
    if dialect in ("kohya", "lycoris") and tail == "weight":
        key = "unet.x.weight"
        path = saved(tmp_path, PAIRS[dialect] | {key: np.ones(shape, np.float32)})
    assert key in reason(path, svd_rank=1)
    with pytest.raises(UnsupportedFormatError):
        read_deltas(path)


@pytest.mark.parametrize("tail", ["diff", "diff_b", "set_weight", "w_norm", "b_norm", "bias"])
@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_a_change_of_a_norm_or_bias_travels_along(tmp_path, dialect, tail):
    key = f"{CHANGED[dialect]}.{tail}"
    adapter = read_adapter(saved(tmp_path, PAIRS[dialect] | {key: np.ones(7, np.float32)}))
    assert adapter.ignored_keys == (key,)


def test_a_whole_weight_travels_along_in_peft_only_if_its_configuration_lists_it(peft_folder):
    folder = peft_folder(modules_to_save=["conv_out"])
    assert len(read_adapter(folder).ignored_keys) == 2
    assert "conv_out.weight" in reason(edit(folder, modules_to_save=None))
    assert "conv_out.weight" in reason(edit(folder, modules_to_save=["conv_in", "out"]))


def test_a_text_encoders_lora_behind_a_vectors_name_is_not_taken_for_a_vector(tmp_path):
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"
    reason(saved(tmp_path, PAIRS["kohya"] | {key: np.ones((2, 6), np.float32)}))


# ---------------------------------------------------------------- reasons that are true
@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "IA3", "OFT", "AdaLora", "X", "HRA"])
def test_a_peft_adapter_of_another_kind_is_told_as_that(tmp_path, tiny_unet, kind):
    import peft

    folder = tmp_path / "lora"
    config = getattr(peft, f"{kind}Config", None)
    if kind in ("LoHa", "LoKr", "IA3", "OFT"):
        names = ["to_q"]
        extra = {"feedforward_modules": []} if kind == "IA3" else {"oft_block_size": 2} if kind == "OFT" else {}
        peft.get_peft_model(tiny_unet(), config(target_modules=names, **extra)).save_pretrained(folder)
    else:
        folder.mkdir()
        save_file(PAIRS["peft"], folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind.upper(), "r": 2, "lora_alpha": 2}))
    message = reason(folder)
    assert kind.upper() in message
    if kind in ("LoHa", "LoKr"):  # without its configuration
        (folder / "adapter_config.json").unlink()
        message = reason(folder)
        assert "PEFT" in message


@pytest.mark.parametrize("name", ["adapter_model~x.safetensors", "adapter_model-2.safetensors", "best.safetensors"])
def test_a_configuration_that_belongs_to_another_weights_file_is_not_called_missing(peft_folder, name):
    folder = peft_folder()
    (folder / name).write_bytes((folder / "adapter_model.safetensors").read_bytes())
    message = reason(folder / name, MissingPathError)
    assert name in message
    assert "adapter_model.safetensors" in message
    assert {p.scale for p in read_adapter(folder / name, alpha=6).factors.values()} == {3.0}
    assert {p.scale for p in read_adapter(folder).factors.values()} == {3.0}


def test_qwen_image_behind_comfyuis_prefix_is_not_called_another_kind_of_model(tmp_path):
    module = "transformer_blocks.0.img_mlp.net.0.proj"
    tensors = {f"diffusion_model.{module}.lora_{n}.weight": t for n, t in (("A", A), ("B", B))}
    message = reason(saved(tmp_path, tensors))
    assert "diffusion_model." in message
    other = {key.replace("diffusion_model.", "transformer."): value for key, value in tensors.items()}
    assert [str(t) for t in read_adapter(saved(tmp_path, other)).factors] == [f"transformer.{module}"]


@pytest.mark.parametrize("pair", [("peft", "kohya"), ("diffusers", "flux-bfl"), ("kohya", "cloneofsimo")])
def test_keys_of_two_dialects_are_told_as_that(tmp_path, pair):
    message = reason(saved(tmp_path, PAIRS[pair[0]] | PAIRS[pair[1]]))
    assert all(name in message for name in pair)


# ---------------------------------------------------------------- what a caller states
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
NAMED = {"peft": "unet", "diffusers": "unet", "diffusers-attn-processor": "unet", "kohya": "unet",
         "onetrainer": "transformer",
         "flux-bfl": "transformer", "flux-xlabs": "transformer", "lycoris": "unet"}  # fmt: skip


@pytest.mark.parametrize("stated", COMPONENTS)
@pytest.mark.parametrize("dialect", NAMED)
def test_a_component_that_the_keys_contradict_is_an_error_in_every_dialect(tmp_path, dialect, stated):
    path = saved(tmp_path, PAIRS[dialect])
    given = {"alpha": 2} if dialect == "peft" else {"svd_rank": 1} if dialect == "lycoris" else {}
    if stated == NAMED[dialect]:
        assert {t.component for t in read_adapter(path, component=stated, **given).factors} == {stated}
    else:
        assert stated in reason(path, W2WError, component=stated, **given)


def test_a_component_is_stated_for_keys_that_do_not_name_it(tmp_path):
    clip = {f"text_model.encoder.layers.0.mlp.fc1.lora_{n}.weight": t for n, t in (("A", A), ("B", B))}
    t5 = {f"encoder.block.0.layer.0.SelfAttention.q.lora_{n}.weight": t for n, t in (("A", A), ("B", B))}
    for stated in COMPONENTS[2:]:
        for tensors in (clip, t5):
            path = saved(tmp_path, tensors)
            assert {t.component for t in read_adapter(path, component=stated).factors} == {stated}
    for stated in COMPONENTS[:1]:
        for tensors in (clip, t5):
            reason(saved(tmp_path, tensors), W2WError, component=stated)
    both = clip | {f"unet.{MODULE}.lora_{n}.weight": t for n, t in (("A", A), ("B", B))}
    assert "unet" in reason(saved(tmp_path, both), InvalidInputError, component="text_encoder")


@pytest.mark.parametrize(
    "given",
    [{"alpha": "3"}, {"alpha": True}, {"alpha": float("nan")}, {"alpha": [3]}, {"alpha": 3j}, {"svd_rank": 1.5},
     {"svd_rank": "2"}, {"svd_rank": True}, {"svd_rank": 0}, {"trust": 3}, {"trust": ["tensors"]},
     {"component": "vae"}, {"component": 1}, {"component": np.array(["unet", "unet"])}, {"canonical": 3},
     {"canonical": "qr"}],
    ids=str,
)  # fmt: skip
def test_what_a_caller_states_in_the_wrong_type_is_one_line(tmp_path, given):
    with pytest.raises(InvalidInputError) as caught:
        read_adapter(saved(tmp_path, PAIRS["kohya"]), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"alpha": np.float32(3)}, {"svd_rank": np.int64(1)}, {"trust": "tensors"}], ids=str)
def test_numbers_of_numpy_are_as_good_as_pythons(tmp_path, given):
    assert len(read_adapter(saved(tmp_path, PAIRS["diffusers"]), **given).factors) == 1


@pytest.mark.parametrize("path", [3, None, b"a.safetensors", ["a"], 1.5], ids=repr)
def test_a_path_that_is_none_is_one_line(path):
    for call in (read_adapter, recognize, read_deltas):
        with pytest.raises(W2WError):
            call(path)


@pytest.mark.parametrize("dialects", ["kohya", "peft", 3, None, (3,), ("nope",), (), [["peft"]]], ids=repr)
def test_dialects_to_write_in_the_wrong_type_are_one_line_and_write_nothing(tmp_path, dialects):
    with pytest.raises(InvalidInputError):
        write_adapter(Adapter({UNET: factors()}), tmp_path / "out", dialects)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("thing", [None, "adapter", {UNET: factors()}], ids=lambda t: type(t).__name__)
def test_what_is_no_adapter_is_not_written(tmp_path, thing):
    with pytest.raises(InvalidInputError):
        write_adapter(thing, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_dialect_to_convert_to_that_is_none_is_told_before_anything_is_read(tmp_path):
    for dialect in ("nope", 3, None, ("peft",)):
        with pytest.raises(InvalidInputError):
            convert_adapter(tmp_path / "not there", tmp_path / "out", dialect)


# ---------------------------------------------------------------- which place is trusted
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_scale_that_disagrees_in_any_of_three_places_is_an_error(order, odd):
    stated = [Stated(f"place {i}", 2.0 if i == odd else 1.0) for i in order]
    with pytest.raises(ScaleConflictError):
        agree_on_scale(stated, stated[0], "file", "module")
    same = [Stated(f"place {i}", 2.0) for i in order]
    assert agree_on_scale(same, Stated("default", 9.0), "file", "module").scale == 2.0
    assert agree_on_scale([], Stated("default", 9.0), "file", "module").scale == 9.0


def test_each_side_can_be_trusted_where_the_tensors_and_the_configuration_differ(peft_folder):
    folder = peft_folder()  # r 2, alpha 6
    weights = folder / "adapter_model.safetensors"
    modules = {key.partition(".lora_")[0] for key in load_file(weights)}
    alphas = {f"{module}.alpha": np.array(2, np.float32) for module in modules}
    save_file(load_file(weights) | alphas, weights)
    assert "trust" in reason(folder, ScaleConflictError)
    for trust, scale in (("tensors", 1.0), ("config", 3.0)):
        assert {p.scale for p in read_adapter(folder, trust=trust).factors.values()} == {scale}
    header = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 6})}
    tensors = {
        f"unet.{MODULE}.lora_A.weight": A,
        f"unet.{MODULE}.lora_B.weight": B,
        f"unet.{MODULE}.alpha": np.array(2.0),
    }
    path = folder.parent / "b.safetensors"
    save_file(tensors, path, metadata=header)
    for trust, scale in (("tensors", 1.0), ("config", 3.0)):
        assert {p.scale for p in read_adapter(path, trust=trust).factors.values()} == {scale}


def test_the_third_place_of_a_peft_folder_is_compared_too(peft_folder):
    folder = peft_folder()
    weights = folder / "adapter_model.safetensors"
    module = next(iter(load_file(weights))).partition(".lora_")[0]
    header = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 6})}
    for alpha, fits in ((6, True), (4, False)):
        save_file(load_file(weights) | {f"{module}.alpha": np.array(alpha, np.float32)}, weights, metadata=header)
        if fits:
            assert {p.scale for p in read_adapter(folder, alpha=6).factors.values()} == {3.0}
        else:
            reason(folder, ScaleConflictError)


# ---------------------------------------------------------------- kohya's two numberings at real widths
@pytest.mark.parametrize(
    ("model", "text", "sgm"), [("1.5", 768, False), ("2.1", 1024, False), ("XL", 2048, True), ("refiner", 1280, False)]
)
def test_only_sdxl_is_written_in_stabilitys_numbering(tmp_path, model, text, sgm):
    block = "down_blocks.1.attentions.0.transformer_blocks.0"
    pairs = {f"{block}.attn1.to_q": (640, 640), f"{block}.attn2.to_k": (text, 640), f"{block}.ff.net.2": (2560, 640)}
    if model == "1.5":  # where some other width is 2,048
        pairs[f"{block}.attn2.to_q"] = (2048, 640)
    adapter = Adapter({Target("unet", path): factors(1, *sizes) for path, sizes in pairs.items()})
    write_adapter(adapter, tmp_path / "out", ("kohya",))
    keys = load_file(tmp_path / "out" / "kohya_lora.safetensors")
    assert {key.startswith("lora_unet_input_blocks_4_1_") for key in keys} == {sgm}
    assert read_adapter(tmp_path / "out").factors.keys() == adapter.factors.keys()


# ---------------------------------------------------------------- what is written can be read
@pytest.mark.parametrize("dialect", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize(
    "target", [Target("unet", "blocks.0.to_q"), Target("text_encoder", "model.layers.0.q_proj")], ids=str
)
def test_a_module_that_would_not_be_read_back_is_not_written(tmp_path, dialect, target):
    with pytest.raises(InvalidInputError, match=str(target)):
        write_adapter(Adapter({target: factors()}), tmp_path / "out", (dialect,))
    assert list(tmp_path.iterdir()) == []


def test_a_t5_whose_model_kohyas_names_would_not_tell_is_not_written_so(tmp_path):
    t5 = "encoder.block.0.layer.0.SelfAttention.q"
    alone = Adapter({Target("text_encoder_3", t5): factors()})
    with pytest.raises(InvalidInputError):
        write_adapter(alone, tmp_path / "out", ("kohya",))
    clip = Target("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1")
    both = Adapter({clip: factors(), Target("text_encoder_3", t5): factors()})
    write_adapter(both, tmp_path / "both", ("kohya",))
    assert read_adapter(tmp_path / "both").factors.keys() == both.factors.keys()


def test_the_command_says_the_reason_in_one_line(peft_folder, tmp_path):
    result = CliRunner().invoke(
        main, ["convert", str(edit(peft_folder(), use_bdlora=True)), "--to", "kohya", "--out", str(tmp_path / "x")]
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "use_bdlora" in result.stderr
