from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import w2w_hub
from w2w_hub.errors import InvalidInputError, MissingPathError, UnknownNameError

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
    return {"cache_dir": str(tmp_path / "cache")}


def test_stock_datasets_finds_splits_labels_and_weights_in_the_folder(make_dataset, tmp_path):
    ds = make_dataset()
    bare = make_dataset("bare", parquet_view=False)
    named = make_dataset("named", name='faces: "avatars" #1, Zoë', licence="other: see #3", version="1.0.0")
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


def test_a_dataset_is_opened_by_name_split_and_format(make_dataset, offline):
    ds = make_dataset()
    train = w2w_hub.load_dataset(ds.path, split="train", **offline).with_format("numpy")
    np.testing.assert_array_equal(train[0]["weights"], ds["p0"].astype(np.float16))
    assert train["id"][:].tolist() == ["p0", "p1", "p3", "p5"]
    labels = w2w_hub.load_dataset(ds.path, "labels", **offline)
    assert set(labels) == {"train", "test"}
    assert "weights" not in labels["train"].column_names
    streamed = w2w_hub.load_dataset(ds.path, split="test", streaming=True, **offline)
    assert [row["id"] for row in streamed] == ["p2", "p4"]


def test_what_the_folder_does_not_have_is_refused_with_what_it_has(make_dataset, offline):
    ds = make_dataset(parquet_view=False)
    with pytest.raises(InvalidInputError, match="no configuration 'images'; there are weights, labels"):
        w2w_hub.load_dataset(ds.path, "images", **offline)
    with pytest.raises(UnknownNameError, match="no split 'dev'; there are train, test"):
        w2w_hub.load_dataset(ds.path, split="dev", **offline)
    with pytest.raises(MissingPathError, match="has no Parquet view; write it with parquet_view=True"):
        w2w_hub.load_dataset(ds.path, **offline)
