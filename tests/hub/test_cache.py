"""The cache and the Hub are strangers, too: planted links, changed files, answers that are not what was asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]
SHARD = "weights.zarr/weights/c/0/0"
OPEN = """
import shutil, time
import w2w_hub
from w2w_hub.release import verify
def load(revision="v1.0.0", **options):
    ds = w2w_hub.WeightDataset.open("org/people", revision=revision, lazy=False, **options)
    return float(ds.to_numpy().astype("f8").sum())
"""


def test_a_change_of_a_cached_file_that_keeps_its_size_and_time_is_noticed(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    found = client().run(
        OPEN
        + """
right = load()
snapshot = next(Path(os.environ["HF_HOME"]).glob("hub/datasets--org--people/snapshots/*"))
def flip(name):
    file = (snapshot / name).resolve()
    data, before = bytearray(file.read_bytes()), file.stat()
    data[100] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return before
flip(sys.argv[1])
out(offline=refused(load, local_files_only=True))
out(report=[p.file for p in verify("org/people@v1.0.0").problems])
again, said = warned(load)
out(again=again == right, said=said)
# marks that version 0.1.0 left know size and time only
marks = snapshot.parents[1] / ".w2w-verified"
before = flip(sys.argv[1])
digest = json.loads((snapshot / "manifest.json").read_text())["files"][sys.argv[1]]["sha256"]
(marks / digest).write_text(f"{before.st_size} {before.st_mtime_ns}")
out(old=refused(load, local_files_only=True))
# another file of the same content, size and time in its place
file = (snapshot / sys.argv[1]).resolve()
load()
copy = file.with_name("x")
shutil.copy2(file, copy)
data = bytearray(copy.read_bytes()); data[7] ^= 1
stat = file.stat()
copy.write_bytes(data); os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
os.replace(copy, file)
out(replaced=refused(load, local_files_only=True), right=load() == right)
""",
        SHARD,
    )
    assert found["offline"][0] == "CorruptFileError"
    assert set(found["report"]) == {SHARD}
    assert (found["again"], len(found["said"])) == (True, 1)
    assert found["old"][0] == found["replaced"][0] == "CorruptFileError"
    assert found["right"]


def test_a_link_in_a_snapshot_leads_to_a_blob_of_its_repository_or_is_refused_and_nothing_it_leads_to_is_touched(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.people, "org/other")
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("labels/test.parquet", "manifest.json"):
        shutil.copy(folders.people / name, outside / Path(name).name)  # with the very content that is listed
    (outside / "mine").write_text("mine")
    found = client().run(
        OPEN
        + """
outside = Path(sys.argv[1])
load()
w2w_hub.WeightDataset.open("org/other", lazy=False)
hub = Path(os.environ["HF_HOME"]) / "hub"
snapshot = next(hub.glob("datasets--org--people/snapshots/*"))
other = next(hub.glob("datasets--org--other/snapshots/*"))
os.mkfifo(snapshot.parents[1] / "blobs" / "pipe")
(snapshot.parents[1] / "blobs" / "away").symlink_to(outside / "mine")
told = {}
def planted(name, target, **options):
    file = snapshot / name
    kept = os.readlink(file)
    file.unlink()
    file.symlink_to(target)
    for offline in (True, False):
        told[f"{name} -> {target} {offline}"] = [
            refused(load, local_files_only=offline)[0],
            refused(lambda: verify("org/people@v1.0.0", local_files_only=offline).raise_if_any())[0],
        ]
    file.unlink()
    file.symlink_to(kept)
for name in ("labels/test.parquet", "manifest.json"):
    for target in (outside / Path(name).name, outside / "mine", (other / name).resolve(), "../../blobs/pipe",
                   "../" * (3 + name.count("/")) + "blobs/away", "/dev/zero", "README.md", outside):
        planted(name, target)
(snapshot / "labels").rename(outside / "labels")
(snapshot / "labels").symlink_to(outside / "labels")
told["labels"] = [refused(load)[0], refused(load, local_files_only=True)[0]]
(snapshot / "labels" / "test.parquet").unlink()
told["labels, a file missing"] = [refused(load)[0], refused(load, local_files_only=True)[0]]
left = sorted(os.listdir(outside / "labels"))
(snapshot / "labels").unlink()
(outside / "labels").rename(snapshot / "labels")
kept = snapshot.with_name("kept")
snapshot.rename(outside / "snapshot")
snapshot.symlink_to(outside / "snapshot")
told["snapshot"] = [refused(load)[0], refused(load, local_files_only=True)[0]]
snapshot.unlink()
(outside / "snapshot").rename(snapshot)
out(told=told, left=left, right=refused(load)[0])
""",
        outside,
    )
    for planted, kinds in found["told"].items():
        assert set(kinds) <= {"UnsafePathError", "HubNotFoundError", "CorruptFileError"}, (planted, kinds)
    assert found["left"] == ["train.parquet"]
    assert found["right"] == "nothing raised"
    assert (outside / "mine").read_text() == "mine"
    assert (outside / "manifest.json").read_bytes() == (folders.people / "manifest.json").read_bytes()
    assert (outside / "test.parquet").is_file()


def test_a_repository_that_lists_what_is_no_file_of_one_is_refused_and_a_plain_download_harms_nothing(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    evil = shutil.copytree(folders.people, tmp_path / "evil")
    files = json.loads((evil / "manifest.json").read_text())["files"]
    shutil.copytree(folders.people, evil / ".w2w-commit")
    reseal(evil, files=files | {".w2w-commit/manifest.json": files[SHARD], "../../mine": files[SHARD]})
    seed(hub, evil, "org/people")
    reader = client()
    (reader.home / "mine").write_text("mine")
    found = reader.run(
        OPEN
        + """
import huggingface_hub as h
from w2w_hub.release import pin
from w2w_hub.release import diff
h.snapshot_download("org/people", repo_type="dataset", local_dir="a/people")
names = ("org/people@v1.0.0", "a/people")
out(told=[refused(call, *a)[0] for n in names for call, a in (
    (w2w_hub.WeightDataset.open, [n]), (diff, [n, n]), (lambda n: verify(n).raise_if_any(), [n]))])
out(pin=refused(pin, ["org/people@v1.0.0"])[0])
"""
    )
    assert [kind for i, kind in enumerate(found["told"]) if i != 5] == ["UnsafePathError"] * 5
    assert found["told"][5] == "CorruptFileError"  # a folder's report holds it as a problem
    assert found["pin"] == "UnsafePathError"
    assert (reader.home / "mine").read_text() == "mine"


@pytest.mark.slow
def test_an_answer_that_is_longer_slower_or_another_part_than_was_asked_for_is_given_up(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    sha256 = next(b.sha256 for n, b in hub.repos[("dataset", "org/people")].files("main").items() if n == SHARD)
    script = """
import time
import w2w_hub
from w2w_hub.store.hub import client, ranges, source, transfer
transfer.WINDOW_SECONDS, client.FIRST_WAIT = 0.3, 0.0
source.MAX_JSON_BYTES = ranges.WHOLE_BELOW = 1000
ranges.WHOLE_BELOW = 0
began = time.monotonic()
"""
    lazily = script + 'ds = w2w_hub.WeightDataset.open("org/people", revision="v1.0.0", lazy=True)\n'
    lazily = lazily.replace("source.MAX_JSON_BYTES = ranges.WHOLE_BELOW = 1000\n", "")
    with hub.counted() as requests:
        for kind in ("endless", "trickle", "shifted", "multipart"):
            fault = hub.fault(f"GET /cdn/{sha256}", kind, times=99)
            found = client().run(lazily + "out(told=refused(ds.__getitem__, 3), s=time.monotonic() - began)")
            fault.times = 0
            assert found["told"][0] in ("CorruptFileError", "HubError"), (kind, found["told"])
            assert found["s"] < 20, kind
        fault = hub.fault(f"GET /cdn/{sha256}", "whole", times=99)
        found = client().run(lazily + "out(row=ds[3].tolist())")
        fault.times = 0
        assert found["row"] == client().run(lazily + "out(row=ds[3].tolist())")["row"]
        whole = script + 'out(told=refused(w2w_hub.WeightDataset.open, "org/people", revision="v1.0.0", lazy=False))'
        for pattern in (".*/resolve/.*/manifest.json", f"/cdn/{sha256}"):
            fault = hub.fault(f"GET {pattern}", "endless", times=99, skip=0)
            told = client(pattern[:5].strip("./*")).run(whole)["told"]
            fault.times = 0
            assert told[0] == "CorruptFileError", told
    assert max(r.sent for r in requests) < 1 << 26


def test_marks_of_what_was_verified_are_all_that_reading_writes_and_a_read_only_cache_does_without(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    reader = client()
    reader.run(OPEN + 'out(sum=load(), report=verify("org/people@v1.0.0").ok)')
    repository = reader.cache / "datasets--org--people"
    before = {p: os.lstat(p).st_mtime_ns for p in repository.rglob("*")}
    reader.run(OPEN + 'out(sum=load(), report=verify("org/people@v1.0.0").ok)', HF_HUB_OFFLINE="1")
    assert {p: os.lstat(p).st_mtime_ns for p in repository.rglob("*")} == before
