from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from w2w_hub import WeightDataset
from w2w_hub.cli import main
from w2w_hub.demo import run as demo_run
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


def tell(tiny_world: TinyWorld, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_run, "INVERSION_STEPS", 4)
        patch.setattr(demo_run, "SCORED_PEOPLE", 6)
        patch.setitem(demo_run.DRAWN, "num_inference_steps", 2)
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
        "inversion_id_score",
        "sample_nearest_neighbour_cosine",
        "export_max_abs_diff",
        "evaluation",
    ):
        assert key in metrics, key
    assert metrics["dataset"]["rows"] == 56
    for edit in metrics["edits"].values():
        assert {"before", "after", "other_attributes_kept", "label_prior"} <= set(edit)
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
    assert page.count("data:image/png;base64,") >= 8
    assert "http" not in page
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


def test_a_failing_demo_leaves_nothing(tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(demo_run.Demo, "render_people", fail)
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out"), "--assets", str(tiny_world.assets)])
    assert isinstance(result.exception, RuntimeError)
    assert not list(tmp_path.iterdir())
