"""Folders of weight spaces in which one thing is not as it must be, and rows that are not plain float32."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space
from w2w_hub.errors import CorruptFileError, InvalidInputError
from w2w_hub.lora.adapter import Target
from w2w_hub.lora.canonical import canonicalize_rows
from w2w_hub.space import NumpyEngine, coordinate_files
from w2w_hub.space.fit.rows import Rows
from w2w_hub.space.integrity import check_space

from .population import dataset_of, decaying, restate

ROWS, NUMBERS, K = 40, 60, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    beard = {"Beard": [bool(i % 2) for i in range(ROWS)]}
    folder = tmp_path_factory.mktemp("d") / "people"
    return dataset_of(folder, decaying(ROWS, NUMBERS), held_out=8, columns=beard)


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, K)


@pytest.fixture
def folder(space: WeightSpace, tmp_path: Path) -> Path:
    return dataclasses.replace(space).save(tmp_path / "space")


FIELDS = {
    "name": 3, "version": None, "licence": ["x"], "digest": 7, "k": True, "fitted_split": 0, "splits": "train",
    "recipe": [], "diagnostics": None, "layout": "x", "compatibility": [], "directions": {},
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_manifest_that_is_missing_or_of_another_type_is_named(folder: Path, name: str) -> None:
    for value in (FIELDS[name], ...):
        before = (folder / "manifest.json").read_bytes()
        restate(folder, **{name: value})
        with pytest.raises(CorruptFileError, match=name):
            WeightSpace.from_pretrained(folder)
        (folder / "manifest.json").write_bytes(before)


@pytest.mark.parametrize("change", [{"size": NUMBERS + 1}, {"digest": "0" * 64}, {"size": None}])
def test_a_layout_must_have_the_digest_and_size_that_are_stated(folder: Path, change: dict[str, Any]) -> None:
    layout = json.loads((folder / "manifest.json").read_text())["layout"]
    restate(folder, layout=layout | change)
    with pytest.raises(CorruptFileError, match="layout"):
        WeightSpace.from_pretrained(folder)


@pytest.mark.parametrize("change", ["longer", "shorter", "another dtype", "one more axis", "missing"])
@pytest.mark.parametrize("name", ["mean", "std", "singular_values", "residuals", "basis"])
def test_an_array_of_another_shape_or_dtype_is_refused(folder: Path, name: str, change: str) -> None:
    file = folder / ("basis-00000.safetensors" if name == "basis" else "space.safetensors")
    arrays = load_file(file)
    values = arrays.pop(name)
    other = np.float64 if values.dtype == np.float32 else np.float32
    changed = {
        "longer": np.concatenate([values, values[:1]]), "shorter": values[:-1].copy(),
        "another dtype": values.astype(other), "one more axis": values[None],
    }  # fmt: skip
    save_file(arrays | ({} if change == "missing" else {name: changed[change]}), file)
    restate(folder)
    if (name, change) == ("residuals", "missing"):
        assert WeightSpace.from_pretrained(folder).residuals is None
        return
    with pytest.raises(CorruptFileError, match=name):
        WeightSpace.from_pretrained(folder)


def table(folder: Path, change: Callable[[pa.Table], pa.Table], *splits: str) -> None:
    for split in splits:
        file = folder / "coefficients" / f"{split}.parquet"
        pq.write_table(change(pq.read_table(file)), file)
    restate(folder)


def column(name: str, values: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    def change(found: pa.Table) -> pa.Table:
        at = found.column_names.index(name)
        return found.set_column(at, name, pa.array(values(found[name].to_pylist())))

    return change


TABLES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "an id that is missing": column("id", lambda v: [None, *v[1:]]),
    "ids that are numbers": column("id", lambda v: list(range(len(v)))),
    "an id that is there twice": column("id", lambda v: [v[1], *v[1:]]),
    "a row that is there twice": column("row", lambda v: [v[1], *v[1:]]),
    "a row that is missing": column("row", lambda v: [None, *v[1:]]),
    "rows that are fractions": column("row", lambda v: [x + 0.5 for x in v]),
    "fitted as numbers": column("fitted", lambda v: [int(x) for x in v]),
    "a fitted that is missing": column("fitted", lambda v: [None, *v[1:]]),
    "norms as text": column("squared_norm", lambda v: [str(x) for x in v]),
    "a norm that is missing": column("squared_norm", lambda v: [*v[:-1], None]),
    "a coefficient that is missing": column("coefficients", lambda v: [*v[:-1], [*v[-1][:-1], None]]),
    "a row with one coefficient less": column("coefficients", lambda v: [*v[:-1], v[-1][:-1]]),
    "coefficients in float64": column("coefficients", lambda v: [[float(x) for x in c] for c in v]),
    "no column of ids": lambda found: found.drop_columns(["id"]),
    "fitted in one split alone": lambda found: found.drop_columns(["fitted"]),
    "norms in one split alone": lambda found: found.drop_columns(["squared_norm"]),
}


@pytest.mark.parametrize("what", TABLES)
def test_coefficients_that_are_not_as_they_must_be_are_refused(what: str, folder: Path) -> None:
    table(folder, TABLES[what], "test")
    with pytest.raises(CorruptFileError, match="coefficients"):
        WeightSpace.from_pretrained(folder)


def test_columns_that_older_spaces_lack_may_be_missing_from_all_splits(space: WeightSpace, folder: Path) -> None:
    table(folder, lambda found: found.drop_columns(["fitted", "squared_norm"]), "train", "test")
    found = WeightSpace.from_pretrained(folder)
    assert found.squared_norms is None
    np.testing.assert_array_equal(found.fitted, space.splits == "train")
    assert found.left_out == ()
    with pytest.raises(InvalidInputError):
        found.reconstruction_error()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_norm_that_none_can_be_is_a_problem_of_the_coefficients(folder: Path, value: float) -> None:
    table(folder, column("squared_norm", lambda v: [*v[:-1], value]), "test")
    assert "coefficients" in {problem.file for problem in check_space(folder).problems}


def test_an_id_that_none_may_be_is_a_problem_of_the_coefficients(folder: Path) -> None:
    table(folder, column("id", lambda v: [*v[:-1], "../x"]), "test")
    [problem] = [problem for problem in check_space(folder).problems if problem.file == "coefficients"]
    assert problem.rows == ["../x"]


@pytest.mark.parametrize("kind", ["editing", "reading"])
@pytest.mark.parametrize("what", ["missing", "short", "nan"])
def test_a_direction_whose_vectors_are_not_of_the_space_is_named(folder: Path, kind: str, what: str) -> None:
    file = folder / "directions.safetensors"
    arrays = load_file(file)
    vector = arrays.pop(f"Beard.{kind}")
    vector = {"short": vector[:-1].copy(), "nan": vector * np.float32("nan")}.get(what)
    save_file(arrays if vector is None else arrays | {f"Beard.{kind}": vector}, file)
    restate(folder)
    with pytest.raises(CorruptFileError, match="Beard"):
        WeightSpace.from_pretrained(folder)


def test_the_first_components_need_no_file_of_the_others(
    space: WeightSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinate_files, "COMPONENTS_A_FILE", 2)
    folder = dataclasses.replace(space).save(tmp_path / "space")
    assert sorted(p.name for p in folder.glob("basis-*")) == ["basis-00000.safetensors", "basis-00001.safetensors"]
    assert WeightSpace.from_pretrained(folder) == space
    np.testing.assert_array_equal(WeightSpace.from_pretrained(folder, 3).basis, space.basis[:3])
    (folder / "basis-00001.safetensors").unlink()
    for k in (1, 2):
        part = WeightSpace.from_pretrained(folder, k)
        np.testing.assert_array_equal(part.basis, space.basis[:k])
        assert part.digest == space.digest
    for k in (3, 4, None):
        with pytest.raises((CorruptFileError, FileNotFoundError)):
            WeightSpace.from_pretrained(folder, k)


def test_what_verification_notes_is_a_warning_and_depth_is_passed_on(folder: Path) -> None:
    (folder / "w2w_pipeline.json").write_text('{"base_model": "org/base"}')
    (folder / "previews").mkdir()
    (folder / "previews" / "one.png").write_bytes(b"abc")
    data = json.loads((folder / "manifest.json").read_text())
    restate(folder, files=data["files"] | {"w2w_pipeline.json": {}, "previews/one.png": {}})
    for found in (
        WeightSpace.from_pretrained(folder),
        dataclasses.replace(WeightSpace.from_pretrained(folder), source=None),
    ):
        with pytest.warns(UserWarning, match="org/base"):
            found.verify()
        (folder / "previews" / "one.png").write_bytes(b"abd")
        with pytest.warns(UserWarning, match="org/base"):
            found.verify(deep=False)
        with pytest.raises(CorruptFileError, match="one"):
            found.verify()
        (folder / "previews" / "one.png").write_bytes(b"abc")


# ---------------------------------------------------------------- rows
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("canonical", [False, True])
def test_rows_of_any_dtype_are_float32_and_canonical_if_asked_for_also_in_another_process(
    tmp_path: Path, dtype: str, canonical: bool
) -> None:
    layout = ParameterLayout({Target("unet", f"blocks.{i}.to_q"): (2, 9, 8) for i in range(2)}, 4.0)
    values = np.random.default_rng(0).normal(size=(50, layout.size)).astype(dtype)
    dataset = dataset_of(tmp_path / "people", values, layout=layout)
    expected = values.astype(np.float32)
    if canonical:
        expected = canonicalize_rows(layout, expected).astype(np.float32)
        assert np.abs(expected - values).max() > 0.1
    rows = Rows(dataset, np.arange(3, 50), canonical=canonical, tile_values=1, block_rows=20)
    for some in (rows, pickle.loads(pickle.dumps(rows))):
        assert (some.canonical, some.tile_rows, some.block_rows, some.count) == (canonical, 16, 20, 3)
        for empty in (None, np.empty):
            found = np.concatenate([np.array(tile) for _, tile in some.tiles(empty=empty)])
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[3:], atol=1e-6)
        np.testing.assert_allclose(some.tile(2), expected[3 + 32 :], atol=1e-6)


@pytest.mark.parametrize("empty", [None, np.empty])
def test_a_tile_stays_as_it_is_while_the_next_ones_are_read(tmp_path: Path, empty: Any) -> None:
    values = decaying(100, NUMBERS)
    dataset = dataset_of(tmp_path / "people", values, order=np.random.default_rng(0).permutation(100))
    for start, tile in Rows(dataset, np.arange(100), tile_values=1).tiles(empty=empty):
        time.sleep(0.01)  # time enough to read the next one
        np.testing.assert_array_equal(tile, values[start : start + 16])


def test_an_engine_that_is_used_again_knows_nothing_of_its_last_build(dataset: WeightDataset, tmp_path: Path) -> None:
    other = dataset_of(tmp_path / "other", decaying(ROWS, NUMBERS, seed=7))
    engine = NumpyEngine()
    build_space(dataset, 3, engine=engine, checkpoint=tmp_path / "kept", directions=False)
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    again = build_space(other, 3, engine=engine, directions=False)
    assert again.digest == build_space(other, 3, directions=False).digest
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == kept
