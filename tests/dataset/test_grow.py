"""A dataset that changes: rows added, removed and labelled anew, each as one new state."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from w2w_hub import ParameterLayout, WeightDataset, add_rows, pack_adapters, write_adapter, write_dataset
from w2w_hub.dataset import SplitRule, check, relabel_rows, remove_rows, tables
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.dataset.matrix import geometry
from w2w_hub.errors import CorruptFileError, InitializationError, InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.attentions.0.proj_in"): (1, 3, 4)}, 2.0)
FOUR_ROWS = 4 * 28 + 4 * 16 + 4


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    """Chunks of a row, shards and view files of four."""
    monkeypatch.setattr(geometry, "CHUNK_BYTES", 28)
    monkeypatch.setattr(geometry, "SMALL_SHARD_BYTES", 0)
    monkeypatch.setattr(tables, "VIEW_PART_BYTES", 4 * 14)
    monkeypatch.setattr(tables, "ROWS_PER_ROW_GROUP", 2)


@pytest.fixture
def lora(tmp_path):
    """Write a checkpoint of the small layout."""

    def write(name: str):
        values = np.random.default_rng(len(name)).normal(size=7)
        write_adapter(SMALL.unflatten(values), tmp_path / name, ("peft",))
        return tmp_path / name

    return write


def people(folder, n: int, prefix: str = "p", **options) -> WeightDataset:
    rng = np.random.default_rng(len(prefix) + n)
    ids = [f"{prefix}{i:02d}" for i in range(n)]
    table = pd.DataFrame(
        {"id": ids, "split": ["train", "test"][:1] * n, "Age": np.arange(n) + 20.5, "Beard": [True, False, None] * n}
        | {"Beard": ([True, False, None] * n)[:n], "person": [f"x{i // 2}" for i in range(n)]}
    )
    options = {"layout": SMALL, "ids": ids, "labels": table, "shard_size": FOUR_ROWS} | options
    return write_dataset(rng.normal(size=(n, 7)).astype(np.float32), folder, **options)


def stamps(ds: WeightDataset, below: str) -> dict:
    return {n: ((s := (ds.path / n).stat()).st_ino, s.st_mtime_ns) for n in ds.manifest.files if n.startswith(below)}


def same_rows(ds: WeightDataset, other: WeightDataset, ids) -> None:
    for name in ids:
        np.testing.assert_array_equal(ds[name], other[name])


# ---------------------------------------------------------------------- add
def test_adding_writes_no_full_shard_and_no_full_view_file_again(tmp_path):
    ds = people(tmp_path / "d", 10)
    assert ds.geometry.shard_rows == 4
    shards, views = stamps(ds, "weights.zarr/weights/c/"), stamps(ds, "parquet/")
    before = WeightDataset.open(ds.path)
    after = add_rows(ds.path, [people(tmp_path / "more", 5, "q").path])
    now = stamps(after, "weights.zarr/weights/c/")
    assert [n for n in shards if now[n] == shards[n]] == [f"weights.zarr/weights/c/{i}/0" for i in (0, 1)]
    kept = stamps(after, "parquet/")
    assert [n for n in views if kept[n] == views[n]] == [f"parquet/train{s}.parquet" for s in ("-00001", "")]
    same_rows(after, before, before.ids)
    assert len(before) == 10  # a dataset that is open stays what it was
    np.testing.assert_array_equal(before["p09"], after["p09"])
    after.verify()


@pytest.mark.parametrize("row", [0, 5, 9])
def test_the_error_of_a_view_is_that_of_all_its_files_written_again_or_not(tmp_path, row):
    values = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    values[row] *= 1000
    ids = [f"p{i:02d}" for i in range(10)]
    ds = write_dataset(values, tmp_path / "d", layout=SMALL, ids=ids, shard_size=FOUR_ROWS)
    largest = np.abs(values.astype(np.float16).astype(np.float32) - values).max()
    for change in (
        lambda: ds,
        lambda: add_rows(ds.path, [people(tmp_path / "more", 5, "q").path]),
        lambda: relabel_rows(ds.path, pd.DataFrame({"id": ["q04"], "Age": [1.0]})),
        lambda: remove_rows(ds.path, ["q04"]),
    ):
        assert change().manifest.view == {"dtype": "float16", "max_error": pytest.approx(largest)}


def test_growing_row_by_row_gives_the_digest_of_writing_at_once(tmp_path):
    whole = people(tmp_path / "whole", 9)
    table = whole.labels.reset_index().drop(columns=["row", "row_sha256"])
    grown = write_dataset(whole[:1], tmp_path / "d", layout=SMALL, ids=["p00"], labels=table[:1], shard_size=FOUR_ROWS)
    for i in range(1, 9):
        one = write_dataset(
            whole[[i]], tmp_path / f"one{i}", layout=SMALL, ids=[whole.ids[i]], labels=table[i : i + 1],
            shard_size=FOUR_ROWS,
        )  # fmt: skip
        grown = add_rows(grown.path, [one.path])
    assert grown.manifest.digest == whole.manifest.digest
    assert not check(grown.path).unlisted
    grown.verify()


def test_sources_are_appended_in_the_order_given(tmp_path):
    ds = people(tmp_path / "d", 2)
    for name, value in (("lora-a", 1.0), ("lora-b", 2.0)):
        write_adapter(SMALL.unflatten(np.full(7, value)), tmp_path / name, ("peft",))
    other = people(tmp_path / "more", 2, "q")
    after = add_rows(ds.path, [tmp_path / "lora-b", other.path, tmp_path / "lora-a"])
    assert after.ids == ("p00", "p01", "lora-b", "q00", "q01", "lora-a")
    assert [after["lora-b"][0], after["lora-a"][0]] == [2, 1]
    same_rows(after, other, other.ids)


def test_checkpoints_for_a_dataset_with_a_stated_initialisation_need_theirs_stated(lora, tmp_path):
    first, second = lora("a"), lora("b")
    ds = pack_adapters([first], tmp_path / "d", initialization="seed-0", shard_size="1MB")
    with pytest.raises(InitializationError, match=r"'seed-0'.*--initialization seed-0"):
        add_rows(ds.path, [second])
    with pytest.raises(InitializationError, match=r"'seed-1'.*'seed-0'"):
        add_rows(ds.path, [second], initialization="seed-1")
    assert WeightDataset.open(ds.path).manifest == ds.manifest
    assert len(add_rows(ds.path, [second], initialization="seed-0")) == 2


def test_a_row_that_is_damaged_in_its_own_dataset_is_not_copied(tmp_path):
    ds, other = people(tmp_path / "d", 2), people(tmp_path / "more", 3, "q")
    shard = other.path / next(n for n in other.manifest.files if "/c/" in n)
    data = bytearray(shard.read_bytes())
    data[30] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptFileError, match="'q01'"):
        add_rows(ds.path, [other.path])
    assert WeightDataset.open(ds.path).manifest == ds.manifest


def test_labels_for_rows_that_are_not_added_are_refused(lora, tmp_path):
    ds = pack_adapters([lora("a")], tmp_path / "d", shard_size="1MB")
    with pytest.raises(UnknownNameError, match=r"2 .*'a'"):
        add_rows(ds.path, [lora("b")], labels=pd.DataFrame({"id": ["b", "a", "c"], "Age": [1, 2, 3]}))


# ------------------------------------------------------------------- remove
@pytest.mark.parametrize(
    ("gone", "rewritten"),
    [(["p09"], [2]), (["p01"], [0, 2]), (["p01", "p05", "p08"], [0, 1]), (["p08", "p09"], []), (["p00", "p09"], [0])],
    ids=str,
)
def test_removing_writes_only_the_shards_that_held_a_removed_row_and_the_last(tmp_path, gone, rewritten):
    ds = people(tmp_path / "d", 10)
    before, values = stamps(ds, "weights.zarr/weights/c/"), ds.to_numpy()
    after = remove_rows(ds.path, gone)
    now = stamps(after, "weights.zarr/weights/c/")
    changed = [int(n.split("/")[3]) for n in now if now[n] != before[n]]
    assert set(changed) <= {*rewritten, len(now) - 1}
    assert set(after.ids) == set(ds.ids) - set(gone)
    for name in after.ids:
        np.testing.assert_array_equal(after[name], values[int(name[1:])])
        assert after.attribute("Age")[name] == 20.5 + int(name[1:])
    after.verify()


def test_what_is_removed_is_in_no_file_any_more(tmp_path):
    ds = people(tmp_path / "d", 10, parquet_view="float32")
    secret = ds["p05"].tobytes()
    assert any(secret in (ds.path / n).read_bytes() for n in ds.manifest.files)
    after = remove_rows(ds.path, ["p05"])
    for file in after.path.rglob("*"):
        if file.is_file():
            assert secret not in file.read_bytes(), file
            assert b"p05" not in file.read_bytes(), file


def test_removing_and_adding_again_gives_the_same_digest(tmp_path):
    ds = people(tmp_path / "d", 10)
    part = people(tmp_path / "part", 10)
    remove_rows(part.path, [i for i in ds.ids if i not in ("p03", "p07")])
    remove_rows(ds.path, ["p07", "p03", "p07"])
    again = add_rows(ds.path, [part.path])
    assert again.manifest.digest == ds.manifest.digest


def test_a_split_that_loses_its_last_row_is_gone(make_dataset):
    ds = make_dataset("small", shard_size="1MB")
    after = remove_rows(ds.path, ["p2", "p4"])
    assert after.manifest.splits == {"train": 4}
    assert not (ds.path / "labels" / "test.parquet").exists()
    assert not (ds.path / "parquet" / "test.parquet").exists()
    assert "test" not in (ds.path / "README.md").read_text().split("---")[1]


def test_ids_that_are_not_there_are_all_named_and_nothing_is_removed(tmp_path):
    ds = people(tmp_path / "d", 3)
    with pytest.raises(UnknownNameError, match=r"2 .*'x'.*'y'"):
        remove_rows(ds.path, ["p00", "x", "y"])
    with pytest.raises(InvalidInputError, match=re.escape(str(ds.path))):
        remove_rows(ds.path, list(ds.ids))
    with pytest.raises(InvalidInputError):
        remove_rows(ds.path, [])
    assert WeightDataset.open(ds.path).manifest == ds.manifest
    assert not list(ds.path.glob(".w2w*"))


# ------------------------------------------------------------------ relabel
def test_relabelling_changes_what_it_names_and_no_weights(tmp_path):
    ds = people(tmp_path / "d", 10)
    shards = stamps(ds, "weights.zarr/weights/c/")
    new = pd.DataFrame({"id": ["p03", "p01"], "Age": [None, 77.0], "split": ["test", "train"], "Hat": ["top", None]})
    after = relabel_rows(ds.path, new, version="0.2.0")
    assert stamps(after, "weights.zarr/weights/c/") == shards
    assert after.attribute("Age").isna().tolist() == [i == 3 for i in range(10)]
    assert after.attribute("Age")["p01"] == 77
    assert after.manifest.splits == {"train": 9, "test": 1}
    assert after.attribute("Hat").notna().sum() == 1
    assert after.manifest.columns["Hat"] == "categorical"
    assert after.manifest.version == "0.2.0"
    assert list(after.labels["row_sha256"]) == list(ds.labels["row_sha256"])
    after.verify()
    assert check(after.path).unlisted == []


def test_relabelling_back_gives_the_digest_back(tmp_path):
    ds = people(tmp_path / "d", 5)
    relabel_rows(ds.path, pd.DataFrame({"id": ["p03"], "Age": [1.0]}))
    again = relabel_rows(ds.path, pd.DataFrame({"id": ["p03"], "Age": [23.5]}))
    assert again.manifest.digest == ds.manifest.digest


def test_a_column_may_change_its_kind_only_as_a_whole(tmp_path):
    ds = people(tmp_path / "d", 3)
    with pytest.raises(InvalidInputError, match=r"'Age'.*float.*categorical"):
        relabel_rows(ds.path, pd.DataFrame({"id": ["p00"], "Age": ["old"]}))
    after = relabel_rows(ds.path, pd.DataFrame({"id": list(ds.ids), "Age": ["old", "young", None]}))
    assert after.manifest.columns["Age"] == "categorical"


def test_units_sources_and_dropped_columns(tmp_path):
    ds = people(tmp_path / "d", 3, column_info={"Age": {"unit": "years", "source": "a guess"}})
    assert WeightDataset.open(ds.path).manifest.column_info == {"Age": {"unit": "years", "source": "a guess"}}
    assert "| `Age` | float | years | a guess |" in (ds.path / "README.md").read_text()
    after = relabel_rows(ds.path, column_info={"Beard": {"source": "CelebA"}}, drop_columns=["Age"])
    assert after.manifest.column_info == {"Beard": {"source": "CelebA"}}
    assert "Age" not in after.attributes
    for bad in ({"Hat": {"unit": "cm"}}, {"Beard": {"unit": 3}}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            relabel_rows(ds.path, column_info=bad)
    with pytest.raises(UnknownNameError, match="'split'"):
        relabel_rows(ds.path, drop_columns=["split"])
    assert WeightDataset.open(ds.path).manifest == after.manifest


def test_labels_of_unknown_rows_and_twice_the_same_are_refused_together(tmp_path):
    ds = people(tmp_path / "d", 3)
    with pytest.raises(InvalidInputError, match=r"2 .*'p00'"):
        relabel_rows(ds.path, pd.DataFrame({"id": ["p00", "p00", "x"], "Age": [1, 2, 3]}))
    assert WeightDataset.open(ds.path).manifest == ds.manifest


# ------------------------------------------------------------- split by group
def test_a_dataset_split_by_groups_grows_without_a_leak(tmp_path):
    ds = people(tmp_path / "d", 12, split_rule=SplitRule("person", 0.3))
    assert ds.manifest.split_rule == {"column": "person", "holdout": 0.3, "seed": 0, "split": "test"}
    assert (ds.labels.groupby("person")["split"].nunique() == 1).all()
    assert 2 <= ds.manifest.splits["test"] <= 4
    after = add_rows(ds.path, [people(tmp_path / "more", 8, "q").path])
    assert (after.labels.groupby("person")["split"].nunique() == 1).all()
    assert after.labels.loc[list(ds.ids), "split"].tolist() == ds.labels["split"].tolist()
    assert "all rows of one `person` on one side" in (after.path / "README.md").read_text()


def test_a_split_can_be_made_anew_and_a_given_one_ends_the_rule(tmp_path):
    ds = people(tmp_path / "d", 12)
    after = relabel_rows(ds.path, split_rule=SplitRule("person", 0.5, seed=3))
    assert after.manifest.splits == {"train": 6, "test": 6}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in (3, 4, 5):  # rows move to the other side by the rule itself, which stays
            again = relabel_rows(ds.path, split_rule=SplitRule("person", 0.5, seed))
            assert again.manifest.split_rule == SplitRule("person", 0.5, seed).to_json()
    assert again.labels["split"].tolist() != after.labels["split"].tolist()
    given = relabel_rows(ds.path, pd.DataFrame({"id": ["p00"], "split": ["dev"]}))
    assert given.manifest.split_rule is None
    with pytest.raises(UnknownNameError, match="'family'"):
        relabel_rows(ds.path, split_rule=SplitRule("family"))


def test_what_a_dataset_states_of_itself_survives_every_change(tmp_path):
    stated = {"compatibility": Compatibility("a/b", "ab" * 32, "seed-0"), "licence": "mit", "version": "1.0.0"}
    ds = people(tmp_path / "d", 6, dtype="float16", parquet_view="float32", compression="bitshuffle", **stated)
    for change in (
        lambda: remove_rows(ds.path, ["p00"]),
        lambda: relabel_rows(ds.path, pd.DataFrame({"id": ["p01"], "Age": [1.0]})),
        lambda: add_rows(ds.path, [people(tmp_path / "more", 2, "q", dtype="float16", **stated).path]),
    ):
        m = change().manifest
        assert (m.licence, m.version, m.name, m.dtype) == ("mit", "1.0.0", "d", "float16")
        assert m.compatibility == stated["compatibility"]
        assert m.float16_max_error > 0
        assert m.view == {"dtype": "float32", "max_error": 0.0}
    assert WeightDataset.open(ds.path).geometry.compressor["name"] == "blosc"
    WeightDataset.open(ds.path).verify()


def test_ids_that_are_there_twice_are_refused_in_a_dataset_split_by_groups_too(make_dataset):
    labels = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "who": list("aabbcc")})
    ds = make_dataset(labels=labels, split_rule=SplitRule("who", 0.3))
    for sources in ([ds.path], [ds.path, ds.path]):
        with pytest.raises(InvalidInputError, match="'p0'"):
            add_rows(ds.path, sources)
    assert WeightDataset.open(ds.path).manifest.digest == ds.manifest.digest


def test_one_id_as_text_is_one_id_not_its_letters(make_dataset):
    ds = make_dataset(prefix="", labels=None)
    with pytest.raises(UnknownNameError, match="'12'"):
        remove_rows(ds.path, "12")
    assert remove_rows(ds.path, "1").ids == ("0", "5", "2", "3", "4")
