"""`w2w inspect` and `w2w convert` on checkpoints, called as a shell calls them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from tests.conftest import factors
from tests.dialects.test_detection import KOHYA, MODULE, PAIRS
from w2w_hub import Adapter, ParameterLayout, pack_adapters, read_adapter, write_adapter
from w2w_hub.cli import main
from w2w_hub.dialects import convert_adapter
from w2w_hub.dialects.inspection import guess_base, inspect_adapter
from w2w_hub.lora.adapter import Target

TO_K = MODULE.replace("attn1.to_q", "attn2.to_k")
ISSUED = ("dialect", "components", "rank", "scale", "modules", "params", "layout_digest", "vector_sha256")


def w2w(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def facts(*arguments: object) -> dict:
    result = w2w("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def mixed() -> Adapter:
    """Two modules whose scales and ranks differ, one of which does nothing."""
    idle = factors(1, 768, 8, scale=1.0)
    idle.B[:] = 0
    return Adapter(
        {Target("unet", TO_K): idle, Target("unet", MODULE): factors(2, 6, 7, scale=27.0, seed=1)},
        base_model="someone/model",
    )


# ---------------------------------------------------------------- one checkpoint
def test_the_facts_of_an_adapter_are_its_own(mixed, tmp_path):
    write_adapter(mixed, tmp_path / "lora", ("peft",))
    found = facts(tmp_path / "lora")
    assert {name: found[name] for name in ISSUED[:6]} == {
        "dialect": "peft", "components": ["unet"], "rank": [1, 2], "scale": [1.0, 27.0], "modules": 2,
        "params": 768 + 8 + 2 * 6 + 2 * 7,
    }  # fmt: skip
    layout = ParameterLayout.from_adapter(mixed)
    assert found["layout_digest"] == layout.digest
    k, q = (mixed.factors[Target("unet", name)] for name in (TO_K, MODULE))
    vector = np.concatenate([q.A.ravel(), (q.B * np.float32(27)).ravel(), k.A.ravel(), k.B.ravel()])  # attn1, attn2
    assert found["vector_sha256"] == hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()
    assert found["norms"]["dW"] == pytest.approx(float(np.linalg.norm(q.delta())))
    assert (found["zero_tensors"], found["zero_names"]) == (1, [f"unet.{TO_K}.B"])
    assert (found["base_model"], found["base_guess"]) == ("someone/model", "Stable Diffusion 1.x")
    (evidence,) = found["base_evidence"]
    assert evidence.startswith(f"Stable Diffusion 1.x: unet.{TO_K} ")
    assert "768" in evidence
    assert (found["refused"], found["ignored_keys"], found["dtypes"]) == (None, [], {"F32": 4})
    assert found["passengers"] == found["ignored_keys"]  # its name until 0.3


def test_the_vectors_digest_is_the_same_in_every_dialect_that_keeps_the_numbers(mixed, tmp_path):
    digests = set()
    for dialect in ("peft", "kohya", "diffusers"):
        write_adapter(mixed, tmp_path / dialect, (dialect,))
        digests.add(facts(tmp_path / dialect)["vector_sha256"])
    assert len(digests) == 1


def test_people_read_the_same_facts_as_a_table(mixed, tmp_path):
    write_adapter(mixed, tmp_path / "lora", ("peft",))
    result = w2w("inspect", tmp_path / "lora")
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["dialect"].strip() == "peft"
    assert [v.strip() for k, v in lines.items() if k.startswith("scale") and "from" not in k] == ["1, 27"]


def test_a_checkpoint_that_is_recognised_and_refused_gives_its_facts_and_the_reason(tmp_path):
    save_file(PAIRS["kohya"] | {f"{KOHYA}.dora_scale": np.ones(7, np.float32)}, tmp_path / "a.safetensors")
    result = w2w("inspect", tmp_path / "a.safetensors", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert set(ISSUED) <= found.keys()
    assert (found["dialect"], found["rank"], found["layout_digest"]) == ("kohya", [2], None)
    assert f"{KOHYA}.dora_scale" in found["refused"]
    assert result.stderr.startswith("w2w: error: ")
    assert result.stderr.count("\n") == 1


def test_a_mlx_adapters_rank_is_its_second_axis(tmp_path):
    save_file(PAIRS["mlx"], tmp_path / "adapters.safetensors")
    found = inspect_adapter(tmp_path / "adapters.safetensors")
    assert (found["dialect"], found["rank"]) == ("mlx", [2])
    assert "MLX" in found["refused"]


def test_a_lokr_is_described_without_a_layout_and_with_one_if_a_rank_is_asked_for(tmp_path):
    save_file(PAIRS["lycoris"], tmp_path / "a.safetensors")
    found = facts(tmp_path / "a.safetensors")
    assert (found["modules"], found["scale"], found["rank"], found["layout_digest"]) == (1, [1.0], [2], None)
    assert "read_deltas" in found["note"]


@pytest.mark.parametrize(
    ("targets", "guess"),
    [
        ({("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"): 1024}, "Stable Diffusion 2.x"),
        ({("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"): 2048}, "SDXL"),
        ({("transformer", "single_transformer_blocks.0.attn.to_q"): 3072}, "Flux.1"),
        ({("text_encoder_2", "text_model.encoder.layers.0.self_attn.q_proj"): 1280}, "SDXL"),
        ({("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"): 1280}, None),
        (
            {("unet", "a.attn2.to_k"): 768, ("text_encoder_2", "text_model.encoder.layers.0.self_attn.q_proj"): 1280},
            None,
        ),
    ],
)
def test_the_base_model_is_guessed_from_shapes_and_left_open_where_they_disagree(targets, guess):
    adapter = Adapter({Target(*t): factors(1, inputs, 4) for t, inputs in targets.items()})
    found, evidence = guess_base(adapter)
    assert found == guess
    assert bool(evidence) == (guess is not None or len(targets) > 1)


# ---------------------------------------------------------------- many
@pytest.fixture
def tree(mixed, tmp_path) -> Path:
    root = tmp_path / "tree"
    write_adapter(mixed, root / "b" / "peft", ("peft",))
    root.joinpath("a").mkdir()
    save_file(PAIRS["kohya"], root / "a" / "kohya.safetensors")
    save_file(PAIRS["kohya"] | PAIRS["diffusers"], root / "a" / "mixed.safetensors")
    save_file({"conv_in.weight": np.ones((2, 2), np.float32)}, root / "a" / "model.safetensors")
    (root / "a" / "cut.safetensors").write_bytes(b"ab")
    (root / "notes 日本.txt").write_text("x")
    (root / ".cache").mkdir()
    save_file(PAIRS["kohya"], root / ".cache" / "kohya.safetensors")
    (root / "c").mkdir()
    (root / "c" / "pickle.ckpt").write_bytes(b"\x80")
    return root


def test_a_tree_is_scanned_to_one_object_a_line_and_what_is_skipped_is_told(tree):
    result = w2w("inspect", tree, "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    found = {Path(r["path"]).relative_to(tree).as_posix(): r for r in rows}
    assert list(found) == ["a/cut.safetensors", "a/kohya.safetensors", "a/mixed.safetensors", "b/peft"]
    assert found["a/cut.safetensors"]["refused"]
    assert "diffusers, kohya" in found["a/mixed.safetensors"]["refused"]
    assert (found["a/kohya.safetensors"]["dialect"], found["b/peft"]["dialect"]) == ("kohya", "peft")
    assert "model.safetensors" in result.stderr
    assert all(name in result.stderr for name in ("pickle.ckpt", ".cache", "notes 日本.txt"))
    table = w2w("inspect", tree)
    assert table.exit_code == 0
    assert len(table.stdout.splitlines()) == 5


def test_several_paths_are_one_object_a_line_and_a_named_one_that_is_bad_is_exit_status_2(tree):
    good, bad = tree / "a" / "kohya.safetensors", tree / "a" / "cut.safetensors"
    result = w2w("inspect", bad, good, "--json")
    assert result.exit_code == 2
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [r["path"] for r in rows] == [str(bad), str(good)]
    assert [r["refused"] is None for r in rows] == [False, True]
    assert w2w("inspect", good, good, "--json").exit_code == 0
    assert w2w("inspect", good, tree / "nowhere", "--json").exit_code == 2


def test_an_empty_tree_says_that_there_is_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    result = w2w("inspect", tmp_path / "empty", "--json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert str(tmp_path / "empty") in result.stderr


def test_a_scan_tells_which_adapters_began_from_one_initialisation(tmp_path):
    rng, start = np.random.default_rng(0), factors(2, 60, 70)
    for name in ("one", "two", "three"):
        a = start.A + 0.05 * rng.normal(size=start.A.shape).astype(np.float32)
        a = a if name != "three" else rng.normal(size=a.shape).astype(np.float32)
        write_adapter(Adapter({Target("unet", MODULE): type(start)(a, start.B, 1.0)}), tmp_path / "t" / name, ("peft",))
    rows = {
        Path(r["path"]).name: r["initialisation_cosine"]
        for r in map(json.loads, w2w("inspect", tmp_path / "t", "--json").stdout.splitlines())
    }
    assert rows.pop("one") is None  # what the others are compared with
    assert abs(rows["three"]) < 0.3
    assert rows["two"] > 0.95


# ---------------------------------------------------------------- against
def test_against_a_layout_dataset_or_adapter_says_whether_it_fits_and_why_not(mixed, tmp_path):
    write_adapter(mixed, tmp_path / "lora", ("peft",))
    write_adapter(Adapter({t: factors(3, p.inputs, p.outputs) for t, p in mixed.factors.items()}), tmp_path / "other")
    layout = ParameterLayout.from_adapter(mixed, scale=1.0)
    (tmp_path / "layout.json").write_text(json.dumps(layout.to_json()))
    pack_adapters([tmp_path / "lora"], tmp_path / "people")
    for against in ("layout.json", "people", "people/manifest.json", "lora"):
        found = facts(tmp_path / "lora", "--against", tmp_path / against)
        assert (found["fits"], found["incompatibility"]) == (True, None)
        if against == "layout.json":
            assert found["folded_into_B"] == {"27": 1}
        if against.startswith("people"):
            assert found["initialisation_cosine"] == 1.0
        result = w2w("inspect", tmp_path / "other", "--against", tmp_path / against, "--json")
        assert result.exit_code == 1
        found = json.loads(result.stdout)
        assert found["fits"] is False
        assert "rank 3" in found["incompatibility"]
        assert found["misfit"] == found["incompatibility"]  # its old name


@pytest.mark.parametrize("against", ["nowhere", "bad.json"])
def test_against_nothing_usable_is_exit_status_2(mixed, tmp_path, against):
    write_adapter(mixed, tmp_path / "lora", ("peft",))
    (tmp_path / "bad.json").write_text("{}")
    assert w2w("inspect", tmp_path / "lora", "--against", tmp_path / against).exit_code == 2


# ---------------------------------------------------------------- convert
@pytest.mark.parametrize("to", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("source", ["kohya", "diffusers", "diffusers-attn-processor"])
def test_a_checkpoint_is_converted_with_the_same_change(tmp_path, source, to):
    save_file(PAIRS[source], tmp_path / "a.safetensors")
    result = w2w("convert", tmp_path / "a.safetensors", "--to", to, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"from {source} to {to}, scale 1" in result.stderr
    before, after = read_adapter(tmp_path / "a.safetensors"), read_adapter(tmp_path / "out")
    assert after.dialect == to
    for target, pair in before.factors.items():
        np.testing.assert_allclose(after.factors[target].delta(), pair.delta(), rtol=1e-6)


def test_one_file_is_made_where_the_name_says_so_and_refused_for_peft(tmp_path):
    save_file(PAIRS["diffusers"], tmp_path / "a.safetensors")
    out = tmp_path / "deep" / "b.safetensors"
    assert w2w("convert", tmp_path / "a.safetensors", "--to", "kohya", "--out", out).exit_code == 0
    assert f"{KOHYA}.alpha" in load_file(out)
    assert [p.name for p in out.parent.iterdir()] == ["b.safetensors"]
    result = w2w("convert", tmp_path / "a.safetensors", "--to", "peft", "--out", tmp_path / "c.safetensors")
    assert (result.exit_code, "c.safetensors" in result.stderr) == (2, True)
    again = w2w("convert", tmp_path / "a.safetensors", "--to", "kohya", "--out", out)
    assert (again.exit_code, str(out) in again.stderr) == (2, True)


def test_an_adapter_of_two_models_becomes_a_peft_folder_for_each(tmp_path):
    clip = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    both = PAIRS["kohya"] | {
        f"{clip}.lora_down.weight": np.ones((2, 5), "f4"),
        f"{clip}.lora_up.weight": np.ones((4, 2), "f4"),
    }
    save_file(both, tmp_path / "a.safetensors")
    result = w2w("convert", tmp_path / "a.safetensors", "--to", "peft", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    before = read_adapter(tmp_path / "a.safetensors")
    found = {}
    for component in ("unet", "text_encoder"):
        found |= read_adapter(tmp_path / "out" / component).factors
    assert {str(t) for t in found} == {str(t) for t in before.factors}
    assert f"{tmp_path / 'out'}/text_encoder, {tmp_path / 'out'}/unet" in result.stderr
    assert len(w2w("inspect", tmp_path / "out", "--json").stdout.splitlines()) == 2


def test_what_a_dialect_has_no_place_for_is_told(tmp_path):
    save_file(
        PAIRS["kohya"] | {"<s1>": np.ones(768, np.float32)}, tmp_path / "a.safetensors", metadata={"<s1>": "<embed>"}
    )
    result = w2w("convert", tmp_path / "a.safetensors", "--to", "diffusers", "--out", tmp_path / "out")
    assert "<s1>" in result.stderr


def test_a_lokr_is_converted_only_with_a_rank_and_its_error_is_told(tmp_path):
    save_file(PAIRS["lycoris"], tmp_path / "a.safetensors")
    refused = w2w("convert", tmp_path / "a.safetensors", "--to", "peft", "--out", tmp_path / "out")
    assert (refused.exit_code, "--rank 8" in refused.stderr, (tmp_path / "out").exists()) == (2, True, False)
    done = w2w("convert", tmp_path / "a.safetensors", "--to", "peft", "--rank", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "an approximation of rank 2: relative error 0." in done.stderr


def test_flux_is_not_written_in_kohyas_fused_names(tmp_path):
    save_file(PAIRS["flux-bfl"], tmp_path / "a.safetensors")
    result = w2w("convert", tmp_path / "a.safetensors", "--to", "kohya", "--out", tmp_path / "out")
    assert (result.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "transformer.transformer_blocks.0" in result.stderr
    adapter = convert_adapter(tmp_path / "a.safetensors", tmp_path / "d", "diffusers")
    assert [str(t) for t in read_adapter(tmp_path / "d").factors] == [str(t) for t in adapter.factors]


@pytest.mark.fixtures
def test_a_real_tree_of_every_dialect_is_scanned(real_lora):
    root = real_lora("kohya").parent
    result = w2w("inspect", root, "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {r["dialect"] for r in rows} == {
        "cloneofsimo", "diffusers", "diffusers-attn-processor", "kohya", "lycoris", "peft",
    }  # fmt: skip
    assert all(r["refused"] is None for r in rows)
    assert {r["zero_tensors"] for r in rows if "peft-unet" in r["path"]} == {32}
