from __future__ import annotations

import json
import random
import re

import numpy as np
import pandas as pd
import pytest

from w2w_hub import ParameterLayout, WeightDataset, write_dataset
from w2w_hub.dataset import check
from w2w_hub.dataset.manifest import DatasetManifest
from w2w_hub.errors import CorruptFileError, MissingPathError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 300, 400)}, 2.0)


@pytest.fixture
def ds(tmp_path) -> WeightDataset:
    ids = [f"p{i}" for i in range(9)]
    table = pd.DataFrame({"id": ids, "split": (["train"] * 2 + ["test"]) * 3, "Age": np.arange(9) + 0.5})
    rows = np.random.default_rng(0).normal(size=(9, 700)).astype(np.float32)
    return write_dataset(rows, tmp_path / "people", layout=SMALL, ids=ids, labels=table, shard_size=4 * 2816 + 4)


@pytest.mark.slow
def test_verifying_deeply_finds_every_one_of_100_random_flipped_bytes_and_names_its_file(ds):
    files = [*ds.manifest.files, "manifest.json"]
    sizes = [(ds.path / name).stat().st_size for name in files]
    rng = random.Random(0)
    rows = 0
    for _ in range(100):
        (name,) = rng.choices(files, sizes)
        path = ds.path / name
        whole = path.read_bytes()
        position, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        report = check(ds.path)
        path.write_bytes(whole)
        assert not report.ok, (name, position, bit)
        assert report.problems[0].file == name, (name, position, report)
        named = [row for problem in report.problems for row in problem.rows]
        if "/c/" in name and position < 4 * 2800:
            number = 4 * int(name.split("/")[3]) + position // 2800
            assert named == [f"p{number}"][: number < 9], (name, position, report)
            rows += 1
    assert rows > 20
    assert check(ds.path).ok


def test_every_flipped_byte_of_the_manifest_is_found(ds):
    path = ds.path / "manifest.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 17):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        report = check(ds.path, deep=False)
        assert report.problems[0].file == "manifest.json", (position, whole[position])
    path.write_bytes(whole)
    assert check(ds.path, deep=False).ok


def test_all_that_is_wrong_is_told_at_once(ds):
    (ds.path / "parquet" / "test.parquet").unlink()
    shard = ds.path / "weights.zarr/weights/c/1/0"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    data[2 * 2800] ^= 1
    shard.write_bytes(data)
    (ds.path / "stray.bin").write_bytes(b"x")
    with pytest.raises(CorruptFileError) as caught:
        ds.verify()
    told = str(caught.value)
    for part in (
        "parquet/test.parquet",
        "c/1/0 ",
        "c/1/0: rows 'p4', 'p6'",
    ):
        assert part in told
    report = check(ds.path)
    assert [problem.rows for problem in report.problems if problem.rows] == [["p4", "p6"]]
    assert report.unlisted == ["stray.bin"]
    assert json.loads(json.dumps(report.to_json()))["ok"] is False


def test_a_shallow_check_reads_no_rows_and_still_finds_labels_sizes_and_indexes(ds):
    shard = ds.path / "weights.zarr/weights/c/1/0"
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert check(ds.path, deep=False).ok  # a changed value needs --deep
    assert check(ds.path, deep=False).bytes_hashed < len(whole)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "c/" in check(ds.path, deep=False).problems[0].message
    shard.write_bytes(whole + b"x")
    assert f"{len(whole) + 1}" in check(ds.path, deep=False).problems[0].message
    shard.unlink()
    assert "c/1/0" in check(ds.path, deep=False).problems[0].message
    shard.write_bytes(whole)
    labels = ds.path / "labels" / "test.parquet"
    table = pd.read_parquet(labels)
    table.assign(Age=1.0).to_parquet(labels)
    assert not check(ds.path, deep=False).ok


def test_a_manifest_without_a_checksum_is_not_held_to_one(ds):
    path = ds.path / "manifest.json"
    data = json.loads(path.read_text())
    data.pop("checksum")
    path.write_text(json.dumps(data))
    ds.verify()
    DatasetManifest.read(ds.path).write(ds.path)
    assert "checksum" in path.read_text()
    ds.verify()


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../b"])
def test_a_manifest_that_names_files_outside_the_folder_is_refused(ds, name):
    path = ds.path / "manifest.json"
    data = json.loads(path.read_text())
    data["files"][name] = {"sha256": "0" * 64, "size": 1}
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match=re.escape(str(ds.path))):
        WeightDataset.open(ds.path)


def test_what_is_no_dataset_is_said_to_be_none(tmp_path):
    with pytest.raises(MissingPathError, match="nothing"):
        check(tmp_path / "nothing")


def test_an_opened_dataset_verifies_its_values_unless_it_is_told_not_to(ds):
    shard = ds.path / "weights.zarr/weights/c/1/0"
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    ds.verify(deep=False)
    for options in ({}, {"deep": True}):
        with pytest.raises(CorruptFileError):
            ds.verify(**options)
