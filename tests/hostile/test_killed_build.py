"""Builds killed at every step that touches a file: the same call again gives the same space and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import w2w_hub

# One interpreter that has everything imported forks a builder for each point. A builder kills itself at the n-th call
# that touches a path below its folder, and the same call runs again in another process, which is killed too in some
# of the cases, and then to the end.
FORKS = """
import json, os, random, shutil, sys
from pathlib import Path
import numpy as np, pyarrow.parquet, scipy.linalg
from tests.killing import kill_at
from tests.space.population import dataset_of, decaying
from w2w_hub import WeightSpace
from w2w_hub.store import atomic
from w2w_hub.space import Krylov
from w2w_hub.space.fit.build_and_save import build_and_save, unfinished
from w2w_hub.space.fit.resume import ResumeFolder

atomic.DURABLE = False
os.fsync = lambda descriptor: None  # what a power cut leaves is no matter here, and flushing is slow
root, step = Path(sys.argv[1]), int(sys.argv[2])
dataset = dataset_of(root / "people", decaying(30, 40))
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "shutil.rmtree"}

def forked(work):
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def build(folder, at=None, count=None):
    below = str(folder.parent)
    calls = kill_at(at, lambda event, arguments: event in WATCHED and str(arguments[0]).startswith(below))
    built = build_and_save(dataset, folder, 3, solver=Krylov(block=4), directions=False)
    if count is not None:
        count.write_text(json.dumps([calls.seen, built.digest]))

def fresh(name, start):
    folder = root / name / "space"
    folder.parent.mkdir()
    (folder.parent / "thesis.tex").write_text("mine")
    if start == "other":  # passes of a build of other inputs
        kept = ResumeFolder(unfinished(folder), "other")
        for result in ("moments", "pass-001"):
            kept.remember(result, lambda: {"product": np.zeros(3)})
        kept.release()
    elif start == "empty":
        unfinished(folder).mkdir()
    return folder

def judged(start, at, total):
    folder = fresh("run", start)
    case = {"start": start, "at": at, "killed": forked(lambda: build(folder, at)), "there": folder.exists()}
    if at % 4 == 0:
        forked(lambda: build(folder, rng.randint(1, total)))
    case["finished"] = forked(lambda: build(folder)) if unfinished(folder).exists() or not folder.exists() else 0
    manifest = folder / "manifest.json"
    case["digest"] = json.loads(manifest.read_text())["digest"] if manifest.is_file() else None
    case["left"] = sorted(p.name for p in folder.parent.iterdir())
    case["mine"] = (folder.parent / "thesis.tex").read_text()
    if at % 10 == 0 or case["there"]:
        assert WeightSpace.from_pretrained(folder).digest == case["digest"]
    shutil.rmtree(folder.parent)
    return case

rng = random.Random(0)
assert forked(lambda: build(fresh("whole", "nothing"), None, root / "count")) == 0
total, digest = json.loads((root / "count").read_text())
# what a build finds at its start matters at its start
plan = [("nothing", at) for at in sorted({*range(1, total + 1, step), *range(total - 5, total + 1)})]
plan += [("empty", at) for at in range(1, 13, step)] + [("other", at) for at in range(1, 20, step)]
print(json.dumps({"total": total, "digest": digest, "results": [judged(*point, total) for point in plan]}))
"""


def run(script: str, *words: object) -> Any:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], cwd=Path(w2w_hub.__file__).parents[1], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_build_killed_at_any_step_gives_the_same_space_when_it_is_run_again(tmp_path: Path, step: int) -> None:
    found, errors = run(FORKS, tmp_path, step)
    assert found["total"] > 30
    for case in found["results"]:
        assert case["killed"] == -9, case
        assert case["finished"] == 0, (case, errors)
        assert case["digest"] == found["digest"], case
        assert case["mine"] == "mine"
        assert case["left"] == ["space", "thesis.tex"], case
    assert any(case["there"] for case in found["results"])  # killed after the space was saved, too
    assert not all(case["there"] for case in found["results"])
