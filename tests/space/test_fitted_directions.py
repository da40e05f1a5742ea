"""Directions against computations of their own, whatever the options."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score

from w2w_hub import WeightDataset, WeightSpace, build_space, write_dataset
from w2w_hub.dataset.labels.scores import auc, auc_interval, auc_null, p_value, r2, r2_interval, r2_null
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnknownNameError
from w2w_hub.space.directions import Direction, fit_directions, overlap, partial_effects, why_not
from w2w_hub.space.directions.entanglement import mean_off_diagonal
from w2w_hub.space.directions.reading import choose_components, fit_reading
from w2w_hub.space.edits import preserving

from .population import LAYOUT, dataset_of

ROWS, HELD_OUT, K = 150, 50, 12
FITTED = ROWS - HELD_OUT


def columns(rng: np.random.Generator) -> dict[str, Any]:
    beard = rng.random(ROWS) < 0.45
    hair = np.array(["grey", "red", "black"], object)[rng.integers(0, 3, ROWS)]
    hair[rng.random(ROWS) < 0.1] = None
    glasses = (rng.random(ROWS) < 0.3) | (beard & (rng.random(ROWS) < 0.4))
    return {
        "Beard": pd.array(np.where(rng.random(ROWS) < 0.12, None, beard), dtype="boolean"),
        "Hair": hair,
        "Age": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(40, 10, ROWS) + 9 * beard),
        "Glasses": glasses,
        "Sun": glasses & (rng.random(ROWS) < 0.5),  # only with glasses
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    rng = np.random.default_rng(3)
    table = columns(rng)
    causes = np.column_stack([
        pd.Series(table["Beard"]).fillna(False).to_numpy(bool), pd.Series(table["Hair"]).eq("grey"), table["Glasses"],
        np.nan_to_num(table["Age"], nan=40) / 20, table["Sun"],
    ]).astype(float)  # fmt: skip
    values = causes @ rng.normal(size=(5, LAYOUT.size)) + rng.normal(size=(ROWS, 9)) @ rng.normal(size=(9, LAYOUT.size))
    values = (1e-2 * (values + 0.8 * rng.normal(size=values.shape)) + 0.3).astype(np.float32)
    return dataset_of(
        tmp_path_factory.mktemp("d") / "people", values, layout=LAYOUT, held_out=HELD_OUT, columns=table,
        order=rng.permutation(ROWS),
    )  # fmt: skip


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, K)


NAMES = ("Beard", "Hair=black", "Hair=grey", "Hair=red", "Age", "Glasses", "Sun")
HAIR = ("Hair=black", "Hair=grey", "Hair=red")


def truth_of(dataset: WeightDataset, space: WeightSpace, name: str) -> np.ndarray:
    """The label of each of the space's rows, row by row."""
    column, _, level = name.partition("=")
    found = []
    for row in space.ids:
        value = dataset.labels[column].loc[row]
        found.append(np.nan if pd.isna(value) else float(value == level if level else value))
    return np.array(found)


def counts_in_fours(a: np.ndarray, b: np.ndarray) -> bool:
    def half(x: np.ndarray) -> np.ndarray:
        if set(x[~np.isnan(x)]) <= {0.0, 1.0}:
            return x
        return np.where(np.isnan(x), np.nan, x > np.nanmedian(x))

    a, b = half(a), half(b)
    return all(sum((x == i) & (y == j) for x, y in zip(a, b, strict=True)) >= 5 for i in (0, 1) for j in (0, 1))


def effect_of(c: np.ndarray, labels: np.ndarray, j: int, held: list[int], ridge: float = 1e-2) -> np.ndarray:
    """Ridge regression of the coefficients on one label and those that are held, as an augmented least squares."""
    some = [j, *held]
    x = labels[:, some] - np.nanmean(labels[:, some], 0)
    x = np.where(np.isnan(x), 0, x)
    penalty = np.diag(np.sqrt(ridge * len(x) * x.var(0)))
    y = np.concatenate([c - c.mean(0), np.zeros((len(some), c.shape[1]))])
    return np.linalg.lstsq(np.concatenate([x, penalty]), y, rcond=None)[0][0]


# ---------------------------------------------------------------- effects and overlap
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from([1e-2, 0.3, 2.0]), st.booleans())
def test_partial_effects_are_ridge_regressions_with_what_is_held(
    seed: int, attributes: int, ridge: float, given_held: bool
) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((60, attributes)) < 0.5).astype(float)
    labels[:, -1] = rng.normal(30, 4, 60)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    c = rng.normal(size=(60, 3)) + np.nan_to_num(labels[:, :1]) * [1, 2, 3] + 5
    held = rng.random((attributes, attributes)) < 0.5
    own = held if given_held else overlap(labels)
    found = partial_effects(c, labels, ridge, controlled_for=held if given_held else None)
    for j in range(attributes):
        others = [i for i in range(attributes) if own[j, i] and i != j]
        np.testing.assert_allclose(found[j], effect_of(c, labels, j, others, ridge), atol=1e-7)
    if ridge == 1e-2:
        np.testing.assert_array_equal(found, partial_effects(c, labels, controlled_for=held if given_held else None))


@pytest.mark.parametrize(("rows", "labels"), [(4, 5), (5, 4), (0, 1)])
def test_effects_need_as_many_labels_as_coefficients(rows: int, labels: int) -> None:
    with pytest.raises(InvalidInputError):
        partial_effects(np.zeros((rows, 2)), np.zeros((labels, 2)))


@pytest.mark.parametrize("short", [None, 0, 1, 2, 3])
def test_attributes_overlap_if_each_of_four_combinations_has_five_rows(short: int | None) -> None:
    combinations = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    rows = [pair for i, pair in enumerate(combinations) for _ in range(4 if i == short else 5)]
    labels = np.array([*rows, (np.nan, 0), (np.nan, 1), (0, np.nan), (1, np.nan)])
    found = overlap(labels)
    assert found.shape == (2, 2)
    assert found.dtype == bool
    assert found[0, 1] == found[1, 0] == (short is None)
    assert not found[0, 0]  # nobody has it and lacks it


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(18, 60))
def test_overlap_counts_rows_and_takes_numbers_above_their_median(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.column_stack([
        rng.random(rows) < 0.4, rng.random(rows) < 0.6, rng.integers(0, 5, rows), rng.normal(size=rows) ** 3,
    ]).astype(float)  # fmt: skip
    labels[rng.random(labels.shape) < 0.08] = np.nan
    found = overlap(labels)
    expected = [[counts_in_fours(a, b) for b in labels.T] for a in labels.T]
    np.testing.assert_array_equal(found, expected)
    assert overlap(np.empty((0, 0))).shape == (0, 0)


# ---------------------------------------------------------------- fits
def standardised(space: WeightSpace) -> np.ndarray:
    c = space.coefficients.astype(np.float64)
    return (c - c[space.fitted].mean(0)) / c[space.fitted].std(0, ddof=1)


def held_of(labels: dict[str, np.ndarray], name: str, editing: str) -> list[str]:
    """By definition: what overlaps, nothing, or all other targets."""
    if editing == "all":
        return [n for n in NAMES if n != name]
    if editing == "overlap":
        return [n for n in NAMES if n != name and counts_in_fours(labels[name], labels[n])]
    return []


OPTIONS: list[dict[str, Any]] = [
    {},
    {"editing": "means"},
    {"editing": "all"},
    {"editing": "covariance"},
    {"editing": "reading"},
    {"editing": "overlap", "whiten": True},
    {"editing": "covariance", "whiten": True},
    {"components": 4},
    {"components": 4, "editing": "reading"},
    {"regularization": 0.5},
    {"seed": 7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_gives_the_directions_of_its_definition(
    options: dict[str, Any], dataset: WeightDataset, space: WeightSpace
) -> None:
    found = fit_directions(space, dataset, **options)
    assert tuple(sorted(found)) == tuple(sorted(NAMES))
    c, z, fitted = space.coefficients.astype(np.float64), standardised(space), space.fitted
    spread = c[fitted].std(0, ddof=1)
    use, editing = options.get("components") or K, options.get("editing", "overlap")
    labels = {name: truth_of(dataset, space, name) for name in NAMES}
    inside = {name: values[fitted] for name, values in labels.items()}
    table = np.column_stack([inside[name] for name in NAMES])
    for name, direction in found.items():
        y = labels[name]
        train, test = fitted & ~np.isnan(y), ~fitted & ~np.isnan(y)
        if name == "Age":
            model = RidgeCV(alphas=train.sum() * np.logspace(-3, 2, 11)).fit(z[train, :use], y[train])
            weights, intercept = model.coef_, model.intercept_
        else:
            strength = options.get("regularization", 10.0) / train.sum()
            fit = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(z[train, :use], y[train])
            weights, intercept = fit.coef_[0], fit.intercept_[0]
        reader = np.zeros(K)
        reader[:use] = weights / spread[:use]
        np.testing.assert_allclose(direction.reading, reader, rtol=5e-3, atol=5e-3 * np.abs(reader).max())
        at_mean = c[fitted].mean(0) @ direction.reading + direction.intercept
        assert at_mean == pytest.approx(intercept, rel=5e-3, abs=5e-3)
        held = held_of(inside, name, editing)
        effect = effect_of(c[fitted], table, NAMES.index(name), [NAMES.index(n) for n in held])
        effect = {"reading": reader, "covariance": spread**2 * reader}.get(editing, effect)
        effect = effect / spread**2 if options.get("whiten") else effect.copy()
        effect[use:] = 0
        unit = effect / np.linalg.norm(effect)
        np.testing.assert_allclose(direction.editing, unit, atol=6e-3)
        assert direction.editing.dtype == direction.reading.dtype == np.float32
        assert direction.sd == pytest.approx(float(np.std(c[fitted] @ unit, ddof=1)), rel=1e-2)
        exact = direction.editing.astype(np.float64)
        assert direction.sd == pytest.approx(float(np.std(c[fitted] @ exact, ddof=1)), rel=1e-5)
        assert direction.rows == train.sum()
        assert direction.positives == (train.sum() if name == "Age" else (y[train] == 1).sum())
        assert direction.held_out_rows == test.sum()
        assert direction.components == (use if use < K else None)
        assert sorted(direction.controlled_for) == sorted(held)
        assert direction.editing_method == editing + (", whitened" if options.get("whiten") else "")
        assert direction.reading_method == ("ridge" if name == "Age" else "logistic")
        assert (direction.attribute, direction.level) == (name.partition("=")[0], name.partition("=")[2] or None)
        check_evidence(direction, y[test], z[test] @ (direction.reading * spread) + at_mean, options.get("seed", 0))


def check_evidence(direction: Direction, truth: np.ndarray, scores: np.ndarray, seed: int) -> None:
    if direction.kind == "float":
        figure, interval, null = r2(truth, scores), r2_interval(truth, scores, seed), r2_null(truth, scores, seed)
        assert direction.auc is None
        assert direction.r2 == direction.score == pytest.approx(figure, abs=1e-4)
    else:
        figure, interval, null = auc(truth, scores), auc_interval(truth, scores), auc_null(truth, scores, seed)
        assert direction.r2 is None
        assert direction.auc == direction.score == pytest.approx(figure, abs=1e-9)
    assert direction.interval == pytest.approx(interval[0], abs=1e-4)
    assert direction.interval_method == interval[1]
    assert direction.null == pytest.approx((null.mean(), np.quantile(null, 0.95)), abs=1e-4)
    assert direction.p_value == pytest.approx(p_value(figure, null), abs=1e-9)


@pytest.mark.parametrize("reading", ["logistic", "ridge", "lda"])
def test_every_reader_gives_probabilities_that_are_calibrated_on_the_fitted_rows(
    reading: str, dataset: WeightDataset, space: WeightSpace
) -> None:
    found = fit_directions(space, dataset, reading=reading)
    assert found["Age"].reading_method == "ridge"
    z = standardised(space)
    for name in ("Beard", "Glasses", "Hair=red"):
        y = truth_of(dataset, space, name)
        train = space.fitted & ~np.isnan(y)
        assert found[name].reading_method == reading
        probabilities = np.array([found[name].read(row) for row in space.coefficients[train]])
        assert probabilities.mean() == pytest.approx(y[train].mean(), abs=0.05)
        if reading != "ridge":
            continue
        ridge = RidgeCV(alphas=train.sum() * np.logspace(-3, 2, 11)).fit(z[train], y[train])
        score = ridge.predict(z[train])[:, None] / ridge.predict(z[train]).std()
        expected = LogisticRegression(C=1.0).fit(score, y[train]).predict_proba(score)[:, 1]
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)


@pytest.mark.parametrize("method", ["logistic", "ridge", "lda"])
def test_a_reader_of_coefficients_that_say_nothing_gives_the_classes_share(method: str) -> None:
    truth = (np.arange(40) < 10).astype(float)
    rows = np.zeros((40, 3)) if method != "lda" else np.tile([[1.0, 0, 0], [-1, 0, 0]], (20, 1))
    weights, intercept = fit_reading(rows, truth, method, 10.0, False)
    np.testing.assert_allclose(weights, 0, atol=1e-6)
    assert intercept == pytest.approx(np.log(10 / 30), abs=0.02)
    weights, intercept = fit_reading(rows, 3 * truth, method, 10.0, True)
    np.testing.assert_allclose(weights, 0, atol=1e-6)
    assert intercept == pytest.approx(0.75)


def test_attributes_are_chosen_by_column_or_by_level_in_the_asked_order_once(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    everything = fit_directions(space, dataset)
    assert list(everything) == list(space.directions)
    some = fit_directions(space, dataset, attributes=["Sun", "Hair=red", "Hair", "Beard", "Sun"])
    assert list(some) == ["Sun", "Hair=red", "Hair=black", "Hair=grey", "Beard"]
    for name, direction in some.items():  # what is held is chosen among all attributes
        assert direction == everything[name] == space.directions[name]
    assert fit_directions(space, dataset, attributes=[]) == {}
    with pytest.raises(UnknownNameError, match="Hair=green"):
        fit_directions(space, dataset, attributes=["Beard", "Hair=green"])


def test_the_order_in_which_a_dataset_keeps_its_rows_changes_no_direction(
    dataset: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    ids = list(dataset.ids)[::-1]
    again = write_dataset(
        dataset[::-1], tmp_path / "people", layout=LAYOUT, ids=ids, parquet_view=False,
        labels=dataset.labels.reset_index(names="id"), compatibility=dataset.manifest.compatibility,
    )  # fmt: skip
    assert again.manifest.digest == dataset.manifest.digest
    assert again.ids != dataset.ids
    assert fit_directions(space, again) == space.directions
    assert why_not(space, again) == why_not(space, dataset)


def test_what_is_preserved_is_held_for_all_or_by_name_and_never_ones_own_levels(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    for editing in ("overlap", "means", "all"):
        every = fit_directions(space, dataset, preserve=["Hair", "Beard"], editing=editing)
        assert every["Age"].controlled_for == every["Sun"].controlled_for == ("Beard", *HAIR)
        assert every["Beard"].controlled_for == HAIR
        assert every["Hair=red"].controlled_for == ("Beard",)
    named = fit_directions(space, dataset, preserve={"Age": ["Hair=red", "Sun"], "Hair=grey": ["Age"]})
    assert {name: d.controlled_for for name, d in named.items() if d.controlled_for} == {
        "Age": ("Hair=red", "Sun"),
        "Hair=grey": ("Age",),
    }
    c, fitted = space.coefficients.astype(np.float64), space.fitted
    table = np.column_stack([truth_of(dataset, space, name)[fitted] for name in NAMES])
    effect = effect_of(c[fitted], table, NAMES.index("Age"), [NAMES.index("Hair=red"), NAMES.index("Sun")])
    np.testing.assert_allclose(named["Age"].editing, effect / np.linalg.norm(effect), atol=1e-5)
    for editing in ("covariance", "reading"):
        with pytest.raises(InvalidInputError):
            fit_directions(space, dataset, preserve=["Beard"], editing=editing)
        assert fit_directions(space, dataset, editing=editing)["Age"].controlled_for == ()
    with pytest.raises(UnknownNameError, match="Halo"):
        fit_directions(space, dataset, preserve={"Age": ["Beard", "Halo"]})


@pytest.mark.parametrize(("components", "good"), [(0, False), (1, True), (K, True), (K + 1, False)])
def test_components_are_from_one_to_all(
    components: int, good: bool, dataset: WeightDataset, space: WeightSpace
) -> None:
    if good:
        found = fit_directions(space, dataset, attributes=["Beard"], components=components)["Beard"]
        assert np.count_nonzero(found.reading) == components
        assert np.count_nonzero(found.editing) == components
    else:
        with pytest.raises(InvalidInputError, match=str(K)):
            fit_directions(space, dataset, components=components)


def test_rows_that_do_not_move_have_no_directions(dataset: WeightDataset, space: WeightSpace) -> None:
    rows = dataclasses.replace(space.population, coefficients=np.zeros_like(space.population.coefficients))
    still = dataclasses.replace(space, population=rows)
    assert fit_directions(still, dataset) == {}


@pytest.mark.parametrize(
    ("causes", "chosen"), [((0, 4), 5), ((6,), 10), ((9,), 10), ((10,), 20), ((19, 3), 20), ((21,), 23)]
)
@pytest.mark.parametrize("continuous", [False, True])
def test_cross_validation_keeps_the_components_up_to_the_last_that_matters(
    causes: tuple[int, ...], chosen: int, continuous: bool
) -> None:
    picked = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(400, 23))
        y = 3 * z[:, list(causes)].sum(1) + 7 + 0.3 * rng.normal(size=400)
        picked.append(choose_components(z, y if continuous else (y > 7).astype(float), continuous, seed))
    assert sorted(picked)[1] == chosen


@pytest.mark.parametrize("continuous", [False, True])
def test_cross_validation_is_ridge_regression_in_five_folds_of_evenly_spread_labels(continuous: bool) -> None:
    chosen, expected = [], []
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        z = rng.normal(size=(60, 30))
        y = z[:, :12] @ rng.normal(size=12) + 4 * rng.normal(size=60) + 3
        y = y if continuous else (y > 3).astype(float)
        order = np.lexsort((np.random.default_rng(seed).random(60), y))
        scores = dict.fromkeys((5, 10, 20, 30), 0.0)
        for fold in range(5):
            test = order[fold::5]
            train = np.setdiff1d(np.arange(60), test)
            for g in scores:
                ridge = Ridge(alpha=0.1 * len(train), fit_intercept=False).fit(z[train, :g], y[train] - y[train].mean())
                predicted = ridge.predict(z[test, :g]) + y[train].mean()
                scores[g] += (r2_score if continuous else roc_auc_score)(y[test], predicted)
        expected.append(max(scores, key=lambda g: scores[g]))
        chosen.append(choose_components(z, y, continuous, seed))
    assert chosen == expected
    assert len(set(chosen)) > 1


def test_cross_validation_copes_with_few_of_a_class_and_ties_go_to_fewer_components() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 12))
    rare = (np.arange(60) < 3).astype(float)
    z[:3, 0] += 8
    assert choose_components(z, rare, False, 0) == 5
    folds_without = choose_components(z[:7], rare[:7], False, 1)
    assert folds_without in (5, 10, 12)


def test_the_seed_reaches_the_folds_and_every_class_is_in_every_fold(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(50, 30)), (rng.random(50) < 0.5).astype(float)
    picked = [choose_components(z, y, False, seed) for seed in range(12)]
    assert picked == [choose_components(z, y, False, seed) for seed in range(12)]
    assert len(set(picked)) > 1
    weak = ["Sun", "Hair=red"]
    rows = dataclasses.replace(space.population, coefficients=rng.normal(size=(ROWS, K)).astype(np.float32))
    noise = dataclasses.replace(space, population=rows)  # nothing to read, so that chance decides
    z, chosen, expected = standardised(noise), [], []
    for seed in range(4):
        found = fit_directions(noise, dataset, attributes=weak, components="cv", seed=seed)
        chosen.append([found[name].components or K for name in weak])
        truths = [truth_of(dataset, space, name) for name in weak]
        known = [space.fitted & ~np.isnan(truth) for truth in truths]
        expected.append([choose_components(z[k], t[k], False, seed) for t, k in zip(truths, known, strict=True)])
    assert chosen == expected
    assert len({tuple(row) for row in chosen}) > 1  # so that a seed that does not arrive is seen
    by_number = fit_directions(noise, dataset, attributes=["Sun"], components=chosen[0][0])["Sun"]
    assert by_number == fit_directions(noise, dataset, attributes=["Sun"], components="cv")["Sun"]


# ---------------------------------------------------------------- what can be fitted
def counted(
    folder: Path, column: dict[str, Any], held_out: int = 6, rows: int = 40
) -> tuple[WeightDataset, WeightSpace]:
    values = np.random.default_rng(0).normal(size=(rows, 60)).astype(np.float32)
    dataset = dataset_of(folder / "people", values, held_out=held_out, columns=column)
    return dataset, build_space(dataset, 4)


def test_a_class_needs_five_labelled_fitted_rows_and_a_number_ten(tmp_path: Path) -> None:
    n = np.arange(40)
    age = n + 0.5

    def flags(has: int, lacks: int) -> Any:
        return pd.array([True] * has + [False] * lacks + [None] * (34 - has - lacks) + [True, False] * 3, "boolean")

    columns = {
        "Five": flags(5, 20), "Four": flags(4, 20), "LackFive": flags(20, 5), "LackFour": flags(20, 4),
        "Ten": np.where((n < 10) | (n >= 34), age, np.nan), "Nine": np.where((n < 9) | (n >= 34), age, np.nan),
        "Same": np.where(n < 34, 1.5, age), "Nothing": np.where(n < 34, np.nan, age),
        "Void": pd.Series([None] * 40, dtype="string"),
        "Few": pd.Series(["a"] * 3 + ["b"] * 3 + [None] * 34, dtype="string"),
    }  # fmt: skip
    dataset, space = counted(tmp_path, columns)
    assert set(space.directions) == {"Five", "LackFive", "Ten"}
    reasons = why_not(space, dataset)
    assert {*reasons} >= {"Four", "LackFour", "Nine", "Same", "Nothing"}
    assert reasons.keys() == space.diagnostics["no_direction"].keys()
    assert "4 of 24" in reasons["Four"]
    assert "4 of 24" in reasons["LackFour"]
    assert "9" in reasons["Nine"]
    assert "34" in reasons["Same"]
    for name in reasons:
        with pytest.raises(InvalidInputError, match=name):
            fit_directions(space, dataset, attributes=[name])
    assert {"Few=a", "Few=b"} <= {*reasons}
    with pytest.raises(InvalidInputError, match="Few"):  # the column is there, though none of its levels can be fitted
        fit_directions(space, dataset, attributes=["Five", "Few"])
    assert space.directions["Five"].positives == 5
    assert space.directions["Five"].rows == 25


@pytest.mark.parametrize("seen", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("same", [True, False])
def test_evidence_needs_both_classes_or_three_different_numbers_held_out(seen: int, same: bool, tmp_path: Path) -> None:
    n = np.arange(40)
    hidden = n >= 34 + seen
    beard = np.where(n < 34, n % 2, 1 if same else n % 2)
    columns = {
        "Beard": pd.array(np.where(hidden, None, beard == 1), dtype="boolean"),
        "Age": np.where(hidden, np.nan, np.where(n < 34, n * 1.0, 50.0 if same else n)),
    }
    _, space = counted(tmp_path, columns)
    for name, measured in {"Beard": seen > 1 and not same, "Age": seen > 2 and not same}.items():
        direction = space.directions[name]
        assert direction.held_out_rows == seen
        assert (direction.score is not None) == measured
        for figure in (direction.interval, direction.null, direction.p_value, direction.interval_method):
            assert (figure is not None) == measured
        if not measured:
            assert direction.unreliable == ""


# ---------------------------------------------------------------- one direction
def direction(**changes: Any) -> Direction:
    plain: dict[str, Any] = {
        "editing": np.array([0.6, 0.8, 0], np.float32), "sd": 2.0, "reading": np.array([0.5, -1, 2], np.float32),
        "intercept": 0.3, "auc": 0.8, "positives": 5, "rows": 20, "held_out_rows": 10, "interval": (0.7, 0.9),
        "null": (0.5, 0.65), "p_value": 0.01,
    }  # fmt: skip
    return Direction(**(plain | changes))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=5))
def test_reading_is_the_logistic_function_of_what_is_there(given: list[float]) -> None:
    value = sum(c * w for c, w in zip(given, [0.5, -1, 2], strict=False)) + 0.3
    assert direction().read(np.array(given)) == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-6)
    assert direction(kind="categorical").read(np.array(given)) == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-6)
    for kind in ("float", "component"):
        assert direction(kind=kind).read(np.array(given)) == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_only_one_points_coefficients_are_read() -> None:
    for wrong in (np.zeros((1, 3)), np.array(1.0)):
        with pytest.raises(InvalidInputError):
            direction().read(wrong)


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"p_value": 0.049}, False), ({"p_value": 0.05}, True), ({"p_value": 0.5, "auc": 0.5}, True),
        ({"auc": 0.2}, False), ({"auc": None, "p_value": 0.9}, False), ({"p_value": None}, False),
        ({"null": None, "p_value": 0.9}, False),
        ({"kind": "float", "auc": None, "r2": 0.1}, False), ({"kind": "float", "auc": None, "r2": 0.0}, True),
        ({"kind": "float", "auc": None, "r2": -0.1}, True),
        ({"kind": "float", "auc": None, "r2": 0.3, "p_value": 0.05}, True),
        ({"kind": "float", "auc": 0.9, "r2": None, "p_value": 0.9}, False),
        ({"kind": "categorical", "r2": -3.0}, False), ({"kind": "categorical", "p_value": 0.2}, True),
    ],
    ids=str,
)  # fmt: skip
def test_a_direction_is_unreliable_if_permuted_labels_do_as_well_or_the_mean_does(
    changes: dict[str, Any], bad: bool
) -> None:
    one = direction(**changes)
    assert one.score == (one.r2 if one.kind == "float" else one.auc)
    assert bool(one.unreliable) == bad
    assert one.evidence()["unreliable"] == one.unreliable
    if bad:
        assert ("R2" if one.kind == "float" else "AUC") in one.unreliable
        assert f"{one.score:.2f}" in one.unreliable
        assert "0.65" in one.unreliable
        assert f"{one.p_value:.2f}" in one.unreliable
        assert "10 held-out" in one.unreliable


ENTRIES: dict[str, tuple[list[Any], list[Any]]] = {
    "sd": ([0, 1.5], [-1e-9, None, "1", float("nan")]),
    "intercept": ([-3.5, 0], [None, float("inf")]),
    "auc": ([None, 0, 1, 0.3], [-0.01, 1.01, "x"]),
    "positives": ([0, 2**53], [-1, 1.5, None, 2**53 + 1, True]),
    "rows": ([0, 2**53], [-1, 1.5, None, 2**53 + 1]),
    "held_out_rows": ([0, 2**53], [-1, 1.5, None, 2**53 + 1]),
    "kind": (["binary", "categorical", "float", "component"], ["other", None, 3]),
    "attribute": ([None, "a"], [3]),
    "level": ([None, "a"], [3]),
    "r2": ([None, -7.5, 0, 1], [1.01, "x"]),
    "interval": ([None, [0.1, 0.2], [-2, 0.5]], [[0.1], [0.1, 0.2, 0.3], 0.1, [0.1, None]]),
    "interval_method": ([None, "a"], [3]),
    "null": ([None, [0.1, 0.2], [-2, 0.5]], [[0.1], [0.1, 0.2, 0.3], 0.1, ["x", 0.1]]),
    "p_value": ([None, 0, 1, 0.5], [-0.01, 1.01]),
    "reading_method": (["a"], [None, 3]),
    "editing_method": (["a"], [None, 3]),
    "held": ([[], ["a", "b"]], ["a", 3, [3], None]),
    "components": ([None, 1, 2**53], [0, -1, 1.5]),
}
FIELDS = {"held": "controlled_for"}  # those whose name on disk is another


@pytest.mark.parametrize("name", ENTRIES)
def test_evidence_from_a_file_is_read_field_by_field_and_each_field_is_checked(name: str) -> None:
    one, (good, bad) = direction(), ENTRIES[name]
    entry = one.evidence()
    assert {*ENTRIES, "unreliable"} == {*entry}
    assert Direction.from_evidence(one.editing, one.reading, entry) == one
    for value in good:
        found = Direction.from_evidence(one.editing, one.reading, {**entry, name: value, "later": 3}, "Beard")
        assert found.evidence()[name] == (tuple(value) if isinstance(value, list) else value)
        plain = tuple(value) if isinstance(value, list) else value
        assert found == dataclasses.replace(one, **{FIELDS.get(name, name): plain})
    for value in bad:
        with pytest.raises(CorruptFileError, match=f"Beard.*{name}"):
            Direction.from_evidence(one.editing, one.reading, {**entry, name: value}, "Beard")
    without = {field: value for field, value in entry.items() if field != name}
    if name in ("sd", "intercept", "auc", "positives", "rows", "held_out_rows"):
        with pytest.raises(CorruptFileError, match=name):
            Direction.from_evidence(one.editing, one.reading, without)
    else:  # fields that later versions added
        default = {"kind": "binary", "reading_method": "logistic", "editing_method": "overlap", "held": ()}.get(name)
        assert getattr(Direction.from_evidence(one.editing, one.reading, without), FIELDS.get(name, name)) == default


def test_vectors_from_a_file_are_finite_and_of_one_shape() -> None:
    one = direction()
    good, short = one.editing, one.editing[:2]
    wrong: list[Any] = [
        short,
        good[None],
        good.astype(int),
        np.array([1, np.nan, 0], "f4"),
        np.array([1, np.inf, 0], "f4"),
    ]
    for value in wrong:
        for pair in ((value, good), (good, value)):
            with pytest.raises(CorruptFileError, match="Beard"):
                Direction.from_evidence(*pair, one.evidence(), "Beard")
    with pytest.raises(CorruptFileError):
        Direction.from_evidence(good, good, [])  # type: ignore[arg-type]


def test_a_component_reads_its_coefficient_and_moves_along_it(space: WeightSpace) -> None:
    c = space.coefficients[space.fitted].astype(np.float64)
    for number in (1, 3, K):
        one = space.direction(f"PC{number}")
        assert one.read(space.coefficients[4]) == pytest.approx(float(space.coefficients[4, number - 1]))
        np.testing.assert_array_equal(one.editing, np.eye(K)[number - 1])
        assert one.sd == pytest.approx(float(np.std(c[:, number - 1], ddof=1)), rel=1e-6)
        assert (one.kind, one.components, one.intercept) == ("component", number, 0.0)
        assert (one.auc, one.unreliable, one.controlled_for) == (None, "", ())
        assert one.rows == FITTED


# ---------------------------------------------------------------- several directions
def test_entanglement_is_cosines_and_moves_of_read_outs_in_their_own_spread(space: WeightSpace) -> None:
    short = dataclasses.replace(direction(), editing=np.ones(3, np.float32))
    mixed = dataclasses.replace(space, directions={"Short": short, **space.directions})
    table = mixed.entanglement()
    assert table.names == tuple(space.directions)
    c = space.coefficients[space.fitted].astype(np.float64)
    cosines = []
    for i, a in enumerate(space.directions.values()):
        for j, b in enumerate(space.directions.values()):
            for vectors, found in ((("editing"), table.editing), ("reading", table.reading)):
                u, v = (getattr(d, vectors).astype(np.float64) for d in (a, b))
                cosine = u @ v / np.sqrt((u @ u) * (v @ v))
                assert found[i, j] == pytest.approx(cosine, abs=1e-6)
                if vectors == "reading" and i != j:
                    cosines.append(abs(cosine))
            read = [float(x @ b.reading.astype(np.float64)) for x in c]
            moved = a.sd * (a.editing.astype(np.float64) @ b.reading.astype(np.float64))
            assert table.spill[i, j] == pytest.approx(moved / np.std(read, ddof=1), rel=1e-5, abs=1e-6)
    assert table.mean_cosine == pytest.approx(np.mean(cosines))
    data = table.to_json()
    assert data["names"] == list(table.names)
    assert data["mean_cosine"] == table.mean_cosine
    for name in ("editing", "reading", "spill"):
        np.testing.assert_allclose(data[name], getattr(table, name), atol=1e-6)


def test_a_direction_that_reads_or_moves_nothing_has_no_side_effects_rather_than_nan(space: WeightSpace) -> None:
    nothing = np.zeros(K, np.float32)
    beard = space.directions["Beard"]
    found = dataclasses.replace(
        space,
        directions={
            "Beard": beard,
            "Mute": dataclasses.replace(beard, reading=nothing),
            "Still": dataclasses.replace(beard, editing=nothing),
        },
    ).entanglement()
    for matrix in (found.editing, found.reading, found.spill):
        assert np.isfinite(matrix).all()
    np.testing.assert_array_equal(found.spill[:, 1], 0)
    np.testing.assert_array_equal(found.spill[2], 0)
    assert found.editing[0, 2] == found.reading[0, 1] == 0


def test_a_mean_beside_the_diagonal_is_of_magnitudes_and_needs_two() -> None:
    assert mean_off_diagonal(np.array([[9.0, -1.0, 2.0], [3.0, 9.0, -4.0], [0.0, 5.0, 9.0]])) == pytest.approx(2.5)
    assert mean_off_diagonal(np.ones((1, 1))) is None
    assert mean_off_diagonal(np.empty((0, 0))) is None
    assert mean_off_diagonal(np.array([[1.0, 0.5], [0.5, 1.0]])) == 0.5


def test_preserving_changes_a_step_least_in_the_populations_spread(space: WeightSpace) -> None:
    rng = np.random.default_rng(0)
    for names, length in ((["Beard"], K), (["Hair=red", "Age", "Sun"], K), (["Beard", "Beard"], K), (["Age"], 7)):
        step = rng.normal(size=length)
        before = step.copy()
        kept = preserving(step, [space.direction(n).reading for n in names], space.spread.std)
        np.testing.assert_array_equal(step, before)
        spread = space.coefficient_std[:length]
        readers = np.stack([space.direction(n).reading[:length].astype(np.float64) for n in names])
        np.testing.assert_allclose(readers @ kept, 0, atol=1e-8)
        # least change: in standardised coordinates the projection off the readers
        scaled = readers * spread
        expected = (np.eye(length) - np.linalg.pinv(scaled) @ scaled) @ (step / spread)
        np.testing.assert_allclose(kept / spread, expected, atol=1e-7)
    np.testing.assert_array_equal(preserving(step, [], space.spread.std), step)


def test_nothing_warns_while_directions_are_fitted(dataset: WeightDataset, space: WeightSpace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_directions(space, dataset, components="cv")
