"""The shell completes commands, options, choices and attributes, quickly, and by a script that click writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_hub import WeightDataset

PROGRAM = """
import json, os, sys
from w2w_hub.cli import main
for words in json.loads(sys.argv[1]):
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = " ".join(["w2w", *words]), str(len(words))
    print("::")
    try:
        main(args=[], prog_name="w2w")
    except SystemExit:
        pass
heavy = {"torch", "diffusers", "sklearn", "pandas", "zarr", "pyarrow", "huggingface_hub"} & set(sys.modules)
print("::", *heavy)
"""


def completed(*lines: list[str], folder: Path) -> tuple[list[set[str]], set[str]]:
    """What follows each beginning of a command line, in one process, and heavy packages that it imported."""
    environment = {**os.environ, "_W2W_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *parts, heavy = done.stdout.split("::")[1:]
    return [{line.partition(",")[2] for line in part.split()} for part in parts], set(heavy.split())


def test_commands_options_choices_and_attributes_are_completed_without_heavy_imports(
    make_dataset: Callable[..., WeightDataset], tmp_path: Path
) -> None:
    (tmp_path / "space").mkdir()
    manifest = {
        "format": "w2w-space",
        "directions": ["Beard", "Bald", "Hat", "B;id", "B$(id)", "B\nplain,Bx", "-B", "B a"],
    }
    (tmp_path / "space" / "manifest.json").write_text(json.dumps(manifest))
    (commands, options, choices, attributes, none), heavy = completed(
        ["ed"], ["edit", "--pre"], ["edit", "space", "p1", "--unit", "ty"], ["grid", "space", "p1", "--attribute", "B"],
        ["grid", "nowhere", "p1", "--attribute", "B"], folder=tmp_path,
    )  # fmt: skip
    assert commands == {"edit"}
    assert options == {"--preserve"}
    assert choices == {"typical"}
    assert attributes == {"Beard", "Bald"}
    assert none == set()
    assert not heavy
    (dialects, solvers), _ = completed(
        ["convert", "x", "--to", "pe"], ["build", "people", "--solver", "kry"], folder=tmp_path
    )
    assert dialects == {"peft"}
    assert solvers == {"krylov"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_written_and_read_by_it(shell: str) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "w2w_hub"], env={**os.environ, "_W2W_COMPLETE": f"{shell}_source"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "_W2W_COMPLETE" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
