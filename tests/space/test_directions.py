from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import r2_score, roc_auc_score

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.dataset.labels.scores import auc, auc_interval, auc_null, p_value, r2, r2_interval, r2_null
from w2w_hub.errors import DatasetChangedError, InvalidInputError, UnknownNameError
from w2w_hub.space.directions import Direction, UnreliableDirectionWarning, fit_directions, partial_effects
from w2w_hub.space.identity import edited, resolve

from .population import LAYOUT, dataset_of

ROWS = 240
HAIR = ("black", "grey", "red ✂")


def labelled(folder: Path, **changes: object) -> WeightDataset:
    """Rows that follow a binary, a categorical and a continuous label, each along an axis of its own."""
    rng = np.random.default_rng(0)
    beard = rng.random(ROWS) < 0.4
    hair = rng.integers(0, 3, ROWS)
    age = rng.normal(40, 10, ROWS) + 8 * beard  # entangled
    axes = np.linalg.qr(rng.normal(size=(LAYOUT.size, 5)))[0].T
    values = 3 * np.outer(beard, axes[0]) + 3 * axes[1 + hair] + np.outer(age / 5, axes[4])
    values = (1e-2 * (values + 0.15 * rng.normal(size=values.shape)) + 0.3).astype(np.float32)
    columns: dict[str, object] = {
        "Beard": beard,
        "Hair": np.array(HAIR)[hair],
        "Age": np.where(rng.random(ROWS) < 0.1, np.nan, age),
        "Coin": rng.random(ROWS) < 0.5,
        "Rare": np.arange(ROWS) < 3,
        "Always": True,
        "Nobody": pd.array([None] * ROWS, dtype="boolean"),
        **changes,
    }
    return dataset_of(folder, values, layout=LAYOUT, held_out=60, columns=columns)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return labelled(tmp_path_factory.mktemp("d") / "people")


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 12)


def test_every_kind_of_label_has_its_directions(space: WeightSpace) -> None:
    assert set(space.directions) == {"Beard", "Hair=black", "Hair=grey", "Hair=red ✂", "Age", "Coin"}
    kinds = {name: (d.kind, d.attribute, d.level) for name, d in space.directions.items()}
    assert kinds["Hair=red ✂"] == ("categorical", "Hair", "red ✂")
    assert kinds["Age"] == ("float", "Age", None)
    for name in ("Beard", "Hair=grey"):
        assert space.direction(name).auc == pytest.approx(1, abs=0.01)
    age = space.direction("Age")
    assert age.auc is None
    assert age.r2 is not None
    assert age.r2 > 0.9
    assert age.held_out_rows < 60  # those with a label


def test_held_out_figures_are_scikit_learns(dataset: WeightDataset, space: WeightSpace) -> None:
    held_out = dataset.where(split="test")
    c = space.coefficients[held_out].astype(np.float64)
    for name in ("Beard", "Coin"):
        direction = space.direction(name)
        truth = dataset.labels[name].to_numpy(bool)[held_out]
        assert direction.auc == pytest.approx(roc_auc_score(truth, c @ direction.reading), abs=1e-6)
    age = space.direction("Age")
    truth = dataset.labels["Age"].iloc[held_out].to_numpy(float, na_value=np.nan)
    known = ~np.isnan(truth)
    assert age.r2 == pytest.approx(r2_score(truth[known], c[known] @ age.reading + age.intercept), abs=1e-4)


@pytest.mark.parametrize("name", ["Beard", "Hair=grey", "Age"])
def test_more_strength_means_more_of_the_attribute(space: WeightSpace, name: str) -> None:
    start = space.mean_point()
    values = [space.read(space.edit(start, {name: s}), name) for s in (-2, 0, 2)]
    assert values[0] < values[1] < values[2]
    assert np.linalg.norm(space.direction(name).editing) == pytest.approx(1, abs=1e-5)


def test_a_label_that_says_nothing_is_marked_unreliable_and_warns_when_used(space: WeightSpace) -> None:
    assert space.direction("Coin").unreliable
    assert not space.direction("Beard").unreliable
    with pytest.warns(UnreliableDirectionWarning, match="Coin"):
        edited(space, resolve(space, "p00000"), {"Coin": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edited(space, resolve(space, "p00000"), {"Beard": 1.0})


def test_evidence_is_saved_and_opens_as_it_was(space: WeightSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "space")
    again = WeightSpace.from_pretrained(tmp_path / "space")
    for name, direction in space.directions.items():
        assert again.direction(name).evidence() == direction.evidence()
    np.testing.assert_array_equal(again.squared_norms, space.squared_norms)
    np.testing.assert_array_equal(again.residuals, space.residuals)


def test_what_cannot_be_measured_says_why_and_how_rare_it_is(dataset: WeightDataset, space: WeightSpace) -> None:
    for name, says in {
        "Rare": "Rare.*3 of 180",
        "Always": "Always.*180",
        "Nobody": "Nobody",
    }.items():
        with pytest.raises(UnknownNameError, match=says):
            space.edit(space.mean_point(), {name: 1.0})
        with pytest.raises(InvalidInputError, match=says):
            fit_directions(space, dataset, attributes=[name])
    with pytest.raises(UnknownNameError, match="'Halo'"):
        fit_directions(space, dataset, attributes=["Halo"])


def test_a_dataset_that_has_changed_under_a_space_is_refused(space: WeightSpace, tmp_path: Path) -> None:
    other = labelled(tmp_path / "other", Beard=np.arange(ROWS) % 2 == 0)
    with pytest.raises(DatasetChangedError, match=re.escape(str(other.path))) as caught:
        fit_directions(space, other)
    assert caught.value.path == other.path


def test_a_step_preserves_the_read_out_of_what_is_named(space: WeightSpace) -> None:
    start = space.row("p00000")
    plain, kept = space.edit(start, {"Age": 2.0}), space.edit(start, {"Age": 2.0}, preserve=["Beard", "Hair=grey"])
    for name in ("Beard", "Hair=grey"):
        assert space.read(kept, name) == pytest.approx(space.read(start, name), abs=1e-4)
    assert space.read(kept, "Age") > space.read(start, "Age")
    assert not np.allclose(plain.coefficients, kept.coefficients)
    assert kept.history["preserved"] == ["Beard", "Hair=grey"]
    with pytest.raises(InvalidInputError, match="Age"):
        space.edit(start, {"Age": 1.0}, preserve="Age")


def test_preserving_by_fit_holds_what_is_named_and_nothing_else(dataset: WeightDataset, space: WeightSpace) -> None:
    default = fit_directions(space, dataset, attributes=["Age"])["Age"]
    assert "Beard" in default.controlled_for  # they overlap
    assert fit_directions(space, dataset, attributes=["Age"], preserve=[])["Age"].controlled_for == ()
    one = fit_directions(space, dataset, attributes=["Age"], preserve={"Age": ["Hair"]})["Age"]
    assert one.controlled_for == ("Hair=black", "Hair=grey", "Hair=red ✂")
    with pytest.raises(UnknownNameError, match="Halo"):
        fit_directions(space, dataset, preserve=["Halo"])


def test_held_attributes_stay_where_plain_class_means_move_them(dataset: WeightDataset, space: WeightSpace) -> None:
    beard = space.direction("Beard").reading.astype(float)
    plain = fit_directions(space, dataset, attributes=["Age"], editing="means")["Age"]
    clean = fit_directions(space, dataset, attributes=["Age"])["Age"]
    assert abs(clean.editing @ beard) < 0.5 * abs(plain.editing @ beard)


@pytest.mark.parametrize("reading", ["ridge", "lda"])
def test_other_readers_are_scikit_learns_and_give_probabilities(
    dataset: WeightDataset, space: WeightSpace, reading: str
) -> None:
    found = fit_directions(space, dataset, attributes=["Beard"], reading=reading)["Beard"]
    assert found.auc == pytest.approx(1, abs=0.01)
    c, truth = space.coefficients[space.fitted].astype(np.float64), dataset.labels["Beard"].to_numpy(bool)[space.fitted]
    if reading == "lda":
        z = (c - space.coefficient_mean) / space.coefficient_std
        golden = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(z, truth).decision_function(z)
        np.testing.assert_allclose(c @ found.reading + found.intercept, golden, rtol=1e-3, atol=1e-2)
    read = np.array([found.read(row) for row in c])
    assert read[truth].mean() > 0.9
    assert read[~truth].mean() < 0.1


def test_covariance_times_weights_moves_more_than_the_weights_do(dataset: WeightDataset, space: WeightSpace) -> None:
    weights = fit_directions(space, dataset, attributes=["Beard"], editing="reading")["Beard"]
    moved = fit_directions(space, dataset, attributes=["Beard"], editing="covariance")["Beard"]
    means = fit_directions(space, dataset, attributes=["Beard"], editing="means")["Beard"]
    assert moved.editing @ means.editing > weights.editing @ means.editing
    assert moved.sd > weights.sd
    whitened = fit_directions(space, dataset, attributes=["Beard"], editing="means", whiten=True)["Beard"]
    expected = means.editing / space.coefficient_std**2
    np.testing.assert_allclose(whitened.editing, expected / np.linalg.norm(expected), atol=1e-4)


def test_components_are_chosen_by_cross_validation_or_by_number(dataset: WeightDataset, space: WeightSpace) -> None:
    few = fit_directions(space, dataset, attributes=["Beard"], components=3)["Beard"]
    assert few.components == 3
    assert not few.editing[3:].any()
    assert not few.reading[3:].any()
    chosen = fit_directions(space, dataset, attributes=["Beard", "Age"], components="cv")
    assert all(d.components is None or 1 <= d.components <= space.k for d in chosen.values())
    assert chosen["Beard"].auc == pytest.approx(1, abs=0.01)
    with pytest.raises(InvalidInputError, match="components"):
        fit_directions(space, dataset, components=99)


def test_principal_components_are_sliders(space: WeightSpace) -> None:
    start = space.mean_point()
    moved = space.edit(start, {"PC2": 1.5})
    apart = moved.coefficients - start.coefficients
    assert apart[1] == pytest.approx(1.5 * space.coefficient_std[1], rel=1e-4)
    assert np.count_nonzero(np.abs(apart) > 1e-6) == 1
    for name in ("PC0", "PC13", "PC", "PC²"):
        with pytest.raises(UnknownNameError, match="PC1 to PC12"):
            space.direction(name)


def test_entanglement_tells_what_comes_along(space: WeightSpace, dataset: WeightDataset) -> None:
    table = space.entanglement()
    assert table.names == tuple(space.directions)
    np.testing.assert_allclose(np.diag(table.editing), 1, atol=1e-6)
    i, j = table.names.index("Age"), table.names.index("Coin")
    assert table.spill[i, i] > 0.5
    assert abs(table.spill[i, j]) < 0.5
    step = space.direction("Age").sd * space.direction("Age").editing
    scores = space.coefficients[space.fitted] @ space.direction("Beard").reading
    expected = step @ space.direction("Beard").reading / scores.std(ddof=1)
    assert table.spill[i, table.names.index("Beard")] == pytest.approx(expected, rel=1e-3)


def test_a_space_without_labels_has_sliders_and_an_empty_table(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 60)).astype(np.float32)
    space = build_space(dataset_of(tmp_path / "plain", values), 4)
    assert space.directions == {}
    none = space.entanglement()
    assert none.names == ()
    assert [part.shape for part in (none.editing, none.reading, none.spill)] == [(0, 0)] * 3
    assert space.direction("PC4").sd > 0
    with pytest.raises(UnknownNameError, match="Beard"):
        space.direction("Beard")


LEVELS = {"x=y": ["z", "w"], "x": ["y=z", "v"]}


@pytest.mark.parametrize("first", ["binary", "categorical"])
def test_names_that_could_mean_two_directions_make_neither_and_name_both(tmp_path: Path, first: str) -> None:
    rng = np.random.default_rng(1)
    columns = {
        "binary": {"a=b": rng.random(ROWS) < 0.5},
        "categorical": {"a": np.array(["b", "c"])[rng.integers(0, 2, ROWS)]},
        "other": {name: np.array(levels)[rng.integers(0, 2, ROWS)] for name, levels in LEVELS.items()},
        "component": {"PC3": rng.random(ROWS) < 0.5, "PC": rng.random(ROWS) < 0.5, "PC3b": rng.random(ROWS) < 0.5},
    }
    order = sorted(columns, key=lambda name: name != first)
    values = np.random.default_rng(0).normal(size=(ROWS, 60)).astype(np.float32)
    named = {name: values for part in order for name, values in columns[part].items()}
    dataset = dataset_of(tmp_path / "clash", values, columns=named)
    space = build_space(dataset, 5)
    assert set(space.directions) == {"a=c", "x=y=w", "x=v", "PC", "PC3b"}
    for name, both in {"a=b": ("'a=b'", "'a'", "'b'"), "x=y=z": ("'x=y'", "'x'", "'y=z'")}.items():
        for call in (
            lambda name=name: space.edit(space.mean_point(), {name: 1.0}),
            lambda name=name: fit_directions(space, dataset, attributes=[name]),
        ):
            with pytest.raises((UnknownNameError, InvalidInputError)) as caught:
                call()
            assert all(word in str(caught.value) for word in both)
    assert space.direction("PC3").kind == "component"
    assert "PC3" in space.diagnostics["no_direction"]


# ---------------------------------------------------------------- evidence
def test_two_builds_give_the_same_evidence_to_the_bit_and_a_seed_reaches_all_of_it(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    again = build_space(dataset, 12)
    assert again.directions == space.directions
    assert [d.evidence() for d in again.directions.values()] == [d.evidence() for d in space.directions.values()]
    wanted = {"attributes": ["Coin", "Age"], "components": "cv"}
    runs = [fit_directions(space, dataset, seed=seed, **wanted) for seed in (0, 3, 3, 4)]
    assert runs[1] == runs[2]
    for first, second in ((0, 1), (1, 3)):
        for name in ("Coin", "Age"):
            assert runs[first][name].null != runs[second][name].null
        assert runs[first]["Age"].interval != runs[second]["Age"].interval  # of the bootstrap
        assert runs[first]["Coin"].interval == runs[second]["Coin"].interval  # DeLong's has no chance in it
    np.testing.assert_allclose(runs[0]["Age"].interval, runs[1]["Age"].interval, atol=0.1)


def test_the_null_and_the_bootstrap_are_what_permuting_and_resampling_give() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    predicted = truth + 0.5 * rng.normal(size=80)
    null = r2_null(truth, predicted, 5)
    assert null.shape == (999,)
    assert null.max() < r2(truth, predicted)
    assert null.std() > 0
    (low, high), _ = r2_interval(truth, predicted, 5)
    assert low < r2(truth, predicted) < high
    has = (truth > 0).astype(float)
    areas = auc_null(has, predicted, 5)
    assert areas.mean() == pytest.approx(0.5, abs=0.02)
    assert areas.std() == pytest.approx(np.sqrt(81 / (12 * has.sum() * (1 - has).sum())), rel=0.15)  # Mann and Whitney


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=4, max_size=40))
def test_auc_and_its_interval_hold_for_any_scores_with_ties(pairs: list[tuple[bool, int]]) -> None:
    truth, scores = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    if len(set(truth)) < 2:
        return
    area = auc(truth, scores)
    assert area == pytest.approx(roc_auc_score(truth, scores))
    (low, high), _ = auc_interval(truth, scores)
    assert 0 <= low <= area + 1e-9
    assert area - 1e-9 <= high <= 1
    assert high - low > 0  # also at 0 and 1, where a plain DeLong interval has no width


def test_the_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    real = norm.cdf(1.5 / np.sqrt(2))
    truth = np.repeat([0.0, 1.0], [60, 40])
    covered = []
    for _ in range(400):
        (low, high), method = auc_interval(truth, rng.normal(size=100) + 1.5 * truth)
        assert method == "DeLong"
        covered.append(low <= real <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_p_value_counts_the_permutations_that_do_as_well() -> None:
    assert p_value(0.9, np.array([0.5, 0.6, 0.9, 0.95])) == pytest.approx(3 / 5)


def test_old_names_work_for_one_release_with_a_warning(dataset: WeightDataset, space: WeightSpace) -> None:
    direction = space.direction("Age")
    with pytest.deprecated_call(match="controlled_for"):
        assert direction.held == direction.controlled_for
    arrays = {"editing": direction.editing, "reading": direction.reading}
    numbers = {"sd": 1.0, "intercept": 0.0, "auc": None, "positives": 1, "rows": 1, "held_out_rows": 0}
    with pytest.deprecated_call(match="controlled_for"):
        assert Direction(**arrays, **numbers, held=("Beard",)).controlled_for == ("Beard",)
    with pytest.deprecated_call(match="regularization"):
        old = fit_directions(space, dataset, attributes=["Beard"], regularisation=0.5)
    assert old == fit_directions(space, dataset, attributes=["Beard"], regularization=0.5)
    c, labels, held = np.eye(12)[:, :4], np.arange(24.0).reshape(12, 2) % 5, np.ones((2, 2), bool)
    with pytest.deprecated_call(match="controlled_for"):
        effects = partial_effects(c, labels, held=held)
    np.testing.assert_array_equal(effects, partial_effects(c, labels, controlled_for=held))
