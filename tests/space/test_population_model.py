"""Population models: factors from labels, the conditional mean, sets, samples, and the files they are stored in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from w2w_hub import WeightDataset, WeightSpace, build_space, rebuild
from w2w_hub.cli import main
from w2w_hub.dataset.labels.kinds import BINARY, kind_of
from w2w_hub.dataset.labels.names import CONTRIBUTOR_SOURCE
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnknownNameError
from w2w_hub.release import diff
from w2w_hub.space import PopulationModel, TorchEngine, fit_population_model
from w2w_hub.space.fit.rebuild import compare_spaces
from w2w_hub.space.population_model import hyperparameters
from w2w_hub.space.population_model.columns import columns_of
from w2w_hub.space.population_model.discovery import find_structure
from w2w_hub.space.population_model.factors import MOST_LEVELS, Factor
from w2w_hub.space.population_model.kernel import Kernel
from w2w_hub.space.population_model.relations import excluded_levels

from .population import dataset_of, restate

ROWS, HELD_OUT, K = 200, 50, 10
HAIR = ("BLACK", "BLOND", "RED")
FILES = ("population_model.json", "population_model.safetensors")


def people(folder: Path, seed: int = 0, missing: float = 0.0, **more: Any) -> WeightDataset:
    """Rows that depend on hats, hair, beards and age: a hat hides the hair, and a beard grays with age."""
    rng = np.random.default_rng(seed)
    n, size = ROWS + HELD_OUT, 90
    hat, beard, age = rng.random(n) < 0.3, rng.random(n) < 0.5, rng.uniform(20, 80, n)
    hair = rng.integers(0, len(HAIR), n)
    effects = rng.normal(size=(10, size))
    values = np.where(hat[:, None], effects[0], effects[1 + hair]) + beard[:, None] * (
        effects[5] + np.where(age > 50, 1, -1)[:, None] * effects[6]
    )
    values = values + 0.02 * (age - 50)[:, None] * effects[7] + 0.4 * rng.normal(size=(n, size))
    columns = {
        "Hat": list(hat),
        "Hair": [HAIR[h] for h in hair],
        "Red_Hair": [bool(h == 2 and not c) for h, c in zip(hair, hat, strict=True)],
        "Headwear": np.where(hat, "CAP", "NONE").tolist(),
        "Beard": pd.array([None if rng.random() < missing else bool(b) for b in beard], dtype="boolean"),
        "Age": np.round(age, 1).tolist(),
    }
    return dataset_of(folder, values.astype(np.float32), held_out=HELD_OUT, columns=columns, **more)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return people(tmp_path_factory.mktemp("population") / "people")


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, K, directions=False)


@pytest.fixture(scope="module")
def model(space: WeightSpace) -> PopulationModel:
    assert space.population_model is not None
    return space.population_model


@pytest.fixture(scope="module")
def saved(space: WeightSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return space.save(tmp_path_factory.mktemp("saved") / "space")


def person(space: WeightSpace, dataset: WeightDataset, **wanted: Any) -> np.ndarray:
    """Coefficients of a fitted person with these labels."""
    assert space.population is not None
    rows = dataset.labels[dataset.labels["split"] == "train"]
    for name, value in wanted.items():
        rows = rows[rows[name].eq(value).fillna(False)]
    return space.population.row(rows.index[0])


# ------------------------------------------------------------------ factors and relations
def test_binary_columns_that_others_determine_are_derived_and_the_rest_are_factors(model: PopulationModel) -> None:
    assert {f.name for f in model.factors} == {"Hair", "Headwear", "Age", "Beard"}
    names = [f.name for f in model.factors]
    assert {names[i] for i in model.attributes["Red_Hair"].factors} == {"Hair", "Headwear"}
    assert {names[i] for i in model.attributes["Hat"].factors} == {"Headwear"}


def binaries(folder: Path, noise: float, seed: int = 0) -> WeightDataset:
    """Three hair colors and a hat as binary columns, with a share of wrong labels; goatees imply beards."""
    rng = np.random.default_rng(seed)
    n = 300
    hair, beard = rng.integers(0, 4, n), rng.random(n) < 0.5
    goatee = beard & (rng.random(n) < 0.5)
    labels = {f"Hair_{c}": hair == c for c in range(3)} | {
        "Beard": beard,
        "Goatee": goatee,
        "Tall": rng.random(n) < 0.5,
    }
    values = np.stack(list(labels.values()), 1) @ rng.normal(size=(6, 40)) + rng.normal(size=(n, 40))
    for name in labels:
        wrong = rng.random(n) < noise
        labels[name] = labels[name] ^ (wrong & labels[name])  # some that have it are not labeled
    return dataset_of(folder, values.astype(np.float32), columns={k: list(v) for k, v in labels.items()})


@pytest.mark.parametrize("source", [None, CONTRIBUTOR_SOURCE])
def test_a_column_contributor_is_an_attribute_unless_a_release_wrote_it(tmp_path: Path, source: str | None) -> None:
    rng = np.random.default_rng(0)
    labels = {name: rng.random(100) < 0.5 for name in ("contributor", "Tall")}
    values = np.stack(list(labels.values()), 1) @ rng.normal(size=(2, 40)) + rng.normal(size=(100, 40))
    dataset = dataset_of(
        tmp_path / "people", values.astype(np.float32), columns={k: list(v) for k, v in labels.items()},
        column_info={} if source is None else {"contributor": {"source": source}},
    )  # fmt: skip
    space = build_space(dataset, 5)
    model = space.population_model
    assert model is not None
    names = {"Tall"} if source else {"contributor", "Tall"}
    assert set(model.attributes) == set(space.directions) == names
    assert not model.evidence["no_attribute"]
    if source is None:
        changed = space.edit("p00000", set={"contributor": not labels["contributor"][0]})
        assert np.abs(changed.coefficients - space.row("p00000").coefficients).max() > 0


def test_no_more_columns_and_levels_are_attributes_than_a_stored_model_may_have() -> None:
    flags = np.arange(20) < 10
    labels = pd.DataFrame({f"flag_{i}": pd.array(flags, dtype="boolean") for i in range(1005)})
    columns, reasons = columns_of(labels, dict.fromkeys(labels, BINARY), np.ones(20, bool))
    assert [c.name for c in columns] == list(labels)[:999]
    assert list(reasons) == list(labels)[999:]
    for most, expected in ((MOST_LEVELS, True), (MOST_LEVELS + 1, False)):
        grades = [str(i) for i in range(most)]
        grade = pd.DataFrame({"grade": pd.Categorical(grades * 5, grades, ordered=True)})
        columns, reasons = columns_of(grade, {"grade": kind_of(grade["grade"])}, np.ones(5 * most, bool))
        assert ([c.name for c in columns], list(reasons)) == (["grade"], []) if expected else ([], ["grade"])


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_exclusive_columns_are_one_factor_also_with_a_few_wrong_labels(tmp_path: Path, noise: float) -> None:
    found = build_space(binaries(tmp_path / "people", noise), 5, directions=False).population_model
    assert found is not None
    grouped = next(f for f in found.factors if len(f.columns) > 1 and "Hair_0" in f.columns)
    assert set(grouped.columns) == {"Hair_0", "Hair_1", "Hair_2"}
    relations = {(r["first"], r["second"], r["kind"]) for r in found.evidence["relations"]}
    assert ("Goatee", "Beard", "implies") in relations
    assert ("Hair_0", "Hair_1", "excludes") in relations
    assert not any("Tall" in relation for relation in relations)


@pytest.mark.slow
def test_groups_of_a_caller_replace_those_that_are_found(tmp_path: Path) -> None:
    dataset = binaries(tmp_path / "people", 0.0)
    groups = {"stature": ["Tall", "Hair_2"]}
    space = build_space(dataset, 5, directions=False, groups=groups)
    assert space.population_model is not None
    assert ("Tall", "Hair_2") in [f.columns for f in space.population_model.factors]
    again = rebuild(space, dataset)
    assert again.population_model == space.population_model
    with pytest.raises(UnknownNameError) as error:
        fit_population_model(space, dataset, groups={"a": ["Tall", "Har_2"]})
    assert error.value.name == "Har_2"
    for wrong in ({"a": ["Tall"]}, {"a": ["Tall", "Beard"], "b": ["Tall", "Goatee"]}):
        with pytest.raises(InvalidInputError):
            fit_population_model(space, dataset, groups=wrong)


@given(st.integers(20, 400), st.integers(20, 400), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_independent_levels_hardly_ever_exclude_each_other(first: int, second: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.permutation(np.arange(800) < first), rng.permutation(np.arange(800) < second)
    table = np.array([[(~a & ~b).sum(), (~a & b).sum()], [(a & ~b).sum(), (a & b).sum()]])
    expected = first * second / 800
    if table[1, 1] > 0.02 * min(first, second) or expected < 3:
        assert not excluded_levels(table, 100)[1, 1]


# ------------------------------------------------------------------ kernel and mean
@given(st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_kernel_is_positive_semidefinite_whatever_labels_are_missing(seed: int, share: float) -> None:
    factors = MODEL.factors
    rng = np.random.default_rng(seed)
    codes = MODEL.codes[rng.integers(0, len(MODEL.codes), 25)].copy()
    codes[rng.random(codes.shape) < share] = np.nan
    gram = Kernel(factors, rng.random(len(factors))).matrix(codes, codes)
    assert np.allclose(gram, gram.T)
    assert np.linalg.eigvalsh(gram).min() > -1e-9


MODEL: Any = None


@pytest.fixture(scope="module", autouse=True)
def _shared(model: PopulationModel) -> None:
    global MODEL
    MODEL = model


def test_the_mean_is_scikit_learns_kernel_ridge_regression_of_all_rows(
    model: PopulationModel, space: WeightSpace, dataset: WeightDataset
) -> None:
    from sklearn.kernel_ridge import KernelRidge

    population = space.population
    assert population is not None
    columns, _ = columns_of(dataset.labels, dataset.manifest.kinds, population.fitted)
    codes = find_structure(columns, population.fitted).codes[population.fitted]
    rows = population.coefficients[population.fitted].astype(float) - model.mean
    assert len(model.codes) < len(codes), "some people have the same attributes"
    kernel = Kernel(model.factors, model.rhos)
    gram = kernel.matrix(codes, codes)
    expected = KernelRidge(alpha=model.noise, kernel="precomputed").fit(gram, rows).predict(gram)
    found = kernel.matrix(codes, model.codes) @ model.weights
    assert np.allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_mean_explains_more_than_additive_effects_and_permuted_labels_nothing(model: PopulationModel) -> None:
    found = model.evidence["explained_variance"]
    assert found["held_out"]
    assert found["rows"] == HELD_OUT
    assert found["model"] > found["additive"] + 0.03
    assert found["permuted"] < 0.05


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_kernel_is_the_smoothest_that_explains_nine_tenths_of_what_the_best_does(
    weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    factors = tuple(Factor(name, (name,), ("a", "b", "c"), np.full(3, 1 / 3)) for name in "pqr")
    codes = rng.integers(0, 3, (90, 3)).astype(float)
    effects = rng.normal(size=(3, 3, 8)) * np.array([weight, 1, 1])[:, None, None]
    values = sum(effects[j][codes[:, j].astype(int)] for j in range(3)) + 0.5 * rng.normal(size=(90, 8))
    mean = values.mean(0)

    def errors(chosen: hyperparameters.Hyperparameters) -> np.ndarray:
        """Each row's error under a regression of the others, fitted again for each."""
        gram, found = Kernel(factors, chosen.rhos).matrix(codes, codes), np.empty(len(codes))
        for i in range(len(codes)):
            others = np.arange(len(codes)) != i
            inner = gram[np.ix_(others, others)] + chosen.noise * np.eye(len(codes) - 1)
            found[i] = ((values[i] - mean - gram[i, others] @ np.linalg.solve(inner, values[others] - mean)) ** 2).sum()
        return found

    chosen = hyperparameters.choose(factors, codes, values, mean)
    monkeypatch.setattr(hyperparameters, "SHARES", ())
    best = hyperparameters.choose(factors, codes, values, mean)
    total = ((values - mean) ** 2).sum(1).mean()
    explained, most = total - errors(chosen).mean(), total - errors(best).mean()
    assert 0.9 * most * 0.99 <= explained <= most * 1.01
    assert np.ptp(chosen.rhos) < np.ptp(best.rhos)  # nearer to one for all factors
    if weight == 1:
        assert np.ptp(chosen.rhos) == 0
    else:
        assert chosen.rhos.argmin() == 0  # the factor that matters most still counts most


@pytest.mark.slow
def test_missing_labels_are_the_populations_distribution(tmp_path: Path) -> None:
    space = build_space(people(tmp_path / "people", missing=0.3), K, directions=False)
    found = space.population_model
    assert found is not None
    assert np.isnan(found.codes).any()
    assert found.evidence["explained_variance"]["model"] > 0.4


# ------------------------------------------------------------------ setting attributes
def test_a_set_brings_what_it_excludes_and_implies(
    model: PopulationModel, space: WeightSpace, dataset: WeightDataset
) -> None:
    c = person(space, dataset, Hat=True, Hair="BLACK", Beard=False)
    own = model.read(c)
    assert own["Hat"]
    assert own["Headwear"] == "CAP"
    after = model.implied(c, {"Red_Hair": True})
    assert (after["Red_Hair"], after["Hat"], after["Headwear"], after["Hair"]) == (True, False, "NONE", "RED")
    assert after["Beard"] == own["Beard"]
    moved = c + model.step(c, {"Red_Hair": True})
    read = model.read(moved)
    assert read["Red_Hair"]
    assert not read["Hat"]


def test_a_step_is_the_difference_of_means_times_its_strength(
    model: PopulationModel, space: WeightSpace, dataset: WeightDataset
) -> None:
    c = person(space, dataset, Beard=False)
    own = model.read(c)
    one = model.step(c, {"Beard": True}, strength=1.0)
    expected = model.mean_of({**own, "Beard": True}) - model.mean_of(own)
    assert np.allclose(one, expected, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(model.step(c, {"Beard": True}), model.strength * one, rtol=1e-4, atol=1e-5)
    assert not model.step(c, {"Beard": False}).any(), "who has it already does not move"
    assert not model.step(c, {"Beard": True}, strength=0).any()


def test_numbers_are_set_within_their_range(model: PopulationModel, space: WeightSpace, dataset: WeightDataset) -> None:
    c = person(space, dataset, Beard=True)
    young, old = (model.read(c + model.step(c, {"Age": age}))["Age"] for age in (22.0, 75.0))
    assert old - young > 20
    for wrong in (500.0, "old", True, float("nan")):
        with pytest.raises(InvalidInputError):
            model.step(c, {"Age": wrong})


@pytest.mark.parametrize(
    ("wanted", "kind", "name"),
    [
        ({"Beerd": True}, UnknownNameError, "Beerd"), ({"Hair": "REED"}, UnknownNameError, "Hair"),
        ({"Beard": 4.5}, InvalidInputError, "Beard"), ({"Beard": "much"}, InvalidInputError, "Beard"),
        ({"Hat": True, "Red_Hair": True}, InvalidInputError, "Red_Hair"),
        ({"Hair": "BLACK", "Red_Hair": True}, InvalidInputError, "Red_Hair"),
        ({"Hair": 3}, InvalidInputError, "Hair"), (["Beard"], InvalidInputError, None),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_one_line(model: PopulationModel, wanted: Any, kind: type[Exception], name: Any) -> None:
    for call in (
        lambda: model.mean_of(wanted),
        lambda: model.implied(model.mean, wanted),
        lambda: model.sample(attributes=wanted),
    ):
        with pytest.raises(kind) as error:
            call()
        assert "\n" not in str(error.value)
        assert getattr(error.value, "name", None) == name


# ------------------------------------------------------------------ samples
def test_samples_have_the_attributes_they_say_and_are_no_copies(model: PopulationModel, space: WeightSpace) -> None:
    drawn, attributes = model.sample(100, seed=1)
    agree = [
        [model.read(c)[name] == a[name] for name in ("Hat", "Hair", "Beard")]
        for c, a in zip(drawn, attributes, strict=True)
    ]
    assert np.mean(agree) > 0.85
    again, _ = model.sample(100, seed=1)
    assert np.array_equal(drawn, again)
    nearest = [space.nearest(c)[0][1] for c in drawn]
    assert np.mean(nearest) < 0.97
    assert max(nearest) < 0.999


def test_wanted_attributes_are_in_every_sample_with_what_goes_with_them(model: PopulationModel) -> None:
    _, attributes = model.sample(40, attributes={"Red_Hair": True, "Age": 60.0})
    assert all(a["Red_Hair"] and a["Hair"] == "RED" and not a["Hat"] and a["Age"] == 60.0 for a in attributes)
    assert 5 < sum(a["Beard"] for a in attributes) < 35


# ------------------------------------------------------------------ files
def test_a_model_is_stored_opened_cut_and_kept_without_its_population(
    saved: Path, space: WeightSpace, model: PopulationModel
) -> None:
    opened = WeightSpace.open(saved)
    assert opened.population_model == model
    assert opened == space
    opened.verify()
    cut = WeightSpace.open(saved, 5).population_model
    assert cut is not None
    assert np.array_equal(cut.weights, model.weights[:, :5])
    bare = space.without_population()
    assert bare.population_model == model
    assert space.without_population(population_model=False).population_model is None


def test_the_order_in_which_a_dataset_keeps_its_rows_changes_no_bit(
    dataset: WeightDataset, model: PopulationModel, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(len(dataset))
    again = build_space(people(tmp_path / "people", order=order), K, directions=False)
    assert again.population_model is not None
    assert again.population_model == model


@pytest.mark.slow
def test_a_rebuild_gives_the_same_bits_and_another_engine_the_same_model(
    space: WeightSpace, dataset: WeightDataset
) -> None:
    again = rebuild(space, dataset)
    assert again.population_model == space.population_model
    found = compare_spaces(space, rebuild(space, dataset, engine=TorchEngine("cpu")))
    assert found.within_bound
    assert found.model_error is not None
    assert found.model_error < 1e-5


def test_another_model_is_a_minor_change_and_none_a_major_one(saved: Path, space: WeightSpace, tmp_path: Path) -> None:
    other = WeightSpace.open(saved)
    assert other.population_model is not None
    object.__setattr__(other.population_model, "strength", 1.9)
    assert diff(saved, other.save(tmp_path / "other")).level == "minor"
    other.population_model = None
    bare = other.save(tmp_path / "bare")
    assert diff(saved, bare).level == "major"
    assert diff(bare, saved).level == "minor"


JSON_FORGERIES: dict[str, Any] = {
    "factors": [], "attributes": 3, "excluded": [{"factors": [1, 0], "pairs": []}], "rhos": [2.0],
    "noise": -1, "strength": "1", "gain": None, "evidence": [],
    "factors[0]": {"name": "a"}, "factors[0].shares": [1.0], "factors[0].levels": ["x"], "factors[0].scale": 0,
    "attributes.Hat": {"kind": "binary", "factors": [0, 0], "truth": True},
    "attributes.Hat.truth": [[True]], "attributes.Hat.factors": [99], "attributes.Age.low": 1e9,
    "attributes.Age.kind": "binary",
}  # fmt: skip


@pytest.mark.parametrize("field", JSON_FORGERIES)
def test_a_field_that_is_not_as_it_must_be_is_named(saved: Path, tmp_path: Path, field: str) -> None:
    import shutil

    folder = shutil.copytree(saved, tmp_path / "space")
    data = json.loads((folder / FILES[0]).read_text())
    at: Any = data
    *path, last = field.replace("[", ".").replace("]", "").split(".")
    for part in path:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(last) if isinstance(at, list) else last] = JSON_FORGERIES[field]
    (folder / FILES[0]).write_text(json.dumps(data))
    restate(folder)
    with pytest.raises(CorruptFileError) as error:
        WeightSpace.open(folder)
    assert field.partition("[")[0].partition(".")[0] in str(error.value)


@pytest.mark.parametrize("name", ["mean", "codes", "counts", "weights", "reading", "intercepts", "residual", "rest"])
def test_a_tensor_that_is_not_as_it_must_be_is_named(saved: Path, tmp_path: Path, name: str) -> None:
    import shutil

    folder = shutil.copytree(saved, tmp_path / "space")
    tensors = load_file(folder / FILES[1])
    bad = np.full_like(tensors[name], -7)
    wrongs = [tensors[name][..., :-1], tensors[name].astype(np.float16), None]
    wrongs += [bad] if name in ("codes", "counts") else [np.full_like(tensors[name], np.nan)]
    for wrong in wrongs:
        changed = {k: np.ascontiguousarray(v) for k, v in (tensors | {name: wrong}).items() if v is not None}
        save_file(changed, folder / FILES[1])
        restate(folder)
        with pytest.raises(CorruptFileError) as error:
            WeightSpace.open(folder)
        assert FILES[0] in str(error.value) or FILES[1] in str(error.value)


def test_a_space_without_labels_has_no_model_and_one_may_be_left_out(tmp_path: Path, dataset: WeightDataset) -> None:
    plain = dataset_of(tmp_path / "plain", np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32))
    assert build_space(plain, 3).population_model is None
    assert build_space(dataset, 3, population_model=False, directions=False).population_model is None


def test_a_build_on_the_command_line_tells_its_model(dataset: WeightDataset, tmp_path: Path) -> None:
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"head": ["Hat", "Red_Hair"]}))
    words = ["build", str(dataset.path), "--k", "3", "--no-directions", "--out", str(tmp_path / "space")]
    told = CliRunner().invoke(main, [*words, "--groups", str(groups)])
    assert told.exit_code == 0, told.output
    assert "head" in told.stderr
    assert "permuted labels" in told.stderr
    groups.write_text(json.dumps({"head": ["Hat", "Red_Har"]}))
    wrong = CliRunner().invoke(main, [*words[:-1], str(tmp_path / "other"), "--groups", str(groups)])
    assert wrong.exit_code == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "other").exists()
