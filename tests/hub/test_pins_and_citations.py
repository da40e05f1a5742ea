"""Lock files and citations, made of pins in memory: what is written, found, refused and cited."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2w_hub.common.limits import MAX_FILES, MAX_JSON_BYTES
from w2w_hub.errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnknownNameError,
    UnsupportedFormatError,
)
from w2w_hub.release.cite import address, bibtex, citation_file, cite
from w2w_hub.store.hub.pins import BasePin, Lock, Pin, is_lock, read_lock

FILES = {"model_index.json": {"sha256": "3" * 64, "size": 7}}
PEOPLE = Pin("org/people", "dataset", "v1.0.0", "a" * 40, "1.0.0", "d" * 64, "e" * 64, "2026-01-02", "cc-by-4.0")
SPACE = Pin(
    "lab/space", "space", "main", "b" * 40, "2.1.0", "f" * 64, "9" * 64, None, "mit", {"dataset_digest": "d" * 64},
    BasePin("org/base", "c" * 40, "1" * 64, FILES),
)  # fmt: skip
PACKAGES = {"zarr": "3", "numpy": "2"}


def write(path: Path, lock: Lock) -> Path:
    path.write_text(json.dumps(lock.to_json()), "utf-8")
    return path


def test_a_lock_reads_back_sorted_and_without_what_is_empty(tmp_path: Path) -> None:
    twin = replace(SPACE, repo="org/people", base=None, recipe={})
    later = replace(PEOPLE, revision="v0.9.0")
    lock = Lock((twin, SPACE, PEOPLE, later), PACKAGES)
    told = lock.to_json()
    assert [(p["kind"], p["repo"], p["revision"]) for p in told["pins"]] == [
        ("dataset", "org/people", "v0.9.0"), ("dataset", "org/people", "v1.0.0"), ("space", "lab/space", "main"),
        ("space", "org/people", "main"),
    ]  # fmt: skip
    assert list(told["packages"]) == ["numpy", "zarr"]
    assert (told["format"], told["format_version"]) == ("w2w-lock", 1)
    assert set(told["pins"][3]) == {
        "repo", "kind", "revision", "commit", "version", "digest", "manifest_sha256", "licence",
    }  # fmt: skip
    read = read_lock(write(tmp_path / "x.lock", lock))
    assert read.pins == (later, PEOPLE, SPACE, twin)
    assert read.packages == PACKAGES
    assert read.to_json() == told


def test_a_pin_is_found_by_kind_and_by_a_name_that_means_just_one() -> None:
    path = Path("w2w.lock")
    newer = replace(PEOPLE, revision="v2.0.0", commit="7" * 40)
    lock = Lock((PEOPLE, SPACE, newer), {})
    assert lock.find("space", None, path) is SPACE
    assert lock.find("space", "lab/space", path) is SPACE
    assert lock.find("dataset", "org/people@v2.0.0", path) is newer
    assert lock.find("dataset", "org/people@v1.0.0", path) is PEOPLE
    for name in (None, "org/people"):
        with pytest.raises(InvalidInputError, match="several"):
            lock.find("dataset", name, path)
    for kind, name in (
        ("dataset", "lab/space"),
        ("space", "org/people"),
        ("space", "lab/space@v1.0.0"),
        ("dataset", "x"),
    ):
        with pytest.raises(UnknownNameError):
            lock.find(kind, name, path)
    with pytest.raises(UnknownNameError, match="nothing"):
        Lock((), {}).find("space", None, path)


SHA = "8" * 40


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "model"}, {"kind": "spaces"}, {"repo": "people"}, {"repo": "org/a/b"}, {"repo": "org/.."},
        {"repo": "a../b"}, {"repo": "org/péople"}, {"repo": 3}, {"commit": "a" * 39}, {"commit": "A" * 40},
        {"commit": "main"}, {"digest": 3}, {"licence": None}, {"licence": 4}, {"version": None}, {"revision": "a/../b"},
        {"revision": "/v1"}, {"revision": ""}, {"recipe": []}, {"published": 2026}, {"manifest_sha256": "e" * 63},
        {"manifest_sha256": "E" * 64}, {"base": {"repo": "base", "commit": SHA, "files": FILES}},
        {"base": {"repo": "a/..", "commit": SHA, "files": FILES}},
        {"base": {"repo": "org/base", "commit": "main", "files": FILES}},
        {"base": {"repo": "org/base", "commit": SHA, "files": {"../x": FILES["model_index.json"]}}},
        {"base": {"repo": "org/base", "commit": SHA, "files": {"x": {"sha256": "3", "size": 7}}}},
        {"base": {"repo": "org/base", "commit": SHA, "files": FILES, "digest": 1}},
        {"base": {"repo": 1, "commit": SHA, "files": FILES}},
    ],
)  # fmt: skip
def test_a_pin_with_one_bad_field_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    data = Lock((SPACE,), PACKAGES).to_json()
    data["pins"][0] |= change
    (tmp_path / "w2w.lock").write_text(json.dumps(data))
    with pytest.raises(CorruptFileError):
        read_lock(tmp_path / "w2w.lock")


def test_a_pin_may_leave_out_what_has_a_default_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "w2w.lock"
    for field in Lock((SPACE,), {}).to_json()["pins"][0]:
        data = Lock((SPACE,), PACKAGES).to_json()
        del data["pins"][0][field]
        path.write_text(json.dumps(data))
        if field in ("licence", "recipe", "base"):
            default = {"licence": "unknown", "recipe": {}, "base": None}[field]
            assert getattr(read_lock(path).pins[0], field) == default
        else:
            with pytest.raises(CorruptFileError):
                read_lock(path)
    for field in ("repo", "commit"):
        data = Lock((SPACE,), PACKAGES).to_json()
        del data["pins"][0]["base"][field]
        path.write_text(json.dumps(data))
        with pytest.raises(CorruptFileError):
            read_lock(path)
    data = Lock((SPACE,), PACKAGES).to_json()
    del data["pins"][0]["base"]["digest"]
    path.write_text(json.dumps(data))
    base = read_lock(path).pins[0].base
    assert base is not None
    assert (base.digest, base.files) == (None, FILES)
    for field in ("pins", "packages"):
        data = Lock((SPACE,), PACKAGES).to_json()
        del data[field]
        path.write_text(json.dumps(data))
        with pytest.raises(CorruptFileError):
            read_lock(path)


def test_a_lock_of_too_many_pins_or_another_format_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "w2w.lock", Lock((), {}).to_json()
    path.write_text(json.dumps(data | {"pins": [0] * (MAX_FILES + 1)}))
    with pytest.raises(CorruptFileError):
        read_lock(path)
    path.write_text(json.dumps(data | {"packages": {"numpy": None}}))
    with pytest.raises(CorruptFileError):
        read_lock(path)
    for change in ({"format": "w2w-space"}, {"format": None}, {"format_version": 99}):
        path.write_text(json.dumps(data | change))
        with pytest.raises(UnsupportedFormatError):
            read_lock(path)
    with pytest.raises(MissingPathError):
        read_lock(tmp_path / "none.lock")
    with pytest.raises(MissingPathError):
        read_lock(tmp_path)


def test_a_lock_is_told_by_its_content_or_when_damaged_by_its_name(tmp_path: Path) -> None:
    assert is_lock(write(tmp_path / "a.lock", Lock((), {})))
    assert is_lock(write(tmp_path / "named-otherwise.json", Lock((), {})))
    (tmp_path / "damaged.lock").write_text("{")
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "other.lock").write_text('{"format": "poetry"}')
    (tmp_path / "folder.lock").mkdir()
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with open(tmp_path / "large.lock", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    expected = {
        "damaged.lock": True, "damaged.json": False, "other.lock": False, "folder.lock": False, "none.lock": False,
        "large.json": False, "large.lock": True,
    }  # fmt: skip
    assert {name: is_lock(tmp_path / name) for name in expected} == expected


# ---------------------------------------------------------------- citations
def test_a_citation_states_who_what_which_and_where(tmp_path: Path) -> None:
    entry = bibtex([PEOPLE])
    for line in (
        "@misc{org-people-1-0-0,", "title     = {{people}, a dataset of LoRA adapters},", "author    = {{org}},",
        "year      = {2026},", "version   = {1.0.0},", "publisher = {Hugging Face},",
    ):  # fmt: skip
        assert line in entry
    url = f"https://huggingface.co/datasets/org/people/tree/{'a' * 40}"
    assert address(PEOPLE).endswith(f"/datasets/org/people/tree/{'a' * 40}")
    assert address(SPACE).endswith(f"/lab/space/tree/{'b' * 40}")
    assert "models" not in address(SPACE)
    assert url.rpartition("/datasets")[2] in entry
    assert "a" * 40 in entry.partition("note")[2]
    assert "d" * 64 in entry
    assert "year" not in bibtex([SPACE])
    assert "a weight space of LoRA adapters" in bibtex([SPACE])
    assert bibtex([PEOPLE, SPACE]).count("@misc{") == 2
    assert cite(write(tmp_path / "w2w.lock", Lock((PEOPLE, SPACE), {}))) == [PEOPLE, SPACE]


def test_what_tex_would_act_on_is_written_as_text_with_balanced_braces() -> None:
    for character in "_&%#$":
        entry = bibtex([replace(PEOPLE, version=f"1{character}0")])
        assert f"1\\{character}0" in entry
    for character in '{}\\~^<>|"':
        entry = bibtex([replace(PEOPLE, version=f"1{character}0")])
        line = next(line for line in entry.splitlines() if "version" in line)
        assert "\\text" in line
        assert character in "{}\\" or character not in line
        assert entry.count("{") == entry.count("}")
        depth = 0
        for letter in entry:
            depth += (letter == "{") - (letter == "}")
            assert depth >= 0


def test_a_citation_file_cites_the_first_space_and_refers_to_the_others_once() -> None:
    other = replace(SPACE, repo="lab/other", licence="My Licence")
    found = yaml.safe_load(citation_file([PEOPLE, SPACE, other]))
    assert found["cff-version"] == "1.2.0"
    assert found["title"].startswith("space,")
    assert [entry["title"].partition(",")[0] for entry in found["references"]] == ["other", "people"]
    assert [entry["type"] for entry in found["references"]] == ["data", "data"]
    assert (found["type"], found["version"], found["commit"]) == ("dataset", "2.1.0", "b" * 40)
    assert found["authors"] == [{"name": "lab"}]
    assert found["url"] == address(SPACE)
    assert found["identifiers"][0]["value"] == f"sha256:{'f' * 64}"
    assert (found["license"], found.get("date-released")) == ("MIT", None)
    people = found["references"][1]
    assert (people["license"], str(people["date-released"])) == ("CC-BY-4.0", "2026-01-02")
    assert "license" not in found["references"][0]
    alone = yaml.safe_load(citation_file([PEOPLE]))
    assert "references" not in alone
    assert alone["license"] == "CC-BY-4.0"
    assert yaml.safe_load(citation_file([replace(PEOPLE, licence="CC0-1.0")]))["license"] == "CC0-1.0"
