"""Scales, facts and round trips held against a reference of a few lines of NumPy, over what is stated where."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.dialects.test_detection import KOHYA, MODULE, PAIRS, A, B
from w2w_hub import Adapter, ParameterLayout, describe, read_adapter, write_adapter
from w2w_hub.dialects import convert_adapter, read_deltas
from w2w_hub.dialects.initialization import InitializationTracker
from w2w_hub.dialects.inspection import facts_of
from w2w_hub.dialects.scan import Skipped, find_checkpoints, is_tree
from w2w_hub.errors import InvalidInputError, ScaleConflictError, UnsupportedFormatError
from w2w_hub.lora import LoraFactors, Target

OTHER = MODULE.replace("to_q", "to_v")
CONV = "mid_block.resnets.0.conv1"
CLIP = "text_model.encoder.layers.0.self_attn.q_proj"
RANK = 4
rng = np.random.default_rng(0)
DOWN, UP = rng.normal(size=(RANK, 6)).astype("f4"), rng.normal(size=(7, RANK)).astype("f4")


def pair(rank: int, inputs: int, outputs: int, scale: float, kernel: tuple[int, ...] = ()) -> LoraFactors:
    a = rng.normal(size=(rank, inputs * math.prod(kernel))).astype("f4")
    return LoraFactors(a, rng.normal(size=(outputs, rank)).astype("f4"), scale, kernel)


def scales(path: Path, **options: object) -> dict[str, float]:
    return {t.module: p.scale for t, p in read_adapter(path, **options).factors.items()}


# ---------------------------------------------------------------- the scale of a module
def written(folder: Path, dialect: str, config: float | None, tensor: float | None) -> Path:
    """One module whose scale a configuration or header (as alpha) and an alpha tensor state."""
    header = {"r": RANK, "lora_alpha": config}
    if dialect == "kohya":
        tensors = {f"{KOHYA}.lora_down.weight": DOWN, f"{KOHYA}.lora_up.weight": UP}
        metadata = {"ss_network_alpha": str(config), "ss_network_dim": str(RANK)} if config is not None else {}
        alpha = f"{KOHYA}.alpha"
    elif dialect == "peft":
        prefix = f"base_model.model.{MODULE}"
        tensors = {f"{prefix}.lora_A.weight": DOWN, f"{prefix}.lora_B.weight": UP}
        metadata, alpha = {}, f"{prefix}.alpha"
    else:
        tensors = {f"unet.{MODULE}.lora_A.weight": DOWN, f"unet.{MODULE}.lora_B.weight": UP}
        alpha = f"unet.{MODULE}.alpha"
        metadata = {"lora_adapter_metadata": json.dumps(header)} if config is not None else {}
    if tensor is not None:
        tensors[alpha] = np.array(tensor, "f4")
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata=metadata or None)
    (folder / "adapter_config.json").unlink(missing_ok=True)
    if dialect == "peft" and config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(header | {"peft_type": "LORA"}), encoding="utf-8")
    return folder / "adapter_model.safetensors"


def expected(
    dialect: str, config: float | None, tensor: float | None, given: float | None, trust: str | None
) -> float | None:
    """The alpha that holds, or None for a conflict."""
    if dialect == "kohya" and tensor == 0:
        tensor = None
    if config is not None and trust is not None and (tensor is not None or dialect == "kohya"):
        if trust == "config":
            tensor = None
        elif dialect == "kohya" or tensor is not None:
            config = None
    if dialect == "kohya" and trust is None and config is not None:
        # a note for the whole file: a module without an alpha has the default, alpha = rank
        config, note = None, config
        stated = [a for a in (tensor, given) if a is not None] or [RANK]
        return stated[0] if set(stated) == {note} else None
    stated = [a for a in (config, tensor, given) if a is not None]
    if len(set(stated)) > 1:
        return None
    return stated[0] if stated else RANK


@pytest.mark.parametrize("dialect", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("trust", [None, "tensors", "config"])
def test_the_alpha_that_holds_is_the_one_that_all_places_state_or_the_caller_trusts(tmp_path, dialect, trust):
    for config, tensor, given in itertools.product((None, 2.0, 6.0), (None, 0.0, 2.0, 6.0), (None, 2.0)):
        if dialect == "peft" and config is None and given is None:
            continue  # PEFT has no default
        path = written(tmp_path / "lora", dialect, config, tensor)
        alpha = expected(dialect, config, tensor, given, trust)
        case = f"config {config}, tensor {tensor}, given {given}"
        if alpha is None:
            with pytest.raises(ScaleConflictError):
                print(case, scales(path, alpha=given, trust=trust))
        else:
            assert scales(path, alpha=given, trust=trust) == {MODULE: alpha / RANK}, case


@pytest.mark.parametrize(
    ("stored", "agrees"),
    [
        (np.array(0.1, "f4"), True), (np.array(0.1002, "f4"), False), (np.array(0.1, "f8"), True),
        (np.array(0.1, "f2"), True), (np.array(0.1003, "f2"), True), (np.array(0.101, "f2"), False),
        (np.array(0.10009765625, "f4"), True),  # bfloat16, as it is read
        (np.array([[0.1]], "f4"), True),
    ],
    ids=str,
)  # fmt: skip
def test_an_alpha_agrees_within_the_rounding_of_its_own_dtype_and_no_more(tmp_path, stored, agrees):
    path = written(tmp_path / "lora", "diffusers", 0.1, None)
    header = {"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 0.1})}
    save_file(load_file(path) | {f"unet.{MODULE}.alpha": stored}, path, metadata=header)
    if agrees:
        assert scales(path) == {MODULE: 0.1 / RANK}  # as the header states it, unrounded
    else:
        with pytest.raises(ScaleConflictError):
            read_adapter(path)


def test_each_component_has_its_own_settings_in_a_header_before_the_common_ones(tmp_path):
    tensors = {}
    for module in (f"unet.{MODULE}", f"unet.{OTHER}", f"text_encoder.{CLIP}"):
        tensors |= {f"{module}.lora_A.weight": DOWN, f"{module}.lora_B.weight": UP}
    header = {"unet.r": RANK, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_v": 2}, "r": RANK, "lora_alpha": 16}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": json.dumps(header)})
    assert scales(tmp_path / "a.safetensors") == {MODULE: 2.0, OTHER: 0.5, CLIP: 4.0}
    # a pattern's name is the module's own, without the component
    header["unet.alpha_pattern"] = {rf"^{MODULE}": 4}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": json.dumps(header)})
    assert scales(tmp_path / "a.safetensors") == {MODULE: 1.0, OTHER: 2.0, CLIP: 4.0}


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_of_rank_and_alpha_give_each_module_its_scale(tmp_path, rslora):
    prefix = "base_model.model."
    tensors = {
        f"{prefix}{MODULE}.lora_A.weight": DOWN,
        f"{prefix}{MODULE}.lora_B.weight": UP,
        f"{prefix}{OTHER}.lora_A.weight": DOWN[:1],
        f"{prefix}{OTHER}.lora_B.weight": UP[:, :1].copy(),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "rank_pattern": {"to_v": 1}, "use_rslora": rslora,
              "alpha_pattern": {"to_v": 5}}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert scales(tmp_path) == {MODULE: 6 / (RANK**0.5 if rslora else RANK), OTHER: 5.0}


KOHYA_OTHER = KOHYA.replace("to_q", "to_v")


def kohyas(folder: Path, alphas: tuple[float | None, float | None], **metadata: str) -> Path:
    tensors = {}
    for name, alpha in zip((KOHYA, KOHYA_OTHER), alphas, strict=True):
        tensors |= {f"{name}.lora_down.weight": DOWN, f"{name}.lora_up.weight": UP}
        tensors |= {} if alpha is None else {f"{name}.alpha": np.array(alpha, "f4")}
    save_file(tensors, folder / "a.safetensors", metadata=metadata or None)
    return folder / "a.safetensors"


@pytest.mark.parametrize("alphas", [(8.0, 2.0), (2.0, 8.0), (8.0, None), (None, 8.0), (8.0, 8.0)])
def test_kohyas_header_holds_if_any_module_agrees_with_it(tmp_path, alphas):
    path = kohyas(tmp_path, alphas, ss_network_alpha="8", ss_network_dim=str(RANK))
    adapter = read_adapter(path)
    found = [adapter.factors[Target("unet", module)].scale for module in (MODULE, OTHER)]
    assert found == [1.0 if alpha is None else alpha / RANK for alpha in alphas]
    assert len(adapter.metadata["scale_from"]) == (2 if None in alphas else 1)
    bad = kohyas(tmp_path, alphas, ss_network_alpha="9", ss_network_dim=str(RANK))
    with pytest.raises(ScaleConflictError, match=r"2\.25"):
        read_adapter(bad)
    assert set(scales(bad, trust="config").values()) == {9 / RANK}


@pytest.mark.parametrize(
    "header",
    [{}, {"ss_network_alpha": "9"}, {"ss_network_dim": "4"}, {"ss_network_alpha": "nan", "ss_network_dim": "4"},
     {"ss_network_alpha": "9", "ss_network_dim": "0"}, {"ss_network_alpha": "0", "ss_network_dim": "4"},
     {"ss_network_alpha": "None", "ss_network_dim": "4"}, {"ss_network_alpha": "9", "ss_network_dim": "-4"}],
    ids=str,
)  # fmt: skip
def test_a_header_of_kohyas_that_states_no_scale_is_no_obstacle(tmp_path, header):
    assert scales(kohyas(tmp_path, (2.0, 6.0), **header)) == {MODULE: 0.5, OTHER: 1.5}


def test_the_folded_scale_of_kohyas_rslora_agrees_with_either_alpha(tmp_path):
    header = {"ss_network_alpha": "3", "ss_network_dim": str(RANK), "ss_network_args": '{"rs_lora": "True"}'}
    for alpha in (3.0, 3 * RANK**0.5):
        assert set(scales(kohyas(tmp_path, (alpha, alpha), **header)).values()) == {alpha / RANK}
    with pytest.raises(ScaleConflictError):
        read_adapter(kohyas(tmp_path, (3 * RANK, 3 * RANK), **header))


# ---------------------------------------------------------------- convolutions
def test_a_locons_core_tensor_is_multiplied_in_as_the_einsum_says(tmp_path):
    down, up, mid = (rng.normal(size=s).astype("f4") for s in ((3, 6, 1, 1), (7, 2, 1, 1), (2, 3, 3, 2)))
    name = f"lora_unet_{CONV.replace('.', '_')}"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.lora_mid.weight": mid}
    save_file(tensors | {f"{name}.alpha": np.array(1, "f4")}, tmp_path / "a.safetensors")
    delta = read_adapter(tmp_path / "a.safetensors").factors[Target("unet", CONV)].delta()
    parts = (up[:, :, 0, 0], mid, down[:, :, 0, 0])
    reference = np.einsum("op,pqhw,qi->oihw", *(p.astype("f8") for p in parts)) / 2
    np.testing.assert_allclose(delta, reference, rtol=1e-5)


# ---------------------------------------------------------------- round trips
def several() -> dict[str, Adapter]:
    """Adapters of mixed ranks, scales, kernels and models."""
    unet, text = Target("unet", MODULE), Target("text_encoder", CLIP)
    other, conv, one = (
        Target("unet", OTHER),
        Target("unet", CONV),
        Target("unet", CONV.replace("conv1", "conv_shortcut")),
    )
    return {
        "one": Adapter({unet: pair(2, 6, 7, 13.5)}, base_model="someone/model"),
        "scales": Adapter({unet: pair(2, 6, 7, 0.5), other: pair(2, 6, 7, 3.0)}),
        "ranks": Adapter({unet: pair(3, 6, 7, 1 / 3), other: pair(2, 6, 7, 1 / 3)}),
        "ranks and scales": Adapter({unet: pair(3, 6, 7, 2.0), other: pair(2, 6, 7, 3.0)}),
        "negative": Adapter({unet: pair(2, 6, 7, -1.25), other: pair(2, 6, 7, 0.0)}),
        "convolutions": Adapter(
            {conv: pair(2, 6, 7, 0.7, (3, 3)), one: pair(3, 6, 7, 1.5, (1, 1)), unet: pair(2, 6, 7, 1.0)}
        ),
        "models": Adapter({unet: pair(2, 6, 7, 2.0), text: pair(3, 5, 4, 0.25)}),
    }  # fmt: skip


@pytest.mark.parametrize("dialect", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("name", several())
def test_what_is_written_is_read_back_and_the_file_means_the_same_without_this_library(tmp_path, dialect, name):
    adapter = several()[name]
    if dialect == "peft" and name == "models":
        with pytest.raises(InvalidInputError):
            write_adapter(adapter, tmp_path / "lora", (dialect,))
        return
    write_adapter(adapter, tmp_path / "lora", (dialect,))
    again = read_adapter(tmp_path / "lora")
    assert again.factors.keys() == adapter.factors.keys()
    if dialect != "diffusers":
        assert again.base_model == adapter.base_model
    for target, mine in adapter.factors.items():
        found = again.factors[target]
        assert (found.rank, found.kernel) == (mine.rank, mine.kernel)
        np.testing.assert_allclose(found.delta(), mine.delta(), rtol=1e-6, atol=1e-6)
        if dialect != "diffusers" and mine.scale:
            assert found.scale == pytest.approx(mine.scale, rel=1e-6)
            np.testing.assert_array_equal(found.B, mine.B)
    (file,) = (tmp_path / "lora").glob("*.safetensors")
    tensors = load_file(file)
    for target, mine in adapter.factors.items():
        low, up, alpha = _raw(dialect, target, tensors, adapter)
        ones = (1,) * len(mine.kernel)
        assert low.shape == (mine.rank, mine.inputs, *mine.kernel)
        assert up.shape == (mine.outputs, mine.rank, *ones)
        change = up.reshape(mine.outputs, -1).astype("f8") @ low.reshape(mine.rank, -1) * alpha / mine.rank
        np.testing.assert_allclose(change.reshape(mine.weight_shape), mine.delta(), rtol=1e-5, atol=1e-6)
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    alphas = {round(p.scale * p.rank, 9) for p in adapter.factors.values()}
    if dialect == "kohya":
        whole = len(alphas) == len({p.rank for p in adapter.factors.values()}) == 1
        assert ("ss_network_dim" in metadata, "ss_network_alpha" in metadata) == (whole, whole)
        assert not whole or float(metadata["ss_network_alpha"]) == alphas.pop()
    if dialect == "diffusers":  # every component or none
        alike = all(
            len({p.rank for t, p in adapter.factors.items() if t.component == c}) == 1 for c in ("unet", "text_encoder")
            if any(t.component == c for t in adapter.factors)
        )  # fmt: skip
        assert ("lora_adapter_metadata" in metadata) == alike


def _raw(dialect: str, target: Target, tensors: dict, adapter: Adapter) -> tuple[np.ndarray, np.ndarray, float]:
    """A, B and alpha as a file holds them; diffusers' alpha is the rank."""
    if dialect == "kohya":
        part = {"unet": "unet", "text_encoder": "te"}[target.component]
        name = f"lora_{part}_{target.module.replace('.', '_')}"
        up, alpha = tensors[f"{name}.lora_up.weight"], float(tensors[f"{name}.alpha"])
        return tensors[f"{name}.lora_down.weight"], up, alpha
    if dialect == "diffusers":
        up = tensors[f"{target}.lora_B.weight"]
        return tensors[f"{target}.lora_A.weight"], up, adapter.factors[target].rank
    name = f"base_model.model.{target.module}"
    pair_ = adapter.factors[target]
    return tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"], pair_.scale * pair_.rank


def test_options_reach_the_reader_when_a_checkpoint_is_converted(tmp_path):
    path = written(tmp_path / "lora", "diffusers", 2.0, 6.0)
    for number, (trust, scale) in enumerate((("config", 0.5), ("tensors", 1.5))):
        assert {
            p.scale for p in convert_adapter(path, tmp_path / str(number), "kohya", trust=trust).factors.values()
        } == {scale}
        assert set(scales(tmp_path / str(number)).values()) == {scale}
        assert describe(path, trust=trust)["scale"] == [scale]
    bare = written(tmp_path / "bare", "diffusers", None, None)
    assert convert_adapter(bare, tmp_path / "two", "peft", svd_rank=2).metadata["error"] > 0
    assert describe(tmp_path / "two")["rank"] == [2]
    assert describe(bare, alpha=3.0)["scale"] == [3 / RANK]
    with pytest.raises(InvalidInputError):
        convert_adapter(bare, tmp_path / "none", "kohya", component="text_encoder")
    assert describe(bare, component="text_encoder")["refused"]


@pytest.mark.parametrize(
    ("part", "component"),
    [("te", "text_encoder"), ("te1", "text_encoder"), ("te2", "text_encoder_2")],
)
def test_kohyas_text_encoders_are_told_apart_by_number(tmp_path, part, component):
    name = f"lora_{part}_{CLIP.replace('.', '_')}"
    save_file({f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B}, tmp_path / "a.safetensors")
    assert list(read_adapter(tmp_path / "a.safetensors").factors) == [Target(component, CLIP)]


# ---------------------------------------------------------------- dense changes
def test_a_change_larger_than_any_modules_is_refused_when_it_is_asked_for(tmp_path):
    wide = {
        f"unet.{MODULE}.lora_A.weight": np.ones((1, 16385), "f2"),
        f"unet.{MODULE}.lora_B.weight": np.ones((16385, 1), "f2"),
    }
    save_file(wide, tmp_path / "a.safetensors")
    deltas = read_deltas(tmp_path / "a.safetensors")
    assert (len(deltas), deltas.scales) == (1, {1.0})
    with pytest.raises(UnsupportedFormatError, match=MODULE):
        deltas[Target("unet", MODULE)]


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "lycoris"])
def test_the_changes_of_a_dora_are_refused_too(tmp_path, dialect):
    save_file(PAIRS[dialect] | {f"{KOHYA}.dora_scale": np.ones(7, "f4")}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match="dora_scale"):
        read_deltas(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "lycoris", "flux-xlabs", "cloneofsimo", "peft"])
def test_every_dialect_lists_the_keys_that_it_ignores(tmp_path, dialect):
    tensors = PAIRS[dialect]
    if dialect == "cloneofsimo":
        square = np.ones((1, 768), "f4")
        tensors = {
            f"text_encoder:{i}:{half}": t for i in range(4) for half, t in (("down", square), ("up", square.T.copy()))
        }
    save_file(tensors | {"<s1>": np.ones(768, "f4")}, tmp_path / "a.safetensors", metadata={"<s1>": "<embed>"})
    given = {"peft": {"alpha": 1}, "lycoris": {"svd_rank": 1}}.get(dialect, {})
    assert read_adapter(tmp_path / "a.safetensors", **given).ignored_keys == ("<s1>",)


# ---------------------------------------------------------------- facts
def test_the_facts_of_an_adapter_are_those_of_a_few_lines_of_numpy():
    adapter = several()["convolutions"]
    silent = pair(2, 6, 7, 0.5)
    silent.A[:] = 0
    adapter.factors[Target("unet", OTHER)] = silent
    adapter.factors[Target("text_encoder", CLIP)] = pair(1, 768, 3, 1 / 3)
    facts = facts_of(adapter)
    pairs = [adapter.factors[slot.target] for slot in ParameterLayout.from_adapter(adapter).slots]
    assert facts["params"] == sum(p.A.size + p.B.size for p in pairs)
    assert (facts["modules"], facts["convolutions"], facts["components"]) == (5, 2, ["text_encoder", "unet"])
    assert (facts["rank"], facts["scale"]) == ([1, 2, 3], sorted({p.scale for p in pairs}))
    assert facts["targets"] == ["conv1", "conv_shortcut", "q_proj", "to_q", "to_v"]
    assert (facts["zero_tensors"], facts["zero_names"]) == (1, [f"unet.{OTHER}.A"])
    for name, blocks in (("A", [p.A for p in pairs]), ("B", [p.B for p in pairs]), ("dW", [p.delta() for p in pairs])):
        norm = np.linalg.norm(np.concatenate([b.ravel().astype("f8") for b in blocks]))
        assert facts["norms"][name] == pytest.approx(norm), name
    starts = np.concatenate([p.A.ravel() for p in pairs]).astype("<f4")
    assert facts["initialisation_digest"] == hashlib.sha256(starts.tobytes()).hexdigest()
    vector = [np.concatenate([p.A.ravel(), (p.B.astype("f8") * p.scale).astype("f4").ravel()]) for p in pairs]
    assert facts["vector_sha256"] == hashlib.sha256(np.concatenate(vector).astype("<f4").tobytes()).hexdigest()
    assert facts["layout_digest"] == ParameterLayout.from_adapter(adapter).digest


def adapters(inputs: int) -> Iterator[Adapter]:
    while True:
        yield Adapter({Target("unet", MODULE): pair(1, inputs, 2, 1.0), Target("unet", OTHER): pair(1, inputs, 3, 1.0)})


def test_a_tracker_compares_with_the_first_of_the_same_layout_of_at_most_64_layouts():
    tracker = InitializationTracker()
    first = [next(adapters(i)) for i in range(1, 67)]
    for number, adapter in enumerate(first):
        found = tracker.add(f"first {number}", adapter, str(number))
        assert found == {"initialisation_of": None, "initialisation_cosine": None}
    for number, adapter in enumerate(first):
        found = tracker.add("later", next(adapters(number + 1)), str(number))
        if number >= 64:
            assert found["initialisation_of"] is None
            continue
        assert found["initialisation_of"] == f"first {number}"
        assert tracker.add("same", adapter, str(number))["initialisation_cosine"] == 1.0
    last = next(adapters(64))
    mine, theirs = (np.concatenate([p.A.ravel() for p in x.factors.values()]).astype("f8") for x in (last, first[63]))
    cosine = mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)
    assert tracker.add("last", last, "63")["initialisation_cosine"] == pytest.approx(cosine, abs=1e-6)
    for p in last.factors.values():
        p.A[:] = 0
    assert tracker.add("zero", last, "63")["initialisation_cosine"] is None


# ---------------------------------------------------------------- folders
def test_a_scan_yields_a_peft_folder_once_and_what_it_does_not_repeat(tmp_path):
    folder = tmp_path / "tree" / "lora"
    write_adapter(several()["one"], folder, ("peft", "diffusers", "kohya"))
    save_file(PAIRS["kohya"], folder / "step-100.safetensors")
    save_file(PAIRS["kohya"], tmp_path / "tree" / "pytorch_lora_weights-2.safetensors")
    skipped = Skipped()
    found = [path.relative_to(tmp_path).as_posix() for path in find_checkpoints(tmp_path / "tree", skipped)]
    assert found == ["tree/pytorch_lora_weights-2.safetensors", "tree/lora", "tree/lora/step-100.safetensors"]
    assert sum(skipped.counts.values()) == 2
    assert (is_tree(tmp_path / "tree"), is_tree(folder)) == (True, False)
    (tmp_path / "tree" / "pytorch_lora_weights-2.safetensors").rename(
        tmp_path / "tree" / "pytorch_lora_weights.safetensors"
    )
    assert not is_tree(tmp_path / "tree")


# ---------------------------------------------------------------- the base model that a file names
@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_the_base_model_is_the_one_that_the_file_names_in_its_dialects_own_place(tmp_path, dialect):
    names = {"kohya": ["ss_sd_model_name"], "diffusers": ["base_model_name_or_path", "base_model"], "peft": []}[dialect]
    for key in names:
        save_file(PAIRS[dialect], tmp_path / "a.safetensors", metadata={key: "someone/model", "name": "no"})
        assert read_adapter(tmp_path / "a.safetensors").base_model == "someone/model"
    folder = written(tmp_path / "lora", dialect, float(RANK), None).parent
    assert read_adapter(folder / "adapter_model.safetensors").base_model is None
    if dialect == "peft":
        for stated, found in (("someone/model", "someone/model"), (3, None), (None, None)):
            config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2, "base_model_name_or_path": stated}
            (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
            assert read_adapter(folder).base_model == found


@pytest.mark.parametrize(("alpha", "rank"), [(1, 49), (5, 49), (7, 10), (27, 2), (1, 3), (103, 107)])
def test_a_whole_alpha_is_written_as_it_was_stated_whatever_rounding_its_scale_has(tmp_path, alpha, rank):
    write_adapter(Adapter({Target("unet", MODULE): pair(rank, 6, 7, alpha / rank)}), tmp_path / "lora", ("peft",))
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["lora_alpha"], type(config["lora_alpha"])) == (alpha, int)


@pytest.mark.parametrize(("width", "component"), [(768, "text_encoder"), (1280, "text_encoder_2")])
@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_clips_width_tells_which_text_encoder_a_peft_folder_adapts(tmp_path, width, component, prefix):
    name = f"base_model.model.{prefix}encoder.layers.0.self_attn.q_proj"
    tensors = {f"{name}.lora_A.weight": np.ones((2, width), "f4"), f"{name}.lora_B.weight": np.ones((width, 2), "f4")}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert list(read_adapter(tmp_path).factors) == [Target(component, CLIP)]
