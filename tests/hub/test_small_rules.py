"""Rules of the Hub's cache, client and pins over orders, cases and every member of a list; no Hub is needed."""

from __future__ import annotations

import errno
import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.test_pins_and_citations import FILES, PEOPLE, SPACE
from tests.hub.test_small_parts import ONE, TWO, cached
from w2w_hub.common.limits import MAX_REDIRECTS
from w2w_hub.errors import CorruptFileError, HubAccessError, HubError
from w2w_hub.store.hub import transfer
from w2w_hub.store.hub.client import call, translate
from w2w_hub.store.hub.pins import BasePin, Lock, is_lock, read_lock
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
    import httpx2

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
