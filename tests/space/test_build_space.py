from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space, write_dataset
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import InitializationError, InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target
from w2w_hub.space.directions import partial_effects

LAYOUT = ParameterLayout({Target("unet", f"blocks.{i}.to_q"): (1, 20, 30) for i in range(2)}, 27.0)
SHARED = Compatibility(initialisation="seed-0")


def population(folder: Path, order: np.ndarray | None = None, rows: int = 60, **options) -> WeightDataset:
    """Rows along three known factors; the first is an attribute, and so is the second, which goes with it."""
    rng = np.random.default_rng(0)
    beard = rng.random(rows) < 0.5
    glasses = np.where(rng.random(rows) < 0.7, beard, ~beard)  # entangled: 70 % of the beards wear glasses
    axes = np.linalg.qr(rng.normal(size=(LAYOUT.size, 3)))[0].T
    values = 3 * np.outer(beard, axes[0]) + 3 * np.outer(glasses, axes[1]) + 0.3 * rng.normal(size=(rows, 1)) * axes[2]
    values = (values + 0.02 * rng.normal(size=values.shape)).astype(np.float32)
    values[:, 7] = 0.25  # never varies
    table = pd.DataFrame({"id": [f"p{i:03d}" for i in range(rows)], "Beard": beard, "Glasses": glasses})
    table["split"] = ["train" if i < rows * 0.8 else "test" for i in range(rows)]
    order = np.arange(rows) if order is None else order
    return write_dataset(
        values[order],
        folder,
        layout=LAYOUT,
        ids=list(table["id"][order]),
        labels=table,
        compatibility=SHARED,
        **options,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return population(tmp_path_factory.mktemp("d") / "people")


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 10)


def test_components_are_those_of_scikit_learns_pca_of_standardised_rows(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    rows = dataset.to_numpy("train").astype(np.float64)
    std = rows.std(0, ddof=1)
    golden = PCA(10, svd_solver="full").fit((rows - rows.mean(0)) / np.where(std == 0, 1, std))
    np.testing.assert_allclose(space.singular_values, golden.singular_values_, rtol=1e-5)
    cosines = np.abs((space.basis[:3] * golden.components_[:3]).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    np.testing.assert_allclose(
        list(space.diagnostics["explained_variance"].values())[-1], golden.explained_variance_ratio_.sum(), rtol=1e-4
    )


def test_the_largest_entry_of_every_component_is_positive(space: WeightSpace) -> None:
    assert (space.basis[np.arange(space.k), np.abs(space.basis).argmax(1)] > 0).all()


def test_the_order_of_rows_does_not_change_the_digest(
    dataset: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    shuffled = population(tmp_path / "shuffled", np.random.default_rng(1).permutation(60))
    assert shuffled.ids != dataset.ids
    assert build_space(shuffled, 10).digest == space.digest


def test_held_out_rows_do_not_move_the_space(dataset: WeightDataset, space: WeightSpace, tmp_path: Path) -> None:
    values = dataset.to_numpy().copy()
    values[dataset.where(split="test")] *= 5
    changed = write_dataset(
        values, tmp_path / "changed", layout=LAYOUT, ids=dataset.ids, labels=dataset.labels.reset_index(names="id"),
        compatibility=SHARED,
    )  # fmt: skip
    assert build_space(changed, 10).digest == space.digest


def test_numbers_that_never_vary_are_counted_and_kept(dataset: WeightDataset, space: WeightSpace) -> None:
    assert space.recipe["constant_numbers"] == 1
    assert space.decode(space.row("p000"))[7] == np.float32(0.25)


def test_a_fitted_row_comes_back_from_all_its_components(dataset: WeightDataset) -> None:
    full = build_space(dataset)
    assert full.k == 47
    np.testing.assert_allclose(full.decode(full.row("p003")), dataset["p003"], atol=1e-5)


def test_directions_read_held_out_people_and_are_clean_of_each_other(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    beard, glasses = space.direction("Beard"), space.direction("Glasses")
    assert beard.auc == pytest.approx(1.0)
    assert beard.held_out_rows == 12
    # the known axes are orthogonal; plain class means would be entangled, as the labels are
    rows, labels = space.coefficients[space.fitted], dataset.labels["Beard"].to_numpy(bool)[space.fitted]
    naive = rows[labels].mean(0) - rows[~labels].mean(0)
    other = space.edit(space.mean_point(), {"Beard": 2.0})
    assert space.read(other, "Beard") > max(0.5, space.read(space.mean_point(), "Beard"))
    leak = abs(float(glasses.editing @ beard.editing))
    assert leak < abs(float(naive / np.linalg.norm(naive) @ glasses.editing))
    assert leak < 0.3


def test_partial_effects_recover_the_effects_that_made_the_rows() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 3)) < 0.5).astype(float)
    labels[:, 1] = np.where(rng.random(400) < 0.8, labels[:, 0], labels[:, 1])
    effects = rng.normal(size=(3, 8))
    found = partial_effects(labels @ effects + 0.01 * rng.normal(size=(400, 8)), labels, ridge=0.0)
    np.testing.assert_allclose(found, effects, atol=0.02)


def class_means_apart(coefficients: np.ndarray, has: np.ndarray) -> np.ndarray:
    return coefficients[has].mean(0) - coefficients[~has].mean(0)


def test_what_an_attribute_implies_moves_with_it() -> None:
    rng = np.random.default_rng(0)
    glasses = rng.random(400) < 0.5
    dark = glasses & (rng.random(400) < 0.5)  # sunglasses are eyeglasses
    labels = np.stack([glasses, dark], 1)
    coefficients = labels @ rng.normal(size=(2, 8))
    found = partial_effects(coefficients, labels.astype(float), ridge=0.0)
    for effect, has in zip(found, labels.T, strict=True):
        np.testing.assert_allclose(effect, class_means_apart(coefficients, has), atol=1e-9)


def test_what_an_attribute_excludes_gives_way_to_it() -> None:
    rng = np.random.default_rng(0)
    color = rng.integers(0, 3, 600)  # black, brown, any other
    hat = rng.random(600) < np.where(color == 0, 0.8, 0.2)  # entangled with black hair, yet free of it
    labels = np.stack([color == 0, color == 1, hat], 1)
    effects = rng.normal(size=(3, 8))
    coefficients = labels @ effects
    found = partial_effects(coefficients, labels.astype(float), ridge=0.0)
    others = ~labels[:, 0]
    black = effects[0] - effects[1] * labels[others, 1].mean()  # the other colours leave, the hat stays
    np.testing.assert_allclose(found[0], black, atol=0.05)
    assert np.linalg.norm(class_means_apart(coefficients, labels[:, 0]) - black) > 0.3


def test_strength_is_in_standard_deviations_of_the_population(space: WeightSpace) -> None:
    direction = space.direction("Beard")
    before, after = space.mean_point().coefficients, space.edit(space.mean_point(), {"Beard": 1.5}).coefficients
    along = space.coefficients[space.fitted] @ direction.editing
    assert (after - before) @ direction.editing == pytest.approx(1.5 * along.std(ddof=1), rel=1e-4)


def test_a_raw_space_over_unknown_initialisations_is_refused(dataset: WeightDataset, tmp_path: Path) -> None:
    plain = write_dataset(dataset.to_numpy(), tmp_path / "plain", layout=LAYOUT)
    with pytest.raises(InitializationError, match="plain"):
        build_space(plain)


@pytest.mark.parametrize(
    ("options", "error", "subject"),
    [
        ({"k": 48}, InvalidInputError, "48"),
        ({"k": 0}, InvalidInputError, r"\b0\b"),
        ({"split": "nope"}, UnknownNameError, "nope"),
    ],
)
def test_impossible_requests_are_refused(dataset: WeightDataset, options: dict, error: type, subject: str) -> None:
    with pytest.raises(error, match=subject):
        build_space(dataset, **options)


def test_one_row_makes_no_space(dataset: WeightDataset, tmp_path: Path) -> None:
    lone = write_dataset(dataset.to_numpy()[:1], tmp_path / "lone", layout=LAYOUT, compatibility=SHARED)
    with pytest.raises(InvalidInputError, match="train"):
        build_space(lone)


def test_identical_rows_span_nothing_and_are_refused(dataset: WeightDataset, tmp_path: Path) -> None:
    same = np.repeat(dataset.to_numpy()[:1], 5, 0)
    copies = write_dataset(same, tmp_path / "copies", layout=LAYOUT, compatibility=SHARED)
    with pytest.raises(InvalidInputError, match=r"\b0\b"):
        build_space(copies, 2)
