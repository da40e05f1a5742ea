"""Runs examples: a shell that knows ``*`` and ``>``; commands in this process, or in another that knows a Hub."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.hub.conftest import Client

SUBSTITUTED = {
    "--device cuda": "--device cpu",
    'TorchEngine("cuda")': 'TorchEngine("cpu")',
}  # and every descent has `STEPS` steps
STEPS = 4
OUTPUT = ("--out", "-o")


def substituted(text: str) -> str:
    for given, instead in SUBSTITUTED.items():
        text = text.replace(given, instead)
    return text


def words_of(line: str, folder: Path) -> tuple[list[str], str | None]:
    """The words of a command with ``*`` expanded in a folder, and the file that its output goes to."""
    words, into = shlex.split(substituted(line)), None
    if ">" in words:
        words, into = words[: words.index(">")], words[words.index(">") + 1]
    expanded = []
    for word in words:
        found = sorted(glob.glob(word, root_dir=folder)) if "*" in word else []
        expanded += found or [word]
    return expanded, into


def outputs_of(words: list[str]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words[:-1]) if word in OUTPUT]


def without_outputs(words: list[str], folder: Path) -> None:
    """Remove what a command makes, as if it had not run before."""
    if "--force" in words or "--resume" in words:
        return
    for name in outputs_of(words):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def in_this_process(line: str, folder: Path) -> str:
    """Run a `w2w` command, which must succeed; return its standard output."""
    from w2w_hub.cli import main

    words, into = words_of(line, folder)
    assert words[0] == "w2w", line
    without_outputs(words, folder)
    done = CliRunner().invoke(main, words[1:], prog_name="w2w")
    assert done.exit_code == 0, f"{line}\n{done.output}{done.exception or ''}"
    return finished(words, into, done.stdout, folder)


def on_the_hub(line: str, client: Client, folder: Path) -> str:
    """Do the same in a process whose Hub is the client's."""
    words, into = words_of(line, folder)
    assert words[0] == "w2w", line
    without_outputs(words, folder)
    script = "from w2w_hub.cli import main\nmain(prog_name='w2w')"
    done = client.nursery.start(script, words[1:], client.environment(), folder).wait()
    client.listen(done[1] + done[2])
    assert done[0] == 0, f"{line}\n{done[1]}{done[2]}"
    return finished(words, into, done[1], folder)


def finished(words: list[str], into: str | None, stdout: str, folder: Path) -> str:
    for name in outputs_of(words):
        assert os.path.lexists(folder / name), name
    if into is not None:
        assert stdout
        (folder / into).write_text(stdout, "utf-8")
    return stdout


def python_on_the_hub(code: str, client: Client, folder: Path) -> None:
    done = client.nursery.start(code, [], client.environment(), folder).wait()
    client.listen(done[1] + done[2])
    assert done[0] == 0, f"{code}\n{done[1]}{done[2]}"


def run_python(code: str, where: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(substituted(code), f"<{where}>", "exec"), names)
    return names
