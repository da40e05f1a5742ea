"""Parts of publishing and loading that need no Hub: cards, what is sent, the cache's files, bounded bodies, copies."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import WeightDataset, WeightSpace
from w2w_hub.common.limits import MAX_JSON_BYTES
from w2w_hub.errors import (
    CorruptFileError,
    HubError,
    HubNotFoundError,
    InvalidInputError,
    MissingPathError,
    UnsafePathError,
)
from w2w_hub.release.card import is_written, license_keys, published_card, rendered_body, title_of, with_metadata
from w2w_hub.release.copies import FolderCopy, UrlCopy, Wanted, copy_at
from w2w_hub.release.difference import diff
from w2w_hub.release.outgoing import IN_MEMORY, Outgoing, collect
from w2w_hub.release.verification import verify, verify_source
from w2w_hub.space.card import HubFacts
from w2w_hub.store.cards import join_card, split_card, with_facts
from w2w_hub.store.hub.cache import RepoCache, is_own_blob
from w2w_hub.store.hub.locate import locate, locate_either, split_kind, split_lock
from w2w_hub.store.hub.options import HubOptions
from w2w_hub.store.hub.ranges import WHOLE_BELOW, RangedFiles
from w2w_hub.store.hub.resolve import resolve_revision
from w2w_hub.store.hub.semver import Version
from w2w_hub.store.hub.source import ResolvedRevision, Source
from w2w_hub.store.hub.transfer import Pace, body, limited_bar
from w2w_hub.store.manifest import has_right_checksum

from .conftest import Folders, reseal

ONE, TWO = "1" * 40, "2" * 40


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


# ---------------------------------------------------------------- cards
def test_a_licence_that_the_hub_has_no_name_for_goes_as_other_with_its_name() -> None:
    assert license_keys("CC-BY-4.0") == {"license": "cc-by-4.0"}
    assert license_keys("openrail++") == {"license": "openrail++"}
    assert license_keys("unknown") == {"license": "unknown"}
    assert license_keys("My Own (1.0)") == {"license": "other", "license_name": "my-own-1.0"}
    assert license_keys("other") == {"license": "other", "license_name": "other"}
    assert license_keys("***") == {"license": "other", "license_name": "other"}


def test_what_the_hub_reads_is_ours_and_other_keys_of_a_card_stay() -> None:
    theirs = join_card(
        {"license": "mit", "license_name": "x", "language": "de", "tags": ["mine", "b"], "extra": 1}, "Text\n"
    )
    data, text = split_card(
        with_metadata(theirs, {"license": "cc0-1.0", "tags": ["a", "b"], "language": "en", "new": 2})
    )
    assert data == {"license": "cc0-1.0", "language": "de", "tags": ["mine", "b", "a"], "extra": 1, "new": 2}
    assert text.strip() == "Text"
    named = split_card(with_metadata(theirs, {"license": "other", "license_name": "own"}))[0]
    assert (named["license"], named["license_name"]) == ("other", "own")
    for odd in ("text", None, {"a": 1}):
        assert split_card(with_metadata(join_card({"tags": odd}, ""), {"tags": ["a"]}))[0]["tags"] == ["a"]
    for key in ("license", "size_categories", "configs", "base_model", "datasets"):
        assert split_card(with_metadata(join_card({key: "theirs"}, ""), {key: "ours"}))[0][key] == "ours"


def test_lines_that_still_state_old_facts_are_brought_up_to_date_and_no_others() -> None:
    before, after = "# A\n60 rows\nsame\nv1\nend\n", "# A\n70 rows\nsame\nv2\nnew\nend\n"
    assert with_facts("Mine\r\n60 rows\nv1\nend", before, "# A\n70 rows\nsame\nv2\nend\n") == "Mine\n70 rows\nv2\nend\n"
    assert with_facts("60 rows\nv1\n", before, after) == "70 rows\nv1\n"  # one line became two: nobody knows which
    assert with_facts("59 rows\n", before, after) == "59 rows\n"
    assert with_facts(before, before, before) == before
    for first in ("new\n", "new\nnewer\n", ""):  # wherever the line of the fact went
        assert with_facts(before, before, first + "# A\n61 rows\nsame\nv1\nend\n") == before.replace("60", "61")
        assert with_facts(before, first + before, "# A\n61 rows\nsame\nv1\nend\n") == before.replace("60", "61")


def test_a_published_card_opens_the_published_version_and_names_its_origins(folders: Folders, tmp_path: Path) -> None:
    people = shutil.copytree(folders.people, tmp_path / "people")
    manifest = json.loads((people / "manifest.json").read_text("utf-8"))
    card = published_card(people, manifest | {"version": "3.0.0"}, HubFacts("org/folk"))
    data, text = split_card(card)
    assert data["license"] == "cc0-1.0"
    assert '"org/folk", revision="v3.0.0"' in text
    assert 'open("people")' not in text
    assert "a folder: " not in text
    assert "models?dataset=dataset:org/folk" in text
    assert not is_written(people)
    assert 'revision="v1.0.0"' in rendered_body(people, manifest, HubFacts("org/folk"))
    (people / "README.md").write_text('---\nlanguage: de\n---\nMine: open("people")\n', "utf-8")
    assert is_written(people)
    own = published_card(people, manifest, HubFacts("org/folk"))
    assert split_card(own)[0]["language"] == "de"
    assert 'Mine: open("org/folk", revision="v1.0.0")' in own
    assert "Theirs" in published_card(people, manifest, HubFacts("org/folk"), own="Theirs\n")
    (people / "README.md").unlink()
    assert not is_written(people)
    assert title_of(people, manifest, "org/folk") == "folk"
    assert title_of(people, manifest | {"name": "Drawn people"}, "org/folk") == "Drawn people"
    assert "# Drawn people 1.0.0" in published_card(people, manifest, HubFacts("org/folk", "Drawn people"))

    space = shutil.copytree(folders.space, tmp_path / "space")
    manifest = json.loads((space / "manifest.json").read_text("utf-8"))

    there: dict[str, Any] = {"w2w_pipeline.json": {"sha256": "0" * 64, "size": 1}}

    def origins(config: dict[str, Any] | None, *, known: str | None = "org/base", **changes: Any) -> tuple[Any, Any]:
        (space / "w2w_pipeline.json").unlink(missing_ok=True)
        stated = manifest | changes
        if config is not None:
            (space / "w2w_pipeline.json").write_text(json.dumps(config))
            stated["files"] = manifest["files"] | there
        data = split_card(published_card(space, stated, HubFacts("org/space", base_model=known)))[0]
        return data.get("base_model"), data.get("datasets")

    recipe = manifest["recipe"] | {"dataset_revision": {"repo": "org/people", "commit": ONE, "revision": "v1"}}
    assert manifest["compatibility"]["base_model"] == "org/base"
    assert origins(None) == (["org/base"], None)
    assert origins(None, known=None) == (None, None)
    assert origins(None, recipe=recipe) == (["org/base"], ["org/people"])
    assert origins({"base_model": "lab/other"}) == (["lab/other"], None)
    assert origins({"base_model": "embedded"}) == (["org/base"], None)
    assert origins({"base_model": "embedded"}, known=None) == (None, None)
    assert origins({"base_model": "./here"}) == (None, None)
    text = published_card(space, manifest | {"files": manifest["files"] | there}, HubFacts("org/space"))
    assert 'from_pretrained("org/space", revision="v1.0.0")' in text
    assert 'from_pretrained(".")' not in text


# ---------------------------------------------------------------- what is sent
def test_what_is_sent_is_known_by_its_digest_in_memory_and_on_disk(tmp_path: Path) -> None:
    files = Outgoing({}, {}, Version(1, 0, 0))
    for size in (0, 5, IN_MEMORY, IN_MEMORY + 1):
        path = tmp_path / f"f{size}"
        path.write_bytes(bytes(size))
        files.add_file(path.name, path, sha256(bytes(size)))
        assert files.size(path.name) == size
        for same in (sha256(bytes(size)), git(bytes(size))):
            assert files.is_same(path.name, same)
            assert not files.is_same(path.name, same[::-1])
        assert not files.is_same(path.name, None)
        assert not files.is_same(path.name, sha256(b"other"))
        assert not files.is_same(path.name, git(b"other"))
        # a small one is sent as it was read; a large one must not change
        path.write_bytes(bytes(size) + b"x")
        if size <= IN_MEMORY:
            assert files.addition(path.name).upload_info.sha256.hex() == sha256(bytes(size))
        else:
            with pytest.raises(CorruptFileError):
                files.addition(path.name)
    assert files.names == ["f0", "f5", f"f{IN_MEMORY}", f"f{IN_MEMORY + 1}"]
    files.add(f"f{IN_MEMORY + 1}", b"now from memory")
    assert files.size(f"f{IN_MEMORY + 1}") == 15
    made = files.addition(f"f{IN_MEMORY + 1}")
    files.require_sent([made])
    (tmp_path / "small").write_bytes(b"other")
    with pytest.raises(CorruptFileError):
        files.add_file("small", tmp_path / "small", sha256(b"listed"))


def test_a_large_file_that_is_not_what_was_verified_when_it_was_sent_is_refused(tmp_path: Path) -> None:
    files, path = Outgoing({}, {}, Version(1, 0, 0)), tmp_path / "large"
    path.write_bytes(bytes(IN_MEMORY + 1))
    files.add_file("large", path, sha256(bytes(IN_MEMORY + 1)))
    made = files.addition("large")
    files.require_sent([made])
    right, made.upload_info.sha256 = made.upload_info.sha256, bytes(32)
    with pytest.raises(CorruptFileError):
        files.require_sent([made])
    made.upload_info.sha256 = right
    os.utime(path, ns=(0, 0))
    with pytest.raises(CorruptFileError):
        files.require_sent([made])


def test_a_folder_is_sent_whole_with_its_own_manifest_unless_the_version_is_another(
    folders: Folders, tmp_path: Path
) -> None:
    raw = (folders.people / "manifest.json").read_bytes()
    listed = json.loads(raw)["files"]
    for version in (None, "1.0.0", "v1.0.0"):
        found = collect(Source(folders.people), version)
        assert set(found.names) == {*listed, "manifest.json"}
        assert found.is_same("manifest.json", sha256(raw))
        assert str(found.version) == "1.0.0"
        assert all(found.is_same(name, entry["sha256"]) for name, entry in listed.items())
    other = collect(Source(folders.people), "1.0.1")
    assert not other.is_same("manifest.json", sha256(raw))
    assert (other.manifest["version"], other.local["version"]) == ("1.0.1", "1.0.0")
    assert has_right_checksum(other.addition("manifest.json").path_or_fileobj)
    unsealed = shutil.copytree(folders.people, tmp_path / "unsealed")
    manifest = json.loads(raw)
    manifest.pop("checksum", None)
    (unsealed / "manifest.json").write_text(json.dumps(manifest))
    assert has_right_checksum(collect(Source(unsealed), None).addition("manifest.json").path_or_fileobj)
    shard = next(name for name in listed if name.startswith("weights.zarr/weights/c/"))
    data = bytearray((unsealed / shard).read_bytes())
    data[-1] ^= 1
    (unsealed / shard).write_bytes(data)
    with pytest.raises(CorruptFileError):
        collect(Source(unsealed), None)
    with pytest.raises(MissingPathError):
        collect(Source(tmp_path / "none"), None)


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({"base_model": "org/base", "revision": ONE}, True), ({"base_model": "embedded"}, None),
        ({"base_model": "org/base", "revision": "main"}, False), ({"base_model": "org/base"}, False),
        ({"base_model": "base", "revision": ONE}, False), ({"base_model": 3, "revision": ONE}, False),
        ({"revision": ONE}, False), ({"base_model": "/models/base", "revision": ONE}, False),
        ({"base_model": "directions", "revision": None}, True),
    ],
)  # fmt: skip
def test_a_space_is_sent_only_if_its_base_model_is_found_again(
    stated: dict[str, Any], found: bool | None, folders: Folders, tmp_path: Path
) -> None:
    space = shutil.copytree(folders.space, tmp_path / "space")
    (space / "directions").mkdir()
    (space / "directions" / "note.txt").write_text("a folder inside of it")
    data = json.dumps(stated).encode()
    (space / "w2w_pipeline.json").write_bytes(data)
    manifest = json.loads((space / "manifest.json").read_text("utf-8"))
    reseal(space, files=manifest["files"] | {"w2w_pipeline.json": {"sha256": sha256(data), "size": len(data)}})
    if found:
        assert "w2w_pipeline.json" in collect(Source(space), None).names
    else:
        with pytest.raises(CorruptFileError if found is None else InvalidInputError):  # embedded, and not there
            collect(Source(space), None)


# ---------------------------------------------------------------- the cache
def cached(root: Path, repo: str = "org/people", kind: str = "dataset", commit: str = ONE) -> tuple[RepoCache, Path]:
    cache = RepoCache(repo, kind, root)
    folder = cache.own_snapshot(commit, make=True)
    (folder / "manifest.json").write_text("{}")
    return cache, folder


def test_the_cache_knows_what_was_resolved_and_finds_a_commit_by_its_beginning(tmp_path: Path) -> None:
    first = "abcdef0" + "1" * 33
    cache, _ = cached(tmp_path, commit=first)
    assert cache.folder == tmp_path / "datasets--org--people"
    assert RepoCache("org/x", "space", tmp_path).folder == RepoCache("org/x", "model", tmp_path).folder
    assert cache.refs() == {}
    assert cache.revisions() == [first]
    cache.remember("v1.0.0", first)
    cache.remember("refs/pr/1", TWO)  # whose files are not there
    cache.remember(TWO, TWO)
    cache.remember("../out", first)
    cache.remember("", first)
    assert cache.refs() == {"v1.0.0": first, "refs/pr/1": TWO}
    assert not (cache.folder / "out").exists()
    assert cache.commit("v1.0.0") == cache.commit(first) == first
    assert cache.commit("refs/pr/1") is cache.commit(TWO) is cache.commit("main") is None
    assert cache.revisions() == [f"v1.0.0 ({first[:12]})"]
    (cache.folder / "refs" / ".hidden").write_text(first)
    (cache.folder / "refs" / "damaged").write_text("x" * 40)
    (cache.folder / "refs" / "spaced").write_text(f"{first}\n")
    assert cache.refs() == {"v1.0.0": first, "refs/pr/1": TWO, "spaced": first}
    cache.remember("v1.0.0", TWO)
    assert cache.refs()["v1.0.0"] == TWO
    assert [cache.full_commit(first[:n]) for n in (6, 7, 39, 40)] == [first[:6], first, first, first]
    assert cache.full_commit("abcdefa") == "abcdefa"
    cached(tmp_path, commit="abcdef0" + "2" * 33)
    assert cache.full_commit("abcdef0") == "abcdef0"  # two begin so
    assert cache.full_commit("abcdef01") == first
    cache.remember("abcdef01", TWO)
    assert cache.full_commit("abcdef01") == "abcdef01"  # a branch of that name
    assert cache.revisions() == [f"spaced ({first[:12]})", "abcdef0" + "2" * 33]


def test_a_commits_folder_or_the_one_above_that_is_a_link_is_refused(tmp_path: Path) -> None:
    cache, folder = cached(tmp_path / "a")
    outside = shutil.move(folder, tmp_path / "outside")
    folder.symlink_to(outside)
    other, above = cached(tmp_path / "b")
    moved = shutil.move(above.parent, tmp_path / "moved")
    above.parent.symlink_to(moved)
    for one in (cache, other):
        with pytest.raises(UnsafePathError):
            one.own_snapshot(ONE)
        assert not one.is_cached(ONE)
        assert one.commit(ONE) is None


def test_a_file_is_hashed_once_and_again_after_any_change_or_when_forgotten(tmp_path: Path) -> None:
    cache, folder = cached(tmp_path)
    file, data = folder / "f", b"12345"
    file.write_bytes(data)
    entry = {"sha256": sha256(data), "size": 5}
    marks = cache.folder / ".w2w-verified"
    assert not cache.was_verified(file, entry["sha256"])
    for wrong in ({"sha256": entry["sha256"], "size": 4}, {"sha256": sha256(b"54321"), "size": 5}):
        assert not cache.is_verified(file, wrong)
    assert not marks.exists()
    assert cache.is_verified(file, entry)
    assert cache.was_verified(file, entry["sha256"])
    mark = marks / entry["sha256"]
    (marks / sha256(b"54321")).write_text(mark.read_text())
    assert cache.is_verified(file, {"sha256": sha256(b"54321"), "size": 5})  # not read again: the mark is what counts
    assert not cache.is_verified(file, {"sha256": sha256(b"54321"), "size": 6})
    cache.forget({"sha256": sha256(b"54321")})
    assert not cache.is_verified(file, {"sha256": sha256(b"54321"), "size": 5})
    cache.forget({"sha256": "0" * 64})
    before = file.stat()
    file.write_bytes(b"12346")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not cache.was_verified(file, entry["sha256"])
    assert not cache.is_verified(file, entry)
    twin = folder / "twin"
    twin.write_bytes(data)
    assert not cache.was_verified(twin, entry["sha256"])
    assert cache.is_verified(twin, entry)


def test_a_damaged_file_is_removed_with_its_blob(tmp_path: Path) -> None:
    cache, folder = cached(tmp_path)
    blob = cache.folder / "blobs" / sha256(b"right")
    blob.parent.mkdir()
    blob.write_bytes(b"wrong")
    (folder / "f").symlink_to(os.path.relpath(blob, folder))
    (folder / "g").write_bytes(b"plain")
    for name in ("f", "g", "none"):
        cache.remove(ONE, name)
    assert sorted(os.listdir(folder)) == ["manifest.json"]
    assert not blob.exists()


def test_a_blob_is_right_by_the_digest_that_its_name_promises(tmp_path: Path) -> None:
    cache, folder = cached(tmp_path)
    (cache.folder / "blobs").mkdir()
    for number, (name, data, right) in enumerate([
        (sha256(b"a"), b"a", True), (sha256(b"a"), b"b", False), (git(b"a"), b"a", True), (git(b"a"), b"b", False),
        ("other", b"a", None), (sha256(b"a")[:63], b"a", None), (git(b"")[::-1], b"", False),
    ]):  # fmt: skip
        blob = cache.folder / "blobs" / name
        blob.write_bytes(data)
        (folder / f"f{number}").symlink_to(os.path.relpath(blob, folder))
        assert is_own_blob(folder, f"f{number}") is right, (name, data)
    assert is_own_blob(folder, "manifest.json") is None


def test_offline_a_source_has_what_is_right_in_the_cache_and_names_what_is_not(tmp_path: Path) -> None:
    cache, folder = cached(tmp_path)
    (folder / "right").write_bytes(b"abc")
    (folder / "wrong").write_bytes(b"xyz")
    files = {name: {"sha256": sha256(b"abc"), "size": 3} for name in ("right", "wrong", "gone")}
    revision = ResolvedRevision("org/people", "dataset", "v1.0.0", ONE)
    source = Source(folder, revision, files, HubOptions(None, tmp_path, True))
    assert [source.has(name) for name in ("right", "wrong", "gone", "unlisted")] == [True, False, False, False]
    assert source.need(["right"]) == source.need([]) == folder
    with pytest.raises(CorruptFileError):
        source.need(["right", "wrong"])
    with pytest.raises(HubNotFoundError) as missing:
        source.need(["gone"])
    assert (missing.value.what, missing.value.cached) == ("cache", (ONE,))
    with pytest.raises(HubNotFoundError) as unlisted:
        source.need(["unlisted"])
    assert unlisted.value.what == "file"
    source.need_card()  # asks nobody
    mine = Source(folder)
    assert mine.has("anything")
    assert mine.need(["anything"]) == folder
    mine.need_card()
    assert revision.to_json() == {"repo": "org/people", "revision": "v1.0.0", "commit": ONE}
    assert ResolvedRevision("a/b", "space", "main", TWO, "c/d").to_json()["repo"] == "c/d"
    assert str(revision) == f"org/people@{ONE}"
    # the revision as the cache has it
    options = HubOptions(None, tmp_path, local_files_only=True)
    assert resolve_revision("org/people", "dataset", ONE, options).commit == ONE
    assert resolve_revision("org/people", "dataset", ONE[:8], options).commit == ONE
    cache.remember("v1.0.0", ONE)
    found = resolve_revision("org/people", "dataset", "v1.0.0", options)
    assert (found.asked, found.commit, found.renamed) == ("v1.0.0", ONE, None)
    for asked, kind in (("main", "dataset"), (TWO, "dataset"), (ONE, "space")):
        with pytest.raises(HubNotFoundError) as away:
            resolve_revision("org/people", kind, asked, options)
        assert away.value.what == "cache"


# ---------------------------------------------------------------- names
def test_a_name_is_taken_apart_into_kind_lock_and_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_kind("datasets/org/x@v1") == ("dataset", "org/x@v1")
    assert split_kind("models/org/x") == ("space", "org/x")
    for bare in ("org/x", "datasets/x", "spaces/org/x", "models/org/x/y"):
        assert split_kind(bare) == (None, bare)
    monkeypatch.chdir(tmp_path)
    Path("a#b").write_text("")
    assert split_lock("w2w.lock#org/x") == ("w2w.lock", "org/x")
    assert split_lock("a#b") == ("a#b", None)
    assert split_lock("a#b#org/x") == ("a#b", "org/x")
    assert split_lock("w2w.lock") == ("w2w.lock", None)


def test_a_folder_has_no_revisions_and_a_name_states_one_kind_and_one_revision(
    folders: Folders, tmp_path: Path
) -> None:
    options = HubOptions(None, tmp_path, local_files_only=True)
    assert locate(folders.people, "dataset", options=options).revision is None
    for what, given_options in (
        (folders.people, {"revision": "v1.0.0"}), (tmp_path / "nowhere" / "at" / "all", {"revision": "main"}),
        ("org/x@v1.0.0", {"revision": "v1.0.0"}), ("org/x@v1.0.0", {"revision": "main"}), ("models/org/x", {}),
        ("org/x", {"revision": ""}), ("org/x", {"revision": " "}), ("org/x", {"revision": 3}),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            locate(what, "dataset", options=options, **given_options)
    with pytest.raises(HubNotFoundError):
        locate("datasets/org/x", "dataset", options=options)


def test_a_cached_version_is_opened_offline_by_tag_short_commit_and_either_kind(
    folders: Folders, tmp_path: Path
) -> None:
    cache = RepoCache("org/people", "dataset", tmp_path)
    folder = cache.snapshot(ONE)
    shutil.copytree(folders.people, folder)
    cache.remember("v1.0.0", ONE)
    cache.remember("v9.0.0", ONE)
    options = HubOptions(None, tmp_path, local_files_only=True)
    for what in ("org/people@v1.0.0", f"org/people@{ONE}", f"org/people@{ONE[:9]}", "datasets/org/people@v1.0.0"):
        source = locate_either(what, options=options)
        assert source.revision is not None
        assert (source.revision.commit, source.revision.kind, source.folder) == (ONE, "dataset", folder)
        assert set(source.files) == set(json.loads((folder / "manifest.json").read_text("utf-8"))["files"])
        assert not source.vouched
    assert locate("org/people", "dataset", revision="v1.0.0", options=options).revision.asked == "v1.0.0"  # type: ignore[union-attr]
    with pytest.raises(CorruptFileError):
        locate_either("org/people@v9.0.0", options=options)
    report = verify("org/people@v1.0.0", cache_dir=tmp_path, local_files_only=True)
    assert report.ok, report.problems
    with pytest.raises(HubNotFoundError):
        locate_either("models/org/people@v1.0.0", options=options)
    with pytest.raises(HubNotFoundError):
        locate_either("org/people@v1.0.0", kind="space", options=options)
    # what rots is found by hashing again, and hashed when it is needed next
    source = locate_either("org/people@v1.0.0", options=options)
    shard = next(name for name in source.files if name.startswith("weights.zarr/weights/c/"))
    mark = cache.folder / ".w2w-verified" / source.files[shard]["sha256"]
    assert mark.exists()
    data = bytearray((folder / shard).read_bytes())
    data[-1] ^= 1
    (folder / shard).write_bytes(data)
    assert not verify_source(source).ok
    assert not mark.exists()
    assert not verify_source(source, deep=False).ok


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("revision", [None, "v1.0.0"])
def test_a_folder_that_is_named_like_a_repository_is_mentioned_just_where_it_could_be_meant(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool, revision: str | None
) -> None:
    cache = RepoCache("org/people", "dataset", tmp_path / "cache")
    shutil.copytree(folders.people, cache.snapshot(ONE))
    for tag in ("main", "v1.0.0"):
        cache.remember(tag, ONE)
    monkeypatch.chdir(tmp_path)
    if is_folder:
        (tmp_path / "org" / "people").mkdir(parents=True)
    options = HubOptions(None, tmp_path / "cache", local_files_only=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        source = locate("org/people", "dataset", revision=revision, options=options)
    assert source.revision is not None
    assert len(told) == (is_folder and revision is None)


def test_folders_of_both_kinds_are_verified_as_deeply_as_asked(folders: Folders) -> None:
    for folder in (folders.people, folders.space):
        for options, deep in (({}, True), ({"deep": True}, True), ({"deep": False}, False)):
            report = verify(folder, **options)
            assert (report.ok, report.deep, not report.not_checked) == (True, deep, deep), (folder, options)


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_every_call_that_opens_a_version_passes_on_its_cache_revision_and_word_to_stay_offline(
    folders: Folders, tmp_path: Path, kind: str
) -> None:
    folder = {"dataset": folders.people, "space": folders.space}[kind]
    for place, tag in (("full", "v1.0.0"), ("other", "v2.0.0")):
        cache = RepoCache("org/it", kind, tmp_path / place)
        shutil.copytree(folder, cache.snapshot(ONE))
        cache.remember(tag, ONE)
    openers: dict[str, Any] = {"dataset": WeightDataset.open, "space": WeightSpace.from_pretrained}
    for opened in (partial(verify, local_files_only=True), partial(openers[kind], local_files_only=True)):
        assert opened("org/it@v1.0.0", cache_dir=tmp_path / "full") is not None
        with pytest.raises(HubError):
            opened("org/it@v1.0.0", cache_dir=tmp_path / "other")
    assert opened("org/it", revision="v1.0.0", cache_dir=tmp_path / "full") is not None
    with pytest.raises(HubError):
        opened("org/it", revision="v2.0.0", cache_dir=tmp_path / "full")


def test_a_difference_as_json_holds_all_that_differs(folders: Folders) -> None:
    found = diff(folders.people, folders.fewer)
    told = found.to_json()
    assert found.rows is not None
    assert set(told) == {"kind", "old", "new", "level", "changes"} | {f.name for f in fields(found.rows)}
    assert (told["kind"], told["level"], told["removed"]) == ("dataset", "major", found.rows.removed)
    assert [(change["level"], change["text"]) for change in told["changes"]] == [
        (c.level, c.text) for c in found.changes
    ]
    assert (told["old"]["version"], told["new"]["version"]) == ("1.0.0", "2.0.0")
    spaces = diff(folders.space, folders.space).to_json()
    assert (set(spaces), spaces["level"]) == ({"kind", "old", "new", "level", "changes"}, "none")


# ---------------------------------------------------------------- bounded bodies
class Answer:
    """A response of a server, as the client has it."""

    def __init__(self, *blocks: bytes, **headers: str):
        self.blocks, self.headers = blocks, {name.replace("_", "-"): value for name, value in headers.items()}
        self.taken = 0

    def iter_raw(self) -> Iterator[bytes]:
        for block in self.blocks:
            self.taken += 1
            yield block


@given(st.lists(st.binary(max_size=5), max_size=5), st.integers(0, 12))
def test_a_body_is_taken_up_to_its_limit_and_no_further(blocks: list[bytes], limit: int) -> None:
    whole, pace = b"".join(blocks), Pace("x", lambda: None)
    answer = Answer(*blocks)
    if len(whole) <= limit:
        assert b"".join(body(answer, pace, limit, "x")) == whole
        assert pace.received == len(whole)
    else:
        with pytest.raises(CorruptFileError):
            list(body(answer, pace, limit, "x"))
        taken = sum(map(len, answer.blocks[: answer.taken]))
        assert taken - len(answer.blocks[answer.taken - 1]) <= limit


def test_a_body_that_states_too_much_or_comes_packed_is_refused_before_it_is_read() -> None:
    pace = Pace("x", lambda: None)
    for headers in ({"Content_Length": "4"}, {"Content_Encoding": "gzip"}, {"Content_Encoding": " BR "}):
        answer = Answer(b"abc", **headers)
        with pytest.raises(CorruptFileError):
            list(body(answer, pace, 3, "x"))
        assert answer.taken == 0
    for headers in ({"Content_Length": "3"}, {"Content_Encoding": "Identity"}, {"Content_Length": "many"}, {}):
        assert b"".join(body(Answer(b"abc", **headers), pace, 3, "x")) == b"abc"


def test_a_download_ends_where_it_has_more_bytes_than_are_listed() -> None:
    bar = limited_bar(10, "x")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for total in (None, 0, 10):
            bar(total=total, file=nowhere).close()
        with pytest.raises(CorruptFileError):
            bar(total=11, file=nowhere)
        counted = bar(total=None, file=nowhere, name="huggingface_hub.http_get")
        counted.update(6)
        counted.update(4)
        with pytest.raises(CorruptFileError):
            counted.update(1)
        counted.close()
        other = bar(total=None, file=nowhere, name="huggingface_hub.xet_get")  # counts what crosses the network
        other.update(50)
        other.close()


def test_of_a_local_file_any_range_is_read_and_none_beyond_it(tmp_path: Path) -> None:
    data = bytes(range(256)) * 2000
    assert len(data) > WHOLE_BELOW
    (tmp_path / "f").write_bytes(data)
    files = RangedFiles(Source(tmp_path, files={"f": {"sha256": sha256(data), "size": len(data)}}))
    assert files.size("f") == len(data)
    assert not files.is_kept("f")
    for start, stop in ((0, 0), (0, 1), (5, 300), (len(data) - 1, len(data)), (len(data), len(data)), (0, len(data))):
        assert files.read("f", start, stop) == data[start:stop]
    assert files.is_kept("f")
    for start, stop in ((-1, 3), (4, 3), (0, len(data) + 1)):
        with pytest.raises(CorruptFileError):
            files.read("f", start, stop)
    with pytest.raises(HubNotFoundError):
        files.read("g", 0, 1)


# ---------------------------------------------------------------- copies
WANTED = Wanted("org/people", "dataset", ONE, "manifest.json", sha256(b"right"))


def test_a_copy_in_a_folder_is_known_by_the_digest_of_its_anchor(tmp_path: Path) -> None:
    for name, data in {"a": b"wrong", "b/c": b"right", "d": b"x" * 3}.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_bytes(data)
    (tmp_path / "b/c/f").write_bytes(b"12345")
    (tmp_path / "b/c/pipe").mkdir()
    copies = FolderCopy(tmp_path)
    found = copies.find(WANTED)
    assert found == tmp_path / "b/c"
    assert copies.find(Wanted("org/people", "dataset", ONE, "manifest.json", sha256(b"none"))) is None
    assert copies.find(Wanted("org/base", "model", ONE, "model_index.json", sha256(b"right"), 5)) is None
    into = io.BytesIO()
    assert copies.fetch(found, "f", 5, into) == sha256(b"12345")
    assert into.getvalue() == b"12345"
    with pytest.raises(CorruptFileError):
        copies.fetch(found, "f", 4)
    for name in ("none", "pipe"):
        with pytest.raises((MissingPathError, CorruptFileError)):
            copies.fetch(found, name, 4)
    with pytest.raises(MissingPathError):
        FolderCopy(tmp_path / "none")
    assert copy_at(tmp_path.as_uri()).shown == copy_at(str(tmp_path)).shown == copy_at(tmp_path).shown == str(tmp_path)
    assert (WANTED.folder, WANTED.limit) == (f"datasets/org/people/{ONE}", MAX_JSON_BYTES)
    assert Wanted("a/b", "space", ONE).folder == f"spaces/a/b/{ONE}"
    assert Wanted("a/b", "model", ONE, size=0).limit == 0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        (WANTED, f"data/datasets/org/people/{ONE}"), (WANTED, f"datasets/org/people/{ONE}"), (WANTED, "org/people"),
        (WANTED, f"datasets/org/people/resolve/{ONE}"), (WANTED, ""),
        (Wanted("org/s", "space", ONE, "manifest.json", sha256(b"right")), f"org/s/resolve/{ONE}"),
        (Wanted("org/b", "model", ONE, "model_index.json", sha256(b"right"), 5), f"data/models/org/b/{ONE}"),
    ],
)  # fmt: skip
def test_a_copy_on_a_web_server_is_looked_for_as_an_archive_a_plain_copy_and_a_mirror(
    wanted: Wanted, place: str, served: str, tmp_path: Path
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / wanted.anchor).write_bytes(b"right")
    (folder / "a #1?.bin").write_bytes(b"12345")
    copies = copy_at(f"http://ann:secret@{served}/")
    assert isinstance(copies, UrlCopy)
    try:
        assert "secret" not in copies.shown
        assert served in copies.shown
        found = copies.find(wanted)
        assert found is not None
        assert found.endswith(place or served)
        into = io.BytesIO(b"left from before, and longer")
        assert copies.fetch(found, "a #1?.bin", 5, into) == sha256(b"12345")
        assert into.getvalue() == b"12345"
        with pytest.raises(CorruptFileError):
            copies.fetch(found, "a #1?.bin", 4)
        with pytest.raises(HubNotFoundError) as caught:
            copies.fetch(found, "none", 4)
        assert caught.value.name == "none"
        assert copies.find(Wanted(wanted.repo, wanted.kind, ONE, wanted.anchor, sha256(b"other"), 5)) is None
    finally:
        copies.close()
