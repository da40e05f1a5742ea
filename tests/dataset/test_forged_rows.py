"""Rows, views and rules that were changed and whose hashes were restated: verification names exactly these rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from w2w_hub import ParameterLayout, WeightDataset, write_dataset
from w2w_hub.dataset import SplitRule, check
from w2w_hub.dataset.manifest import DatasetManifest
from w2w_hub.errors import W2WError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.hashing import entry_of

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)
N = 150


@pytest.fixture
def ds(tmp_path) -> WeightDataset:
    rows = np.random.default_rng(0).normal(size=(N, 7)).astype(np.float32)
    ids = [f"p{i:03d}" for i in range(N)]
    table = pd.DataFrame({"id": ids, "split": ["test" if i % 10 == 0 else "train" for i in range(N)], "Age": 1.5})
    return write_dataset(rows, tmp_path / "d", layout=SMALL, ids=ids, labels=table, shard_size=64 * 28 + 24)


def restate(ds: WeightDataset, *names: str) -> None:
    manifest = DatasetManifest.read(ds.path)
    for name in names:
        manifest.files[name] = entry_of(ds.path / name)
    manifest.write(ds.path)


def named(ds: WeightDataset, **options) -> set[str]:
    return {row for problem in check(ds.path, **options).problems for row in problem.rows}


@pytest.mark.parametrize("numbers", [[0], [63], [64], [149], [5, 70, 140], [62, 63, 64, 65]])
@pytest.mark.parametrize("value", [9.0, np.nan, np.inf])
def test_changed_rows_are_named_in_whatever_block_and_shard_they_are(ds, numbers, value):
    assert check(ds.path).ok
    g = ds.geometry
    assert g.shards > 2
    for i in numbers:
        path = ds.path / g.shard_path(i // g.shard_rows)
        start = (i % g.shard_rows) * g.row_bytes + 4
        data = bytearray(path.read_bytes())
        data[start : start + 4] = np.float32(value).tobytes()
        path.write_bytes(bytes(data))
    restate(ds, *(g.shard_path(i // g.shard_rows) for i in numbers))
    report = check(ds.path)
    wanted = {ds.ids[i] for i in numbers}
    assert named(ds) == wanted
    of_rows = [p for p in report.problems if p.rows]
    assert {p.file for p in of_rows} == {g.shard_path(i // g.shard_rows) for i in numbers}
    assert len(of_rows) == len({i // g.shard_rows for i in numbers}) * (1 if np.isfinite(value) else 2)
    assert named(ds, deep=False) == set()


@pytest.mark.parametrize("change", ["weights", "label", "swapped", "missing", "twice"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_view_that_is_not_the_rows_is_told_with_the_row(ds, change, at):
    name = sorted(n for n in ds.manifest.files if n.startswith("parquet/train"))[at]
    table = pq.read_table(ds.path / name)
    where = len(table) - 1 if at else 0
    order = list(range(len(table)))
    if change == "weights":
        rows = table.column("weights").to_pylist()
        rows[where][6] += 1
        table = table.set_column(table.column_names.index("weights"), table.schema.field("weights"), [
            pa.array(rows, table.schema.field("weights").type)
        ])  # fmt: skip
    elif change == "label":
        ages = table.column("Age").to_pylist()
        ages[where] = 7.0
        table = table.set_column(table.column_names.index("Age"), "Age", pa.array(ages))
    elif change == "swapped":
        order[where], order[len(order) // 2] = order[len(order) // 2], order[where]
    elif change == "missing":
        order.remove(where)
    else:
        order.insert(where, where)
    table = table.take(order)
    pq.write_table(table, ds.path / name, row_group_size=64)
    restate(ds, name)
    report = check(ds.path)
    assert not report.ok
    assert check(ds.path, deep=False).ok
    if change in ("weights", "label"):
        assert named(ds) == {table.column("id")[where].as_py()}
    assert all(problem.file.startswith("parquet") for problem in report.problems)


@pytest.mark.parametrize("name", ["labels/train.parquet", "labels/test.parquet"])
def test_a_label_file_that_the_manifest_does_not_list_is_not_read(ds, name):
    manifest = DatasetManifest.read(ds.path)
    del manifest.files[name]
    manifest.write(ds.path)
    with pytest.raises(W2WError, match=name):
        WeightDataset.open(ds.path).labels  # noqa: B018
    assert not check(ds.path).ok


@pytest.mark.parametrize("rows", [1, 64, 65, 150])
def test_a_view_with_a_row_group_of_more_than_64_rows_is_told(tmp_path, rows):
    values = np.random.default_rng(0).normal(size=(N, 7)).astype(np.float32)
    made = write_dataset(values, tmp_path / "d", layout=SMALL)
    name = "parquet/train.parquet"
    pq.write_table(pq.read_table(made.path / name), made.path / name, row_group_size=rows)
    restate(made, name)
    assert [problem.file for problem in check(made.path).problems] == [name] * (rows > 64)
    assert check(made.path, deep=False).ok


def test_a_group_on_two_sides_is_named_with_its_rows(tmp_path):
    ids = [f"p{i}" for i in range(8)]
    table = pd.DataFrame({"id": ids, "person": [f"x{i // 2}" for i in range(8)], "split": ["train", "test"] * 4})
    table.loc[2:, "split"] = ["train"] * 4 + ["test"] * 2
    made = write_dataset(np.ones((8, 7), np.float32), tmp_path / "d", layout=SMALL, ids=ids, labels=table)
    assert check(made.path).ok
    manifest = DatasetManifest.read(made.path)
    manifest.split_rule = SplitRule("person").to_json()
    manifest.write(made.path)
    assert named(made) == {"p0", "p1"}
    manifest.split_rule = SplitRule("nobody").to_json()
    manifest.write(made.path)
    assert not check(made.path).ok
