"""Rules of the Hub's cache, client and pins over orders, cases and every member of a list; no Hub is needed."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import errors as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.conftest import Folders
from tests.hub.test_pins_and_citations import FILES, PEOPLE, SPACE
from tests.hub.test_small_parts import ONE, TWO, cached, git, sha256
from w2w_hub.common.limits import MAX_REDIRECTS
from w2w_hub.errors import CorruptFileError, HubAccessError, HubError, HubNotFoundError, InvalidInputError
from w2w_hub.store.hub import transfer
from w2w_hub.store.hub.cache import RepoCache
from w2w_hub.store.hub.client import call, translate
from w2w_hub.store.hub.locate import locate_either
from w2w_hub.store.hub.options import HubOptions
from w2w_hub.store.hub.pins import BasePin, Lock, is_lock, read_lock
from w2w_hub.store.hub.resolve import open_repository, resolve_revision
from w2w_hub.store.hub.transfer import Pace, plain_client


# ---------------------------------------------------------------- the cache
def test_what_the_cache_remembers_already_is_not_written_again(tmp_path: Path) -> None:
    cache, _ = cached(tmp_path)
    for revision in ("v1.0.0", "refs/pr/1"):
        cache.remember(revision, ONE)
        file = cache.folder / "refs" / revision
        before = os.stat(file)
        cache.remember(revision, ONE)
        assert os.stat(file) == before
        cache.remember(revision, TWO)
        assert file.read_text("utf-8") == TWO


def test_a_file_that_changes_while_it_is_hashed_is_not_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, folder = cached(tmp_path)
    file, entry = folder / "f", {"sha256": sha256(b"12345"), "size": 5}
    file.write_bytes(b"12345")
    digest = hashlib.file_digest

    def meanwhile(stream: Any, name: str) -> Any:
        found = digest(stream, name)
        file.write_bytes(b"54321")
        os.utime(file, ns=(0, 0))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", meanwhile)
        assert not cache.is_verified(file, entry)
    assert not cache.was_verified(file, entry["sha256"])
    file.write_bytes(b"12345")
    assert cache.is_verified(file, entry)


# ---------------------------------------------------------------- the client
@pytest.mark.parametrize("name", ["EACCES", "EPERM", "EROFS", "ENOSPC"])
def test_a_cache_that_cannot_be_used_is_the_subject_of_the_error(name: str) -> None:
    told = translate(OSError(getattr(errno, name), "no", "/there"), "org/x")
    assert (type(told), told.path, told.repo_id) == (HubError, Path("/there"), "org/x")
    assert translate(OSError(errno.EIO, "bad", "/there"), "org/x").path is None


def test_a_token_that_cannot_be_sent_is_refused_before_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for token in ("a b", "a\nb", "é"):
        with pytest.raises(HubAccessError):
            call("org/x", lambda token: called.append(token), token=token)
    assert not called
    call("org/x", lambda token: called.append(token), token="hf_abc")
    assert called == ["hf_abc"]


@contextmanager
def chain(hops: int) -> Iterator[str]:
    """A server that redirects so often before it answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            at = int(self.path[1:])
            self.send_response(302 if at < hops else 200)
            if at < hops:
                self.send_header("Location", f"/{at + 1}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


@pytest.mark.parametrize("more", [0, 1])
def test_redirections_are_followed_up_to_their_limit(more: int) -> None:
    with chain(MAX_REDIRECTS + more) as url, plain_client() as client:
        if more:
            with pytest.raises(httpx2.TooManyRedirects):
                client.get(url)
        else:
            assert client.get(url).status_code == 200


def test_each_window_of_a_transfer_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast start earns no credit: a transfer that stalls afterwards is given up."""
    monkeypatch.setattr(transfer, "WINDOW_SECONDS", 0.05)
    closed = threading.Event()
    with pytest.raises(HubError), Pace("org/x", closed.set) as pace:  # noqa: PT012
        pace.count(10**12)
        assert closed.wait(10), "it was never given up"
        raise ConnectionError("closed")


# ---------------------------------------------------------------- what a name leads to
class Hub:
    """What the Hub says about repositories, by type: a commit and a name, or an error. No request is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: object):
        self.asked: list[str] = []

        def repo_info(_: object, repo: str, *, repo_type: str, **options: object) -> object:
            self.asked.append(repo_type)
            answer = answers[repo_type]
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(sha=ONE, id=answer)

        monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://example.org"))


@pytest.fixture
def people(folders: Folders, tmp_path: Path) -> Path:
    """A cache that holds a dataset, and a folder in it."""
    shutil.copytree(folders.people, RepoCache("org/people", "dataset", tmp_path).snapshot(ONE))
    return tmp_path


def test_a_name_of_two_kinds_is_in_doubt_only_if_one_kind_was_found(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = HubOptions(None, people)
    gated = theirs.GatedRepoError("gated", response=response(403))  # type: ignore[attr-defined]
    away = theirs.RepositoryNotFoundError("no", response=response(404))  # type: ignore[attr-defined]
    Hub(monkeypatch, dataset="org/people", model=away)
    assert locate_either("org/people", options=options).revision.kind == "dataset"  # type: ignore[union-attr]
    Hub(monkeypatch, dataset="org/people", model=gated)
    with pytest.raises(InvalidInputError) as doubt:
        locate_either("org/people", options=options)
    assert (doubt.value.what, doubt.value.repo_id) == ("kind", "org/people")
    for answers in ({"dataset": gated, "model": away}, {"dataset": away, "model": gated}):
        Hub(monkeypatch, **answers)
        with pytest.raises(HubAccessError):
            locate_either("org/other", options=options)


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_of_two_failures_the_one_that_knows_more_is_told_whichever_came_first(tmp_path: Path, kind: str) -> None:
    cache, _ = cached(tmp_path, kind=kind)
    cache.remember("v1.0.0", ONE)
    with pytest.raises(HubNotFoundError) as missing:
        locate_either("org/people@v9.0.0", options=HubOptions(None, tmp_path, local_files_only=True))
    assert missing.value.cached == (f"v1.0.0 ({ONE[:12]})",)


@pytest.mark.parametrize(("called", "renamed"), [("org/people", False), ("Org/People", False), ("lab/people", True)])
def test_a_repository_is_renamed_if_more_than_its_case_is_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, renamed: bool
) -> None:
    Hub(monkeypatch, dataset=called)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = resolve_revision("org/people", "dataset", "main", HubOptions(None, tmp_path))
    assert [called in str(w.message) for w in caught] == [True] * renamed
    assert found.to_json()["repo"] == (called if renamed else "org/people")


def test_a_tag_that_moved_is_told_and_a_branch_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = cached(tmp_path, commit=TWO)
    Hub(monkeypatch, dataset="org/people")
    for name, told in (("main", 0), ("v1.0.0", 1), ("vision", 0)):
        cache.remember(name, TWO)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert resolve_revision("org/people", "dataset", name, HubOptions(None, tmp_path)).commit == ONE
        assert len(caught) == told, name


def test_a_lock_that_was_opened_vouches_for_the_manifest_from_then_on(people: Path) -> None:
    options = HubOptions(None, people, local_files_only=True)
    manifest = RepoCache("org/people", "dataset", people).snapshot(ONE) / "manifest.json"
    digest = sha256(manifest.read_bytes())
    assert not open_repository("org/people", "dataset", ONE, options).vouched
    assert open_repository("org/people", "dataset", ONE, options, manifest_sha256=digest).vouched
    assert open_repository("org/people", "dataset", ONE, options).vouched
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert not open_repository("org/people", "dataset", ONE, options).vouched
    with pytest.raises(CorruptFileError):
        open_repository("org/people", "dataset", ONE, options, manifest_sha256=digest)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_manifest_is_known_by_the_digest_that_its_blob_promises(people: Path, damaged: bool) -> None:
    cache = RepoCache("org/people", "dataset", people)
    manifest = cache.snapshot(ONE) / "manifest.json"
    data = manifest.read_bytes()
    blob = cache.folder / "blobs" / git(data)
    blob.parent.mkdir()
    manifest.unlink()
    blob.write_bytes(data + b" " * damaged)
    manifest.symlink_to(os.path.relpath(blob, manifest.parent))
    options = HubOptions(None, people, local_files_only=True)
    if damaged:
        with pytest.raises(CorruptFileError):
            open_repository("org/people", "dataset", ONE, options)
    else:
        assert open_repository("org/people", "dataset", ONE, options).vouched


# ---------------------------------------------------------------- pins
BASES = st.sampled_from([None, BasePin("org/base", "c" * 40, "1" * 64, FILES), BasePin("org/base", "c" * 40, None)])
PINS = st.builds(
    lambda pin, repo, revision, published, recipe, base: replace(
        pin, repo=repo, revision=revision, published=published, recipe=recipe, base=base
    ),
    st.sampled_from([PEOPLE, SPACE]), st.sampled_from(["org/a", "org/b", "lab/a"]), st.sampled_from(["v1", "main"]),
    st.sampled_from([None, "2026-01-02"]), st.sampled_from([{}, {"k": 3}]), BASES,
)  # fmt: skip


@given(st.lists(PINS, max_size=5, unique_by=lambda p: (p.kind, p.repo, p.revision)), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_lock_is_the_same_bytes_in_any_order_and_reads_back_as_its_pins(tmp_path_factory, pins, random) -> None:
    shuffled = list(pins)
    random.shuffle(shuffled)
    text, other = (json.dumps(Lock(tuple(p), {"numpy": "2"}).to_json()) for p in (pins, shuffled))
    assert text == other
    path = tmp_path_factory.mktemp("lock") / "w2w.lock"
    path.write_text(text, "utf-8")
    assert is_lock(path)
    again = read_lock(path)
    assert set(map(repr, again.pins)) == set(map(repr, pins))
    assert again.to_json() == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 3}', '{"format": "w2w-dataset"}', "\0"])
def test_what_is_named_lock_and_damaged_is_a_lock_and_another_file_is_one_by_what_it_says(
    tmp_path: Path, text: str
) -> None:
    for name in ("w2w.lock", "w2w.json"):
        path = tmp_path / name
        path.write_text(text, "utf-8")
        damaged = text in ("", "{", "[]", "\0")
        assert is_lock(path) == (damaged and name.endswith(".lock"))
        if damaged:
            with pytest.raises(CorruptFileError):
                read_lock(path)
    assert not is_lock(tmp_path)
