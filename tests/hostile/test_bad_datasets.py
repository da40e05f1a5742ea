"""Datasets that are damaged, incomplete or from the future, and inputs that would make one such."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from w2w_hub import ParameterLayout, WeightDataset, write_dataset
from w2w_hub.errors import (
    AlreadyExistsError,
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsupportedFormatError,
    W2WError,
)
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def refused(folder: Path, error: type[W2WError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        WeightDataset.open(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def edit(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))


# ----------------------------------------------------------------- manifest
@pytest.mark.parametrize("version", [0, 2, 99, "1", None, 1.5])
def test_an_unknown_format_version_is_refused_with_what_to_do(make_dataset, version):
    folder = make_dataset().path
    edit(folder, format_version=version)
    refused(folder, UnsupportedFormatError, f"format version {version}, .* reads up to 1: pip install -U w2w-hub")


def test_a_manifest_of_something_else_is_refused(make_dataset):
    folder = make_dataset().path
    edit(folder, format="w2w-space")
    refused(folder, UnsupportedFormatError, "weight space")


FIELDS = ["name", "version", "rows", "dtype", "layout", "digest", "columns", "splits", "compatibility", "files"]


TEXTS = ("name", "version", "digest")
MISSTATED = [
    (f, v) for f in FIELDS for v in (None, [], 3.5, "nonsense", {"x": "y"}) if f not in TEXTS or v != "nonsense"
]


@pytest.mark.parametrize(("field", "value"), MISSTATED, ids=repr)
def test_a_misstated_field_is_refused_not_a_crash(make_dataset, field, value):
    folder = make_dataset().path
    edit(folder, **{field: value})
    refused(folder, CorruptFileError, re.escape(str(folder)))


@pytest.mark.parametrize("field", [f for f in FIELDS if f != "files"])
def test_a_field_that_is_not_there_is_refused(make_dataset, field):
    folder = make_dataset().path
    edit(folder, **{field: ...})
    refused(folder, CorruptFileError, r"manifest\.json")


@pytest.mark.parametrize("change", [{"scale": 4.0}, {"size": 121}, {"size": None}, {"digest": "0" * 64}], ids=str)
def test_a_layout_that_was_edited_is_refused(make_dataset, change):
    folder = make_dataset().path
    layout = json.loads((folder / "manifest.json").read_text())["layout"]
    edit(folder, layout=layout | change)
    refused(folder, CorruptFileError, "layout")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"], ids=repr)
def test_a_manifest_that_is_no_json_object_is_refused(make_dataset, data):
    folder = make_dataset().path
    (folder / "manifest.json").write_bytes(data)
    refused(folder, CorruptFileError, r"manifest\.json (is not valid JSON|holds a JSON list)")


# ------------------------------------------------------------ missing files
def test_a_folder_that_is_not_there_or_is_a_file_is_refused(tmp_path):
    refused(tmp_path / "nothing", MissingPathError, "a dataset is made by: w2w pack")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", MissingPathError, "is not a dataset; it is a file")


@pytest.mark.parametrize("name", ["manifest.json", "labels/test.parquet", "weights.zarr", "weights.zarr/weights/c/0/0"])
def test_a_missing_part_is_found_on_opening_never_read_as_zeros(make_dataset, name):
    folder = make_dataset().path
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(folder, MissingPathError, name)


def test_a_missing_view_does_not_keep_the_rows_from_being_read_but_verify_finds_it(make_dataset):
    ds = make_dataset()
    shutil.rmtree(ds.path / "parquet")
    opened = WeightDataset.open(ds.path)
    np.testing.assert_array_equal(opened.to_numpy(), ds.to_numpy())
    with pytest.raises(CorruptFileError, match=r"parquet/(test|train)\.parquet"):
        opened.verify()


# ------------------------------------------------------------ damaged files
def test_a_flipped_byte_in_any_listed_file_is_found_by_verify(make_dataset):
    ds = make_dataset()
    for name in ds.manifest.files:
        whole = (ds.path / name).read_bytes()
        flip(ds.path / name, len(whole) // 2)
        with pytest.raises(CorruptFileError, match=re.escape(f"{ds.path / name} ")):
            ds.verify()
        (ds.path / name).write_bytes(whole)
    ds.verify()


@pytest.mark.parametrize("name", ["labels/test.parquet", "weights.zarr/zarr.json", "weights.zarr/weights/c/0/0"])
@pytest.mark.parametrize("kept", [0, 20])  # an empty shard would be read as zeros
def test_a_truncated_part_is_refused_on_opening(make_dataset, name, kept):
    folder = make_dataset().path
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    refused(folder, CorruptFileError, f"{name} (cannot be read|has {kept} bytes, the manifest lists)")


@pytest.mark.parametrize("name", ["zarr.json", "weights/zarr.json"])
def test_zarr_metadata_that_is_none_is_refused_on_opening(make_dataset, name):
    folder = make_dataset().path
    path = folder / "weights.zarr" / name
    path.write_bytes(b"x" * path.stat().st_size)
    refused(folder, CorruptFileError, r"weights\.zarr cannot be opened")


def restate_files(folder: Path) -> None:
    """Give the manifest the hashes of the files as they are now, as a forger would."""
    from w2w_hub.store.hashing import sha256_file

    names = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, files={n: {"sha256": sha256_file(folder / n), "size": (folder / n).stat().st_size} for n in names})


def test_a_changed_row_is_found_by_its_own_digest_even_if_the_file_hashes_were_restated(make_dataset):
    import zarr

    folder = make_dataset().path
    zarr.open_array(folder / "weights.zarr" / "weights", mode="r+")[3, 5] = 0.125
    restate_files(folder)
    with pytest.raises(CorruptFileError, match="row 'p3'"):
        WeightDataset.open(folder).verify()


def test_a_changed_label_is_found_by_the_dataset_digest_even_if_the_file_hashes_were_restated(make_dataset):
    folder = make_dataset().path
    table = pd.read_parquet(folder / "labels" / "test.parquet")
    table["Hair"] = "blue"
    table.to_parquet(folder / "labels" / "test.parquet")
    restate_files(folder)
    with pytest.raises(CorruptFileError, match="labels"):
        WeightDataset.open(folder).verify()


def test_labels_that_do_not_number_all_rows_are_refused(make_dataset):
    folder = make_dataset().path
    table = pd.read_parquet(folder / "labels" / "test.parquet")
    table[:1].to_parquet(folder / "labels" / "test.parquet")
    refused(folder, CorruptFileError, r"labels/test\.parquet has 1 rows, expected 2")


@pytest.mark.parametrize("column", ["row", "id", "split", "row_sha256", "Hair"])
def test_labels_without_a_column_are_refused(make_dataset, column):
    folder = make_dataset().path
    for file in (folder / "labels").iterdir():
        pd.read_parquet(file).drop(columns=column).to_parquet(file)
    refused(folder, CorruptFileError, f"has no column '{column}'")


def test_a_matrix_of_another_shape_or_dtype_than_stated_is_refused(make_dataset, tmp_path):
    folder, half = make_dataset().path, make_dataset("half", dtype="float16").path
    shutil.rmtree(folder / "weights.zarr")
    shutil.copytree(half / "weights.zarr", folder / "weights.zarr")
    restate_files(folder)
    refused(folder, CorruptFileError, r"weights\.zarr is float16 \(6, 122\), the manifest states float32")


# --------------------------------------------------------------- bad inputs
@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a\\b", ".hidden", "-x", "a b", "a\n", "a\0", "naïve", "a:b", "nan\t"], ids=repr
)
def test_an_id_that_could_be_a_path_or_break_a_line_is_refused(tmp_path, name):
    with pytest.raises(InvalidInputError, match=re.escape(repr(name))):
        write_dataset(np.zeros((1, 7)), tmp_path / "d", layout=SMALL, ids=[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["", "../x", "a/b", "held-out", "a b", "train\n", "all", "a..b", ".a"], ids=repr)
def test_a_split_that_could_be_a_path_or_that_datasets_does_not_take_is_refused(tmp_path, split):
    labels = pd.DataFrame({"id": ["a"], "split": [split]})
    with pytest.raises(InvalidInputError, match=r"split .*: use letters, digits, underscores"):
        write_dataset(np.zeros((1, 7)), tmp_path / "d", layout=SMALL, ids=["a"], labels=labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_row_that_is_no_finite_float32_is_refused_by_id_and_nothing_is_written(tmp_path, value, dtype):
    rows = np.zeros((3, 7))
    rows[1, 4] = value
    with pytest.raises(InvalidInputError, match="row 'b'"):
        write_dataset(rows, tmp_path / "d", layout=SMALL, ids=["a", "b", "c"], dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [65520, -70000, 1e30])
def test_values_that_do_not_fit_float16_are_refused_when_it_was_asked_for(tmp_path, value):
    rows = np.zeros((2, 7), np.float32)
    rows[0, 0] = value
    with pytest.raises(InvalidInputError, match=r"float16.*float32"):
        write_dataset(rows, tmp_path / "d", layout=SMALL, dtype="float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [65520, -70000, 1e30])
def test_values_that_the_float16_view_cannot_hold_are_refused_unless_the_view_is_left_out(tmp_path, value):
    rows = np.zeros((2, 7), np.float32)
    rows[1, 3] = value
    with pytest.raises(InvalidInputError, match=r"row 'b'.*parquet_view=False"):
        write_dataset(rows, tmp_path / "d", layout=SMALL, ids=["a", "b"])
    assert list(tmp_path.iterdir()) == []
    ds = write_dataset(rows, tmp_path / "d", layout=SMALL, ids=["a", "b"], parquet_view=False)
    assert ds["b"][3] == np.float32(value)


def test_the_largest_float16_is_held_by_the_view(tmp_path):
    ds = write_dataset(np.full((1, 7), 65504.0), tmp_path / "d", layout=SMALL)
    view = pd.read_parquet(ds.path / "parquet" / "train.parquet")
    assert view["weights"][0].tolist() == [65504.0] * 7


def test_a_dataset_that_is_there_is_not_overwritten(make_dataset):
    before = make_dataset()
    with pytest.raises(AlreadyExistsError) as error:
        make_dataset(seed=1, overwrite=False)
    assert error.value.path == before.path
    assert WeightDataset.open(before.path).manifest == before.manifest


def test_a_failed_replacement_leaves_the_dataset_that_was_there(make_dataset, layout):
    before = make_dataset()
    with pytest.raises(InvalidInputError):
        write_dataset(np.full((1, layout.size), np.nan), before.path, layout=layout, overwrite=True)
    WeightDataset.open(before.path).verify()
    assert [p.name for p in before.path.parent.iterdir()] == ["people"]
