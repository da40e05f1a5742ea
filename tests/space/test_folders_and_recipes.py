# ruff: noqa: E501, one row of a table is one line
"""What is written of a weight space, what is read of it and checked, and the recipe that leads to it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import AlreadyExistsError, CorruptFileError, InvalidInputError, UnknownNameError
from w2w_hub.space import Krylov, NumpyEngine, TorchEngine
from w2w_hub.space.fit.build_and_save import build_and_save, unfinished
from w2w_hub.space.fit.job import Job
from w2w_hub.space.fit.rebuild import ANGLE_BOUND, SINGULAR_VALUE_BOUND, Agreement, compare_spaces, rebuild, separated
from w2w_hub.space.fit.resume import ResumeFolder, is_unfinished_build
from w2w_hub.space.integrity import check_space
from w2w_hub.space.manifest import DIAGNOSTICS, RECIPE, REQUIRED, require_facts
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.manifest import seal

from .population import changed, dataset_of, decaying, restate

ROWS, NUMBERS = 40, 60
BEARD = {"Beard": [bool(i % 2) for i in range(ROWS)]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return dataset_of(
        tmp_path_factory.mktemp("d") / "people", decaying(ROWS, NUMBERS), held_out=8, columns=BEARD,
        order=np.random.default_rng(0).permutation(ROWS), name="people", version="2.3.4", licence="cc-by-4.0",
        compatibility=Compatibility("org/base", None, "seed-0"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    some = [f"p{i:05d}" for i in range(30)]
    return build_space(dataset, 4, rows=some, name="faces", version="1.2.3")


@pytest.fixture
def folder(space: WeightSpace, tmp_path: Path) -> Path:
    return dataclasses.replace(space).save(tmp_path / "space")


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Change tensors of a space, and state the digest that they have then."""
    arrays = load_file(folder / "space.safetensors") | load_file(folder / "basis-00000.safetensors")
    change(arrays)
    save_file({"basis": np.ascontiguousarray(arrays.pop("basis"))}, folder / "basis-00000.safetensors")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "space.safetensors")
    data = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(f"w2w-basis-v1\n{data['layout']['digest']}\n".encode())
    for values in (arrays["mean"], arrays["std"], load_file(folder / "basis-00000.safetensors")["basis"]):
        digest.update(values.astype("<f4").tobytes())
    for file in (folder / "coefficients").glob("*.parquet"):
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)
    for name in ("directions.safetensors", "population_model.safetensors"):
        save_file(load_file(folder / name), folder / name)
    return restate(folder, digest=digest.hexdigest())


# ---------------------------------------------------------------- written and read
def test_every_field_of_a_space_comes_back_from_its_folder(space: WeightSpace, folder: Path) -> None:
    again = WeightSpace.from_pretrained(folder)
    for field in dataclasses.fields(WeightSpace):
        if not field.compare or field.name == "diagnostics":
            continue
        one, other = getattr(again, field.name), getattr(space, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype.kind == other.dtype.kind
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other, field.name
    assert json.dumps(again.diagnostics, sort_keys=True) == json.dumps(space.diagnostics, sort_keys=True)
    assert again == space
    assert again.path == folder
    assert len(again.left_out) == 2
    assert (again.name, again.version, again.licence) == ("faces", "1.2.3", "cc-by-4.0")


@pytest.mark.parametrize("k", [1, 3])
def test_the_first_components_alone_are_those_of_the_whole_and_cannot_be_saved(
    space: WeightSpace, folder: Path, k: int, tmp_path: Path
) -> None:
    part = WeightSpace.from_pretrained(folder, k)
    assert (part.k, part.digest) == (k, space.digest)
    for name in ("basis", "singular_values", "residuals"):
        np.testing.assert_array_equal(getattr(part, name), getattr(space, name)[:k])
    np.testing.assert_array_equal(part.coefficients, space.coefficients[:, :k])
    for name, direction in space.directions.items():
        np.testing.assert_array_equal(part.directions[name].editing, direction.editing[:k])
        np.testing.assert_array_equal(part.directions[name].reading, direction.reading[:k])
    with pytest.raises(InvalidInputError, match=str(k)):
        part.save(tmp_path / "part")
    assert WeightSpace.from_pretrained(folder, 4) == space
    for wrong in (0, 5, -1, 1.5, True):
        with pytest.raises(InvalidInputError):
            WeightSpace.from_pretrained(folder, wrong)


def test_tables_state_position_and_whether_a_row_was_fitted(space: WeightSpace, folder: Path) -> None:
    import pyarrow.parquet as pq

    seen = []
    for split in ("train", "test"):
        table = pq.read_table(folder / "coefficients" / f"{split}.parquet").to_pydict()
        for i, row in enumerate(table["row"]):
            assert table["id"][i] == space.ids[row]
            assert space.splits[row] == split
            assert table["fitted"][i] == (int(space.ids[row][1:]) < 30)
            np.testing.assert_array_equal(np.float32(table["coefficients"][i]), space.coefficients[row])
            assert table["squared_norm"][i] == space.squared_norms[row]
            seen.append(row)
    assert sorted(seen) == list(range(ROWS))
    assert json.loads((folder / "manifest.json").read_text())["splits"] == list(dict.fromkeys(space.splits.tolist()))


# ---------------------------------------------------------------- the fields of recipe and diagnostics
RIGHT: dict[str, Any] = {
    "text": "a", "count": 0, "integer": -3, "number": 0.5, "flag": True, "canonical": None, "object": {"a": 1},
    "curve": {"10": 0.5}, "reasons": {"Beard": "no"}, "errors": {"train": {"mean": 0.5}},
}  # fmt: skip
KINDS = {
    "dataset": "text", "dataset_version": "text", "dataset_digest": "text", "rows": "count", "k": "count",
    "split": "text", "standardised": "flag", "algorithm": "text", "constant_numbers": "count", "row_ids_sha256": "text",
    "canonical": "canonical", "solver": "text", "block": "count", "tolerance": "number", "max_passes": "count",
    "seed": "integer", "engine": "text", "threads": "count", "tile_rows": "count", "software": "object",
    "dataset_revision": "object", "saved_from": "object", "orthogonality_error": "number",
    "explained_variance": "curve", "largest_residual": "number", "passes": "count", "missed": "number",
    "reconstruction_error": "errors", "no_direction": "reasons",
}  # fmt: skip
WRONG: dict[str, list[Any]] = {
    "text": [None, 1, ["a"]], "count": [-1, 2**63, 0.5, True, "1", None], "integer": [2**63, -(2**63), 0.5, True, "1"],
    "number": [float("nan"), float("inf"), True, "1", None, 2**63], "flag": [0, 1, None, "true"],
    "canonical": ["qr", 0, False, ""], "object": [None, [], "a"],
    "curve": [{"a": 0.5}, {"10": "x"}, {"10": 0.5, "11": None}, [0.5], None], "reasons": [{"Beard": 1}, [], "a"],
    "errors": [{"train": 0.5}, {"train": {"mean": "x"}}, [], None],
}  # fmt: skip


def facts() -> dict[str, Any]:
    whole: dict[str, Any] = {"recipe": {}, "diagnostics": {}}
    for part, table in (("recipe", RECIPE), ("diagnostics", DIAGNOSTICS)):
        whole[part] = {name: RIGHT[KINDS[name]] for name in table if name in KINDS}
    whole["diagnostics"]["held_out"] = {"rows": 3, "explained_variance": {"1": 0.5}, "mean_only": 0.5}
    whole["diagnostics"]["nulls"] = {"mean_only": 1, "gaussian_spectrum": {"1": 1}, "held_out_chance": {"1": 0}}
    return whole


@pytest.mark.parametrize("name", [*KINDS, "held_out", "nulls"])
def test_a_field_of_recipe_or_diagnostics_of_another_type_is_named(name: str) -> None:
    require_facts(facts(), "here")
    part = "recipe" if name in RECIPE else "diagnostics"
    wrong = {
        "held_out": [3, {}, {"rows": -1}, {"rows": 3, "mean_only": "x"}, {"rows": 3, "explained_variance": {"a": 1}}],
        "nulls": [3, {"mean_only": "x"}, {"gaussian_spectrum": 1}, {"held_out_chance": {"1": None}}],
    }.get(name) or WRONG[KINDS[name]]
    for value in wrong:
        data = facts()
        data[part][name] = value
        with pytest.raises(CorruptFileError, match=rf"{part}\.{name}"):
            require_facts(data, "here")
    data = facts()
    del data[part][name]
    if name in REQUIRED:
        with pytest.raises(CorruptFileError, match=rf"{part}\.{name}"):
            require_facts(data, "here")
    else:
        require_facts(data, "here")
    others = {"count": 2**63 - 1, "integer": 1 - 2**63, "number": -7, "canonical": "svd"}
    data = facts()
    if KINDS.get(name) in others:
        data[part][name] = others[KINDS[name]]
    require_facts(data, "here")


# ---------------------------------------------------------------- verified
def listed(folder: Path, name: str, content: bytes = b"x") -> None:
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(content)
    data = json.loads((folder / "manifest.json").read_text())
    data["files"][name] = entry_of(folder / name)
    (folder / "manifest.json").write_bytes(seal(data))


def pipeline(settings: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: listed(folder, "w2w_pipeline.json", json.dumps(settings).encode())


WRONGS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a mean that is not finite": ("space.safetensors", lambda f: rewritten(f, lambda a: a["mean"].__setitem__(3, np.nan))),
    "a singular value that is not finite": ("space.safetensors", lambda f: rewritten(f, lambda a: a["singular_values"].__setitem__(0, np.inf))),
    "a deviation of 0": ("space.safetensors", lambda f: rewritten(f, lambda a: a["std"].__setitem__(-1, 0))),
    "the last two components in the wrong order": ("space.safetensors", lambda f: rewritten(f, lambda a: a["singular_values"].__setitem__(3, a["singular_values"][2] * 1.01))),
    "a component too long": ("basis", lambda f: rewritten(f, lambda a: a["basis"][3].__imul__(1.002))),
    "a component too short": ("basis", lambda f: rewritten(f, lambda a: a["basis"][3].__imul__(0.998))),
    "two components that are not orthogonal": ("basis", lambda f: rewritten(f, lambda a: a["basis"][3].__iadd__(0.002 * a["basis"][0]))),
    "the last component turned": ("basis", lambda f: rewritten(f, lambda a: a["basis"][3].__imul__(-1))),
    "a basis file too many": ("basis", lambda f: listed(f, "basis-00002.safetensors")),
    "a pickle": ("a.ckpt", lambda f: listed(f, "a.ckpt")),
    "a pickle in capitals in a folder": ("x/B.PKL", lambda f: listed(f, "x/B.PKL")),
    "coefficients of no split": ("coefficients/val.parquet", lambda f: listed(f, "coefficients/val.parquet")),
    "a base at a path of this machine": ("w2w_pipeline.json", pipeline({"base_model": "/models/base"})),
    "a base that is a number": ("w2w_pipeline.json", pipeline({"base_model": 3})),
    "a commit that is a number": ("w2w_pipeline.json", pipeline({"base_model": "org/base", "revision": 3})),
    "an embedded base that is not there": ("w2w_pipeline.json", pipeline({"base_model": "embedded"})),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONGS)
def test_what_a_space_must_not_be_is_found_in_its_file(what: str, folder: Path) -> None:
    file, change = WRONGS[what]
    change(folder)
    assert file in {problem.file for problem in check_space(folder).problems}


def test_what_is_within_rounding_is_not_wrong(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["basis"][1] *= 1.0001
        arrays["basis"][2] += 0.0003 * arrays["basis"][0]
        arrays["singular_values"][3] = arrays["singular_values"][2] + 1e-8 * arrays["singular_values"][0]

    rewritten(folder, change)
    report = check_space(folder)
    assert report.problems == []
    assert (report.rows, report.not_checked, report.deep) == (ROWS, [], True)
    assert report.digest == json.loads((folder / "manifest.json").read_text())["digest"]


def test_a_shallow_check_says_what_it_did_not_look_at_and_finds_the_rest(folder: Path) -> None:
    rewritten(folder, lambda a: a["basis"][3].__imul__(-1))
    shallow = check_space(folder, deep=False)
    assert shallow.problems == []
    assert len(shallow.not_checked) == 1
    rewritten(folder, lambda a: a["std"].__setitem__(-1, -1))
    assert "space.safetensors" in {problem.file for problem in check_space(folder, deep=False).problems}


def test_a_base_without_a_commit_is_a_note_and_one_with_it_or_a_folder_is_not(folder: Path) -> None:
    for settings, notes in (
        ({"base_model": "org/base"}, 1), ({"base_model": "org/base", "revision": "a" * 40}, 0),
        ({"base_model": "../base"}, 0),
    ):  # fmt: skip
        (folder.parent / "base").mkdir(exist_ok=True)
        pipeline(settings)(folder)
        report = check_space(folder)
        assert report.problems == []
        assert len(report.notes) == notes


def test_a_turned_component_far_down_is_found(dataset: WeightDataset, tmp_path: Path) -> None:
    many = dataset_of(tmp_path / "many", np.random.default_rng(0).normal(size=(320, 330)).astype(np.float32))
    space = build_space(many, 300, directions=False)
    folder = space.save(tmp_path / "space")
    assert check_space(folder).problems == []
    for number in (256, 299):
        turned = space.basis.copy()
        turned[number] *= -1
        changed(space, basis=turned).save(tmp_path / f"turned-{number}")
        [problem] = check_space(tmp_path / f"turned-{number}").problems
        assert str(number) in problem.message


# ---------------------------------------------------------------- recipes
def test_a_recipe_states_all_that_was_asked_for(dataset: WeightDataset, space: WeightSpace) -> None:
    names = "".join(f"p{i:05d}\n" for i in range(30))
    expected = {
        "dataset": "people", "dataset_version": "2.3.4", "dataset_digest": dataset.manifest.digest, "rows": 30, "k": 4,
        "split": "train", "standardised": True, "canonical": None, "solver": "gram", "engine": "numpy",
        "constant_numbers": 0, "row_ids_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "tile_rows": 4096,
    }  # fmt: skip
    assert {name: space.recipe[name] for name in expected} == expected
    assert (space.name, space.version, space.licence) == ("faces", "1.2.3", "cc-by-4.0")
    assert space.compatibility == dataset.manifest.compatibility
    assert set(space.left_out) == {"p00030", "p00031"}
    plain = build_space(dataset, 2, directions=False)
    assert (plain.name, plain.version, plain.left_out) == ("people-space", "0.1.0", ())
    assert plain.directions == {}
    assert list(space.directions) == ["Beard"]
    other = build_space(dataset, 2, split="test", directions=False)
    assert (other.fitted_split, other.recipe["split"], other.recipe["rows"]) == ("test", "test", 8)
    np.testing.assert_allclose(other.mean, dataset.to_numpy("test").astype(float).mean(0), rtol=1e-6)


def test_coefficients_and_norms_are_those_of_the_row_they_are_beside(
    dataset: WeightDataset, space: WeightSpace
) -> None:
    assert space.ids == tuple(dataset.ids) != tuple(sorted(dataset.ids))
    standardised = (dataset.to_numpy().astype(np.float64) - space.mean) / space.std
    np.testing.assert_allclose(space.coefficients, standardised @ space.basis.T, atol=2e-3)
    np.testing.assert_allclose(space.squared_norms, (standardised**2).sum(1), rtol=1e-3)
    assert list(space.splits) == ["train" if int(name[1:]) < 32 else "test" for name in dataset.ids]


def test_a_build_checks_its_rows_and_components_at_both_ends(dataset: WeightDataset) -> None:
    def job(**options: Any) -> Job:
        return Job.checked(dataset, **options)

    def fitted(**options: Any) -> list[str]:
        asked = job(**options)
        return asked.rows(asked.chosen).ids

    assert (job().k, job(k=31).k, job(k=1).k) == (31, 31, 1)
    for k in (0, 32, -1):
        with pytest.raises(InvalidInputError):
            job(k=k)
    two = ["p00003", "p00001"]
    assert fitted(rows=two) == fitted(rows=[*two, "p00003"]) == ["p00001", "p00003"]
    assert len(build_space(dataset, rows=two, directions=False).require_population("row")) == ROWS
    with pytest.raises(InvalidInputError):
        job(rows=["p00003"])
    with pytest.raises(InvalidInputError, match="p00035"):
        job(rows=[*two, "p00035"])
    with pytest.raises(UnknownNameError):
        job(rows=[*two, "nobody"])
    with pytest.raises(UnknownNameError, match="val"):
        job(split="val")
    settings = {"block": 5, "tolerance": 0.01, "max_passes": 7, "seed": 2}
    asked = job(k=3, solver=Krylov(**settings), engine=NumpyEngine(block_rows=9))
    assert asked.recipe() | {"solver": "krylov", **settings} == asked.recipe()
    for rows in (asked.rows(asked.chosen), asked.rows(np.arange(ROWS))):
        assert (rows.block_rows, rows.canonical) == (9, False)
    assert job(k=3, canonical="svd").rows(np.arange(ROWS)).canonical


@pytest.mark.parametrize(
    "options",
    [{"solver": Krylov(block=5, tolerance=0.1, max_passes=9, seed=3)}, {"solver": "covariance"},
     {"canonical": "svd"}, {"standardize": False}, {"split": "test"}, {"rows": [f"p{i:05d}" for i in range(9)]},
     {"engine": "torch"}, {"name": "x", "version": "3.0.0"}],
)  # fmt: skip
def test_a_rebuild_follows_every_option_of_the_recipe(dataset: WeightDataset, options: dict[str, Any]) -> None:
    first = build_space(dataset, 3, directions=False, **options)
    again = rebuild(first, dataset)
    assert again.recipe == first.recipe
    assert (again.digest, again.name, again.version) == (first.digest, first.name, first.version)
    assert (again.left_out, again.fitted_split, again.directions) == (first.left_out, first.fitted_split, {})
    same = None if first.population_model is None else 0.0
    apart = int(separated(first.singular_values).sum())
    assert compare_spaces(first, again) == Agreement(True, 0.0, 0.0, apart, 0.0, same)


def test_a_rebuild_may_use_another_engine_have_directions_and_keep_its_passes(
    dataset: WeightDataset, space: WeightSpace, tmp_path: Path
) -> None:
    again = rebuild(space, dataset, engine=TorchEngine("cpu"), directions=True, checkpoint=tmp_path / "kept")
    assert again.recipe["engine"] == "torch"
    assert set(again.directions) == set(space.directions)
    assert is_unfinished_build(tmp_path / "kept")
    assert compare_spaces(space, again).within_bound


def test_an_agreement_measures_each_difference_by_itself(space: WeightSpace) -> None:
    def against(**changes: Any) -> Agreement:
        return compare_spaces(space, changed(space, **changes))

    moved = space.mean + 0.25 * space.std * (np.arange(NUMBERS) == 7)
    assert against(mean=moved.astype(np.float32)).mean_error == pytest.approx(0.25, rel=1e-3)
    spread = space.std * (1 + 0.5 * (np.arange(NUMBERS) == 9))
    assert against(std=spread.astype(np.float32)).mean_error == pytest.approx(0.5, rel=1e-5)
    basis = space.basis.copy()
    basis[0] = np.cos(0.1) * space.basis[0] + np.sin(0.1) * space.basis[1]
    values = space.singular_values * np.array([1, 1, 1.5, 1])
    found = against(basis=basis, singular_values=values)
    assert found.angle == pytest.approx(np.sin(0.1), rel=1e-4)
    assert found.singular_value_error == pytest.approx(0.5)
    assert not found.identical
    assert not found.within_bound
    # a component that is not separated is not looked at; the last one never is
    basis = space.basis.copy()
    basis[3] = space.basis[2]
    assert against(basis=basis).angle == pytest.approx(0, abs=1e-6)
    fewer = {"basis": space.basis[:3], "singular_values": space.singular_values[:3]}
    with pytest.raises(InvalidInputError):
        against(**fewer)


@pytest.mark.parametrize("field", ["singular_value_error", "angle", "mean_error"])
def test_two_spaces_agree_up_to_each_bound_and_not_beyond(field: str) -> None:
    bound = ANGLE_BOUND if field == "angle" else SINGULAR_VALUE_BOUND
    right = Agreement(False, 0.0, 0.0, 3, 0.0)
    assert dataclasses.replace(right, **{field: bound}).within_bound
    beyond = dataclasses.replace(right, **{field: bound * 1.01})
    assert not beyond.within_bound
    assert dataclasses.replace(beyond, identical=True).within_bound
    told = beyond.to_json()
    assert told["within_bound"] is False
    assert (told["singular_value_bound"], told["angle_bound"], told["separated"]) == (1e-5, 1e-3, 3)
    assert told[field] == bound * 1.01


def test_components_are_separated_by_one_percent_of_their_eigenvalue_on_both_sides() -> None:
    for ratio, expected in ((0.985, True), (0.995, False)):
        values = np.sqrt([4.0, 4.0 * ratio, 1.0, 0.25])
        np.testing.assert_array_equal(separated(values), [expected, expected, True, False])


# ---------------------------------------------------------------- kept passes
def test_a_kept_result_is_used_for_the_same_recipe_and_none_for_another(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"first": np.arange(6.0).reshape(2, 3).T, "second": np.ones((0, 2), np.float32)}

    for recipe, count in (({"k": 1, "j": 2}, 1), ({"j": 2, "k": 1}, 1), ({"k": 2, "j": 2}, 2)):
        kept = ResumeFolder(tmp_path / "kept", recipe)
        assert kept.has("moments") == (recipe != {"k": 2, "j": 2} and count == len(calls) == 1)
        found = kept.remember("moments", compute)
        assert len(calls) == count
        np.testing.assert_array_equal(found["first"], np.arange(6.0).reshape(2, 3).T)
        assert found["second"].shape == (0, 2)
        assert {name: v.dtype for name, v in found.items()} == {"first": np.float64, "second": np.float32}
        assert kept.has("moments")
        kept.release()
    kept = ResumeFolder(tmp_path / "kept", {"k": 2, "j": 2})
    kept.remember("covariance", compute)
    assert len(calls) == 3
    kept.clear()
    assert not (tmp_path / "kept").exists()
    nothing = ResumeFolder(None)
    nothing.remember("moments", compute)
    nothing.remember("moments", compute)
    assert len(calls) == 5
    assert not nothing.has("moments")


@pytest.mark.parametrize("byte", [0.1, 0.5, 0.99])
def test_a_kept_result_with_a_flipped_byte_is_computed_again_and_replaced(tmp_path: Path, byte: float) -> None:
    kept = ResumeFolder(tmp_path / "kept")
    values = np.random.default_rng(0).normal(size=50)
    kept.remember("pass-001", lambda: {"product": values})
    file = tmp_path / "kept" / "pass-001.safetensors"
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[int(len(whole) * byte)] ^= 1
    file.write_bytes(broken)
    np.testing.assert_array_equal(kept.remember("pass-001", lambda: {"product": values})["product"], values)
    assert file.read_bytes() == whole
    kept.release()


def test_a_build_that_is_saved_has_its_folders_name_and_the_options_that_were_given(
    dataset: WeightDataset, tmp_path: Path
) -> None:
    out = tmp_path / "faces"
    assert unfinished(out) == tmp_path / ".faces.build"
    made = build_and_save(dataset, out, 3, version="4.0.0", directions=False)
    again = WeightSpace.from_pretrained(out)
    assert (again.name, again.version, again.k, again.directions) == ("faces", "4.0.0", 3, {})
    assert made.path == out
    assert os.listdir(tmp_path) == ["faces"]
    named = build_and_save(dataset, tmp_path / "two", name="other", directions=False)
    assert (named.name, named.k) == ("other", 31)
    with pytest.raises(AlreadyExistsError):
        build_and_save(dataset, out, 3, version="4.0.0", directions=False)
