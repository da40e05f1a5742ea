"""Scripts in processes of their own, forked from one that has the heavy imports behind it, but not huggingface_hub's.

The Hub's clients read their environment when they are imported, so that every scenario needs a fresh process;
starting each from nothing would spend most of the tests' time on importing pandas and zarr again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NURSERY = """
import json, os, sys, traceback
import numpy, pandas, pyarrow.parquet, scipy.linalg, zarr
import w2w_hub.cli, w2w_hub.dataset, w2w_hub.space

assert "huggingface_hub" not in sys.modules
print("ready", flush=True)

def work(job):
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(job["out"], name), os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["-c", *job["arguments"]]
    status = 0
    try:
        exec(compile(job["script"], "<scenario>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    job = json.loads(line)
    if os.fork():
        os.wait()
        continue
    if os.fork():
        os._exit(0)  # so that nobody waits for the script but its own parent, below
    child = os.fork()
    if child == 0:
        work(job)
    with open(job["out"] + "/pid.part", "w") as file:
        file.write(str(child))
    os.rename(job["out"] + "/pid.part", job["out"] + "/pid")
    _, status = os.waitpid(child, 0)
    with open(job["out"] + "/status.part", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
    os.rename(job["out"] + "/status.part", job["out"] + "/status")
    os._exit(0)
"""


@dataclass
class Job:
    """A script that was started."""

    out: Path

    def read(self, name: str, timeout: float = 120.0) -> str:
        end = time.monotonic() + timeout
        while not (self.out / name).exists():
            assert time.monotonic() < end, f"no {name} of a scenario after {timeout} s"
            time.sleep(0.003)
        return (self.out / name).read_text()

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        os.kill(int(self.read("pid")), signal.SIGKILL)
        self.read("status")

    def wait(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        return int(self.read("status")), self.read("stdout"), self.read("stderr")


class Nursery:
    """Starts scripts; one for all tests of a run."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "ready"

    def start(self, script: str, arguments: list[str], environment: dict[str, str], folder: Path) -> Job:
        self.count += 1
        out = self.folder / f"job-{self.count}"
        out.mkdir()
        job = {
            "script": script, "arguments": arguments, "environment": environment, "folder": str(folder), "out": str(out)
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Job(out)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)
