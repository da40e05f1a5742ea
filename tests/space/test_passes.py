"""Passes over the rows: every engine sees the state that is built from, all of it, in the order of the ids."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space
from w2w_hub.dataset import remove_rows
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import CorruptFileError, DatasetChangedError
from w2w_hub.lora.adapter import Target
from w2w_hub.lora.canonical import canonicalize_rows
from w2w_hub.space import Engine, Krylov, TorchEngine
from w2w_hub.space.fit import rows as rows_module
from w2w_hub.space.fit.engines import get_engine
from w2w_hub.space.fit.rebuild import compare_spaces, rebuild
from w2w_hub.space.fit.rows import Rows
from w2w_hub.space.fit.solvers.base import gaussian

from .population import dataset_of, decaying

CONVOLUTIONS = ParameterLayout(
    {
        Target("unet", "down_blocks.0.conv1"): (2, 3, 5, (3, 3)),
        Target("unet", "down_blocks.0.conv2"): (2, 9, 5, (3, 1)),  # as a matrix of the same shape
        Target("unet", "down_blocks.0.proj_in"): (1, 4, 4, (1, 1)),
        Target("unet", "mid_block.to_q"): (3, 6, 7),
    },
    2.0,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One worker that lives on from build to build."""
    distributed = pytest.importorskip("distributed", reason="pip install 'w2w-hub[dask]'")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False, protocol="tcp"
    ) as running:
        yield running.scheduler_address


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 32 rows, panels of two."""
    monkeypatch.setattr(rows_module, "SHORT_ROW", rows_module.TILE_VALUES // 32)
    monkeypatch.setattr(Engine, "panel_bytes", 8 * 80 * 70)


def assert_alike(one: WeightSpace, other: WeightSpace) -> None:
    """The same space within the published bound, with the same rows."""
    assert one.ids == other.ids
    assert one.recipe["row_ids_sha256"] == other.recipe["row_ids_sha256"]
    assert compare_spaces(one, other).within_bound
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=1e-3 * np.abs(one.coefficients).max())


# ---------------------------------------------------------------- one cluster, several states
def test_a_cluster_that_lives_on_builds_from_the_state_that_is_given_to_it(cluster: str, tmp_path: Path) -> None:
    folder, options = tmp_path / "people", {"directions": False}
    old = dataset_of(folder, decaying(80, 80), held_out=5)
    before = build_space(old, 5, **options)
    assert_alike(build_space(old, 5, engine=get_engine("dask", scheduler=cluster), **options), before)
    remove_rows(folder, ["p00003", "p00040"])
    new = WeightDataset.open(folder)
    after = build_space(new, 5, **options)
    assert not compare_spaces(before, after).within_bound
    assert_alike(build_space(new, 5, engine=get_engine("dask", scheduler=cluster), **options), after)
    # a folder of the same name, digest and rows in another order, and rows of other weights in the same order
    for number, changes in enumerate(({"order": np.random.default_rng(0).permutation(80)}, {"seed": 1})):
        values = decaying(80, 80, changes.pop("seed", 0))
        shutil.rmtree(folder)
        other = dataset_of(folder, values, held_out=5, **changes)
        assert (other.manifest.digest == old.manifest.digest) is (number == 0)
        alone = build_space(other, 5, **options)
        assert_alike(build_space(other, 5, engine=get_engine("dask", scheduler=cluster), **options), alone)


def test_workers_that_find_another_state_than_the_one_that_is_built_from_refuse_it(
    cluster: str, tmp_path: Path
) -> None:
    options = {"directions": False, "engine": get_engine("dask", scheduler=cluster)}
    moved = dataset_of(tmp_path / "people", decaying(40, 50))
    order = np.random.default_rng(0).permutation(40)
    for name, error, changes in (
        ("reordered", DatasetChangedError, {"values": decaying(40, 50)[order], "order": order}),
        ("other", CorruptFileError, {"values": decaying(40, 50, seed=1)}),
    ):
        values = changes.pop("values")
        (tmp_path / "people").rename(tmp_path / f"before-{name}")
        changed = dataset_of(tmp_path / name, decaying(40, 50) if "order" in changes else values, **changes)
        assert (changed.manifest.digest == moved.manifest.digest) is (name == "reordered")
        (tmp_path / name).rename(tmp_path / "people")
        with pytest.raises(error, match="people"):
            build_space(moved, 5, **options)


def test_rows_of_a_dataset_opened_by_a_relative_path_arrive_in_a_process_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = decaying(40, 50)
    dataset_of(tmp_path / "people", values)
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Rows(WeightDataset.open("people"), np.arange(3, 30), canonical=True))
    monkeypatch.chdir("/")
    arrived = pickle.loads(sent)
    assert pickle.dumps(arrived)  # and may be passed on
    assert (arrived.n, arrived.canonical) == (27, True)
    layout = arrived.dataset.layout
    np.testing.assert_allclose(arrived.tile(0), canonicalize_rows(layout, values[3:30]), rtol=1e-6)


def test_workers_open_a_state_once_and_not_for_every_pass(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_of(tmp_path / "people", decaying(60, 50))
    opened = []
    own = WeightDataset.__init__
    monkeypatch.setattr(WeightDataset, "__init__", lambda self, *a, **k: opened.append(a) or own(self, *a, **k))
    space = build_space(
        dataset, 3, solver=Krylov(block=4), engine=get_engine("dask", scheduler=cluster), directions=False
    )
    assert space.diagnostics["passes"] > 2
    assert len(opened) == 1


@pytest.mark.parametrize("solver", ["gram", "krylov"])
def test_a_dask_build_that_was_stopped_continues_with_what_is_kept(
    cluster: str, tmp_path: Path, solver: str, small_tiles: None
) -> None:
    dataset = dataset_of(tmp_path / "people", decaying(200, 80))
    options = {"solver": solver, "directions": False, "engine": get_engine("dask", scheduler=cluster)}
    through = build_space(dataset, 5, **options, checkpoint=tmp_path / "kept")
    kept = sorted((tmp_path / "kept").glob("*.safetensors"))
    kept[0].unlink()
    for file in kept[1:]:
        file.write_bytes(file.read_bytes()[:-8])  # and others that are damaged
    again = build_space(dataset, 5, **options, checkpoint=tmp_path / "kept")
    assert again.digest == through.digest


# ---------------------------------------------------------------- canonical, with kernels
@pytest.mark.parametrize("engine", ["numpy", "torch", "dask"])
def test_a_canonical_space_of_convolutions_keeps_every_change_on_every_engine(
    engine: str, cluster: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(30, CONVOLUTIONS.size)).astype(np.float32)
    options = {"layout": CONVOLUTIONS, "compatibility": Compatibility(), "held_out": 4}
    dataset = dataset_of(tmp_path / "locon", values, **options)
    found = build_space(
        dataset,
        canonical="svd",
        engine=get_engine("dask", scheduler=cluster) if engine == "dask" else engine,
        directions=False,
    )
    assert_alike(found, build_space(dataset, canonical="svd", directions=False))
    for name in ("p00000", "p00017"):
        adapter, again = dataset.adapter(name), found.adapter(name)
        for target, pair in adapter.factors.items():
            assert again.factors[target].kernel == pair.kernel
            np.testing.assert_allclose(again.factors[target].delta(), pair.delta(), atol=2e-3)
        np.testing.assert_allclose(found.project(adapter), found.row(name).coefficients, atol=1e-3)
    c = found.row("p00003").coefficients
    np.testing.assert_allclose(found.project(found.decode(c)), c, atol=2e-2)
    assert rebuild(found, dataset, engine="numpy").recipe["canonical"] == "svd"


# ---------------------------------------------------------------- order, parts and devices
def test_rows_that_are_out_of_order_in_the_middle_only_are_put_in_order(tmp_path: Path) -> None:
    order = np.arange(40)
    order[[7, 8]] = order[[8, 7]]  # the ends of every tile are in place
    values = decaying(40, 60)
    swapped = dataset_of(tmp_path / "swapped", values, order=order)
    rows = Rows(swapped, np.arange(40))
    assert rows.ids == sorted(rows.ids)
    np.testing.assert_array_equal(np.concatenate([tile for _, tile in rows.tiles()]), values)
    plain = dataset_of(tmp_path / "plain", values)
    assert build_space(swapped, 5, directions=False).digest == build_space(plain, 5, directions=False).digest


@pytest.mark.parametrize("solver", ["gram", "covariance", "krylov"])
def test_three_devices_or_parts_of_seven_tiles_give_what_one_gives(
    solver: str, cluster: str, tmp_path: Path, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_of(tmp_path / "people", decaying(205, 80), held_out=3)
    assert Rows(dataset, dataset.where(split="train")).count == 7
    alone = build_space(dataset, 6, solver=solver, directions=False)
    one = build_space(dataset, 6, solver=solver, engine=TorchEngine("cpu"), directions=False)
    three = build_space(dataset, 6, solver=solver, engine=TorchEngine(["cpu"] * 3), directions=False)
    assert three.recipe["devices"] == ["cpu"] * 3
    monkeypatch.setattr("w2w_hub.space.fit.engines.dask_engine.PARTS", 3)
    parts = build_space(dataset, 6, solver=solver, engine=get_engine("dask", scheduler=cluster), directions=False)
    for space in (one, three, parts):
        assert_alike(space, alone)
        np.testing.assert_allclose(space.mean, alone.mean, rtol=1e-6)
        np.testing.assert_allclose(space.std, alone.std, rtol=1e-5)
        np.testing.assert_allclose(space.squared_norms, alone.squared_norms, rtol=1e-4)


@pytest.mark.parametrize(("count", "size"), [(64, 80), (48, 48), (100, 33), (17, 200)])
def test_krylovs_start_has_full_rank_and_another_one_for_every_seed(count: int, size: int) -> None:
    drawn = gaussian(count, size, 0).astype(np.float64)
    assert np.linalg.matrix_rank(drawn) == min(count, size)
    assert len(np.unique(drawn)) > 0.99 * drawn.size
    np.testing.assert_array_equal(gaussian(count, size, 0), drawn)
    assert abs(np.corrcoef(drawn.ravel(), gaussian(count, size, 1).ravel())[0, 1]) < 0.2
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 1], atol=0.1)
