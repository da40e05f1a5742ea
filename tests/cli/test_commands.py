from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from w2w_hub import WeightDataset
from w2w_hub.cli import main
from w2w_hub.cli.common import Sections

from ..tiny_world import INITIALISATION, TinyWorld


def w2w(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(result: Result, *says: str) -> None:
    """One line on standard error, exit status 2, nothing on standard output."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("w2w: error: ")
    for text in says:
        assert text in result.stderr


@pytest.fixture(scope="module")
def packed(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "people"
    result = w2w(
        "pack",
        *tiny_world.adapters,
        "--labels",
        tiny_world.assets / "labels.csv",
        "--base",
        tiny_world.base,
        "--initialisation",
        INITIALISATION,
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert w2w("add", out, tiny_world.rows).exit_code == 0
    return out


def test_every_command_is_in_a_section_and_shows_an_example() -> None:
    listed = [name for names in Sections.order.values() for name in names]
    assert sorted(listed) == sorted(main.commands)
    for name in listed:
        text = w2w(name, "--help").output
        assert "Examples:" in text, name
        assert f"w2w {name} " in text, name


def test_packing_and_adding_gives_one_dataset_that_verifies(packed: Path, tiny_world: TinyWorld) -> None:
    dataset = WeightDataset.open(packed)
    dataset.verify()
    assert len(dataset) == 56
    assert dataset.manifest.compatibility == WeightDataset.open(tiny_world.rows).manifest.compatibility


def test_build_sample_edit_render_and_export_run_one_after_the_other(
    packed: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    space = tmp_path / "space"
    built = w2w("build", packed, "--k", 10, "--base", tiny_world.base, "--out", space, "--json")
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["k"] == 10
    sampled = w2w("sample", space, "--count", 2, "--out", tmp_path / "points", "--json")
    assert [Path(row["point"]).name for row in json.loads(sampled.stdout)] == ["sample-000.json", "sample-001.json"]
    point = tmp_path / "edited.json"
    assert w2w("edit", space, "person-0001", "Sunglasses=+2", "Dark_Skin=-1", "--out", point).exit_code == 0
    sheet = tmp_path / "sheet.png"
    rendered = w2w("render", space, "base", "person-0001", point, tiny_world.adapters[0], "--steps", 2, "--out", sheet)
    assert rendered.exit_code == 0, rendered.output
    assert Image.open(sheet).height > 4 * 128
    assert w2w("export", space, point, "--out", tmp_path / "lora").exit_code == 0
    facts = json.loads(w2w("inspect", tmp_path / "lora", "--json").stdout)
    assert (facts["kind"], facts["rank"], facts["scale"]) == ("adapter", [1], [27.0])


def test_inversion_writes_a_point_for_each_picture(tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path) -> None:
    pictures = []
    for i in range(2):
        pictures.append(tmp_path / f"face-{i}.png")
        Image.new("RGB", (64, 64), (200, 100 * i, 50)).save(pictures[-1])
    result = w2w("invert", tiny_space, *pictures, "--steps", 2, "--out", tmp_path / "points")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "points").iterdir()) == ["face-0.json", "face-1.json"]
    together = w2w("invert", tiny_space, *pictures, "--together", "--steps", 2, "--out", tmp_path / "one")
    assert together.exit_code == 0, together.output
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["face-0.json"]


@pytest.mark.parametrize("kind", ["adapter", "dataset", "weight space", "point"])
def test_inspect_tells_what_a_path_is(
    kind: str, packed: Path, tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    w2w("sample", tiny_space, "--out", tmp_path / "points")
    paths = {
        "adapter": tiny_world.adapters[0],
        "dataset": packed,
        "weight space": tiny_space,
        "point": tmp_path / "points" / "sample-000.json",
    }
    assert json.loads(w2w("inspect", paths[kind], "--json").stdout)["kind"] == kind
    assert kind in w2w("inspect", paths[kind]).stdout


# ---------------------------------------------------------------- bad input
def test_a_missing_adapter_is_refused(tmp_path: Path) -> None:
    refused(w2w("pack", tmp_path / "nowhere", "--out", tmp_path / "out"), "nowhere")
    assert not (tmp_path / "out").exists()


def test_a_truncated_adapter_is_refused_and_nothing_is_written(tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copytree(tiny_world.adapters[0], tmp_path / "cut")
    file = tmp_path / "cut" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(w2w("pack", tiny_world.adapters[1], tmp_path / "cut", "--out", tmp_path / "out"), "cut", "safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut"]


def test_an_existing_output_is_refused_by_every_command_that_writes(
    packed: Path, tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there.png").write_text("mine")
    commands: list[tuple[object, ...]] = [
        ("pack", tiny_world.adapters[0]),
        ("build", packed),
        ("sample", tiny_space),
        ("demo",),
        ("edit", tiny_space, "person-0001", "Sunglasses=1"),
        ("export", tiny_space, "person-0001"),
    ]
    for command in commands:
        refused(w2w(*command, "--out", tmp_path / "there"), "already exists")
    refused(w2w("render", tiny_space, "person-0001", "--out", tmp_path / "there.png"), "already exists")
    refused(w2w("invert", tiny_space, tmp_path / "there.png", "--out", tmp_path / "there"), "already exists")
    assert not list((tmp_path / "there").iterdir())
    assert (tmp_path / "there.png").read_text() == "mine"


def test_an_unknown_attribute_lists_the_known_ones(tiny_space: Path, tmp_path: Path) -> None:
    refused(w2w("edit", tiny_space, "person-0001", "Halo=2", "--out", tmp_path / "p.json"), "Halo", "Sunglasses")
    assert not list(tmp_path.iterdir())


def test_a_strength_that_is_no_number_is_a_usage_error(tiny_space: Path, tmp_path: Path) -> None:
    result = w2w("edit", tiny_space, "person-0001", "Sunglasses=much", "--out", tmp_path / "p.json")
    assert result.exit_code == 2
    assert "ATTRIBUTE=STRENGTH" in result.stderr


def test_an_unreadable_picture_is_refused(tiny_space: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    refused(w2w("invert", tiny_space, tmp_path / "no.png", "--out", tmp_path / "points"), "no.png", "picture")


def test_building_from_unknown_initialisations_names_the_command(tiny_world: TinyWorld, tmp_path: Path) -> None:
    assert w2w("pack", *tiny_world.adapters, "--out", tmp_path / "d").exit_code == 0
    refused(w2w("build", tmp_path / "d", "--out", tmp_path / "space"), "w2w relabel", "--initialization NAME")


def test_adding_the_same_rows_twice_is_refused_and_the_dataset_stays(packed: Path, tiny_world: TinyWorld) -> None:
    before = WeightDataset.open(packed).manifest.digest
    refused(w2w("add", packed, tiny_world.rows), "person-0000")
    dataset = WeightDataset.open(packed)
    dataset.verify()
    assert dataset.manifest.digest == before
