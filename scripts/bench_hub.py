"""Count requests and bytes of loading and publishing, on a Hub on 127.0.0.1.

    python scripts/bench_hub.py

Every line is a process with an empty cache unless it says warm. Bytes are of bodies, as the server counted them. The
dataset is 10,000 rows (`--rows`) of 2,500 random float32 numbers (100 MB, shards of 32 MB) with the float16 view; the
release adds 100 rows. Counts depend on neither the machine nor its load.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from figures import save_figures
from sizes import sd15_layout

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.hub.conftest import Client, seed
from tests.hub.loopback import LoopbackHub, Request
from tests.hub.processes import Nursery
from w2w_hub import ParameterLayout, WeightDataset, add_rows, build_space, write_adapter, write_dataset
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.dataset.sketches import WIDTH, Sketches
from w2w_hub.dialects.start_files import start_bytes
from w2w_hub.lora.adapter import Target

NUMBERS, ADDED, SHARD = 2_500, 100, "32MB"
figures: list[tuple[str, float, str]] = []
OPEN = 'import w2w_hub\nds = w2w_hub.WeightDataset.open("org/people", revision=sys.argv[1]{options})\n'
PUSH = 'from w2w_hub.release import push\npush(sys.argv[1], "{repo}")'
SPACE = 'import w2w_hub\nw2w_hub.WeightSpace.from_pretrained("org/space", revision="v1.0.0"{options})\n'


def make(folder: Path, view: bool, rows: int) -> tuple[Path, Path]:
    """Make versions 1.0.0 and 1.1.0 of a dataset; `add_rows` makes the second from the first."""
    sizes = {
        Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"): (5, NUMBERS // 10, NUMBERS // 10)
    }
    layout = ParameterLayout(sizes, 1.0)
    start = started(layout)
    rng = np.random.default_rng(int(view))  # content that the Hub has in another repository is not sent either

    def write(name: str, first: int, count: int, version: str) -> Path:
        ids = [f"person-{i:05d}" for i in range(first, first + count)]
        table = pd.DataFrame({"id": ids, "Beard": rng.random(count) < 0.4, "licence": "cc0-1.0"})
        table["source"], table["consent"] = "made up", "not needed"
        table["split"] = ["test" if i % 10 == 9 else "train" for i in range(count)]
        write_dataset(
            3 * start + rng.normal(size=(count, layout.size)).astype(np.float32), folder / name, layout=layout,
            ids=ids, labels=table, name="people", version=version, license="cc0-1.0", shard_size=SHARD,
            compatibility=Compatibility(None, None, "seed-0"), parquet_view=view, start_adapter=layout.unflatten(start),
        )  # fmt: skip
        return folder / name

    first = write("people", 0, rows, "1.0.0")
    second = shutil.copytree(first, folder / "grown")
    add_rows(second, [write("new", rows, ADDED, "1.0.0")], version="1.1.0")
    return first, second


def started(layout: ParameterLayout) -> np.ndarray:
    """An initialization: A random, B zero."""
    start = np.zeros(layout.size, np.float32)
    for slot in layout.slots:
        start[slot.offset : slot.b_offset] = np.random.default_rng(2).normal(size=slot.b_offset - slot.offset)
    return start


def paper_size() -> None:
    """Say how much a contributor's check downloads beside layout and labels at the paper's size.

    That is 65,000 rows of rank 1 for Stable Diffusion 1.5: `sketches.safetensors` and `initialisation.safetensors`.
    """
    layout = sd15_layout()
    blocks = (65_000, WIDTH)
    sketches = Sketches(
        np.zeros(blocks, np.int8), np.zeros(WIDTH), blocks[0], np.ones(256, np.float32), np.ones(256, np.float32)
    )
    size = len(sketches.to_bytes(["0" * 64] * blocks[0])) + len(start_bytes(layout.unflatten(started(layout))))
    print(f"| check one adapter against 65,000 rows of {layout.size:,} | 2 | {size:,} | 0 | 5 MB |", flush=True)
    figures.append(("check one adapter at the paper's size", size, "bytes"))


def wide_space(folder: Path) -> None:
    """Make a weight space of 1,200 components: two basis files."""
    layout = ParameterLayout({Target("unet", "mid_block.attentions.0.attn1.to_q"): (5, 150, 150)}, 1.0)
    rows = np.random.default_rng(1).normal(size=(1300, layout.size)).astype(np.float32)
    compatibility = Compatibility(None, None, "seed-0")
    write_dataset(rows, folder / "wide", layout=layout, compatibility=compatibility, parquet_view=False)
    space = build_space(WeightDataset.open(folder / "wide"), 1200, name="space", version="1.0.0", directions=False)
    space.save(folder / "space")


def line(what: str, requests: list[Request], limit: str = "") -> None:
    received, sent = sum(r.received for r in requests), sum(r.sent for r in requests)
    print(f"| {what} | {len(requests)} | {sent:,} | {received:,} | {limit} |", flush=True)
    name = what.split(" (")[0]  # without what depends on the content
    figures.append((name, len(requests), "requests"))
    figures.append((name, sent + received, "bytes"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="7,000 or more: three shards")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="w2w-bench-hub-"))
    (scratch / "jobs").mkdir()
    nursery = Nursery(scratch / "jobs")
    try:
        first, second = make(scratch / "view", True, options.rows)
        bare = make(scratch / "bare", False, options.rows)
        wide_space(scratch)
        with LoopbackHub() as hub:
            hub.user("org")
            measure(hub, nursery, scratch, first, second, options.rows)
            releases(hub, nursery, scratch, *bare, options.rows)
    finally:
        nursery.close()
        shutil.rmtree(scratch)
    save_figures(options.json, figures)


def measure(hub: LoopbackHub, nursery: Nursery, scratch: Path, first: Path, second: Path, count: int) -> None:
    org = Client(hub, scratch / "org", nursery, hub.token("org"))
    fresh = iter(range(100))

    def client() -> Client:
        return Client(hub, scratch / f"reader-{next(fresh)}", nursery)

    def cost(what: str, reader: Client, script: str, *arguments: str, limit: str = "", **extra: str) -> None:
        with hub.counted() as requests:
            reader.run(script, *arguments, **extra)
        line(what, requests, limit)

    print("| | requests | bytes down | bytes up | to reach |\n| --- | --- | --- | --- | --- |")
    push = PUSH.format(repo="org/people")
    cost(f"publish 1.0.0: {count:,} rows", org, push, str(first))
    cost("publish 1.0.0 again", org, push, str(first), limit="nothing sent")
    old = WeightDataset.open(first).manifest.files
    new = {n: e["size"] for n, e in WeightDataset.open(second).manifest.files.items() if e != old.get(n)}
    parts = {
        "shard": sum(s for n, s in new.items() if n.startswith("weights.zarr") and not n.endswith(".json")),
        "view": sum(s for n, s in new.items() if n.startswith("parquet/")),
        "labels": sum(s for n, s in new.items() if n.startswith("labels/")),
    }
    told = ", ".join(f"{name} {size:,}" for name, size in parts.items())
    rows = ADDED * NUMBERS * (4 + 2)
    cost(f"publish 1.1.0: {ADDED} rows more ({told})", org, push, str(second), limit=f"new rows {rows:,} + one shard")
    commit = hub.repos[("dataset", "org/people")].tags["v1.1.0"]
    reader, one = client(), f"ds[{4321 * count // 10_000}]"
    cost("labels only", reader, OPEN.format(options=""), "v1.1.0")
    cost("labels only, warm, by commit", reader, OPEN.format(options=""), commit, limit="1 request: withdrawn rows")
    cost("labels only, warm, by tag", reader, OPEN.format(options=""), "v1.1.0", limit="2 requests")
    cost("one row", client(), OPEN.format(options="") + one, "v1.1.0", limit="labels + 1 MB")
    cost("one row more, in a new process", reader, OPEN.format(options="") + one, commit)
    shard = "import numpy as np\nn = ds.geometry.shard_rows\nds[np.arange(n, 2 * n)]"
    cost("one shard", client(), OPEN.format(options="") + shard, "v1.1.0", limit="labels + one shard")
    write_adapter(WeightDataset.open(second).adapter(7), scratch / "lora", ("peft",))
    dry = 'from w2w_hub.release import contribute\ncontribute("org/people", sys.argv[1], dry_run=True)'
    files = WeightDataset.open(second).manifest.files
    beside = sum(files[name]["size"] for name in ("sketches.safetensors", "initialisation.safetensors"))
    cost("check one adapter", client(), dry, str(scratch / "lora"), limit=f"labels + {beside:,}")
    paper_size()
    every = client()
    whole = OPEN.format(options=", lazy=False") + "ds.to_numpy()"
    cost("everything but the view", every, whole, "v1.1.0")
    cost("everything but the view, warm, by commit", every, whole, commit, limit="1 request: withdrawn rows")
    cost("everything but the view, offline, by tag", every, whole, "v1.1.0", limit="0 requests", HF_HUB_OFFLINE="1")
    stock = 'import datasets\ndatasets.load_dataset("org/people", revision=sys.argv[1])'
    cost("stock datasets.load_dataset", client(), stock, "v1.1.0")
    seed(hub, scratch / "space", "org/space")
    cost("weight space, all 1,200 components", client(), SPACE.format(options=""))
    cost("weight space, k = 1,000", client(), SPACE.format(options=", k=1000"), limit="one basis file")


def releases(hub: LoopbackHub, nursery: Nursery, scratch: Path, first: Path, second: Path, count: int) -> None:
    """Publish the same two versions without the Parquet view."""
    org, script = Client(hub, scratch / "org", nursery, hub.token("org")), PUSH.format(repo="org/bare")
    for what, folder in ((f"{count:,} rows", first), (f"{ADDED} rows more", second)):
        with hub.counted() as requests:
            org.run(script, str(folder))
        limit = "" if folder == first else f"new rows {ADDED * NUMBERS * 4:,} + one shard"
        line(f"publish, without the view: {what}", requests, limit)


if __name__ == "__main__":
    main()
