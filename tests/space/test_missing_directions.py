"""Attributes without a direction: the column of the split is none, and levels with few rows are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.cli import main
from w2w_hub.dataset import SplitRule, relabel_rows
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.space.directions import fit_directions, why_not
from w2w_hub.space.directions.missing import missing_lines
from w2w_hub.space.fit.rebuild import rebuild

from .population import dataset_of

ROWS = 60


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    """Sixty rows of thirty persons, with notes that hardly repeat."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ROWS, 60)).astype(np.float32)
    columns = {
        "person": np.array([f"p{i // 2}" for i in range(ROWS)]),
        "note": np.array([f"note {i // 3}" for i in range(ROWS)]),
        "town": np.array([f"town {i % 17}" for i in range(ROWS)]),
        "Beard": values[:, 0] > 0,
        "Hair": np.where(values[:, 1] > 0, "red", np.where(np.arange(ROWS) < 2, "blue", "grey")),
    }
    return dataset_of(tmp_path_factory.mktemp("d") / "people", values, held_out=10, columns=columns)


@pytest.fixture(scope="module")
def split(people: WeightDataset, tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    """The same rows, split by persons."""
    import shutil

    folder = Path(shutil.copytree(people.path, tmp_path_factory.mktemp("s") / "people"))
    return relabel_rows(folder, split_rule=SplitRule("person", 0.2))


def test_the_column_of_the_split_has_no_direction_and_no_reason(split: WeightDataset) -> None:
    space = build_space(split, 4)
    names = {*space.directions, *space.diagnostics["no_direction"], *why_not(space, split)}
    assert not [name for name in names if name.startswith("person")]
    for name in ("person", "person=p0"):
        with pytest.raises(InvalidInputError, match="person"):
            fit_directions(space, split, attributes=[name])
    assert "Beard" in space.directions
    assert rebuild(space, split, directions=True).digest == space.digest


def test_levels_with_few_rows_are_one_line_however_many_they_are(people: WeightDataset, tmp_path: Path) -> None:
    out = tmp_path / "space"
    result = CliRunner().invoke(main, ["build", str(people.path), "--k", "4", "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if "no direction" in line]
    assert len(lines) == 1
    assert all(name in lines[0] for name in ("person (30 values)", "note (20 values)", "town (17 values)", "Hair=blue"))
    card = (out / "README.md").read_text("utf-8")
    assert [line for line in card.splitlines() if line.startswith("- No direction")] == [
        line for line in card.splitlines() if "person (30 values)" in line
    ]
    assert "p17" not in card
    space = WeightSpace.from_pretrained(out)
    assert len(space.diagnostics["no_direction"]) == 4
    assert {"Beard", "Hair=red", "Hair=grey"} == set(space.directions)
    for name, known in {"person=p17": "fewer than", "Hair=blue": "fewer than", "persona=p17": "Hair=grey"}.items():
        with pytest.raises(UnknownNameError, match=known):
            space.direction(name)
    with pytest.raises(InvalidInputError, match="person=p17"):
        fit_directions(space, people, attributes=["person=p17"])


def test_reasons_that_0_1_0_stored_for_each_level_are_shown_by_reason() -> None:
    stored = {f"person=p{i}": f"{1 + i % 2} of 950 labelled fitted rows have it" for i in range(900)}
    lines = missing_lines(stored | {"Hat": "no fitted row has a label"})
    assert len(lines) == 3
    assert all(len(line) < 200 for line in lines)
    assert json.dumps(missing_lines({})) == "[]"
