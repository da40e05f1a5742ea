"""What is published verifies: every way of publishing, in both modes, and what version 0.1.0 published."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_hub.store.manifest import has_right_checksum

from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]
ARCHIVE = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0"

SCRIPT = """
import w2w_hub
from w2w_hub import release
from w2w_hub.release import archive, pin, restore, verify, verify_lock

def push(what, repo, version=None):
    return release.push(what, repo, version=version).outcome

def facts(report):
    return [report.ok, [p.message for p in report.problems], report.notes]

def agree(*names):
    # verify, pin, verify the lock, archive it and restore it elsewhere: what each of them says
    lock, bundle = Path(f"{len(list(Path().glob('*.lock')))}.lock"), Path(f"bundle-{len(list(Path().glob('*.lock')))}")
    said = {"verify": [facts(verify(name)) for name in names]}
    pin(names, lock)
    said["lock"] = [[c.ok, c.detail, list(c.notes)] for c in verify_lock(lock)]
    archive(lock, bundle)
    elsewhere = Path(f"cache-{lock}")
    restore(lock, bundle, cache_dir=elsewhere)
    there = {"cache_dir": elsewhere, "local_files_only": True}
    said["restored"] = [[c.ok, c.detail, list(c.notes)] for c in verify_lock(lock, **there)]
    said["by name"] = [facts(verify(n, **there)) for n in names]
    return said
"""


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def published(hub: LoopbackHub, kind: str, name: str, tag: str) -> bytes:
    return hub.blobs[hub.repos[(kind, name)].files(tag)["manifest.json"].etag]


@pytest.mark.parametrize("mode", ["LFS", "Xet"])
def test_whatever_way_it_was_published_it_verifies_pins_restores_and_is_archived(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path, mode: str
) -> None:
    people, edited = (
        shutil.copytree(folders.people, tmp_path / "people"),
        shutil.copytree(folders.more, tmp_path / "more"),
    )
    reseal(people, version="0.1.0", added_by_a_later_version={"checksum": "0" * 64})
    (edited / "README.md").write_text("# Mine\n")
    space = shutil.copytree(folders.space, tmp_path / "space")
    manifest = json.loads((space / "manifest.json").read_text())
    manifest.pop("checksum", None)  # as 0.1.0 wrote weight spaces
    (space / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    before = [tree(folder) for folder in (people, edited, space)]
    ann = client("ann", "ann")
    if mode == "Xet":
        ann.extra["HF_HUB_DISABLE_XET"] = "0"
        for folder in (people, edited, space):  # the loopback Hub cannot read back what Xet sends
            hub.adopt(folder)
    found = ann.run(
        SCRIPT
        + """
people, edited, space = sys.argv[1:]
out(outcomes=[
    push(people, "org/people", "1.0.0"), push(people, "org/people", "1.0.0"), push(edited, "org/people"),
    push(space, "org/space"), push(space, "org/space", "1.0.1"), push(space, "org/space", "v1.0.1"),
])
lazy = w2w_hub.WeightDataset.open("org/people", revision="v1.0.0", cache_dir="lazy", lazy=True)
out(copied=push(lazy, "org/copy", "3.0.0"), same=push(lazy, "org/copy2"))
out(agree=agree("org/people@v1.0.0", "org/space@v1.0.1", "org/copy@v3.0.0"))
out(others=[facts(verify(n)) for n in ("org/people@v1.1.0", "org/space@v1.0.0", "org/copy2@v1.0.0")])
rows = [len(w2w_hub.WeightDataset.open("org/people", revision=v)) for v in ("v1.0.0", "v1.1.0")]
out(rows=rows, k=w2w_hub.WeightSpace.from_pretrained("org/space", revision="v1.0.1").k)
""",
        people,
        edited,
        space,
    )
    assert found["outcomes"] == ["published", "unchanged", "published", "published", "published", "unchanged"]
    assert (found["copied"], found["same"]) == ("published", "published")
    for what, said in {**found["agree"], "others": found["others"]}.items():
        assert all(ok for ok, *_ in said), (what, said)
        assert not any(notes for *_, notes in said), (what, said)
    assert (found["rows"], found["k"]) == ([60, 70], 8)
    assert [tree(folder) for folder in (people, edited, space)] == before
    for kind, name, tag in (
        ("dataset", "org/people", "v1.0.0"), ("dataset", "org/people", "v1.1.0"), ("dataset", "org/copy", "v3.0.0"),
        ("model", "org/space", "v1.0.0"), ("model", "org/space", "v1.0.1"),
    ):  # fmt: skip
        raw = published(hub, kind, name, tag)
        assert has_right_checksum(raw)
        assert json.loads(raw)["version"] == tag[1:]


def test_a_space_without_its_population_is_published_verified_pinned_restored_and_described(
    hub: LoopbackHub, client: MakeClient, tmp_path: Path
) -> None:
    found = client("ann", "ann").run(
        SCRIPT
        + """
from w2w_hub.release import diff
whole, bare = sys.argv[1:]
out(outcomes=[push(whole, "org/space", "1.0.0"), push(bare, "org/space", "2.0.0"), push(bare, "org/space", "2.0.0")])
out(agree=agree("org/space@v2.0.0"))
space = w2w_hub.WeightSpace.from_pretrained("org/space", revision="v2.0.0")
space.verify()
out(population=space.population is None, sampled=space.sample(1, seed=0)[0].history["space"].split("@")[0])
change = diff("org/space@v1.0.0", "org/space@v2.0.0")
out(level=change.level, changes=[c.level for c in change.changes])
again = w2w_hub.WeightSpace.from_pretrained("org/space", revision="v1.0.0")
out(back=again.without_population() == space or [again, space])
""",
        *sorted(ARCHIVE.parent.glob("space-format-*-with*")),
    )
    assert found["outcomes"] == ["published", "published", "unchanged"]
    assert found["population"]
    assert found["sampled"] == "org/space"
    assert found["level"] == "major"
    assert all(ok for said in found["agree"].values() for ok, *_ in said)


def test_what_0_1_0_published_under_another_version_verifies_with_one_note_where_a_commit_or_lock_vouches_for_it(
    hub: LoopbackHub, client: MakeClient, tmp_path: Path
) -> None:
    assert not has_right_checksum((ARCHIVE / "people" / "manifest.json").read_bytes())
    seed(hub, ARCHIVE / "people", "org/people")
    rotten = shutil.copytree(ARCHIVE / "people", tmp_path / "rotten")  # vouched for or not, only that is forgiven
    text = (rotten / "manifest.json").read_text().replace('"licence": "cc0-1.0"', '"licence": "cc0-1.1"')
    (rotten / "manifest.json").write_text(text.replace('"rows": 4', '"rows": 5'))
    folder = shutil.copytree(ARCHIVE / "people", tmp_path / "folder")
    reseal(folder, version="0.1.0")  # what its publisher has
    found = client("ann", "ann").run(
        SCRIPT
        + """
archive_lock, copy, folder, rotten = sys.argv[1:]
out(folder=facts(verify(folder)), plain=facts(verify(copy)))
out(rotten=facts(verify(rotten)))
out(agree=agree("org/people@v1.0.0"), again=push(folder, "org/people", "1.0.0"))
ds = w2w_hub.WeightDataset.open("org/people", revision="v1.0.0")
out(warned=warned(ds.verify)[1], quiet=warned(w2w_hub.WeightDataset.open, "org/people", revision="v1.0.0")[1])
restore(archive_lock, copy, cache_dir="from-lock")
out(lock=[[c.ok, list(c.notes)] for c in verify_lock(archive_lock, cache_dir="from-lock", local_files_only=True)])
out(next=push(folder, "org/people", "1.0.1"), right=facts(verify("org/people@v1.0.1")))
manifest = next(Path("from-lock").glob("*/snapshots/*/manifest.json"))
manifest.write_text(manifest.read_text().replace("people", "peopla"))
out(edited=facts(verify("org/people@v1.0.0", cache_dir="from-lock", local_files_only=True)))
""",
        ARCHIVE / "w2w.lock",
        ARCHIVE / "people",
        folder,
        rotten,
    )
    assert found["folder"][0]
    assert not found["plain"][0]  # nobody vouches for the bytes of a folder
    assert not found["rotten"][0]
    for what, said in found["agree"].items():
        assert [(ok, len(notes)) for ok, _, notes in said] == [(True, 1)], (what, said)
        assert "manifest.json" in said[0][2][0]
    assert len(found["warned"]) == 1
    assert found["quiet"] == []
    assert [(ok, len(notes)) for ok, notes in found["lock"]] == [(True, 1)]
    assert (found["again"], found["next"]) == ("unchanged", "published")
    assert found["right"] == [True, [], []]
    assert not found["edited"][0]


def test_a_space_is_published_without_its_people_who_stay_in_the_folder(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    folder = tmp_path / "space"
    shutil.copytree(folders.space, folder)
    assert (folder / "population_model.json").is_file()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = client("ann", "ann").run(
        """
from w2w_hub import WeightSpace, release
folder, people = sys.argv[1:]
def push(repo, **options):
    return release.push(folder, repo, **options).outcome
first = push("org/both", population=False, population_model=False)
again = push("org/both", population=False, population_model=False)
push("org/model", population_model=False)
try:
    release.push(people, "org/data", population=False)
except Exception as error:
    refused = [type(error).__name__, str(error.path)]
opened = {name: WeightSpace.open("org/" + name) for name in ("both", "model")}
whole = WeightSpace.open(folder)
out(first=first, again=again, refused=refused, digests=[s.digest == whole.digest for s in opened.values()],
    people={name: s.population is not None for name, s in opened.items()},
    models={name: s.population_model is not None for name, s in opened.items()})
""",
        folder,
        folders.people,
    )
    assert (found["first"], found["again"]) == ("published", "unchanged")
    assert found["refused"] == ["InvalidInputError", str(folders.people)]
    assert found["digests"] == [True, True]
    assert found["people"] == {"both": False, "model": True}
    assert found["models"] == {"both": False, "model": False}
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    sent = hub.repos[("model", "org/both")].files("main")
    assert not [name for name in sent if name.startswith(("coefficients/", "population_model."))]
