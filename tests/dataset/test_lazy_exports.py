"""What leaves a lazy dataset: its numbers, or a refusal, and never a path of this machine."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import w2w_hub
from w2w_hub.dataset.views import weight_row
from w2w_hub.dataset.views.lazy_rows import LazyDataset, LazyStream
from w2w_hub.errors import InvalidInputError, MissingPathError


@pytest.fixture
def ds(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(weight_row, "_opened", {})
    monkeypatch.setattr(weight_row, "_folders", {})
    return make_dataset("SecretFolder", name="people", parquet_view=False)


@pytest.fixture
def load(ds, tmp_path):
    def loaded(split="train", **options):
        return w2w_hub.load_dataset(ds.path, split=split, cache_dir=tmp_path / "cache", **options)

    return loaded


def from_csv(data, folder):
    data.to_csv(folder / "x.csv")
    table = pd.read_csv(folder / "x.csv")
    return [np.fromstring(text.strip("[]"), np.float32, sep=" ") for text in table["weights"]]


def from_json(data, folder):
    with io.BytesIO() as buffer:
        data.to_json(buffer)
        return [json.loads(line)["weights"] for line in buffer.getvalue().splitlines()]


def from_sql(data, folder):
    with sqlite3.connect(folder / "x.db") as connection:
        data.to_sql("rows", connection)
        return [np.frombuffer(row, np.float32) for (row,) in connection.execute("select weights from rows")]


def from_parquet(data, folder):
    data.to_parquet(folder / "x.parquet")
    assert b"WeightRow" not in (folder / "x.parquet").read_bytes()
    return pq.read_table(folder / "x.parquet")["weights"].to_pylist()


EXPORTS = {
    "csv": from_csv,
    "json": from_json,
    "sql": from_sql,
    "parquet": from_parquet,
    "dict": lambda data, _: data.to_dict()["weights"],
    "list": lambda data, _: [row["weights"] for row in data.to_list()],
    "pandas": lambda data, _: data.to_pandas()["weights"],
    "pandas in batches": lambda data, _: np.concatenate(
        [np.stack(part["weights"]) for part in data.to_pandas(batched=True, batch_size=3)]
    ),
}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
@pytest.mark.parametrize("streaming", [False, True])
def test_every_export_has_the_numbers_and_no_path(ds, load, tmp_path, export, streaming):
    data = load(streaming=streaming)
    for number, (rows, ids) in enumerate(
        (
            (data, ["p0", "p1", "p3", "p5"]),
            (data.filter(lambda row: row["id"] != "p1"), ["p0", "p3", "p5"]),
            (data.map(lambda row: {"k": 1}).take(3), ["p0", "p1", "p3"]),
        )
    ):
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        np.testing.assert_array_equal(np.array([*map(np.asarray, export(rows, folder))], np.float32), ds[ids])
        assert not [f for f in folder.rglob("*") if f.is_file() and b"SecretFolder" in f.read_bytes()]


@pytest.mark.parametrize("kind", ["numpy", "pandas", "arrow", "torch"])
def test_every_format_has_the_numbers(ds, load, kind):
    if kind == "torch":
        pytest.importorskip("torch")
    found = load().with_format(kind)[:3]["weights"]
    found = found.to_pylist() if kind == "arrow" else list(found)
    np.testing.assert_array_equal(np.array([*map(np.asarray, found)], np.float32), ds[["p0", "p1", "p3"]])


def test_wide_rows_are_not_cut_short_in_a_csv_file(load, ds, tmp_path):
    with np.printoptions(threshold=10, edgeitems=2, precision=2):
        found = from_csv(load(), tmp_path)
    np.testing.assert_array_equal(found, ds[["p0", "p1", "p3", "p5"]])


def test_no_reference_names_a_path_also_where_datasets_makes_its_own_class(ds, load, tmp_path):
    joined = datasets.concatenate_datasets([load(), load("test")])
    assert type(joined) is datasets.Dataset
    written = []
    joined.to_parquet(tmp_path / "a.parquet")
    joined.to_json(tmp_path / "a.json")
    joined.save_to_disk(tmp_path / "saved")
    load().save_to_disk(tmp_path / "saved" / "too")
    written += [str(joined.to_dict()), str(joined.with_format("arrow")[:].to_pylist()), str(load().data.to_pylist())]
    written += [str(part.to_pylist()) for part in load(streaming=True).with_format("arrow").iter(2)]
    files = [f for f in tmp_path.rglob("*") if f.is_file() and not f.is_relative_to(tmp_path / "hf")]
    files = [f for f in files if not f.is_relative_to(ds.path)]
    assert len(files) > 5
    for text in [*written, *(f.read_bytes().decode(errors="replace") for f in files)]:
        assert "SecretFolder" not in text
        assert str(tmp_path) not in text
    whole = [*LazyDataset.of(joined).to_pandas()["weights"]]
    np.testing.assert_array_equal(whole, ds[["p0", "p1", "p3", "p5", "p2", "p4"]])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("select", [[1, 0]]), ("shuffle", []), ("take", [2]), ("skip", [1]), ("sort", ["id"]), ("repeat", [2]),
     ("remove_columns", ["Age"]), ("rename_column", ["Age", "Years"]), ("with_format", ["numpy"]),
     ("select_columns", [["id", "weights"]]), ("flatten_indices", [])],
)  # fmt: skip
def test_what_a_method_makes_gives_numbers_too(load, name, arguments):
    found = getattr(load(), name)(*arguments)
    assert type(found) is LazyDataset
    assert len(found.to_dict()["weights"][0]) == 122
    stream = load(streaming=True)
    if hasattr(stream, name):
        assert type(getattr(stream, name)(*arguments)) is LazyStream


def test_rows_cannot_be_stacked_into_one(load):
    for data in (load(), load(streaming=True)):
        with pytest.raises(InvalidInputError):
            data.batch(2)
    assert len(load().remove_columns("weights").batch(2)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("first", ["w2w_hub, datasets", "datasets, w2w_hub"])
def test_what_was_saved_opens_in_another_process_whichever_is_imported_first(ds, load, tmp_path, first):
    load().save_to_disk(tmp_path / "saved")
    code = f"import {first}; import datasets; print(*datasets.load_from_disk('saved')[1]['weights'].tolist())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.float32), ds["p1"])


def test_references_to_a_folder_that_is_not_known_here_are_one_typed_line(load, tmp_path, monkeypatch):
    load().save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "elsewhere")
    monkeypatch.setattr(weight_row, "_folders", {})
    with pytest.raises(MissingPathError):
        datasets.load_from_disk(str(tmp_path / "saved"))[0]


def test_references_that_version_0_1_0_saved_are_read(ds, load):
    feature = load().features["weights"]
    old = {"source": str(ds.path), "id": "p1", "check": ds.labels["row_sha256"]["p1"][:16], "values": None}
    np.testing.assert_array_equal(feature.decode_example(old), ds["p1"])


def test_a_row_without_weights_leaves_as_a_missing_one_not_as_zeros(ds, load, tmp_path):
    data = load().map(lambda row: {"weights": None if row["id"] == "p1" else row["weights"]})
    data.to_parquet(tmp_path / "x.parquet")
    exported = {
        "list": data.to_list(), "arrow": data.with_format("arrow")[:].to_pylist(),
        "parquet": pq.read_table(tmp_path / "x.parquet").to_pylist(),
    }  # fmt: skip
    for name, rows in exported.items():
        assert [row["id"] for row in rows] == ["p0", "p1", "p3", "p5"], name
        assert rows[1]["weights"] is None, name
        for row in (rows[0], rows[2], rows[3]):
            np.testing.assert_array_equal(np.float32(row["weights"]), ds[row["id"]])
