from __future__ import annotations

import json
import pickle
import re
import shutil

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout, WeightDataset, write_dataset
from w2w_hub.dataset.matrix.codecs import require_unpacked_size
from w2w_hub.dataset.matrix.geometry import ARRAY, Geometry, parse_size, plan_geometry
from w2w_hub.dataset.matrix.sharded_matrix import ShardedMatrix
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.byte_source import ByteSource, LocalFiles

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)


class Ranges(ByteSource):
    """A store that serves ranges of a folder's files and counts them."""

    def __init__(self, folder):
        self.folder, self.bytes, self.requests = folder, 0, 0

    def size(self, path):
        return (self.folder / path).stat().st_size

    def read(self, path, start, stop):
        self.bytes, self.requests = self.bytes + stop - start, self.requests + 1
        with open(self.folder / path, "rb") as file:
            file.seek(start)
            return file.read(stop - start)


def matrix(rows: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 7)).astype(dtype)


# ------------------------------------------------------------- other readers
@given(
    rows=st.integers(1, 25),
    shard=st.integers(1, 500),
    dtype=st.sampled_from(["float16", "float32"]),
    compression=st.sampled_from(["none", "bitshuffle"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=15)
def test_zarr_and_tensorstore_read_what_we_write_and_we_what_they_see(
    tmp_path_factory, rows, shard, dtype, compression, data
):
    import tensorstore
    import zarr

    values = matrix(rows, dtype)
    folder = tmp_path_factory.mktemp("d") / "d"
    ds = write_dataset(values, folder, layout=SMALL, compression=compression, shard_size=shard, parquet_view=False)
    stock = zarr.open_group(folder / "weights.zarr", mode="r")["weights"]
    np.testing.assert_array_equal(stock[:], values)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / ARRAY)}}
    np.testing.assert_array_equal(tensorstore.open(spec, read=True).result().read().result(), values)
    wanted = data.draw(st.lists(st.integers(-rows, rows - 1), max_size=20))
    np.testing.assert_array_equal(ds[wanted], values[wanted] if wanted else values[:0])
    np.testing.assert_array_equal(ShardedMatrix(Ranges(folder)).rows(np.arange(rows)[wanted]), values[wanted])


@pytest.mark.parametrize("codec", ["none", "zstd", "gzip", "blosc"])
@pytest.mark.parametrize("start", [True, False], ids=["index first", "index last"])
def test_what_zarr_writes_in_sharded_whole_rows_is_read_by_byte_range(tmp_path, codec, start):
    import zarr
    from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec

    codecs = {"none": [], "zstd": [ZstdCodec()], "gzip": [GzipCodec()], "blosc": [BloscCodec(cname="lz4", typesize=4)]}
    from zarr.codecs import BytesCodec

    values = matrix(11)
    values[4:6] = 0  # a chunk of zeros is left out of the shard
    sharding = ShardingCodec(
        chunk_shape=(2, 7), codecs=[BytesCodec(), *codecs[codec]], index_location="start" if start else "end"
    )
    group = zarr.open_group(tmp_path / "weights.zarr", mode="w", zarr_format=3)
    array = group.create_array(
        "weights", shape=values.shape, dtype="f4", chunks=(6, 7), serializer=sharding, compressors=None, fill_value=0
    )
    array[:] = values
    found = ShardedMatrix(LocalFiles(tmp_path))
    np.testing.assert_array_equal(found.rows(np.arange(11)), values)
    np.testing.assert_array_equal(found.rows([10, 4, 4, 0]), values[[10, 4, 4, 0]])
    for i in range(11):
        np.testing.assert_array_equal(found.row(i), values[i])


def test_a_matrix_that_is_laid_out_in_another_way_is_read_through_zarr(tmp_path):
    import zarr

    from w2w_hub.dataset.manifest import DatasetManifest
    from w2w_hub.store.hashing import sha256_file
    from w2w_hub.store.paths import list_files

    values = matrix(9)
    ds = write_dataset(values, tmp_path / "d", layout=SMALL, parquet_view=False)
    shutil.rmtree(ds.path / "weights.zarr")
    group = zarr.open_group(ds.path / "weights.zarr", mode="w", zarr_format=3)
    group.create_array("weights", shape=values.shape, dtype="f4", chunks=(2, 3), fill_value=0)[:] = values
    manifest = DatasetManifest.read(ds.path)
    manifest.files = {
        n: {"sha256": sha256_file(ds.path / n), "size": (ds.path / n).stat().st_size}
        for n in list_files(ds.path)
        if n not in ("manifest.json", "README.md")
    }
    manifest.write(ds.path)
    opened = WeightDataset.open(ds.path)
    assert opened.geometry is None
    np.testing.assert_array_equal(opened[[8, 0, 3]], values[[8, 0, 3]])
    np.testing.assert_array_equal(opened[2], values[2])
    opened.verify()


# ------------------------------------------------------------------- ranges
def test_one_row_costs_one_chunk_and_the_index_of_its_shard(tmp_path):
    ds = write_dataset(matrix(40), tmp_path / "d", layout=SMALL, shard_size=300, parquet_view=False)
    g = ds.geometry
    source = Ranges(ds.path)
    found = ShardedMatrix(source, geometry=g)
    np.testing.assert_array_equal(found.rows([17])[0], ds[17])
    assert (source.bytes, source.requests) == (g.index_bytes + g.row_bytes, 2)
    found.rows([17])
    assert source.requests == 3  # the index is kept


def test_at_the_papers_size_a_row_costs_less_than_a_megabyte():
    for dtype in ("float16", "float32"):
        g = plan_geometry(64_974, 99_648, dtype)
        assert g.chunk_rows * g.row_bytes + g.index_bytes < 1_000_000
        assert g.shard_rows * g.row_bytes + g.index_bytes <= 500_000_000


@given(st.data())
def test_a_zstd_chunk_is_as_long_as_its_header_says_in_each_of_its_forms(data):
    width = data.draw(st.sampled_from([1, 2, 4, 8]))
    low = {1: 0, 2: 256, 4: 65792, 8: 2**32}[width]
    most = {1: 255, 2: 256 + 65535, 4: 2**32 - 1, 8: 2**40}[width]
    size = data.draw(st.integers(low, most))
    single = width == 1 or data.draw(st.booleans())
    dictionary = data.draw(st.integers(0, 3))
    flag = {1: 0, 2: 1, 4: 2, 8: 3}[width]
    stated = (size - 256 if width == 2 else size).to_bytes(width, "little")
    window, name = b"" if single else b"\x50", bytes([7, 0, 9, 1])[: (0, 1, 2, 4)[dictionary]]
    chunk = b"\x28\xb5\x2f\xfd" + bytes([flag << 6 | single << 5 | dictionary]) + window + name + stated + b"rest"
    require_unpacked_size("zstd", chunk, size)
    for wrong in (size - 1, size + 1):
        with pytest.raises(ValueError):
            require_unpacked_size("zstd", chunk, wrong)


def test_rows_that_lie_side_by_side_are_one_read(tmp_path):
    ds = write_dataset(matrix(40), tmp_path / "d", layout=SMALL, parquet_view=False)
    source = Ranges(ds.path)
    found = ShardedMatrix(source, geometry=ds.geometry)
    found.rows(np.arange(5, 30))
    assert source.requests == 2


def test_an_open_dataset_is_read_by_forked_threads_and_spawned_processes_alike(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    ds = write_dataset(matrix(40), tmp_path / "d", layout=SMALL, shard_size=300, parquet_view=False)
    again = pickle.loads(pickle.dumps(ds))
    np.testing.assert_array_equal(again.to_numpy(), ds.to_numpy())
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: ds[i % 40], range(400)))
    np.testing.assert_array_equal(np.stack(rows), np.concatenate([ds.to_numpy()] * 10))


# ------------------------------------------------------------------- damage
def shard_of(ds):
    return ds.path / next(n for n in ds.manifest.files if "/c/" in n)


@pytest.mark.parametrize("position", [-1, -4, -5, -20])
def test_a_damaged_shard_index_is_never_followed(tmp_path, position):
    ds = write_dataset(matrix(4), tmp_path / "d", layout=SMALL, parquet_view=False)
    data = bytearray(shard_of(ds).read_bytes())
    data[position] ^= 1
    shard_of(ds).write_bytes(data)
    with pytest.raises(CorruptFileError, match="c/0/0"):
        WeightDataset.open(ds.path)[0]


def test_a_shard_of_another_version_is_an_error_not_other_rows(tmp_path):
    """A shard with a sound index of its own whose chunks have another size."""
    ds = write_dataset(matrix(4), tmp_path / "d", layout=SMALL, parquet_view=False)
    data, g = shard_of(ds).read_bytes(), ds.geometry
    index = np.full((g.chunks_per_shard, 2), 2**64 - 1, "<u8")
    index[0] = 0, 14
    index = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    shard_of(ds).write_bytes(data[: -len(index)] + index)
    with pytest.raises(CorruptFileError, match="c/0/0"):
        WeightDataset.open(ds.path)[0]


def test_a_damaged_compressed_chunk_names_the_shard_and_the_row(tmp_path):
    ds = write_dataset(matrix(4), tmp_path / "d", layout=SMALL, compression="bitshuffle", parquet_view=False)
    data = bytearray(shard_of(ds).read_bytes())
    data[0:16] = b"\xff" * 16
    shard_of(ds).write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"c/0/0.* 2 "):
        WeightDataset.open(ds.path)[2]


def test_a_shard_that_shrinks_while_it_is_open_is_an_error_not_a_crash(tmp_path):
    ds = write_dataset(matrix(4), tmp_path / "d", layout=SMALL, parquet_view=False)
    ds[0]
    with open(shard_of(ds), "r+b") as file:
        file.truncate(30)
    with pytest.raises(CorruptFileError, match="30"):
        ds[3]
    with pytest.raises(CorruptFileError, match="30"):
        ds[[3, 0]]
    with pytest.raises(CorruptFileError, match="30"):
        ds.to_numpy()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4]},
        {"data_type": "float64"},
        {"fill_value": 1.0},
        {"codecs": []},
        {"zarr_format": 2},
        {"chunk_grid": {"name": "rectangular"}},
        {"storage_transformers": [{"name": "x"}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
    ],
    ids=str,
)
def test_other_zarr_metadata_is_not_taken_for_ours(tmp_path, change):
    ds = write_dataset(matrix(4), tmp_path / "d", layout=SMALL, parquet_view=False)
    data = json.loads((ds.path / ARRAY / "zarr.json").read_text())
    assert Geometry.from_zarr(data) == ds.geometry
    with pytest.raises(UnsupportedFormatError):
        Geometry.from_zarr(data | change)


# -------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("0.5 GB", 500_000_000), ("64MiB", 2**26), ("1kb", 1000), (4096, 4096), ("300", 300)],
)
def test_shard_sizes_are_written_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "0", "-5MB", "1TB", "501MB", "5 potatoes", "0.1B", True, None])
def test_a_size_that_is_none_or_too_large_is_refused(text):
    with pytest.raises(InvalidInputError, match=re.escape(str(text) if text else repr(text))):
        parse_size(text)


def test_compression_is_lossless_and_halves_what_was_bfloat16(tmp_path):
    wide = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    born = (wide.view(np.uint32) & 0xFFFF0000).view(np.float32)
    sizes = {}
    for how in ("none", "bitshuffle"):
        ds = write_dataset(born, tmp_path / how, layout=SMALL, compression=how, parquet_view=False)
        np.testing.assert_array_equal(ds.to_numpy(), born)
        np.testing.assert_array_equal(ds[[299, 3]], born[[299, 3]])
        ds.verify()
        sizes[how] = shard_of(ds).stat().st_size - ds.geometry.index_bytes
    assert sizes["bitshuffle"] < 0.55 * born.nbytes
    with pytest.raises(InvalidInputError, match=r"'lzma'.*bitshuffle"):
        write_dataset(born, tmp_path / "x", layout=SMALL, compression="lzma")
