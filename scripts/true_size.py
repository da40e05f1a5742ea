"""Pack, verify and read a population of the paper's size once: 64,974 x 99,648 in float16, 13 GB.

    python scripts/true_size.py --out work/true-size

The checkpoints are synthetic PEFT folders; 64,974 of them would take another 26 GB, so a smaller number of real
folders (``--distinct``) is linked under 64,974 names, and each is read, converted and written as any other. The
disk's own speed is measured in the same run, by a plain sequential write with a flush and a read past the page cache.
Memory is the peak of anonymous resident memory (RssAnon + RssShmem in /proc/self/status, summed over this process and
its children, sampled every 50 ms): mapped file pages, which the system can drop at any time, are not in it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from w2w_hub.store.byte_source import ByteSource

ROWS = 64_974
NAMES = ("RssAnon:", "RssShmem:")


class Peak:
    """Tracks the peak anonymous memory of this process and its children, in MB."""

    def __enter__(self) -> Peak:
        self.mb, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.mb = max(self.mb, sum(map(self._of, self._family(os.getpid()))) / 1000)

    def _family(self, pid: int) -> list[int]:
        try:
            children = [
                int(c) for t in os.listdir(f"/proc/{pid}/task")
                for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()
            ]  # fmt: skip
        except OSError:
            children = []
        return [pid, *(p for child in children for p in self._family(child))]

    def _of(self, pid: int) -> int:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith(NAMES))


def disk_speed(folder: Path, size: int = 2_000_000_000) -> tuple[float, float]:
    """Return MB/s of one sequential write with a flush, and of reading it back past the page cache."""
    path = folder / "disk-speed"
    block = np.random.default_rng(0).bytes(8_000_000)
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    wrote = time.perf_counter() - began
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    while os.read(descriptor, 8_000_000):
        pass
    read = time.perf_counter() - began
    os.close(descriptor)
    path.unlink()
    return size / wrote / 1e6, size / read / 1e6


class Counted(ByteSource):
    """Ranged reads of a folder, like a remote store's, that count requests and bytes."""

    def __init__(self, folder: Path):
        self.folder, self.bytes, self.requests = folder, 0, 0

    def size(self, path: str) -> int:
        return (self.folder / path).stat().st_size

    def read(self, path: str, start: int, stop: int) -> bytes:
        self.bytes, self.requests = self.bytes + stop - start, self.requests + 1
        with open(self.folder / path, "rb") as file:
            file.seek(start)
            return file.read(stop - start)


def main() -> None:
    import pandas as pd

    sys.path.insert(0, str(Path(__file__).parent))
    from sizes import sd15_layout

    import w2w_hub
    from w2w_hub.dataset import check
    from w2w_hub.dataset.matrix.sharded_matrix import ShardedMatrix

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="A new folder, removed afterwards.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--distinct", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    layout, n = sd15_layout(), options.rows
    lines: list[tuple[str, str, str]] = []

    def measure(what: str, work: Any, size: float = 0.0) -> Any:
        began = time.perf_counter()
        with Peak() as peak:
            result = work()
        took = time.perf_counter() - began
        speed = f", {size / took / 1e6:,.0f} MB/s" if size else ""
        lines.append((what, f"{took:,.1f} s{speed}", f"{peak.mb:,.0f}"))
        print("|", " | ".join(lines[-1]), "|", flush=True)
        return result

    try:
        rng = np.random.default_rng(0)
        for i in range(min(options.distinct, n)):
            row = rng.standard_normal(layout.size, np.float32) * 0.02
            w2w_hub.write_adapter(layout.unflatten(row), options.out / "distinct" / f"{i}", ("peft",))
        (options.out / "loras").mkdir()
        loras = [options.out / "loras" / f"person-{i:05d}" for i in range(n)]
        for i, lora in enumerate(loras):
            lora.symlink_to(Path("..") / "distinct" / str(i % options.distinct))
        table = pd.DataFrame({"id": [p.name for p in loras], "person": rng.integers(0, n // 6 + 1, n).astype(str)})
        for k in range(40):
            table[f"attribute_{k:02d}"] = rng.random(n) < 0.3
        wrote, read = disk_speed(options.out)
        lines.append(("the disk itself, 2 GB", f"write {wrote:,.0f} MB/s, read {read:,.0f} MB/s", "-"))
        print("|", " | ".join(lines[-1]), "|", flush=True)
        size = n * layout.size * 2
        rule = w2w_hub.dataset.SplitRule("person", 0.1)
        target = options.out / "people"
        ds = measure(
            f"pack, {options.workers} processes, flushed",
            lambda: w2w_hub.pack_adapters(
                loras[:-100], target, labels=table[:-100], split_rule=rule, dtype="float16", parquet_view=False,
                workers=options.workers, initialization="synthetic",
            ),
            size,
        )  # fmt: skip
        ds = measure(
            "add 100 checkpoints",
            lambda: w2w_hub.add_rows(target, loras[-100:], labels=table[-100:], initialization="synthetic"),
        )
        assert len(ds) == n
        ds = measure("open", lambda: w2w_hub.WeightDataset.open(target))
        numbers = rng.integers(0, n, 2000)
        measure("2,000 random rows", lambda: [ds[int(i)] for i in numbers], 2000 * layout.size * 2)
        measure("every row once, in blocks", lambda: [b[0, 0] for _, b in ds.iter_blocks()], size)
        measure("verify", lambda: check(target, deep=False).raise_if_any())
        measure("verify --deep", lambda: check(target).raise_if_any(), 2 * size)
        lazy = measure("load_dataset (lazy)", lambda: w2w_hub.load_dataset(target, cache_dir=options.out / "cache"))
        measure("its first row of each split", lambda: [part[0]["weights"] for part in lazy.values()])
        source = Counted(target)
        matrix = ShardedMatrix(source)
        opened, before = source.bytes, source.requests
        assert np.array_equal(matrix.row(int(numbers[0])), ds[int(numbers[0])])
        one = source.bytes - opened
        told = f"{one / 1e3:,.0f} kB in {source.requests - before} requests, after {opened / 1e3:,.1f} kB of metadata"
        lines.append(("one row by ranged reads", told, "-"))
        print("|", " | ".join(lines[-1]), "|", flush=True)
        ds = measure(
            "remove 3 rows",
            lambda: (
                w2w_hub.dataset.remove_rows(target, ["person-00001", "person-30000", "person-64000"])
                if n > 64000
                else w2w_hub.dataset.remove_rows(target, ["person-00001"])
            ),
        )
        shards = 0 if ds.geometry is None else ds.geometry.shards
        print(f"\n{n:,} x {layout.size:,} float16 in {shards} shards of {ds.geometry.shard_rows:,} rows")
    finally:
        shutil.rmtree(options.out)


if __name__ == "__main__":
    main()
