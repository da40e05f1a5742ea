"""The two parts of a weight space: coordinates that know no population, and the population; spaces with one alone."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.cli import main
from w2w_hub.errors import (
    AlreadyExistsError,
    CorruptFileError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPopulationError,
    UnknownNameError,
    W2WError,
)
from w2w_hub.release import diff
from w2w_hub.space import Coordinates, Explained, Population, Spread
from w2w_hub.space.fit.build_and_save import build_and_save
from w2w_hub.space.fit.rebuild import rebuild
from w2w_hub.space.identity import edited, resolve
from w2w_hub.space.integrity import check_space
from w2w_hub.space.old_fields import MOVED
from w2w_hub.space.report import write_report
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.manifest import seal

from .test_directions import labelled


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return labelled(tmp_path_factory.mktemp("d") / "people")


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 8)


@pytest.fixture(scope="module")
def population(space: WeightSpace) -> Population:
    assert space.population is not None
    return space.population


@pytest.fixture(scope="module")
def bare_folder(space: WeightSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return space.without_population().save(tmp_path_factory.mktemp("bare") / "space")


@pytest.fixture
def bare(bare_folder: Path) -> WeightSpace:
    return WeightSpace.from_pretrained(bare_folder)


def forge(folder: Path, **changes: Any) -> None:
    """State other fields in a manifest, the files as they are, and the right checksum; ``...`` removes a field."""
    data = json.loads((folder / "manifest.json").read_text("utf-8"))
    data["files"] = {name: entry_of(folder / name) for name in data["files"] if (folder / name).exists()}
    data = {key: value for key, value in {**data, **changes}.items() if value is not ...}
    (folder / "manifest.json").write_bytes(seal(data))


# ---------------------------------------------------------------- without a population
def test_a_space_saved_without_its_population_opens_equal(space: WeightSpace, bare: WeightSpace) -> None:
    assert bare.population is None
    assert bare == space.without_population()
    assert bare != space
    assert bare.digest == space.digest
    assert "no population" in repr(bare)


def test_nothing_of_a_row_is_in_any_file_of_a_space_without_population(
    bare_folder: Path, population: Population
) -> None:
    data = {file: file.read_bytes() for file in bare_folder.rglob("*") if file.is_file()}
    for name, row in zip(population.ids, population.coefficients, strict=True):
        assert not [file for file, raw in data.items() if name.encode() in raw or row[:4].tobytes() in raw]
    assert not (bare_folder / "coefficients").exists()


def test_format_version_2_is_written_only_where_version_1_cannot_say_it(
    space: WeightSpace, bare_folder: Path, tmp_path: Path
) -> None:
    versions = [
        json.loads((folder / "manifest.json").read_text("utf-8"))["format_version"]
        for folder in (space.save(tmp_path / "space"), bare_folder)
    ]
    assert versions == [1, 2]


def test_a_space_without_population_is_used_as_the_whole_one(space: WeightSpace, bare: WeightSpace) -> None:
    point = space.row("p00003")
    vector = space.decode(point)
    everything: list[Callable[[WeightSpace], Any]] = [
        lambda s: s.project(vector).tolist(),
        lambda s: s.decode(point).tolist(),
        lambda s: s.layout.flatten(s.adapter(point)).tolist(),
        lambda s: s.sample(3, seed=5, truncation=0.5),
        lambda s: s.mean_point(),
        lambda s: s.distance(point),
        lambda s: s.read_all(point),
        lambda s: s.direction("PC2"),
        lambda s: s.edit(point, {"Beard": 1.5, "PC3": 1.0}, preserve=["Age"]),
        lambda s: s.interpolate([point, s.mean_point()], [1, 2]),
        lambda s: s.coordinates.explained(vector),
        lambda s: resolve(s, point),
        lambda s: edited(s, resolve(s, s.adapter(point)), {"Beard": 1.0}, start=0.3),
    ]
    for use in everything:
        assert use(bare) == use(space)


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.row("p00003"),
        lambda s: s.decode("p00003"),
        lambda s: s.edit("p00003", {"Beard": 1.0}),
        lambda s: s.nearest(np.ones(2)),
        lambda s: s.mahalanobis(np.ones(2)),
        lambda s: s.sample(covariance="full"),
        lambda s: s.entanglement(),
        lambda s: s.require_population("row"),
    ],
)
def test_what_needs_rows_is_one_typed_line_without_them(
    bare: WeightSpace, use: Callable[[WeightSpace], object]
) -> None:
    with pytest.raises(MissingPopulationError, match=bare.name) as error:
        use(bare)
    assert "\n" not in str(error.value)


def test_a_rows_name_is_not_resolved_without_a_population(bare: WeightSpace) -> None:
    with pytest.raises(UnknownNameError, match="p00003"):
        resolve(bare, "p00003")
    assert bare.largest_distance is None


def test_only_the_first_components_are_read_without_a_population_too(bare_folder: Path, space: WeightSpace) -> None:
    first = WeightSpace.from_pretrained(bare_folder, k=3)
    assert (first.k, first.digest) == (3, space.digest)
    np.testing.assert_array_equal(first.spread.std, space.spread.std[:3])
    np.testing.assert_array_equal(first.sample(2, seed=1)[0].coefficients.shape, (3,))


def test_a_spread_that_is_not_stored_follows_from_the_singular_values(
    bare_folder: Path, space: WeightSpace, tmp_path: Path
) -> None:
    folder = WeightSpace.from_pretrained(bare_folder).save(tmp_path / "space")
    tensors = load_file(folder / "space.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("coefficient")}, folder / "space.safetensors")
    forge(folder)
    found = WeightSpace.from_pretrained(folder)
    found.verify()
    assert found.stored_spread is None
    assert found.spread.rows == space.spread.rows
    np.testing.assert_allclose(found.spread.std, space.spread.std, rtol=1e-4)
    np.testing.assert_allclose(found.spread.mean, space.spread.mean, atol=1e-4)


@pytest.mark.parametrize("name", ["coefficient_mean", "coefficient_std"])
@pytest.mark.parametrize("wrong", ["missing", "float32", "short", "NaN", "negative"])
def test_a_stored_spread_that_is_wrong_is_refused(bare: WeightSpace, tmp_path: Path, name: str, wrong: str) -> None:
    folder = bare.save(tmp_path / "space")
    tensors = load_file(folder / "space.safetensors")
    values = tensors.pop(name)
    if wrong != "missing":
        tensors[name] = {
            "float32": values.astype(np.float32),
            "short": values[:-1],
            "NaN": np.full_like(values, np.nan),
            "negative": -np.abs(values) - 1,
        }[wrong]
    save_file(tensors, folder / "space.safetensors")
    forge(folder)
    if (wrong, name) == ("negative", "coefficient_mean"):
        WeightSpace.from_pretrained(folder)
        return
    with pytest.raises(CorruptFileError, match=name):
        WeightSpace.from_pretrained(folder)
    assert not check_space(folder).ok


@pytest.mark.parametrize("changes", [{"splits": ["train"]}, {"population": ...}, {"population": 0}, {"population": 1}])
def test_a_manifest_that_contradicts_itself_about_the_population_is_refused(
    bare: WeightSpace, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = bare.save(tmp_path / "space")
    forge(folder, **changes)
    with pytest.raises(CorruptFileError):
        WeightSpace.from_pretrained(folder)
    assert not check_space(folder).ok


def test_coefficients_beside_a_manifest_that_states_none_are_a_problem(
    space: WeightSpace, bare: WeightSpace, tmp_path: Path
) -> None:
    whole, folder = space.save(tmp_path / "whole"), bare.save(tmp_path / "space")
    (folder / "coefficients").mkdir()
    name = "coefficients/train.parquet"
    (folder / name).write_bytes((whole / name).read_bytes())
    listed = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    forge(folder, files={**listed, name: entry_of(folder / name)})
    assert [problem.file for problem in check_space(folder).problems] == [name]


def test_version_2_may_hold_a_population_and_version_1_always_does(space: WeightSpace, tmp_path: Path) -> None:
    folder = space.save(tmp_path / "space")
    forge(folder, format_version=2, population=True)
    assert WeightSpace.from_pretrained(folder) == space
    assert check_space(folder).ok
    forge(folder, format_version=1, population=False)  # a field that version 1 does not know
    assert WeightSpace.from_pretrained(folder) == space


def test_a_space_without_population_is_built_again_where_all_rows_were_fitted(
    bare: WeightSpace, space: WeightSpace, dataset: WeightDataset
) -> None:
    assert rebuild(bare, dataset).digest == space.digest
    some = [dataset.ids[i] for i in dataset.where(split="train")][:50]
    part = build_space(dataset, 5, rows=some, directions=False)
    assert rebuild(part, dataset).digest == part.digest
    with pytest.raises(MissingPopulationError, match=part.name):
        rebuild(part.without_population(), dataset)


def test_a_report_without_a_population_shows_no_rows(bare: WeightSpace, population: Population, tmp_path: Path) -> None:
    data = write_report(bare, tmp_path / "report")
    assert data["reconstruction_error"] is data["neighbours"] is data["entanglement"] is None
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert not [name for name in population.ids if name in page]


def test_taking_the_population_away_is_a_major_change(space: WeightSpace, bare_folder: Path, tmp_path: Path) -> None:
    whole = space.save(tmp_path / "space")
    found = diff(whole, bare_folder)
    assert found.level == "major"
    assert diff(bare_folder, bare_folder).level == "none"


def test_a_build_without_population_saves_none_and_may_be_repeated(
    dataset: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    made = build_and_save(dataset, tmp_path / "space", 8, population=False)
    assert made.population is None
    assert WeightSpace.from_pretrained(tmp_path / "space") == made
    assert made.digest == space.digest
    with pytest.raises(AlreadyExistsError):
        build_and_save(dataset, tmp_path / "space", 8, population=False)
    assert [path.name for path in tmp_path.iterdir()] == ["space"]


def test_commands_work_without_a_population(dataset: WeightDataset, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        found = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    out, points = tmp_path / "space", tmp_path / "points"
    run("build", dataset.path, "--k", 6, "--out", out, "--without-population", "--json")
    assert WeightSpace.from_pretrained(out).population is None
    assert [set(row) for row in run("sample", out, "--count", 2, "--out", points, "--json")] == [{"point"}] * 2
    point = points / "sample-000.json"
    assert run("edit", out, point, "Beard=2", "--out", tmp_path / "e.json", "--json")["farthest_row"] is None
    read = run("read", out, point, "--json")
    assert read["largest_distance"] is read["mahalanobis"] is None
    assert run("verify", out, "--json")["ok"]
    assert run("report", out, "--out", tmp_path / "report", "--json")["neighbours"] is None
    for command in ("sample", "edit", "read"):
        extra = {"edit": ["Beard=1"], "sample": [], "read": []}[command]
        written = [] if command == "read" else ["--out", tmp_path / f"{command}-text.json"]
        identity = [] if command == "sample" else [point]
        found = CliRunner().invoke(main, [command, *map(str, [out, *identity, *extra, *written])])
        assert found.exit_code == 0, found.output
    refused = CliRunner().invoke(main, ["nearest", str(out), str(point)])
    assert refused.exit_code == 2


# ---------------------------------------------------------------- saving
def test_saving_changes_nothing_in_memory(space: WeightSpace, tmp_path: Path) -> None:
    before, fields = copy.copy(space), dict(vars(space))
    assert space.save(tmp_path / "space") == tmp_path / "space"
    assert vars(space) == fields
    assert space == before
    with pytest.raises(InvalidInputError, match=space.name):
        space.verify()


def test_coordinates_and_population_cannot_be_changed(space: WeightSpace, population: Population) -> None:
    for part, name in ((space.coordinates, "mean"), (population, "ids"), (population.spread, "std")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, getattr(part, name))


def test_a_space_comes_back_from_a_pickle(space: WeightSpace) -> None:
    assert pickle.loads(pickle.dumps(space)) == space


# ---------------------------------------------------------------- the two parts alone
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(2, 5), st.integers(0, 2**16))
def test_a_populations_figures_are_those_of_its_fitted_rows(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n + 2, k)).astype(np.float32)
    ids = tuple(f"p{i}" for i in range(n + 2))
    splits = np.array(["train"] * (n + 1) + ["test"])
    found = Population(ids, splits, rows, "train", left_out=("p0",))
    inside = rows[1:-1].astype(np.float64)
    assert found.fitted.tolist() == [False, *[True] * n, False]
    np.testing.assert_allclose(found.mean, inside.mean(0))
    np.testing.assert_allclose(found.std, inside.std(0, ddof=1))
    np.testing.assert_allclose(found.covariance, np.cov(inside, rowvar=False).reshape(k, k))
    point = rng.normal(size=k)
    z = (point - found.mean) / found.std
    assert found.distance(point) == pytest.approx(np.sqrt((z**2).mean()))
    assert found.largest_distance == pytest.approx(max(found.distance(row) for row in inside))
    cosines = inside @ point / np.linalg.norm(inside, axis=1) / np.linalg.norm(point)
    nearest = found.nearest(point, n + 5)
    assert [name for name, _ in nearest] == [ids[1 + i] for i in np.argsort(-cosines, kind="stable")]
    np.testing.assert_allclose([cosine for _, cosine in nearest], np.sort(cosines)[::-1], atol=1e-12)
    for name, row in zip(ids, rows, strict=True):
        assert name in found
        np.testing.assert_array_equal(found.row(name), row)
    assert "train" not in found
    assert 3 not in found
    assert len(found) == n + 2
    with pytest.raises(UnknownNameError, match="nobody"):
        found.row("nobody")


def test_the_mahalanobis_distance_whitens_with_the_full_covariance(population: Population) -> None:
    point = population.row("p00002")[:3].astype(np.float64)
    apart = point - population.mean[:3]
    expected = np.sqrt(apart @ np.linalg.solve(population.covariance[:3, :3], apart))
    assert population.mahalanobis(point) == pytest.approx(expected)


def test_a_populations_samples_have_its_spread_with_and_without_covariance(population: Population) -> None:
    plain, full = population.sample(6000, 3), population.sample(6000, 3, covariance="full")
    np.testing.assert_array_equal(plain, population.spread.sample(6000, 3))
    for drawn in (plain, full):
        np.testing.assert_allclose(drawn.mean(0), population.mean, atol=0.08 * population.std.max())
        np.testing.assert_allclose(drawn.std(0), population.std, rtol=0.06)
    np.testing.assert_allclose(population.sample(5, 3, 0.5), (plain[:5] + population.mean) / 2)
    assert np.abs(np.cov(full.T) - population.covariance).max() < 0.1 * population.covariance.max()


def test_coordinates_alone_project_and_decode(space: WeightSpace, dataset: WeightDataset) -> None:
    alone = Coordinates(**{f.name: getattr(space.coordinates, f.name) for f in dataclasses.fields(Coordinates)})
    rows = dataset[:5]
    np.testing.assert_array_equal(alone.project(rows), space.project(rows))
    np.testing.assert_array_equal(alone.decode(alone.project(rows)), space.decode(space.project(rows)))
    assert alone == space.coordinates
    assert hash(alone) == hash(space.coordinates)
    assert alone.digest == space.digest
    for k in (0, 9, 1.5, True):
        with pytest.raises(InvalidInputError):
            alone.require_k(k)
        with pytest.raises(W2WError):
            alone.project(rows, k)
    with pytest.raises(LayoutMismatchError):
        alone.represent(np.zeros(3))


def test_the_explained_ratio_is_one_inside_and_zero_across(space: WeightSpace) -> None:
    found = space.coordinates
    inside = found.explained(found.decode(np.arange(1.0, 9.0)))
    assert inside.explained_ratio == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(inside.coefficients, np.arange(1.0, 9.0), atol=1e-2)
    assert inside.norm == pytest.approx(np.linalg.norm(np.arange(1.0, 9.0)), rel=1e-3)
    assert found.explained(found.mean) == Explained(np.zeros(8, np.float32), 0.0, 0.0)


def test_row_to_lora_names_the_base_model(space: WeightSpace) -> None:
    stated = dataclasses.replace(space.compatibility, base_model="org/base")
    named = dataclasses.replace(space, compatibility=stated)
    assert named.adapter("p00003").base_model == "org/base"
    assert space.adapter("p00003").base_model is None


# ---------------------------------------------------------------- names of 0.1.0
@pytest.mark.parametrize("name", MOVED)
def test_a_name_of_the_last_release_warns_and_leads_to_the_new_one(space: WeightSpace, name: str) -> None:
    part, attribute = MOVED[name].split(".")
    with pytest.warns(DeprecationWarning, match=attribute):
        found = getattr(space, name)
    there = getattr(getattr(space, part), attribute)
    assert found is there or found == there


def test_moved_names_of_rows_are_refused_without_a_population(bare: WeightSpace) -> None:
    for name in (name for name, there in MOVED.items() if there.startswith("population")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(MissingPopulationError):
                getattr(bare, name)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        bare.nothing_of_this_name  # noqa: B018


def test_old_keywords_and_fields_warn_and_work(space: WeightSpace) -> None:
    points = [space.row("p00000"), space.row("p00001")]
    with pytest.warns(DeprecationWarning, match="weights"):
        old = space.interpolate(points, shares=[1, 3])
    assert old == space.interpolate(points, weights=[1, 3])
    found = space.coordinates.explained(space.decode(points[0]))
    with pytest.warns(DeprecationWarning, match="explained_ratio"):
        assert found.share == found.explained_ratio


def test_a_spread_is_equal_by_its_numbers(space: WeightSpace) -> None:
    spread = space.spread
    assert spread == Spread(spread.mean.copy(), spread.std.copy(), spread.rows)
    assert spread != Spread(spread.mean, spread.std, spread.rows + 1)


def test_the_flat_constructor_of_the_last_release_makes_the_same_space(space: WeightSpace) -> None:
    found, population = space.coordinates, space.population
    assert population is not None
    flat = {name: getattr(found, name) for name in ("layout", "mean", "std", "basis", "singular_values", "residuals")}
    flat |= {
        name: getattr(population, name)
        for name in ("ids", "splits", "coefficients", "fitted_split", "squared_norms", "left_out")
    }
    kept = ("recipe", "diagnostics", "compatibility", "directions", "name", "version", "licence")
    with pytest.warns(DeprecationWarning, match="Coordinates"):
        made = WeightSpace(**flat, **{name: getattr(space, name) for name in kept})
    assert made == space
    assert made.digest == space.digest
