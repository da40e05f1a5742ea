"""Measure `w2w demo` on two cores, idle and beside one busy process, and `import w2w_hub`.

    python scripts/bench_demo.py [OUT] [--idle-only] [--rounds 5]

A given OUT is kept. Prints one JSON object. Seconds on shared processors vary, their ratios "beside" (beside a busy
process / idle, of this run) less so; the load average at the start is part of the output. "drawing" is what
`bench_busy.py` prints: four people drawn with and without the setting of the command line. The limits are in
BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench_busy import busy, cores, measure

DEMO = "from w2w_hub.cli import main; main()"


def import_seconds(module: str, runs: int = 7) -> float:
    """Return the median seconds of importing a module in a fresh interpreter, minus those of an empty one."""
    times = []
    for _ in range(runs):
        for statement in ("pass", f"import {module}"):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times.append(time.perf_counter() - began)
    return statistics.median(b - a for a, b in zip(times[::2], times[1::2], strict=True))


def demo(out: Path) -> dict[str, Any]:
    """Run the demo on two cores; return its seconds, start included, and those of its stages."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", DEMO, "demo", "--out", str(out)], check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores()),
    )  # fmt: skip
    seconds = round(time.perf_counter() - began, 1)
    return {"seconds": seconds, "stages": json.loads((out / "metrics.json").read_text())["seconds"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, help="folder of the idle demo, which is kept")
    parser.add_argument("--idle-only", action="store_true", help="measure nothing beside a busy process")
    parser.add_argument("--rounds", type=int, default=5, help="drawings of four people per figure")
    given = parser.parse_args()
    report: dict[str, Any] = {"cores": len(cores()), "load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("idle",) if given.idle_only else ("idle", "beside"):
            out = given.out if given.out and name == "idle" else Path(folder) / name
            with busy() if name == "beside" else nullcontext():
                report[name] = demo(out)
            if name == "idle":
                report["peak_gb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2)
    if "beside" in report:
        idle, beside = report["idle"], report["beside"]
        stages = {name: round(s / max(idle["stages"][name], 0.1), 2) for name, s in beside["stages"].items()}
        report["ratios"] = {"demo": round(beside["seconds"] / idle["seconds"], 2), "stages": stages}
        report["drawing"] = measure(given.rounds)
    report["import_seconds"] = round(import_seconds("w2w_hub"), 3)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
