"""The bag of a lock, against RFC 8493 written down once more; it is made of the cache, without a Hub."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from w2w_hub import WeightDataset
from w2w_hub.errors import AlreadyExistsError, CorruptFileError
from w2w_hub.release import archive, restore
from w2w_hub.release.bag import _list_digests
from w2w_hub.store.hub import cache as module
from w2w_hub.store.hub.cache import RepoCache
from w2w_hub.store.hub.pins import read_lock

ARCHIVE = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0"
LOCK = ARCHIVE / "w2w.lock"
PIN = read_lock(LOCK).pins[0]
SHARD = "weights.zarr/weights/c/0/0"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    restore(LOCK, ARCHIVE / "people", cache_dir=tmp_path / "cache")
    return tmp_path / "cache"


def listed(file: Path) -> dict[str, str]:
    lines = [line.partition("  ") for line in file.read_text("utf-8").splitlines()]
    return {name: digest for digest, _, name in lines}


def digests(root: Path, folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_bag_lists_each_of_its_files_once_and_is_restored_from(cache: Path, tmp_path: Path) -> None:
    bag = archive(LOCK, tmp_path / "bag", cache_dir=cache)
    assert (bag / "bagit.txt").read_text() == "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    assert listed(bag / "manifest-sha256.txt") == digests(bag, bag / "data")
    tags = {name: digest for name, digest in digests(bag, bag).items() if "/" not in name}
    assert listed(bag / "tagmanifest-sha256.txt") == {n: d for n, d in tags.items() if not n.startswith("tagmanifest")}
    info = dict(line.split(": ", 1) for line in (bag / "bag-info.txt").read_text("utf-8").splitlines())
    payload = [file for file in (bag / "data").rglob("*") if file.is_file()]
    assert info["Payload-Oxum"] == f"{sum(file.stat().st_size for file in payload)}.{len(payload)}"
    assert info["External-Description"] == PIN.name
    assert (bag / "data" / "w2w.lock").read_bytes() == LOCK.read_bytes()
    assert yaml.safe_load((bag / "data" / "CITATION.cff").read_text("utf-8"))["commit"] == PIN.commit
    folder = bag / "data" / "datasets" / PIN.repo / PIN.commit
    assert PIN.repo in (bag / "README.txt").read_text("utf-8")
    assert folder.relative_to(bag).as_posix() in (bag / "README.txt").read_text("utf-8")
    for source in (bag, bag / "data", folder):
        shutil.rmtree(cache)
        restore(bag / "data" / "w2w.lock", source, cache_dir=cache)
        assert len(WeightDataset.open(f"{LOCK}#{PIN.repo}", cache_dir=cache, local_files_only=True)) == 4
    with pytest.raises(AlreadyExistsError):
        archive(LOCK, bag, cache_dir=cache)


@pytest.mark.parametrize("name", [SHARD, "labels/test.parquet"])
def test_silent_damage_of_the_disk_is_not_archived(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_identity", lambda _: "as before")  # nothing that the system tells has changed
    restore(LOCK, ARCHIVE / "people", cache_dir=tmp_path / "cache")
    file = RepoCache(PIN.repo, PIN.kind, tmp_path / "cache").snapshot(PIN.commit) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        archive(LOCK, tmp_path / "bag", cache_dir=tmp_path / "cache")
    assert caught.value.path == file
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize("blob", [lambda data: b"x" + data, lambda data: data], ids=["damaged", "own"])
def test_the_card_is_archived_unless_it_is_not_what_its_blob_states(
    cache: Path, tmp_path: Path, blob: Callable[[bytes], bytes]
) -> None:
    folder = RepoCache(PIN.repo, PIN.kind, cache).snapshot(PIN.commit)
    card, text = folder / "README.md", b"edited on the Hub\n"
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir(exist_ok=True)
    stored = blobs / hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    stored.write_bytes(blob(text))
    card.unlink()
    card.symlink_to(os.path.relpath(stored, folder))
    bag = archive(LOCK, tmp_path / "bag", cache_dir=cache)
    archived = bag / "data" / "datasets" / PIN.repo / PIN.commit / "README.md"
    assert archived.exists() == (blob(text) == text)


def test_a_name_with_what_rfc_8493_escapes_is_listed_escaped(tmp_path: Path) -> None:
    names = {"100%.txt": "100%25.txt", "a\nb": "a%0Ab", "a\rb": "a%0Db", "%0A": "%250A"}
    for name in names:
        (tmp_path / name).write_text(name)
    _list_digests(tmp_path, list(names), "manifest-sha256.txt")
    found = listed(tmp_path / "manifest-sha256.txt")
    assert found == {names[name]: hashlib.sha256(name.encode()).hexdigest() for name in names}
