"""Directions of ordinal labels: one direction whose read-out is the expected grade's place in the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import r2_score

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.cli import main
from w2w_hub.dataset.labels.kinds import Ordinal
from w2w_hub.space import fit_directions
from w2w_hub.space.directions import Direction
from w2w_hub.space.report import figures, page

from .population import LAYOUT, dataset_of

ROWS, HELD_OUT, K = 150, 50, 8
ORDER = ("none", "short", "medium", "long")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    rng = np.random.default_rng(0)
    place, coin = rng.integers(0, 4, ROWS), rng.integers(0, 4, ROWS)
    axes = np.linalg.qr(rng.normal(size=(LAYOUT.size, 3)))[0].T
    values = np.outer(place, axes[0]) + np.outer(rng.normal(size=ROWS), axes[1])
    values += 0.2 * rng.normal(size=values.shape) / 3
    columns = {
        "Length": pd.Categorical.from_codes(np.where(np.arange(ROWS) % 11 == 0, -1, place), list(ORDER), ordered=True),
        "Place": place + 0.0,
        "Coin": pd.Categorical.from_codes(coin, list(ORDER), ordered=True),
        "Few": pd.Categorical.from_codes(np.where(np.arange(ROWS) < 9, place, -1), list(ORDER), ordered=True),
        "Single": pd.Categorical.from_codes(np.zeros(ROWS, int), list(ORDER), ordered=True),
    }
    return dataset_of(
        tmp_path_factory.mktemp("d") / "people", (values / 100).astype(np.float32), layout=LAYOUT, held_out=HELD_OUT,
        columns=columns,
    )  # fmt: skip


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, K)


def places(dataset: WeightDataset) -> np.ndarray:
    codes = dataset.labels["Length"].cat.codes.to_numpy(float)
    return np.where(codes < 0, np.nan, codes)


def test_an_ordinal_attribute_has_one_direction_and_few_or_equal_grades_a_reason(space: WeightSpace) -> None:
    assert set(space.directions) == {"Length", "Place", "Coin"}
    assert set(space.diagnostics["no_direction"]) == {"Few", "Single"}
    assert space.direction("Length").read_out == Ordinal(ORDER)
    assert space.direction("Coin").unreliable
    assert not space.direction("Length").unreliable


def test_its_score_is_r2_of_the_grades_places_on_held_out_rows(dataset: WeightDataset, space: WeightSpace) -> None:
    direction, truth = space.direction("Length"), places(dataset)
    assert space.population is not None
    use = ~space.population.fitted & ~np.isnan(truth)
    read = np.array([direction.read(c) for c in space.population.coefficients[use]])
    assert direction.score == direction.r2 == pytest.approx(r2_score(truth[use], read), abs=1e-4)
    assert direction.auc is None
    assert direction.score > 0.8
    assert direction.held_out_rows == use.sum()
    assert direction.interval is not None
    assert direction.p_value == pytest.approx(1 / 1000)


def test_it_is_the_direction_of_the_grades_places_as_numbers(dataset: WeightDataset, space: WeightSpace) -> None:
    ordinal = fit_directions(space, dataset, attributes=["Length"], preserve=[])["Length"]
    place = fit_directions(space, dataset, attributes=["Place"], preserve=[])["Place"]
    assert ordinal.editing @ place.editing > 0.98
    assert ordinal.kind == place.kind
    assert ordinal.reading_method == place.reading_method


def test_more_strength_is_a_higher_grade(space: WeightSpace) -> None:
    start = space.mean_point()
    values = [space.read(space.edit(start, {"Length": s}), "Length") for s in (-2, 0, 2)]
    assert values == sorted(values)
    assert values[2] - values[0] > 1


def test_evidence_keeps_the_order_and_reads_as_a_number_without_it(space: WeightSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "s")
    one, again = space.direction("Length"), WeightSpace.from_pretrained(tmp_path / "s").direction("Length")
    assert again.evidence() == one.evidence()
    assert again.read_out == Ordinal(ORDER)
    entry = one.evidence()
    for label_kind in (None, {"kind": "of a later version", "order": 3}):
        older = Direction.from_evidence(one.editing, one.reading, {**entry, "label_kind": label_kind})
        c = np.arange(K) / 10
        assert older.read(c) == one.read(c)
        assert older.score == one.score
    assert "label_kind" not in space.direction("Place").evidence()


def test_the_report_and_the_command_line_show_grades(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    data = figures(space, dataset)
    assert {s["attribute"]: s["continuous"] for s in data["scatter"]}["Length"]
    assert "Length" in page(data)
    space.save(tmp_path / "s")
    truth = places(dataset)
    for place, grade in ((0, "none"), (3, "long")):
        row = dataset.ids[int(np.flatnonzero(truth == place)[0])]
        found = CliRunner().invoke(main, ["read", str(tmp_path / "s"), row])
        assert found.exit_code == 0, found.output
        assert grade in next(line for line in found.output.splitlines() if line.startswith("Length"))


@pytest.mark.parametrize(
    ("places", "halves"),
    [
        ([0, 0, 0, 1, 2], [0, 0, 0, 1, 1]), ([0, 2, 2, 2, 2], [0, 1, 1, 1, 1]), ([0, 1, 2, 3], [0, 0, 1, 1]),
        ([1, 1, 1], [0, 0, 0]), ([0, 0, 0, 0, 1, 3], [0, 0, 0, 0, 1, 1]),
    ],
)  # fmt: skip
def test_grades_are_cut_where_the_sides_are_most_nearly_equal(places: list[float], halves: list[float]) -> None:
    found = Ordinal(ORDER).halves(np.array([*places, np.nan], float))
    np.testing.assert_array_equal(found, [*halves, np.nan])
