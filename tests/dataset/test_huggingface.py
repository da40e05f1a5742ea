from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import datasets
import datasets.distributed
import numpy as np
import pytest

import w2w_hub
import w2w_hub.dataset
from w2w_hub.dataset import tables
from w2w_hub.dataset.views import weight_row
from w2w_hub.dataset.views.lazy_rows import LazyDataset
from w2w_hub.dataset.views.weight_row import WeightRow
from w2w_hub.errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError

# a reader who has `datasets` and has never heard of w2w_hub
STRANGER = """
import json, sys
import datasets
found = {}
for case in json.loads(sys.argv[1]):
    data = datasets.load_dataset(case["folder"], **case["options"])
    found[case["name"]] = {
        split: {"types": {k: str(v) for k, v in rows.features.items()}, "rows": rows.to_list()}
        for split, rows in data.items()
    }
assert not any(name.startswith("w2w") for name in sys.modules)
json.dump(found, open(sys.argv[2], "w"))
"""


def loaded_by_a_stranger(tmp_path: Path, cases: dict) -> dict:
    """What stock `load_dataset` makes of folders, in a process of its own that cannot reach the network."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    plan = [{"name": name, "folder": str(folder), "options": options} for name, (folder, options) in cases.items()]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(plan), str(tmp_path / "found.json")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "found.json").read_text())


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return {"cache_dir": tmp_path / "cache"}


def test_stock_datasets_finds_splits_labels_and_weights_in_the_folder(make_dataset, tmp_path):
    ds = make_dataset()
    bare = make_dataset("bare", parquet_view=False)
    named = make_dataset("named", name='faces: "avatars" #1, Zoë', license="other: see #3", version="1.0.0")
    splits = make_dataset("splits", labels=ds.labels.assign(split=["on", "1", "2.x", "no", "a_b", "null"]))
    found = loaded_by_a_stranger(
        tmp_path,
        {
            "default": (ds.path, {}),
            "labels": (ds.path, {"name": "labels"}),
            "bare": (bare.path, {}),
            "named": (named.path, {}),
            "splits": (splits.path, {}),
        },
    )

    default = found["default"]
    assert {split: [row["id"] for row in part["rows"]] for split, part in default.items()} == {
        "train": ["p0", "p1", "p3", "p5"],
        "test": ["p2", "p4"],
    }
    assert default["train"]["types"]["weights"] == "List(Value('float16'), length=122)"
    for part in default.values():
        for row in part["rows"]:
            np.testing.assert_array_equal(np.float16(row["weights"]), ds[row["id"]].astype(np.float16))
            assert row["row"] == ds.position(row["id"])
    rows = {row["id"]: row for part in default.values() for row in part["rows"]}
    assert [rows[i]["Beard"] for i in ds.ids] == [True, False, True, None, False, True]
    assert [rows[i]["Age"] for i in ds.ids] == [20.0, 31.5, None, 44.0, 50.0, 61.0]
    assert [rows[i]["Hair"] for i in ds.ids] == ["grey", "red", "red", None, "grey", "red"]
    assert rows["p0"]["source"] == "made up"
    assert rows["p0"]["consent"] is None

    for name in ("labels", "bare"):  # without the view, the labels are the default
        assert "weights" not in found[name]["train"]["types"]
        assert [row["id"] for row in found[name]["test"]["rows"]] == ["p2", "p4"]
    assert [len(part["rows"]) for part in found["named"].values()] == [4, 2]
    assert {split: part["rows"][0]["id"] for split, part in found["splits"].items()} == dict(
        zip(["on", "1", "2.x", "no", "a_b", "null"], ds.ids, strict=True)
    )


def test_a_view_in_several_files_and_in_float32_is_read_as_one_split(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "VIEW_PART_BYTES", 2 * 122 * 4)
    monkeypatch.setattr(tables, "ROWS_PER_ROW_GROUP", 1)
    ds = make_dataset("parts", parquet_view="float32")
    assert len([n for n in ds.manifest.files if n.startswith("parquet/train")]) == 2
    assert ds.manifest.view == {"dtype": "float32", "max_error": 0.0}
    (found,) = loaded_by_a_stranger(tmp_path, {"parts": (ds.path, {})}).values()
    rows = {row["id"]: row for part in found.values() for row in part["rows"]}
    assert [row["id"] for row in found["train"]["rows"]] == ["p0", "p1", "p3", "p5"]
    for name in ds.ids:
        np.testing.assert_array_equal(np.float32(rows[name]["weights"]), ds[name])


def test_the_view_has_small_row_groups_and_states_its_error(make_dataset, layout):
    import pyarrow.parquet as pq

    rows = np.random.default_rng(0).normal(size=(150, layout.size)).astype(np.float32)
    ds = w2w_hub.write_dataset(rows, make_dataset().path.with_name("big"), layout=layout)
    meta = pq.read_metadata(ds.path / "parquet" / "train.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [64, 64, 22]
    error = np.abs(rows.astype(np.float16).astype(np.float64) - rows).max()
    assert ds.manifest.view == {"dtype": "float16", "max_error": pytest.approx(error)}
    assert f"at most {error:.2g}" in (ds.path / "README.md").read_text()


# --------------------------------------------------------------------- lazy
def test_a_dataset_is_opened_by_name_split_and_format(make_dataset, offline):
    ds = make_dataset(parquet_view=False)
    train = w2w_hub.load_dataset(ds.path, split="train", **offline)
    assert isinstance(train, datasets.Dataset)
    np.testing.assert_array_equal(train[0]["weights"], ds["p0"])
    assert train[0]["weights"].dtype == np.float32
    assert list(train["id"]) == ["p0", "p1", "p3", "p5"]
    assert train[2]["Beard"] is None
    assert train.features["Age"] == datasets.Value("float64")
    labels = w2w_hub.load_dataset(ds.path, "labels", **offline)
    assert isinstance(labels, datasets.DatasetDict)
    assert set(labels) == {"train", "test"}
    assert "weights" not in labels["train"].column_names
    assert labels["train"].num_rows == 4
    half = make_dataset("half", dtype="float16")
    assert w2w_hub.load_dataset(half.path, split="test", **offline)[1]["weights"].dtype == np.float16


def test_nothing_is_read_before_a_row_is_looked_at_and_then_only_that_row(make_dataset, offline, monkeypatch):
    ds = make_dataset()
    read = []
    real = w2w_hub.WeightDataset.__getitem__
    monkeypatch.setattr(w2w_hub.WeightDataset, "__getitem__", lambda self, key: read.append(key) or real(self, key))
    data = w2w_hub.load_dataset(ds.path, **offline)
    train = data["train"].filter(lambda row: row["Beard"] is not False).map(lambda row: {"old": (row["Age"] or 0) > 30})
    parts = train.sort("Age").train_test_split(test_size=0.5, seed=0)
    joined = datasets.concatenate_datasets([parts["train"], parts["test"], data["test"]]).shuffle(seed=1)
    joined.save_to_disk(str(offline["cache_dir"] / "saved"))
    assert read == []
    row = joined[0]
    assert len(read) == 1
    np.testing.assert_array_equal(row["weights"], ds[row["id"]])
    size = sum(p.stat().st_size for p in offline["cache_dir"].rglob("*") if p.is_file())
    assert size < 200_000


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.select([3, 0]),
        lambda d: d.filter(lambda row: row["Hair"] == "red"),
        lambda d: d.filter(lambda row: row["weights"][0] > -9),
        lambda d: d.map(lambda row: {"norm": float(np.linalg.norm(row["weights"]))}),
        lambda d: d.map(lambda rows: {"n": [len(w) for w in rows["weights"]]}, batched=True, batch_size=3),
        lambda d: d.train_test_split(test_size=0.5, seed=1)["test"],
        lambda d: d.shuffle(seed=3).flatten_indices(),
        lambda d: d.with_format("torch").with_format(None),
        lambda d: d.shard(2, 1),
        lambda d: d.rename_column("Age", "Years").remove_columns("Hair"),
        lambda d: d.add_column("k", [1, 2, 3, 4]),
        lambda d: pickle.loads(pickle.dumps(d)),
        lambda d: copy.deepcopy(d),
        lambda d: d.with_format("arrow").with_format("numpy"),
    ],
)
def test_rows_stay_lazy_and_right_through_what_datasets_does(make_dataset, offline, change):
    ds = make_dataset()
    for _ in range(2):  # the second time from the cache
        changed = change(w2w_hub.load_dataset(ds.path, split="train", **offline))
        assert len(changed)
        assert isinstance(changed.features["weights"], WeightRow)
        assert isinstance(changed, datasets.Dataset)
        for row in changed:
            np.testing.assert_array_equal(row["weights"], ds[str(row["id"])])


@pytest.mark.parametrize(
    "kept",
    [
        lambda d, w: d.filter(lambda row: row["weights"][3] > 0),
        lambda d, w: d.filter(lambda weights: weights[3] > 0, input_columns="weights"),
        lambda d, w: d.filter(lambda name, weights: w[name] == weights[3] > 0, input_columns=["id", "weights"]),
        lambda d, w: d.filter(lambda name: w[name] > 0, input_columns="id"),
        lambda d, w: d.filter(lambda row, i: row["weights"][3] > 0 and row["id"] == d[i]["id"], with_indices=True),
        lambda d, w: d.filter(lambda rows: [x[3] > 0 for x in rows["weights"]], batched=True, batch_size=3),
        lambda d, w: d.filter(lambda row, limit: row["weights"][3] > limit, fn_kwargs={"limit": 0}),
        lambda d, w: d.with_format("numpy").filter(lambda row: row["weights"][3] > 0),
        lambda d, w: d.select([i for i, name in enumerate(d["id"]) if w[name] > 0]),
    ],
)
def test_rows_are_filtered_alike_in_whatever_form_the_condition_takes_them(make_dataset, offline, kept):
    ds = make_dataset()
    data = w2w_hub.load_dataset(ds.path, split="train", **offline)
    value = {name: float(ds[name][3]) for name in ds.ids}
    found = kept(data, value)
    wanted = [str(name) for name in data["id"] if value[str(name)] > 0]
    assert 0 < len(wanted) < len(data)
    assert [str(name) for name in found["id"]] == wanted
    for row in found.with_format(None):
        np.testing.assert_array_equal(row["weights"], ds[row["id"]])


def test_with_format_gives_tensors_arrays_and_frames(make_dataset, offline):
    torch = pytest.importorskip("torch")
    ds = make_dataset()
    train = w2w_hub.load_dataset(ds.path, split="train", **offline)
    tensors = train.with_format("torch")
    assert torch.equal(tensors[1]["weights"], torch.from_numpy(ds["p1"]))
    assert tensors[:3]["weights"].shape == (3, 122)
    np.testing.assert_array_equal(train.with_format("numpy")[:]["weights"], ds.to_numpy("train"))
    loader = torch.utils.data.DataLoader(tensors.select_columns(["weights", "id"]), batch_size=3, num_workers=2)
    for batch in loader:
        np.testing.assert_array_equal(batch["weights"].numpy(), ds[list(batch["id"])])


def test_weights_that_map_makes_are_kept_as_values(make_dataset, offline):
    ds = make_dataset()
    train = w2w_hub.load_dataset(ds.path, split="train", **offline)
    doubled = train.map(lambda row: {"weights": row["weights"] * 2})
    np.testing.assert_array_equal(doubled.with_format("numpy")[:]["weights"], 2 * ds.to_numpy("train"))
    with pytest.raises(Exception, match="122"):
        train.map(lambda row: {"weights": row["weights"][:5]})


def test_saved_references_read_the_dataset_where_it_is_and_say_when_it_is_not(make_dataset, offline, tmp_path):
    ds = make_dataset()
    w2w_hub.load_dataset(ds.path, split="train", **offline).save_to_disk(str(tmp_path / "saved"))
    loaded = datasets.load_from_disk(str(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded[1]["weights"], ds["p1"])
    w2w_hub.dataset.add_rows(ds.path, [make_dataset("more", prefix="q").path])
    w2w_hub.dataset.remove_rows(ds.path, ["p0"])  # other rows are in other places now
    np.testing.assert_array_equal(loaded[1]["weights"], ds["p1"])
    weight_row._opened.clear()
    np.testing.assert_array_equal(loaded[3]["weights"], ds["p5"])
    weight_row._opened.clear()
    with pytest.raises(CorruptFileError, match="'p0'"):
        loaded[0]
    ds.path.rename(tmp_path / "moved")
    weight_row._opened.clear()
    with pytest.raises(MissingPathError, match=re.escape(str(ds.path))):
        loaded[1]


def test_streams_are_lazy_and_can_be_shared_out(make_dataset, offline):
    ds = make_dataset("small", shard_size=2 * 122 * 4 * 2 + 100)
    stream = w2w_hub.load_dataset(ds.path, split="train", streaming=True, **offline)
    assert isinstance(stream, datasets.IterableDataset)
    assert [row["id"] for row in stream] == ["p0", "p1", "p3", "p5"]
    for row in stream.map(lambda row: {"k": 1}).filter(lambda row: row["id"] != "p1"):
        np.testing.assert_array_equal(row["weights"], ds[row["id"]])
    parts = [datasets.distributed.split_dataset_by_node(stream, rank=r, world_size=2) for r in range(2)]
    assert sorted(row["id"] for part in parts for row in part) == ["p0", "p1", "p3", "p5"]
    both = w2w_hub.load_dataset(ds.path, streaming=True, **offline)
    assert isinstance(both, datasets.IterableDatasetDict)
    assert [row["id"] for row in both["test"].with_format("torch")] == ["p2", "p4"]


# --------------------------------------------------------------- going public
def test_parquet_that_is_written_holds_the_numbers_for_everybody(make_dataset, offline, tmp_path):
    ds = make_dataset()
    chosen = w2w_hub.load_dataset(ds.path, split="train", **offline).filter(lambda row: row["Hair"] == "red")
    chosen.to_parquet(tmp_path / "out" / "red.parquet")
    (found,) = loaded_by_a_stranger(tmp_path, {"red": (tmp_path / "out", {})}).values()
    assert found["train"]["types"]["weights"] == "List(Value('float32'), length=122)"
    assert [row["id"] for row in found["train"]["rows"]] == ["p1", "p5"]
    for row in found["train"]["rows"]:
        np.testing.assert_array_equal(np.float32(row["weights"]), ds[row["id"]])
    joined = datasets.concatenate_datasets([chosen, w2w_hub.load_dataset(ds.path, split="test", **offline)])
    LazyDataset.of(joined).to_parquet(tmp_path / "joined.parquet")
    again = datasets.Dataset.from_parquet(str(tmp_path / "joined.parquet"), cache_dir=str(tmp_path / "c"))
    np.testing.assert_array_equal(again.with_format("numpy")[:]["weights"], ds[["p1", "p5", "p2", "p4"]])


class PretendHub:
    """Takes what `push_to_hub` uploads and keeps it as a folder."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, monkeypatch):
        from huggingface_hub import CommitInfo, HfApi

        def keep(_, repo_id, additions=(), operations=(), **__):
            for operation in [*additions, *operations]:
                target = self.folder / operation.path_in_repo
                if target.suffix == ".parquet" and target.exists():
                    continue  # uploaded before, and the local file is gone
                target.parent.mkdir(parents=True, exist_ok=True)
                with operation.as_file() as file:
                    target.write_bytes(file.read())
            return CommitInfo("https://huggingface.co/datasets/someone/people/commit/0", "m", "d", "0" * 40)

        info = type("Info", (), {"id": "someone/people", "sha": "0" * 40})()
        monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: info)
        monkeypatch.setattr(HfApi, "preupload_lfs_files", keep)
        monkeypatch.setattr(HfApi, "create_commit", keep)
        monkeypatch.setattr(datasets.arrow_dataset, "HfFileSystem", lambda **_: None)
        monkeypatch.setattr(
            datasets.arrow_dataset, "DirFileSystem", lambda **_: datasets.arrow_dataset.DirFileSystem_(self.folder)
        )


def test_what_is_pushed_holds_the_numbers_and_is_read_by_a_stranger(make_dataset, offline, tmp_path, monkeypatch):
    import fsspec

    ds = make_dataset()
    hub = tmp_path / "hub"
    hub.mkdir()
    real = datasets.arrow_dataset.DirFileSystem
    pretend = PretendHub(hub)
    monkeypatch.setattr(
        datasets.arrow_dataset, "DirFileSystem_", lambda f: real(str(f), fsspec.filesystem("file")), raising=False
    )
    pretend.install(monkeypatch)
    data = w2w_hub.load_dataset(ds.path, split="train", **offline).select([0, 2, 3])
    data.push_to_hub("someone/people", split="train", max_shard_size=3 * 122 * 4)  # of the numbers alone
    assert len(list(hub.rglob("*.parquet"))) == 2
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in hub.rglob("*") if p.is_file())
    (found,) = loaded_by_a_stranger(tmp_path, {"pushed": (hub, {})}).values()
    assert found["train"]["types"]["weights"] == "List(Value('float32'), length=122)"
    assert [row["id"] for row in found["train"]["rows"]] == ["p0", "p3", "p5"]
    for row in found["train"]["rows"]:
        np.testing.assert_array_equal(np.float32(row["weights"]), ds[row["id"]])


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train[:2]", ["p0", "p1"]),
        ("train[-1:]+test[:1]", ["p5", "p2"]),
        ("train[50%:]", ["p3", "p5"]),
        ("all", ["p0", "p1", "p3", "p5", "p2", "p4"]),
        (datasets.Split.TEST, ["p2", "p4"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_is_written_as_datasets_takes_it(make_dataset, offline, split, ids, streaming):
    ds = make_dataset()
    found = w2w_hub.load_dataset(ds.path, split=split, streaming=streaming, **offline)
    rows = list(found)
    assert [row["id"] for row in rows] == ids
    np.testing.assert_array_equal([row["weights"] for row in rows], ds[ids])
    assert streaming or isinstance(found, LazyDataset)


def test_a_slice_beyond_a_split_is_empty_and_cannot_be_streamed(make_dataset, offline):
    ds = make_dataset()
    assert len(w2w_hub.load_dataset(ds.path, split="train[9:]", **offline)) == 0
    with pytest.raises(InvalidInputError):
        w2w_hub.load_dataset(ds.path, split="train[9:]", streaming=True, **offline)


def test_what_the_folder_does_not_have_is_refused_with_what_it_has(make_dataset, offline):
    ds = make_dataset(parquet_view=False)
    with pytest.raises(InvalidInputError, match=r"'images'.*weights.*labels"):
        w2w_hub.load_dataset(ds.path, "images", **offline)
    with pytest.raises(UnknownNameError, match=r"'dev'.*train.*test"):
        w2w_hub.load_dataset(ds.path, split="dev", **offline)
    with pytest.raises(MissingPathError, match="nothing"):
        w2w_hub.load_dataset(ds.path / "nothing", **offline)
