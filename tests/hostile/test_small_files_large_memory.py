# ruff: noqa: E501, one row of a table is one line
"""Small files that would unpack to gigabytes: refused in one line, in a process whose memory is watched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import w2w_hub

ALLOWED = 160 * 2**20  # bytes that one case may add to the process's largest size

# Each case forges a dataset or space that is right but for one thing, and reads all of it.
CASES = r'''
import gzip, hashlib, json, resource, shutil, sys
from pathlib import Path
import numcodecs, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
import w2w_hub
from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, write_dataset
from w2w_hub.lora.adapter import Target
from w2w_hub.dataset import check
from w2w_hub.errors import W2WError
from w2w_hub.space.integrity import check_space
from w2w_hub.store import atomic
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.manifest import seal
from tests.test_format_rules import manifest, state

atomic.DURABLE = False
root = Path(sys.argv[1])
layout = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 30, 70)}, 2.0)
rows = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
table = pd.DataFrame({"id": list("abcd"), "Hair": ["red", "blue"] * 2})
write_dataset(rows, root / "start", layout=layout, ids=list("abcd"), labels=table, parquet_view=False)
write_dataset(rows, root / "viewed", layout=layout, ids=list("abcd"), labels=table)
from tests.space.population import dataset_of, decaying
w2w_hub.build_space(dataset_of(root / "people", decaying(40, 60)), k=4).save(root / "space")
SHARD, META = "weights.zarr/weights/c/0/0", "weights.zarr/weights/zarr.json"
BIG = 2 * 10**9

def restate(folder, *more):
    data = manifest(folder)
    state(folder, files={n: entry_of(folder / n) for n in (*data["files"], *more)})

def chunk(codec, data):
    """One shard whose one chunk is compressed so; the index says what it holds."""
    def forge(folder):
        import google_crc32c
        meta = json.loads((folder / META).read_text())
        inner = meta["codecs"][0]["configuration"]
        meta["chunk_grid"]["configuration"]["chunk_shape"] = inner["chunk_shape"] = [4, 100]
        inner["codecs"].append(codec)
        (folder / META).write_text(json.dumps(meta))
        index = np.array([0, len(data)], "<u8").tobytes()
        (folder / SHARD).write_bytes(data + index + google_crc32c.value(index).to_bytes(4, "little"))
        restate(folder)
    return forge

def plain_chunk(codec, data):
    """A regular chunk, read through zarr."""
    def forge(folder):
        meta = json.loads((folder / META).read_text())
        meta["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, codec]
        meta["chunk_grid"]["configuration"]["chunk_shape"] = [4, 100]
        (folder / META).write_text(json.dumps(meta))
        (folder / SHARD).write_bytes(data)
        restate(folder)
    return forge

def labels(rows=4, **columns):
    def forge(folder):
        path = folder / "labels" / "train.parquet"
        had = pq.read_table(path)
        arrays = {n: had.column(n) for n in had.column_names} if rows == 4 else {}
        pq.write_table(pa.table(arrays | {k: v() for k, v in columns.items()}), path, compression="zstd")
        restate(folder)
    return forge

def absent(folder):
    """Two rows of 10**9 zeros that no shard holds."""
    import google_crc32c
    wide = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 10**9, 7)}, 2.0)
    data = manifest(folder)
    meta = json.loads((folder / META).read_text())
    meta["shape"][1] = wide.size
    for shape in (meta["chunk_grid"]["configuration"]["chunk_shape"], meta["codecs"][0]["configuration"]["chunk_shape"]):
        shape[:] = [4, wide.size]
    (folder / META).write_text(json.dumps(meta))
    index = np.full(2, 2**64 - 1, "<u8").tobytes()
    (folder / SHARD).write_bytes(index + google_crc32c.value(index).to_bytes(4, "little"))
    state(folder, layout={"digest": wide.digest, "size": wide.size, **wide.to_json()})
    restate(folder)

def many_chunks(folder):
    meta = json.loads((folder / META).read_text())
    meta["chunk_grid"]["configuration"]["chunk_shape"] = [4 * 10**9, 100]
    meta["codecs"][0]["configuration"]["chunk_shape"] = [1, 100]
    (folder / META).write_text(json.dumps(meta))
    restate(folder)

def huge_chunk(folder):
    meta = json.loads((folder / META).read_text())
    meta["chunk_grid"]["configuration"]["chunk_shape"] = [10**9, 100]
    meta["codecs"][0]["configuration"]["chunk_shape"] = [10**9, 100]
    (folder / META).write_text(json.dumps(meta))
    restate(folder)

def long_json(folder):
    with open(folder / "manifest.json", "r+b") as file:
        file.truncate(BIG)  # a sparse file of nothing

def view(folder):
    path = folder / "parquet" / "train.parquet"
    had = pq.read_table(path)
    pq.write_table(had.set_column(2, "source", pa.array(["x" * (2**26)] * 2 + ["y"] * 2)), path, compression="zstd")
    restate(folder)

def coefficients(folder):
    path = folder / "coefficients" / "train.parquet"
    pq.write_table(pa.table({"id": ["a"], "row": [0], "coefficients": [np.zeros(3 * 10**7, np.float32)]}), path, compression="zstd")
    restate(folder)

def components(folder):
    state(folder, k=10**12)

def nested(folder):
    (folder / "manifest.json").write_text("[" * 10**6)

def wide(folder):
    (folder / "manifest.json").write_text('{"x": [' + "[]," * 6 * 10**6 + "0]}")

zeros, bomb = bytes(1600), bytes(2**20)
def gzipped(size):
    import zlib
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(bomb) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (packer.compress(bomb) + packer.flush(zlib.Z_FULL_FLUSH)) * (size // len(bomb))
def zstd_stream(size):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(bomb)
    return sink.getvalue().to_pybytes() * (size // len(bomb))
blosc = bytearray(numcodecs.Blosc("zstd", 3, 0).encode(zeros))
blosc[4:8] = (2**31 - 16).to_bytes(4, "little")
# 3 GB of zeros as one blosc chunk is limited to 2 GB
BLOSC = {"name": "blosc", "configuration": {"typesize": 4, "cname": "zstd", "clevel": 3, "shuffle": "noshuffle", "blocksize": 0}}
GZIP, ZSTD = {"name": "gzip", "configuration": {"level": 5}}, {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
stated = bytearray(numcodecs.Zstd(1).encode(bytes(2**18)))
DATASETS = {
    "gzip chunk": chunk(GZIP, gzipped(BIG)),
    "zstd chunk": chunk(ZSTD, zstd_stream(BIG)),
    "zstd chunk that states more": chunk(ZSTD, bytes(stated)),
    "blosc chunk": chunk(BLOSC, bytes(blosc)),
    "gzip chunk through zarr": plain_chunk(GZIP, gzipped(BIG)),
    "zstd chunk through zarr": plain_chunk(ZSTD, zstd_stream(BIG)),
    "blosc chunk through zarr": plain_chunk(BLOSC, bytes(blosc)),
    "rows of labels": labels(0, id=lambda: pa.array(np.zeros(10**6, np.int8)).cast(pa.string())),
    "one long label": labels(Hair=lambda: pa.array(["x" * (2**26), "y", "y", "y"])),
    "one label for all rows": labels(Hair=lambda: pa.array(["x" * (2**25 - 2**22)] * 4)),
    "absent chunks": absent,
    "chunks of a shard": many_chunks,
    "a huge chunk": huge_chunk,
    "a long manifest": long_json,
    "a deep manifest": nested,
    "a wide manifest": wide,
    "a long label of the view": view,
}
RIGHT = {
    "right gzip": chunk(GZIP, gzip.compress(rows.tobytes())),
    "right zstd": chunk(ZSTD, bytes(numcodecs.Zstd(1).encode(rows.tobytes()))),
    "right blosc": chunk(BLOSC, bytes(numcodecs.Blosc("zstd", 3, 0).encode(rows))),
    "right gzip through zarr": plain_chunk(GZIP, gzip.compress(rows.tobytes())),
}
SPACES = {"coefficients": coefficients, "components": components}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def read_dataset(folder):
    WeightDataset.open(folder)[:]

found = {}
for cases, start, reads in (
    (RIGHT, "start", (read_dataset, check)), (DATASETS, "start", (read_dataset, check)), (SPACES, "space", (WeightSpace.from_pretrained, check_space)),
):
    for name, forge in cases.items():
        folder = shutil.copytree(root / ("viewed" if "view" in name else start), root / name)
        pid = __import__("os").fork()  # making a bomb may take memory, reading it may not
        if pid == 0:
            forge(folder)
            __import__("os")._exit(0)
        assert __import__("os").waitpid(pid, 0)[1] == 0, name
        before, told = peak(), []
        for read in reads:
            try:
                result = read(folder)
                told.append("ok" if result is None or getattr(result, "ok", True) else "report")
            except W2WError as error:
                told.append(type(error).__name__)
                assert "\n" not in str(error)
        found[name] = [told, peak() - before]
        shutil.rmtree(folder)
print(json.dumps(found))
'''


@pytest.fixture(scope="module")
def found(made_once: Callable[..., Path]) -> dict[str, tuple[list[str], int]]:
    return json.loads((made_once("bombs", read_all) / "found.json").read_text())


def read_all(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CASES, str(folder)], cwd=Path(w2w_hub.__file__).parents[1], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "found.json").write_text(done.stdout)


@pytest.mark.slow
def test_a_chunk_a_table_or_a_manifest_that_unpacks_to_gigabytes_is_refused_within_bounded_memory(found):
    bombs = {name: case for name, case in found.items() if not name.startswith("right")}
    assert len(bombs) >= 17
    for name, (told, grown) in bombs.items():
        assert grown < ALLOWED, (name, grown)
        # the view is not needed for reading, only for verifying
        assert told[-1] != "ok", (name, told)
        assert told[0] != "ok" or "view" in name, (name, told)


def test_chunks_that_unpack_to_what_they_should_are_read(found):
    right = {name: told for name, (told, _) in found.items() if name.startswith("right")}
    assert len(right) == 4
    for name, told in right.items():
        assert told[0] == "ok", (name, told)
