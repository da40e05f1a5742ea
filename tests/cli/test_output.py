"""One module writes to the terminal, escaped and in the terminal's encoding; commands that are printed can be run."""

from __future__ import annotations

import ast
import logging
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import w2w_hub
from w2w_hub import WeightDataset
from w2w_hub.cli import main, output
from w2w_hub.cli.common import Sections
from w2w_hub.common.text import command, files_of, markdown, one_line, terminal, yaml_text
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import UnknownNameError, W2WError

SHARED = Compatibility(initialisation="seed-0")
PACKAGE = Path(w2w_hub.__file__).parent
PRINTING = {"echo", "secho", "echo_via_pager", "prompt", "confirm", "pause", "progressbar", "clear", "get_text_stream"}
CONTROLS = "\x1b]0;t\x07\x9b31m\x7f\u202e\u2066\u200b\u2028\ufeff\U000e0041\udc80\r\n\t"


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]


def test_no_module_but_one_prints() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in calls(path):
            name = ast.unparse(call.func)
            prints = name in ("print", "pprint", "echo", "secho", "os.write")
            prints |= name.startswith("click.") and name.removeprefix("click.") in PRINTING
            prints |= name.startswith(("sys.stdout.", "sys.stderr.", "sys.__std")) and not name.endswith(".isatty")
            if prints and path != PACKAGE / "cli" / "output.py":
                found.append(f"{path.relative_to(PACKAGE)}:{call.lineno}: {name}")
    assert not found


@pytest.mark.slow
def test_text_files_are_read_and_written_as_utf_8_whatever_the_locale() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in calls(path):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            least = {"read_text": 1, "write_text": 2}.get(method)
            if least and len(call.args) < least and "encoding" not in [option.arg for option in call.keywords]:
                found.append(f"{path.relative_to(PACKAGE)}:{call.lineno}: {method}")
    assert not found


# ---------------------------------------------------------------- terminal
def test_what_cannot_be_seen_is_escaped_and_every_script_stays() -> None:
    assert terminal(CONTROLS) == (
        r"\x1b]0;t\x07\x9b31m\x7f\u202e\u2066\u200b\u2028\ufeff\U000e0041\udc80\r\n\t"
    )  # fmt: skip
    for text in ("é", "漢字", "שלום", "مرحبا", "हिन्दी", "🙂", "❤️", "a b-c_d/e"):
        assert terminal(text) == text


@given(st.text())
def test_any_text_is_one_visible_line(text: str) -> None:
    shown = terminal(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert terminal(shown) == shown
    assert len(one_line(text, 20)) <= 23


@pytest.mark.parametrize("kind", [W2WError, UnknownNameError])
def test_an_error_is_one_visible_line(kind: type[W2WError]) -> None:
    assert str(kind(CONTROLS)).isprintable()
    assert len(str(kind("x" * 10**6))) < 3000


def run(function: Callable[[], object], **options: object) -> tuple[int, str, str]:
    """What a command that does this shows."""
    group = Sections(commands={"do": click.Command("do", callback=function)})
    result = CliRunner(**options).invoke(group, ["do"])
    return result.exit_code, result.stdout, result.stderr


def test_warnings_logs_and_errors_of_the_system_are_shown_as_text() -> None:
    logger = logging.getLogger("somebody")

    def fail() -> None:
        handler = logging.StreamHandler(sys.stderr)  # as libraries make their own
        logger.addHandler(handler)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"careful{CONTROLS}", UserWarning, stacklevel=1)
        logger.error("%s failed", f"download{CONTROLS}")
        logger.error("%d arguments that do not fit", CONTROLS)
        logger.removeHandler(handler)
        raise OSError(28, "no space", f"file{CONTROLS}")

    before = warnings.showwarning, logging.getLogRecordFactory()
    status, _, shown = run(fail)
    assert status == 2
    assert all(w in line for line, w in zip(shown.splitlines(), ("careful", "download", "fit", "file"), strict=True))
    assert terminal(shown, keep="\n") == shown
    assert (warnings.showwarning, logging.getLogRecordFactory()) == before


def test_a_traceback_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(f"not ours{CONTROLS}")
    except ValueError as error:
        output.say_traceback(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert "not ours" in shown
    assert terminal(shown, keep="\n") == shown


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_has_no_letter_for_is_escaped(charset: str) -> None:
    status, stdout, stderr = run(lambda: (output.data("é 漢"), output.say("é 漢")), charset=charset)
    assert status == 0
    assert stdout == stderr == {"ascii": "\\xe9 \\u6f22\n", "latin-1": "é \\u6f22\n", "utf-8": "é 漢\n"}[charset]


@pytest.mark.slow
def test_commands_work_in_a_locale_of_ascii(make_dataset: Callable[..., WeightDataset], tmp_path: Path) -> None:
    make_dataset(column_info={"Age": {"unit": "années", "source": "é"}}, name="gens é", compatibility=SHARED)
    script = """
import sys
from w2w_hub.cli import main
for words in (["inspect", "people"], ["relabel", "people", "--unit", "Hair=Farbe"], ["verify", "people", "--deep"],
              ["build", "people", "--k", "2", "--out", "space"], ["report", "space", "--out", "report"],
              ["inspect", "space"], ["read", "space", "p0"]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, (words, end.code)
"""
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"gens \\xe9" in done.stdout
    assert "gens é" in (tmp_path / "people" / "README.md").read_text("utf-8")
    assert "R²" in (tmp_path / "space" / "README.md").read_text("utf-8")


# ---------------------------------------------------------------- commands to run next
LETTERS = st.characters(exclude_categories=("C", "Zl", "Zp", "Zs"), include_characters=" ")
VISIBLE = st.text(LETTERS, min_size=1).filter(lambda text: terminal(text) == text)  # what is not is for bash, below


@given(VISIBLE, VISIBLE, VISIBLE)
def test_a_printed_command_is_read_by_a_shell_as_it_was_meant(path: str, name: str, value: str) -> None:
    words = shlex.split(command("w2w do", Path(path), name, options=("--out", value)))
    assert words[:2] == ["w2w", "do"]
    given_path = str(Path(path))
    expected = [f"./{given_path}" if given_path.startswith("-") else given_path, name]
    if name.startswith("-"):
        assert words[2:] == ["--out", value, "--", *expected]
    else:
        assert words[2:] == [*expected, "--out", value]


@pytest.mark.parametrize(
    "name", ["two words", "#2", "$(x)", "`x`", "~", "*", "-n", "a'b\"c", "a\nb", "\x1b[31m", "é\u202e", "\\"]
)
def test_bash_reads_a_printed_path_as_the_file_that_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.json").write_text("")
    line = command("printf '%s\\0'", Path(name), files_of(Path(name), "*.json"))
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert [Path(os.fsdecode(word)) for word in done.stdout.split(b"\0")[:-1]] == [Path(name), Path(name, "x.json")]


@pytest.mark.parametrize("name", ["it's two #2", "-n;b"])
def test_the_next_step_of_each_command_names_the_same_files(
    name: str, make_dataset: Callable[..., WeightDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(f"{name} data", compatibility=SHARED)
    data, space, points = Path(f"{name} data"), Path(f"{name} space"), Path(f"{name} points")

    def steps(*words: object) -> list[list[str]]:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        lines = [line for line in result.stderr.splitlines() if "next: w2w" in line or line.startswith("or: ")]
        return [
            shlex.split(line.partition("next: " if "next: " in line else "or: ")[2], comments=True) for line in lines
        ]

    def same(word: str, path: Path) -> bool:
        return Path(word) == path and not word.startswith("-")

    (step,) = steps("relabel", "--unit", "Hair=shade", "--", data)
    assert step[:2] == ["w2w", "inspect"]
    assert same(step[2], data)
    (step,) = steps("remove", "--", data, "p5")
    assert same(step[2], data)
    report, sample = steps("build", "--k", "2", "--out", space, "--", data)
    assert same(report[2], space)
    assert same(report[report.index("--dataset") + 1], data)
    assert same(sample[2], space)
    (step,) = steps("sample", "--out", points, "--", space)
    assert step[:2] == ["w2w", "render"]
    assert same(step[2], space)
    assert same(step[3], points / "*.json")
    (step,) = steps("edit", "--out", f"{name} edited.json", "--", space, "p1", "PC1=1")
    assert step[3] == "p1"
    assert same(step[4], Path(f"{name} edited.json"))


# ---------------------------------------------------------------- cards
@pytest.mark.parametrize(
    "text", ["people", "org/base", "CC-BY 4.0", "R² of 0.5 (95 % interval)", "a < b", "Hair=red", "my_base_2"]
)
def test_harmless_text_is_left_as_it_is_in_a_card(text: str) -> None:
    assert markdown(text) == text


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()), max_size=3))
def test_yaml_reads_back_and_can_be_seen(data: dict[str, object]) -> None:
    import yaml

    shown = yaml_text(data)
    assert yaml.safe_load(shown) == data
    assert terminal(shown, keep="\n") == shown
    assert "---" not in [line.strip() for line in shown.splitlines() if not line.startswith(" ")]


def test_a_card_whose_metadata_is_only_spelled_differently_is_still_rendered_anew(
    make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    """Version 0.1.0 wrote the same metadata as quoted JSON strings; such a card was not written by anybody."""
    card = Path(str(make_dataset().path), "README.md")
    card.write_text(card.read_text("utf-8").replace("license: unknown", 'license: "unknown"'), "utf-8")
    assert CliRunner().invoke(main, ["relabel", str(card.parent), "--unit", "Hair=shade"]).exit_code == 0
    assert "| `Hair` | categorical | shade |" in card.read_text("utf-8")
    card.write_text(card.read_text("utf-8") + "\nMy own words.\n", "utf-8")
    assert CliRunner().invoke(main, ["relabel", str(card.parent), "--unit", "Hair=hue"]).exit_code == 0
    assert "My own words." in card.read_text("utf-8")


def test_a_reader_that_goes_away_ends_a_command_without_a_message(
    make_dataset: Callable[..., WeightDataset], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    away, pipe = os.pipe()
    os.close(away)
    closed = os.fdopen(pipe, "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(make_dataset().path)])
    monkeypatch.undo()
    with suppress(BrokenPipeError):
        closed.close()
    assert ended.value.code == 1
    assert capfd.readouterr().err == ""
