"""Measure `w2w import-w2w` on random files of the published shapes: seconds and peak memory.

    python scripts/bench_import.py FOLDER --rows 2000 --columns 2000

writes FOLDER/w2w (published widths: 99,648 numbers per row; fewer rows or components as given), imports it into
FOLDER/out in a process of its own, and prints the peak of its resident memory, mapped pages included.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

SIZE, PUBLISHED = 99_648, 1000
CHILD = """
import json, resource, sys, time, warnings
from w2w_hub.upstream import import_w2w
warnings.simplefilter("ignore")
began = time.monotonic()
k = None if sys.argv[3] == "all" else int(sys.argv[3])
report = import_w2w(sys.argv[1], sys.argv[2], k=k).report
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
seconds = round(time.monotonic() - began, 1)
print(json.dumps({"seconds": seconds, "peak_gib": round(peak, 3), "checks": report["checks"]}))
"""


def save_random(path: Path, rows: int, columns: int, seed: int) -> None:
    """Save a random matrix, a part of it in memory at a time, unless there is a file of its size."""
    if path.is_file() and 0 <= path.stat().st_size - rows * columns * 4 < 10_000:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = path.with_suffix(".raw")
    values = np.memmap(raw, np.float32, "w+", shape=(rows, columns))
    draw = np.random.default_rng(seed)
    for start in range(0, rows, 1024):
        part = values[start : start + 1024]
        part[:] = draw.standard_normal(part.shape, np.float32) / np.float32(SIZE**0.5)
    values.flush()
    torch.save(torch.from_numpy(values), path)
    raw.unlink()


def write(folder: Path, rows: int, columns: int, with_rows: bool) -> None:
    files = folder / "files"
    save_random(files / "V.pt", SIZE, columns, 0)
    save_random(files / "proj_1000pc.pt", rows, min(PUBLISHED, columns), 1)
    torch.save(torch.zeros(SIZE), files / "mean.pt")
    torch.save(torch.full((SIZE,), 0.01), files / "std.pt")
    names = [str(i) for i in range(rows)]
    draw = np.random.default_rng(2)
    labels = {f"attribute_{i}": draw.choice([-1, 1], rows) for i in range(40)}
    torch.save(pd.DataFrame(labels, index=names), files / "identity_df.pt")
    if with_rows:
        save_random(folder / "weights_datasets" / "identities" / "all_weights.pt", rows, SIZE, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=2000, help="components in V.pt; 10,000 were published")
    parser.add_argument("--k", default="all")
    parser.add_argument("--without-weights", action="store_true", help="leave all_weights.pt out")
    given = parser.parse_args()
    source, out = given.folder / "w2w", given.folder / "out"
    began = time.monotonic()
    write(source, given.rows, given.columns, not given.without_weights)
    print(f"written after {time.monotonic() - began:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} KiB")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", CHILD, str(source), str(out), given.k]
    print(json.dumps(json.loads(subprocess.run(command, capture_output=True, check=True).stdout), indent=1))


if __name__ == "__main__":
    main()
