"""Tables fit the terminal whatever is in them, keep what matters, and are colored where somebody looks."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from w2w_hub import Adapter, ParameterLayout, build_space, write_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.cli.tables import Cell, Column, fact_lines, good_or_bad, table_lines, terminal_width, wants_color
from w2w_hub.common.text import terminal
from w2w_hub.common.width import columns_of, head, padded, shortened, tail, wrapped
from w2w_hub.dataset.manifest import Compatibility

LETTERS = st.text(st.sampled_from("abc 漢字é\u0301\u200d🙂-"), max_size=40)
COLUMNS = (
    Column("name", least=8), Column("number", right=True), Column("more", drops=1),
    Column("path", least=6, keep_end=True), Column("note", wraps=True),
)  # fmt: skip
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def lines(rows: Sequence[Sequence[object]], width: int, columns: Sequence[Column] = COLUMNS) -> list[str]:
    return list(table_lines(columns, rows, width=width, color=False))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(LETTERS, st.integers(), LETTERS, LETTERS, LETTERS), max_size=3), st.integers(20, 200))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[object, ...]], width: int) -> None:
    for line in lines(rows, width):
        assert columns_of(line) <= width


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(LETTERS, st.integers(2, 80))
def test_text_is_cut_and_wrapped_to_a_width_without_losing_a_letter(text: str, width: int) -> None:
    broken = wrapped(text, width)
    assert all(columns_of(line) <= width for line in broken)
    assert "".join(broken).replace(" ", "") == text.replace(" ", "")
    assert columns_of(shortened(text, width)) <= width
    assert text.startswith(head(text, width))
    assert text.endswith(tail(text, width))
    if columns_of(text) <= width:
        assert shortened(text, width) == head(text, width) == text
        assert columns_of(padded(text, width)) == columns_of(padded(text, width, right=True)) == width


def test_wide_characters_and_marks_are_counted_as_a_terminal_shows_them() -> None:
    assert [columns_of(text) for text in ("ab", "漢字", "e\u0301", "🙂", "ｱ")] == [2, 4, 1, 2, 1]
    shown = lines([("漢字漢字", 1), ("ab", 22)], 80, (Column("name"), Column("n", right=True)))
    assert len({columns_of(line) for line in shown}) == 1
    assert [line[-2:] for line in shown] == [" n", " 1", "22"]


def test_what_is_less_important_gives_way_first() -> None:
    row = ("a-name", 1234567, "something", "folder/of/something/else.json", "a remark of several words")
    wide = lines([row], 120)
    assert len(wide) == 2
    assert all(str(value) in wide[1] for value in row)
    for width in (80, 60, 40, 30):
        shown = "\n".join(lines([row], width))
        assert "a-name" in shown
        assert "1234567" in shown
        assert "son" in shown
        assert "remark" in shown
    assert ("something" in "\n".join(lines([row], 32))) is False
    assert "more" in lines([row], 32)[-1]  # and the last line says what is left out


def test_nothing_is_left_out_of_a_file_or_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    row = ("n" * 300, 1, "m" * 300, "p" * 300, "remark " * 100)
    (_, shown) = table_lines(COLUMNS, [row])
    assert all(str(value).strip() in shown for value in row)
    (fact,) = fact_lines({"name": "value " * 100})
    assert fact.count("value") == 100


@pytest.mark.parametrize("width", [30, 80, 10_000])
def test_a_remark_of_a_late_row_is_shown_though_the_first_rows_have_none(width: int) -> None:
    columns, remark = (Column("path"), Column("note", wraps=True)), "refused: it holds a pickle " * 3
    rows = [(f"file-{i}", remark if i == 99 else "") for i in range(100)]
    lines = list(table_lines(columns, rows, width=width, color=False))
    assert " ".join(" ".join(lines).split()).endswith(f"file-99 {remark.strip()}")
    assert max(map(len, lines)) <= width


def test_cells_are_shown_as_text_with_colors_of_our_own_only() -> None:
    hostile = "\x1b[32m\u202e\n\t" * 3
    for width in (20, 40, 100):
        for line in table_lines(
            COLUMNS, [(Cell(hostile, "bad"), 1, hostile, hostile, hostile)], width=width, color=True
        ):
            assert terminal(ANSI.sub("", line)) == ANSI.sub("", line)
            assert set(ANSI.findall(line)) <= {"\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"}
    (line,) = table_lines((Column(),), [(good_or_bad(True),)], head=False, color=True)
    assert ANSI.findall(line)
    assert ANSI.sub("", line) == "ok"
    assert list(table_lines((Column(),), [(good_or_bad(False),)], head=False, color=False)) == ["FAILED"]


def test_an_empty_column_takes_no_room_and_an_empty_table_no_line() -> None:
    assert lines([("a", 1, "", "", "")], 80) == ["name  number", "a          1"]
    assert lines([], 80) == []


@pytest.mark.parametrize(
    ("variables", "color"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, False),
    ],
)
def test_variables_decide_on_colors_where_there_is_no_terminal(
    variables: dict[str, str], color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_color() is color
    assert terminal_width() > 1000
    monkeypatch.setenv("COLUMNS", "40")
    assert terminal_width() == 40


@pytest.mark.parametrize(("variables", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_is_asked_for_its_width_and_its_colors(
    variables: dict[str, str], colored: bool, tmp_path: Path
) -> None:
    script = (
        "import fcntl, struct, termios\n"
        "fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 33, 0, 0))\n"
        "from w2w_hub.cli.output import table\n"
        "from w2w_hub.cli.tables import Cell, Column\n"
        "table((Column('name', least=4),), [(Cell('x' * 100, 'name'),)], head=False)\n"
    )
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    environment |= {"TERM": "xterm", **variables}
    subprocess.run([sys.executable, "-c", script], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode().strip()
    os.close(ours)
    assert len(ANSI.sub("", shown)) == 33
    assert (shown != ANSI.sub("", shown)) is colored


@pytest.mark.slow
def test_every_command_with_a_table_fits_a_terminal_of_60_columns(
    layout: ParameterLayout, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "a-name-that-is-longer-than-any-terminal-of-sixty-columns-could-show-in-full"
    values = np.random.default_rng(0).normal(size=(40, layout.size)).astype(np.float32)
    ids = [f"{long}-{i}" for i in range(40)]
    labels = pd.DataFrame({f"Beard{long}": values[:, 0] > 0, "split": ["train"] * 28 + ["test"] * 12}, index=ids)
    people = write_dataset(
        values, "people", layout=layout, ids=ids, labels=labels,
        compatibility=Compatibility(None, None, "seed"),
    )  # fmt: skip
    build_space(people, 3).save("space")
    for place in (f"loras/{long}", f"loras/{long}/deeper/漢字漢字"):
        write_adapter(adapter, Path(place))
    Path("loras", f"{long}.safetensors").write_bytes(b"no header")
    for words in (
        ["inspect", "loras"], ["inspect", "people", "space"], ["inspect", "people"], ["directions", "space"],
        ["compare", "space", "space"], ["read", "space", f"{long}-0"], ["nearest", "space", f"{long}-0"],
        ["dedupe", "people", "--cosine", "0.000001"],
    ):  # fmt: skip
        done = CliRunner(env={"COLUMNS": "60"}).invoke(main, words)
        assert done.exit_code == 0, done.output
        assert done.stdout
        assert max(columns_of(line) for line in done.stdout.splitlines()) <= 60, (words, done.stdout)
