"""What a weight space says of its points against a few lines of NumPy, where coefficients are correlated."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.dialects import write_adapter
from w2w_hub.errors import (
    CorruptFileError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    UnknownNameError,
)
from w2w_hub.lora.adapter import Adapter, Target
from w2w_hub.space.directions import UnreliableDirectionWarning
from w2w_hub.space.identity import Identity, edited, pad_to_k, resolve
from w2w_hub.space.points import Point, save_point
from w2w_hub.space.storage import save_space

from .population import changed, dataset_of, decaying

K = 6
BLOCK = "attentions.0.transformer_blocks.0.attn1.to_q"
LAYOUT = ParameterLayout(
    {Target("unet", f"{part}.{BLOCK}"): (1, 20, 30) for part in ("down_blocks.0", "mid_block")}, 27.0
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    values = decaying(60, LAYOUT.size)
    beard, glasses = np.arange(60) % 3 == 0, np.arange(60) % 2 == 0
    values[beard, :60] += 2e-3
    values[glasses, 60:120] += 2e-3
    columns = {"Beard": beard, "Glasses": glasses, "Noise": np.random.default_rng(3).random(60) < 0.5}
    compatibility = Compatibility("org/base", None, "seed-0")
    return dataset_of(
        tmp_path_factory.mktemp("d") / "people", values, layout=LAYOUT, held_out=15, columns=columns,
        compatibility=compatibility, order=np.random.default_rng(0).permutation(60),
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(dataset: WeightDataset) -> WeightSpace:
    """Of some of its split's rows, so that others are left out."""
    some = [f"p{i:05d}" for i in range(45) if i % 9 != 4]
    return build_space(dataset, K, rows=some)


@pytest.fixture(scope="module")
def space(built: WeightSpace) -> WeightSpace:
    """One whose rows have correlated coefficients far from zero, and those of held-out rows far from the others."""
    rng = np.random.default_rng(1)
    mix = np.tril(rng.normal(size=(K, K))) + 2 * np.eye(K)
    coefficients = rng.normal(size=(60, K)) @ mix + rng.normal(size=K) * 3
    coefficients[~built.fitted] *= 5
    return changed(
        built, coefficients=coefficients.astype(np.float32), squared_norms=(coefficients**2).sum(1) * 1.25 + 1
    )


@pytest.fixture
def fitted(space: WeightSpace) -> np.ndarray:
    """Coefficients of the fitted rows, in float64."""
    numbers = [int(name[1:]) for name in space.ids]
    chosen = [n < 45 and n % 9 != 4 for n in numbers]
    return space.coefficients[chosen].astype(np.float64)


# ---------------------------------------------------------------- the population
def test_mean_spread_and_covariance_are_of_the_fitted_rows_alone(space: WeightSpace, fitted: np.ndarray) -> None:
    assert len(fitted) == 40 == int(space.fitted.sum())
    assert len(space.left_out) == 5
    np.testing.assert_allclose(space.coefficient_mean, fitted.mean(0))
    np.testing.assert_allclose(space.coefficient_std, fitted.std(0, ddof=1))
    np.testing.assert_allclose(space.coefficient_covariance, np.cov(fitted, rowvar=False))
    point = space.mean_point()
    np.testing.assert_allclose(point.coefficients, fitted.mean(0), rtol=1e-6)
    assert point.history == {"made": "mean"}


@pytest.mark.parametrize("truncation", [0.25, 1.0, 2.0])
def test_a_sample_is_the_mean_and_so_many_deviations_drawn_with_its_seed(
    space: WeightSpace, fitted: np.ndarray, truncation: float
) -> None:
    drawn = np.random.default_rng(5).standard_normal((3, K))
    points = space.sample(3, 5, truncation, method="gaussian")
    expected = fitted.mean(0) + truncation * fitted.std(0, ddof=1) * drawn
    np.testing.assert_allclose([p.coefficients for p in points], expected, rtol=1e-5)
    full = space.sample(3, 5, truncation, covariance="full")
    for drawn_by, more in ((points, {}), (full, {"covariance": "full"})):
        for i, point in enumerate(drawn_by):
            [(row, cosine)] = space.nearest(point)
            assert point.history == {
                "made": "sample", "seed": 5, "truncation": truncation, "method": "gaussian", "index": i,
                "nearest": {"row": row, "cosine": pytest.approx(cosine, abs=1e-4)}, **more,
            }  # fmt: skip
    # an affine map of the same draws: the sizes by the covariance are those of the draws
    apart = np.array([p.coefficients for p in full]) - fitted.mean(0)
    sizes = np.sqrt((apart @ np.linalg.inv(np.cov(fitted, rowvar=False)) * apart).sum(1))
    np.testing.assert_allclose(sizes, truncation * np.linalg.norm(drawn, axis=1), rtol=1e-4)
    assert {p.basis_digest for p in [*points, *full]} == {space.digest}


def test_a_sample_without_arguments_is_one_point_of_seed_zero_and_whole_spread(space: WeightSpace) -> None:
    assert space.sample() == space.sample(1, 0, 1.0, method="population")
    assert space.sample(method="gaussian") == space.sample(1, 0, 1.0, covariance="independent")


@pytest.mark.parametrize("count", [1, 3, K])
def test_distances_of_a_point_are_those_of_its_coefficients(space: WeightSpace, fitted: np.ndarray, count: int) -> None:
    c = np.random.default_rng(count).normal(size=count) * 4
    z = (c - fitted.mean(0)[:count]) / fitted.std(0, ddof=1)[:count]
    assert space.distance(c) == pytest.approx(np.sqrt((z**2).mean()), rel=1e-6)
    apart = c - fitted.mean(0)[:count]
    inverse = np.linalg.inv(np.atleast_2d(np.cov(fitted[:, :count], rowvar=False)))
    assert space.mahalanobis(c) == pytest.approx(np.sqrt(apart @ inverse @ apart), rel=1e-6)
    whole = (fitted - fitted.mean(0)) / fitted.std(0, ddof=1)
    assert space.largest_distance == pytest.approx(np.sqrt((whole**2).mean(1)).max(), rel=1e-6)
    assert space.mahalanobis(fitted.mean(0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("second", [1.0, 2.0, 0.0], ids=["a copy", "twice another", "nothing"])
def test_a_direction_in_which_no_row_varies_does_not_count_in_mahalanobis_distance(
    space: WeightSpace, second: float
) -> None:
    flat = space.coefficients.copy()
    flat[:, 2] = second * flat[:, 4] + (second == 0)
    other = changed(space, coefficients=flat)
    rows, point = flat[space.fitted].astype(np.float64), np.arange(1.0, K + 1)
    apart = point - rows.mean(0)
    inverse = np.linalg.pinv(np.cov(rows, rowvar=False), rcond=1e-9, hermitian=True)
    assert other.mahalanobis(point) == pytest.approx(np.sqrt(apart @ inverse @ apart), rel=1e-5)


@pytest.mark.parametrize("count", [2, K])
def test_nearest_rows_are_the_fitted_ones_by_cosine(space: WeightSpace, fitted: np.ndarray, count: int) -> None:
    c = -np.random.default_rng(0).normal(size=count) - space.coefficient_mean[:count]  # most cosines are negative
    rows = fitted[:, :count]
    cosines = rows @ c / np.linalg.norm(rows, axis=1) / np.linalg.norm(c)
    names = np.array(space.ids)[space.fitted]
    for wanted in (1, 7, 40, 99):
        found = space.nearest(c, wanted)
        order = np.argsort(-cosines)[:wanted]
        assert [name for name, _ in found] == list(names[order])
        np.testing.assert_allclose([cosine for _, cosine in found], cosines[order], rtol=1e-6)
    assert len(space.nearest(c)) == 1


# ---------------------------------------------------------------- vectors
@pytest.mark.parametrize("k", [None, 1, 4, K])
def test_projecting_and_decoding_are_the_published_formulas(
    space: WeightSpace, dataset: WeightDataset, k: int | None
) -> None:
    rows = dataset.to_numpy().astype(np.float64)[:4]
    mean, std, basis = (v.astype(np.float64) for v in (space.mean, space.std, space.basis))
    expected = (rows - mean) / std @ basis[:k].T
    found = space.project(rows.astype(np.float32), k)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(space.project(rows[2].astype(np.float32), k), expected[2], atol=1e-4)
    decoded = space.decode(space.coefficients[:4], k)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, space.coefficients[:4, :k] @ basis[:k] * std + mean, atol=1e-6)
    np.testing.assert_allclose(
        space.reconstruction_error(k),
        1 - (space.coefficients[:, :k].astype(float) ** 2).sum(1) / space.squared_norms, atol=1e-6,
    )  # fmt: skip
    for wrong in (0, K + 1, -1, 1.5):
        for call in (space.reconstruction_error, lambda k: space.project(rows, k), lambda k: space.decode("p00001", k)):
            with pytest.raises(InvalidInputError):
                call(wrong)


@pytest.mark.parametrize("shape", [(LAYOUT.size - 1,), (LAYOUT.size + 1, LAYOUT.size)[:1], (1, 1, LAYOUT.size), ()])
def test_vectors_of_another_shape_are_refused(space: WeightSpace, shape: tuple[int, ...]) -> None:
    for call in (space.project, space.represent, space.explained):
        with pytest.raises(LayoutMismatchError):
            call(np.zeros(shape))


@pytest.mark.parametrize("difference", [False, True])
def test_what_a_space_explains_of_an_adapter_is_the_length_of_its_shadow(
    space: WeightSpace, dataset: WeightDataset, difference: bool
) -> None:
    vector = dataset["p00004"].astype(np.float64)
    z = (vector if difference else vector - space.mean) / space.std.astype(np.float64)
    c = z @ space.basis.T.astype(np.float64)
    found = space.explained(vector, difference=difference)
    np.testing.assert_allclose(found.coefficients, c, rtol=1e-5, atol=1e-6)
    assert found.norm == pytest.approx(np.linalg.norm(z), rel=1e-9)
    assert found.share == pytest.approx((c @ c) / (z @ z), rel=1e-9)
    assert space.explained(vector) == space.explained(vector, difference=False)
    assert space.explained(space.mean).share == 0


def test_a_digest_is_over_the_layout_mean_deviation_and_basis(space: WeightSpace) -> None:
    content = b"".join(v.astype("<f4").tobytes() for v in (space.mean, space.std, space.basis))
    expected = hashlib.sha256(b"w2w-basis-v1\n" + space.layout.digest.encode() + b"\n" + content).hexdigest()
    assert space.digest == expected
    for name in ("mean", "std", "basis"):
        moved = getattr(space.coordinates, name).copy()
        moved.flat[-1] += 1
        assert changed(space, **{name: moved}).digest != expected


def test_a_point_as_an_adapter_holds_its_vector_and_names_its_base_model(space: WeightSpace) -> None:
    adapter = space.adapter("p00002")
    assert adapter.base_model == "org/base"
    np.testing.assert_allclose(space.layout.flatten(adapter), space.decode("p00002"), rtol=1e-6)


# ---------------------------------------------------------------- points
def test_components_are_sliders_up_to_the_last(space: WeightSpace) -> None:
    for number in range(1, K + 1):
        slider = space.direction(f"PC{number}")
        np.testing.assert_array_equal(slider.editing, np.eye(K)[number - 1])
        assert slider.sd == pytest.approx(space.coefficient_std[number - 1])
        assert (slider.rows, slider.components) == (40, number)
    for name in ("PC0", f"PC{K + 1}", "PC", "PC-1", "pc1", "PC1 ", "PC²"):
        with pytest.raises(UnknownNameError):
            space.direction(name)


def test_an_edit_adds_each_strength_times_its_deviation_and_keeps_a_record(space: WeightSpace) -> None:
    beard, glasses = space.direction("Beard"), space.direction("Glasses")
    row = space.row("p00007")
    assert row.history == {"row": "p00007"}
    step = 1.5 * beard.sd * beard.editing - 0.5 * glasses.sd * glasses.editing
    for start in (row, "p00007"):
        found = space.edit(start, {"Beard": 1.5, "Glasses": -0.5})
        np.testing.assert_allclose(found.coefficients, row.coefficients + step, rtol=1e-5, atol=1e-6)
        assert found.history == {"row": "p00007", "edits": {"Beard": 1.5, "Glasses": -0.5}}
    assert space.edit(row.coefficients, {"PC2": 1.0}).history == {"edits": {"PC2": 1.0}}
    more = space.edit(found, {"Beard": 2.0, "PC1": 1.0})
    assert more.history["edits"] == {"Beard": 3.5, "Glasses": -0.5, "PC1": 1.0}
    assert found.history["edits"] == {"Beard": 1.5, "Glasses": -0.5}
    nothing = space.edit(row, {})
    np.testing.assert_array_equal(nothing.coefficients, row.coefficients)
    short = space.edit(np.ones(2, np.float32), {})
    assert len(short.coefficients) == 2


def test_an_edit_preserves_all_that_is_named_and_remembers_it(space: WeightSpace) -> None:
    row = space.row("p00001")
    assert abs(space.read(space.edit(row, {"PC1": 3.0}), "Noise") - space.read(row, "Noise")) > 1e-4
    kept = space.edit(row, {"PC1": 3.0}, preserve=["Glasses", "Noise"])
    for name in ("Glasses", "Noise"):
        assert space.read(kept, name) == pytest.approx(space.read(row, name), abs=1e-5)
    assert kept.history["preserved"] == ["Glasses", "Noise"]
    assert space.edit(kept, {"PC2": 1.0}, preserve="Beard").history["preserved"] == ["Beard", "Glasses", "Noise"]
    assert space.edit(kept, {"PC2": 1.0}).history["preserved"] == ["Glasses", "Noise"]
    with pytest.raises(InvalidInputError, match="Noise"):
        space.edit(row, {"Noise": 1.0}, preserve=["Glasses", "Noise"])


def test_every_direction_reads_by_its_weights(space: WeightSpace) -> None:
    c = space.row("p00009").coefficients.astype(np.float64)
    expected = {}
    for name, direction in space.directions.items():
        logit = c @ direction.reading + direction.intercept
        expected[name] = 1 / (1 + np.exp(-logit))
        assert space.read("p00009", name) == pytest.approx(expected[name], rel=1e-5)
    assert set(expected) == {"Beard", "Glasses", "Noise"}
    for what in (space.row("p00009"), "p00009", c):
        assert space.read_all(what) == pytest.approx(expected, rel=1e-5)
    vector = space.decode(c)
    for what in (vector, space.layout.unflatten(vector)):
        assert space.read_all(what) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("shares", [[3, 1, 0.5], [2, -1, 1], [-1, -1, -1]])
def test_an_interpolation_is_the_mean_of_padded_points_by_their_shares(space: WeightSpace, shares: list[float]) -> None:
    points = [np.arange(1.0, 4), np.array([5.0]), np.arange(K, 1.0, -1)]
    padded = np.array([np.pad(p, (0, K - 1 - len(p))) for p in points])
    found = space.interpolate([space.point(p) for p in points], shares)
    np.testing.assert_allclose(found.coefficients, np.array(shares) @ padded / sum(shares), rtol=1e-6)
    assert found.history == {"made": "interpolation"}
    with pytest.raises(InvalidInputError):
        space.interpolate([space.point(p) for p in points], [1, -1, 0])


def with_picture(folder: Path) -> None:
    (folder / "previews").mkdir()
    (folder / "previews" / "one.png").write_bytes(b"other"[::-1])


def test_a_space_in_memory_cannot_be_verified_and_a_saved_one_is_what_its_folder_is(
    space: WeightSpace, tmp_path: Path
) -> None:
    folder = save_space(space, tmp_path / "space", extend=with_picture)
    with pytest.raises(InvalidInputError):
        space.verify()
    fresh = WeightSpace.from_pretrained(folder)
    fresh.verify()
    (tmp_path / "space" / "previews" / "one.png").write_bytes(b"other")
    fresh.verify(deep=False)  # its hash is not looked at
    with pytest.raises(CorruptFileError, match="one"):
        fresh.verify()
    (tmp_path / "space" / "space.safetensors").unlink()
    with pytest.raises(CorruptFileError, match="safetensors"):
        fresh.verify(deep=False)


# ---------------------------------------------------------------- identities
def adapter_of(space: WeightSpace, vector: np.ndarray) -> Adapter:
    return space.layout.unflatten(vector)


def test_whatever_names_an_identity_gives_its_vector_and_point(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    row = space.row("p00003")
    save_point(row, tmp_path / "point.json")
    save_point(row, tmp_path / "point.safetensors")
    for what in (row, "p00003", tmp_path / "point.json", str(tmp_path / "point.safetensors")):
        found = resolve(space, what)
        assert found.point == row
        assert found.point.history == {"row": "p00003"}
        np.testing.assert_array_equal(found.vector, space.decode(row))
        assert (found.start, found.early) == (0.0, None)
        assert resolve(space, found) is found
    for what in (row.coefficients, row.coefficients.tolist()):
        assert resolve(space, what).point == row
    adapter = dataset.adapter("p00003")
    write_adapter(adapter, tmp_path / "lora", ("diffusers",))
    for what in (adapter, tmp_path / "lora", str(tmp_path / "lora")):
        found = resolve(space, what)
        np.testing.assert_allclose(found.vector, dataset["p00003"], rtol=1e-6)
        assert found.vector.dtype == np.float32
        np.testing.assert_allclose(found.point.coefficients, space.project(adapter), rtol=1e-5, atol=1e-5)
        assert found.point.history == {"made": "projection"}


def test_what_names_no_identity_is_refused_by_its_kind(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    for name in ("nobody", "", "p0000", "a\0b", "x" * 5000):
        with pytest.raises(UnknownNameError):
            resolve(space, name)
    for name in ("gone.json", "gone.safetensors"):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(MissingPathError, match=name):
                resolve(space, path)
    foreign = Point(space.row("p00003").coefficients, "0" * 64)
    save_point(foreign, tmp_path / "foreign.json")
    for what in (foreign, tmp_path / "foreign.json", Identity(np.zeros(LAYOUT.size, np.float32), foreign)):
        with pytest.raises(LayoutMismatchError):
            resolve(space, what)
    small = ParameterLayout({Target("unet", f"mid_block.{BLOCK}"): (1, 20, 30)}, 27.0)
    other = small.unflatten(np.ones(small.size))
    write_adapter(other, tmp_path / "other", ("diffusers",))
    for what in (other, tmp_path / "other"):
        with pytest.raises(LayoutMismatchError):
            resolve(space, what)
    broken = adapter_of(space, np.full(LAYOUT.size, np.nan))
    with pytest.raises(InvalidInputError):
        resolve(space, broken)
    for what in (None, {"a": 1}, object(), np.ones(K + 1)):
        with pytest.raises(InvalidInputError):
            resolve(space, what)


def test_an_edit_of_an_adapter_moves_its_vector_by_the_step_of_its_point(
    space: WeightSpace, dataset: WeightDataset
) -> None:
    before = resolve(space, dataset.adapter("p00008"))
    after = edited(space, before, {"Beard": 1.0, "PC1": -2.0}, preserve=["Glasses"])
    expected = space.edit(before.point, {"Beard": 1.0, "PC1": -2.0}, preserve=["Glasses"])
    np.testing.assert_allclose(after.point.coefficients, expected.coefficients, rtol=1e-6)
    assert after.point.history == expected.history
    step = (expected.coefficients - before.point.coefficients) @ space.basis * space.std
    np.testing.assert_allclose(after.vector - before.vector, step, atol=1e-6)
    assert np.abs(step).max() > 1e-4
    assert (after.start, after.early) == (0.0, None)


def test_delayed_edits_move_the_late_vector_and_undelayed_ones_both(space: WeightSpace) -> None:
    first = resolve(space, "p00008")
    assert all(np.array_equal(first.at(share), first.vector) for share in (0, 0.5, 1))
    late = edited(space, first, {"Beard": 1.0}, start=0.4)
    assert late.start == 0.4
    np.testing.assert_array_equal(late.early, first.vector)
    np.testing.assert_array_equal(late.at(0.39), first.vector)
    for share in (0.4, 0.41, 1):
        np.testing.assert_array_equal(late.at(share), late.vector)
    again = edited(space, late, {"PC1": 1.0}, start=0.4)
    assert again.start == 0.4
    np.testing.assert_array_equal(again.early, first.vector)
    both = edited(space, late, {"PC2": 1.0})
    assert both.start == 0.4
    step = space.coefficient_std[1] * space.basis[1] * space.std
    np.testing.assert_allclose(both.early - late.early, step, atol=1e-6)
    np.testing.assert_allclose(both.vector - late.vector, step, atol=1e-6)
    for start in (0.3, 0.5):
        with pytest.raises(InvalidInputError):
            edited(space, late, {"PC1": 1.0}, start=start)
    for start in (1.0, -0.1, float("nan")):
        with pytest.raises(InvalidInputError):
            edited(space, first, {"PC1": 1.0}, start=start)


def test_an_unreliable_direction_warns_whoever_edits_with_it(space: WeightSpace) -> None:
    poor = dataclasses.replace(space.directions["Noise"], auc=0.5, null=(0.5, 0.7), p_value=0.6)
    good = dataclasses.replace(space.directions["Beard"], auc=0.99, null=(0.5, 0.7), p_value=0.01)
    other = dataclasses.replace(space, directions={"Beard": good, "Noise": poor})
    identity = resolve(other, "p00001")
    with pytest.warns(UnreliableDirectionWarning, match="Noise"):
        edited(other, identity, {"Beard": 1.0, "Noise": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edited(other, identity, {"Beard": 1.0, "PC1": 1.0})
        other.edit("p00001", {"Noise": 1.0})


def test_a_short_point_is_completed_with_zeros_and_keeps_its_history(space: WeightSpace) -> None:
    short = space.point(np.array([1.0, 2.0]), made="inversion", loss=0.25)
    whole = pad_to_k(space, short)
    np.testing.assert_array_equal(whole.coefficients, [1, 2, 0, 0, 0, 0])
    assert whole.history == {"made": "inversion", "loss": 0.25}
    assert pad_to_k(space, whole) is whole
    found = edited(space, resolve(space, short), {"PC2": 1.0})
    assert len(found.point.coefficients) == K
    assert found.point.history["made"] == "inversion"


def test_values_of_a_history_that_json_lacks_are_none_and_the_rest_is_kept(space: WeightSpace) -> None:
    given: dict[str, Any] = {"a": np.float32(0.5), "b": (1, {"c": Path("x/y")}), "d": float("inf"), "e": {"z", "a"}}
    assert space.point([1.0], **given).history == {"a": 0.5, "b": [1, {"c": "x/y"}], "d": None, "e": ["a", "z"]}
