"""Time the checks of an offered batch beside reading it.

    python scripts/bench_review.py

A batch of 100 adapters of Stable Diffusion 1.5 (rank 1, 99,648 numbers) is read, and checked against a dataset of 500
rows whose sketches are repeated to 65,000. Both are times of one run on a warm cache; the ratio of medians counts. The
time of all processor cores beside it is what a busy machine can still compare.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_hub import started
from sizes import sd15_layout

from w2w_hub import WeightDataset, write_dataset
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.release.contribution.batch import FOLDER, pack_batch, read_batch
from w2w_hub.release.contribution.checks import Reference, check_batch

ROWS, OFFERED, PUBLISHED = 500, 100, 65_000
STATED = {"source": "made up", "licence": "cc0-1.0", "consent": "not needed"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7, help="of which the median counts")
    turns = parser.parse_args().turns
    layout, rng = sd15_layout(), np.random.default_rng(0)
    start = started(layout)

    def rows(count: int) -> np.ndarray:
        return (start + 0.1 * rng.standard_normal((count, layout.size), dtype=np.float32)).astype(np.float32)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ids = [f"person-{i:05d}" for i in range(ROWS)]
        write_dataset(
            rows(ROWS), folder / "people", layout=layout, ids=ids, labels=pd.DataFrame({"id": ids, **STATED}),
            compatibility=Compatibility(None, None, "seed-0"), start_adapter=layout.unflatten(start),
            parquet_view=False,
        )  # fmt: skip
        reference = Reference.of(WeightDataset.open(folder / "people"))
        assert reference.sketches is not None
        values = np.resize(reference.sketches.values, (PUBLISHED, reference.sketches.values.shape[1]))
        reference.sketches = replace(reference.sketches, values=values)
        offered = [{"id": f"new-{i:03d}", **STATED} for i in range(OFFERED)]
        name, files = pack_batch([label["id"] for label in offered], rows(OFFERED), offered, {}, layout)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        assert (folder / FOLDER / name).is_dir()
        batch = read_batch(folder, name, layout)
        refused = [verdict for verdict in check_batch(batch, reference) if not verdict.ok]
        assert not refused, refused[0]
        reading = [timed(lambda: read_batch(folder, name, layout)) for _ in range(turns)]
        checking = [timed(lambda: check_batch(batch, reference)) for _ in range(turns)]
    print(f"| | read {OFFERED} rows | check them against {PUBLISHED:,} | both, of reading |\n| --- | --- | --- | --- |")
    for name, read, check in zip(
        ("elapsed", "of all cores"), zip(*reading, strict=True), zip(*checking, strict=True), strict=True
    ):
        first, second = median(read), median(check)
        print(f"| {name} | {first:.3f} s | {second:.3f} s | {(first + second) / first:.2f} |")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the elapsed time and that of all cores."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


if __name__ == "__main__":
    main()
