"""States of a folder, with manifests of a few small files: what is read, moved, flushed, kept and refused."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub.errors import (
    AlreadyExistsError,
    BusyError,
    CorruptFileError,
    DiskError,
    InvalidInputError,
    UnsafePathError,
)
from w2w_hub.store import atomic
from w2w_hub.store.atomic import disk_error, new_folder, write_bytes
from w2w_hub.store.commit import COMMIT, NEXT, NOTES, next_state, open_state, read_state, repair
from w2w_hub.store.hashing import entry_of, sha256_file
from w2w_hub.store.locks import LOCK_FILE, writer_lock
from w2w_hub.store.manifest import CARD, DATASET, FILENAME, SPACE, seal

Files = dict[str, bytes]


def fill(folder: Path, files: Files, form: str = DATASET, card: bytes | None = None) -> None:
    """Files and their manifest, as a writer stages them."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if card is not None:
        (folder / CARD).write_bytes(card)
    listed = {name: entry_of(folder / name) for name in files}
    (folder / FILENAME).write_bytes(seal({"format": form, "format_version": 1, "files": listed}))


def held(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read(folder: Path) -> Files:
    state = open_state(folder)
    return {name: state.find(name).read_bytes() for name in state.data["files"]}


OLD: Files = {"a": b"1", "b/c": b"2", "b/d": b"3", "gone/e": b"4", "gone/f": b"5", "last": b"6"}
NEW: Files = {"a": b"1 new", "b/c": b"2", "n/e/w": b"7"}
GONE = OLD.keys() - NEW.keys()


def committed(folder: Path, staged: Files, moved: int = 0, form: str = DATASET) -> None:
    """The folder as a writer leaves it that is killed after its commit and `moved` moves."""
    fill(folder, OLD, card=b"old")
    (folder / "mine.txt").write_bytes(b"foreign")
    whole = folder.with_name("whole")
    whole.mkdir()
    fill(whole, NEW, form, card=b"new")
    commit = folder / COMMIT
    commit.mkdir()
    for name in [*staged, CARD, FILENAME]:
        (commit / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, commit / name)
    for name in [*staged, CARD][:moved]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(commit / name, folder / name)


@pytest.mark.parametrize("moved", range(4))
def test_a_committed_state_is_read_from_where_it_lies_and_repaired_to_nothing_else(tmp_path, moved):
    folder = tmp_path / "d"
    folder.mkdir()
    committed(folder, {k: NEW[k] for k in ("a", "n/e/w")}, moved)
    before = held(folder)
    assert read(folder) == NEW
    assert open_state(folder).unfinished
    assert held(folder) == before  # reading moves nothing
    assert repair(folder)
    after = held(folder)
    assert after.pop(FILENAME) == before[f"{COMMIT}/{FILENAME}"]
    assert after == NEW | {CARD: b"new", "mine.txt": b"foreign"}
    assert not (folder / "gone").exists()
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []
    assert not open_state(folder).unfinished
    assert not repair(folder)
    assert read(folder) == NEW


def test_a_committed_state_of_another_format_moves_nothing(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    committed(folder, NEW, form=SPACE)
    before = held(folder)
    with pytest.raises(CorruptFileError):
        repair(folder)
    assert held(folder) == before


def test_repair_removes_what_was_never_committed(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    fill(folder, OLD)
    (folder / NEXT).mkdir()
    (folder / NEXT / "half").write_bytes(b"x")
    assert not repair(folder)
    assert not (folder / NEXT).exists()
    assert read(folder) == OLD


names = st.sampled_from(["a", "b/c", "b/d", "e/f/g", "h", "b/i/j"])
some_files = st.dictionaries(names, st.binary(max_size=3), min_size=1)


@given(some_files, some_files, st.dictionaries(st.sampled_from(["x", "b/y"]), st.binary(max_size=2)))
@settings(max_examples=25, deadline=None)
def test_a_new_state_is_its_files_and_the_foreign_ones_and_nothing_else(tmp_path_factory, old, new, foreign):
    folder = tmp_path_factory.mktemp("d") / "d"
    with next_state(folder) as staging:
        fill(staging, old)
    assert read(folder) == old
    for name, data in foreign.items():
        write_bytes(folder / name, data)
    with next_state(folder, replace=True) as staging:
        staged = {k: v for k, v in new.items() if old.get(k) != v}
        fill(staging, new)
        for name in new.keys() - staged.keys():  # what stays need not be staged
            (staging / name).unlink()
    assert read(folder) == new
    found = held(folder)
    del found[FILENAME]
    assert found == new | foreign


def test_a_state_replaces_only_a_state_and_only_where_that_is_asked(tmp_path):
    folder = tmp_path / "d"
    with next_state(folder) as staging:
        fill(staging, OLD)
    with pytest.raises(AlreadyExistsError), next_state(folder):
        pass
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_bytes(b"x")
    with pytest.raises(AlreadyExistsError), next_state(other, replace=True):
        pass
    assert held(other) == {"mine": b"x"}


# ------------------------------------------------------------- interruptions
def interrupted(folder: Path, error: BaseException, **options: bool) -> Path:
    """The staging folder of a writer that had noted something and was ended by an error."""
    with pytest.raises((type(error), DiskError)), next_state(folder, replace=True, **options) as staging:  # noqa: PT012
        (staging / NOTES).mkdir(exist_ok=True)
        (staging / NOTES / "0.json").write_bytes(b"{}")
        (staging / "part").write_bytes(b"half")
        raise error
    return staging


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (KeyboardInterrupt(), True),
        (SystemExit(), True),
        (OSError(errno.ENOSPC, "full"), True),
        (ValueError(), False),
        (InvalidInputError("no"), False),
        (AlreadyExistsError("no"), False),
        (GeneratorExit(), False),
    ],
    ids=lambda v: type(v).__name__,
)
def test_only_an_interruption_or_a_full_disk_leaves_what_the_next_one_continues(tmp_path, error, kept, there):
    folder = tmp_path / "d"
    if there:
        folder.mkdir()
        fill(folder, OLD)
    assert not interrupted(folder, error).exists()
    assert interrupted(folder, error, resumable=True).exists() == kept
    with next_state(folder, replace=True, resumable=True) as staging:
        assert (staging / "part").exists() == kept
        fill(staging, NEW | ({"part": b"half"} if kept else {}))
    assert read(folder) == NEW | ({"part": b"half"} if kept else {})
    assert not [p for p in held(folder) if NOTES in p]


def test_what_was_left_is_not_continued_by_one_that_does_not_ask_or_where_a_link_lies_in_it(tmp_path):
    folder = tmp_path / "d"
    interrupted(folder, KeyboardInterrupt(), resumable=True)
    with next_state(folder) as staging:
        assert not list(staging.iterdir())
        fill(staging, OLD)
    staging = interrupted(folder, KeyboardInterrupt(), resumable=True)
    (tmp_path / "outside").write_bytes(b"secret")
    (staging / "link").symlink_to(tmp_path / "outside")
    with next_state(folder, replace=True, resumable=True) as again:
        assert not list(again.iterdir())
        fill(again, NEW)
    assert (tmp_path / "outside").read_bytes() == b"secret"


def test_a_full_disk_says_what_is_kept_only_if_something_is(tmp_path):
    def told(resumable: bool, noted: bool) -> str:
        error = OSError(errno.ENOSPC, "full")
        with pytest.raises(DiskError) as caught, next_state(tmp_path / "d", resumable=resumable) as staging:  # noqa: PT012
            if noted:
                (staging / NOTES).mkdir(exist_ok=True)
            raise error
        shutil.rmtree(staging, ignore_errors=True)
        return str(caught.value)

    assert told(True, True) != told(True, False) == told(False, True)


def test_a_quota_is_a_full_disk_and_another_error_is_not():
    full, quota, other = (str(disk_error("d", OSError(n, "x"))) for n in (errno.ENOSPC, errno.EDQUOT, errno.EIO))
    assert full == quota != other


# --------------------------------------------------------------------- lock
def test_one_writer_at_a_time_and_the_lock_is_gone_afterwards(tmp_path):
    folder = tmp_path / "d"
    for there in (False, True):
        with next_state(folder, replace=True) as staging:
            with pytest.raises(BusyError), writer_lock(folder):
                pass
            with pytest.raises(BusyError):
                repair(folder) if there else next_state(folder).__enter__()
            fill(staging, OLD)
        with writer_lock(folder):
            pass
        assert not [p.name for p in tmp_path.rglob("*") if LOCK_FILE in p.name]


@pytest.mark.parametrize("kind", ["link", "second name", "folder", "pipe"])
def test_a_lock_that_is_not_a_file_of_its_own_is_refused_and_what_it_names_stays(tmp_path, kind):
    folder = tmp_path / "d"
    folder.mkdir()
    fill(folder, OLD)
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    {
        "link": lambda: (folder / LOCK_FILE).symlink_to(mine),
        "second name": lambda: os.link(mine, folder / LOCK_FILE),
        "folder": lambda: (folder / LOCK_FILE).mkdir(),
        "pipe": lambda: os.mkfifo(folder / LOCK_FILE),
    }[kind]()
    with pytest.raises(UnsafePathError), next_state(folder, replace=True) as staging:
        fill(staging, NEW)
    assert mine.read_bytes() == b"precious"
    assert read(folder) == OLD


# ------------------------------------------------------------------ reading
def test_a_reader_that_was_overtaken_reads_the_state_that_is_there_now(tmp_path):
    folder = tmp_path / "d"
    with next_state(folder) as staging:
        fill(staging, OLD)
    seen = []

    def slow(state):
        seen.append(state.raw)
        if len(seen) == 1:
            with next_state(folder, replace=True) as staging:
                fill(staging, NEW)
        return {
            name: state.find(name).read_bytes() if (folder / name).exists() else None for name in state.data["files"]
        }

    assert read_state(folder, slow) == NEW
    assert len(seen) == 2


# --------------------------------------------------------------- durability
@pytest.fixture
def calls(monkeypatch):
    """Flushes and renames in their order: ("fsync", inode) and ("rename", from, to)."""
    found: list[tuple] = []
    monkeypatch.setattr(atomic, "DURABLE", True)
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def flushed(descriptor):
        found.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def moved(do):
        def call(source, target):
            found.append(("rename", Path(source), Path(target)))
            do(source, target)

        return call

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", moved(rename))
    monkeypatch.setattr(os, "replace", moved(replace))
    return found


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("way", ["a new state", "a new folder"])
def test_all_of_a_new_folder_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_end(tmp_path, calls, way):
    folder = tmp_path / "d"
    with (next_state if way == "a new state" else new_folder)(folder) as staging:
        fill(staging, OLD, card=b"card")
        calls.clear()
    (at,) = [i for i, call in enumerate(calls) if call[0] == "rename"]
    assert calls[at][2] == folder
    before, after = ({call[1] for call in part} for part in (calls[:at], calls[at + 1 :]))
    assert {inode(p) for p in [folder, *folder.rglob("*")]} <= before
    assert inode(tmp_path) in after


def test_a_changed_state_is_on_the_disk_before_each_step_that_relies_on_it(tmp_path, calls):
    folder = tmp_path / "d"
    with next_state(folder) as staging:
        fill(staging, OLD)
    with next_state(folder, replace=True) as staging:
        fill(staging, NEW)
        staged = {inode(p) for p in [staging, *staging.rglob("*")]}
        calls.clear()
    steps = [(i, call[2]) for i, call in enumerate(calls) if call[0] == "rename"]
    assert steps[0][1] == folder / COMMIT
    assert steps[-1][1] == folder / FILENAME
    assert {target for _, target in steps[1:-1]} == {folder / name for name in NEW}
    flushed = {i: call[1] for i, call in enumerate(calls) if call[0] == "fsync"}
    assert staged <= {n for i, n in flushed.items() if i < steps[0][0]}
    assert inode(folder) in {n for i, n in flushed.items() if steps[0][0] < i < steps[1][0]}
    moved = {n for i, n in flushed.items() if steps[-2][0] < i < steps[-1][0]}
    assert {inode((folder / name).parent) for name in NEW} <= moved
    assert inode(folder) in {n for i, n in flushed.items() if i > steps[-1][0]}


def test_nothing_is_flushed_where_that_is_turned_off(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(atomic, "DURABLE", False)
    with next_state(tmp_path / "d") as staging:
        fill(staging, OLD)
    write_bytes(tmp_path / "f", b"x")
    assert not [call for call in calls if call[0] == "fsync"]


def test_weights_in_every_folder_of_a_new_one_are_as_readable_as_the_rest(tmp_path):
    with new_folder(tmp_path / "d") as folder:
        (folder / "below" / "it").mkdir(parents=True)
        for name in ("a.safetensors", "below/it/b.safetensors", "c.json"):
            (folder / name).write_bytes(b"x")
            if name.endswith("s"):
                (folder / name).chmod(0o600)
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "d").rglob("*") if p.is_file()}
    assert len(modes) == 1
    assert modes != {0o600}


def test_the_entry_of_a_file_is_its_sha256_and_size(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert entry_of(tmp_path / "f") == {"sha256": sha256_file(tmp_path / "f"), "size": 3}
