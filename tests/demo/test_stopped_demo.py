"""A demo that is killed or interrupted in any of its stages goes on where it was, and gives the same report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ..tiny_world import TinyWorld
from .test_run import tell

pytestmark = pytest.mark.slow

# One interpreter that has everything imported forks a process for each run of the command. Those to be killed kill
# themselves just before a rename that puts something into the demo's folder: the first or second one of a stage.
RUNS = """
import json, os, signal, sys, time
from pathlib import Path
import pytest
import w2w_hub.demo.run
from tests.demo.test_run import make_quick
from tests.killing import kill_at
from w2w_hub.cli import main

make_quick(pytest.MonkeyPatch())
root, assets = Path(sys.argv[1]), sys.argv[2]

def started(out, at=None):
    pid = os.fork()
    if pid:
        return pid
    with open(f"{out}.log", "w") as log:
        os.dup2(log.fileno(), 2)
    journals = 0

    def counts(event, arguments):
        nonlocal journals
        if event not in ("os.rename", "os.link") or not str(arguments[1]).startswith(f"{out}/"):
            return False
        before = journals
        journals += str(arguments[1]) == f"{out}/demo.json"
        return before > 0

    kill_at(at, counts)
    code = 70
    try:
        main(["demo", "--out", str(out), "--assets", assets, "--resume"])
    except SystemExit as error:
        code = error.code or 0
    finally:
        os._exit(code)

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def finished(out):
    return list(json.loads((out / "demo.json").read_text())["stages"]) if (out / "demo.json").exists() else []

def log(out):
    return Path(f"{out}.log").read_text()

killed, out = [], root / "killed" / "out"
out.parent.mkdir()
for stage in range(7):
    code = status(started(out, at=1 + stage % 2))
    killed.append([code, finished(out), log(out).count("is there already")])
last = [status(started(out)), log(out).count("is there already")]
stopped, out = [], root / "stopped" / "out"
out.parent.mkdir()
for number, wanted in ((signal.SIGINT, 1), (signal.SIGTERM, 2)):
    pid = started(out)
    while len(finished(out)) < wanted:
        time.sleep(0.02)
    os.kill(pid, number)
    stopped.append([status(pid), finished(out), [str(path) for path in out.rglob("*partial*")], log(out)])
print(json.dumps({"killed": killed, "last": last, "stopped": stopped}))
"""
STAGES = ["dataset", "weight space", "held-out people", "samples", "edits", "inversion", "export", "report"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stopped")


@pytest.fixture(scope="module")
def runs(tiny_world: TinyWorld, root: Path) -> dict[str, Any]:
    words = [sys.executable, "-c", RUNS, str(root), str(tiny_world.assets)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_demo_killed_in_each_stage_does_no_finished_stage_again(runs: dict[str, Any]) -> None:
    for number, (status, finished, kept) in enumerate(runs["killed"], 1):
        assert status == -9
        assert finished == STAGES[:number]
        assert kept == number - 1
    assert runs["last"] == [0, 7]


def test_a_demo_killed_in_each_stage_gives_the_same_files_as_one_that_ran_through(
    runs: dict[str, Any], root: Path, tiny_world: TinyWorld, made_once: Callable[..., Path]
) -> None:
    through = made_once("demo-first", lambda folder: tell(tiny_world, folder)) / "out"
    continued = root / "killed" / "out"
    names = [path.relative_to(through) for path in through.rglob("*") if path.is_file()]
    assert sorted(names) == sorted(path.relative_to(continued) for path in continued.rglob("*") if path.is_file())
    for name in names:
        if name.suffix in (".html", ".png"):
            assert (continued / name).read_bytes() == (through / name).read_bytes(), name
        if name.suffix == ".safetensors":  # the order of its metadata may differ
            one, other = load_file(continued / name), load_file(through / name)
            assert one.keys() == other.keys()
            assert all((one[key] == other[key]).all() for key in one), name
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (through, continued))
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert first == second


def test_an_interrupted_demo_keeps_its_stages_leaves_nothing_unfinished_and_prints_the_next_command(
    runs: dict[str, Any], root: Path
) -> None:
    for (status, finished, left, log), expected, count in zip(runs["stopped"], (130, 143), (1, 2), strict=True):
        assert status == expected
        assert finished[:count] == STAGES[:count]
        assert not left
        assert f"--out {root}/stopped/out --resume" in log
        assert "Traceback" not in log
