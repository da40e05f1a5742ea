from __future__ import annotations

import os
import subprocess
import sys

import pytest

from w2w_hub.common.progress import counted_steps, logged_progress, notice, progress

# a terminal is needed for the bar: a process with one of its own
ON_A_TERMINAL = """
import sys, time
from w2w_hub.common.progress import progress
for number in progress(range(6), "counting"):
    time.sleep(0.5)
"""


def test_a_log_gets_a_line_with_the_count_and_only_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    with logged_progress(lines.append, every=0):
        assert list(progress(range(4), "counting")) == [0, 1, 2, 3]
        assert list(progress(iter("ab"), "reading", total=2, status=lambda: "loss 1")) == ["a", "b"]
        assert list(progress(iter("ab"), "listing")) == ["a", "b"]
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert [line.split(" after ")[0] for line in lines] == [
        "counting: 1 of 4", "counting: 2 of 4", "counting: 3 of 4", "reading: 1 of 2", "listing: 1", "listing: 2",
    ]  # fmt: skip
    assert lines[3].endswith("loss 1")
    assert ["left" in line for line in lines] == [True, True, True, True, False, False]
    lines.clear()
    with logged_progress(lines.append, every=60):
        assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert not lines
    assert capsys.readouterr() == ("", "")


def test_steps_of_unknown_number_are_counted_and_an_empty_status_is_not_shown() -> None:
    lines: list[str] = []
    with logged_progress(lines.append, every=0):
        with counted_steps("searching") as step:
            step()
            step()
        assert list(progress(range(2), "fitting", status=str)) == [0, 1]
    assert [line.split(" after ")[0] for line in lines] == ["searching: 1", "fitting: 1 of 2"]
    assert not lines[1].endswith(", ")


def test_a_notice_is_a_line_of_the_log_and_gone_from_a_terminal_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with notice("compiling"):
        pass
    with logged_progress(lines.append), notice("compiling"):
        assert lines == ["compiling"]
    with logged_progress(lines.append), notice("loading", logged=False):
        pass
    assert lines == ["compiling"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with notice("compiling \x1b[31m"):
        shown = capsys.readouterr().err
        assert shown.strip().startswith("compiling")
        assert "\x1b" not in shown
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_terminal_gets_a_bar_after_two_seconds() -> None:
    termios, (mine, theirs) = pytest.importorskip("termios"), os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    child = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(mine, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(mine)
    assert child.wait() == 0
    assert b"counting" in shown
    assert b"/6" in shown
