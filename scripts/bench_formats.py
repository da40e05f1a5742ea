"""Measure time and memory of reading and scanning checkpoints: `python scripts/bench_formats.py`.

Measured on a PEFT adapter of Stable Diffusion 1.5's size (rank 4 on all attention projections, 3.2 MB) that the
script makes itself, against `safetensors.torch.load_file` on the same file, in turns in one process.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import save_figures

from w2w_hub import Adapter, ParameterLayout, read_adapter, write_adapter
from w2w_hub.lora.adapter import LoraFactors, Target

WIDTHS = {"down_blocks.0": 320, "down_blocks.1": 640, "down_blocks.2": 1280}
WIDTHS |= {"up_blocks.1": 1280, "up_blocks.2": 640, "up_blocks.3": 320, "mid_block": 1280}


def sd15(rank: int = 4, width: float = 1.0, names: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")) -> Adapter:
    """Return random factors for the attention of Stable Diffusion 1.5, or of a narrower model."""
    rng, factors = np.random.default_rng(0), {}
    for block, channels in WIDTHS.items():
        for i in range({"d": 2, "u": 3, "m": 1}[block[0]]):
            for attention, text in (("attn1", channels), ("attn2", 768)):
                for name in names:
                    inputs = int((text if name in ("to_k", "to_v") else channels) * width)
                    path = f"{block}.attentions.{i}.transformer_blocks.0.{attention}.{name}"
                    a = rng.normal(size=(rank, inputs)).astype(np.float32)
                    b = rng.normal(size=(int(channels * width), rank)).astype(np.float32)
                    factors[Target("unet", path)] = LoraFactors(a, b, 4.0)
    return Adapter(factors)


def vector(folder: Path) -> np.ndarray:
    adapter = read_adapter(folder)
    return ParameterLayout.from_adapter(adapter).flatten(adapter)


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each call; every round runs all calls in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def peak(call: Callable[[], object]) -> int:
    """Return the peak bytes allocated by a call, including its result, by tracemalloc."""
    call()
    tracemalloc.start()
    result = call()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del result
    return found


SCAN = """
import sys, time
from pathlib import Path
from w2w_hub.cli import main
began = time.perf_counter()
try:
    main(["inspect", sys.argv[1], "--json"])
except SystemExit:
    pass
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(time.perf_counter() - began, time.process_time(), peak, file=sys.stderr)
"""


def scan(count: int) -> list[tuple[str, float, str]]:
    """Inspect a tenth of a tree of small adapters, then all of it, each in a process; return figures of the latter."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        write_adapter(sd15(1, 0.05, ("to_q", "to_v")), tree / "0" / "first", ("peft",))
        files = {p.name: p.read_bytes() for p in (tree / "0" / "first").iterdir()}
        made = 1
        for part in (max(count // 10, 1), count):
            for i in range(made, part):
                adapter = tree / str(i // 1000) / f"{i:05d}"
                adapter.mkdir(parents=True)
                for name, data in files.items():
                    (adapter / name).write_bytes(data)
            made = part
            done = subprocess.run([sys.executable, "-c", SCAN, str(tree)], capture_output=True, text=True, check=True)
            seconds, processor, kilobytes = done.stderr.split()[-3:]
            rows = done.stdout.count("\n")
            print(
                f"scan of {rows:,} adapters: {float(seconds):.0f} s ({float(processor):.0f} s of a processor), "
                f"peak memory {int(kilobytes) / 1024:.0f} MB",
                flush=True,
            )
    return [("scan, processor time", float(processor), "s"), ("scan, peak memory", int(kilobytes) / 1024, "MB")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--scan", type=int, default=10_000, help="adapters in the scanned tree; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        lora = Path(folder) / "lora"
        write_adapter(sd15(), lora, ("peft",))
        file = lora / "adapter_model.safetensors"
        size = file.stat().st_size
        times = in_turns({"load_file": lambda: load_file(file), "vector": lambda: vector(lora)}, options.rounds)
        print(f"file: {size / 1e6:.2f} MB, {len(read_adapter(lora).factors)} modules")
        print(f"safetensors.torch.load_file: {times['load_file']:.2f} ms")
        print(
            f"PEFT folder to canonical vector: {times['vector']:.2f} ms, {times['vector'] / times['load_file']:.2f} x"
        )
        memory = peak(lambda: vector(lora)) / size
        print(f"peak memory of it: {memory:.2f} x the file")
        print(f"of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, torch included")
    figures = [
        ("PEFT folder to canonical vector", times["vector"] / times["load_file"], "of load_file"),
        ("PEFT folder to canonical vector, peak memory", memory, "of the file"),
    ]
    save_figures(options.json, figures + (scan(options.scan) if options.scan else []))


if __name__ == "__main__":
    main()
