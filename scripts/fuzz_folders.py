"""Feed the readers of folders and small files with mutated ones: `python scripts/fuzz_folders.py 100000`.

Every case is a dataset, a weight space, a lock or a saved point to whose JSON, tables, tensors, names or bytes a few
things are done; digests and checksums are then stated anew as often as not, as a forger would. It must open and verify,
or be refused by one of our own errors in one line, without a change to anything beside it and within bounded memory.
Anything else ends the run with the seed, which `python scripts/fuzz_folders.py --seed N` repeats.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import w2w_hub
from w2w_hub.dataset import check
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import W2WError
from w2w_hub.lora.adapter import Target
from w2w_hub.space.integrity import check_space
from w2w_hub.space.points import load_point, save_point
from w2w_hub.store import atomic
from w2w_hub.store.commit import repair
from w2w_hub.store.hub.pins import read_lock
from w2w_hub.store.manifest import seal

MEMORY = 2 * 2**30  # bytes that a worker may have beyond what it starts with
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, "", "x", "train", "../x", "/etc/passwd", "a\x1b[2J",
    "\ud800", [], {}, [[]], [1, 2], {"x": 1}, {"sha256": "0" * 64, "size": 1}, "0" * 64, "binary", "float32",
    ["unet", "x", 1, 2, 3], "1.0.0", "v1", 2.0, [None], {"": {}}, "NaN", -0.0, "é" * 300,
)  # fmt: skip
NAMES = (
    "../secret", "/secret", "a/../../secret", ".w2w-lock", ".w2w-commit/manifest.json", "manifest.json", "labels", "",
    ".", "labels/TRAIN.parquet", "labels/train.parquet/x", "weights.zarr/weights/c/9/0", "a" * 300, "C:/x", "\n",
)  # fmt: skip


@cache
def templates() -> dict[str, dict[str, bytes]]:
    """Write a valid dataset, space, lock and two points."""
    atomic.DURABLE = False
    rng = np.random.default_rng(0)
    layout = w2w_hub.ParameterLayout({Target("unet", f"mid_block.to_{n}"): (1, 3, 4) for n in "qv"}, 2.0)
    ids = [f"p{i}" for i in range(12)]
    table = pd.DataFrame(
        {"id": ids, "split": ["train"] * 9 + ["test"] * 3, "Beard": [True, False] * 6, "Age": range(12),
         "Hair": ["red", None, "grey"] * 4, "person": [f"x{i // 3}" for i in range(12)]}
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(name)
        dataset = w2w_hub.write_dataset(
            rng.normal(size=(12, layout.size)).astype(np.float32), root / "dataset", layout=layout, ids=ids,
            labels=table, shard_size=200, compatibility=Compatibility("org/base", None, "seed-0"),
            column_info={"Age": {"unit": "years"}},
        )  # fmt: skip
        space = w2w_hub.build_space(dataset, k=3)
        space.save(root / "space")
        (root / "point").mkdir()
        save_point(space.row("p0"), root / "point" / "point.json")
        save_point(space.row("p1"), root / "point" / "point.safetensors")
        pin = {
            "repo": "org/people", "kind": "dataset", "revision": "v1.0.0", "commit": "a" * 40, "version": "1.0.0",
            "digest": "b" * 64, "manifest_sha256": "c" * 64, "licence": "mit",
        }  # fmt: skip
        base = {"repo": "org/base", "commit": "d" * 40, "digest": None}
        base["files"] = {"unet/x.safetensors": {"sha256": "e" * 64, "size": 3}}
        lock = {"format": "w2w-lock", "format_version": 1, "packages": {"python": "3.11"}}
        lock["pins"] = [pin, pin | {"kind": "space", "repo": "org/space", "recipe": {"k": 3}, "base": base}]
        (root / "lock").mkdir()
        (root / "lock" / "w2w.lock").write_text(json.dumps(lock, indent=1))
        return {
            kind.name: {str(p.relative_to(kind)): p.read_bytes() for p in sorted(kind.rglob("*")) if p.is_file()}
            for kind in sorted(root.iterdir())
        }


# ---------------------------------------------------------------- mutations
def spoil_json(value: Any, rng: random.Random) -> Any:
    """Change one thing somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        what = rng.randrange(6)
        if what == 0:
            return {k: v for k, v in value.items() if k != key}
        if what == 1:
            return value | {rng.choice((*NAMES, key + "x")): value[key]}
        if what == 2:
            return value | {key: rng.choice(VALUES)}
        return value | {key: spoil_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        changed = [*value[:place], spoil_json(value[place], rng), *value[place + 1 :]]
        return rng.choice((changed, changed, value[::-1], [*value, value[place]], value[:place]))
    return rng.choice(VALUES)


def spoil_table(data: bytes, rng: random.Random) -> bytes:
    """Change a column, the rows or the order of a Parquet file."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        assert table.column_names
    except (pa.ArrowException, OSError, ValueError, AssertionError):  # spoiled before
        return spoil_bytes(data, rng)
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    what = rng.randrange(7)
    if what == 0:
        table = table.drop_columns([name])
    elif what == 1:
        rows = [rng.randrange(len(table)) for _ in range(rng.randrange(len(table) + 3))] if len(table) else []
        table = table.take(pa.array(rows, pa.int64()))
    elif what == 2:
        other = rng.choice((b"\xff", ["x"], None, 2**60, "\x1b[2J", float("nan"), {"a": 1}, "../x", True, "x" * 10**6))
        table = table.set_column(at, name, pa.array([other] * len(table)))
    elif what == 3:
        table = table.rename_columns(
            [rng.choice((*NAMES[:4], "id", n)) if n == name else n for n in table.column_names]
        )
    elif what == 4:
        values = table.column(name).to_pylist()
        rng.shuffle(values)
        table = table.set_column(at, name, pa.array(values, table.column(name).type))
    elif what == 5:
        table = table.append_column(rng.choice(("new", name)), table.column(name))
    else:
        table = table.replace_schema_metadata({"basis_digest": rng.choice(("0" * 64, "x", "\n"))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    file = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(file) + 1)
        what = rng.randrange(4)
        if what == 0 and place < len(file):
            file[place] = rng.randrange(256)
        elif what == 1:
            del file[place : place + rng.randrange(1, 9)]
        elif what == 2:
            file[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            del file[place:]
    return bytes(file)


def spoil(files: dict[str, bytes], rng: random.Random) -> None:
    """Change, add or remove one file."""
    name = rng.choice(["manifest.json"] * 3 * ("manifest.json" in files) + sorted(files))
    what = rng.random()
    if what < 0.1:
        files[rng.choice(("stray", ".w2w-lock", "labels/val.parquet", name + "x"))] = files[name]
    elif what < 0.2:
        del files[name]
    elif what < 0.4 or not name.endswith((".json", ".lock", ".parquet")):
        files[name] = spoil_bytes(files[name], rng)
    elif name.endswith(".parquet"):
        files[name] = spoil_table(files[name], rng)
    else:
        try:
            value = json.loads(files[name])
        except (ValueError, RecursionError):
            return
        files[name] = json.dumps(spoil_json(value, rng), indent=1).encode()


def restate(files: dict[str, bytes], rng: random.Random) -> None:
    """Update the hashes of changed files and the manifest's checksum, as a forger would."""
    try:
        data = json.loads(files["manifest.json"])
        if rng.random() < 0.7:
            for name, entry in data["files"].items():
                if name in files:
                    entry |= {"sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}
        files["manifest.json"] = seal(data)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return


# -------------------------------------------------------------------- cases
def read_dataset(folder: Path) -> None:
    opened = w2w_hub.WeightDataset.open(folder)
    opened[:]
    opened.where()
    opened.adapter(0)


def read_space(folder: Path) -> None:
    space = w2w_hub.WeightSpace.from_pretrained(folder)
    point = space.row(space.population.ids[0])
    for name in space.directions:
        space.read(point, name)


READS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "dataset": (read_dataset, lambda f: check(f), lambda f: check(f, deep=False)),
    "space": (read_space, lambda f: check_space(f), lambda f: w2w_hub.WeightSpace.from_pretrained(f, 2)),
    "lock": (lambda f: read_lock(f / "w2w.lock"),),
    "point": (lambda f: load_point(f / "point.json"), lambda f: load_point(f / "point.safetensors")),
}


def one_case(seed: int, place: Path) -> str:
    """Make one case below a folder and read it in every way; return the outcome.

    Raises
    ------
    Exception
        Whatever is raised that is not our own error of one line, or AssertionError if something changed: a fault.
    """
    rng = random.Random(seed)
    kind = rng.choice(("dataset", "dataset", "dataset", "space", "space", "space", "lock", "point"))
    files = dict(templates()[kind])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if files:
            spoil(files, rng)
    if rng.random() < 0.6:
        restate(files, rng)
    if kind == "dataset" and rng.random() < 0.15:  # a commit that its writer did not finish
        for name in rng.sample(sorted(files), rng.randrange(len(files) + 1)):
            files[f".w2w-commit/{name}"] = files[name]
    root = place / f"case-{seed}"
    folder = root / "world" / kind
    try:
        secret = root / "secret"
        for name, data in files.items():
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError:  # a file and a folder of one name
                continue
        folder.mkdir(parents=True, exist_ok=True)
        secret.write_text("precious")
        if rng.random() < 0.1 and files:
            linked = folder / rng.choice(sorted(files))
            if linked.is_file():
                linked.unlink()
                linked.symlink_to(rng.choice((secret, root / "world", "../../secret")))
        before, outcome = _tree(root), []
        for read in READS[kind]:
            outcome.append(_outcome(read, folder))
            assert _tree(root) == before, "reading changed something"
        if kind in ("dataset", "space") and rng.random() < 0.3:
            _outcome(repair, folder)
            assert secret.read_text() == "precious", "repair changed something elsewhere"
            assert sorted(p.name for p in root.iterdir()) == ["secret", "world"]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return f"{kind}: {outcome[0]}"


def _outcome(read: Callable[[Path], object], folder: Path) -> str:
    try:
        found = read(folder)
    except (W2WError, IndexError) as error:
        text = str(error)
        if not text or not text.isprintable():
            raise AssertionError(f"an error of more than one line: {text!r}") from error
        return type(error).__name__
    for problem in getattr(found, "problems", ()):
        if not problem.message or "\n" in problem.message:
            raise AssertionError(f"a problem of more than one line: {problem.message!r}")
    return "read"


def _tree(root: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            stat = os.lstat(os.path.join(folder, name))
            found.append((os.path.join(folder, name), stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return sorted(found)


def _batch(seeds: range) -> tuple[Counter[str], tuple[int, str] | None]:
    counts: Counter[str] = Counter()
    templates()
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        for seed in seeds:
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    counts[one_case(seed, Path(place))] += 1
            except Exception as error:
                return counts, (seed, f"{type(error).__name__}: {error}")
    return counts, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, help="repeat one case")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.seed is not None:
        with tempfile.TemporaryDirectory() as place:
            print(one_case(options.seed, Path(place)))
        return 0
    began, counts, faults = time.perf_counter(), Counter[str](), []
    stop = options.start + options.cases
    batches = [range(i, min(i + 500, stop)) for i in range(options.start, stop, 500)]
    with Pool(options.processes, maxtasksperchild=20) as pool:
        for found, fault in pool.imap_unordered(_batch, batches):
            counts.update(found)
            if fault is not None:
                faults.append(fault)
                print(f"FAULT at --seed {fault[0]}: {fault[1]}", flush=True)
    seconds = time.perf_counter() - began
    print(f"{sum(counts.values()):,} cases in {seconds:.0f} s, {len(faults)} faults")
    for name, count in counts.most_common():
        print(f"{count:>10,}  {name}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
