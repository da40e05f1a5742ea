"""Names, walks, bounded reads, manifests and Parquet of strangers: both sides of each rule."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from w2w_hub.common.limits import MAX_JSON_VALUES
from w2w_hub.errors import CorruptFileError, MissingPathError, UnsafePathError, UnsupportedFormatError
from w2w_hub.store.manifest import (
    DATASET,
    LOCK,
    SPACE,
    has_right_checksum,
    parse_json,
    parse_manifest,
    read_json,
    require_files,
    seal,
    stated_format,
    upgraded,
)
from w2w_hub.store.parquet import parquet_file, read_table
from w2w_hub.store.paths import (
    find_file,
    has_file,
    is_name,
    list_files,
    make_parents,
    missing,
    open_regular,
    read_file,
    read_regular,
    remove_file,
    require_name,
    similar,
    walk,
)
from w2w_hub.store.verify import Report, check_files, check_manifest


# -------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a/b.c", True), (".hidden", True), ("a" * 255, True), ("a" * 256, False), ("é" * 127, True),
        ("é" * 128, False), ("/".join(["a" * 255] * 4), True), ("/".join(["a" * 255] * 4) + "/", False),
        ("/".join(["a" * 204] * 5), True), ("/".join(["a" * 204] * 5) + "b", False), ("a ", False), ("a /b", False),
        ("a.", False), ("a./b", False), ("..", False), ("a/../b", False), (".", False), ("", False), ("/a", False),
        ("a//b", False), ("a\\b", False), ("c:d", False), ("a\nb", False), ("a\0", False), (b"a", False), (None, False),
        (" a", True), ("a b", True), ("\u202ea", False),
    ],
)  # fmt: skip
def test_a_name_is_a_path_inside_its_folder_on_every_system(name, good, tmp_path):
    assert is_name(name) == good
    if good:
        assert require_name(name, "here") == name
        return
    for call in (require_name, lambda n, _: find_file(tmp_path, n), lambda n, _: make_parents(tmp_path, n)):
        with pytest.raises(UnsafePathError):
            call(name, "here")


ENTRY = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a", True), ("a/.w2w-next/b", True), (".w2w-commit/a", False), (".w2w-lock", False), (".w2w-x", False),
        ("manifest.json", False), ("Manifest.JSON", False), ("a/manifest.json", True), ("../a", False),
    ],
)  # fmt: skip
def test_a_manifest_lists_no_file_of_a_writers_own_and_not_itself(name, good):
    if good:
        assert require_files({name: ENTRY}, "m") == {name: ENTRY}
    else:
        with pytest.raises(UnsafePathError):
            require_files({"b": ENTRY, name: ENTRY}, "m")


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({"size": 0}, True), ({"size": 2**63 - 1}, True), ({"size": 2**63}, False), ({"size": -1}, False),
        ({"size": True}, False), ({"size": 1.0}, False), ({"size": "1"}, False), ({"size": None}, False),
        ({"sha256": "f" * 64}, True), ({"sha256": "F" * 64}, False), ({"sha256": "f" * 63}, False),
        ({"sha256": "f" * 65}, False), ({"sha256": "f" * 64 + "\n"}, False), ({"sha256": None}, False),
        ({"more": 1}, True),
    ],
)  # fmt: skip
def test_an_entry_has_a_size_and_a_sha256(change, good):
    files = {"a": ENTRY, "b": ENTRY | change}
    if good:
        assert require_files(files, "m") == files
    else:
        with pytest.raises(CorruptFileError, match="'b'"):
            require_files(files, "m")


@pytest.mark.parametrize("files", [None, [], "a", {"a": None}, {"a": []}, {"a": {}}, {"a": {"size": 1}}])
def test_what_is_not_a_table_of_files_is_refused(files):
    with pytest.raises(CorruptFileError):
        require_files(files, "m")


# --------------------------------------------------------------------- JSON
def test_json_is_taken_up_to_the_number_of_values_and_refused_beyond():
    def text(marks: int) -> bytes:  # two marks are the object's own
        return (
            b'{"a":"'
            + b"," * (marks // 4 - 2)
            + b":" * (marks // 4)
            + b"[" * (marks // 4)
            + b"{" * (marks // 4)
            + b'"}'
        )

    assert parse_json(text(MAX_JSON_VALUES), "it")
    with pytest.raises(CorruptFileError):
        parse_json(text(MAX_JSON_VALUES).replace(b'"}', b',"}'), "it")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_have_are_read_only_where_that_is_asked(value, tmp_path):
    raw = f'{{"a": {value}}}'.encode()
    with pytest.raises(CorruptFileError):
        parse_json(raw, "it")
    np.testing.assert_equal(parse_json(raw, "it", constants=True)["a"], float(value.replace("Infinity", "inf")))
    (tmp_path / "f").write_bytes(raw)
    np.testing.assert_equal(read_json(tmp_path / "f")["a"], float(value.replace("Infinity", "inf")))


@pytest.mark.parametrize("raw", [b'{"a": 1, "a": 1}', b'{"b": {"a": 1, "a": 2}}', b"[1]", b"1", b"\xff{}", b"{", b""])
def test_json_that_is_no_object_of_different_keys_is_refused(raw):
    with pytest.raises(CorruptFileError):
        parse_json(raw, "it")


# ----------------------------------------------------------------- manifests
def manifest(**more) -> dict:
    return {"format": DATASET, "format_version": 1, "files": {"a": ENTRY}} | more


def test_formats_and_versions_are_those_that_are_asked_for():
    assert parse_manifest(json.dumps(manifest()).encode(), "m")["files"] == {"a": ENTRY}
    assert parse_manifest(json.dumps(manifest(format=SPACE)).encode(), "m")["format"] == SPACE
    assert parse_manifest(json.dumps(manifest(format=LOCK)).encode(), "m", LOCK)["format"] == LOCK
    for wrong, formats in (
        (manifest(), (SPACE,)), (manifest(format=LOCK), ()), (manifest(format=None), ()), (manifest(format=[1]), ()),
        (manifest(format_version=2), ()), (manifest(format_version=0), ()), (manifest(format_version=True), ()),
        (manifest(format_version="1"), ()), (manifest(format_version=1.0), ()), (manifest(format_version=None), ()),
    ):  # fmt: skip
        with pytest.raises(UnsupportedFormatError):
            parse_manifest(json.dumps(wrong).encode(), "m", *formats)
    assert upgraded(manifest(), "m", SPACE, DATASET) == manifest()


ZEROS = {"checksum": "0" * 64}


@pytest.mark.parametrize(
    "more", [{}, {"a": ZEROS}, ZEROS, {"name": '"checksum": "' + "0" * 64 + '"'}, {"z": [ZEROS] * 2}]
)
def test_a_seal_is_right_until_any_byte_changes_whatever_the_fields_hold(more):
    raw = seal(manifest() | more)
    assert has_right_checksum(raw) is True
    assert {k: v for k, v in json.loads(raw).items() if k != "checksum"} == manifest() | {
        k: v for k, v in more.items() if k != "checksum"
    }
    assert list(json.loads(raw))[-1] == "checksum"
    assert seal(json.loads(raw)) == raw
    for i in range(len(raw)):
        changed = raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :]
        assert has_right_checksum(changed, {*manifest(), *more, "checksum"}) is not True


def test_a_manifest_without_a_checksum_states_none_and_one_whose_name_was_changed_is_wrong():
    known = {*manifest(), "checksum"}
    assert has_right_checksum(json.dumps(manifest()).encode(), known) is None
    renamed = seal(manifest()).replace(b'"checksum"', b'"chexksum"')
    assert has_right_checksum(renamed, known) is False
    assert has_right_checksum(renamed) is None
    for length, found in ((61, None), (62, False), (66, False), (67, None)):
        assert has_right_checksum(json.dumps(manifest(x="a" * length)).encode(), known) is found
    assert has_right_checksum(json.dumps(manifest()).encode(), known - {"files"}) is None


def test_the_kind_of_a_folder_or_file_is_its_format_if_it_is_one_of_ours(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest()), "utf-8")
    (tmp_path / "lock").write_text(json.dumps({"format": LOCK}), "utf-8")
    (tmp_path / "other").write_text(json.dumps({"format": "x"}), "utf-8")
    (tmp_path / "none").write_text("[", "utf-8")
    assert stated_format(tmp_path) == DATASET
    found = [stated_format(tmp_path / name) for name in ("lock", "other", "none", "missing")]
    assert found == [LOCK, None, None, None]


# -------------------------------------------------------------------- files
def test_a_file_is_read_up_to_its_limit_and_refused_one_byte_beyond(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    for read in (lambda n: read_file(tmp_path, "f", n), lambda n: read_regular(tmp_path / "f", n)):
        assert read(5) == read(6) == b"12345"
        with pytest.raises(CorruptFileError):
            read(4)


def test_a_folder_is_walked_in_the_order_of_names_and_links_are_told_not_followed(tmp_path):
    names = ["b/x", "b/a/y", "a", "c/z", "b.txt", "B", "c/y/deep/er"]
    for name in reversed(names):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"")
    (tmp_path / "d" / "c" / "link").symlink_to(tmp_path)
    (tmp_path / "d" / "aa").symlink_to("a")
    found = list(walk(tmp_path / "d"))
    assert [f.name for f in found if f.is_link] == ["aa", "c/link"]
    assert not any(f.is_file and f.is_link for f in found)
    assert [f.name for f in found] == ["B", "a", "aa", "b.txt", "b/x", "b/a/y", "c/link", "c/z", "c/y/deep/er"]
    assert list_files(tmp_path / "d") == sorted(names)


@pytest.mark.parametrize(("depth", "good"), [(32, True), (33, False)])
def test_a_folder_is_walked_to_its_depth(tmp_path, depth, good):
    folder = tmp_path.joinpath(*"d" * depth)
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(b"")
    if good:
        assert len(list(walk(tmp_path))) == 1
    else:
        with pytest.raises(CorruptFileError):
            list(walk(tmp_path))


def test_a_removed_file_takes_the_folders_that_it_leaves_empty_and_no_other(tmp_path):
    root = tmp_path / "d"
    for name in ("a/b/c/f", "a/g", "h"):
        make_parents(root, name) if root.is_dir() else (root.mkdir(), make_parents(root, name))
        (root / name).write_bytes(b"")
    remove_file(root, "a/b/c/f")
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) == ["a", "a/g", "h"]
    remove_file(root, "a/b/c/f")  # not there
    remove_file(root, "a")  # a folder
    remove_file(root, "a/g")
    remove_file(root, "h")
    assert root.is_dir()
    assert not list(root.iterdir())


@pytest.mark.parametrize("part", ["f", "a", "a/b"])
def test_no_part_of_a_path_may_be_a_link(tmp_path, part):
    root, outside = tmp_path / "d", tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    for folder in (outside, outside / "b", root / "a" / "b"):
        (folder / "f").write_bytes(b"x")
    name = {"f": "f", "a": "a/b/f", "a/b": "a/b/f"}[part]
    if part != "f":
        assert find_file(root, name)
        (root / part).rename(tmp_path / "away")
    (root / part).symlink_to(outside / "f" if part == "f" else outside if part == "a" else outside / "b")
    for call in (find_file, has_file, lambda r, n: read_file(r, n, 9)):
        with pytest.raises(UnsafePathError):
            call(root, name)
    if part != "f":
        for change in (make_parents, remove_file):
            with pytest.raises(UnsafePathError):
                change(root, name)
        with pytest.raises(UnsafePathError):
            make_parents(root, f"{part}/new/f")
    assert sorted(p.relative_to(outside).as_posix() for p in outside.rglob("*")) == ["b", "b/f", "f"]


def test_only_a_regular_file_is_opened_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to("f")
    os.close(open_regular(tmp_path / "link"))
    for path, follow, error in (
        ("pipe", True, UnsafePathError), ("link", False, UnsafePathError), ("", True, MissingPathError),
        ("missing", True, MissingPathError), ("f/x", True, MissingPathError), ("a\0b", True, MissingPathError),
    ):  # fmt: skip
        with pytest.raises(error):
            open_regular(tmp_path / path, follow=follow)
    with pytest.raises(UnsafePathError):
        find_file(tmp_path, "pipe")
    assert not has_file(tmp_path, "missing")


def a_snapshot(cache: Path, below: str = "") -> tuple[Path, Path]:
    """A repository in the Hub's cache with one blob, and the folder in its snapshot that is opened."""
    repository = cache / "models--a--b"
    root = repository / "snapshots" / "c" / below
    root.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "etag").write_bytes(b"blob")
    return root, repository


@pytest.mark.parametrize("below", ["", "unet", "unet/part"])
def test_in_the_hubs_cache_a_link_to_a_blob_of_the_same_repository_is_its_file(tmp_path, below):
    root, repository = a_snapshot(tmp_path, below)
    (root / "f").symlink_to(repository / "blobs" / "etag")
    assert read_file(root, "f", 9) == b"blob"
    (root / "gone").symlink_to(repository / "blobs" / "away")
    with pytest.raises(MissingPathError):
        find_file(root, "gone")


def test_in_the_hubs_cache_a_link_to_anything_else_is_refused(tmp_path):
    root, repository = a_snapshot(tmp_path)
    other = tmp_path / "models--a--c" / "blobs"
    (repository / "blobs" / "below").mkdir()
    (other / "ab").mkdir(parents=True)
    for path in (other / "etag", tmp_path / "etag", repository / "etag", repository / "blobs" / "below" / "f"):
        path.write_bytes(b"secret")
    (repository / "blobs" / "chain").symlink_to(other / "etag")
    for i, path in enumerate(
        [other / "etag", tmp_path / "etag", repository / "etag", repository / "blobs" / "below" / "f",
         repository / "blobs" / "chain", repository / "blobs" / "below"]
    ):  # fmt: skip
        (root / f"f{i}").symlink_to(path)
        with pytest.raises(UnsafePathError):
            find_file(root, f"f{i}")
    deep = root / "x" / "y" / "z"
    deep.mkdir(parents=True)
    (deep / "f").symlink_to(repository / "blobs" / "etag")
    with pytest.raises(UnsafePathError):
        find_file(deep, "f")


def test_with_xet_a_blob_may_be_a_link_into_the_store_that_repositories_share(tmp_path):
    root, repository = a_snapshot(tmp_path)
    shared = tmp_path / "blobs"
    for i, (folder, name, good) in enumerate(
        [("ab", "ab" + "0" * 62, True), ("cd", "ab" + "0" * 62, False), ("ab", "ab" + "0" * 61, False)]
    ):
        (shared / folder).mkdir(parents=True, exist_ok=True)
        (shared / folder / name).write_bytes(b"shared")
        (repository / "blobs" / f"x{i}").symlink_to(shared / folder / name)
        (root / f"f{i}").symlink_to(repository / "blobs" / f"x{i}")
        if good:
            assert read_file(root, f"f{i}", 9) == b"shared"
        else:
            with pytest.raises(UnsafePathError):
                find_file(root, f"f{i}")


# ------------------------------------------------------------------- Parquet
def test_a_small_file_of_many_equal_values_is_refused_whether_in_columns_or_row_groups(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one = pa.array(np.zeros(1_500_000, np.int64))
    for name, table, groups in (
        ("one", pa.table({"a": one}), 1), ("columns", pa.table(dict.fromkeys("abcd", one)), 1),
        ("groups", pa.table({"a": pa.concat_arrays([one] * 4)}), 4),
    ):  # fmt: skip
        size = len(table) // groups
        pq.write_table(table, tmp_path / name, row_group_size=size, compression="zstd", max_rows_per_page=size)
        assert (tmp_path / name).stat().st_size < 6_000
        if name == "one":
            with parquet_file(tmp_path / name, 1_500_000) as file:
                assert file.metadata.num_rows == 1_500_000
        else:
            with pytest.raises(CorruptFileError), parquet_file(tmp_path / name, None):
                pass


def test_long_texts_that_a_file_holds_once_are_refused_before_each_row_has_a_copy(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for rows, good in ((20, True), (60, False)):
        pq.write_table(pa.table({"a": ["x" * 1_000_000] * rows}), tmp_path / "f", compression="zstd")
        if good:
            assert read_table(tmp_path / "f", ["a"], rows).num_rows == rows
        else:
            with pytest.raises(CorruptFileError):
                read_table(tmp_path / "f", ["a"], rows)


def test_a_table_has_the_columns_that_are_asked_for_in_that_order_and_the_rows_that_are_stated(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"c": pa.array(range(3000)), "a": [str(i % 7) for i in range(3000)], "b": [0.5] * 3000})
    pq.write_table(table, tmp_path / "f")
    assert read_table(tmp_path / "f", ["a", "c"], 3000).equals(table.select(["a", "c"]))
    assert read_table(tmp_path / "f", ["b"], None, optional=["x", "c"]).equals(table.select(["b", "c"]))
    for columns, rows in ((["x"], 3000), (["a"], 2999), (["a"], 3001)):
        with pytest.raises(CorruptFileError):
            read_table(tmp_path / "f", columns, rows)
    pq.write_table(table.slice(0, 0), tmp_path / "empty")
    assert read_table(tmp_path / "empty", ["a", "c"], 0).schema == table.select(["a", "c"]).schema
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "twice")
    with pytest.raises(CorruptFileError):
        read_table(tmp_path / "twice", ["a"], 1)


# -------------------------------------------------------------- verification
def test_a_report_counts_hashes_and_names_exactly_what_is_there(tmp_path):
    from tests.store.test_states import fill
    from w2w_hub.store.commit import open_state

    files = {"a": b"1", "bulk/b": b"22", "bulk/c": b"333", "bulk/d": b"4444"}
    fill(tmp_path, files, card=b"card")
    (tmp_path / "extra").write_bytes(b"")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"2")
    (tmp_path / "bulk/b").write_bytes(b"23")
    (tmp_path / "bulk/c").write_bytes(b"33")
    (tmp_path / "bulk/d").unlink()
    for deep, hashed, wrong in ((False, 1, {"a", "bulk/c", "bulk/d"}), (True, 3, {"a", "bulk/b", "bulk/c", "bulk/d"})):
        report = Report(tmp_path, deep)
        check_files(report, open_state(tmp_path), lambda name: name.startswith("bulk/"))
        assert (report.files, report.bytes_hashed) == (4, hashed)
        assert report.broken == wrong
        assert report.unlisted == ["extra", "below/more"]
        assert report.to_json()["ok"] is report.ok is False
        with pytest.raises(CorruptFileError) as caught:
            report.raise_if_any()
        assert all(name in str(caught.value) for name in wrong)


def test_a_wrong_checksum_of_the_manifest_is_a_note_only_where_something_else_vouches_for_it(tmp_path):
    from tests.store.test_states import fill
    from w2w_hub.store.commit import open_state

    fill(tmp_path, {"a": b"1"})
    known = {"format", "format_version", "files"}
    right = Report(tmp_path, True)
    check_manifest(right, open_state(tmp_path), known, vouched=False)
    assert (right.problems, right.notes, right.not_checked) == ([], [], [])
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"size": 1', b'"size": 2'))
    for vouched in (True, False):
        report = Report(tmp_path, True)
        check_manifest(report, open_state(tmp_path), known, vouched=vouched)
        assert (report.broken == {"manifest.json"}) is not vouched
        assert len(report.notes) == vouched
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_bytes()).items() if k != "checksum"}), "utf-8")
    report = Report(tmp_path, True)
    check_manifest(report, open_state(tmp_path), known, vouched=False)
    assert (report.problems, report.notes, len(report.not_checked)) == ([], [], 1)


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("edted.json", "edited.json"),
        ("peple", "people"),
        ("EDITED.json", "edited.json"),
        ("others.json", None),
        (".other.json", ".others.json"),
    ],
)
def test_a_path_that_does_not_exist_is_reported_with_a_similar_one(tmp_path, asked, near):
    for name in ("edited.json", "people", "b.json", "\x1b[31m", ".peple.w2w-lock", ".others.json"):
        (tmp_path / name).touch()
    assert similar(tmp_path / asked) == (None if near is None else tmp_path / near)
    error = missing(tmp_path / asked, "make it")
    assert error.path == tmp_path / asked
    assert ("make it" in str(error)) == (near is None)
    assert similar(tmp_path / "no-folder" / asked) is None
