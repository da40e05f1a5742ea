from __future__ import annotations

import numpy as np
import pytest

from w2w_hub import ParameterLayout, write_dataset
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 3, 4)}, 2.0)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    rows = np.arange(103 * 7, dtype=np.float32).reshape(103, 7)
    return write_dataset(rows, tmp_path_factory.mktemp("d") / "d", layout=SMALL, shard_size=500, parquet_view=False)


def ids(batches) -> list[str]:
    return [name for batch in batches for name in batch["id"]]


def test_rows_come_with_their_labels_and_missing_is_never_false(make_dataset):
    ds = make_dataset()
    data = ds.torch("train", columns=["Beard", "Age", "Hair"])
    assert len(data) == 4
    item = data[2]
    assert item["id"] == "p3"
    assert torch.equal(item["weights"], torch.from_numpy(ds["p3"]))
    assert item["weights"].dtype == torch.float32
    assert torch.isnan(item["Beard"])
    assert (float(data[1]["Beard"]), float(data[0]["Age"]), data[2]["Hair"]) == (0.0, 20.0, "")
    assert torch.equal(data[-1]["weights"], torch.from_numpy(ds["p5"]))
    with pytest.raises(IndexError, match="4"):
        data[4]
    with pytest.raises(UnknownNameError, match=r"'Hat'.*Beard, Age, Hair"):
        ds.torch(columns=["Hat"])
    with pytest.raises(UnknownNameError, match="'dev'"):
        ds.torch("dev")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_every_row_once_in_batches(many, workers):
    batches = list(DataLoader(many.torch(), batch_size=10, shuffle=True, num_workers=workers))
    assert sorted(ids(batches)) == sorted(many.ids)
    for batch in batches:
        np.testing.assert_array_equal(batch["weights"].numpy(), many[list(batch["id"])])


def test_a_batch_that_was_read_at_once_is_not_copied_and_one_that_was_not_is_collated_right(many):
    from torch.utils.data import default_collate

    data = many.torch()
    items = data.__getitems__([5, 3, 9])
    batch = default_collate(items)
    assert batch["weights"].data_ptr() == items[0]["weights"].data_ptr()
    np.testing.assert_array_equal(batch["weights"].numpy(), many[[5, 3, 9]])
    for mixed in (items[::-1], items[:2], [items[0], data[4], items[2]], [data[1]]):
        batch = default_collate(mixed)
        np.testing.assert_array_equal(batch["weights"].numpy(), many[list(batch["id"])])


@pytest.mark.slow
def test_views_show_their_split_size_and_order(many):
    assert repr(many.torch("train")).startswith(f"RowDataset(dataset {many.manifest.name}, split train, rows ")
    stream = many.torch_stream(rank=1, world_size=4)
    assert f"split all, rows {len(many):,}," in repr(stream)
    assert "rank 1 of 4" in stream._repr_html_().replace("</th><td>", " ")


@pytest.mark.slow
def test_a_spawned_worker_opens_the_dataset_by_itself(many):
    loader = DataLoader(many.torch(), batch_size=50, num_workers=1, multiprocessing_context="spawn")
    assert ids(loader) == list(many.ids)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_rows_out_without_overlap(many, ranks, workers):
    seen = []
    for rank in range(ranks):
        stream = many.torch_stream(rank=rank, world_size=ranks, run=4, buffer=3, seed=1)
        found = ids(DataLoader(stream, batch_size=8, num_workers=workers))
        assert len(found) == len(stream)
        seen += found
    assert sorted(seen) == sorted(many.ids)


def test_every_rank_gets_as_many_rows_where_that_is_asked(many):
    parts = [ids(DataLoader(many.torch_stream(rank=r, world_size=4, even=True))) for r in range(4)]
    assert [len(p) for p in parts] == [25] * 4
    assert len({name for part in parts for name in part}) == 100


def test_the_order_depends_on_seed_and_epoch_alone_and_is_that_of_the_file_unshuffled(many):
    def order(epoch=0, **options) -> list[str]:
        stream = many.torch_stream(run=4, buffer=3, **options)
        stream.set_epoch(epoch)
        return ids(DataLoader(stream, batch_size=5))

    assert order(shuffle=False) == list(many.ids)
    assert order() == order()
    assert order() != order(epoch=1) != order(seed=7) != order()
    thirds = [name for rank in range(3) for name in order(rank=rank, world_size=3)]
    assert thirds == order()
    mixed = [many.position(name) for name in order()]
    assert np.corrcoef(mixed, range(103))[0, 1] < 0.5


def test_an_epoch_reaches_workers_that_stay_from_one_to_the_next(many):
    stream = many.torch_stream(seed=3, run=4, buffer=2)
    loader = DataLoader(stream, batch_size=8, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 2):
        stream.set_epoch(epoch)
        expected = [many.ids[i] for i in stream.order()]
        assert ids(loader) == expected
        assert stream.epoch == epoch


def test_a_stream_yields_the_rows_it_names(many):
    for batch in DataLoader(many.torch_stream(run=4, buffer=2), batch_size=9):
        np.testing.assert_array_equal(batch["weights"].numpy(), many[list(batch["id"])])


def test_impossible_ranks_and_runs_are_refused(many):
    for options in ({"rank": 2, "world_size": 2}, {"rank": 0}, {"run": 0}, {"buffer": 0}):
        with pytest.raises(InvalidInputError):
            many.torch_stream(**options)


def test_mean_and_std_are_those_of_the_training_split_in_one_pass(make_dataset):
    ds = make_dataset()
    train = ds.to_numpy("train").astype(np.float64)
    mean, std = ds.mean_std()
    np.testing.assert_allclose(mean, train.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(std, train.std(0, ddof=1), rtol=1e-12)
    whole = ds.mean_std(None)
    np.testing.assert_allclose(whole[1], ds.to_numpy().astype(np.float64).std(0, ddof=1), rtol=1e-12)


def test_mean_and_std_of_many_blocks_are_exact(many, tmp_path):
    rows = (1e6 + np.random.default_rng(0).normal(size=(300, 7))).astype(np.float32)
    ds = write_dataset(rows, tmp_path / "d", layout=SMALL, parquet_view=False)
    mean, std = ds.mean_std()
    np.testing.assert_allclose(mean, rows.astype(np.float64).mean(0), rtol=1e-13)
    np.testing.assert_allclose(std, rows.astype(np.float64).std(0, ddof=1), rtol=1e-9)


def test_a_standard_deviation_of_one_row_is_refused(tmp_path):
    ds = write_dataset(np.ones((1, 7)), tmp_path / "d", layout=SMALL)
    with pytest.raises(InvalidInputError, match="'train'"):
        ds.mean_std()


def test_dask_computes_over_the_rows_in_blocks(many):
    pytest.importorskip("dask.array")
    lazy = many.to_dask(rows=20)
    assert (lazy.shape, lazy.dtype, lazy.chunks) == ((103, 7), np.float32, ((20, 20, 20, 20, 20, 3), (7,)))
    np.testing.assert_array_equal(lazy.compute(), many.to_numpy())
    np.testing.assert_allclose(lazy[10:50, 2:4].sum(0).compute(), many.to_numpy()[10:50, 2:4].sum(0))
    assert many.to_dask(rows=20).name == lazy.name


def test_a_batch_unflattens_into_factors(many):
    batch = many[[5, 9]]
    ((a, b),) = many.layout.unflatten_batch(batch).values()
    assert (a.shape, b.shape) == ((2, 1, 3), (2, 4, 1))
    np.testing.assert_array_equal(a[1, 0], many.adapter(9).factors[next(iter(many.adapter(9).factors))].A[0])
