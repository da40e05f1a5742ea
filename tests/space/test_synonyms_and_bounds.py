"""Directions that say the same are told once; strengths and points of which only noise is drawn are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from w2w_hub import ParameterLayout, Point, WeightSpace, build_space, write_dataset
from w2w_hub.cli import main
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.space.directions import synonyms, synonyms_text
from w2w_hub.space.edits import STRONGEST
from w2w_hub.space.identity import resolve
from w2w_hub.space.population import FARTHEST


@pytest.fixture
def space(layout: ParameterLayout, tmp_path: Path, saved: Callable[..., Path]) -> WeightSpace:
    """A space of rows that are labelled by columns that say the same, the opposite and nearly the same."""

    def write(path: Path) -> None:
        rng = np.random.default_rng(0)
        glasses, age = rng.random(60) < 0.5, rng.uniform(20, 60, 60)
        ways = rng.normal(size=(2, layout.size))
        rows = np.outer(glasses, 3 * ways[0]) + np.outer((age - 40) / 10, ways[1]) + rng.normal(size=(60, layout.size))
        table = pd.DataFrame({"id": [f"p{i}" for i in range(60)], "Glasses": glasses, "Age": age})
        table["Eyes"] = np.where(glasses, "glasses", "bare")
        table["Spectacles"] = glasses ^ np.isin(np.arange(60), (7, 8))  # two labels differ
        dataset = write_dataset(
            rows.astype(np.float32), path.with_name("rows"), layout=layout, ids=list(table["id"]), labels=table,
            initialization="seed-0",
        )  # fmt: skip
        build_space(dataset, 8).save(path)

    return WeightSpace.from_pretrained(saved("space of synonyms", write))


def test_columns_that_label_the_same_rows_are_one_direction_named_by_a_column(space: WeightSpace) -> None:
    found = synonyms(space.directions)
    assert set(space.directions) == {"Glasses", "Age", "Eyes=glasses", "Eyes=bare", "Spectacles"}
    assert list(found) == ["Glasses", "Age"]
    assert found["Age"] == {}
    assert found["Glasses"]["Eyes=glasses"] == pytest.approx(1)
    assert found["Glasses"]["Eyes=bare"] == pytest.approx(-1)
    assert 0.95 < found["Glasses"]["Spectacles"] < 0.99999
    assert {"= Eyes=glasses", "= not Eyes=bare", "~ Spectacles"} == {
        text.strip() for text in re.findall(r"[=~] (?:not )?[A-Z][^ ]*", synonyms_text(found["Glasses"]))
    }


def test_every_direction_is_in_one_group(space: WeightSpace) -> None:
    found = synonyms(space.directions)
    names = [name for head, others in found.items() for name in (head, *others)]
    assert sorted(names) == sorted(space.directions)
    assert synonyms({}) == {}


def test_listing_card_and_error_show_one_row_for_directions_that_say_the_same(space: WeightSpace) -> None:
    shown = CliRunner().invoke(main, ["directions", str(space.path)]).stdout.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["Glasses", "Age"]
    assert "Eyes=bare" in shown[1]
    card = (Path(str(space.path)) / "README.md").read_text("utf-8")
    assert [line for line in card.splitlines() if "Eyes=bare" in line] == [
        line for line in card.splitlines() if "Glasses" in line and line.startswith("|")
    ]
    with pytest.raises(UnknownNameError) as error:
        space.direction("Hat")
    assert "Eyes=" not in str(error.value)
    space.edit("p0", {"Eyes=bare": 1.0})  # every name still works


def test_the_strongest_side_effects_are_pairs_of_different_attributes_in_order(space: WeightSpace) -> None:
    found = space.entanglement()
    pairs = found.strongest(100)
    assert len(pairs) == 20
    assert all(a != b for a, b, _ in pairs)
    assert [abs(spill) for *_, spill in pairs] == sorted((abs(spill) for *_, spill in pairs), reverse=True)
    few = found.among(["Age", "Glasses"])
    assert few.names == ("Glasses", "Age")
    assert {(a, b) for a, b, _ in few.strongest()} == {("Glasses", "Age"), ("Age", "Glasses")}
    assert few.spill[0, 1] == found.spill[found.names.index("Glasses"), found.names.index("Age")]
    assert found.among([]).strongest() == []


def test_the_picture_of_side_effects_has_a_cell_for_each_pair(space: WeightSpace, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    out = tmp_path / "effects.png"
    words = ["directions", str(space.path), "--entanglement", "--out", str(out)]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert len(set(image.open(out).convert("RGB").getdata())) > 3
    assert CliRunner().invoke(main, words).exit_code == 2
    assert CliRunner().invoke(main, [*words, "--force"]).exit_code == 0


# ---------------------------------------------------------------- bounds
@pytest.mark.parametrize("strength", [STRONGEST * 1.01, -1e9, 1e300])
def test_an_absurd_strength_is_refused_and_a_large_one_is_not(space: WeightSpace, strength: float) -> None:
    with pytest.raises(InvalidInputError) as error:
        space.edit("p0", {"Glasses": strength})
    assert error.value.name == "Glasses"
    space.edit("p0", {"Glasses": float(np.sign(strength)) * STRONGEST})


def test_an_absurd_point_is_refused_wherever_it_would_be_decoded(space: WeightSpace) -> None:
    width = float(np.linalg.norm(space.spread.std))
    far = Point(np.full(8, 2 * FARTHEST * width, np.float32), space.digest)
    for use in (space.adapter, space.decode, lambda point: resolve(space, point), lambda point: space.edit(point, {})):
        with pytest.raises(InvalidInputError):
            use(far)
    with pytest.raises(InvalidInputError):
        resolve(space, far.coefficients)
    with pytest.raises(InvalidInputError):
        space.sample(truncation=1e6)
    with pytest.raises(InvalidInputError):
        space.interpolate([space.row("p0"), space.row("p1")], [1e6, 1 - 1e6])
    near = Point(far.coefficients / np.float32(np.sqrt(8) * 4), space.digest)
    space.adapter(near)
