"""Measure the drawing of four people on two cores, idle and beside one busy process, by how OpenMP threads wait.

    python scripts/bench_busy.py [--rounds 5]

Every figure is the median of as many drawings by the shipped base model as --rounds says, after one to warm up, in a
process of its own that may use two cores. "default" sets nothing, "w2w" is what the command line sets
(`w2w_hub.common.threads`), "passive" is OMP_WAIT_POLICY=PASSIVE. Prints one JSON object: seconds, and their ratios
"beside" (beside a busy process / idle, of one setting) and "idle" (idle / idle with the default). Another load of the
machine spoils them, so the load average at the start is part of the output.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[1] / "w2w_hub" / "demo" / "assets"
STATED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_NUM_THREADS")
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {  # what is imported first, and the environment
    "default": ("w2w_hub", {}),
    "w2w": ("w2w_hub.cli", {}),
    "passive": ("w2w_hub", {"OMP_WAIT_POLICY": "PASSIVE"}),
}
PEOPLE, STEPS = 4, 15
DRAW = """
import json, statistics, sys, time, warnings
import {first}
import torch
from w2w_hub import W2WPipeline, WeightDataset, build_space
warnings.simplefilter("ignore")
space = build_space(WeightDataset.open({assets!r} + "/rows"), 20, directions=False)
pipe = W2WPipeline.from_base({assets!r} + "/base", space=space, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
people = list(space.population.ids[:{people}])
seconds = []
for _ in range({rounds} + 1):
    began = time.perf_counter()
    pipe.render(people, [("sks person", 0)], num_inference_steps={steps}, guidance_scale=2.0)
    seconds.append(time.perf_counter() - began)
print(json.dumps({{"seconds": statistics.median(seconds[1:]), "threads": torch.get_num_threads()}}))
"""


def cores() -> list[int]:
    """Return two cores of this process, or fewer if it has no more."""
    return sorted(os.sched_getaffinity(0))[:2]


@contextmanager
def busy() -> Iterator[None]:
    """Keep one core busy with another process."""
    other = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], preexec_fn=lambda: os.sched_setaffinity(0, cores())
    )
    try:
        yield
    finally:
        other.kill()
        other.wait()


def draw(setting: str, rounds: int) -> float:
    """Return the median seconds of a drawing."""
    first, given = SETTINGS[setting]
    environment = {name: value for name, value in os.environ.items() if name not in STATED}
    code = DRAW.format(first=first, assets=str(ASSETS), people=PEOPLE, rounds=rounds, steps=STEPS)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | given | {"OMP_NUM_THREADS": str(len(cores()))}, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores()),
    )  # fmt: skip
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def measure(rounds: int) -> dict[str, Any]:
    """Return seconds and ratios of all settings."""
    report: dict[str, Any] = {"cores": len(cores()), "load": round(os.getloadavg()[0], 1), "people": PEOPLE}
    for setting in SETTINGS:
        found = {}
        for name in ("idle", "beside"):
            with ExitStack() as stack:
                if name == "beside":
                    stack.enter_context(busy())
                found[name] = round(draw(setting, rounds), 3)
        report[setting] = {"seconds": found, "beside": round(found["beside"] / found["idle"], 2)}
        report[setting]["idle"] = round(found["idle"] / report["default"]["seconds"]["idle"], 2)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="drawings per figure")
    print(json.dumps(measure(parser.parse_args().rounds), indent=1))


if __name__ == "__main__":
    main()
