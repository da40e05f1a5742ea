"""Compare the dataset's speed with its peers', interleaved in one run; prints the table for BENCHMARKS.md.

    pip install h5py
    python scripts/bench_dataset.py --rows 1500 --repeats 5

Every figure is the median over repeats of the bound's time divided by the peer's in the same repeat (for reads:
memmap's time / the peer's), so that a busy machine slows both sides. Each reader is a process of its own, since what
one leaves behind, threads, caches and freed memory, is another's advantage or loss; they take turns, one at a time. The
page cache is warm, as it is for all peers. All readers' allocators keep freed memory (`MALLOC_*`, glibc): without that
a reader whose process happens to have freed a large block once reads eight times as fast as one whose every row is
memory fresh from the system, and the race is between those.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import save_figures
from sizes import SIZE, sd15_layout

import w2w_hub

SECTIONS = ("reads", "pack", "memory", "compression", "view")


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(peers: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return each peer's seconds per repeat; a first, unmeasured round warms all caches."""
    found: dict[str, list[float]] = {name: [] for name in peers}
    for repeat in range(repeats + 1):
        names = list(peers)
        for name in names if repeat % 2 else reversed(names):
            seconds = peers[name]()
            if repeat:
                found[name].append(seconds)
    return found


def ratios(found: dict[str, list[float]], against: str) -> dict[str, float]:
    """Return the speed relative to `against`, as the median over the repeats."""
    return {
        name: statistics.median(a / b for a, b in zip(found[against], seconds, strict=True))
        for name, seconds in found.items()
    }


class Batches:
    """A torch map-style dataset over a function that returns a row."""

    def __init__(self, row: Callable[[int], np.ndarray], length: int):
        self.row, self.length = row, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Any:
        import torch

        return torch.from_numpy(np.array(self.row(i)))


@dataclass
class Reader:
    """Read functions of one peer, None for tasks it lacks. Every row ends up in its own memory."""

    row: Callable[[int], np.ndarray] | None = None
    batch: Callable[[np.ndarray], np.ndarray] | None = None
    whole: Callable[[], np.ndarray] | None = None
    items: Any = None


def with_memmap(folder: Path) -> Reader:
    values = np.load(folder / "rows.npy", mmap_mode="r")
    row = lambda i: np.array(values[i])  # noqa: E731
    return Reader(row, lambda b: values[b], None, Batches(row, len(values)))


def with_np_load(folder: Path) -> Reader:
    return Reader(whole=lambda: np.load(folder / "rows.npy"))


def with_torch(folder: Path) -> Reader:
    import torch

    values = torch.load(folder / "rows.pt", mmap=True)
    items = Batches(lambda i: values[i].numpy(), len(values))
    return Reader(lambda i: values[i].clone().numpy(), lambda b: values[b].numpy(), None, items)


def with_h5py(folder: Path) -> Reader:
    import h5py

    values = h5py.File(folder / "rows.h5")["weights"]
    return Reader(lambda i: values[i], lambda b: np.stack([values[int(i)] for i in b]))


def with_zarr(folder: Path) -> Reader:
    import zarr

    values = zarr.open_group(folder / "ours" / "weights.zarr", mode="r")["weights"]
    return Reader(lambda i: values[i], lambda b: values.oindex[b, :], lambda: values[:])


def with_datasets(folder: Path, kind: str) -> Reader:
    import datasets

    view = datasets.load_dataset(str(folder / "ours"), "weights", split="train", cache_dir=str(folder / "cache"))
    view = view.select_columns("weights").with_format(kind)
    items = view if kind == "torch" else None
    return Reader(lambda i: np.asarray(view[i]["weights"]), lambda b: view[b.tolist()]["weights"], None, items)


def with_ours(folder: Path) -> Reader:
    values = w2w_hub.WeightDataset.open(folder / "ours")
    return Reader(lambda i: values[i], lambda b: values[b], values.to_numpy, values.torch())


def with_ours_lazily(folder: Path) -> Reader:
    view = w2w_hub.load_dataset(folder / "ours", split="train", cache_dir=folder / "lazy")
    view = view.select_columns("weights").with_format("numpy")
    return Reader(lambda i: view[i]["weights"], lambda b: view[b.tolist()]["weights"])


PEERS: dict[str, Callable[[Path], Reader]] = {
    "memmap": with_memmap,
    "np.load": with_np_load,
    "torch.load(mmap)": with_torch,
    "h5py": with_h5py,
    "zarr-python": with_zarr,
    "w2w_hub": with_ours,
    "datasets numpy": lambda folder: with_datasets(folder, "numpy"),
    "datasets torch": lambda folder: with_datasets(folder, "torch"),
    "w2w_hub.load_dataset": with_ours_lazily,
}


def read(reader: Reader, what: str, numbers: Any) -> Any:
    """Run one task of a reader."""
    from torch.utils.data import DataLoader

    if what == "items":
        return [None for _ in DataLoader(reader.items, batch_size=64, shuffle=True)]
    one = getattr(reader, what)
    return one() if what == "whole" else [one(i) for i in numbers]


def serve(name: str, folder: Path, pipe: Any) -> None:
    """Serve one peer: run the tasks received and reply with their seconds."""
    reader = PEERS[name](folder)
    pipe.send([what for what in ("row", "batch", "items", "whole") if getattr(reader, what) is not None])
    while (task := pipe.recv()) is not None:
        what, numbers = task
        if what == "check":
            pipe.send(np.asarray(reader.row(numbers) if reader.row else read(reader, "whole", None)[numbers]))
        else:
            pipe.send(timed(lambda: read(reader, what, numbers)))  # noqa: B023


# glibc: large blocks come from the heap too, and the heap is not given back (a process reads these when it starts)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


class Peer:
    """A reader in a process of its own."""

    def __init__(self, name: str, folder: Path):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, folder, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.able = self.pipe.recv()

    def ask(self, what: str, numbers: Any = None) -> Any:
        self.pipe.send((what, numbers))
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join()


def make_files(folder: Path, rows: np.ndarray, layout: Any, names: list[str]) -> None:
    """Write the same rows in every peer's format."""
    np.save(folder / "rows.npy", rows)
    if "torch.load(mmap)" in names:
        import torch

        torch.save(torch.from_numpy(rows), folder / "rows.pt")
    if "h5py" in names:
        import h5py

        with h5py.File(folder / "rows.h5", "w") as file:
            file.create_dataset("weights", data=rows, chunks=(1, rows.shape[1]))
    w2w_hub.write_dataset(rows, folder / "ours", layout=layout, parquet_view="float32")


def bench_reads(
    folder: Path, rows: np.ndarray, layout: Any, repeats: int, names: list[str]
) -> dict[str, dict[str, list[float]]]:
    make_files(folder, rows, layout, names)
    os.environ.update(ALLOCATOR)
    peers = {name: Peer(name, folder) for name in names}
    for name in ALLOCATOR:
        del os.environ[name]
    for name, peer in peers.items():  # the same rows, or the race means nothing
        assert np.array_equal(peer.ask("check", 3), rows[3]), name
    rng = np.random.default_rng(1)
    tasks: dict[str, tuple[str, Any]] = {
        "random single rows": ("row", rng.integers(0, len(rows), 300).tolist()),
        "shuffled batches of 64": ("batch", [rng.permutation(len(rows))[:64] for _ in range(8)]),
        "DataLoader, batch 64, shuffled": ("items", None),
        "whole matrix to memory": ("whole", None),
    }
    found = {
        title: interleaved(
            {name: (lambda p=peer, t=task: p.ask(*t)) for name, peer in peers.items() if task[0] in peer.able}, repeats
        )
        for title, task in tasks.items()
    }
    for peer in peers.values():
        peer.close()
    return found


def bench_pack(folder: Path, rows: np.ndarray, layout: Any, repeats: int) -> dict[str, list[float]]:
    """Measure packing PEFT folders, compared with reading each by safetensors and one sequential write."""
    from safetensors.numpy import load_file

    from w2w_hub.store import atomic

    loras = []
    for i, row in enumerate(rows):
        loras.append(folder / "loras" / f"person-{i:05d}")
        w2w_hub.write_adapter(layout.unflatten(row), loras[-1], ("peft",))

    def bound() -> None:
        with open(folder / "bound.bin", "wb") as out:
            for lora in loras:
                for tensor in load_file(lora / "adapter_model.safetensors").values():
                    out.write(tensor.data)

    def pack(workers: int) -> None:
        shutil.rmtree(folder / "packed", ignore_errors=True)
        w2w_hub.pack_adapters(loras, folder / "packed", workers=workers, parquet_view=False, shard_size="100MB")

    # neither side waits for the disk here: the bound does not flush, so packing does not either
    atomic.DURABLE = False
    work = {"load_file + write": bound, "w2w_hub": lambda: pack(1), "w2w_hub, 2 processes": lambda: pack(2)}
    return interleaved({name: (lambda w=w: timed(w)) for name, w in work.items()}, repeats)


def bench_compression(folder: Path, rows: np.ndarray, layout: Any) -> list[tuple[str, str, float, float]]:
    """Compare size and read time of bitshuffle with none, for float32, float32 from bfloat16, and float16."""
    bf16 = (rows.view(np.uint32) & 0xFFFF0000).view(np.float32)
    found = []
    for born, values in (("float32", rows), ("bfloat16", bf16), ("float16", rows.astype(np.float16))):
        sizes, times = {}, {}
        for how in ("none", "bitshuffle"):
            ds = w2w_hub.write_dataset(
                values, folder / f"{born}-{how}", layout=layout, compression=how, parquet_view=False
            )
            sizes[how] = sum(e["size"] for e in ds.manifest.files.values())
            ds.to_numpy()
            times[how] = statistics.median(timed(ds.to_numpy) for _ in range(3))
            assert np.array_equal(ds.to_numpy(), values)
            shutil.rmtree(ds.path)
        found.append((born, "bitshuffle", sizes["bitshuffle"] / sizes["none"], times["bitshuffle"] / times["none"]))
    return found


MEMORY = """
import sys, threading, time
sys.path.insert(0, {scripts!r})
from true_size import Peak
import w2w_hub
from pathlib import Path
loras = sorted(Path({loras!r}).iterdir())
with Peak() as peak:
    {statement}
print(peak.mb)
"""


def bench_memory(folder: Path) -> dict[str, float]:
    """Return the peak anonymous memory in MB of each operation, each in its own process."""
    target = folder / "memory"
    pack = f"w2w_hub.pack_adapters(loras[:-50], {str(target)!r}, shard_size='100MB')"
    statements = {
        "pack (with the Parquet view)": pack,
        "add": f"w2w_hub.add_rows({str(target)!r}, loras[-50:])",
        "verify": f"w2w_hub.WeightDataset.open({str(target)!r}).verify()",
        "block iteration": f"[b.sum() for _, b in w2w_hub.WeightDataset.open({str(target)!r}).iter_blocks()]",
    }
    found = {}
    for name, statement in statements.items():
        code = MEMORY.format(scripts=str(Path(__file__).parent), loras=str(folder / "loras"), statement=statement)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[name] = float(done.stdout.split()[-1])
    return found


def bench_view(folder: Path, rows: np.ndarray, layout: Any) -> list[tuple[str, str]]:
    """Measure the disk space of the Parquet view and of each way of loading."""
    import datasets

    def size(path: Path) -> int:
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.exists() else 0

    ds = w2w_hub.write_dataset(rows, folder / "view", layout=layout)
    matrix, view = size(ds.path / "weights.zarr"), size(ds.path / "parquet")
    datasets.load_dataset(str(ds.path), "weights", cache_dir=str(folder / "stock"))
    w2w_hub.load_dataset(ds.path, cache_dir=folder / "ours-lazy")
    first = timed(lambda: next(iter(datasets.load_dataset(str(ds.path), "weights", split="train", streaming=True))))
    return [
        ("the matrix itself, float32", f"{matrix / 1e6:,.0f} MB"),
        ("its Parquet view, float16", f"{view / 1e6:,.0f} MB"),
        ("Arrow cache of stock `load_dataset`", f"{size(folder / 'stock') / 1e6:,.0f} MB"),
        ("cache of `w2w_hub.load_dataset`", f"{size(folder / 'ours-lazy') / 1e6:,.2f} MB"),
        ("stock, `streaming=True`: cache, first row after", f"none, {first:.1f} s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--loras", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--peers", default=",".join(PEERS), help="readers, comma-separated, beside the bounds")
    parser.add_argument("--json", type=Path, help="Write the figures to this file.")
    options = parser.parse_args()
    sections, names = options.only.split(","), ["memmap", "np.load", *options.peers.split(",")]
    if not set(sections) <= set(SECTIONS) or not set(names) <= set(PEERS):
        parser.error(f"--only takes {', '.join(SECTIONS)}; --peers takes {', '.join(PEERS)}")
    names = [name for name in PEERS if name in names]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    layout = sd15_layout()
    rows = np.random.default_rng(0).standard_normal((options.rows, SIZE), np.float32)
    with tempfile.TemporaryDirectory(prefix="w2w-bench-") as name:
        folder = Path(name)
        found: dict[str, dict[str, list[float]]] = {}
        if "reads" in sections:
            found = bench_reads(folder, rows, layout, options.repeats, names)
        for path in list(folder.iterdir()):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        if "pack" in sections or "memory" in sections:
            found["pack from PEFT files"] = bench_pack(folder, rows[: options.loras], layout, options.repeats)
        memory = bench_memory(folder) if "memory" in sections else {}
        compression = bench_compression(folder, rows[:400], layout) if "compression" in sections else []
        view = bench_view(folder, rows[:400], layout) if "view" in sections else []
    print(f"{options.rows:,} x {SIZE:,} float32, {os.cpu_count()} processors, Python {platform.python_version()}\n")
    against = {"whole matrix to memory": "np.load", "pack from PEFT files": "load_file + write"}
    figures = [(f"{what}, peak memory", mb, "MB") for what, mb in memory.items()]
    print("| measured | peer | times as fast as the bound | median seconds |\n| --- | --- | --- | --- |")
    for what, seconds in found.items():
        reference = against.get(what, "memmap")
        for peer, ratio in ratios(seconds, reference).items():
            if peer.startswith("w2w_hub"):
                figures.append((f"{what}, {peer}", 1 / ratio, f"of {reference}"))
            print(f"| {what} | {peer} | {ratio:.2f} | {statistics.median(seconds[peer]):.3f} |")
    print("\n| peak memory | MB |\n| --- | --- |")
    for what, mb in memory.items():
        print(f"| {what} | {mb:.0f} |")
    print("\n| values born | compression | size | time to read all |\n| --- | --- | --- | --- |")
    for born, how, size, seconds_ in compression:
        print(f"| {born} | {how} | {size:.2f} | {seconds_:.1f}x |")
    figures += [(f"size of {born}, {how}", size, "of uncompressed") for born, how, size, _ in compression]
    print(f"\n| {min(options.rows, 400)} rows | |\n| --- | --- |")
    for what, cost in view:
        print(f"| {what} | {cost} |")
    save_figures(options.json, figures)


if __name__ == "__main__":
    main()
