from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.cli import main
from w2w_hub.errors import ConvergenceError, InvalidInputError
from w2w_hub.space import Covariance, Engine, Gram, Krylov, NumpyEngine, Solver, TorchEngine, clear_passes
from w2w_hub.space.fit import rows as rows_module
from w2w_hub.space.fit.engines import get_engine
from w2w_hub.space.fit.nulls import gaussian_spectrum
from w2w_hub.space.fit.rebuild import compare_spaces, rebuild
from w2w_hub.space.fit.resume import ResumeFolder
from w2w_hub.space.fit.rows import Moments, Rows
from w2w_hub.space.fit.solvers import SOLVERS, Eigenpairs, choose, solver_of

from .population import dataset_of, decaying

# the published bound between engines, of components that are separated (BENCHMARKS.md)
SINGULAR_VALUES, ANGLE = 1e-5, 1e-3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return dataset_of(tmp_path_factory.mktemp("d") / "people", decaying(200, 300), held_out=20)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, panels and blocks also of a small matrix."""
    monkeypatch.setattr(rows_module, "SHORT_ROW", rows_module.TILE_VALUES // 32)
    monkeypatch.setattr(Engine, "panel_bytes", 8 * 300 * 70)


@pytest.fixture(scope="module")
def exact(dataset: WeightDataset) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and components by a dense decomposition of the whole standardised matrix."""
    values = dataset.to_numpy("train").astype(np.float64)
    _, s, vt = np.linalg.svd((values - values.mean(0)) / values.std(0, ddof=1), full_matrices=False)
    return s, vt


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="pip install 'w2w-hub[dask]'")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False, protocol="tcp"
    ) as running:
        yield running.scheduler_address


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_every_solver_gives_the_components_of_a_dense_decomposition(
    dataset: WeightDataset, exact: tuple[np.ndarray, np.ndarray], solver: str, small_tiles: None
) -> None:
    space = build_space(dataset, 12, solver=solver, directions=False)
    s, vt = exact
    np.testing.assert_allclose(space.singular_values, s[:12], rtol=SINGULAR_VALUES)
    assert space.recipe["solver"] == solver
    assert space.diagnostics["orthogonality_error"] < 1e-6
    assert space.residuals is not None
    # Davis and Kahan: a component is no farther from the true one than its residual over the gap to the others
    values, cosines = s[:13] ** 2, (space.basis.astype(np.float64) * vt[:12]).sum(1)
    gaps = np.minimum(-np.diff(values), np.concatenate([[np.inf], -np.diff(values)[:-1]]))
    bound = space.residuals * values[:12] / gaps
    assert (np.sqrt(np.maximum(1 - cosines**2, 0)) <= bound * 1.01 + 2e-4).all()  # float32 of the basis
    assert space.diagnostics["largest_residual"] == space.residuals.max()
    assert space.residuals.max() < (1e-9 if solver in ("gram", "covariance") else 1e-2)


@pytest.mark.parametrize("engine", ["torch", "dask"])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_engines_agree_within_the_stated_bound(
    dataset: WeightDataset, engine: str, solver: str, cluster: str, small_tiles: None
) -> None:
    chosen = TorchEngine("cpu") if engine == "torch" else get_engine("dask", scheduler=cluster)
    ours = build_space(dataset, 12, solver=solver, directions=False)
    theirs = build_space(dataset, 12, solver=solver, engine=chosen, directions=False)
    np.testing.assert_allclose(theirs.singular_values, ours.singular_values, rtol=SINGULAR_VALUES)
    cosines = (theirs.basis.astype(np.float64) * ours.basis).sum(1)  # signs agree too
    assert np.sqrt(np.maximum(1 - cosines**2, 0)).max() < ANGLE
    np.testing.assert_allclose(theirs.coefficients, ours.coefficients, atol=ANGLE * np.abs(ours.coefficients).max())
    assert theirs.recipe["engine"] == engine


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_order_shards_and_block_size_change_no_bit(
    dataset: WeightDataset, engine: str, solver: str, tmp_path: Path, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = np.random.default_rng(1).permutation(200)
    shuffled = dataset_of(tmp_path / "shuffled", decaying(200, 300), order=order, held_out=20, shard_size=50 * 4 * 300)
    assert len([f for f in shuffled.manifest.files if "/c/" in f]) > len(
        [f for f in dataset.manifest.files if "/c/" in f]
    )
    first = build_space(dataset, 9, solver=solver, engine=engine, directions=False)
    second = build_space(shuffled, 9, solver=solver, engine=get_engine(engine, block_rows=77), directions=False)
    assert second.digest == first.digest
    for row in ("p00000", "p00123", "p00199"):
        np.testing.assert_array_equal(second.row(row).coefficients, first.row(row).coefficients)
    np.testing.assert_array_equal(second.singular_values, first.singular_values)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("solver", ["gram", "krylov"])
def test_a_killed_build_goes_on_where_it_was_and_gives_the_same_bits(
    dataset: WeightDataset, solver: str, tmp_path: Path, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from w2w_hub.space.fit.resume import ResumeFolder

    folder, computed = tmp_path / "unfinished", []
    remember = ResumeFolder.remember

    def counting(self, name, compute, *rest):
        def called():
            if len(computed) == 3 and self.folder is not None and not (tmp_path / "again").exists():
                (tmp_path / "again").touch()
                raise Killed
            computed.append(name)
            return compute()

        return remember(self, name, called, *rest)

    through = build_space(dataset, 9, solver=solver, directions=False)
    monkeypatch.setattr(ResumeFolder, "remember", counting)
    with pytest.raises(Killed):
        build_space(dataset, 9, solver=solver, directions=False, checkpoint=folder)
    assert len(list(folder.glob("*.safetensors"))) == 3
    resumed = build_space(dataset, 9, solver=solver, directions=False, checkpoint=folder)
    assert resumed.digest == through.digest
    assert len(computed) == len(set(computed))  # no pass was done twice
    clear_passes(resumed, folder)
    assert not folder.exists()


def test_results_of_another_build_are_not_used_and_foreign_folders_are_left_alone(
    dataset: WeightDataset, tmp_path: Path
) -> None:
    old = ResumeFolder(tmp_path / "old", {"k": 1})
    old.remember("moments", lambda: {"first": np.zeros(3)})
    old.release()
    space = build_space(dataset, 5, directions=False, checkpoint=tmp_path / "old")
    assert space.digest == build_space(dataset, 5, directions=False).digest
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="mine"):
        build_space(dataset, 5, checkpoint=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_too_few_passes_are_an_error_that_says_what_is_missed(dataset: WeightDataset) -> None:
    with pytest.raises(ConvergenceError, match="max_passes"):
        build_space(dataset, 12, solver=Krylov(max_passes=2))


def test_a_looser_tolerance_takes_fewer_passes_and_the_estimate_covers_what_is_missed(
    dataset: WeightDataset, exact: tuple[np.ndarray, np.ndarray]
) -> None:
    variance = (exact[0][:12] ** 2).sum()
    passes = []
    for tolerance in (1e-2, 1e-4, 1e-7):
        space = build_space(dataset, 12, solver=Krylov(block=16, tolerance=tolerance), directions=False)
        captured = ((space.basis.astype(np.float64) @ exact[1].T * exact[0]) ** 2).sum()
        missed = 1 - captured / variance
        assert missed <= max(space.diagnostics["missed"], 2e-7)  # what float32 leaves
        assert space.diagnostics["missed"] <= tolerance
        passes.append(space.diagnostics["passes"])
    assert passes == sorted(passes)
    assert passes[0] < passes[-1]


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_rows_that_span_less_than_k_are_refused_with_their_rank(tmp_path: Path, solver: str) -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(50, 3)) @ rng.normal(size=(3, 80))).astype(np.float32)
    dataset = dataset_of(tmp_path / "flat", values)
    # float32 rounding of the rows adds dimensions of its own, far below what Krylov's float32 products resolve
    if solver == "krylov":
        with pytest.raises(InvalidInputError, match=r"\b3\b"):
            build_space(dataset, 5, solver=solver)
    twice = dataset_of(tmp_path / "twice", np.repeat(decaying(3, 80), 5, 0))
    with pytest.raises(InvalidInputError, match=r"\b2\b"):
        build_space(twice, 5, solver=solver)


def test_krylov_finds_all_components_of_rows_that_span_few_dimensions(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "few", np.repeat(decaying(8, 300), 6, 0))
    ours = build_space(dataset, 7, solver="krylov", directions=False)
    exact = build_space(dataset, 7, solver="gram", directions=False)
    np.testing.assert_allclose(ours.singular_values, exact.singular_values, rtol=SINGULAR_VALUES)
    assert ours.diagnostics["explained_variance"]["7"] == pytest.approx(1, abs=1e-5)


def test_a_subspace_that_grows_too_large_is_compressed_and_still_converges(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)  # nothing is separated
    dataset = dataset_of(tmp_path / "noise", noise)
    space = build_space(dataset, 2, solver=Krylov(block=1, max_passes=200), directions=False)
    assert space.diagnostics["passes"] > 8 * 2 + 4  # the limit was passed
    exact = build_space(dataset, 2, solver="gram", directions=False)
    np.testing.assert_allclose(space.singular_values, exact.singular_values, rtol=SINGULAR_VALUES)


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(2, 40),
    d=st.integers(8, 40),
    seed=st.integers(0, 2**16),
    solver=st.sampled_from(["gram", "covariance"]),
)
def test_any_shape_reconstructs_its_rows_from_all_components(
    tmp_path_factory: pytest.TempPathFactory, n: int, d: int, seed: int, solver: str
) -> None:
    values = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    dataset = dataset_of(tmp_path_factory.mktemp("any") / "rows", values)
    space = build_space(dataset, solver=solver, directions=False)
    assert space.k == min(n - 1, d)
    np.testing.assert_allclose(space.decode(space.coefficients), dataset.to_numpy(), atol=2e-5 * max(1, n))
    assert space.reconstruction_error().max() < 1e-5


def test_the_cheapest_solver_is_chosen_by_the_sizes_alone() -> None:
    assert choose(992, 8016, 400).name == "gram"
    assert choose(6000, 20_000, 200).name == "krylov"
    assert choose(64_974, 99_648, 1000).name == "krylov"
    assert choose(50_000, 2_000, 1_500).name == "covariance"
    assert choose(2, 8, 1).name in ("gram", "covariance")


def test_the_gaussian_null_has_the_spectrum_of_a_matrix_of_noise() -> None:
    for n, d in ((60, 200), (200, 60)):
        noise = np.random.default_rng(0).normal(size=(10, n, d))
        values = np.linalg.svd(noise - noise.mean(1, keepdims=True), compute_uv=False)[:, : min(n - 1, d)] ** 2
        real = np.cumsum((values / values.sum(1, keepdims=True)).mean(0))
        null = np.cumsum(np.mean([gaussian_spectrum(n, d, seed) for seed in range(10)], 0))
        np.testing.assert_allclose(null, real, atol=0.01)


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ({"engine": "jax"}, "jax"),
        ({"engine": TorchEngine("cuda:99")}, "cuda:99"),
        ({"solver": "magic"}, "magic"),
        ({"solver": [Gram(), "magic"]}, "magic"),
        ({"solver": []}, "solver"),
        ({"canonical": "qr"}, "canonical"),
    ],
)
def test_impossible_options_are_refused(dataset: WeightDataset, options: dict, subject: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(subject)):
        build_space(dataset, 3, **options)


def test_a_scheduler_that_is_not_there_is_named(dataset: WeightDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="pip install 'w2w-hub[dask]'")
    monkeypatch.setattr("w2w_hub.space.fit.engines.dask_engine.CONNECT_SECONDS", 1)
    with pytest.raises(InvalidInputError, match=re.escape("tcp://127.0.0.1:1")):
        build_space(dataset, 3, engine=get_engine("dask", scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("make", "subject"),
    [
        (lambda: Krylov(tolerance=0.0), "tolerance"),
        (lambda: NumpyEngine(block_rows=0), "block_rows"),
        (lambda: get_engine("numpy", devices="cuda"), "devices"),
        (lambda: get_engine(NumpyEngine(), block_rows=7), "block_rows"),
    ],
)
def test_settings_that_a_solver_or_engine_cannot_have_are_refused(make: Callable[[], object], subject: str) -> None:
    with pytest.raises(InvalidInputError, match=subject):
        make()


def test_the_cheapest_of_the_solvers_that_are_given_is_taken_and_a_single_one_whatever_it_costs(
    dataset: WeightDataset,
) -> None:
    assert build_space(dataset, 3, solver=[Covariance(), "gram"], directions=False).recipe["solver"] == "gram"
    assert build_space(dataset, 3, solver=Covariance(), directions=False).recipe["solver"] == "covariance"
    assert choose(100, 200, 3, [Krylov(), Covariance()]).name in ("krylov", "covariance")


def test_solvers_and_engines_are_values_that_a_recipe_leads_back_to(dataset: WeightDataset) -> None:
    space = build_space(dataset, 9, solver=Krylov(tolerance=1e-4, seed=3), directions=False)
    assert solver_of(space.recipe) == Krylov(tolerance=1e-4, seed=3).sized(180, 300, 9)
    assert solver_of({}) == Gram()  # before recipes recorded one
    engine = TorchEngine("cpu", block_rows=50)
    first, second = (build_space(dataset, 3, engine=engine, directions=False) for _ in range(2))
    assert first.digest == second.digest


@dataclass(frozen=True)
class Powers(Solver):
    """Block power iteration, as somebody who needs it would add it."""

    steps: int = 12
    name: ClassVar[str] = "powers"

    def fits(self, n: int, d: int, k: int) -> bool:
        return True

    def cost(self, n: int, d: int, k: int) -> float:
        return 4.0 * self.steps * n * d * k

    def sketch(self, n: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(20, n)).astype(np.float32)

    def run(self, engine: Engine, rows: Rows, moments: Moments, sketched: Any, k: int) -> Eigenpairs:
        vectors = engine.ops.numpy(sketched)
        for number in range(self.steps):
            vectors = np.linalg.qr(vectors.T)[0].T
            image = engine.ops.numpy(engine.product(rows, moments, vectors, number + 1, "power")).astype(np.float64)
            before, vectors = vectors, image
        values, turn = np.linalg.eigh(before @ image.T)
        turn = turn[:, ::-1][:, :k].T
        apart = turn @ image - values[::-1][:k, None] * (turn @ before)
        return Eigenpairs(values[::-1][:k], np.linalg.norm(apart, axis=1), turn @ before, {"passes": self.steps})

    def describe(self) -> str:
        return "block power iteration"


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_solver_of_ones_own_needs_no_more_than_its_class(dataset: WeightDataset, engine: str) -> None:
    exact = build_space(dataset, 5, solver="gram", directions=False)
    ours = build_space(dataset, 5, solver=Powers(), engine=engine, directions=False)
    assert compare_spaces(exact, ours).within_bound
    assert (ours.recipe["solver"], ours.recipe["steps"]) == ("powers", 12)


def test_a_line_in_the_list_of_solvers_names_one_for_recipes_and_the_command_line(
    dataset: WeightDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOLVERS, Powers.name, Powers)
    told = CliRunner().invoke(
        main, ["build", str(dataset.path), "--k", "5", "--solver", "powers", "--out", str(tmp_path / "space")]
    )
    assert told.exit_code == 0, told.output
    published = WeightSpace.from_pretrained(tmp_path / "space")
    assert compare_spaces(published, rebuild(published, dataset)).identical
    assert "powers" in CliRunner().invoke(main, ["build", "--help"]).output


@dataclass(eq=False)
class Halves(NumpyEngine):
    """Two ranges of rows, one after the other."""

    name: ClassVar[str] = "halves"

    def parts(self, function: Any, rows: Rows, *arguments: Any) -> Iterator[list[Any]]:
        middle = rows.count // 2
        for span in ((0, middle), (middle, rows.count)):
            yield function(self.ops, rows, span, *arguments)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_an_engine_of_ones_own_needs_no_more_than_its_class(
    dataset: WeightDataset, solver: str, small_tiles: None
) -> None:
    ours = build_space(dataset, 5, solver=solver, engine=Halves(), directions=False)
    assert compare_spaces(build_space(dataset, 5, solver=solver, directions=False), ours).within_bound
    assert ours.recipe["engine"] == "halves"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"solver": "krylov", "block": 9, "tolerance": 1e-4, "max_passes": 50, "seed": 3},
         {"solver": Krylov(block=9, tolerance=1e-4, max_passes=50, seed=3)}),
        ({"tolerance": 1e-3, "block": None}, {"solver": ["covariance", "gram", Krylov(tolerance=1e-3)]}),
        ({"solver": "gram", "seed": 1, "device": None}, {"solver": Gram()}),
        ({"engine": "torch", "device": "cpu", "memory": 0, "block_rows": 64},
         {"engine": TorchEngine("cpu", memory=0, block_rows=64)}),
    ],
)  # fmt: skip
def test_keywords_of_the_first_release_still_work_and_are_deprecated(
    dataset: WeightDataset, old: dict, new: dict
) -> None:
    with pytest.warns(DeprecationWarning, match="build_space"):
        before = build_space(dataset, 5, directions=False, **old)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        after = build_space(dataset, 5, directions=False, **new)
    assert after == before
    assert after.recipe == before.recipe


def test_old_keywords_beside_an_object_that_has_its_own_settings_are_refused(dataset: WeightDataset) -> None:
    for options, subject in (
        ({"solver": Krylov(), "seed": 1}, "seed"),
        ({"engine": NumpyEngine(), "block_rows": 9}, "block_rows"),
        ({"engine": "numpy", "device": "cuda"}, "device"),
        ({"max_passes": 0}, "max_passes"),
    ):
        with pytest.warns(DeprecationWarning, match="build_space"), pytest.raises(InvalidInputError, match=subject):
            build_space(dataset, 3, **options)
