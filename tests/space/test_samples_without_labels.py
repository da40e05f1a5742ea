"""Samples of people whom nobody labeled: they are combinations that occur, as spread as the rows, and no copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import WeightSpace, build_space
from w2w_hub.errors import InvalidInputError
from w2w_hub.space.neighbors import FEWEST, draw_near
from w2w_hub.space.population import Population

from .population import dataset_of

GROUPS, K = 6, 12


def rows_in_groups(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around `GROUPS` centers, and which."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, GROUPS, n)
    return 3 * rng.normal(size=(GROUPS, 40))[group] + rng.normal(size=(n, 40)), group


def population_of(rows: np.ndarray, splits: object = "train") -> Population:
    return Population(
        tuple(f"r{i}" for i in range(len(rows))), np.broadcast_to(splits, len(rows)), rows.astype(np.float32), "train"
    )


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> WeightSpace:
    rows, _ = rows_in_groups(300)
    return build_space(dataset_of(tmp_path_factory.mktemp("free") / "rows", rows.astype(np.float32), held_out=60), K)


def distance_to_groups(drawn: np.ndarray, rows: np.ndarray, group: np.ndarray) -> float:
    centers = np.stack([rows[group == g].mean(0) for g in range(GROUPS)])
    return float(np.linalg.norm(drawn[:, None] - centers[None], axis=2).min(1).mean())


def test_people_without_labels_are_drawn_where_people_are_and_gaussian_ones_are_not() -> None:
    rows, group = rows_in_groups(400)
    population = population_of(rows)
    near, gaussian = draw_near(population, 300, 0), population.sample(300, 0)
    own = distance_to_groups(rows, rows, group)
    assert distance_to_groups(near, rows, group) < 1.25 * own
    assert distance_to_groups(gaussian, rows, group) > 1.5 * own


def test_they_are_as_spread_as_rows_and_no_nearer_to_a_row_than_rows_to_each_other() -> None:
    rows, _ = rows_in_groups(400)
    population = population_of(rows)
    drawn = draw_near(population, 400, 1)
    assert ((drawn - population.mean) ** 2).sum(1).mean() == pytest.approx(
        ((rows - population.mean) ** 2).sum(1).mean(), rel=0.1
    )
    z, people = ((c / np.linalg.norm(c, axis=1, keepdims=True)) for c in (drawn - rows.mean(0), rows - rows.mean(0)))
    among = people @ people.T
    np.fill_diagonal(among, -1)
    assert (z @ people.T).max(1).mean() < among.max(1).mean() + 0.03
    assert (z @ people.T).max() < 0.999


@given(seed=st.integers(0, 2**70), count=st.integers(1, 5))
def test_a_seed_gives_the_same_people_however_many_are_drawn(seed: int, count: int) -> None:
    population = population_of(rows_in_groups(60)[0])
    first, more = draw_near(population, count, seed), draw_near(population, count + 3, seed)
    np.testing.assert_allclose(first, more[:count], atol=1e-9)
    assert not np.allclose(first[0], draw_near(population, 1, seed + 1)[0])


def test_rows_that_were_not_fitted_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = rows_in_groups(150)
    splits = np.where(np.arange(150) % 3 == 0, "test", "train")
    other = np.where((splits == "train")[:, None], rows, 100.0)
    expected = draw_near(population_of(rows, splits), 4, 0)
    np.testing.assert_array_equal(draw_near(population_of(other, splits), 4, 0), expected)
    monkeypatch.setattr("w2w_hub.space.neighbors.BLOCK", 7)
    monkeypatch.setattr("w2w_hub.space.neighbors.QUERIES", 3)
    np.testing.assert_allclose(draw_near(population_of(rows, splits), 4, 0), expected, atol=1e-6)


def test_a_space_without_labels_draws_them_by_default(space: WeightSpace) -> None:
    points = space.sample(4, seed=2)
    assert points == space.sample(4, seed=2, method="neighbors")
    assert {point.history["method"] for point in points} == {"neighbors"}
    assert all(point.history["nearest"]["cosine"] < 0.999 for point in points)
    for point, half in zip(points, space.sample(4, 2, 0.5), strict=True):
        center = space.spread.mean
        np.testing.assert_allclose(half.coefficients - center, (point.coefficients - center) / 2, atol=1e-5)
    np.testing.assert_allclose(space.sample(truncation=0)[0].coefficients, space.spread.mean, atol=1e-6)


@pytest.mark.parametrize("n", [FEWEST, 11, 31, 33])
def test_few_rows_are_enough_and_fewer_are_one_line(tmp_path: Path, n: int) -> None:
    rows, _ = rows_in_groups(n)
    assert np.isfinite(draw_near(population_of(rows), 3, 0)).all()
    same = np.repeat(rows[:1], n, 0)
    np.testing.assert_allclose(draw_near(population_of(same), 3, 0), same[:3], atol=1e-4)
    with pytest.raises(InvalidInputError) as caught:
        draw_near(population_of(rows[: FEWEST - 1]), 1, 0)
    assert "\n" not in str(caught.value)
    tiny = build_space(dataset_of(tmp_path / "rows", rows[: FEWEST - 1].astype(np.float32)), 2)
    assert tiny.sample(seed=1) == tiny.sample(seed=1, method="gaussian")
