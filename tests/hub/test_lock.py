"""Locks: pin, verify, rebuild, restore from any copy with the Hub gone, archive, cite."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from w2w_hub.errors import CorruptFileError, UnsupportedFormatError
from w2w_hub.release import read_lock

from .conftest import Client, Folders, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]

USE = """
import w2w_hub
ds = w2w_hub.WeightDataset.open("w2w.lock")
space = w2w_hub.WeightSpace.from_pretrained("w2w.lock")
rows = w2w_hub.load_dataset("w2w.lock", split="train")
by_tag = w2w_hub.WeightDataset.open("org/people", revision="v1.0.0", local_files_only=True)
out(people=str(ds.revision), space=str(space.revision), rows=len(rows), tag=str(by_tag.revision))
"""


@pytest.fixture
def locked(hub: LoopbackHub, client: MakeClient, folders: Folders) -> Client:
    """A machine that has pinned a space and its dataset, while main is further on."""
    seed(hub, folders.people, "org/people")
    seed(hub, folders.space, "org/space")
    seed(hub, folders.fewer, "org/people")
    writer = client("writer", "ann")
    done = writer.w2w("pin", "org/space@v1.0.0", "org/people@v1.0.0", "-o", "w2w.lock")
    assert done.status == 0, done.stderr
    return writer


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serve a folder as a plain web server does."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    def serve(folder: Path) -> str:
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_lock_says_what_was_used_and_nothing_about_who_used_it(
    hub: LoopbackHub, client: MakeClient, folders: Folders, locked: Client
) -> None:
    text = (locked.home / "w2w.lock").read_text()
    for secret in (*hub.tokens, str(locked.home), "ann", hub.url):
        assert secret not in text
    lock = read_lock(locked.home / "w2w.lock")
    people, space = lock.pins
    manifest = json.loads((folders.people / "manifest.json").read_text())
    assert (people.name, people.kind, people.digest) == ("org/people@v1.0.0", "dataset", manifest["digest"])
    assert people.commit == hub.repos[("dataset", "org/people")].tags["v1.0.0"]
    assert people.published == "2026-01-01"
    assert people.licence == "cc0-1.0"
    assert space.recipe["dataset_digest"] == manifest["digest"]
    assert space.base is None
    assert {"python", "numpy", "zarr", "w2w-hub"} <= lock.packages.keys()
    again = client("other").w2w("pin", "org/people@v1.0.0", "org/space@v1.0.0", "-o", "w2w.lock")
    assert again.status == 0, again.stderr
    assert (client("other").home / "w2w.lock").read_text() == text
    there = locked.w2w("pin", "org/people@v1.0.0", "-o", "w2w.lock")
    assert (there.status, "w2w.lock" in there.stderr) == (2, True)
    alone = locked.w2w("pin", "org/space@v1.0.0", "-o", "w2w.lock", "--replace")
    assert "dataset people" in alone.stderr  # which is not pinned


def test_a_lock_opens_verifies_and_rebuilds_what_it_pins(locked: Client) -> None:
    found = locked.run(USE + 'out(v=refused(w2w_hub.WeightDataset.open, "w2w.lock", revision="main"))')
    lock = read_lock(locked.home / "w2w.lock")
    assert found["people"] == f"org/people@{lock.pins[0].commit}"
    assert found["space"] == f"org/space@{lock.pins[1].commit}"
    assert found["rows"] == 50
    assert found["v"][0] == "InvalidInputError"
    verified = locked.w2w("verify", "w2w.lock", "--rebuild")
    assert verified.status == 0, verified.stderr
    assert [line.split()[:2] for line in verified.stdout.splitlines()] == [
        ["ok", "org/people@v1.0.0:"],
        ["ok", "org/space@v1.0.0:"],
        ["ok", "org/space@v1.0.0"],
    ]


def test_a_bit_that_rots_on_the_disk_is_found_and_the_next_load_repairs_it(locked: Client) -> None:
    assert locked.w2w("verify", "w2w.lock").status == 0
    file = next(locked.cache.glob("datasets--org--people/snapshots/*/weights.zarr/weights/c/0/0")).resolve()
    data, stat = bytearray(file.read_bytes()), file.stat()
    data[100] ^= 1
    file.write_bytes(data)
    import os

    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    rotten = locked.w2w("verify", "w2w.lock", "--json")
    assert rotten.status == 2
    checks = json.loads(rotten.stdout)
    assert [check["ok"] for check in checks] == [False, True]
    assert "weights.zarr/weights/c/0/0" in checks[0]["detail"]
    assert "1 of 2" in rotten.stderr
    locked.run(USE)
    assert locked.w2w("verify", "w2w.lock").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", ["bundle", "URL", "another cache", "the plain folders"])
def test_a_machine_that_never_saw_the_hub_restores_from_any_copy_and_works_offline(
    hub: LoopbackHub, client: MakeClient, folders: Folders, locked: Client, served: Callable[[Path], str], place: str
) -> None:
    bundle = locked.home / "bundle"
    if place in ("bundle", "URL"):
        archived = locked.w2w("archive", "w2w.lock", "-o", "bundle")
        assert archived.status == 0, archived.stderr
        checked = subprocess.run(
            ["sha256sum", "--quiet", "-c", "manifest-sha256.txt"], cwd=bundle, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        assert {p.name for p in bundle.iterdir()} == {
            "README.txt", "bag-info.txt", "bagit.txt", "data", "manifest-sha256.txt", "tagmanifest-sha256.txt"
        }  # fmt: skip
        assert {p.name for p in (bundle / "data").iterdir()} == {
            "CITATION.cff", "FORMAT.md", "datasets", "spaces", "w2w.lock"
        }  # fmt: skip
    elif place == "another cache":
        assert locked.w2w("restore", "w2w.lock").status == 0
    source = {
        "bundle": bundle,
        "URL": served(bundle) if place == "URL" else "",
        "another cache": locked.cache,
        "the plain folders": folders.people.parent,
    }[place]
    hub.stop()
    island = client("island")
    shutil.copy(locked.home / "w2w.lock", island.home)
    missing = island.w2w("restore", "w2w.lock")
    assert (missing.status, missing.stderr.count("\n")) == (2, 1)
    done = island.w2w("restore", "w2w.lock", "--from", source)
    assert done.status == 0, done.stderr
    assert [Path(line).is_dir() for line in done.stdout.splitlines()] == [True, True]
    found = island.run(USE, HF_HUB_OFFLINE="1")
    assert found["people"] == found["tag"]
    verified = island.w2w("verify", "w2w.lock", "--rebuild", HF_HUB_OFFLINE="1")
    assert verified.status == 0, verified.stdout
    stock = island.run(
        """
import huggingface_hub, datasets
path = huggingface_hub.snapshot_download("org/people", repo_type="dataset", revision="v1.0.0")
out(rows=len(datasets.load_dataset(path, split="test")))
""",
        HF_HUB_OFFLINE="1",
    )
    assert stock["rows"] == 10
    assert [line.partition(":")[0] for line in island.run("import subprocess")["stderr"].splitlines()] == []


def test_a_copy_that_is_not_what_was_pinned_is_refused_and_leaves_nothing_that_opens(
    hub: LoopbackHub, client: MakeClient, folders: Folders, locked: Client, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(folders.people, copies / "people")
    file = copies / "people" / "weights.zarr" / "weights" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    hub.stop()
    island = client("island")
    shutil.copy(locked.home / "w2w.lock", island.home)
    bad = island.w2w("restore", "w2w.lock", "--from", copies)
    assert bad.status == 2
    assert str(copies) in bad.stderr
    still = island.run('import w2w_hub\nout(ds=refused(w2w_hub.WeightDataset.open, "w2w.lock"))', HF_HUB_OFFLINE="1")
    assert still["ds"][0] == "HubNotFoundError"
    assert not list(island.home.rglob("*.partial"))
    other = island.w2w("restore", "w2w.lock", "--from", shutil.copytree(folders.more, tmp_path / "other"))
    assert (other.status, "org/people" in other.stderr) == (2, True)
    assert "nowhere" in island.w2w("restore", "w2w.lock", "--from", "nowhere").stderr
    assert "http://127.0.0.1:9" in island.w2w("restore", "w2w.lock", "--from", "http://127.0.0.1:9").stderr
    both = island.w2w("restore", "w2w.lock", "--from", folders.people.parent)
    assert both.status == 0, both.stderr


def test_a_commit_that_now_holds_something_else_is_not_what_the_lock_pins(
    hub: LoopbackHub, client: MakeClient, folders: Folders, locked: Client
) -> None:
    lock = json.loads((locked.home / "w2w.lock").read_text())
    lock["pins"][0]["commit"] = hub.repos[("dataset", "org/people")].branches["main"]
    reader = client("reader")
    (reader.home / "w2w.lock").write_text(json.dumps(lock))
    found = reader.run('import w2w_hub\nout(ds=refused(w2w_hub.WeightDataset.open, "w2w.lock"))')
    assert found["ds"][0] == "CorruptFileError"
    assert (found["ds"][2]["repo_id"], found["ds"][2]["name"]) == ("org/people", "manifest.json")


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (lambda lock: lock.update(format="x"), UnsupportedFormatError, "'x'"),
        (lambda lock: lock.update(format_version=2), UnsupportedFormatError, "pip install -U w2w-hub"),
        (lambda lock: lock["pins"][0].pop("digest"), CorruptFileError, "digest"),
        (lambda lock: lock["pins"][0].update(commit="main"), CorruptFileError, "'main'"),
        (lambda lock: lock["pins"][0].update(repo="../../etc"), CorruptFileError, "etc"),
        (lambda lock: lock.update(pins=5), CorruptFileError, "pins"),
        (lambda lock: lock["pins"][0].update(repo=3), CorruptFileError, "3"),
    ],
)
def test_a_damaged_lock_is_refused(
    locked: Client, change: Callable[[dict], object], kind: type[Exception], says: str
) -> None:
    path = locked.home / "w2w.lock"
    lock = json.loads(path.read_text())
    change(lock)
    path.write_text(json.dumps(lock))
    with pytest.raises(kind, match=re.escape(says)) as caught:
        read_lock(path)
    assert caught.value.path == path


def test_what_cannot_be_pinned_is_refused(client: MakeClient, folders: Folders, locked: Client) -> None:
    refusals = {
        ("pin", "people", "-o", "a.lock"): "w2w push",
        ("pin", str(folders.people), "-o", "a.lock"): "w2w push",
        ("pin", "org/people@v7", "-o", "a.lock"): "'v7'",
        ("verify", "nowhere.lock"): "nowhere.lock",
        ("restore", "nowhere.lock"): "w2w pin org/name@v1.0.0",
        ("verify", "org/people@v1.0.0", "--rebuild"): "--rebuild",
        ("archive", "w2w.lock", "-o", "w2w.lock"): "w2w.lock",
    }
    for words, says in refusals.items():
        done = locked.w2w(*words)
        assert done.status == 2, words
        assert says in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (locked.home / "a.lock").exists()


def test_citations_name_version_commit_and_digest(hub: LoopbackHub, locked: Client) -> None:
    people, space = read_lock(locked.home / "w2w.lock").pins
    bibtex = locked.w2w("cite", "org/people@v1.0.0").stdout
    assert bibtex.startswith("@misc{org-people-1-0-0,\n")
    for text in ("version   = {1.0.0}", "year      = {2026}", people.commit, people.digest, "author    = {{org}}"):
        assert text in bibtex
    cff = yaml.safe_load(locked.w2w("cite", "w2w.lock", "--format", "cff").stdout)
    assert (cff["cff-version"], cff["type"], cff["version"], cff["commit"]) == (
        "1.2.0",
        "dataset",
        "1.0.0",
        space.commit,
    )
    assert cff["license"] == "CC0-1.0"
    assert cff["identifiers"][0]["value"] == f"sha256:{space.digest}"
    assert [r["commit"] for r in cff["references"]] == [people.commit]
    assert str(cff["date-released"]) == "2026-01-01"


@pytest.mark.slow
def test_a_name_that_is_a_dataset_and_a_space_is_refused_until_one_is_named(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    commit, model = seed(hub, folders.people, "org/both"), seed(hub, folders.space, "org/both")
    seed(hub, folders.people, "org/people")
    seed(hub, folders.more, "org/both")
    reader = client()
    for words in (
        ("pin", "org/both@v1.0.0", "-o", "a.lock"),
        ("cite", "org/both@v1.0.0"),
        ("log", "org/both"),
        ("diff", "org/both@v1.0.0", "org/both@v1.1.0"),
        ("inspect", "org/both@v1.0.0"),
    ):
        done = reader.w2w(*words)
        assert done.status == 2, words
        assert "datasets/org/both" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (reader.home / "a.lock").exists()
    pinned = reader.w2w("pin", "datasets/org/both@v1.0.0", "models/org/both@v1.0.0", "-o", "a.lock")
    assert pinned.status == 0, pinned.stderr
    assert {(p.kind, p.name, p.commit) for p in read_lock(reader.home / "a.lock").pins} == {
        ("dataset", "org/both@v1.0.0", commit),
        ("space", "org/both@v1.0.0", model),
    }
    assert commit in reader.w2w("cite", "datasets/org/both@v1.0.0").stdout
    assert "weight space" in reader.w2w("cite", "models/org/both@v1.0.0").stdout
    assert "weight space" in reader.w2w("inspect", "models/org/both@v1.0.0").stdout
    assert "70 rows" in reader.w2w("log", "datasets/org/both").stdout
    assert "8 components" in reader.w2w("log", "models/org/both").stdout
    assert "10 added" in reader.w2w("diff", "datasets/org/both@v1.0.0", "datasets/org/both@v1.1.0").stdout
    assert commit in reader.w2w("cite", f"org/both@{commit}").stdout  # no two repositories share a commit
    assert "70 rows" not in reader.w2w("cite", "org/both@v1.1.0").stderr  # only the dataset has that version
    assert reader.w2w("cite", "org/both@v1.1.0").status == 0
    found = reader.run(
        """
import w2w_hub
out(rows=len(w2w_hub.WeightDataset.open("datasets/org/both", revision="v1.0.0")))
out(k=w2w_hub.WeightSpace.from_pretrained("models/org/both@v1.0.0").k)
out(wrong=refused(w2w_hub.WeightSpace.from_pretrained, "datasets/org/both"))
out(empty=refused(w2w_hub.WeightDataset.open, "org/both", revision=""))
"""
    )
    assert (found["rows"], found["k"]) == (60, 8)
    assert found["wrong"][0] == "InvalidInputError"
    assert (found["wrong"][2]["repo_id"], found["wrong"][2]["what"]) == ("org/both", "space")
    assert found["empty"][0] == "InvalidInputError"


def test_a_model_that_is_none_of_ours_does_not_put_a_dataset_of_its_name_in_doubt(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    commit = seed(hub, folders.people, "org/people")
    hub.tag(hub.create("model", "org/people", hub.token("org")), "v1.0.0", "main")
    hub.create("dataset", "org/space", hub.token("org"))
    seed(hub, folders.space, "org/space")
    reader = client()
    assert commit in reader.w2w("cite", "org/people@v1.0.0").stdout
    assert "60 rows" in reader.w2w("log", "org/people").stdout
    assert "8 components" in reader.w2w("log", "org/space").stdout
    assert reader.w2w("pin", "org/space@v1.0.0", "-o", "a.lock").status == 0


@pytest.mark.slow
def test_a_lock_that_somebody_edited_writes_nothing_elsewhere_and_does_not_verify(
    hub: LoopbackHub, client: MakeClient, folders: Folders, locked: Client, tmp_path: Path
) -> None:
    text, path = (locked.home / "w2w.lock").read_text(), locked.home / "w2w.lock"
    victim = tmp_path / "victim"
    victim.write_text("mine")
    base = {"repo": "org/base", "commit": "0" * 40, "files": {"model_index.json": {"size": 1}}}
    for change in (
        {"revision": str(victim)}, {"revision": "../x"}, {"revision": ["v1"]}, {"recipe": [1]}, {"licence": 3},
        {"repo": "/etc"}, {"commit": "0" * 40 + "\n"}, {"base": base}, {"base": {**base, "repo": 3}},
        {"manifest_sha256": "x" * 64},
    ):  # fmt: skip
        lock = json.loads(text)
        lock["pins"][0].update(change)
        path.write_text(json.dumps(lock))
        for words in (("restore", "w2w.lock", "--from", folders.people.parent), ("verify", "w2w.lock")):
            done = locked.w2w(*words)
            assert done.status == 2, change
            assert "w2w.lock" in done.stderr, change
    assert victim.read_text() == "mine"
    for change in ({"licence": "mit"}, {"version": "9.0.0"}, {"recipe": {"k": 1}}):
        lock = json.loads(text)
        lock["pins"][0].update(change)
        path.write_text(json.dumps(lock))
        done = locked.w2w("verify", "w2w.lock")
        assert (done.status, next(iter(change)) in done.stdout) == (2, True)


def test_a_lock_may_be_called_anything(locked: Client) -> None:
    (locked.home / "a#b").mkdir()
    shutil.copy(locked.home / "w2w.lock", locked.home / "a#b" / "pins")
    found = locked.run(
        'import w2w_hub\nout(one=len(w2w_hub.WeightDataset.open("a#b/pins")), '
        'two=len(w2w_hub.WeightDataset.open("a#b/pins#org/people")))'
    )
    assert (found["one"], found["two"]) == (60, 60)
    assert locked.w2w("verify", "a#b/pins").status == 0


def test_no_message_shows_a_password_in_an_address_or_a_token_that_cannot_be_sent(
    hub: LoopbackHub, client: MakeClient, locked: Client, served: Callable[[Path], str], tmp_path: Path
) -> None:
    with_password = served(tmp_path).replace("http://", "http://me:hunter2@")
    for place in (with_password, "http://me:hunter2@127.0.0.1:9/x"):
        done = client("island").w2w("restore", locked.home / "w2w.lock", "--from", place)
        assert done.status == 2
        assert "hunter2" not in done.stderr
    found = client("odd").run(
        r"""
import traceback, w2w_hub
from w2w_hub.release import push
def told(function, *args, **options):
    try:
        function(*args, **options)
    except w2w_hub.W2WError:
        return traceback.format_exc()
for token in ("hf_sec\x01ret", "hf_sec\nret", "hf_secr\xe9t", "hf_sec ret"):
    said = told(w2w_hub.WeightDataset.open, "org/people", revision="v1.0.0", token=token)
    said2 = told(push, sys.argv[1], "org/people", token=token)
    out(**{str(len(said)): [said, said2]})
""",
        locked.home,
    )
    for said in (text for key, pair in found.items() if key != "stderr" for text in pair if text):
        assert "hf_sec" not in said.replace("hf_sec\\", "hf_sec")
