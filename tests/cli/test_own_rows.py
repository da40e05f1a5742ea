"""A row's id is its point in the space; `--dataset` asks for the row's own LoRA, by every command that takes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from w2w_hub import Point, WeightDataset, WeightSpace, build_space, read_adapter
from w2w_hub.cli import main

from ..tiny_world import TinyWorld
from .test_commands import refused, w2w

DRAW = ("--steps", 1, "--scale", 1)
ROW, OTHER = "person-0041", "person-0042"  # held out, so that the space does not hold all of them
COMMANDS = ("render", "grid", "edit", "export", "read", "nearest")


@pytest.fixture(scope="module")
def rough_space(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space of the tiny world that leaves much of each row out."""
    space = build_space(WeightDataset.open(tiny_world.rows), 2, name="rough")
    return space.save(tmp_path_factory.mktemp("rough") / "space", base=tiny_world.base)


def weights_of(folder: Path, space: WeightSpace) -> np.ndarray:
    return space.layout.flatten(read_adapter(folder))


def test_every_command_on_an_identity_can_be_asked_for_own_loras() -> None:
    assert [name for name in COMMANDS if "--dataset" in {o for p in main.commands[name].params for o in p.opts}] == [
        *COMMANDS
    ]


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("read", ()), ("nearest", ()), ("export", ("--out", "out")), ("edit", ("Full_Beard=1", "--out", "out")),
        pytest.param("render", (*DRAW, "--out", "out.png"), marks=pytest.mark.slow),
        pytest.param(
            "grid", ("--attribute", "Full_Beard", "--count", 2, *DRAW, "--out", "out.png"), marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_each_says_which_it_used(
    command: str, more: tuple[Any, ...], rough_space: Path, tiny_world: TinyWorld, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    own = w2w(command, rough_space, ROW, "--dataset", tiny_world.rows, *more)
    assert own.exit_code == 0, own.output
    for made in tmp_path.iterdir():
        made.rename(tmp_path / f"own-{made.name}")
    point = w2w(command, rough_space, ROW, *more)
    assert point.exit_code == 0, point.output
    if not more:
        refused(w2w(command, rough_space, "nobody", "--dataset", tiny_world.rows), "nobody")
        refused(w2w(command, rough_space, ROW, "--dataset", "gone"), "gone")
    if command == "nearest":
        return
    kept = WeightSpace.from_pretrained(rough_space).population.explained_ratio(ROW)
    [said] = [line for line in point.stderr.splitlines() if line.startswith(f"{ROW}:")]
    assert f"{100 * kept:.3g} %" in said
    [other] = [line for line in own.stderr.splitlines() if line.startswith(f"{ROW}:")]
    assert said != other
    if command in ("render", "grid"):
        last = [np.asarray(Image.open(name))[-68:, -68:] for name in ("out.png", "own-out.png")]  # without captions
        assert (last[0] != last[1]).any()


def test_own_loras_are_exported_exactly_and_several_as_folders(
    rough_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    space, people = WeightSpace.from_pretrained(rough_space), WeightDataset.open(tiny_world.rows)
    many = ("export", rough_space, ROW, OTHER, "base.json", "--out", tmp_path / "all")
    refused(w2w(*many), "base.json")
    space.mean_point().save(tmp_path / "mean.json")
    result = w2w(*many[:4], tmp_path / "mean.json", "--dataset", tiny_world.rows, *many[-2:])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["mean", ROW, OTHER]
    for row in (ROW, OTHER):
        np.testing.assert_allclose(weights_of(tmp_path / "all" / row, space), people[row], atol=1e-7)
    assert w2w("export", rough_space, ROW, "--out", tmp_path / "point").exit_code == 0
    np.testing.assert_allclose(weights_of(tmp_path / "point", space), space.decode(ROW), atol=1e-6)
    assert np.abs(space.decode(ROW) - people[ROW]).max() > 1e-4


def test_an_edit_of_an_own_lora_is_a_folder_or_a_point_that_says_what_it_lacks(
    rough_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    space, people = WeightSpace.from_pretrained(rough_space), WeightDataset.open(tiny_world.rows)
    edit = ("edit", rough_space, ROW, "Full_Beard=2", "--dataset", tiny_world.rows, "--out")
    assert w2w(*edit, tmp_path / "bearded").exit_code == 0
    step = space.decode(space.edit(ROW, {"Full_Beard": 2.0})) - space.decode(ROW)
    np.testing.assert_allclose(weights_of(tmp_path / "bearded", space), people[ROW] + step, atol=1e-5)
    as_point = w2w(*edit, tmp_path / "bearded.json")
    assert as_point.exit_code == 0
    assert "note:" in as_point.stderr
    assert Point.load(tmp_path / "bearded.json").history["row"] == ROW


def test_what_is_read_is_stated_in_json_too(rough_space: Path, tiny_world: TinyWorld) -> None:
    point = json.loads(w2w("read", rough_space, ROW, "--json").stdout)
    own = json.loads(w2w("read", rough_space, ROW, "--dataset", tiny_world.rows, "--json").stdout)
    assert (point["own_weights"], own["own_weights"]) == (False, True)
    assert point["kept"] == pytest.approx(own["kept"], abs=1e-4)
    assert own["explained"] == pytest.approx(own["kept"], abs=1e-4)
    assert point["explained"] == pytest.approx(1, abs=1e-5)
