from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout, WeightDataset, write_dataset
from w2w_hub.dataset.manifest import Compatibility, row_digest
from w2w_hub.dataset.matrix import geometry
from w2w_hub.errors import CorruptFileError, InvalidInputError, LayoutMismatchError, UnknownNameError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.hashing import sha256_file
from w2w_hub.store.paths import list_files

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)


# ------------------------------------------------------------------- rows
def test_what_is_written_is_read_back_bit_by_bit(make_dataset, layout):
    rows = np.random.default_rng(3).normal(size=(6, layout.size)).astype(np.float32)
    rows[0, :3] = [-0.0, 1e-45, 3e38]
    ds = write_dataset(rows, make_dataset().path.with_name("again"), layout=layout, parquet_view=False)
    assert (ds.to_numpy().view(np.uint32) == rows.view(np.uint32)).all()
    assert ds.layout == layout
    assert ds.shape == (6, layout.size)
    assert len(ds) == 6
    ds.verify()


def test_rows_are_found_by_number_id_slice_list_and_mask(make_dataset):
    ds = make_dataset()
    whole = ds.to_numpy()
    assert ds.ids == ("p0", "p1", "p2", "p3", "p4", "p5")
    for key in (0, -1, np.int64(3)):
        np.testing.assert_array_equal(ds[key], whole[key])
    np.testing.assert_array_equal(ds["p4"], whole[4])
    for key in (slice(None), slice(1, 5, 2), slice(None, None, -1), slice(4, 1, -2), slice(9, 20), [5, 0, 0], [-1, 2]):
        np.testing.assert_array_equal(ds[key], whole[key])
    np.testing.assert_array_equal(ds[["p5", "p0"]], whole[[5, 0]])
    np.testing.assert_array_equal(ds[whole[:, 0] > 0], whole[whole[:, 0] > 0])
    assert ds[[]].shape == (0, ds.layout.size)


def test_rows_that_do_not_exist_are_refused(make_dataset):
    ds = make_dataset()
    for key in (6, -7, [0, 6], [-7]):
        with pytest.raises(IndexError, match="6"):
            ds[key]
    with pytest.raises(IndexError, match="6"):
        ds.read_into(np.array([2, 6]), np.empty((2, ds.layout.size), ds.dtype))
    with pytest.raises(UnknownNameError, match=r"'nobody'.*p0, p1, p2"):
        ds["nobody"]
    with pytest.raises(InvalidInputError, match="6"):
        ds[np.ones(5, bool)]


def test_rows_are_chosen_by_split_and_labels_and_a_missing_label_never_matches(make_dataset):
    ds = make_dataset()
    assert ds.where(split="train").tolist() == [0, 1, 3, 5]
    assert ds.where(Beard=True).tolist() == [0, 2, 5]
    assert ds.where(Beard=False).tolist() == [1, 4]
    assert ds.where(split="test", Beard=True, Hair="red").tolist() == [2]
    np.testing.assert_array_equal(ds.to_numpy("test"), ds[[2, 4]])
    with pytest.raises(UnknownNameError, match=r"'dev'.*train, test"):
        ds.where(split="dev")
    with pytest.raises(UnknownNameError, match=r"'Hat'.*Beard, Age, Hair"):
        ds.where(Hat=True)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_blocks_give_every_row_once_in_order(make_dataset, rows):
    ds = make_dataset()
    blocks = list(ds.iter_blocks(rows, split="train"))
    assert all(len(block) <= rows for _, block in blocks)
    assert np.concatenate([numbers for numbers, _ in blocks]).tolist() == [0, 1, 3, 5]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), ds.to_numpy("train"))


def test_a_row_is_an_adapter_that_knows_its_base_model(make_dataset, layout):
    ds = make_dataset(compatibility=Compatibility("someone/model"))
    adapter = ds.adapter("p2")
    assert adapter.base_model == "someone/model"
    np.testing.assert_array_equal(layout.flatten(adapter), ds["p2"])


def test_rows_without_ids_are_numbered(tmp_path):
    assert write_dataset(np.zeros((2, 7)), tmp_path / "d", layout=SMALL).ids == ("row-000000", "row-000001")


# ------------------------------------------------------------------- dtypes
@pytest.mark.parametrize(
    ("given", "asked", "stored"),
    [("f4", None, "float32"), ("f2", None, "float16"), ("f8", None, "float32"), (">f4", None, "float32"),
     ("f4", "float16", "float16"), ("f2", "float32", "float32")],
)  # fmt: skip
def test_float16_stays_float16_and_all_else_is_float32_unless_asked(tmp_path, given, asked, stored):
    rows = np.random.default_rng(0).normal(size=(3, 7)).astype(given)
    ds = write_dataset(rows, tmp_path / "d", layout=SMALL, dtype=asked)
    assert ds.manifest.dtype == ds[0].dtype.name == stored
    np.testing.assert_array_equal(ds.to_numpy(), rows.astype(stored))
    ds.verify()


def test_the_largest_change_by_rounding_to_float16_is_recorded(tmp_path):
    rows = np.ones((2, 7))
    rows[1, 3] = 1 + 2**-12  # rounds to 1
    assert write_dataset(rows, tmp_path / "a", layout=SMALL, dtype="float16").manifest.float16_max_error == 2**-12
    assert write_dataset(rows, tmp_path / "b", layout=SMALL).manifest.float16_max_error is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "int8"])
def test_a_dtype_that_is_not_stored_is_refused(tmp_path, dtype):
    with pytest.raises(InvalidInputError, match=f"'{dtype}'.*float16.*float32"):
        write_dataset(np.zeros((2, 7)), tmp_path / "d", layout=SMALL, dtype=dtype)


@pytest.mark.parametrize("shape", [(2, 6), (7,), (2, 7, 1)], ids=str)
def test_a_matrix_that_does_not_fit_the_layout_is_refused(tmp_path, shape):
    with pytest.raises(LayoutMismatchError, match="7"):
        write_dataset(np.zeros(shape), tmp_path / "d", layout=SMALL)


def test_no_rows_and_too_few_ids_are_refused(tmp_path):
    with pytest.raises(InvalidInputError):
        write_dataset(np.zeros((0, 7)), tmp_path / "d", layout=SMALL)
    with pytest.raises(InvalidInputError, match=r"1 .*2"):
        write_dataset(np.zeros((2, 7)), tmp_path / "d", layout=SMALL, ids=["a"])


# ------------------------------------------------------------------- digests
@given(order=st.permutations(range(6)))
@settings(deadline=None, max_examples=6)
def test_the_dataset_digest_does_not_depend_on_the_order_of_rows_or_columns(tmp_path_factory, order):
    rows = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    ids = [f"p{i}" for i in range(6)]
    table = pd.DataFrame({"id": ids, "Beard": [True, False] * 3, "Age": range(6), "split": ["train", "test"] * 3})
    folder = tmp_path_factory.mktemp("d")
    options = {"layout": SMALL, "parquet_view": False}
    first = write_dataset(rows, folder / "a", ids=ids, labels=table, **options)
    second = write_dataset(
        rows[order], folder / "b", ids=[ids[i] for i in order], labels=table.iloc[::-1, ::-1], **options
    )
    assert second.ids != first.ids or list(order) == sorted(order)
    assert second.manifest.digest == first.manifest.digest
    second.verify()


@pytest.mark.parametrize("change", ["value", "sign of zero", "id", "split", "label", "scale", "dtype"])
def test_the_dataset_digest_changes_with_everything_a_row_says(tmp_path, change):
    def write(name: str, change: str = "") -> str:
        rows = np.zeros((2, 7), np.float32)
        rows[1, 6] = {"value": 1e-30, "sign of zero": -0.0}.get(change, 0)
        ids = ["p0", "p9" if change == "id" else "p1"]
        table = pd.DataFrame({"id": ids, "Beard": [True, change == "label"], "split": ["train", "train"]})
        if change == "split":
            table.loc[1, "split"] = "test"
        layout = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 3.0) if change == "scale" else SMALL
        dtype = "float16" if change == "dtype" else None
        return write_dataset(rows, tmp_path / name, layout=layout, ids=ids, labels=table, dtype=dtype).manifest.digest

    assert write("same") == write("first")
    assert write("other", change) != write("again")


@given(chunk=st.integers(1, 200), shard=st.integers(1, 600), rows=st.integers(1, 12))
@settings(deadline=None, max_examples=12)
def test_rows_and_digests_do_not_depend_on_chunk_and_shard_sizes(tmp_path_factory, chunk, shard, rows):
    values = np.random.default_rng(rows).normal(size=(rows, 7)).astype(np.float32)
    folder = tmp_path_factory.mktemp("d")
    usual = write_dataset(values, folder / "usual", layout=SMALL, parquet_view=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "CHUNK_BYTES", chunk)
        other = write_dataset(values, folder / "other", layout=SMALL, parquet_view=False, shard_size=shard)
    np.testing.assert_array_equal(other.to_numpy(), values)
    assert list(other.labels["row_sha256"]) == list(usual.labels["row_sha256"]) == [row_digest(v) for v in values]
    assert other.manifest.digest == usual.manifest.digest
    other.verify()


def test_a_big_matrix_is_cut_into_shards_of_whole_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "CHUNK_BYTES", 2 * 28)
    ds = write_dataset(np.ones((10, 7), np.float32), tmp_path / "d", layout=SMALL, shard_size=4 * 28 + 36)
    shards = [name for name in ds.manifest.files if "/c/" in name]
    assert shards == [f"weights.zarr/weights/c/{i}/0" for i in range(3)]


def test_a_row_digest_is_over_a_tag_the_dtype_and_the_little_endian_values():
    import hashlib

    row = np.array([1.0, -2.5], np.float32)
    assert row_digest(row) == hashlib.sha256(b"w2w-row-v1\nfloat32\n" + row.astype("<f4").tobytes()).hexdigest()
    assert row_digest(row.astype(">f4")) == row_digest(row)
    assert row_digest(row.astype(np.float16)) != row_digest(row)


# --------------------------------------------------------------- the folder
def test_the_manifest_lists_every_file_but_itself_and_the_card(make_dataset):
    ds = make_dataset()
    on_disk = set(list_files(ds.path))
    assert on_disk - set(ds.manifest.files) == {"manifest.json", "README.md"}
    assert set(ds.manifest.files) <= on_disk
    for name, entry in ds.manifest.files.items():
        assert entry == {"sha256": sha256_file(ds.path / name), "size": (ds.path / name).stat().st_size}


def test_the_manifest_states_format_counts_layout_and_compatibility(make_dataset, layout):
    ds = make_dataset(
        compatibility=Compatibility("someone/model", "ab" * 32, "seed-0"),
        license="mit",
        version="1.2.3",
        name="avatars",
    )
    data = json.loads((ds.path / "manifest.json").read_text())
    assert (data["format"], data["format_version"]) == ("w2w-dataset", 1)
    assert (data["name"], data["version"], data["licence"]) == ("avatars", "1.2.3", "mit")
    assert (data["rows"], data["splits"]) == (6, {"train": 4, "test": 2})
    assert data["columns"] == {"Beard": "binary", "Age": "float", "Hair": "categorical"}
    assert (data["layout"]["digest"], data["layout"]["size"], data["layout"]["scale"]) == (layout.digest, 122, 3.0)
    assert WeightDataset.open(ds.path).manifest == ds.manifest
    assert ds.manifest.compatibility == Compatibility("someone/model", "ab" * 32, "seed-0")


def test_any_zarr_reader_opens_the_matrix_even_without_consolidated_metadata(make_dataset):
    import zarr

    ds = make_dataset()
    array = zarr.open_array(ds.path / "weights.zarr" / "weights", mode="r")
    np.testing.assert_array_equal(array[:], ds.to_numpy())
    assert array.metadata.zarr_format == 3
    assert array.chunks[1] == array.shards[1] == ds.layout.size


def test_editing_the_card_breaks_no_pin(make_dataset):
    ds = make_dataset()
    (ds.path / "README.md").write_text("another card")
    WeightDataset.open(ds.path).verify()


def test_opening_and_reading_hash_nothing(make_dataset):
    ds = make_dataset()
    before = ds[0]
    shard = next(name for name in ds.manifest.files if "/c/" in name)
    data = bytearray((ds.path / shard).read_bytes())
    data[0] ^= 1
    (ds.path / shard).write_bytes(data)
    changed = WeightDataset.open(ds.path)
    assert np.flatnonzero(changed[0] != before).tolist() == [0]
    with pytest.raises(CorruptFileError, match=r"weights/c/0/0"):
        changed.verify()


def test_replacing_puts_the_new_dataset_in_the_old_ones_place(make_dataset):
    old = make_dataset(seed=0).manifest.digest
    new = make_dataset(seed=1, overwrite=True)
    assert new.manifest.digest != old
    assert [p.name for p in new.path.parent.iterdir()] == ["people"]
    new.verify()


def test_a_list_of_values_is_not_compared_row_by_row_when_rows_are_asked_for(make_dataset):
    ds = make_dataset()
    with pytest.raises(InvalidInputError, match="'Hair'"):
        ds.where(Hair=["red"] * 6)
    with pytest.raises(InvalidInputError):
        ds.to_dask(rows=-2)
