"""Every pass of every engine, and every solver, against a few lines of NumPy in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import WeightDataset, build_space
from w2w_hub.errors import ConvergenceError, InvalidInputError
from w2w_hub.space import Covariance, Engine, Gram, Krylov, NumpyEngine
from w2w_hub.space.fit.engines import get_engine
from w2w_hub.space.fit.engines.ops import NumpyOps, blas_threads
from w2w_hub.space.fit.engines.torch_engine import Resident, TorchEngine, TorchOps
from w2w_hub.space.fit.job import ids_digest
from w2w_hub.space.fit.rows import Moments, Rows
from w2w_hub.space.fit.solvers import choose, get_solvers, solver_of
from w2w_hub.space.fit.solvers.base import gaussian
from w2w_hub.space.fit.solvers.components import find_components, signs
from w2w_hub.space.fit.solvers.krylov import default_block, ritz

from .population import dataset_of, decaying

N, D, CONSTANT = 150, 60, 11
TILE = 16  # the least rows of a tile


def uneven() -> np.ndarray:
    """Columns of very different mean and spread, one that never varies, and one that varies far from zero."""
    rng = np.random.default_rng(5)
    values = decaying(N, D, mean=0.0) * 1e3 * np.geomspace(0.01, 30, D) + np.linspace(-4, 9, D)
    values[:, CONSTANT] = 0.1
    values[:, 3] = 1000 + 0.01 * rng.normal(size=N)
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return dataset_of(tmp_path_factory.mktemp("d") / "people", uneven(), held_out=20, shard_size=40 * 4 * D)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="pip install 'w2w-hub[dask]'")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False, protocol="tcp"
        ) as cluster,
        distributed.Client(cluster) as running,
    ):
        yield running


@contextmanager
def small(engine: Engine) -> Iterator[Engine]:
    """A running engine with tiles of 16 rows, panels of two tiles, and pieces of 5 rows and 7 features."""
    with engine.running():
        engine.tile_values, engine.panel_bytes = 1, 8 * D * TILE * 2 + 9
        for ops in getattr(engine, "_workers", [engine.ops]):
            ops.sub_tile = (5, 7)
        yield engine


@pytest.fixture(params=["numpy", "torch", "torch of three", "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "dask":
        from w2w_hub.space import DaskEngine

        chosen: Engine = DaskEngine(client=request.getfixturevalue("client"))
    elif request.param == "numpy":
        chosen = NumpyEngine()
    else:
        chosen = TorchEngine("cpu" if request.param == "torch" else ["cpu"] * 3)
    with small(chosen) as running:
        yield running


# rows with gaps, in no order: 100 of them are six tiles and a part
CHOSEN = np.random.default_rng(2).permutation(np.r_[0:37, 40:75, 90:118])


def rows_of(dataset: WeightDataset, **options: Any) -> Rows:
    return Rows(dataset, CHOSEN, tile_values=1, **options)


def fitted(rows: Rows) -> tuple[Moments, np.ndarray]:
    """Moments of rows by NumPy, and the standardized matrix in float64."""
    values = uneven()[np.sort(CHOSEN)].astype(np.float64)
    mean, std = values.mean(0), values.std(0, ddof=1)
    mean[CONSTANT], std[CONSTANT] = np.float32(0.1), 1
    single = std.astype(np.float32)
    standardized = (values - mean) / single
    return Moments(mean.astype(np.float32), single, mean, float((standardized**2).sum()), 1), standardized


# ---------------------------------------------------------------- tiles
@settings(max_examples=60, deadline=None)
@given(data=st.data(), block_rows=st.none() | st.integers(1, 200), whose=st.booleans())
def test_tiles_are_the_rows_in_the_order_of_their_ids_whatever_range_and_block(
    dataset: WeightDataset, data: st.DataObject, block_rows: int | None, whose: bool
) -> None:
    rows = rows_of(dataset, block_rows=block_rows)
    assert (rows.tile_rows, rows.count, rows.n, rows.d) == (TILE, 7, len(CHOSEN), D)
    first = data.draw(st.integers(0, rows.count))
    last = data.draw(st.none() | st.integers(first, rows.count))
    expected = uneven()[np.sort(CHOSEN)][first * TILE : None if last is None else last * TILE]
    found = [(at, np.array(tile)) for at, tile in rows.tiles(first, last, empty=np.empty if whose else None)]
    assert [at for at, _ in found] == [number * TILE for number in range(first, 7 if last is None else last)]
    np.testing.assert_array_equal(np.concatenate([np.empty((0, D)), *(tile for _, tile in found)]), expected)
    assert all(len(tile) == TILE for at, tile in found if at < 6 * TILE)


def test_no_tiles_are_those_of_an_empty_range(dataset: WeightDataset) -> None:
    rows = rows_of(dataset)
    for some in (rows, Resident(rows, TorchOps(torch.device("cpu")), (0, 7), 10**9)):
        for number in (0, 3, 7):
            assert list(some.tiles(number, number)) == []


def test_a_tile_holds_as_many_rows_as_its_numbers_allow_and_at_least_sixteen(dataset: WeightDataset) -> None:
    for numbers, expected in ((1, 16), (4096 * 17 - 1, 16), (4096 * 17, 17), (4096 * 40, 40)):
        assert Rows(dataset, CHOSEN, tile_values=numbers).tile_rows == expected


@settings(max_examples=40, deadline=None)
@given(budget=st.integers(0, 4 * D * TILE * 8), ranges=st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6))))
def test_tiles_that_stay_on_a_device_are_the_tiles_of_the_rows_and_no_more_than_its_memory(
    dataset: WeightDataset, budget: int, ranges: list[tuple[int, int]]
) -> None:
    rows = rows_of(dataset)
    kept = Resident(rows, TorchOps(torch.device("cpu")), (2, 6), budget)
    for first, last in [(2, 6), *map(sorted, ranges), (0, 7), (2, 6)]:
        found = [(at, np.array(tile)) for at, tile in kept.tiles(first, last)]
        expected = [(at, np.array(tile)) for at, tile in rows.tiles(first, last)]
        assert [at for at, _ in found] == [at for at, _ in expected]
        for (_, one), (_, other) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert sum(tile.nbytes for tile in kept.kept) <= budget
    assert len(kept.kept) >= min(4, budget // (4 * D * TILE))
    assert [at for at, _ in kept.tiles(3)] == [at for at, _ in rows.tiles(3)]


# ---------------------------------------------------------------- passes
def test_moments_and_the_sketch_are_those_of_the_whole_matrix(engine: Engine, dataset: WeightDataset) -> None:
    rows = rows_of(dataset)
    expected, standardized = fitted(rows)
    sketch = gaussian(9, rows.n, 3)
    found, start = engine.moments(rows, sketch)
    for name in ("mean", "std"):
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-7)
    np.testing.assert_allclose(found.exact_mean, expected.exact_mean, rtol=1e-13)
    assert found.mean[CONSTANT] == np.float32(0.1)
    assert found.exact_mean[CONSTANT] == np.float32(0.1)
    assert (found.constant, found.std[CONSTANT]) == (1, 1)
    assert found.total == pytest.approx(expected.total, rel=1e-12)
    assert found.total == pytest.approx((rows.n - 1) * (D - 1), rel=1e-6)
    # the product is of float32 values about the first row
    np.testing.assert_allclose(engine.ops.numpy(start), sketch @ standardized, atol=1e-3)
    plain, nothing = engine.moments(rows, None, standardize=False)
    assert nothing is None
    assert (plain.std == 1).all()
    np.testing.assert_array_equal(plain.exact_mean, found.exact_mean)
    centered = uneven()[CHOSEN] - expected.exact_mean
    assert plain.total == pytest.approx((centered**2).sum(), rel=1e-10)
    assert plain.constant == 1
    _, start = engine.moments(rows, sketch, standardize=False)
    np.testing.assert_allclose(engine.ops.numpy(start), sketch @ (standardized * expected.std), rtol=1e-3, atol=2e-2)


def test_a_column_whose_spread_is_below_float32_counts_as_constant(engine: Engine, tmp_path: Path) -> None:
    values = decaying(40, 20)
    values[:, 4] = 0
    values[5, 4] = 1e-42  # a deviation that float32 has no number for
    dataset = dataset_of(tmp_path / "people", values)
    found, _ = engine.moments(Rows(dataset, np.arange(40), tile_values=1), None)
    assert found.std[4] == 1 or found.std[4] > 0
    assert np.isfinite(found.total)
    assert found.total <= 39 * 20 * (1 + 1e-5)


def test_every_pass_is_the_product_that_it_says(engine: Engine, dataset: WeightDataset) -> None:
    rows = rows_of(dataset)
    moments, a = fitted(rows)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, D)).astype(np.float32)
    product = engine.ops.numpy(engine.product(rows, moments, engine.ops.array(vectors, "f4"), 1, "a pass"))
    expected = vectors.astype(np.float64) @ a.T @ a
    np.testing.assert_allclose(product, expected, atol=2e-5 * np.abs(expected).max())
    covariance = engine.covariance(rows, moments)
    assert covariance.dtype == np.float64
    np.testing.assert_allclose(covariance, a.T @ a, atol=1e-10)
    left = rng.normal(size=(5, rows.n))
    np.testing.assert_allclose(engine.back_projected(rows, moments, left), left @ a, atol=1e-10)
    basis = np.linalg.qr(rng.normal(size=(D, 8)))[0].T.astype(np.float32)
    single = (uneven()[np.sort(CHOSEN)] - moments.mean).astype(np.float64) / moments.std  # the mean as it is published
    coefficients, squares = engine.projected(rows, moments, basis)
    assert (coefficients.dtype, squares.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(coefficients, single @ basis.T, atol=1e-4 * np.abs(a).max())
    np.testing.assert_allclose(squares, (single**2).sum(1), rtol=1e-5)


@pytest.mark.parametrize("tiles", [0, 1, 2, 3, 6, 7, 20])
def test_the_gram_matrix_is_whole_whatever_a_panel_holds(engine: Engine, dataset: WeightDataset, tiles: int) -> None:
    rows = rows_of(dataset)
    moments, a = fitted(rows)
    engine.panel_bytes = 8 * D * TILE * tiles + 5
    panels = engine.panels(rows)
    assert [number for panel in panels for number in range(*panel)] == list(range(7))
    assert max(last - first for first, last in panels) == min(max(1, tiles), 7)
    gram = engine.gram(rows, moments)
    assert gram.dtype == np.float64
    np.testing.assert_array_equal(gram, gram.T)
    np.testing.assert_allclose(gram, a @ a.T, atol=1e-10)


# ---------------------------------------------------------------- arrays
WIDE = 40_000  # more numbers than are multiplied at once


@pytest.mark.parametrize("ops", [NumpyOps(), TorchOps(torch.device("cpu"))], ids=["numpy", "torch"])
def test_the_operations_of_both_kinds_of_arrays_are_numpys(ops: Any) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(loc=30, size=(m, WIDE)).astype(np.float32) for m in (3, 5))
    one, other = ops.array(first, "f4"), ops.array(second, "f4")
    np.testing.assert_allclose(
        ops.numpy(ops.inner(one, other)), first.astype(np.float64) @ second.T.astype(np.float64), rtol=1e-6
    )
    np.testing.assert_allclose(ops.numpy(ops.squares(one)), (first.astype(np.float64) ** 2).sum(1), rtol=1e-12)
    out = ops.zeros((3, WIDE), "f4")
    assert ops.subtract(one, one[:1], out) is out
    np.testing.assert_array_equal(ops.numpy(out), first - first[:1])
    assert ops.numpy(ops.array(first, "f8")).dtype == np.float64
    assert ops.numpy(ops.cast(ops.array(first, "f8"), "f4")).dtype == np.float32
    assert ops.numpy(ops.zeros((2, 3))).dtype == np.float64
    np.testing.assert_array_equal(ops.numpy(ops.diagonal(np.arange(4.0)[::-1])), np.diag(np.arange(4.0)[::-1]))
    matrix = second[:, :9].astype(np.float64)
    matrix = matrix.T @ matrix @ np.diag(np.arange(9.0)) @ matrix.T @ matrix
    values, vectors = np.linalg.eigh(matrix)
    matrix = rng.normal(size=(9, 9))
    matrix += matrix.T  # of both signs: the largest, not those of largest magnitude
    values, vectors = np.linalg.eigh(matrix)
    found, turn = ops.eigh(ops.array(matrix, "f8"), 4)
    np.testing.assert_allclose(found, values[::-1], atol=1e-12)
    np.testing.assert_allclose(np.abs((ops.numpy(turn) * vectors[:, ::-1][:, :4]).sum(0)), 1)
    assert ops.eigh(ops.array(matrix, "f8"))[1].shape == (9, 9)
    for count in (1, 4, 9):
        found, turn = ops.top(matrix.copy(), count)
        assert turn.shape == (9, count)
        np.testing.assert_allclose(found, values[::-1][:count], atol=1e-12)
        np.testing.assert_allclose(np.abs((turn * vectors[:, ::-1][:, :count]).sum(0)), 1)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 600), columns=st.integers(1, 5), seed=st.integers(0, 99))
@pytest.mark.parametrize("ops", [NumpyOps(), TorchOps(torch.device("cpu"))], ids=["numpy", "torch"])
def test_the_sign_is_that_of_the_first_entry_of_largest_magnitude(ops: Any, rows: int, columns: int, seed: int) -> None:
    basis = np.random.default_rng(seed).integers(-2, 3, (rows, columns)).astype(np.float32)  # many ties
    basis[np.abs(basis).max(1) == 0, 0] = 1
    expected = [np.sign(row[[abs(x) == abs(row).max() for x in row].index(True)]) for row in basis]
    np.testing.assert_array_equal(signs(ops.array(basis, "f4"), ops), expected)


def test_more_random_vectors_begin_with_the_same_ones() -> None:
    for count in (1, 15, 16, 17, 40):
        np.testing.assert_array_equal(gaussian(count, 21, 4), gaussian(50, 21, 4)[:count])


# ---------------------------------------------------------------- engines
def test_an_engine_takes_its_own_settings_and_refuses_anothers(client: Any) -> None:
    values: dict[str, Any] = {"devices": "cpu", "scheduler": client.scheduler.address, "memory": 12345}
    takes = {"numpy": set(), "torch": {"devices", "memory"}, "dask": {"scheduler"}}
    for name, own in takes.items():
        for option, value in values.items():
            if option not in own:
                with pytest.raises(InvalidInputError, match=option):
                    get_engine(name, **{option: value})
            assert get_engine(name, **{option: None}).name == name
        made: Any = get_engine(name, **{option: values[option] for option in own})
        assert made.name == name
        assert {option: getattr(made, option) for option in own} == {option: values[option] for option in own}
        assert get_engine(made) is made
        for option, value in values.items():
            with pytest.raises(InvalidInputError, match=option):
                get_engine(made, **{option: value})
        if name == "torch":
            with made.running():
                assert [ops.device for ops in made._workers] == [torch.device("cpu")]
        if name == "dask":
            with made.running():
                assert made._client.scheduler.address == client.scheduler.address
    two: Any = get_engine("torch", devices=["cpu", "cpu"], memory=0)
    assert two.memory == 0
    with two.running():
        assert len(two._workers) == 2
    with pytest.raises(InvalidInputError):
        get_engine("cupy")
    for device in ("cuda:99", "nonsense", ["cpu", "nonsense"]):
        with pytest.raises(InvalidInputError), TorchEngine(device).running():
            pass
    assert client.submit(int, "3").result() == 3


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_dask_starts_has_the_workers_that_are_asked_for_and_ends_with_the_build(client: Any) -> None:
    from w2w_hub.space import DaskEngine

    own = DaskEngine(workers=1)
    with own.running():
        started = own._client
        assert len(started.scheduler_info(n_workers=-1)["workers"]) == 1
        assert own.describe() == {"engine": "dask", "threads": 1}
    assert started.status == "closed"
    with DaskEngine(client=client).running() as given:
        assert given.describe() == {"engine": "dask", "threads": 1}
    assert client.status == "running"


def test_a_recipe_states_what_the_sums_depend_on() -> None:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        assert blas_threads() == 1
        assert NumpyEngine().describe() == {"engine": "numpy", "threads": 1}
    with threadpool_limits(3):
        assert NumpyEngine().describe()["threads"] == 3
    with TorchEngine(["cpu", "cpu"]).running() as engine:
        stated = engine.describe()
    assert stated == {"engine": "torch", "devices": ["cpu"] * 2, "threads": torch.get_num_threads(), "tf32": False}
    names = ["b", "a", "c"]
    assert ids_digest(names) == hashlib.sha256(b"a\nb\nc\n").hexdigest()
    assert names == ["b", "a", "c"]


def test_torchs_precision_is_the_highest_during_a_build_and_the_users_again_afterwards() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with suppress(KeyError), TorchEngine("cpu").precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.is_grad_enabled()
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.is_grad_enabled()
    finally:
        torch.set_float32_matmul_precision(before)


# ---------------------------------------------------------------- solvers
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("solver", ["gram", "covariance", "krylov"])
def test_components_residuals_and_signs_are_those_of_the_matrix(
    dataset: WeightDataset, solver: str, standardize: bool
) -> None:
    rows, k = rows_of(dataset), 5
    moments, a = fitted(rows)
    if not standardize:
        a = a * moments.std
    chosen = choose(rows.n, D, k, get_solvers(solver, block=6))
    with small(NumpyEngine()) as engine:
        found = find_components(engine, rows, k, chosen, standardize=standardize)
    s, vt = np.linalg.svd(a, full_matrices=False)[1:]
    np.testing.assert_allclose(found.singular_values, s[:k], rtol=1e-5)
    for row, expected in zip(found.basis, vt, strict=False):
        expected = expected * np.sign(expected[np.abs(expected).argmax()])
        assert row @ expected == pytest.approx(1, abs=1e-3)
        assert row[np.abs(row).argmax()] > 0
    basis = found.basis.astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(k), atol=3e-7)
    if solver == "krylov":
        true = np.linalg.norm(basis @ a.T @ a - found.singular_values[:, None] ** 2 * basis, axis=1)
        np.testing.assert_allclose(found.residuals, true / found.singular_values**2, rtol=0.1, atol=2e-6)
        assert 0 < found.facts["missed"] <= 1e-6
    else:
        assert found.residuals.max() < 1e-12
        assert found.facts == {}


@pytest.mark.parametrize("solver", ["gram", "covariance", "krylov"])
def test_rows_twice_as_long_have_the_same_components_and_residuals_to_the_bit(solver: str, tmp_path: Path) -> None:
    found = {}
    for power in (0, 20, -20):
        dataset = dataset_of(tmp_path / f"{power}", decaying(60, 50) * np.float32(2.0**power))
        found[power] = build_space(dataset, 4, solver=solver, standardize=False, directions=False)
    for power in (20, -20):
        np.testing.assert_array_equal(found[power].basis, found[0].basis)
        np.testing.assert_allclose(found[power].singular_values, found[0].singular_values * 2.0**power, rtol=1e-14)
        np.testing.assert_allclose(found[power].residuals, found[0].residuals, rtol=1e-6)


@pytest.mark.parametrize("solver", ["gram", "covariance", "krylov"])
def test_components_much_smaller_than_the_first_are_found_and_those_that_are_not_there_are_refused(
    solver: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([1, 0.1, 0.004] if solver == "krylov" else [1, 1e-2, 3e-5])  # of rows; of eigenvalues the square
    left, right = np.linalg.qr(rng.normal(size=(70, 4)))[0], np.linalg.qr(rng.normal(size=(50, 3)))[0]
    left -= left.mean(0)
    values = (np.linalg.qr(left)[0][:, :3] * sizes) @ right.T
    if solver != "krylov":  # sums and products of few bits, exact in float32 and float64
        rows = rng.integers(-8, 9, (35, 3)) @ (rng.integers(-8, 9, (3, 50)) * np.array([[4096], [64], [1]]))
        values = np.concatenate([rows, -rows]) / 1024
    dataset = dataset_of(tmp_path / "people", values.astype(np.float32))
    space = build_space(dataset, 3, solver=solver, standardize=False, directions=False)
    exact = np.linalg.svd(values.astype(np.float32).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(space.singular_values, exact[:3], rtol=2e-3)
    if solver != "krylov":
        with pytest.raises(InvalidInputError, match="3"):
            build_space(dataset, 4, solver=solver, standardize=False, directions=False)


def test_a_seed_moves_what_krylov_starts_from_and_nothing_else_does(dataset: WeightDataset) -> None:
    one, again, other = (
        build_space(dataset, 4, solver=Krylov(block=7, tolerance=0.01, seed=seed), directions=False)
        for seed in (0, 0, 1)
    )
    assert one.digest == again.digest != other.digest
    assert 1e-6 < one.diagnostics["missed"] <= 0.01  # it ends with the pass that reaches the tolerance
    assert other.recipe["seed"] == 1
    np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=0.02)


def test_as_many_passes_as_were_needed_are_enough_and_one_less_is_not(dataset: WeightDataset) -> None:
    space = build_space(dataset, 4, solver=Krylov(block=5), directions=False)
    passes = space.diagnostics["passes"]
    assert passes > 2
    enough = build_space(dataset, 4, solver=Krylov(block=5, max_passes=passes), directions=False)
    assert enough.digest == space.digest
    with pytest.raises(ConvergenceError):
        build_space(dataset, 4, solver=Krylov(block=5, max_passes=passes - 1), directions=False)


def test_krylovs_components_of_more_numbers_than_are_combined_at_once_are_orthonormal_and_right(
    tmp_path: Path,
) -> None:
    values = decaying(30, 8300)
    dataset = dataset_of(tmp_path / "wide", values)
    ours = build_space(dataset, 6, solver="krylov", directions=False)
    exact = build_space(dataset, 6, solver="gram", directions=False)
    np.testing.assert_allclose(ours.singular_values, exact.singular_values, rtol=1e-5)
    basis = ours.basis.astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=2e-7)
    np.testing.assert_allclose(np.abs((basis * exact.basis).sum(1)), 1, atol=1e-4)
    assert ours.residuals is not None
    true = np.linalg.norm(  # of the standardized matrix
        basis @ (a := ((values - ours.mean) / ours.std).astype(np.float64)).T @ a
        - ours.singular_values[:, None] ** 2 * basis, axis=1,
    )  # fmt: skip
    np.testing.assert_allclose(ours.residuals, true / ours.singular_values**2, rtol=0.2, atol=2e-6)


def test_ritz_residuals_are_those_of_a_krylov_subspace() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(40, 40))
    matrix = matrix @ matrix.T
    whole = blocks = np.linalg.qr(rng.normal(size=(40, 3)))[0]
    for _ in range(3):
        image = matrix @ blocks
        blocks = np.linalg.qr(image - whole @ (whole.T @ image))[0]
        whole = np.concatenate([whole, blocks], 1)
    image = matrix @ blocks
    outside = image - whole @ (whole.T @ image)
    found = ritz(NumpyOps(), whole.T @ matrix @ whole, outside.T @ outside, 4, 7)
    values, vectors = np.linalg.eigh(whole.T @ matrix @ whole)
    np.testing.assert_allclose(found.values, values[::-1][:7])
    y = whole @ vectors[:, ::-1][:, :4]
    np.testing.assert_allclose(found.residuals, np.linalg.norm(matrix @ y - y * found.values[:4], axis=0), rtol=1e-8)
    assert found.vectors.shape == (12, 7)


def test_what_is_missed_is_estimated_by_residuals_over_the_gap_to_the_middle_of_the_surplus() -> None:
    values = np.diag([10.0, 8.0, 3.0, 2.0, 1.0])
    rest = np.diag([0.4, 0.6, 1, 1, 1]) ** 2
    # gaps to 2, the middle of what is beyond the first two: 8 and 6
    expected = 2 * (0.16 / 8 + 0.36 / 6) / 18
    assert ritz(NumpyOps(), values, rest, 2, 4).missed == pytest.approx(expected, rel=1e-12)
    assert ritz(NumpyOps(), values * 4, rest * 16, 2, 4).missed == pytest.approx(expected, rel=1e-12)
    # a residual larger than the gap bounds by itself
    flat = ritz(NumpyOps(), np.diag([2.0, 1.9, 1.8]), np.diag([0.5, 0, 0]) ** 2, 1, 3)
    assert flat.missed == pytest.approx(2 * 0.5 / 2, rel=1e-12)
    # nothing is left over, so that what is outside is below 0
    assert ritz(NumpyOps(), np.diag([4.0, 2.0]), np.eye(2) * 0.01, 2, 2).missed == pytest.approx(
        2 * (0.01 / 4 + 0.01 / 2) / 6, rel=1e-12
    )


def test_the_choice_of_a_solver_and_its_block_is_pinned() -> None:
    chosen = {
        (n, d): next(k for k in range(1, min(n, d)) if choose(n, d, k).name != "krylov")
        for n, d in ((400, 8000), (8000, 400), (2000, 2000), (1000, 99_648))
    }
    assert chosen == {(400, 8000): 1, (8000, 400): 34, (2000, 2000): 344, (1000, 99_648): 30}
    for n, d, dense in ((300, 301, "gram"), (300, 300, "covariance"), (301, 300, "covariance")):
        assert choose(n, d, min(n, d) - 1).name == dense
    # too large for a dense eigenproblem, unless most of all is asked for
    assert choose(100_000, 200_000, 32_123).name == "krylov"
    assert choose(100_000, 200_000, 32_124).name == "gram"
    assert [default_block(k) for k in (1, 13, 14, 100, 2000, 2001, 4000)] == [16, 16, 17, 60, 1010, 510, 1010]
    for (n, d, k, block), expected in {
        (100, 90, 30, None): 25, (20, 90, 19, None): 19, (20, 90, 3, 70): 20, (90, 20, 3, 70): 20, (90, 20, 3, 1): 1,
    }.items():  # fmt: skip
        assert Krylov(block=block).sized(n, d, k).block == expected


def test_a_solver_states_what_it_was_asked_for_and_its_defaults() -> None:
    asked: dict[str, Any] = {"block": 7, "tolerance": 0.25, "max_passes": 3, "seed": 11}
    made = choose(100, 90, 5, get_solvers("krylov", **asked))
    assert made == Krylov(**asked) == solver_of(made.to_json())
    assert made.to_json() == {"solver": "krylov", **asked}
    assert list(made.to_json()) == ["solver", *asked]
    assert "7" in made.describe()
    assert "0.25" in made.describe()
    assert choose(100, 90, 5, get_solvers("krylov")).to_json() == {
        "solver": "krylov", "block": 16, "tolerance": 1e-6, "max_passes": 40, "seed": 0,
    }  # fmt: skip
    texts = set()
    for solver, kind in (("gram", Gram), ("covariance", Covariance)):
        exact = choose(100, 90, 5, get_solvers(solver, block=7, seed=3))
        assert exact == kind() == solver_of(exact.to_json())
        assert exact.to_json() == {"solver": solver}
        texts.add(exact.describe())
    assert len(texts) == 2
    assert solver_of({}) == Gram()  # recipes of the first builds name none


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("tolerance", 0.0), ("tolerance", 1.0), ("tolerance", -0.1), ("tolerance", float("nan")), ("tolerance", True),
     ("max_passes", 0), ("max_passes", 1.5), ("block", 0), ("block", -1), ("seed", -1), ("seed", 1.5)],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_by_every_way_to_a_solver(name: str, wrong: Any) -> None:
    for solver in ("krylov", "auto", ["gram", "krylov"]):
        with pytest.raises(InvalidInputError, match=name):
            get_solvers(solver, **{name: wrong})
    with pytest.raises(InvalidInputError, match=name):
        Krylov(**{name: wrong})
    with pytest.raises(InvalidInputError, match=name):
        solver_of({"solver": "krylov", name: wrong})
    Krylov(tolerance=0.999, max_passes=1, block=1, seed=0)


def test_a_solver_that_is_not_there_is_refused() -> None:
    for refused in (lambda: get_solvers("lanczos"), lambda: solver_of({"solver": "lanczos"})):
        with pytest.raises(InvalidInputError, match="lanczos"):
            refused()
