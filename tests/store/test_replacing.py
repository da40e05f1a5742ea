"""Outputs in the place of earlier ones: what is replaced, what never is, and writers that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_hub.errors import AlreadyExistsError, DiskError
from w2w_hub.store import atomic
from w2w_hub.store.atomic import new_folder, require_output, write_bytes
from w2w_hub.store.manifest import DATASET, SPACE, seal
from w2w_hub.store.replacing import OwnFiles, files_listed, files_named

OWN = files_named("*.txt", "inner/*.txt")
# forks a writer for each call that touches the file system, which kills it there; the next writer judges what is left
KILLED = """
import os, sys
from pathlib import Path
from tests.killing import kill_at
from w2w_hub.store import atomic
from w2w_hub.store.replacing import files_named

root, atomic.DURABLE = Path(sys.argv[1]), False
if sys.argv[2] == "without":
    atomic.exchange = lambda first, second: False
own = files_named("*.txt", "inner/*.txt")
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "fcntl.flock",
           "ctypes.call_function"}

def write(folder, text, at=None):
    if at is not None:
        kill_at(at, lambda event, _: event in WATCHED)
    with atomic.new_folder(folder, overwrite=True, own=own) as partial:
        (partial / "inner").mkdir()
        for name in ("a.txt", "inner/b.txt"):
            (partial / name).write_text(text)

for at in range(1, 200):
    folder = root / str(at) / "out"
    write(folder, "old")
    pid = os.fork()
    if pid == 0:
        write(folder, "new", at)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    atomic.require_new(folder, overwrite=True, own=own)  # as the next writer begins
    print({(folder / name).read_text() for name in ("a.txt", "inner/b.txt")}, flush=True)
    write(folder, "last")
    assert os.listdir(folder.parent) == ["out"], os.listdir(folder.parent)
    if os.WIFEXITED(status):
        break
"""


def put(folder: Path, *names: str, text: str = "old") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def replace(folder: Path, own: OwnFiles | None = OWN) -> None:
    with new_folder(folder, overwrite=True, own=own) as partial:
        put(partial, "new.txt", text="new")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_that_holds_only_own_files_is_replaced_whole(
    tmp_path: Path, swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    folder = put(tmp_path / "out", "a.txt", "inner/b.txt")
    replace(folder)
    assert files(folder) == ["new.txt"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("foreign", ["notes.md", ".git/config", "inner/deeper/c.txt", "inner/a.md"])
def test_a_folder_with_any_other_file_is_refused_and_stays(tmp_path: Path, foreign: str) -> None:
    folder = put(tmp_path / "out", "a.txt", foreign)
    with pytest.raises(AlreadyExistsError) as error:
        replace(folder)
    assert error.value.path == folder
    assert foreign in str(error.value)
    assert files(folder) == sorted(["a.txt", foreign])


def test_a_file_that_appears_while_the_output_is_made_is_kept(tmp_path: Path) -> None:
    folder = put(tmp_path / "out", "a.txt")
    with pytest.raises(AlreadyExistsError), new_folder(folder, overwrite=True, own=OWN):
        put(folder, "mine.md")
    assert files(folder) == ["a.txt", "mine.md"]


def a_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def a_link_to_nothing(path: Path, target: Path) -> None:
    path.symlink_to(target / "nothing")


def a_file(path: Path, _: Path) -> None:
    path.write_text("old")


def a_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def a_folder_with_a_link(path: Path, target: Path) -> None:
    path.mkdir()
    (path / "a.txt").symlink_to(target / "a.txt")


@pytest.mark.parametrize("there", [a_link, a_link_to_nothing, a_file, a_pipe, a_folder_with_a_link])
def test_a_folder_does_not_replace_links_files_or_what_holds_links(
    tmp_path: Path, there: Callable[[Path, Path], None]
) -> None:
    target = put(tmp_path / "elsewhere", "a.txt")
    there(tmp_path / "out", target)
    with pytest.raises(AlreadyExistsError):
        replace(tmp_path / "out")
    assert files(target) == ["a.txt"]
    assert os.path.lexists(tmp_path / "out")


@pytest.mark.parametrize("there", [a_link, a_link_to_nothing, a_pipe, a_folder_with_a_link])
def test_a_file_replaces_regular_files_only(tmp_path: Path, there: Callable[[Path, Path], None]) -> None:
    target = put(tmp_path / "elsewhere", "a.txt")
    there(tmp_path / "out", target)
    with pytest.raises(AlreadyExistsError):
        write_bytes(tmp_path / "out", b"new", replace=True)
    write_bytes(target / "a.txt", b"new", replace=True)
    assert (target / "a.txt").read_text() == "new"


def test_a_manifest_vouches_for_the_files_that_it_lists_and_for_its_own_kind_only(tmp_path: Path) -> None:
    entry = {"sha256": "0" * 64, "size": 3}
    manifest = {"format": DATASET, "format_version": 1, "files": {"labels/x.bin": entry}}
    folder = put(tmp_path / "people", "labels/x.bin", "README.md")
    (folder / "manifest.json").write_bytes(seal(manifest))
    with pytest.raises(AlreadyExistsError):
        replace(folder, files_listed(SPACE))
    put(folder, "mine.txt")
    with pytest.raises(AlreadyExistsError):
        replace(folder, files_listed(DATASET))
    (folder / "mine.txt").unlink()
    replace(folder, files_listed(DATASET))
    assert files(folder) == ["new.txt"]


@pytest.mark.parametrize("swaps", ["with", "without"])
def test_a_killed_writer_leaves_the_old_folder_or_the_new_one(tmp_path: Path, swaps: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), swaps],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    left = done.stdout.splitlines()
    assert len(left) > 10
    assert set(left) == {"{'old'}", "{'new'}"}


@pytest.mark.parametrize("name", ["file/out", "file/deep/out", "x" * 250, "deep/" + "x" * 250])
def test_an_output_that_cannot_be_written_is_noticed_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError) as error:
        require_output(tmp_path / name)
    assert error.value.path == tmp_path / name
    assert os.listdir(tmp_path) == ["file"]


def test_the_check_of_an_output_leaves_nothing_behind(tmp_path: Path) -> None:
    assert require_output(tmp_path / "deep" / "er" / "out") == tmp_path / "deep" / "er" / "out"
    assert not os.listdir(tmp_path)
