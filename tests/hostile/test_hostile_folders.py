"""Folders that strangers made: nothing outside them changes, whatever is done, and reading changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import w2w_hub
from w2w_hub import WeightDataset, add_rows, write_dataset
from w2w_hub.dataset import check, find_duplicates, relabel_rows, remove_rows
from w2w_hub.dialects import write_adapter
from w2w_hub.errors import CorruptFileError, UnsafePathError, W2WError
from w2w_hub.space.integrity import check_space
from w2w_hub.store.cards import RENDERED
from w2w_hub.store.commit import repair
from w2w_hub.store.manifest import parse_manifest, seal
from w2w_hub.store.paths import make_parents

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Nothing waits for a pipe that nobody writes to."""

    def late(*_: object) -> None:
        raise TimeoutError("waited for a pipe, or went round and round")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def arena(tmp_path: Path, make_dataset: Callable[..., WeightDataset]) -> Path:
    """A folder with files that nobody may touch, and a dataset in `world/people`."""
    root = tmp_path / "arena"
    (root / "victim" / "c").mkdir(parents=True)
    for name in ("secret.txt", "victim/train.parquet", "victim/manifest.json", "victim/zarr.json", "victim/c/0"):
        (root / name).write_text(f"precious {name}")
    (root / "world").mkdir()
    shutil.move(make_dataset().path, root / "world" / "people")
    shutil.move(make_dataset("more", seed=1, prefix="q").path, root / "more")
    return root


def tree(root: Path) -> dict[str, object]:
    """Everything below a folder: kind, content, inode and time."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else str(stat.st_mode)
        found[str(path.relative_to(root))] = (content, stat.st_ino, stat.st_mtime_ns)
    return found


def outside(root: Path) -> dict[str, object]:
    world = f"world{os.sep}"
    return {k: v for k, v in tree(root).items() if not k.startswith(world) and k != "world"}


def reseal(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a manifest and give it the right checksum, as a forger would."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_bytes(seal(data))


def listing(*names: str) -> Callable[[dict], object]:
    return lambda data: data["files"].update({n: {"sha256": "0" * 64, "size": 1} for n in names})


def committed(folder: Path) -> Path:
    """A commit that moves the same state into place once more."""
    commit = folder / ".w2w-commit"
    commit.mkdir()
    shutil.copy(folder / "manifest.json", commit / "manifest.json")
    return commit


OUT = "../../secret.txt"
NAMES = [
    OUT, "labels/../../../secret.txt", "/etc/hostname", "labels/./x", "labels//x", "", ".", "..", "a\\..\\x", "C:/x",
    "c:x", "a\0b", "a\nb", "a\x1b[2Jb", "a\u202eb", "a\u200bb", "\ud800", "x" * 300, "a/" * 600 + "a", "a ", "a.",
    "a./b", ".w2w-commit/x", ".w2w-lock", ".w2w-next/labels/x", "manifest.json", "Manifest.JSON",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_path_inside_a_folder_is_refused_by_every_manifest(name):
    for form in ("w2w-dataset", "w2w-space"):
        data = {"format": form, "format_version": 1, "files": {name: {"sha256": "0" * 64, "size": 1}}}
        with pytest.raises(UnsafePathError):
            parse_manifest(json.dumps(data).encode(), "manifest.json")


@pytest.mark.parametrize("name", NAMES[::4], ids=ascii)
@pytest.mark.parametrize("where", ["folder", "old of a commit", "new of a commit"])
def test_a_name_that_leaves_the_folder_is_refused_before_anything_acts_on_it(arena, name, where):
    folder = arena / "world" / "people"
    if where == "new of a commit":
        reseal(committed(folder), listing(name))
    else:
        if where != "folder":
            committed(folder)
        reseal(folder, listing(name))
    before, inside = outside(arena), tree(folder)
    with pytest.raises(UnsafePathError):
        WeightDataset.open(folder)
    assert not check(folder).ok
    with pytest.raises(UnsafePathError):
        repair(folder) if where != "folder" else WeightDataset.open(folder)
    assert tree(folder) == inside
    with pytest.raises(W2WError):
        remove_rows(folder, ["p0", "p1"])
    assert outside(arena) == before


def link(folder: Path, name: str, target: Path) -> None:
    """Put a link in the place of a file or folder."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


LINKS = {
    "labels": "victim", "labels/train.parquet": "victim/train.parquet", "weights.zarr": "victim",
    "weights.zarr/weights/c": "victim/c", "weights.zarr/weights/c/0/0": "secret.txt",
    "weights.zarr/zarr.json": "victim/zarr.json",
    "manifest.json": "victim/manifest.json", ".w2w-lock": "secret.txt", ".w2w-next": "victim", ".w2w-commit": "victim",
    ".w2w-commit/labels": "victim", ".w2w-commit/manifest.json": "victim/manifest.json", "parquet": "victim",
    ".w2w-commit/labels/train.parquet": "victim/train.parquet",
}  # fmt: skip
CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "add": lambda folder, arena: add_rows(folder, [arena / "more"]),
    "remove": lambda folder, arena: remove_rows(folder, ["p0", "p1"]),
    "relabel": lambda folder, arena: relabel_rows(folder, pd.DataFrame({"id": ["p0"], "Hair": ["blue"]})),
    "replace": lambda folder, arena: write_dataset(
        np.ones((2, 122), np.float32), folder, layout=WeightDataset.open(arena / "more").layout, overwrite=True
    ),
    "repair": lambda folder, arena: repair(folder),
}
READS: dict[str, Callable[[Path], object]] = {
    "open": lambda folder: WeightDataset.open(folder)[:],
    "check": lambda folder: check(folder),
    "dedupe": lambda folder: find_duplicates(WeightDataset.open(folder)),
    "build": lambda folder: w2w_hub.build_space(WeightDataset.open(folder), k=2),
    "space": lambda folder: w2w_hub.WeightSpace.from_pretrained(folder),
    "check_space": lambda folder: check_space(folder),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_folder_is_never_followed(arena, name):
    folder, relative = arena / "world" / "people", len(name) % 2
    if name.startswith(".w2w-commit/"):
        committed(folder)
    target = arena / LINKS[name]
    link(folder, name, Path(os.path.relpath(target, (folder / name).parent)) if relative else target)
    before, inside = outside(arena), tree(folder)
    for read in READS.values():
        with suppress(W2WError):
            read(folder)
        assert tree(folder) == inside
        assert outside(arena) == before
    if not name.startswith((".w2w-lock", ".w2w-next", "parquet")):  # which reading does not need
        with pytest.raises(CorruptFileError):
            WeightDataset.open(folder)
    if not name.startswith((".w2w-lock", ".w2w-next")):
        assert not check(folder).ok
    for change in CHANGES.values():
        with suppress(W2WError):
            change(folder, arena)
        assert outside(arena) == before


def test_a_link_in_a_killed_pack_is_not_written_through(arena, adapter):
    lora = arena / "world" / "lora"
    write_adapter(adapter, lora, ("peft",))
    (arena / "world" / ".out.w2w-next" / "labels").mkdir(parents=True)
    (arena / "world" / ".out.w2w-next" / "labels" / "train.parquet").symlink_to(arena / "secret.txt")
    (arena / "world" / ".out.w2w-next" / "weights.zarr").symlink_to(arena / "victim")
    before = outside(arena)
    w2w_hub.pack_adapters([lora], arena / "world" / "out").verify()
    assert outside(arena) == before


def test_a_lock_that_is_another_files_second_name_is_not_cut(arena):
    os.link(arena / "secret.txt", arena / "world" / "people" / ".w2w-lock")
    before = (arena / "secret.txt").read_bytes()
    with pytest.raises(UnsafePathError):
        remove_rows(arena / "world" / "people", ["p0"])
    assert (arena / "secret.txt").read_bytes() == before


@pytest.mark.parametrize("name", ["manifest.json", "labels/train.parquet", "weights.zarr/weights/c/0/0", ".w2w-lock"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_not_read(arena, name, kind):
    folder = arena / "world" / "people"
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        try:
            os.mknod(folder / name, 0o644 | 0o020000, os.makedev(1, 5))  # /dev/zero never ends
        except PermissionError:
            pytest.skip("only root makes devices")
    if name != ".w2w-lock":
        with pytest.raises(UnsafePathError):
            WeightDataset.open(folder)
        assert not check(folder).ok
    before = outside(arena)
    for change in CHANGES.values():
        with suppress(W2WError):
            change(folder, arena)
        assert outside(arena) == before


def test_the_root_may_be_a_link(arena):
    (arena / "people").symlink_to(arena / "world" / "people")
    WeightDataset.open(arena / "people").verify()
    removed = remove_rows(arena / "people", ["p0"])
    assert "p0" not in removed.ids
    assert (arena / "people").is_symlink()


# ------------------------------------------------------------------ states
def unfinished(folder: Path, change: Callable[[Path], object]) -> str:
    """Commit a change without moving it into place; the digest of the new state."""
    from w2w_hub.store import commit

    kept = commit._finish
    calls = []

    def once(path: Path) -> bool:  # the first call finishes what was there before, the second is the commit's own
        calls.append(path)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return kept(path)

    commit._finish = once
    try:
        with pytest.raises(KeyboardInterrupt):
            change(folder)
    finally:
        commit._finish = kept
    return json.loads((folder / ".w2w-commit" / "manifest.json").read_text())["digest"]


@pytest.mark.parametrize("moved", [0, 1, 2, 3, 4])
def test_a_committed_state_is_read_where_it_lies_and_finished_by_repair(arena, moved):
    folder = arena / "world" / "people"
    old = WeightDataset.open(folder).manifest.digest
    digest = unfinished(folder, lambda f: remove_rows(f, ["p0", "p5"]))
    names = sorted(
        str(p.relative_to(folder / ".w2w-commit"))
        for p in (folder / ".w2w-commit").rglob("*")
        if p.is_file() and p.name != "manifest.json"
    )
    for name in names[:moved]:
        os.replace(folder / ".w2w-commit" / name, folder / name)
    inside = tree(folder)
    opened = WeightDataset.open(folder)
    assert opened.manifest.digest == digest != old
    opened.verify()
    report = check(folder)
    assert report.ok
    assert report.unfinished
    assert tree(folder) == inside
    assert repair(folder)
    assert not (folder / ".w2w-commit").exists()
    report = check(folder)
    assert report.ok
    assert not report.unfinished
    assert report.digest == digest
    assert not repair(folder)


def test_the_next_writer_finishes_a_committed_state_first(arena):
    folder = arena / "world" / "people"
    unfinished(folder, lambda f: remove_rows(f, ["p0", "p5"]))
    left = remove_rows(folder, ["p1"])
    assert set(left.ids) == {"p2", "p3", "p4"}
    left.verify()
    assert not (folder / ".w2w-commit").exists()


def test_a_commit_without_a_manifest_means_nothing(arena):
    folder = arena / "world" / "people"
    digest = WeightDataset.open(folder).manifest.digest
    (folder / ".w2w-commit" / "labels").mkdir(parents=True)
    (folder / ".w2w-commit" / "labels" / "train.parquet").write_text("half")
    opened = WeightDataset.open(folder)
    assert opened.manifest.digest == digest
    opened.verify()
    assert (folder / ".w2w-commit").exists()
    remove_rows(folder, ["p1"]).verify()
    assert not (folder / ".w2w-commit").exists()


def test_files_that_no_manifest_lists_survive_a_commit(arena):
    folder = arena / "world" / "people"
    (folder / "labels" / "notes.txt").write_text("mine")
    unfinished(folder, lambda f: remove_rows(f, ["p0", "p5"]))
    (folder / ".w2w-commit" / "planted.txt").write_text("theirs")  # listed by nobody: no part of the state
    repair(folder)
    assert (folder / "labels" / "notes.txt").read_text() == "mine"
    assert not (folder / "planted.txt").exists()


def test_a_commit_of_another_kind_of_folder_is_refused(arena):
    folder = arena / "world" / "people"
    commit = committed(folder)
    reseal(commit, lambda data: data.update(format="w2w-space"))
    inside = tree(folder)
    with pytest.raises(W2WError):
        WeightDataset.open(folder)
    with pytest.raises(W2WError):
        repair(folder)
    assert tree(folder) == inside


# ---------------------------------------------------------- the Hub's cache
def snapshot(folder: Path, cache: Path, shared: bool = False) -> Path:
    """A folder as huggingface_hub's cache holds it: links to blobs, with Xet through the store of the whole cache."""
    repository = cache / "datasets--org--people"
    commit = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        name = hashlib.sha256(path.read_bytes()).hexdigest()
        blob = repository / "blobs" / name
        if shared and not blob.is_symlink():
            store = cache / "blobs" / name[:2] / name
            store.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, store)
            blob.symlink_to(os.path.relpath(store, blob.parent))
        elif not shared:
            shutil.copy(path, blob)
        target = commit / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(blob, target.parent))
    return commit


@pytest.mark.parametrize("shared", [False, True], ids=["blobs", "shared blobs"])
def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(arena, shared):
    commit = snapshot(arena / "world" / "people", arena / "cache", shared)
    inside = tree(arena / "cache")
    WeightDataset.open(commit).verify()
    assert tree(arena / "cache") == inside


@pytest.mark.parametrize("place", ["blob", "snapshot", "blobs", "other repository", "store"])
def test_a_link_that_leaves_its_repository_in_the_cache_is_refused(arena, place):
    commit = snapshot(arena / "world" / "people", arena / "cache", shared=place == "store")
    repository = commit.parents[1]
    name = commit / "labels" / "train.parquet"
    blob = Path(os.path.normpath(name.parent / os.readlink(name)))
    if place == "blob":  # a blob that is a link itself
        blob.rename(arena / "elsewhere")
        blob.symlink_to(arena / "elsewhere")
    elif place == "snapshot":
        name.unlink()
        name.symlink_to(arena / "secret.txt")
    elif place == "blobs":
        (repository / "blobs").rename(arena / "elsewhere")
        (repository / "blobs").symlink_to(arena / "elsewhere")
    elif place == "other repository":
        other = arena / "cache" / "datasets--other--people" / "blobs"
        other.mkdir(parents=True)
        shutil.copy(blob, other / blob.name)
        name.unlink()
        name.symlink_to(os.path.relpath(other / blob.name, name.parent))
    else:
        blob.unlink()
        blob.symlink_to(os.path.relpath(arena / "secret.txt", blob.parent))
    with pytest.raises(UnsafePathError):
        WeightDataset.open(commit)


@pytest.mark.parametrize("separator", ["/../../../../", "../", "\\", "", "/", "."])
def test_a_separator_of_zarr_keys_cannot_lead_elsewhere(arena, separator):
    folder = arena / "world" / "people"
    path = folder / "weights.zarr" / "weights" / "zarr.json"
    data = json.loads(path.read_text())
    data["chunk_key_encoding"]["configuration"]["separator"] = separator
    path.write_text(json.dumps(data))
    entry = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
    reseal(folder, lambda d: d["files"].update({"weights.zarr/weights/zarr.json": entry}))
    if separator == "/":
        WeightDataset.open(folder).verify()
    else:
        with pytest.raises(W2WError):
            WeightDataset.open(folder)[:]


# ---------------------------------------------------------------- what a writer reads
def test_no_folder_is_made_through_a_link(arena):
    (arena / "world" / "link").symlink_to(arena / "victim")
    before = outside(arena)
    with pytest.raises(UnsafePathError):
        make_parents(arena / "world", "link/a/b/file")
    assert outside(arena) == before


def repack(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    reseal(folder, lambda d: d["files"].update({name: entry}))


@pytest.mark.parametrize("kind", ["no Parquet", "numbers", "too many rows"])
def test_a_view_that_is_not_one_is_written_anew(arena, kind):
    folder = arena / "world" / "people"
    sink = pa.BufferOutputStream()
    table = pd.read_parquet(folder / "parquet" / "train.parquet")
    if kind == "numbers":
        pq.write_table(pa.Table.from_pandas(table.assign(weights=1.5), preserve_index=False), sink)
    elif kind == "too many rows":
        pq.write_table(pa.table({"id": pa.array(["a"] * 10**6)}), sink)
    repack(folder, "parquet/train.parquet", b"none" if kind == "no Parquet" else sink.getvalue().to_pybytes())
    relabel_rows(folder, pd.DataFrame({"id": ["p2"], "Hair": ["blue"]})).verify()


@pytest.mark.parametrize("metadata", ["x: " + "[" * 3000, "x: " + ":".join(["59"] * 3000), "k: [1,2,3]\n" * 20000])
def test_metadata_of_a_card_that_cannot_be_kept_is_written_anew(arena, metadata):
    folder = arena / "world" / "people"
    (folder / "README.md").write_text(f"---\n{metadata}\n---\nhi\n")
    relabel_rows(folder, pd.DataFrame({"id": ["p2"], "Hair": ["blue"]})).verify()
    assert "configs:" in (folder / "README.md").read_text()


NESTED = ["a0: &a0 [x]", *(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(40))]


@pytest.mark.parametrize("metadata", ["1: a\nb: c", "a: &a [*a]", "\n".join(NESTED)], ids=["keys", "cycle", "aliases"])
def test_a_strangers_card_that_states_a_digest_counts_as_written_by_hand(arena, metadata):
    folder = arena / "world" / "people"
    (folder / "README.md").write_text(f"---\n{RENDERED}: {'0' * 64}\n{metadata}\n---\nhi\n")
    relabel_rows(folder, pd.DataFrame({"id": ["p2"], "Hair": ["blue"]})).verify()
    assert (folder / "README.md").read_text().endswith("\nhi\n")
