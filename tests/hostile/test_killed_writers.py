"""Writers killed with SIGKILL: the old state or the new one opens and verifies, and the same command finishes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import w2w_hub

# One interpreter that has everything imported forks a writer for each point. A writer kills itself at the k-th of the
# calls that touch the file system, or is killed after a time; what it left is judged by yet another process.
FORKS = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow.parquet
import w2w_hub
from tests.killing import kill_at
from w2w_hub.dataset import integrity, relabel_rows, remove_rows  # imports all that writes
from w2w_hub.store import atomic
from w2w_hub.store import commit as state
from w2w_hub.store import locks
from w2w_hub.lora.adapter import Target
from w2w_hub.dialects import write_adapter

atomic.DURABLE = False  # what a power cut leaves is no matter here, and flushing is slow
root, operation, points, timed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
layout = w2w_hub.ParameterLayout({Target("unet", "mid_block.attentions.0.proj_in"): (1, 40, 60)}, 2.0)
rng = np.random.default_rng(0)
loras = []
for i in range(7):
    loras.append(root / "loras" / f"l{i}")
    write_adapter(layout.unflatten(rng.normal(size=100)), loras[-1], ("peft",))
table = pd.DataFrame({"id": [p.name for p in loras], "split": ["train", "test"] * 3 + ["train"], "Age": range(7)})
small = {"shard_size": 1000, "labels": table[:4]}  # two rows a shard

def packed(folder):
    return w2w_hub.pack_adapters(loras[:4] if operation != "pack" else loras, folder,
                                 **(small if operation != "pack" else small | {"labels": table}))

operations = {
    "pack": packed,
    "add": lambda folder: w2w_hub.add_rows(folder, loras[4:], labels=table[4:]),
    "remove": lambda folder: remove_rows(folder, ["l1"]),
    "relabel": lambda folder: relabel_rows(folder, table[:2].assign(split="test", Age=70.0)),
}
run = operations[operation]
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "fcntl.flock"}

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
    return pid

def write(folder, at=None, count=None):
    calls = kill_at(at, lambda event, _: event in WATCHED)
    run(folder)
    if count is not None:
        Path(count).write_text(str(calls.seen))

def judge(folder, out):
    found = {"there": folder.exists()}
    def tree():
        return sorted((str(p), p.lstat().st_mtime_ns, p.lstat().st_ino) for p in folder.parent.rglob("*"))
    before = tree()
    if found["there"]:
        opened = w2w_hub.WeightDataset.open(folder)
        opened.verify()
        found["digest"] = opened.manifest.digest
        found["rows"] = len(opened)
        found["unfinished"] = integrity.check(folder, deep=False).unfinished
        found["read"] = tree() == before
        found["repaired"] = state.repair(folder)
    if not found["there"] or found["digest"] == old:
        run(folder)  # the same call again finishes
    after = w2w_hub.WeightDataset.open(folder)
    after.verify()
    found["after"] = after.manifest.digest
    with locks.writer_lock(folder):  # a writer killed before its last step leaves a lock file
        pass
    found["left"] = sorted(p.name for p in [*folder.parent.iterdir(), *folder.iterdir()] if p.name.startswith("."))
    Path(out).write_text(json.dumps(found))

warm = packed(root / "warm")  # whatever is imported late, so that each fork need not import it
integrity.check(warm.path)
warm.verify()
start = root / "start"
old = None if operation == "pack" else packed(start).manifest.digest
def fresh(name):
    folder = root / name / "people"
    folder.parent.mkdir()
    if old is not None:
        shutil.copytree(start, folder)
    return folder

began = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(forked(lambda: write(fresh("whole"), None, root / "count")), 0)[1]) == 0
took = time.monotonic() - began
total = int((root / "count").read_text())
new = w2w_hub.WeightDataset.open(root / "whole" / "people").manifest.digest
rng = random.Random(1)
plan = [("call", k) for k in sorted({*rng.sample(range(1, total + 1), points), total - 9, total - 3, total})]
plan += [("time", rng.uniform(0, took)) for _ in range(timed)]
results = []
for number, (kind, at) in enumerate(plan):
    folder = fresh(f"run-{number}")
    pid = forked(lambda: write(folder, at if kind == "call" else None))
    if kind == "time":
        time.sleep(at)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    judged = os.waitstatus_to_exitcode(os.waitpid(forked(lambda: judge(folder, root / "found")), 0)[1])
    found = json.loads((root / "found").read_text()) if judged == 0 else {}
    results.append({"kind": kind, "at": at, "status": status, "judged": judged} | found)
    shutil.rmtree(folder.parent)
    (root / "found").unlink(missing_ok=True)
print(json.dumps({"old": old, "new": new, "calls": total, "results": results}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize(
    ("operation", "points", "timed"),
    [
        *(("pack", 6, 1), ("add", 6, 1)),
        *(pytest.param(name, 30, 3, marks=pytest.mark.slow) for name in ("pack", "add", "remove", "relabel")),
    ],
)
def test_a_writer_killed_at_any_point_leaves_the_old_state_or_the_new_and_the_same_call_finishes(
    tmp_path, operation, points, timed
):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path), operation, str(points), str(timed)],
        cwd=Path(w2w_hub.__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["old"] != found["new"]
    killed = [case for case in found["results"] if case["status"] == -9]
    assert len(killed) >= points
    for case in found["results"]:
        assert case["judged"] == 0, (case, done.stderr)
        if case["there"]:
            assert case["digest"] in (found["old"], found["new"]), case
            assert case["read"], case  # nothing on disk was changed by opening and verifying
            assert case["repaired"] == case["unfinished"], case
        else:
            assert operation == "pack", case
        assert case["after"] == found["new"], case
        assert case["left"] == [], case
    states = {case.get("digest") for case in killed}
    assert states == {found["old"], found["new"]}  # the points lie on both sides of the commit
