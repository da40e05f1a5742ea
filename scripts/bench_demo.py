"""Measure `w2w demo` and `import w2w_hub`: `python scripts/bench_demo.py [OUT]`; a given OUT is kept.

Prints one JSON object. Times on shared processors vary; the limits they are held against are in BENCHMARKS.md.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def import_seconds(module: str, runs: int = 7) -> float:
    """Return the median seconds of importing a module in a fresh interpreter, minus those of an empty one."""
    times = []
    for _ in range(runs):
        for statement in ("pass", f"import {module}"):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times.append(time.perf_counter() - began)
    return statistics.median(b - a for a, b in zip(times[::2], times[1::2], strict=True))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "demo"
        began = time.perf_counter()
        command = [sys.executable, "-c", "from w2w_hub.cli import main; main()", "demo", "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        stages = json.loads((out / "metrics.json").read_text())["seconds"]
    report = {
        "cores": os.cpu_count(),
        "demo_seconds": round(seconds, 1),
        "demo_peak_gb": round(peak, 2),
        "demo_stages": stages,
        "import_seconds": round(import_seconds("w2w_hub"), 3),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
