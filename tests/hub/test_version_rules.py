"""What a change of a dataset or weight space requires, against the rules written down once more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import WeightDataset, write_dataset
from w2w_hub.errors import InvalidInputError, MissingPathError, VersionError
from w2w_hub.release import diff
from w2w_hub.release.difference import compare
from w2w_hub.store.hub.locate import locate_either
from w2w_hub.store.hub.resolve import require_fields, require_tagged_version
from w2w_hub.store.hub.semver import (
    LEVELS,
    LONGEST,
    Change,
    Version,
    compare_common,
    compare_files,
    highest_level,
    is_version_tag,
    require_level,
)
from w2w_hub.store.hub.source import Source

from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

PRE = ((), ("alpha",), ("alpha", "1"), ("rc", "2"), ("rc", "10"), ("1",))
VERSIONS = [Version(*numbers, pre) for numbers in product((0, 1, 2), (0, 1), (0, 1)) for pre in PRE]


def key(version: Version) -> tuple[Any, ...]:
    """The order of semver.org, paragraph 11."""
    parts = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in version.pre]
    return (version.major, version.minor, version.patch), (0, parts) if parts else (1, [])


def test_the_order_is_the_one_of_semver_org() -> None:
    for first, second in product(VERSIONS, repeat=2):
        assert (first < second) == (key(first) < key(second))
        assert (first >= second) == (key(first) >= key(second))
        assert (first == second) == (key(first) == key(second))


def test_the_next_version_is_the_smallest_release_that_the_level_allows() -> None:
    releases = [Version(*numbers) for numbers in product(range(4), range(3), range(3))]
    for old, level in product(VERSIONS, LEVELS):
        assert old.next(level) == min(new for new in releases if old.allows(new, level)), (old, level)


def test_what_may_follow_is_what_the_rules_say() -> None:
    for old, new, level in product(VERSIONS, VERSIONS, LEVELS):
        core, then = key(old)[0], key(new)[0]
        if key(new) <= key(old):
            allowed = False
        elif then == core:
            allowed = True
        else:
            held = {"major": 1 if core[0] else 2, "minor": 2}.get(level, 3)  # numbers of which one has to rise
            allowed = then[:held] > core[:held]
        assert old.allows(new, level) == allowed, (old, new, level)


def test_a_tag_is_a_v_and_a_version_that_is_not_too_long() -> None:
    assert all(map(is_version_tag, ("v1.0.0", "v0.0.0-rc.1")))
    assert not any(map(is_version_tag, ("1.0.0", "v1.0", "vv1.0.0", "main", "v", "")))
    longest = "1.0.0-" + "a" * (LONGEST - 6)
    assert str(Version.parse(longest)) == longest
    for wrong in (longest + "a", None, 1, b"1.0.0", "1.0.0-a..b", "1.0.0-a.01", "1.0.0+build", "V1.0.0", "1.0.0\n"):
        with pytest.raises(VersionError):
            Version.parse(wrong)  # type: ignore[arg-type]
    assert Version.parse("1.0.0-0.a01").pre == ("0", "a01")
    assert Version.parse("v2.3.4-rc.1").tag == "v2.3.4-rc.1"


@given(st.lists(st.sampled_from(LEVELS), max_size=5))
def test_the_level_of_several_changes_is_the_highest_in_any_order(levels: list[str]) -> None:
    expected = LEVELS[max((LEVELS.index(level) for level in levels), default=0)]
    assert highest_level([Change(level, "x") for level in levels]) == expected


def test_a_version_that_is_too_low_or_says_too_little_names_the_one_after_the_newest() -> None:
    old = Version.parse("1.2.3")
    for new, level in (("1.2.3", "none"), ("1.1.0", "minor"), ("1.2.4", "minor"), ("1.3.0", "major")):
        with pytest.raises(VersionError) as refused:
            require_level(old, Version.parse(new), [Change(level, "the reason")] if level != "none" else [])
        assert str(refused.value).endswith(str(old.next(level)))
        assert ("the reason" in str(refused.value)) == (key(old) < key(Version.parse(new)))
    require_level(old, Version.parse("1.2.4"), [])


# ---------------------------------------------------------------- manifests
OLD: dict[str, Any] = {
    "format": "w2w-dataset", "format_version": 1, "name": "a", "licence": "mit", "layout": {"digest": "l", "size": 5},
    "compatibility": {"base_digest": "b", "initialisation": "i"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "levels"),
    [
        ({"base_digest": "b", "initialisation": "i"}, {"base_digest": "b", "initialisation": "j"}, ["major"]),
        ({"base_digest": "b", "initialisation": "i"}, {"base_digest": "b", "initialisation": "unknown"}, ["major"]),
        ({"base_digest": "b", "initialisation": "unknown"}, {"base_digest": "b", "initialisation": "i"}, ["minor"]),
        ({"base_digest": "b", "initialisation": None}, {"base_digest": "b", "initialisation": "i"}, ["minor"]),
        ({"initialisation": "i"}, {"base_digest": "b", "initialisation": "i"}, ["minor"]),
        ({"base_digest": "c", "initialisation": "i"}, {"base_digest": "b", "initialisation": "j"}, ["major", "major"]),
        ({"base_digest": "b", "base_model": "x"}, {"base_digest": "b", "base_model": "y"}, []),
    ],
)
def test_what_was_open_may_be_stated_and_what_was_stated_may_not_change(was: Any, now: Any, levels: list[str]) -> None:
    changes = compare_common(OLD | {"compatibility": was}, OLD | {"compatibility": now})
    assert [change.level for change in changes] == levels


def test_every_fact_that_manifests_share_is_compared_by_itself() -> None:
    other = {"name": "b", "licence": "cc0-1.0", "layout": {"digest": "m", "size": 5}, "format_version": 2}
    levels = {"name": "patch", "licence": "major", "layout": "major", "format_version": "major"}
    for fact, value in other.items():
        assert [c.level for c in compare_common(OLD, OLD | {fact: value})] == [levels[fact]]
        assert [c.level for c in compare_common(OLD | {fact: value}, OLD)] == [levels[fact]]
    assert sorted(c.level for c in compare_common(OLD, OLD | other)) == sorted(levels.values())
    open_licence = OLD | {"licence": "unknown"}
    assert [c.level for c in compare_common(open_licence, OLD)] == ["minor"]
    assert [c.level for c in compare_common(OLD, open_licence)] == ["major"]
    assert len(compare_common(OLD, OLD | other | {"format": "w2w-space"})) == 1
    assert compare_common(OLD, OLD | {"layout": {"digest": "l", "size": 6}}) == []


def test_a_file_that_is_new_gone_or_other_is_a_patch() -> None:
    def files(**digests: str) -> dict[str, Any]:
        return {"files": {name: {"sha256": digest, "size": len(name)} for name, digest in digests.items()}}

    same = files(a="1", b="2")
    assert compare_files(same, files(b="2", a="1")) == []
    for other, count in (
        (files(a="1"), 1),
        (files(a="1", b="2", c="3"), 1),
        (files(a="1", b="3"), 1),
        (files(c="1"), 3),
    ):
        for pair in ((same, other), (other, same)):
            (change,) = compare_files(*pair)
            assert change.level == "patch"
            assert change.text.startswith(f"{count} ")


# ---------------------------------------------------------------- datasets
@pytest.fixture
def rewritten(folders: Folders, tmp_path: Path) -> Callable[..., Source]:
    """The dataset again with other rows, labels or options."""
    people = WeightDataset.open(folders.people)

    def write(
        change: Callable[[pd.DataFrame], object] | None = None,
        rows: Callable[[np.ndarray], object] | None = None,
        **options: Any,
    ) -> Source:
        table, matrix = people.labels.reset_index(names="id"), np.array(people.to_numpy())
        if change is not None:
            changed = change(table)
            table = changed if isinstance(changed, pd.DataFrame) else table
        if rows is not None:
            rows(matrix)
        folder = tmp_path / f"written-{len(list(tmp_path.iterdir()))}"
        given_options = {"name": "people", "version": "1.0.0", "licence": "cc0-1.0", "parquet_view": False} | options
        write_dataset(
            matrix, folder, layout=people.layout, ids=people.ids, labels=table,
            compatibility=people.manifest.compatibility, **given_options,
        )  # fmt: skip
        return Source(folder)

    return write


def levels(old: Source, new: Source) -> list[str]:
    return [change.level for change in compare(old, new)[0]]


def test_each_change_of_a_dataset_has_its_level_in_both_directions(rewritten: Callable[..., Source]) -> None:
    plain = rewritten()
    named = rewritten(lambda t: t.assign(Hair=["red", "grey"] * (len(t) // 2)))
    assert (levels(plain, named), levels(named, plain)) == (["minor"], ["major"])  # no row counts as relabelled, too
    kind = rewritten(lambda t: t.assign(Beard=t["Beard"].map({True: 1.5, False: 0.25})))
    assert (levels(plain, kind), levels(kind, plain)) == (["major"], ["major"])
    relabelled = rewritten(lambda t: t.assign(Beard=[not t["Beard"][0], *t["Beard"][1:]]))
    assert levels(plain, relabelled) == ["minor"]
    both = rewritten(lambda t: t.assign(Beard=~t["Beard"].astype(bool), Hair="red"))
    assert sorted(levels(plain, both)) == ["minor", "minor"]
    other = rewritten(rows=lambda matrix: matrix.__setitem__((2, 0), 9))
    assert levels(plain, other) == ["major"]
    assert compare(plain, other)[1].changed == ["person-02"]  # type: ignore[union-attr]
    assert "major" in levels(plain, rewritten(dtype="float16"))
    assert any(change.text.startswith("stored as float16") for change in compare(plain, rewritten(dtype="float16"))[0])
    view = rewritten(parquet_view="float16")
    assert (levels(plain, view), levels(view, plain)) == (["patch"], ["patch"])
    assert levels(plain, rewritten(version="1.0.1")) == []
    renamed = rewritten(name="folk")
    assert levels(plain, renamed) == ["patch"]
    assert levels(plain, plain) == []


def test_rows_that_come_are_minor_and_rows_that_go_are_major(folders: Folders) -> None:
    people, more = Source(folders.people), Source(folders.more)
    assert levels(people, more) == ["minor"]
    assert levels(more, people) == ["major"]
    added = compare(people, more)[0][0].text
    assert added.startswith("10 rows")
    assert [f"person-{i}" in added for i in (60, 61, 62, 63)] == [True, True, True, False]
    assert "7 more" in added
    assert "..." not in compare(more, Source(folders.fewer))[0][0].text


def test_a_difference_names_the_first_as_old_and_the_second_as_new(folders: Folders) -> None:
    found = diff(folders.people, folders.more)
    assert (found.kind, found.level) == ("dataset", "minor")
    assert (found.old["version"], found.new["version"]) == ("1.0.0", "1.1.0")
    assert found.rows is not None
    assert found.rows.added == [f"person-{i}" for i in range(60, 70)]
    told = found.to_json()
    assert (told["old"], told["new"], told["added"]) == (found.old, found.new, found.rows.added)
    assert told["changes"] == [{"level": "minor", "text": found.changes[0].text}]
    space = diff(folders.space, folders.space)
    assert (space.kind, space.level, space.changes, space.rows) == ("space", "none", (), None)
    assert "added" not in space.to_json()
    mixed = diff(folders.people, folders.people).to_json()
    assert mixed["level"] == "none"
    changes, rows = compare(Source(folders.people), Source(folders.space))
    assert ([change.level for change in changes], rows) == (["major"], None)


def test_what_is_no_folder_of_ours_is_missing_or_said_to_be_wrong(tmp_path: Path, folders: Folders) -> None:
    with pytest.raises(MissingPathError):
        locate_either(tmp_path / "nowhere" / "deep" / "er")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPathError):
        locate_either(tmp_path / "empty")
    assert locate_either(folders.people).folder == folders.people
    assert locate_either(folders.space).folder == folders.space
    with pytest.raises(InvalidInputError):
        locate_either(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------- weight spaces
ENTRY = [{"sha256": digit * 64, "size": 1} for digit in "012"]


def test_each_change_of_a_weight_space_has_its_level(folders: Folders, tmp_path: Path) -> None:
    old, new = (shutil.copytree(folders.space, tmp_path / name) for name in ("old", "new"))
    manifest = json.loads((old / "manifest.json").read_text("utf-8"))
    files, recipe = manifest["files"], manifest["recipe"]

    def changed(before: dict[str, Any] | None = None, **after: Any) -> list[tuple[str, str]]:
        reseal(old, **(manifest | (before or {})))
        reseal(new, **(manifest | after))
        return [(change.level, change.text) for change in compare(Source(old), Source(new))[0]]

    def with_file(name: str, number: int = 1) -> dict[str, Any]:
        return {"files": files | {name: ENTRY[number]}}

    def only_levels(*arguments: Any, **options: Any) -> list[str]:
        return [level for level, _ in changed(*arguments, **options)]

    assert changed() == []
    ((level, text),) = changed(digest="e" * 64)
    assert (level, "another computation" in text, "another dataset" in text) == ("major", True, False)
    ((level, text),) = changed(digest="e" * 64, recipe=recipe | {"dataset_digest": "f" * 64})
    assert (level, "another computation" in text, "another dataset" in text) == ("major", False, True)
    ((level, text),) = changed(digest="e" * 64, k=5)
    assert f"{manifest['k']} -> 5" in text
    names = list(manifest["directions"])
    assert names
    ((level, text),) = changed(directions=[*names, "Hat"], **with_file("directions.json"))
    assert (level, "Hat" in text, names[0] in text) == ("minor", True, False)
    ((level, text),) = changed({"directions": [*names, "Hat"]}, directions=names)
    assert (level, "Hat" in text, names[0] in text) == ("major", True, False)
    assert only_levels(directions=["Hat"]) == ["major", "minor"]
    for name in ("directions.json", "directions.safetensors"):
        assert only_levels(**with_file(name)) == ["minor"]
    assert only_levels(**with_file("coefficients/more.parquet")) == ["minor"]
    assert only_levels(with_file("coefficients/more.parquet", 0), **with_file("coefficients/more.parquet")) == ["minor"]
    assert only_levels(digest="e" * 64, **with_file("coefficients/more.parquet")) == ["major"]
    assert only_levels(**with_file("previews/one.png")) == ["patch"]
    whole, bare = {"format_version": 2, "population": True}, {"format_version": 2, "population": False}
    assert only_levels(whole, **bare) == ["major"]
    assert only_levels(bare, **whole) == ["minor"]
    assert only_levels(bare, **bare) == only_levels(whole, **whole) == []
    assert only_levels(whole, **bare, **with_file("coefficients/more.parquet")) == ["major"]
    assert only_levels(**bare) == ["major", "major"]  # the format, too
    for name, expected in {
        "w2w_pipeline.json": "major", "model_index.json": "minor", "unet/config.json": "minor",
        "tokenizer/merges.txt": "minor", "unet/model.safetensors": "major", "text_encoder/model.bin": "major",
    }.items():  # fmt: skip
        assert only_levels(**with_file(name)) == [expected], name
        assert only_levels(with_file(name)) == [expected], name
        assert only_levels(with_file(name, 0), **with_file(name)) == [expected], name
    assert only_levels(files=files | {"unet/config.json": ENTRY[0], "unet/model.safetensors": ENTRY[0]}) == ["major"]
    assert only_levels(licence="other") == ["major", *(["patch"] if False else [])] or "major" in only_levels(
        licence="other"
    )


# ---------------------------------------------------------------- tags and fields
@pytest.mark.parametrize("stated", ["1.0.0", "v1.0.0"])
def test_a_versions_tag_leads_to_a_manifest_of_that_version(stated: str) -> None:
    require_tagged_version("v1.0.0", stated, "here")
    for free in ("main", "1.0.0", "0" * 40, "v1"):
        require_tagged_version(free, "2.0.0", "here")
    for wrong in ("1.0.1", "0.9.0", "1.0.0-rc.1", "nonsense", ""):
        with pytest.raises(ValueError, match="tag v1"):
            require_tagged_version("v1.0.0", wrong, "here")


def test_a_manifest_states_what_everything_relies_on(folders: Folders) -> None:
    for folder in (folders.people, folders.space):
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        assert require_fields(manifest, "here") == manifest["files"]
        for name in ("format", "version", "digest", "layout", "compatibility", "files"):
            for wrong in (
                {k: v for k, v in manifest.items() if k != name},
                manifest | {name: 3},
                manifest | {name: None},
            ):
                with pytest.raises(ValueError, match="here"):
                    require_fields(wrong, "here")
        for recipe in ([], "x", {"dataset_revision": "main"}, {"dataset_revision": None}):
            with pytest.raises(ValueError, match="recipe"):
                require_fields(manifest | {"recipe": recipe}, "here")
        require_fields(manifest | {"recipe": {"dataset_revision": {}}}, "here")


# ---------------------------------------------------------------- history
def test_a_log_has_an_untagged_head_first_and_then_the_versions_from_the_newest(
    hub: LoopbackHub, client: Callable[..., Client], folders: Folders, tmp_path: Path
) -> None:
    work, commits = shutil.copytree(folders.people, tmp_path / "work"), {}
    for version in ("1.9.0", "1.10.0-rc.1", "1.2.0", "1.10.0"):
        reseal(work, version=version)
        commits[version] = seed(hub, work, "org/people")

    def listed() -> list[dict[str, Any]]:
        return json.loads(client().w2w("log", "org/people", "--json").stdout)

    found = listed()
    assert [entry["version"] for entry in found] == ["1.10.0", "1.10.0-rc.1", "1.9.0", "1.2.0"]
    assert [entry["tag"] for entry in found] == ["v1.10.0", "v1.10.0-rc.1", "v1.9.0", "v1.2.0"]
    assert {entry["version"]: entry["commit"] for entry in found} == commits
    assert {entry["contents"] for entry in found} == {"60 rows"}
    assert len({entry["digest"] for entry in found} | {None}) == 2
    reseal(work, version="0.5.0")
    head = seed(hub, work, "org/people", tag=False)
    found = listed()
    assert [entry["tag"] for entry in found] == [None, "v1.10.0", "v1.10.0-rc.1", "v1.9.0", "v1.2.0"]
    assert (found[0]["version"], found[0]["commit"]) == ("0.5.0", head)
