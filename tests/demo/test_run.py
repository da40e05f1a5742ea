from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from w2w_hub import WeightDataset
from w2w_hub.cli import main
from w2w_hub.demo import workflow
from w2w_hub.demo.run import Demo
from w2w_hub.dialects import read_adapter

from ..tiny_world import TinyWorld

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tiny_world: TinyWorld, made_once: Callable[..., Path]) -> list[Path]:
    """The demo, twice, on the tiny world and with few steps; two processes make one each."""
    names = ("demo-first", "demo-second")
    for name in names:
        made_once(name, lambda folder: tell(tiny_world, folder), wait=False)
    return [made_once(name, lambda folder: tell(tiny_world, folder)) / "out" for name in names]


def make_quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(workflow, "INVERSION_STEPS", 4)
    patch.setattr(workflow, "SCORED_PEOPLE", 6)
    patch.setitem(workflow.DRAWN, "num_inference_steps", 2)


def tell(tiny_world: TinyWorld, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        result = CliRunner().invoke(main, ["demo", "--out", str(folder / "out"), "--assets", str(tiny_world.assets)])
    assert result.exit_code == 0, result.output


def test_the_demo_leaves_everything_it_promises(told: list[Path]) -> None:
    metrics = json.loads((told[0] / "metrics.json").read_text())
    for key in (
        "seconds",
        "real_id_score",
        "cross_id_score",
        "lora_id_score",
        "mean_only_id_score",
        "edits",
        "sets",
        "edits_reached",
        "samples",
        "inversion_id_score",
        "sample_nearest_neighbour_cosine",
        "export_max_abs_diff",
        "evaluation",
    ):
        assert key in metrics, key
    assert metrics["dataset"]["rows"] == 56
    for edit in [*metrics["edits"].values(), *metrics["sets"].values()]:
        assert {"before", "after", "other_attributes_kept", "label_prior"} <= set(edit)
    assert metrics["edits"].keys() == metrics["sets"].keys()
    assert metrics["edits_reached"]["attributes"] == len(metrics["sets"])
    for figures in metrics["samples"].values():
        assert {"same_person_cosine", "different_people_cosine", "nearest_row_cosine"} <= set(figures)
    assert len(list(told[0].glob("*.png"))) >= 8
    WeightDataset.open(told[0] / "dataset").verify()
    assert read_adapter(told[0] / "exported").dialect == "peft"


def test_stock_libraries_draw_the_exported_person_and_not_the_base(told: list[Path]) -> None:
    metrics = json.loads((told[0] / "metrics.json").read_text())
    assert metrics["export_max_abs_diff"] < 1e-3
    assert metrics["export_base_max_abs_diff"] > 10 * metrics["export_max_abs_diff"]


def test_two_runs_give_the_same_figures_but_for_the_seconds(told: list[Path]) -> None:
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in told)
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert first == second


def test_the_report_needs_no_other_file(told: list[Path]) -> None:
    page = (told[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 9
    assert not [
        word for word in re.findall(r'(?:src|href)="([^"]{1,20})', page) if word[0] != "#" and word[:5] != "data:"
    ]
    sheets = {file.name for file in told[0].glob("*.png")}
    assert sheets == set(re.findall(r'<p class="file">([^<]+)', page))
    assert "w2w pack" in page
    assert "w2w export" in page


def test_the_report_sets_what_was_reached_beside_what_was_wished(told: list[Path]) -> None:
    page = (told[0] / "report.html").read_text()
    assert "relative score of the held-out people&#x27;s own LoRAs</td><td>&gt;= 0.8</td>" in page
    assert "missed" in page
    assert json.loads((told[0] / "metrics.json").read_text())["evaluation"]["loras"]["relative_score"] == 0.5


def test_sheets_are_pictures_with_something_on_them(told: list[Path]) -> None:
    for sheet in told[0].glob("*.png"):
        assert len(Image.open(sheet).convert("RGB").getcolors(1 << 24) or []) > 50, sheet.name


def test_the_report_names_no_folder_of_this_machine_and_its_commands_are_one_shell_script(
    told: list[Path], tiny_world: TinyWorld
) -> None:
    page = (told[0] / "report.html").read_text()
    text = re.sub(r'"data:[^"]*"', "", page)
    for folder in (told[0].parent, tiny_world.assets, Path.home(), Path(workflow.__file__).parents[2]):
        assert str(folder) not in text
    assert "$ASSETS" in text
    assert "out/dataset" in text


def test_the_report_has_a_link_to_each_section_and_fits_a_phone(told: list[Path]) -> None:
    page = (told[0] / "report.html").read_text()
    targets = re.findall(r'href="#([^"]+)"', page)
    assert len(targets) >= 12
    assert targets == re.findall(r' id="([^"]+)"', page)
    assert '<meta name="viewport"' in page
    assert "white-space:pre-wrap" in page


def test_an_edit_stands_beside_the_unedited_person_under_the_same_prompt(told: list[Path]) -> None:
    sheet = np.asarray(Image.open(next(told[0].glob("edits-*.png"))).convert("RGB"))
    side, gap = 64 * workflow.SCALE, 4
    columns = 3 * len(workflow.CASES)  # before, set, push
    left, top = sheet.shape[1] - columns * (side + gap), sheet.shape[0] - 3 * (side + gap)
    rows = [
        [sheet[top + i * (side + gap) :, left + j * (side + gap) :][:side, :side] for j in range(columns)]
        for i in range(3)
    ]
    for before in range(0, columns, 3):
        assert all((row[before] == rows[0][before]).all() for row in rows)  # nobody is edited there
        assert any((row[before + 1] != row[before]).any() for row in rows)  # what is there already is not set
        assert all((row[before + 2] != row[before]).any() for row in rows)


def test_a_failing_demo_keeps_its_finished_stages_and_says_how_to_go_on(
    tiny_world: TinyWorld, told: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("stopped")

    make_quick(monkeypatch)
    out = tmp_path / "out"
    words = ["demo", "--out", str(out), "--assets", str(tiny_world.assets)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Demo, "render_people", fail)
        result = CliRunner().invoke(main, words)
    assert isinstance(result.exception, RuntimeError)
    assert f"--out {out} --resume" in result.output
    journal = json.loads((out / "demo.json").read_text())
    assert list(journal["stages"]) == ["dataset", "weight space"]
    shutil.copytree(told[0], tmp_path / "copy")
    for refused in (words, [*words, "--resume", "--force"]):
        again = CliRunner().invoke(main, refused)
        assert again.exit_code == 2
        assert "--resume" in again.output
    monkeypatch.setattr(workflow, "SCORED_PEOPLE", 5)  # other settings would mix figures
    other = CliRunner().invoke(main, [*words, "--resume"])
    assert other.exit_code == 2
    assert str(out) in other.output
    assert json.loads((out / "demo.json").read_text()) == journal


def test_a_finished_demo_is_left_as_it_is_and_a_lost_file_is_made_again(
    tiny_world: TinyWorld, told: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quick(monkeypatch)
    out = Path(shutil.copytree(told[0], tmp_path / "out"))
    words = ["demo", "--out", str(out), "--assets", str(tiny_world.assets), "--resume"]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert CliRunner().invoke(main, words).exit_code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "export.png").unlink()
    (out / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.output.count("is there already") == 6  # the export and the report are made
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "export.png").read_bytes() == before[out / "export.png"]
    assert (out / "report.html").read_bytes() == before[out / "report.html"]


def test_force_begins_anew_where_there_is_nothing_but_a_demo(
    tiny_world: TinyWorld, told: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(Demo, "make_dataset", fail)
    out = Path(shutil.copytree(told[0], tmp_path / "out"))
    words = ["demo", "--out", str(out), "--assets", str(tiny_world.assets), "--force"]
    mine = out / "dataset" / "mine.txt"
    mine.write_text("mine")
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "mine.txt" in refused.output
    assert (out / "report.html").exists()
    mine.unlink()
    killed = out / ".space.0123abcd.w2w-partial"  # what a kill leaves
    killed.mkdir()
    (killed / "basis.safetensors").write_text("")
    assert isinstance(CliRunner().invoke(main, words).exception, RuntimeError)
    assert [path.name for path in out.iterdir()] == ["demo.json"]


@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_a_folder_that_no_demo_made_is_never_touched(option: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "report.html").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "mine"), option])
    assert result.exit_code == 2
    assert str(tmp_path / "mine") in result.output
    assert (tmp_path / "mine" / "report.html").read_text() == "mine"
    (tmp_path / "mine" / "demo.json").write_text("{}")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "mine"), "--resume"])
    assert result.exit_code == 2
    assert (tmp_path / "mine" / "report.html").read_text() == "mine"
