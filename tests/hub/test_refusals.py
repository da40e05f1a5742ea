"""What is not published: links, pipes, unfinished or damaged folders, and files that change meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_hub import WeightDataset
from w2w_hub.errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsafePathError,
    VersionError,
    W2WError,
)
from w2w_hub.release import archive, diff, log, outgoing, pin, push, restore, verify, verify_lock
from w2w_hub.release.outgoing import collect
from w2w_hub.store.commit import COMMIT
from w2w_hub.store.hub.pins import read_lock
from w2w_hub.store.hub.source import Source

from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]
LOCK = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0" / "w2w.lock"
SHARD = "weights.zarr/weights/c/0/0"


@pytest.fixture
def people(folders: Folders, tmp_path: Path) -> Path:
    return shutil.copytree(folders.people, tmp_path / "mine" / "people")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "id_ed25519").write_text("KEY")
    return tmp_path / "secret"


def link(path: Path, to: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def twin(path: Path, secret: Path) -> None:
    """A link to a file with the very content that the manifest lists."""
    shutil.copy(path, secret / "twin")
    link(path, secret / "twin")


def moved(folder: Path, secret: Path) -> None:
    """A folder of listed files that is reached by a link."""
    shutil.move(folder, secret / "moved")
    folder.symlink_to(secret / "moved")


@pytest.mark.parametrize(
    "change",
    [
        lambda f, s: link(f / "README.md", s / "id_ed25519"),
        lambda f, s: link(f / "manifest.json", shutil.copy(f / "manifest.json", s / "m")),
        lambda f, s: twin(f / "labels" / "train.parquet", s),
        lambda f, s: twin(f / SHARD, s),
        lambda f, s: moved(f / "labels", s),
        lambda f, s: moved(f / "weights.zarr" / "weights", s),
        lambda f, s: link(f / "notes.txt", s / "id_ed25519"),
        lambda f, s: link(f / "base", s),
        lambda f, s: link(f / "gone", s / "nothing"),
        lambda f, s: (os.unlink(f / "README.md"), os.mkfifo(f / "README.md")),
        lambda f, s: (os.unlink(f / SHARD), os.mkfifo(f / SHARD)),
        lambda f, s: os.mkfifo(f / "pipe"),
    ],
)  # fmt: skip
def test_a_folder_with_a_link_or_a_pipe_is_not_pushed(
    people: Path, secret: Path, change: Callable[[Path, Path], object]
) -> None:
    change(people, secret)
    for version in (None, "1.0.1"):
        with pytest.raises(UnsafePathError):
            push(people, "org/people", version=version, token=False)
    assert (secret / "id_ed25519").read_text() == "KEY"


def test_the_folder_itself_may_be_reached_by_a_link(people: Path, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(people)
    assert collect(Source(tmp_path / "shortcut"), None).version.tag == "v1.0.0"


@pytest.mark.parametrize(
    "name",
    [".w2w-commit/manifest.json", ".w2w-lock", "../x", "/etc/x", "C:x", "a\\b", "manifest.json", "a/../b", "x\n"],
)
def test_a_manifest_that_lists_what_is_no_file_of_a_repository_is_not_pushed(people: Path, name: str) -> None:
    files = json.loads((people / "manifest.json").read_text())["files"]
    reseal(people, files=files | {name: files[SHARD]})
    with pytest.raises(UnsafePathError):
        push(people, "org/people", token=False)


def test_a_folder_with_an_unfinished_change_is_pushed_after_its_repair_only(people: Path, folders: Folders) -> None:
    shutil.copytree(folders.more, people / COMMIT)
    with pytest.raises(InvalidInputError) as caught:
        push(people, "org/people", token=False)
    assert caught.value.path == people
    (people / COMMIT / "manifest.json").unlink()  # a leftover, which means nothing
    assert collect(Source(people), None).local["rows"] == 60


@pytest.mark.parametrize("version", ["1", "", 3, "1.0.0\n", "1" * 5000 + ".0.0"])
def test_a_version_that_is_none_is_refused(people: Path, version: object) -> None:
    with pytest.raises(VersionError if isinstance(version, str) else InvalidInputError):
        push(people, "org/people", version=version, token=False)  # type: ignore[arg-type]


def test_what_is_not_a_folder_or_a_dataset_is_refused(people: Path, tmp_path: Path) -> None:
    for what in (None, 3, b"people", ["people"]):
        with pytest.raises(InvalidInputError):
            push(what, "org/people", token=False)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        push(people, 3, token=False)  # type: ignore[arg-type]
    with pytest.raises(MissingPathError):
        push(tmp_path / "nowhere", "org/people", token=False)
    opened = WeightDataset.open(people)
    reseal(people, digest="0" * 64)
    with pytest.raises(CorruptFileError):
        push(opened, "org/people", token=False)


def flip(path: Path) -> None:
    """Change one bit and leave size and time as they were."""
    data, before = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["manifest.json", "labels/test.parquet", "parquet/train.parquet", SHARD])
def test_a_damaged_folder_is_not_pushed(people: Path, name: str) -> None:
    flip(people / name)
    with pytest.raises((CorruptFileError, MissingPathError)):  # a name in the manifest may be what was changed
        push(people, "org/people", token=False)


def test_a_file_that_changes_between_its_verification_and_its_upload_is_not_published(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "IN_MEMORY", 0)  # larger files than the test's are read when they are sent
    found = collect(Source(people), None)
    sent = found.addition("labels/test.parquet")
    found.require_sent([sent])
    flip(people / "labels" / "test.parquet")
    with pytest.raises(CorruptFileError):
        found.addition("labels/test.parquet")
    with pytest.raises(CorruptFileError):
        found.require_sent([sent])
    kept = found.addition(SHARD)
    twin(people / SHARD, people.parent)
    with pytest.raises(CorruptFileError):
        found.require_sent([kept])
    verified = outgoing.verify_source

    def meanwhile(source: Source, **options: bool) -> object:
        report = verified(source, **options)
        flip(people / "labels" / "train.parquet")
        return report

    monkeypatch.setattr(outgoing, "verify_source", meanwhile)
    shutil.copytree(people.parent / "people", people.parent / "again", symlinks=True)
    with pytest.raises(CorruptFileError):
        collect(Source(shutil.copytree(people, people.parent / "other")), None)


@pytest.mark.parametrize("xet", ["0", "1"])
def test_nothing_is_committed_of_a_folder_that_changes_while_it_is_sent(
    hub: LoopbackHub, client: MakeClient, people: Path, xet: str
) -> None:
    hub.adopt(people)
    found = client("ann", "ann").run(
        """
from w2w_hub.release import outgoing, publish, remote
outgoing.IN_MEMORY = 0
file = Path(sys.argv[1]) / "labels" / "test.parquet"
class Sending(remote.Remote):
    def tree(self, commit):  # the last step before anything is sent
        data, before = bytearray(file.read_bytes()), file.stat()
        data[50] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return super().tree(commit)
publish.Remote = Sending
out(told=refused(publish.push, sys.argv[1], "org/people"))
""",
        people,
        HF_HUB_DISABLE_XET=xet,
    )
    assert found["told"][0] == "CorruptFileError"
    repo = hub.repos[("dataset", "org/people")]
    assert [commit.title for commit in hub.history(repo, "main")] == ["initial commit"]
    assert repo.tags == {}


def test_a_version_that_somebody_tags_elsewhere_meanwhile_is_a_conflict(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    old, repo = seed(hub, folders.people, "org/people"), hub.repos[("dataset", "org/people")]
    held = hub.fault("POST .*/tag/", "hold")
    job = client("ann", "ann").start(
        'from w2w_hub.release import push\nout(told=refused(push, sys.argv[1], "org/people"))',
        folders.more,
    )
    assert held.reached.wait(60)
    hub.tag(repo, "v1.1.0", old)
    held.released.set()
    assert client("ann", "ann").finish(job)["told"][0] == "HubConflictError"
    assert repo.tags["v1.1.0"] == old


CALLS: dict[str, Callable[..., object]] = {
    "publish": lambda x: push(x, "org/people", token=False),
    "repo": lambda x: push("nowhere", x, token=False),
    "population": lambda x: push("nowhere", "org/people", population=x if x is not True else 3, token=False),
    "dataset": lambda x: push(LOCK.parent / "people", "org/people", dataset=x if x is not None else 3, token=False),
    "pin": lambda x: pin(x, token=False),
    "pin to": lambda x: pin(["org/people@v1.0.0"], x, token=False) if x is not None else pin([]),
    "read_lock": read_lock,
    "verify_lock": verify_lock,
    "restore": restore,
    "restore from": lambda x: restore(LOCK, x) if x is not None else restore(None),  # type: ignore[arg-type]
    "restore into": lambda x: restore(LOCK, LOCK.parent, cache_dir=x) if x is not None else restore(LOCK, b""),  # type: ignore[arg-type]
    "archive": lambda x: archive(x, "bundle"),
    "archive to": lambda x: archive(LOCK, x),
    "verify": verify,
    "verify with": lambda x: verify("org/people", token=x if x is not None else 3),
    "diff": lambda x: diff(x, x),
    "log": log,
    "open": WeightDataset.open,
    "open from": lambda x: WeightDataset.open("org/people", cache_dir=x if x is not None else 3, local_files_only=True),
    "revision": lambda x: WeightDataset.open("org/people", revision=x if x is not None else 3),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_argument_of_a_wrong_type_is_a_typed_error(call: str) -> None:
    for value in (None, 3, 2.5, b"people", ["people"], {"a": 1}, object(), WeightDataset):
        if (call, value) == ("pin", ["people"]):
            continue
        with pytest.raises(W2WError):
            CALLS[call](value)


@pytest.mark.parametrize("recipe", [3, "x", [1], {"dataset_revision": "x"}], ids=repr)
def test_a_recipe_that_is_not_one_is_a_typed_error(recipe: object) -> None:
    from w2w_hub.errors import CorruptFileError
    from w2w_hub.store.hub.resolve import require_fields

    manifest = {
        "format": "w2w-space",
        "version": "1.0.0",
        "digest": "0",
        "layout": {},
        "compatibility": {},
        "files": {},
    }
    assert require_fields(manifest, "org/space") == {}
    with pytest.raises(CorruptFileError):
        require_fields({**manifest, "recipe": recipe}, "org/space")
