"""`w2w sample`, `edit`, `invert`, `render`, `grid` and `export` on the tiny world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from w2w_hub import WeightSpace, read_adapter
from w2w_hub.space.keeping import distinct as _distinct
from w2w_hub.space.points import load_point

from .test_commands import refused, w2w

DRAW = ("--steps", 1, "--scale", 1)


def test_points_are_json_or_safetensors_and_mean_the_same(tiny_space: Path, tmp_path: Path) -> None:
    for kind in ("json", "safetensors"):
        assert w2w("sample", tiny_space, "--count", 2, "--kind", kind, "--out", tmp_path / kind).exit_code == 0
        edit = ("edit", tiny_space, tmp_path / kind / f"sample-001.{kind}", "Full_Beard=1")
        assert w2w(*edit, "--out", tmp_path / f"edited.{kind}").exit_code == 0
    a, b = (load_point(tmp_path / f"edited.{kind}") for kind in ("json", "safetensors"))
    np.testing.assert_array_equal(a.coefficients, b.coefficients)
    assert a.history == b.history
    assert json.loads(w2w("inspect", tmp_path / "edited.safetensors", "--json").stdout)["kind"] == "point"
    refused(w2w(*edit, "--out", tmp_path / "edited.txt"), ".json or .safetensors")


def test_samples_have_the_wanted_attributes_and_name_their_nearest_row(tiny_space: Path, tmp_path: Path) -> None:
    given = ("sample", tiny_space, "--count", 3, "--attribute", "Full_Beard=true", "--attribute", "Sunglasses=false")
    rows = json.loads(w2w(*given, "--json", "--out", tmp_path / "points").stdout)
    space = WeightSpace.open(tiny_space)
    for row in rows:
        assert (row["attributes"]["Full_Beard"], row["attributes"]["Sunglasses"]) == (True, False)
        assert space.read(row["point"], "Full_Beard") > 0.5 > space.read(row["point"], "Sunglasses")
        [(name, cosine)] = space.nearest(row["point"])
        assert (row["nearest"], row["cosine"]) == (name, pytest.approx(cosine, abs=1e-3))
        assert name in repr(load_point(row["point"]))
    gaussian = w2w("sample", tiny_space, "--method", "gaussian", "--json", "--out", tmp_path / "g").stdout
    np.testing.assert_array_equal(load_point(json.loads(gaussian)[0]["point"]).coefficients,
                                  space.sample(method="gaussian")[0].coefficients)  # fmt: skip
    out = ("--out", tmp_path / "x")
    refused(w2w(*given, "--method", "gaussian", *out), "attributes")
    refused(w2w("sample", tiny_space, "--attribute", "Ful_Beard=true", *out), "did you mean 'Full_Beard'")
    refused(w2w("sample", tiny_space, "--attribute", "Full_Beard=maybe", *out), "True and False")
    assert not (tmp_path / "x").exists()


def test_an_edit_sets_attributes_and_says_what_changed(tiny_space: Path, tmp_path: Path) -> None:
    space = WeightSpace.open(tiny_space)
    own = space.population_model.read(space.row("person-0001").coefficients)
    value = str(not own["Full_Beard"]).lower()
    result = w2w("edit", tiny_space, "person-0001", "--set", f"Full_Beard={value}", "--out", tmp_path / "p.json")
    assert f"Full_Beard: {own['Full_Beard']} -> {not own['Full_Beard']}" in result.stderr
    assert space.population_model.read(load_point(tmp_path / "p.json").coefficients)["Full_Beard"] != own["Full_Beard"]
    both = w2w("edit", tiny_space, "person-0001", "Sunglasses=1", "--set", f"Full_Beard={value}", "--strength", 1,
               "--json", "--out", tmp_path / "both.json")  # fmt: skip
    assert json.loads(both.stdout)["set"]["Full_Beard"] == [own["Full_Beard"], not own["Full_Beard"]]
    history = load_point(tmp_path / "both.json").history
    assert history["edits"] == {"Sunglasses": 1.0}
    assert history["steps"] == [{"set": {"Full_Beard": not own["Full_Beard"]}, "strength": 1.0}]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--set"), (("Full_Beard=true",), "--set Full_Beard=true"), (("--set", "Full_Beard"), "ATTRIBUTE=VALUE"),
        (("--set", "Full_Beard=true", "--set", "Full_Beard=false"), "twice"),
        (("--set", "Full_Beard=4.5"), "True and False"), (("--set", "Halo=true"), "Halo"),
        (("--set", "Full_Beard=true", "--strength", "11"), "between 0 and 10"),
        (("--set", "Full_Beard=true", "Full_Beard=1"), "both set and pushed"),
        (("Full_Beard=1", "--strength", "1"), "set"), (("PC1=1", "--unit", "typical"), "PC1"),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_is_one_line(
    tiny_space: Path, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    result = w2w("edit", tiny_space, "person-0001", *words, "--out", tmp_path / "x.json")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "x.json").exists()


def test_an_edit_reports_distance_and_scores_and_preserves(tiny_space: Path, tmp_path: Path) -> None:
    result = w2w("edit", tiny_space, "person-0001", "Full_Beard=+2", "--preserve", "Sunglasses", "--json",
                 "--out", tmp_path / "p.json")  # fmt: skip
    facts = json.loads(result.stdout)
    before, after = facts["before_after"]["Sunglasses"]
    assert before == pytest.approx(after, abs=1e-3)
    assert facts["distance"] > 0
    far = w2w("edit", tiny_space, "person-0001", "Full_Beard=99", "--out", tmp_path / "far.json")
    assert far.exit_code == 0
    assert "leaves the population" in far.stderr
    twice = w2w("edit", tiny_space, "person-0001", "Full_Beard=1", "Full_Beard=2", "--out", tmp_path / "x.json")
    assert twice.exit_code == 2
    assert "given twice" in twice.stderr
    wrong = ("edit", tiny_space, "person-0001", "Ful_Beard=1", "--out", tmp_path / "x.json")
    refused(w2w(*wrong), "did you mean 'Full_Beard'")
    refused(w2w("edit", tiny_space, "person-001", "Full_Beard=1", "--out", tmp_path / "x.json"), "person-00")


def test_a_layer_wise_edit_is_whole_as_a_lora_and_says_what_a_point_loses(tiny_space: Path, tmp_path: Path) -> None:
    edit = ("edit", tiny_space, "person-0001", "Full_Beard=3", "--layers", "up,down", "--json")
    facts = json.loads(w2w(*edit, "--out", tmp_path / "lora").stdout)
    assert facts["layers"]["mid"] == 0
    assert sum(facts["layers"].values()) == pytest.approx(1, abs=1e-3)
    lost = w2w(*edit, "--out", tmp_path / "p.json")
    assert "p.json holds a point" in lost.stderr
    space = WeightSpace.open(tiny_space)
    whole, before = space.layout.flatten(read_adapter(tmp_path / "lora")), space.decode("person-0001")
    for slot in space.layout.slots:
        same = np.array_equal(whole[slot.offset : slot.end], before[slot.offset : slot.end])
        assert same == slot.target.module.startswith("mid")
    refused(w2w(*edit[:4], "--layers", "dwn", "--out", tmp_path / "x.json"), "did you mean down")


def test_a_grid_shows_strengths_or_prompts_and_a_sweep_moves(tiny_space: Path, tmp_path: Path) -> None:
    people = ("person-0001", "person-0007")
    strengths = w2w("grid", tiny_space, *people, "--attribute", "Full_Beard", "--strengths=-3,0,3", *DRAW,
                    "--out", tmp_path / "s.png")  # fmt: skip
    assert strengths.exit_code == 0, strengths.output
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.width > 3 * 64
    assert sheet.height > 2 * 64
    prompts = w2w("grid", tiny_space, *people, "--prompt", "a", "--prompt", "b", *DRAW, "--out", tmp_path / "p.png")
    assert prompts.exit_code == 0, prompts.output
    sets = w2w(
        "grid", tiny_space, *people, "--set", "Full_Beard=true", "--count", 3, *DRAW, "--out", tmp_path / "t.png"
    )
    assert sets.exit_code == 0, sets.output
    assert "2 identities x 3 strengths" in sets.stderr + sets.stdout
    sweep = w2w("grid", tiny_space, *people, "--attribute", "Full_Beard", "--count", 4, "--preserve", "Sunglasses",
                "--start", 0.5, *DRAW, "--out", tmp_path / "s.gif")  # fmt: skip
    assert sweep.exit_code == 0, sweep.output
    assert Image.open(tmp_path / "s.gif").n_frames == 6  # there and back


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--out", "x.gif"), "need an --attribute"),
        (("--attribute", "Full_Beard", "--set", "Full_Beard=true", "--out", "x.png"), "--set"),
        (("--set", "Halo=true", "--out", "x.png"), "Halo"),
        (("--strengths", "1,2", "--out", "x.png"), "need an --attribute"),
        (("--attribute", "Full_Beard", "--strengths", "1,a", "--out", "x.png"), "1,a"),
        (("--attribute", "Full_Beard", "--strengths", "nan", "--out", "x.png"), "finite"),
        (("--attribute", "Full_Beard", "--prompt", "a", "--prompt", "b", "--out", "x.png"), "one prompt and one seed"),
        (("--attribute", "Halo", "--out", "x.png"), "no attribute 'Halo'"),
        (("--attribute", "Full_Beard", "--start", "1", "--out", "x.png"), "below 1"),
        (("--attribute", "Full_Beard", "--out", "x.txt"), "choose .png"),
        (("--out", "x"), "choose .png"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused(
    tiny_space: Path, tmp_path: Path, options: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = w2w("grid", tiny_space, "person-0001", *options)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert not list(tmp_path.iterdir())


def test_inversion_takes_masks_and_tells_each_loss(tiny_space: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64), (200, 100, 50)).save(tmp_path / folder / "face.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    Image.new("L", (64, 64), 0).save(tmp_path / "black.png")
    faces = (tmp_path / "a" / "face.png", tmp_path / "b" / "face.png")
    masks = ("--mask", tmp_path / "mask.png") * 2
    result = w2w("invert", tiny_space, *faces, *masks, "--steps", 2, "--kind", "safetensors", "--json",
                 "--out", tmp_path / "points")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [Path(row["point"]).name for row in rows] == ["face.safetensors", "face-2.safetensors"]
    assert [len(row["losses"]) for row in rows] == [2, 2]
    one = ("invert", tiny_space, faces[0], "--steps", 2, "--out", tmp_path / "more")
    refused(w2w(*one, *masks), "as many masks")
    refused(w2w(*one, "--mask", tmp_path / "black.png"), "a mask is empty")
    refused(w2w(*one, "--k", 10_000), "12")
    Image.new("RGB", (32, 64)).save(tmp_path / "small.png")
    refused(w2w("invert", tiny_space, tmp_path / "small.png", "--out", tmp_path / "more"), "needs 64x64")
    assert not (tmp_path / "more").exists()


def test_an_export_holds_the_dialects_that_were_asked_for(tiny_space: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    assert w2w("export", tiny_space, "person-0001", "--dialect", "kohya", "--out", out).exit_code == 0
    assert [p.name for p in out.iterdir()] == ["kohya_lora.safetensors"]
    assert len(read_adapter(out / "kohya_lora.safetensors").factors) > 0
    refused(w2w("export", tiny_space, "person-0001", "--dialect", "nothing", "--out", tmp_path / "x"), "nothing")
    refused(w2w("export", tiny_space, "base", "--out", tmp_path / "x"), "base")
    refused(w2w("export", tiny_space, tmp_path / "gone.json", "--out", tmp_path / "x"), "gone.json")


def test_a_folder_that_cannot_be_written_is_one_line(tiny_space: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = w2w("sample", tiny_space, "--out", tmp_path / "file" / "points")
    refused(result, "file")


@given(st.lists(st.sampled_from(["a", "a-2", "a-2-2", "a-3", "b"]), max_size=9))
def test_pictures_of_one_name_become_points_of_different_names(names: list[str]) -> None:
    found = _distinct(names)
    assert len(set(found)) == len(found) == len(names)
    assert all(new.startswith(old) for old, new in zip(names, found, strict=True))
    if len(set(names)) == len(names):
        assert found == names
