"""What an error of a dataset is about is in its attributes, so that a caller need not read the message."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2w_hub import Compatibility, ParameterLayout, WeightDataset, add_rows, read_labels, write_dataset
from w2w_hub.dataset import check, remove_rows
from w2w_hub.dataset.changes.sources import AdapterRows
from w2w_hub.errors import CorruptFileError, InitializationError, InvalidInputError, MissingPathError, W2WError
from w2w_hub.lora.adapter import Target
from w2w_hub.release import cite, log, pin, push, restore, verify
from w2w_hub.release.citation import citation_file
from w2w_hub.release.copies import FolderCopy
from w2w_hub.release.describe import describe
from w2w_hub.store.commit import staging_folder

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)
SHARD = "weights.zarr/weights/c/0/0"


def people(folder: Path, prefix: str = "p", **options: Any) -> WeightDataset:
    rows = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    return write_dataset(rows, folder, layout=SMALL, ids=[f"{prefix}{i}" for i in range(6)], **options)


def spoil(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(bytes(data))


def subject(kind: type[W2WError], call: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return caught.value.data()


def test_a_folder_that_is_no_dataset_or_not_packed_to_its_end_is_the_path(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path / "half"):
        for call in (WeightDataset.open, check, describe, verify):
            assert subject(MissingPathError, call, folder) == {"path": folder}
        staging_folder(tmp_path / "half").mkdir(exist_ok=True)
    (tmp_path / "empty").mkdir()
    assert subject(MissingPathError, verify, tmp_path / "empty") == {"path": tmp_path / "empty"}


@pytest.mark.parametrize("more", [b"", b"x"])
def test_a_file_of_the_matrix_that_is_shorter_or_longer_than_listed_is_the_path(tmp_path: Path, more: bytes) -> None:
    file = people(tmp_path / "d").path / SHARD
    file.write_bytes(file.read_bytes() + more if more else file.read_bytes()[:-1])
    assert subject(CorruptFileError, WeightDataset.open, tmp_path / "d") == {"path": file}


def test_a_source_that_cannot_be_added_is_the_path(tmp_path: Path) -> None:
    ds = people(tmp_path / "d", compatibility=Compatibility(None, "aa", "seed-0"))
    for name, record in (("start", Compatibility(None, "aa", "seed-1")), ("base", Compatibility(None, "b", "seed-0"))):
        other = people(tmp_path / name, "q", compatibility=record)
        assert subject(InitializationError, add_rows, ds.path, other.path) == {"path": other.path}
    damaged = people(tmp_path / "damaged", "q", compatibility=ds.manifest.compatibility)
    spoil(damaged.path / SHARD)
    assert subject(CorruptFileError, add_rows, ds.path, damaged.path) == {"path": damaged.path}


def test_a_checkpoint_that_is_not_there_is_the_path(tmp_path: Path) -> None:
    rows = AdapterRows([tmp_path / "none"], SMALL, ["none"])
    assert subject(MissingPathError, rows.fingerprint, [0]) == {"path": tmp_path / "none"}


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("none.csv", None, MissingPathError), ("folder", "", MissingPathError), ("a.csv", "name,Age\na,1\n", None),
        ("a.csv", "id,Age,Age\na,1,2\n", CorruptFileError), ("a.csv", 'id,Age\n"a,1\n', CorruptFileError),
        ("a.csv", "id,Age,age\na,1,2\n", InvalidInputError), ("a.parquet", "PAR", CorruptFileError),
        ("a.jsonl", "[1]\n", CorruptFileError), ("a.jsonl", '{"id": "a", "id": "b"}\n', CorruptFileError),
    ],
)  # fmt: skip
def test_a_label_file_that_cannot_be_read_is_the_path(tmp_path: Path, name: str, text: str | None, kind: Any) -> None:
    file = tmp_path / name
    if name == "folder":
        file.mkdir()
    elif text is not None:
        file.write_text(text, "utf-8")
    assert subject(kind or InvalidInputError, read_labels, file) == {"path": file}


def test_a_dataset_that_is_in_another_state_now_is_the_path(tmp_path: Path) -> None:
    ds = people(tmp_path / "d")
    packed = pickle.dumps(ds)
    remove_rows(ds.path, "p0")
    assert subject(CorruptFileError, pickle.loads, packed) == {"path": ds.path}
    assert subject(CorruptFileError, push, ds, "org/people", token=False) == {"path": ds.path}


# ---------------------------------------------------------------- versions, without a Hub
def test_what_cannot_be_published_is_the_path_or_the_argument(tmp_path: Path) -> None:
    folder = people(tmp_path / "d", version="1.0.0").path

    def refused(path: Path) -> dict[str, Any]:
        return subject(W2WError, push, path, "org/people", token=False)

    assert subject(InvalidInputError, push, folder, "people", token=False) == {"name": "repo"}
    assert refused(tmp_path) == {"path": tmp_path}
    (folder / "link").symlink_to(folder / "nowhere")
    assert refused(folder) == {"path": folder / "link"}
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    assert refused(folder) == {"path": folder / "pipe"}
    (folder / "pipe").unlink()
    for name in ("labels/train.parquet", SHARD):
        (folder / name).rename(tmp_path / "aside")
        assert refused(folder) == {"path": folder / name}
        (tmp_path / "aside").rename(folder / name)


def test_what_cannot_be_pinned_cited_listed_or_restored_is_the_path_or_the_argument(tmp_path: Path) -> None:
    folder = people(tmp_path / "d", version="1.0.0").path
    assert subject(InvalidInputError, pin, []) == {"name": "names"}
    assert subject(InvalidInputError, pin, [str(folder)]) == {"name": str(folder)}
    assert subject(InvalidInputError, cite, folder) == {"path": folder}
    assert subject(InvalidInputError, citation_file, []) == {"name": "pins"}
    for repo in ("people", "org/people@v1.0.0"):
        assert subject(InvalidInputError, log, repo) == {"name": "repo"}
    assert subject(MissingPathError, FolderCopy, tmp_path / "none") == {"path": tmp_path / "none"}
    assert subject(MissingPathError, FolderCopy(tmp_path).fetch, folder, "none", 9)["path"] == folder / "none"
    archive = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0"
    lock = archive / "w2w.lock"
    (pinned,) = json.loads(lock.read_text("utf-8"))["pins"]
    missing = subject(W2WError, restore, lock, folder, cache_dir=tmp_path / "cache")
    assert missing == {"what": "repository", "repo_id": "org/people", "revision": pinned["commit"]}
    copy = tmp_path / "copy"
    for file in (f for f in (archive / "people").rglob("*") if f.is_file()):
        target = copy / file.relative_to(archive / "people")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    spoil(copy / SHARD)
    assert subject(CorruptFileError, restore, lock, copy, cache_dir=tmp_path / "cache") == {"name": SHARD}
