"""Version numbers and the rules that tie them to what changed."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import WeightDataset, write_dataset
from w2w_hub.errors import VersionError
from w2w_hub.release.difference import compare
from w2w_hub.store.hub.semver import LEVELS, Change, Version, compare_common, highest_level, require_level
from w2w_hub.store.hub.source import Source

from .conftest import Folders, reseal

numbers = st.integers(0, 20)
identifiers = st.one_of(st.integers(0, 30).map(str), st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True))
versions = st.builds(Version, numbers, numbers, numbers, st.lists(identifiers, max_size=3).map(tuple))


@given(versions)
def test_a_version_reads_back_as_it_is_written(version: Version) -> None:
    assert Version.parse(str(version)) == version == Version.parse(version.tag)


# the example of semver.org, paragraph 11
ORDERED = [
    "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
    "1.0.0", "2.0.0", "2.1.0", "2.1.1", "10.0.0",
]  # fmt: skip


def test_versions_are_ordered_as_semver_org_says() -> None:
    parsed = [Version.parse(text) for text in ORDERED]
    assert all(first < second for first, second in pairwise(parsed))


@given(versions, versions)
def test_of_two_versions_exactly_one_is_smaller_or_they_are_equal(first: Version, second: Version) -> None:
    assert (first < second) + (second < first) + (first == second) == 1


@given(versions, st.sampled_from(LEVELS))
def test_the_version_that_is_suggested_is_allowed(version: Version, level: str) -> None:
    assert version.allows(version.next(level), level)


@given(versions, versions, st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_what_a_large_change_allows_a_small_one_allows_too(old: Version, new: Version, one: str, two: str) -> None:
    small, large = sorted((one, two), key=LEVELS.index)
    if old.allows(new, large):
        assert old.allows(new, small)


@pytest.mark.parametrize(
    "text", ["", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "one", "1.0.0 ", "1.0.x", "१.0.0"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(VersionError) as caught:
        Version.parse(text)
    assert caught.value.name == text


@pytest.mark.parametrize(
    ("old", "new", "level", "allowed"),
    [
        ("1.2.3", "1.2.4", "patch", True),
        ("1.2.3", "1.2.4", "minor", False),
        ("1.2.3", "1.3.0", "minor", True),
        ("1.2.3", "1.3.0", "major", False),
        ("1.2.3", "2.0.0", "major", True),
        ("1.2.3", "3.0.0", "patch", True),
        ("0.2.3", "0.2.4", "major", False),
        ("0.2.3", "0.3.0", "major", True),
        ("1.2.3", "1.2.3", "none", False),
        ("1.2.3", "1.2.2", "none", False),
        ("1.2.3", "2.0.0-rc.1", "major", True),
        ("2.0.0-rc.1", "2.0.0-rc.2", "major", True),
        ("2.0.0-rc.1", "2.0.0", "major", True),
    ],
)
def test_a_change_needs_a_version_that_says_so(old: str, new: str, level: str, allowed: bool) -> None:
    changes = [Change("patch", "little"), Change(level, "much")] if level != "none" else []
    if allowed:
        require_level(Version.parse(old), Version.parse(new), changes)
    else:
        with pytest.raises(VersionError, match=re.escape(str(Version.parse(old).next(level)))) as caught:
            require_level(Version.parse(old), Version.parse(new), changes)
        assert caught.value.name == new


MANIFEST = {
    "format": "w2w-dataset", "format_version": 1, "name": "a", "licence": "mit", "layout": {"digest": "l", "size": 5},
    "compatibility": {"base_digest": "b", "initialisation": "i"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, "none"),
        ({"name": "b"}, "patch"),
        ({"licence": "cc0-1.0"}, "major"),
        ({"layout": {"digest": "m", "size": 6}}, "major"),
        ({"format_version": 2}, "major"),
        ({"format": "w2w-space"}, "major"),
        ({"compatibility": {"base_digest": "c", "initialisation": "i"}}, "major"),
        ({"compatibility": {"base_digest": None, "initialisation": "i"}}, "major"),
    ],
)
def test_what_any_two_manifests_can_differ_in_has_a_level(change: dict, level: str) -> None:
    assert highest_level(compare_common(MANIFEST, MANIFEST | change)) == level


def test_stating_what_was_left_open_is_a_minor_change() -> None:
    open_ended = MANIFEST | {"compatibility": {"base_digest": None, "initialisation": "unknown"}}
    assert highest_level(compare_common(open_ended, MANIFEST)) == "minor"


def test_a_row_in_another_split_and_another_embedded_base_are_major(folders: Folders, tmp_path: Path) -> None:
    people = WeightDataset.open(folders.people)
    table = people.labels.reset_index()
    table.loc[3, "split"] = "test" if table.loc[3, "split"] == "train" else "train"
    write_dataset(
        people.to_numpy(), tmp_path / "moved", layout=people.layout, ids=people.ids, labels=table, name="people",
        version="1.0.0", license="cc0-1.0", compatibility=people.manifest.compatibility,
    )  # fmt: skip
    changes, rows = compare(Source(folders.people), Source(tmp_path / "moved"))
    assert [change.level for change in changes] == ["major"]
    assert list(rows.relabelled) == [people.ids[3]]
    spaces = [shutil.copytree(folders.space, tmp_path / f"space-{i}") for i in range(4)]
    files = json.loads((spaces[0] / "manifest.json").read_text())["files"]
    entries = [{"sha256": digit * 64, "size": 1} for digit in "012"]
    base = "unet/diffusion_pytorch_model.safetensors"
    reseal(spaces[1], files=files | {base: entries[0]})
    reseal(spaces[2], files=files | {base: entries[1]})
    reseal(spaces[3], files=files | {base: entries[0], "w2w_pipeline.json": entries[2]})
    for old, new in ((1, 2), (0, 1), (1, 0), (1, 3), (3, 2)):
        changes, _ = compare(Source(spaces[old]), Source(spaces[new]))
        assert [change.level for change in changes] == ["major"], (old, new)
    assert compare(Source(spaces[1]), Source(spaces[1]))[0] == []
    for name, level in (("scheduler/scheduler_config.json", "minor"), ("text_encoder/model.bin", "major")):
        reseal(spaces[2], files=files | {name: entries[0]})
        assert [change.level for change in compare(Source(spaces[0]), Source(spaces[2]))[0]] == [level]
