"""Rows as they are chosen and read, held to NumPy whatever holds them."""

from __future__ import annotations

import itertools
import os
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout, WeightDataset, write_dataset
from w2w_hub.dataset import relabel_rows, remove_rows
from w2w_hub.dataset.matrix.codecs import decompress, make_codec
from w2w_hub.dataset.matrix.geometry import ARRAY, Geometry
from w2w_hub.dataset.matrix.sharded_matrix import ABSENT, ShardedMatrix
from w2w_hub.errors import CorruptFileError, InvalidInputError, RowIndexError, UnknownNameError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.byte_source import ByteSource, LocalFiles

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)
N = 23
VALUES = np.random.default_rng(3).normal(size=(N, 7)).astype(np.float32)
IDS = [f"p{i:02d}" for i in range(N)]
LABELS = pd.DataFrame(
    {
        "id": IDS,
        "split": [("train", "test", "dev")[i % 3] for i in range(N)],
        "Beard": [(True, False, None)[i % 3 if i % 2 else 0] for i in range(N)],
        "Age": [None if i % 5 == 4 else float(i % 4) for i in range(N)],
        "Hair": [(None, "red", "grey")[i % 3] for i in range(N)],
    }
)


@pytest.fixture(scope="module")
def ds(tmp_path_factory) -> WeightDataset:
    folder = tmp_path_factory.mktemp("d") / "d"
    return write_dataset(VALUES, folder, layout=SMALL, ids=IDS, labels=LABELS, shard_size=5 * 28 + 100)


# ------------------------------------------------------------------ choosing
@given(st.lists(st.integers(-N, N - 1), max_size=30), st.sampled_from(["list", "int64", "int8", "object", "ids"]))
@settings(max_examples=40, deadline=None)
def test_a_list_of_numbers_or_ids_is_numpys(ds, numbers, kind):
    key = {
        "list": numbers, "int64": np.array(numbers, np.int64), "int8": np.array(numbers, np.int8),
        "object": pd.Series(numbers, dtype=object), "ids": [IDS[i] for i in numbers],
    }[kind]  # fmt: skip
    found = ds.numbers(key)
    assert found.tolist() == [i % N for i in numbers]
    np.testing.assert_array_equal(ds[key], VALUES[numbers] if numbers else VALUES[:0])


@pytest.mark.parametrize("bad", [N, -N - 1, N + 100])
@pytest.mark.parametrize("way", [lambda i: i, lambda i: [0, i], lambda i: np.array([i, 0]), lambda i: np.int64(i)])
def test_a_number_one_beyond_either_end_is_refused_and_the_last_one_is_not(ds, bad, way):
    with pytest.raises(RowIndexError):
        ds[way(bad)]
    for good in (N - 1, -N):
        np.testing.assert_array_equal(np.atleast_2d(ds[way(good)])[-1 if way(good) is good else 0].shape, (7,))


@given(st.lists(st.sampled_from([True, False, None]), min_size=N, max_size=N), st.permutations(range(N)))
@settings(max_examples=30, deadline=None)
def test_a_mask_is_aligned_by_its_index_whatever_the_order_and_what_is_missing_is_not_chosen(ds, mask, order):
    wanted = [i for i, value in enumerate(mask) if value is True]
    for series in (
        pd.Series(mask, IDS, dtype="boolean"),
        pd.Series(mask, IDS, dtype=object),
        pd.Series(mask, range(N)),
    ):
        if series.notna().any() or series.dtype == "boolean":
            assert ds.numbers(series).tolist() == wanted
            assert ds.numbers(series.iloc[list(order)]).tolist() == wanted
    plain = np.array([value is True for value in mask])
    assert ds.numbers(plain).tolist() == ds.numbers(plain.tolist()).tolist() == wanted
    assert ds.numbers(pd.array(mask, "boolean")).tolist() == wanted
    assert ds.numbers(np.ma.masked_array(plain, [value is None for value in mask])).tolist() == wanted


@pytest.mark.parametrize(
    "mask",
    [
        pd.Series([True] * N, [IDS[0]] * N), pd.Series([True] * N, [*IDS[:-1], IDS[0]]),
        pd.Series([True] * N, [*IDS[:-1], "x"]), pd.Series([True] * N, range(1, N + 1)),
        pd.Series([True] * (N - 1), IDS[1:]), np.ones(N - 1, bool), np.ones(N + 1, bool), [True] * (N + 1),
        np.ones((N, 1), bool), [True, 1, False], np.ones(N), [[0]], {0}, {0: 1}, None, 1.0, True, np.bool_(True),
    ],
)  # fmt: skip
def test_a_mask_or_list_that_chooses_in_no_way_is_refused(ds, mask):
    with pytest.raises((InvalidInputError, UnknownNameError)):
        ds[mask]


@pytest.mark.parametrize("part", [slice(None), slice(3, 9), slice(9, 3, -2), slice(-4, None), slice(5, 500, 3)])
def test_a_slice_is_numpys(ds, part):
    np.testing.assert_array_equal(ds[part], VALUES[part])


def test_rows_with_several_labels_have_all_of_them(ds):
    frame = LABELS.set_index("id")
    for split in (None, "train", "dev"):
        for wanted in (
            {},
            {"Beard": True},
            {"Beard": False, "Hair": "red"},
            {"Age": 2, "Beard": True},
            {"Hair": "grey"},
        ):
            mask = np.ones(N, bool) if split is None else (frame["split"] == split).to_numpy()
            for name, value in wanted.items():
                mask = mask & np.array([v is not None and v == value for v in frame[name].astype(object)])
            assert ds.where(split, **wanted).tolist() == np.flatnonzero(mask).tolist()
    for split in ("train", "test", "dev"):
        mask = (frame["split"] == split).to_numpy()
        np.testing.assert_array_equal(ds.to_numpy(split), VALUES[mask])
        blocks = list(ds.iter_blocks(3, split))
        assert np.concatenate([n for n, _ in blocks]).tolist() == np.flatnonzero(mask).tolist()
        np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), VALUES[mask])
        assert all(len(b) == 3 for _, b in blocks[:-1])
        mean, std = ds.mean_std(split)
        np.testing.assert_allclose(mean, VALUES[mask].astype(float).mean(0), rtol=1e-12)
        np.testing.assert_allclose(std, VALUES[mask].astype(float).std(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(ds.mean_std()[0], ds.mean_std("train")[0])
    np.testing.assert_array_equal(ds.to_numpy(), VALUES)


def test_moments_over_blocks_of_unequal_size_are_those_of_all_rows(tmp_path):
    rng = np.random.default_rng(0)
    rows = (np.linspace(-5, 50, 150)[:, None] + rng.normal(size=(150, 7))).astype(np.float32)
    found = write_dataset(rows, tmp_path / "d", layout=SMALL, parquet_view=False).mean_std(None)
    np.testing.assert_allclose(found[0], rows.astype(float).mean(0), rtol=1e-10)
    np.testing.assert_allclose(found[1], rows.astype(float).std(0, ddof=1), rtol=1e-10)


# ------------------------------------------------------------------- reading
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("numbers", [[3], [2, 3, 4], [22, 0, 7, 7, 5], []])
def test_rows_are_read_into_an_array_of_any_order_in_memory(ds, dtype, numbers):
    wide = np.full((len(numbers) * 2, 7), -1, dtype)
    for out in (np.empty((len(numbers), 7), dtype), np.empty((len(numbers), 7), dtype, order="F"), wide[::2]):
        ds.read_into(np.array(numbers, int), out)
        np.testing.assert_array_equal(out, VALUES[numbers] if numbers else VALUES[:0])
    assert (wide[1::2] == -1).all()
    for wrong in (np.empty((len(numbers) + 1, 7)), np.empty((len(numbers), 6)), np.empty((len(numbers), 7), int)):
        with pytest.raises(InvalidInputError):
            ds.read_into(np.array(numbers, int), wrong)


def test_a_view_is_there_for_each_run_of_rows_in_one_shard_and_only_then(ds):
    size = ds.geometry.shard_rows
    assert 1 < size < N
    for first in range(N):
        for last in range(first, N + 1):
            found = ds.view(first, last)
            if first < last and first // size == (last - 1) // size:
                np.testing.assert_array_equal(found, VALUES[first:last])
                assert not found.flags.writeable
                ds.seen(first, last)
                np.testing.assert_array_equal(found, VALUES[first:last])
            else:
                assert found is None


def test_pages_that_are_let_go_are_whole_ones_and_are_read_again(tmp_path):
    layout = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3000, 5)}, 1.0)
    rows = np.random.default_rng(0).normal(size=(20, layout.size)).astype(np.float32)
    found = write_dataset(rows, tmp_path / "d", layout=layout, parquet_view=False)
    for first, last in ((0, 1), (0, 20), (3, 7), (19, 20)):
        view = found.view(first, last)
        np.testing.assert_array_equal(view, rows[first:last])
        found.seen(first, last)
        np.testing.assert_array_equal(found.view(first, last), rows[first:last])


class Ranges(ByteSource):
    """A store that serves ranges of a folder's files, and no memory map."""

    def __init__(self, folder):
        self.folder = folder

    def size(self, path):
        return (self.folder / path).stat().st_size

    def read(self, path, start, stop):
        return (self.folder / path).read_bytes()[start:stop]


CODECS = ["none", "zstd", "gzip", "blosc"]


@pytest.fixture(scope="module", params=[(c, s) for c in CODECS for s in ("start", "end")], ids="-".join)
def sparse(request, tmp_path_factory):
    """A sharded matrix of zarr-python in which some chunks are absent, and its values."""
    import zarr
    from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec

    codec, place = request.param
    folder = tmp_path_factory.mktemp("z")
    codecs = {"none": [], "zstd": [ZstdCodec()], "gzip": [GzipCodec()], "blosc": [BloscCodec(typesize=4)]}[codec]
    values = VALUES.copy()
    values[4:10] = values[14:16] = 0  # chunks of two rows, shards of six
    values[20:] = 0
    group = zarr.create_group(folder / "weights.zarr")
    array = group.create_array(
        "weights", shape=values.shape, chunks=(6, 7), dtype="float32", compressors=None,
        serializer=ShardingCodec(
            chunk_shape=(2, 7), codecs=[zarr.codecs.BytesCodec(), *codecs], index_location=place
        ),
    )  # fmt: skip
    array[:] = values
    return folder, values


def test_chunks_that_are_absent_are_zeros_whatever_was_in_memory_before(sparse):
    folder, values = sparse
    rng = np.random.default_rng(0)
    lists = [[5], [6, 7, 8, 9], [3, 4, 5], [22, 21, 4, 4], list(range(N)), *(rng.integers(0, N, 20) for _ in range(5))]
    for numbers, source in itertools.product(lists, (LocalFiles(folder), Ranges(folder))):
        matrix = ShardedMatrix(source)
        out = np.full((len(numbers), 7), np.nan, np.float32)
        matrix.rows(numbers, out)
        np.testing.assert_array_equal(out, values[numbers])
        np.testing.assert_array_equal(matrix.row(numbers[0]), values[numbers[0]])


def test_a_shard_of_the_sparse_matrix_has_an_absent_chunk(sparse):
    assert (ShardedMatrix(LocalFiles(sparse[0])).shard_index(0)[:, 0] == ABSENT).any()


def test_reads_of_many_megabytes_by_several_threads_are_right_to_the_last_row(tmp_path):
    """More bytes than one read takes, and than one thread reads alone."""
    layout = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 500_000, 24_288)}, 1.0)
    rows = np.arange(36, dtype=np.float32)[:, None] + np.arange(layout.size, dtype=np.float32) / 2**22
    found = write_dataset(rows, tmp_path / "d", layout=layout, parquet_view=False, shard_size="30MB")
    for numbers in (np.arange(36), np.arange(36)[::-1], np.array([0, 1, 2, 34, 35])):
        out = np.full((len(numbers), layout.size), np.nan, np.float32)
        found.read_into(numbers, out)
        np.testing.assert_array_equal(out[:, [0, 1000, -1]], rows[numbers][:, [0, 1000, -1]])
        assert np.isfinite(out.sum(1)).all()


@pytest.mark.parametrize("chunks", [(2, 7), (5, 3), (23, 7), (1, 1)])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_matrix_that_is_cut_in_another_way_gives_the_rows_of_numpy(tmp_path, chunks, compressed):
    import json
    import shutil

    import zarr
    from zarr.codecs import ZstdCodec

    from w2w_hub.dataset.manifest import DatasetManifest
    from w2w_hub.store.hashing import entry_of

    made = write_dataset(VALUES, tmp_path / "d", layout=SMALL, parquet_view=False)
    shutil.rmtree(made.path / "weights.zarr")
    group = zarr.create_group(made.path / "weights.zarr")
    group.create_array(
        "weights", shape=VALUES.shape, chunks=chunks, dtype="float32", compressors=ZstdCodec() if compressed else None
    )[:] = VALUES
    data = json.loads((made.path / "manifest.json").read_text("utf-8"))
    manifest = DatasetManifest.from_json(data, "m")
    manifest.files = {k: v for k, v in manifest.files.items() if not k.startswith("weights.zarr")}
    for path in (made.path / "weights.zarr").rglob("*"):
        if path.is_file():
            manifest.files[path.relative_to(made.path).as_posix()] = entry_of(path)
    manifest.write(made.path)
    found = WeightDataset.open(made.path)
    assert found.geometry is None
    assert found.view(0, 2) is None
    for numbers in ([0, 2, 4], [5], [4, 3, 2], [3, 4, 5, 6], [0, 0, 22], [22, 1, 7, 7], [1, 2, 4], []):
        np.testing.assert_array_equal(found[numbers], VALUES[numbers] if numbers else VALUES[:0])
        out = np.empty((len(numbers), 7), np.float32)
        found.read_into(np.array(numbers, int), out)
        np.testing.assert_array_equal(out, VALUES[numbers] if numbers else VALUES[:0])
    np.testing.assert_array_equal(found[7], VALUES[7])
    found.verify()
    chunk = next(p for p in sorted((made.path / ARRAY).rglob("*")) if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes() + b"x")
    with pytest.raises(CorruptFileError):
        WeightDataset.open(made.path)[:]


# ---------------------------------------------------------------- what stays
def test_what_was_opened_keeps_its_rows_and_what_was_pickled_notices_another_state(tmp_path):
    folder = tmp_path / "d"
    opened = write_dataset(VALUES, folder, layout=SMALL, ids=IDS, labels=LABELS, shard_size=5 * 28 + 100)
    packed = pickle.dumps(opened)
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again[:], VALUES)
    assert again.ids == opened.ids
    shorter = remove_rows(folder, ["p00", "p11"])
    np.testing.assert_array_equal(opened[:], VALUES)
    np.testing.assert_array_equal(opened[[0, 11, 22]], VALUES[[0, 11, 22]])
    np.testing.assert_array_equal(shorter["p22"], VALUES[22])
    with pytest.raises(CorruptFileError):
        pickle.loads(packed)


def test_a_dataset_opened_by_a_relative_path_is_found_from_another_folder(ds, monkeypatch):
    monkeypatch.chdir(ds.path.parent)
    opened = WeightDataset.open(ds.path.name)
    packed = pickle.dumps(opened)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(packed)[:], VALUES)
    assert not os.path.isabs(ds.path.name)
    assert opened.revision is None


def test_dask_takes_rows_and_columns_and_names_a_state_by_its_content(ds, tmp_path):
    pytest.importorskip("dask.array")
    for rows in (None, 4, 100):
        array = ds.to_dask(rows)
        assert array.shape == VALUES.shape
        assert max(array.chunks[0]) == min(rows or N, N)
        np.testing.assert_array_equal(array.compute(), VALUES)
        np.testing.assert_array_equal(array[3:17, 2:5].compute(), VALUES[3:17, 2:5])
        np.testing.assert_array_equal(array[[8, 1], 6].compute(), VALUES[[8, 1], 6])
    options = {"layout": SMALL, "name": ds.manifest.name, "parquet_view": False}
    one, two = (write_dataset(VALUES + i, tmp_path / f"{i}", **options) for i in range(2))
    assert one.to_dask().name == WeightDataset.open(one.path).to_dask().name
    assert len({d.to_dask(rows).name for d in (one, two, ds) for rows in (3, 4)}) == 6
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidInputError):
            ds.to_dask(wrong)


def test_a_relabelled_dataset_says_the_new_labels_and_the_opened_one_the_old(tmp_path):
    opened = write_dataset(VALUES, tmp_path / "d", layout=SMALL, ids=IDS, labels=LABELS)
    changed = relabel_rows(opened.path, pd.DataFrame({"id": IDS, "Hair": ["blue"] * N}))
    assert opened.where(Hair="red").tolist() == [i for i in range(N) if i % 3 == 1]
    assert changed.where(Hair="blue").tolist() == list(range(N))


# ------------------------------------------------------------------- metadata
@pytest.mark.parametrize("rows", [1, 5, 6, 7, 24])
def test_a_geometry_counts_the_last_shard_also_if_it_is_not_full(rows):
    g = Geometry(rows, 7, "float16", 2, 6)
    assert (g.shards, g.chunks_per_shard, g.row_bytes, g.index_bytes) == (-(-rows // 6), 3, 14, 3 * 16 + 4)
    assert Geometry(rows, 7, "float32", 2, 6, index_checked=False).index_bytes == 48
    assert g.shard_path(3) == f"{ARRAY}/c/3/0"
    assert Geometry(rows, 7, "float16", 2, 6, key=("v2", ".")).shard_path(3) == f"{ARRAY}/3.0"


@pytest.mark.parametrize("name", ["zstd", "blosc", "gzip"])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 300, 65_535, 65_791, 65_792, 70_000])
def test_a_chunk_of_any_size_is_unpacked_into_its_room_and_into_no_other(name, size):
    settings_of = {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": 1}
    codec = {"name": name, "configuration": settings_of if name == "blosc" else {}}
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    packed = bytes(make_codec(codec).encode(data))
    out = np.empty(size, np.uint8)
    decompress(codec, packed, out)
    np.testing.assert_array_equal(out, data)
    for other in (size + 1, size + 256):
        with pytest.raises(ValueError, match=r"\d"):
            decompress(codec, packed, np.empty(other, np.uint8))


def test_bitshuffle_halves_what_was_bfloat16_once(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2_000, 7)).astype(np.float32)
    rows = (rows.view(np.uint32) & 0xFFFF0000).view(np.float32)
    options = {"layout": SMALL, "parquet_view": False}
    plain = write_dataset(rows, tmp_path / "a", **options)
    small = write_dataset(rows, tmp_path / "b", compression="bitshuffle", **options)
    np.testing.assert_array_equal(small[:], rows)
    path = plain.geometry.shard_path(0)
    assert small.manifest.files[path]["size"] < 0.55 * plain.manifest.files[path]["size"]
