"""Every part of a path and every half of a limit by itself: each is refused though all others are right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.store.test_names_and_manifests import a_snapshot
from tests.store.test_states import OLD, fill
from w2w_hub.errors import CorruptFileError, UnsafePathError, UnsupportedFormatError
from w2w_hub.store.byte_source import LocalFiles
from w2w_hub.store.commit import next_state, open_state
from w2w_hub.store.manifest import DATASET, FILENAME, SPACE, seal
from w2w_hub.store.parquet import parquet_file, read_table
from w2w_hub.store.paths import find_file, read_file
from w2w_hub.store.verify import Report, check_files, open_to_check

HASH = "ab" + "0" * 62


# ---------------------------------------------------------------- the Hub's cache
def with_a_link(tmp_path: Path) -> tuple[Path, Path]:
    """A snapshot whose file is a link to a blob, and another whose blob is one of the store of all repositories."""
    root, repository = a_snapshot(tmp_path / "cache")
    shared = tmp_path / "cache" / "blobs" / "ab"
    shared.mkdir(parents=True)
    (shared / HASH).write_bytes(b"shared")
    (repository / "blobs" / "xet").symlink_to(shared / HASH)
    (root / "plain").symlink_to(repository / "blobs" / "etag")
    (root / "xet").symlink_to(repository / "blobs" / "xet")
    assert (read_file(root, "plain", 9), read_file(root, "xet", 9)) == (b"blob", b"shared")
    return root, repository


SHARED = {"models--a--b/blobs": ("plain", "xet"), "blobs": ("xet",), "blobs/ab": ("xet",), f"blobs/ab/{HASH}": ("xet",)}


@pytest.mark.parametrize(("part", "names"), SHARED.items())
def test_no_folder_on_the_way_to_a_blob_may_be_a_link(tmp_path, part, names):
    root, _ = with_a_link(tmp_path)
    place = tmp_path / "cache" / part
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    for name in ("plain", "xet"):
        if name in names:
            with pytest.raises(UnsafePathError):
                find_file(root, name)
        else:
            assert read_file(root, name, 9) == b"blob"


# ---------------------------------------------------------------- Parquet
def test_a_file_of_few_long_values_is_refused_by_its_pages(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [bytes(1 << 26)]}), tmp_path / "f", compression="zstd")
    with pytest.raises(CorruptFileError), parquet_file(tmp_path / "f", 1):
        pass
    pq.write_table(pa.table({"a": pa.array([os.urandom(1 << 20)])}), tmp_path / "f")
    with parquet_file(tmp_path / "f", 1) as found:
        assert found.metadata.num_rows == 1


def test_the_batches_of_a_table_are_counted_together(tmp_path):
    """No batch of a file is too large by itself, but all of them are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for rows, good in ((20_000, True), (60_000, False)):
        texts = [f"{i % 7}" * 1000 for i in range(rows)]
        pq.write_table(pa.table({"a": texts}), tmp_path / "f", compression="zstd")
        if good:
            assert read_table(tmp_path / "f", ["a"], rows).num_rows == rows
        else:
            with pytest.raises(CorruptFileError):
                read_table(tmp_path / "f", ["a"], rows)


# ---------------------------------------------------------------- parts of files
@pytest.mark.parametrize("most", [1, 2, 7, 10**6])
def test_a_part_of_a_file_is_whole_however_little_the_system_reads_at_once(tmp_path, monkeypatch, most):
    data = bytes(range(256))
    (tmp_path / "f").write_bytes(data)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, parts, at: preadv(descriptor, [parts[0][:most]], at))
    files = LocalFiles(tmp_path)
    for start, stop in ((0, 256), (0, 0), (3, 29), (255, 256)):
        assert files.read("f", start, stop) == data[start:stop]
    with pytest.raises(CorruptFileError):
        files.read("f", 250, 257)
    files.close()


def test_a_mapped_file_that_became_shorter_is_refused_before_its_pages_are_touched(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(100)))
    files = LocalFiles(tmp_path)
    assert files.mapped("f").tolist() == list(range(100))
    os.truncate(tmp_path / "f", 99)
    with pytest.raises(CorruptFileError):
        files.mapped("f")
    os.truncate(tmp_path / "f", 101)
    assert files.mapped("f").size == 100


# ---------------------------------------------------------------- verification
def stored(folder: Path, form: str = DATASET, version: object = 1) -> Report:
    with next_state(folder) as staging:
        fill(staging, OLD)
    if (form, version) != (DATASET, 1):
        files = open_state(folder).data["files"]
        (folder / FILENAME).write_bytes(seal({"format": form, "format_version": version, "files": files}))
    return Report(folder, deep=True)


KNOWN = {"format", "format_version", "files", "checksum"}


@pytest.mark.parametrize("change", ["none", "damaged", "without a checksum"])
@pytest.mark.parametrize(("form", "version"), [("w2w-other", 1), (DATASET, 99), (SPACE, 1)])
def test_an_unknown_format_is_damage_only_where_the_manifest_contradicts_its_checksum(tmp_path, form, version, change):
    report = stored(tmp_path / "d", form, version)
    raw = (tmp_path / "d" / FILENAME).read_bytes()
    if change == "damaged":
        (tmp_path / "d" / FILENAME).write_bytes(raw.replace(b'"size": 1', b'"size": 2'))
    elif change == "without a checksum":
        head = raw[: raw.rindex(b",")]
        (tmp_path / "d" / FILENAME).write_bytes(head + b"\n}\n")
    if change == "damaged":
        assert open_to_check(report, DATASET, KNOWN) is None
        assert report.broken == {FILENAME}
    else:
        with pytest.raises(UnsupportedFormatError):
            open_to_check(report, DATASET, KNOWN)
        assert report.ok


@pytest.mark.parametrize("deep", [False, True])
def test_files_that_are_not_bulk_are_hashed_always_and_bulk_only_deeply(tmp_path, deep):
    stored(tmp_path / "d")
    for name in ("a", "b/c"):
        (tmp_path / "d" / name).write_bytes(b"x")  # of the same size
    report = Report(tmp_path / "d", deep=deep)
    state = open_to_check(report, DATASET, KNOWN)
    assert state is not None
    check_files(report, state, lambda name: name.startswith("b/"))
    assert report.broken == ({"a", "b/c"} if deep else {"a"})
    assert report.files == len(OLD)
    assert report.bytes_hashed == sum(len(v) for k, v in OLD.items() if deep or not k.startswith("b/"))
