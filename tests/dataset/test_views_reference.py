"""The Parquet view, `load_dataset` and torch streams, held to the rows and to counts of their own."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from w2w_hub import ParameterLayout, WeightDataset, add_rows, load_dataset, write_dataset
from w2w_hub.dataset import relabel_rows
from w2w_hub.dataset.manifest import DatasetManifest
from w2w_hub.dataset.matrix.geometry import Geometry
from w2w_hub.dataset.tables import view_parts
from w2w_hub.errors import CorruptFileError, InvalidInputError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)
N = 20


@pytest.fixture
def load(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def call(path, *args, **options):
        return load_dataset(path, *args, cache_dir=tmp_path / "cache", **options)

    return call


@pytest.fixture
def people(tmp_path):
    def make(folder: str = "d", **options) -> WeightDataset:
        rows = np.random.default_rng(0).normal(size=(N, 7)).astype(np.float32)
        ids = [f"p{i:02d}" for i in range(N)]
        table = pd.DataFrame({"id": ids, "split": ["train", "train", "test", "dev"] * 5, "Age": np.arange(N) + 0.5})
        given = {"layout": SMALL, "ids": ids, "labels": table, "shard_size": 6 * 28 + 200} | options
        return write_dataset(rows, tmp_path / folder, **given)

    return make


# ---------------------------------------------------------------------- view
@pytest.mark.parametrize(
    ("width", "dtype"), [(7, "float16"), (1_000_000, "float16"), (1_000_000, "float32"), (10**8, "float32")]
)
@pytest.mark.parametrize("shard_rows", [3, 64, 100, 500])
def test_view_files_hold_each_splits_rows_once_in_order_within_a_shard_and_a_size(tmp_path, width, dtype, shard_rows):
    table = pd.DataFrame({"split": ["a", "b", "a"] * 300, "row": range(900)})
    g = Geometry(900, width, dtype, 1, shard_rows)
    parts = view_parts(table, {"a": 600, "b": 300}, g, dtype, tmp_path, (tmp_path,))
    for split in "ab":
        mine = [p for p in parts if p.name.startswith(f"parquet/{split}")]
        assert [p.name for p in mine] == [
            f"parquet/{split}{f'-{i:05d}' if i else ''}.parquet" for i in range(len(mine))
        ]
        assert [r for p in mine for r in p.table["row"]] == table["row"][table["split"] == split].tolist()
        sizes = [len(p.table) for p in mine]
        most = max(1, min(shard_rows, 500_000_000 // (width * np.dtype(dtype).itemsize)))
        most = most // 64 * 64 if most > 64 else most
        assert set(sizes[:-1]) <= {most}
        assert sizes[-1] <= most


def test_a_view_is_written_again_only_where_its_labels_rows_or_dtype_are_other_ones(people):
    ds = people()
    before = {n: (ds.path / n).read_bytes() for n in ds.manifest.files if n.startswith("parquet/")}
    made = {n: (ds.path / n).stat().st_ino for n in before}
    same = relabel_rows(ds.path, column_info={"Age": {"unit": "years"}})
    assert {n: (ds.path / n).stat().st_ino for n in before} == made
    assert same.manifest.view == ds.manifest.view
    changed = relabel_rows(ds.path, pd.DataFrame({"id": ["p02"], "Age": [99.0]}))
    assert [n for n in before if (ds.path / n).stat().st_ino != made[n]] == ["parquet/test.parquet"]
    assert changed.manifest.view == ds.manifest.view
    assert pd.read_parquet(ds.path / "parquet/test.parquet")["Age"].max() == 99.0
    changed.verify()


@pytest.mark.parametrize(("was", "stated"), [("float32", "float16"), ("float16", "float32")])
def test_a_view_in_another_dtype_than_is_stated_is_written_again(people, was, stated):
    ds = people(parquet_view=was)
    manifest = DatasetManifest.read(ds.path)
    manifest.view = {"dtype": stated, "max_error": 0.0}
    manifest.write(ds.path)
    changed = relabel_rows(ds.path, column_info={"Age": {"unit": "years"}})
    changed.verify()
    assert changed.manifest.view["dtype"] == stated


# -------------------------------------------------------------- load_dataset
@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train", slice(None)), ("train[2:5]", slice(2, 5)), ("train[7:]", slice(7, None)),
        ("train[-3:]", slice(-3, None)),
        ("train[50%:]", slice(5, None)), ("train[:3]", slice(0, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streaming", [True, False])
def test_a_part_of_a_split_is_these_rows_with_their_numbers(people, load, split, numbers, streaming):
    ds = people()
    rows = ds.where("train")[numbers]
    found = list(load(ds.path, split=split, streaming=streaming))
    assert [x["id"] for x in found] == [ds.ids[i] for i in rows]
    np.testing.assert_array_equal([x["weights"] for x in found], ds[rows])
    assert [x["Age"] for x in found] == ds.labels["Age"].iloc[rows].tolist()


def test_a_stream_has_a_part_for_each_shard_but_no_more_than_rows(people, load):
    ds = people()
    assert ds.geometry.shards > 1
    for split, rows in (("train", 10), ("test", 5)):
        assert load(ds.path, split=split, streaming=True).num_shards == min(ds.geometry.shards, rows)
    assert load(people("e", shard_size="1MB").path, split="train", streaming=True).num_shards == 1


def test_what_is_loaded_again_after_a_change_is_the_new_state_in_either_configuration(people, load, tmp_path):
    ds = people()
    old = load(ds.path, split="test")
    np.testing.assert_array_equal(old[0]["weights"], ds["p02"])
    assert "weights" not in load(ds.path, "labels", split="test").column_names
    assert "weights" in load(ds.path, split="test").column_names
    more = people("more", ids=[f"q{i:02d}" for i in range(N)], labels=None, parquet_view=False)
    grown = add_rows(ds.path, more.path)
    relabel_rows(ds.path, pd.DataFrame({"id": ["p02", "q01"], "Age": [77.5, 3.5], "split": ["test", "test"]}))
    new = load(ds.path, split="test")
    assert list(new["Age"]) == [77.5, *ds.labels["Age"].iloc[ds.where("test")[1:]], 3.5]
    assert list(load(ds.path, "labels", split="test")["Age"]) == list(new["Age"])
    np.testing.assert_array_equal(new[len(new) - 1]["weights"], grown["q01"])
    np.testing.assert_array_equal(old[1]["weights"], ds["p06"])


def test_a_row_that_has_other_values_now_is_not_given_for_the_one_that_was_loaded(people, load, tmp_path):
    ds = people()
    old = load(ds.path, split="train")
    values = ds[:].copy()
    values[1] += 1
    table = ds.labels.reset_index().drop(columns=["row", "row_sha256"])
    write_dataset(values, ds.path, layout=SMALL, ids=list(ds.ids), labels=table, overwrite=True)
    np.testing.assert_array_equal(old[0]["weights"], values[0])
    with pytest.raises(CorruptFileError, match="p01"):
        old[1]


# --------------------------------------------------------------------- torch
def stream(ds: WeightDataset, **options):
    return ds.torch_stream(**options)


def test_an_order_permutes_runs_and_then_the_rows_of_every_few_runs_together(tmp_path):
    rows = np.arange(103 * 7, dtype=np.float32).reshape(103, 7)
    ds = write_dataset(rows, tmp_path / "d", layout=SMALL, parquet_view=False)
    for run, buffer in ((8, 3), (1, 1), (5, 100), (200, 2)):
        data = stream(ds, run=run, buffer=buffer, seed=4)
        order = data.order()
        assert sorted(order) == list(range(103))
        np.testing.assert_array_equal(order, stream(ds, run=run, buffer=buffer, seed=4).order())
        if run == 8:
            pools, done = [], 0
            while done < 103:  # as many rows as three runs have; the last run of all is shorter
                size = 24 if 102 not in order[done : done + 24] else 23
                pools.append(order[done : done + size])
                done += size
            for pool in pools:
                runs = {int(i) // 8 for i in pool}
                assert sorted(pool) == [i for r in sorted(runs) for i in range(8 * r, min(8 * r + 8, 103))]
            assert [i // 8 for i in pools[0]] != sorted(i // 8 for i in pools[0])
            assert {int(i) // 8 for i in pools[0]} != {0, 1, 2}
            assert any((np.diff(pool) < 0).any() and (np.diff(pool // 8) != 0).sum() > 2 for pool in pools)


def test_seed_and_epoch_are_two_numbers_not_their_sum(tmp_path):
    ds = write_dataset(np.ones((40, 7), np.float32), tmp_path / "d", layout=SMALL, parquet_view=False)
    orders = set()
    for seed, epoch in itertools.product(range(3), range(3)):
        data = stream(ds, seed=seed, run=2)
        data.set_epoch(epoch)
        assert data.epoch == epoch
        orders.add(tuple(data.order()))
    assert len(orders) == 9
    assert tuple(stream(ds, shuffle=False, seed=1).order()) == tuple(range(40))


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_take_consecutive_parts_of_one_order_and_say_their_length(tmp_path, even, ranks):
    ds = write_dataset(
        np.arange(40 * 7, dtype=np.float32).reshape(40, 7), tmp_path / "d", layout=SMALL, parquet_view=False
    )
    whole = stream(ds, seed=2, run=3, buffer=2).order()
    found = []
    for rank in range(ranks):
        part = stream(ds, seed=2, run=3, buffer=2, rank=rank, world_size=ranks, even=even)
        examples = list(part)
        assert len(examples) == len(part)
        assert not even or len(part) == 40 // ranks
        for x in examples:
            np.testing.assert_array_equal(x["weights"].numpy(), ds[x["id"]])
            assert x["weights"].untyped_storage().nbytes() == 7 * 4  # no other row is kept alive by it
        found += [ds.position(x["id"]) for x in examples]
    assert found == list(whole[: 40 // ranks * ranks if even else 40])


def test_rank_and_world_size_are_those_of_torch_where_it_is_running(tmp_path):
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    ds = write_dataset(np.ones((9, 7), np.float32), tmp_path / "d", layout=SMALL, parquet_view=False)
    assert (stream(ds).rank, stream(ds).world_size) == (0, 1)
    dist.init_process_group("fake", store=FakeStore(), rank=2, world_size=4)
    try:
        assert (stream(ds).rank, stream(ds).world_size) == (2, 4)
        assert (stream(ds, rank=0, world_size=1).rank, stream(ds, rank=0, world_size=1).world_size) == (0, 1)
    finally:
        dist.destroy_process_group()
    for wrong in ({"rank": 0}, {"world_size": 1}, {"rank": 1, "world_size": 1}, {"rank": -1, "world_size": 2}):
        with pytest.raises(InvalidInputError):
            stream(ds, **wrong)


def test_only_examples_that_lie_side_by_side_are_a_batch_without_a_copy(tmp_path):
    import torch
    from torch.utils.data import default_collate

    rows = np.arange(40 * 7, dtype=np.float32).reshape(40, 7)
    ds = write_dataset(rows, tmp_path / "d", layout=SMALL, parquet_view=False)
    items = ds.torch().__getitems__([4, 9, 2])
    for order in ([0, 1, 2], [2, 1, 0], [0, 2, 1], [0, 0, 0], [0, 1], [1, 2]):
        batch = default_collate([items[i] for i in order])
        np.testing.assert_array_equal(batch["weights"].numpy(), rows[[[4, 9, 2][i] for i in order]])
        assert list(batch["id"]) == [items[i]["id"] for i in order]
    assert torch.equal(default_collate(items)["weights"], torch.from_numpy(rows[[4, 9, 2]]))
