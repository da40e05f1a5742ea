"""What other processes do meanwhile, and file systems that lack locks, hard links or the flush of a folder."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.store.test_states import NEW, OLD, fill, read
from w2w_hub.errors import AlreadyExistsError, BusyError, CorruptFileError, DiskError
from w2w_hub.store import atomic, commit
from w2w_hub.store.atomic import new_folder, replaced, write_bytes
from w2w_hub.store.commit import next_state, read_state
from w2w_hub.store.locks import LOCK_FILE, writer_lock


def refusing(error: OSError, when: Callable[[Any], bool] = lambda _: True, kept: Any = None) -> Callable[..., Any]:
    """A call of the system that fails, or fails where `when` holds of its first argument."""

    def call(first: Any, *others: Any, **options: Any) -> Any:
        if when(first):
            raise error
        return kept(first, *others, **options)

    return call


# ---------------------------------------------------------------- destinations
THINGS: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda p: p.mkdir(),
    "a folder": lambda p: (p.mkdir(), (p / "theirs").write_bytes(b"theirs")),
    "a file": lambda p: p.write_bytes(b"theirs"),
    "a dangling link": lambda p: p.symlink_to("nowhere"),
}


def seen(path: Path) -> tuple[Any, ...]:
    found = os.lstat(path)
    data = path.read_bytes() if path.is_file() else sorted(p.name for p in path.iterdir()) if path.is_dir() else None
    return found.st_ino, found.st_mode, data


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("way", ["folder", "file", "file without hard links"])
def test_what_comes_to_the_destination_while_it_is_written_stays_as_it_is(tmp_path, monkeypatch, thing, way):
    path, before = tmp_path / "out", []

    def come() -> None:
        THINGS[thing](path)
        before.append(seen(path))

    if way == "folder":
        with pytest.raises(AlreadyExistsError) as caught, new_folder(path) as partial:  # noqa: PT012
            (partial / "ours").write_bytes(b"ours")
            come()
    else:
        link = os.link

        def late(source: Any, target: Any) -> None:
            come()
            if way == "file without hard links":
                raise OSError(errno.EPERM, "no links here")
            link(source, target)

        monkeypatch.setattr(os, "link", late)
        with pytest.raises(AlreadyExistsError) as caught:
            write_bytes(path, b"ours")
    assert caught.value.path == path
    assert seen(path) == before[0]
    assert list(tmp_path.iterdir()) == [path]  # and nothing of ours is left


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_hard_links_a_file_is_written_all_the_same(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", refusing(OSError(number, "no links here")))
    write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "f"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replaced(target) as partial:  # noqa: PT012
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"old"}
    with replaced(target) as partial:
        partial.write_bytes(b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"new"}


# ---------------------------------------------------------------- flushing
WAYS: dict[str, Callable[[Path], None]] = {
    "a file": lambda path: write_bytes(path, b"x"),
    "a folder": lambda path: _folder(path),
    "a state": lambda path: _state(path),
}


def _folder(path: Path) -> None:
    with new_folder(path) as partial:
        (partial / "a").write_bytes(b"x")


def _state(path: Path) -> None:
    with next_state(path) as staging:
        fill(staging, OLD)


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_cannot_be_flushed_is_borne_and_a_file_that_cannot_is_not(tmp_path, monkeypatch, way):
    monkeypatch.setattr(atomic, "DURABLE", True)
    fsync = os.fsync

    def is_folder(descriptor: int) -> bool:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)

    monkeypatch.setattr(os, "fsync", refusing(OSError(errno.EINVAL, "no folders"), is_folder, fsync))
    WAYS[way](tmp_path / "out")
    assert (tmp_path / "out").exists()
    monkeypatch.setattr(os, "fsync", refusing(OSError(errno.EIO, "bad disk"), lambda d: not is_folder(d), fsync))
    with pytest.raises(DiskError):
        WAYS[way](tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_weights_are_as_readable_as_the_umask_lets_other_files_be(tmp_path):
    for umask in (0o022, 0o002, 0o027, 0o077):
        before = os.umask(umask)
        try:
            with new_folder(tmp_path / f"{umask:o}") as folder:
                (folder / "a.safetensors").write_bytes(b"x")
                (folder / "a.safetensors").chmod(0o600)
                (folder / "b").write_bytes(b"x")
        finally:
            os.umask(before)
        modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / f"{umask:o}").iterdir()}
        assert modes == {"a.safetensors": 0o666 & ~umask, "b": 0o666 & ~umask}


# ---------------------------------------------------------------- locks
@contextmanager
def left_lock(folder: Path, text: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    path = folder / LOCK_FILE
    path.write_text(text, "utf-8")
    yield path
    path.unlink(missing_ok=True)


def test_without_locks_of_the_system_the_process_that_the_file_names_decides(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", refusing(OSError(errno.ENOLCK, "no locks here")))
    here, folder = socket.gethostname(), tmp_path / "d"
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        for text, busy in (
            ("", False), (f"{os.getpid()} {here}\n", False), (f"{int(ended.stdout)} {here}\n", False),
            (f"{living.pid} {here}\n", True), (f"{living.pid} {here}.example.org\n", True),
            (f"{int(ended.stdout)} other\n", True), (f"x {here}\n", False), (f"{10**30} {here}\n", False),
            ("only", False), ("three words here", False),
        ):  # fmt: skip
            with left_lock(folder, text):
                if busy:
                    with pytest.raises(BusyError) as caught, writer_lock(folder):
                        pass
                    assert caught.value.path == folder
                else:
                    with writer_lock(folder):
                        assert (folder / LOCK_FILE).read_text("utf-8") == f"{os.getpid()} {here}\n"
        with left_lock(folder, f"{living.pid} {here}"):
            monkeypatch.setattr(os, "kill", refusing(PermissionError(errno.EPERM, "another user's")))
            with pytest.raises(BusyError), writer_lock(folder):
                pass
        living.communicate(b"\n")


def test_a_lock_whose_file_its_last_holder_removed_in_between_is_taken_anew(tmp_path, monkeypatch):
    import fcntl

    flock, taken = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        taken.append(descriptor)
        if len(taken) == 1:
            (tmp_path / LOCK_FILE).unlink()
        if len(taken) == 2:  # and a third one made it again
            (tmp_path / LOCK_FILE).unlink()
            (tmp_path / LOCK_FILE).write_bytes(b"")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with writer_lock(tmp_path):
        assert len(taken) == 3
        with pytest.raises(BusyError), writer_lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    open_now = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with writer_lock(tmp_path):
        pass
    assert open_now in (None, len(os.listdir("/proc/self/fd")))


# ---------------------------------------------------------------- readers
@pytest.mark.parametrize("fails", [False, True])
def test_a_reader_gives_up_where_writers_never_stop(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(commit, "WAIT_SECONDS", 0.05)
    folder, tried = tmp_path / "d", []
    _state(folder)

    def overtaken(state: commit.State) -> None:
        tried.append(state)
        assert len(tried) < 1000, "it never ends"
        with next_state(folder, replace=True) as staging:
            fill(staging, NEW if len(tried) % 2 else OLD)
        if fails:
            raise CorruptFileError("half of each")

    with pytest.raises(CorruptFileError if fails else BusyError):
        read_state(folder, overtaken)
    assert tried


def test_an_error_of_a_state_that_does_not_change_is_told_at_once_and_one_of_a_moving_state_is_not(tmp_path):
    folder, tried = tmp_path / "d", []
    _state(folder)

    def fail(state: commit.State) -> None:
        tried.append(state)
        raise CorruptFileError("always")

    with pytest.raises(CorruptFileError):
        read_state(folder, fail)
    assert len(tried) == 1
    # a committed state of which a writer moves the files: its manifest is the same until the end
    with next_state(folder, replace=True) as staging:
        fill(staging, NEW)
        (folder / commit.COMMIT).mkdir()
        for name in (*NEW, "manifest.json"):
            (folder / commit.COMMIT / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / commit.COMMIT / name).write_bytes((staging / name).read_bytes())
        tried.clear()

        def moved_meanwhile(state: commit.State) -> bytes:
            tried.append(state)
            if len(tried) == 1:
                os.replace(folder / commit.COMMIT / "a", folder / "a")
                raise CorruptFileError("it was there a moment ago")
            return state.find("a").read_bytes()

        assert read_state(folder, moved_meanwhile) == NEW["a"]
        (folder / commit.COMMIT).rename(tmp_path / "away")
    assert read(folder) == NEW
