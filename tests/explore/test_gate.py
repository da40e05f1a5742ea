"""Which requests the explorer's server answers, and what becomes of the visitors' files."""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from w2w_hub.errors import InvalidInputError
from w2w_hub.explore import visitor_files
from w2w_hub.explore.gate import Gate
from w2w_hub.explore.visitor_files import is_full, make_folder, remove_folder

ANSWERED = 200
OWN = {"host": "127.0.0.1:7860"}


def status(folder: Path, path: str, method: str = "GET", *, local: bool = True, **headers: str) -> int:
    """Return the status that a request gets."""
    found: list[int] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": ANSWERED, "headers": []})

    async def send(message: Any) -> None:
        found.extend([message["status"]] if "status" in message else [])

    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": sent}
    answer = Gate(page, folder, local=local)(scope, None, send)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as beside:  # a browser's event loop may run in this thread
        beside.submit(asyncio.run, answer).result()
    return found[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost", "localhost:9000", "[::1]:7860", "127.8.0.1", "app.localhost:80"]
)
def test_a_local_server_answers_as_this_machine(host: str, tmp_path: Path) -> None:
    assert status(tmp_path, "/", host=host) == ANSWERED


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:7860",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "localhost@evil.com",
        "evillocalhost",
        "[::1",
        "",
    ],
)
def test_a_name_that_leads_to_this_machine_from_outside_is_not_answered(host: str, tmp_path: Path) -> None:
    assert status(tmp_path, "/config", host=host) == 403
    assert status(tmp_path, "/config", host=host, local=False) == ANSWERED  # a server that others shall reach


def test_a_web_socket_is_refused_as_a_request_is_and_other_messages_pass(tmp_path: Path) -> None:
    passed: list[str] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    def answers(kind: str, host: bytes) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": kind, "path": "/", "headers": [(b"host", host)]}
        with ThreadPoolExecutor(1) as beside:
            beside.submit(asyncio.run, Gate(page, tmp_path, local=True)(scope, None, send)).result()  # type: ignore[arg-type]
        return sent

    assert answers("websocket", b"evil.com") == [{"type": "websocket.close", "code": 1008}]
    assert not passed
    assert answers("websocket", b"localhost") == answers("lifespan", b"") == []
    assert passed == ["websocket", "lifespan"]


def test_only_the_page_itself_sends_anything_to_a_local_server(tmp_path: Path) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/queue/join"):
        for site in ("same-origin", "none"):
            assert status(tmp_path, path, "POST", sec_fetch_site=site, **OWN) == ANSWERED
        for site in ("cross-site", "same-site"):
            assert status(tmp_path, path, "POST", sec_fetch_site=site, **OWN) == 403


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "process_recording", "deep_link", "run-history/connect", "runs/", "vibe-edit/", "undo-vibe-edit", "stream/a",
        "proxy=https://example.com", "component_server", "custom_component/1/client/component/index.js", "call/edit",
        "dev/reload",
    ],
)  # fmt: skip
def test_addresses_that_the_page_does_not_need_are_closed(name: str, local: bool, tmp_path: Path) -> None:
    assert status(tmp_path, f"/gradio_api/{name}", "POST", local=local, **OWN) == 404


def test_nothing_is_uploaded_while_there_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status(tmp_path, "/gradio_api/upload", "POST", **OWN) == ANSWERED
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "a.png").write_bytes(bytes(100))
    for name, most in (("MOST_BYTES", 99), ("MOST_ENTRIES", 2)):
        assert not is_full(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(visitor_files, name, most)
            assert status(tmp_path, "/gradio_api/upload", "POST", **OWN) == 507
            assert status(tmp_path, "/", **OWN) == ANSWERED


@pytest.mark.skipif(os.name == "nt", reason="folders are not locked there")
def test_files_that_a_killed_server_left_are_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(visitor_files, "NEW", -1)
    running, held = make_folder()
    left = tmp_path / "w2w-explore-left"
    left.mkdir()
    (left / "somebody.png").touch()
    outside = tmp_path / "other"
    outside.mkdir()
    (tmp_path / "w2w-explore-link").symlink_to(outside)
    folder, lock = make_folder()
    assert not left.exists()
    assert running.is_dir()
    assert outside.is_dir()
    for each in ((folder, lock), (running, held)):
        remove_folder(*each)
    assert not folder.exists()
    assert not running.exists()


def test_what_is_no_refusal_is_said_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    page = pytest.importorskip("w2w_hub.explore.page")
    shown = SimpleNamespace(message="message")

    def fail(error: Exception) -> str:
        def work() -> Any:
            raise error

        found: str = page.Page.guarded(shown, work)["message"]
        return found

    assert "secret" not in fail(RuntimeError("/home/secret"))
    assert "secret" in caplog.text
    assert "choose another" in fail(InvalidInputError("choose another"))


def test_an_odd_component_of_a_link_is_no_component(studio: Any) -> None:
    page = pytest.importorskip("w2w_hub.explore.page")
    components = pytest.importorskip("w2w_hub.explore.tabs.components")
    from w2w_hub.explore.state import State

    shared = SimpleNamespace(studio=studio)
    for name in ("PC²", "PC", "PC-1", "PC0", "PC" + "9" * 400):
        assert "Component 1" in components.shown_again(shared, page.Session(State(pushes={name: 0.0})))
