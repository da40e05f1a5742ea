"""`w2w explore` and its public calls: what they refuse before anything is opened, and how a server starts and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from w2w_hub.cli import main
from w2w_hub.cli.signals import ended_as_by_ctrl_c
from w2w_hub.errors import InvalidInputError, MissingPathError
from w2w_hub.explore import create_app, launch

ODD: dict[str, list[Any]] = {
    "source": [None, 3, b"space", ["space"]], "dataset": [3, b"people"], "revision": [1, True], "token": [1.5],
    "local_files_only": [1, "yes", None],
}  # fmt: skip
LAUNCHED: dict[str, list[Any]] = {
    "host": [None, 3], "port": [-1, 65536, "7860", 1.5, True], "browser": [1, None], "ready": [1, "print"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_an_odd_argument_is_refused_before_anything_is_opened(name: str, value: Any) -> None:
    for call in (create_app, launch):
        with pytest.raises(InvalidInputError) as refused:
            call(**{"source": "no such space", name: value})
        assert refused.value.name == name


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LAUNCHED.items() for value in values])
def test_an_odd_address_is_refused_before_anything_is_opened(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        launch("no such space", **{name: value})
    assert refused.value.name == name


@pytest.mark.parametrize("host", ["", " ", "..", "a" * 300, "\0", "http://localhost", "::1::1", "203.0.113.1"])
def test_a_host_that_cannot_be_listened_on_is_one_line(host: str, tmp_path: Path) -> None:
    app = pytest.importorskip("w2w_hub.explore.app").Explorer()
    app.files = tmp_path
    for port in (0, 7860):
        with pytest.raises(InvalidInputError) as refused:
            app.serve(host, port, block=False)
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_a_closed_terminal_ends_a_server_as_an_interruption_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), ended_as_by_ctrl_c():
            signal.raise_signal(signal.SIGHUP)
        assert signal.signal(signal.SIGHUP, signal.SIG_IGN) == signal.SIG_DFL
        with ended_as_by_ctrl_c():
            signal.raise_signal(signal.SIGHUP)  # ignored, as under nohup
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_decorator_must_be_callable() -> None:
    with pytest.raises(InvalidInputError):
        create_app("no such space", gpu=True)  # type: ignore[arg-type]


def test_a_space_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError):
        create_app(tmp_path / "space")
    result = CliRunner().invoke(main, ["explore", str(tmp_path / "space")])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "data",
    [
        None, 3, [], {"values": 3}, {"values": {"set": 3}}, {"values": {"set": {"a": 1}}, "act": 3, "name": []},
        {"values": {f"kind-{i}": dict.fromkeys(map(str, range(500)), True) for i in range(50)}},
    ],
)  # fmt: skip
def test_what_a_browser_sends_is_bounded_and_typed(data: Any) -> None:
    page = pytest.importorskip("w2w_hub.explore.page")
    found = page.sent(SimpleNamespace(_data=data))
    assert isinstance(found["act"], str)
    assert isinstance(found["name"], str)
    assert sum(map(len, found["values"].values())) <= page.MOST_VALUES


@pytest.mark.parametrize(
    "values",
    [
        {"factor": {"": "x"}}, {"factor": {"": []}}, {"start": {"": 2}}, {"push": {"a": "1"}}, {"push": {"a": 1e9}},
        {"set": {"Sunglasses": []}, "keep": {}},
    ],
)  # fmt: skip
def test_odd_values_of_the_controls_are_refused(values: Any, studio: Any) -> None:
    page = pytest.importorskip("w2w_hub.explore.page")
    edit = pytest.importorskip("w2w_hub.explore.tabs.edit")
    shared = SimpleNamespace(studio=studio, controls=[])
    event = page.sent(SimpleNamespace(_data={"values": values}))
    if "set" in values:
        assert edit.edits_in(shared, page.Session(), event)["wanted"] == {}  # no such control
        return
    with pytest.raises(InvalidInputError):
        edit.edits_in(shared, page.Session(), event)


@pytest.mark.slow
def test_a_server_says_its_address_refuses_a_taken_port_and_ends_without_a_trace(
    tiny_space: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "w2w_hub", "explore", str(tiny_space), "--port"]
    given: dict[str, Any] = {"text": True, "env": {**os.environ, "TMPDIR": str(tmp_path)}}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = subprocess.run([*words, str(taken.getsockname()[1])], capture_output=True, timeout=120, **given)
    assert refused.returncode == 2
    assert "--port" in refused.stderr
    server = subprocess.Popen([*words, "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **given)
    assert server.stdout is not None
    line = server.stdout.readline()
    address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"Explore" in page.read()
    api = f"{address}gradio_api/"
    for place, headers, status in (
        (address, {"Host": "evil.example"}, 403), (f"{api}upload", {"Sec-Fetch-Site": "cross-site"}, 403),
        (f"{api}process_recording", {}, 404),
    ):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(urllib.request.Request(place, b"" if place != address else None, headers))
        assert answer.value.code == status
    with urllib.request.urlopen(f"{address}config", timeout=30) as config:
        assert json.load(config)["run_history"] is False
    assert [path.name for path in tmp_path.iterdir()]
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    assert not list(tmp_path.glob("w2w-explore-*"))
