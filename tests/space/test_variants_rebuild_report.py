from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, build_space
from w2w_hub.cli import main
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import CorruptFileError, DatasetChangedError, InitializationError, InvalidInputError
from w2w_hub.lora.adapter import Target
from w2w_hub.lora.canonical import canonicalize_rows
from w2w_hub.space import TorchEngine
from w2w_hub.space.fit.rebuild import compare_spaces, rebuild, separated
from w2w_hub.space.report import entanglement_by_population, figures, write_report

from .population import LAYOUT, dataset_of, decaying

RANK_TWO = ParameterLayout({Target("unet", f"blocks.{i}.to_q"): (2, 9, 8) for i in range(3)}, 4.0)


def w2w(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    values = decaying(120, LAYOUT.size)
    beard = np.arange(120) % 3 == 0
    values[beard, :40] += 1.5e-3
    columns = {
        "Beard": beard,
        "Odd": np.arange(120) % 2 == 1,
        "Age": values[:, 50] * 1e3,
        "<Hair>": np.array(["grey", "red"])[np.arange(120) // 2 % 2],
    }
    return dataset_of(tmp_path_factory.mktemp("d") / "people", values, layout=LAYOUT, held_out=30, columns=columns)


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 10)


@pytest.fixture(scope="module")
def saved(space: WeightSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return space.save(tmp_path_factory.mktemp("s") / "space")


# ---------------------------------------------------------------- variants
def in_other_gauges(values: np.ndarray, layout: ParameterLayout) -> np.ndarray:
    rng = np.random.default_rng(9)
    changed = values.astype(np.float64)
    for a, b in layout.unflatten_batch(changed).values():
        mix = rng.normal(size=(len(values), a.shape[1], a.shape[1])) + 2 * np.eye(a.shape[1])
        a[:], b[:] = np.linalg.solve(mix, a), b @ mix
    return changed


def test_a_canonical_space_is_the_same_whatever_gauge_the_rows_are_in(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, RANK_TWO.size))
    unknown = {"layout": RANK_TWO, "compatibility": Compatibility(), "held_out": 8}
    first = dataset_of(tmp_path / "first", values.astype(np.float32), **unknown)
    second = dataset_of(tmp_path / "second", in_other_gauges(values, RANK_TWO).astype(np.float32), **unknown)
    with pytest.raises(InitializationError, match="--canonical svd"):
        build_space(first, 5)
    one, two = (build_space(d, 5, canonical="svd", directions=False) for d in (first, second))
    np.testing.assert_allclose(two.singular_values, one.singular_values, rtol=1e-3)
    np.testing.assert_allclose(two.coefficients, one.coefficients, atol=2e-2)
    assert one.recipe["canonical"] == "svd"
    # any adapter is brought into the same gauge before it is projected
    np.testing.assert_allclose(one.project(first[3]), one.coefficients[3], atol=1e-3)
    np.testing.assert_allclose(one.project(first.adapter("p00003")), one.coefficients[3], atol=1e-3)
    golden = canonicalize_rows(RANK_TWO, first.to_numpy("train"))
    np.testing.assert_allclose(one.mean, golden.mean(0), atol=1e-5)
    one.save(tmp_path / "space")
    again = WeightSpace.from_pretrained(tmp_path / "space")
    np.testing.assert_allclose(again.project(second[3]), one.coefficients[3], atol=2e-2)


def test_without_standardisation_it_is_plain_pca(dataset: WeightDataset) -> None:
    plain = build_space(dataset, 6, standardize=False, directions=False)
    golden = PCA(6, svd_solver="full").fit(dataset.to_numpy("train").astype(np.float64))
    np.testing.assert_allclose(plain.singular_values, golden.singular_values_, rtol=1e-5)
    assert (plain.std == 1).all()
    assert plain.recipe["standardised"] is False
    assert plain.digest != build_space(dataset, 6, directions=False).digest


def test_some_rows_of_a_split_can_be_fitted_and_the_others_count_as_held_out(
    dataset: WeightDataset, tmp_path: Path
) -> None:
    some = [dataset.ids[i] for i in dataset.where(split="train")][:50]
    part = build_space(dataset, 5, rows=some, directions=False)
    assert int(part.fitted.sum()) == 50
    assert part.diagnostics["held_out"]["rows"] == 70
    part.save(tmp_path / "part")
    again = WeightSpace.from_pretrained(tmp_path / "part")
    np.testing.assert_array_equal(again.fitted, part.fitted)
    assert rebuild(again, dataset).digest == part.digest
    with pytest.raises(InvalidInputError, match=dataset.ids[-1]):
        build_space(dataset, 5, rows=[*some, dataset.ids[-1]])


# ---------------------------------------------------------------- points
def test_an_adapter_from_outside_is_told_how_much_of_it_the_space_explains(
    space: WeightSpace, dataset: WeightDataset
) -> None:
    inside = space.decode(space.row("p00001"))
    assert space.coordinates.explained(inside).explained_ratio == pytest.approx(1, abs=1e-3)
    outside = space.coordinates.explained(dataset.adapter("p00001"))
    expected = 1 - space.reconstruction_error()[1]
    assert outside.explained_ratio == pytest.approx(expected, abs=1e-3)
    slider = (space.direction("PC1").editing @ space.basis) * space.std
    assert space.coordinates.explained(slider, difference=True).explained_ratio == pytest.approx(1, abs=1e-4)
    noise = np.random.default_rng(0).normal(size=LAYOUT.size) * space.std + space.mean
    assert space.coordinates.explained(noise).explained_ratio < 0.3  # about k of d


def test_full_covariance_samples_have_the_rows_covariance(space: WeightSpace) -> None:
    drawn = np.stack([p.coefficients for p in space.sample(4000, seed=1, covariance="full")])
    own = space.coefficient_covariance
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), own, atol=0.1 * own.max())
    with pytest.raises(InvalidInputError, match="independent"):
        space.sample(covariance="none")


@pytest.mark.slow
def test_full_covariance_samples_follow_rows_whose_coefficients_are_correlated(space: WeightSpace) -> None:
    mix = np.tril(np.random.default_rng(0).normal(size=(space.k, space.k)))
    assert space.population is not None
    rows = dataclasses.replace(space.population, coefficients=space.population.coefficients @ mix)
    turned = dataclasses.replace(space, population=rows)
    drawn = np.stack([p.coefficients for p in turned.sample(8000, seed=1, covariance="full")])
    own, spread = rows.covariance, rows.std
    correlation = own / np.outer(spread, spread)
    assert np.abs(correlation - np.eye(space.k)).max() > 0.5
    np.testing.assert_allclose(np.corrcoef(drawn, rowvar=False), correlation, atol=0.06)
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.05)
    alone = np.stack([p.coefficients for p in turned.sample(8000, seed=1, method="gaussian")])
    np.testing.assert_allclose(np.corrcoef(alone, rowvar=False), np.eye(space.k), atol=0.06)
    np.testing.assert_allclose(drawn.mean(0), rows.mean, atol=0.06 * spread.max())


def test_mahalanobis_distance_is_scipys_and_grows_with_an_edit(space: WeightSpace) -> None:
    from scipy.spatial.distance import mahalanobis

    point = space.row("p00007")
    inverse = np.linalg.inv(space.coefficient_covariance)
    expected = mahalanobis(point.coefficients, space.coefficient_mean, inverse)
    assert space.mahalanobis(point) == pytest.approx(expected, rel=1e-5)
    assert space.mahalanobis(space.edit(point, {"PC1": 20.0})) > space.mahalanobis(point)


def test_decoding_takes_any_number_of_components_and_batches(space: WeightSpace) -> None:
    batch = space.coefficients[:5]
    for k in (1, 4, space.k):
        short = np.concatenate([batch[:, :k], np.zeros((5, space.k - k), np.float32)], 1)
        np.testing.assert_allclose(space.decode(batch, k=k), space.decode(short), atol=1e-6)
        np.testing.assert_allclose(space.decode(batch, k=k)[2], space.decode(batch[2, :k]), atol=1e-6)


def test_everything_is_read_from_an_adapter_a_vector_and_a_point(space: WeightSpace, dataset: WeightDataset) -> None:
    reads = [space.read_all(what) for what in (dataset.adapter("p00003"), dataset["p00003"], space.row("p00003"))]
    for name in space.directions:
        assert reads[0][name] == pytest.approx(reads[2][name], abs=1e-3)
        assert reads[1][name] == pytest.approx(reads[2][name], abs=1e-3)


# ---------------------------------------------------------------- rebuild
def test_a_rebuild_gives_the_digest_and_says_so(saved: Path, dataset: WeightDataset) -> None:
    told = w2w("rebuild", saved, "--check", "--dataset", dataset.path)
    assert told.exit_code == 0, told.output
    assert WeightSpace.from_pretrained(saved).digest[:16] in told.stderr
    data = json.loads(w2w("rebuild", saved, "--check", "--dataset", dataset.path, "--json").stdout)
    assert data["identical"] is True
    assert data["digest"] == data["rebuilt_digest"]


def test_a_rebuild_on_another_engine_is_within_the_bound(space: WeightSpace, dataset: WeightDataset) -> None:
    found = compare_spaces(space, rebuild(space, dataset, engine=TorchEngine("cpu")))
    assert found.within_bound
    assert found.separated > 3


def test_a_rebuild_from_damaged_rows_names_them_and_not_an_engine(
    saved: Path, dataset: WeightDataset, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(dataset.path, tmp_path / "damaged"))
    shard = next((damaged / "weights.zarr").rglob("c/0/0"))
    content = bytearray(shard.read_bytes())
    content[dataset.layout.size * 2] ^= 4
    shard.write_bytes(content)
    told = w2w("rebuild", saved, "--check", "--dataset", damaged, "--out", tmp_path / "again")
    assert told.exit_code == 2
    assert "c/0/0" in told.stderr
    assert not (tmp_path / "again").exists()


def test_a_space_that_its_recipe_does_not_lead_to_fails_the_check(
    space: WeightSpace, saved: Path, dataset: WeightDataset, tmp_path: Path
) -> None:
    import dataclasses

    rolled = dataclasses.replace(space.coordinates, basis=np.roll(space.coordinates.basis, 1, axis=0))
    forged = dataclasses.replace(space, coordinates=rolled)
    forged.save(tmp_path / "forged")
    told = w2w("rebuild", tmp_path / "forged", "--check", "--dataset", dataset.path)
    assert told.exit_code == 1
    assert forged.digest[:16] in told.stderr
    assert space.digest[:16] in told.stderr


def test_a_dataset_that_is_not_the_recipes_is_refused(saved: Path, tmp_path: Path) -> None:
    other = dataset_of(tmp_path / "other", decaying(120, LAYOUT.size, seed=3), layout=LAYOUT, held_out=30)
    told = w2w("rebuild", saved, "--check", "--dataset", other.path)
    assert told.exit_code == 2
    assert told.stderr.startswith("w2w: error: ")
    assert other.manifest.digest[:12] in told.stderr
    assert w2w("rebuild", saved, "--dataset", other.path).exit_code == 2  # nothing to do
    with pytest.raises(DatasetChangedError):
        figures(WeightSpace.from_pretrained(saved), other)


def test_components_near_their_neighbours_are_not_called_separated() -> None:
    np.testing.assert_array_equal(separated(np.array([10.0, 5.0, 4.999, 1.0])), [True, False, False, False])


def test_coefficients_and_directions_of_another_basis_are_refused(space: WeightSpace, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    space.save(tmp_path / "space")
    file = tmp_path / "space" / "coefficients" / "train.parquet"
    pq.write_table(pq.read_table(file).replace_schema_metadata({"basis_digest": "0" * 64}), file)
    with pytest.raises(CorruptFileError, match="000000000000"):
        WeightSpace.from_pretrained(tmp_path / "space")
    space.save(tmp_path / "second")
    file = tmp_path / "second" / "directions.safetensors"
    save_file(load_file(file), file, metadata={"basis_digest": "0" * 64})
    with pytest.raises(CorruptFileError, match="another basis"):
        WeightSpace.from_pretrained(tmp_path / "second")


# ---------------------------------------------------------------- report
def test_the_reports_figures_are_those_of_an_independent_computation(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    data = write_report(space, tmp_path / "report", dataset)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == json.loads(json.dumps(data))
    train = dataset.to_numpy("train").astype(np.float64)
    mean, std = train.mean(0), train.std(0, ddof=1)
    golden = PCA(10, svd_solver="full").fit((train - mean) / std)
    np.testing.assert_allclose(data["spectrum"]["share"], golden.explained_variance_ratio_, rtol=1e-4)
    test = (dataset.to_numpy("test").astype(np.float64) - mean) / std
    scores = test @ golden.components_.T
    curve = np.cumsum((scores**2).sum(0)) / (test**2).sum()
    np.testing.assert_allclose(data["spectrum"]["held_out"], curve, rtol=1e-3)
    errors = 1 - (scores**2).sum(1) / (test**2).sum(1)
    np.testing.assert_allclose(data["reconstruction_error"]["held_out"], errors, atol=1e-4)
    signs = np.sign((golden.components_ * space.basis).sum(1))
    truth = dataset.labels["Beard"].to_numpy(bool)[dataset.where(split="test")]
    area = roc_auc_score(truth, (scores * signs) @ space.direction("Beard").reading)
    assert data["directions"]["Beard"]["auc"] == pytest.approx(area, abs=1e-3)
    fitted = golden.transform((train - mean) / std)
    unit = fitted / np.linalg.norm(fitted, axis=1, keepdims=True)
    nearest = (scores / np.linalg.norm(scores, axis=1, keepdims=True) @ unit.T).max(1)
    np.testing.assert_allclose(data["neighbours"]["held_out"], nearest, atol=1e-3)


def test_the_page_holds_everything_and_loads_nothing(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    write_report(space, tmp_path / "report", dataset)
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    for title in ("Explained variance", "Scree", "Directions", "Entanglement", "Components by attribute",
                  "Coefficients", "Nearest neighbors", "Against the number of people", "Recipe"):  # fmt: skip
        assert f">{title}</h" in page, title
    assert not re.search(r'(src|href)="[^#]|url\(|<script|@import', page)
    assert "&lt;Hair&gt;=grey" in page
    assert "<Hair>" not in page
    assert page.count("<svg") == page.count("</svg>") > 10
    assert "nan" not in re.sub(r"<[^>]*title>[^<]*</title>", "", page).lower().replace("nanometer", "")


def test_entanglement_falls_with_the_number_of_people(space: WeightSpace, dataset: WeightDataset) -> None:
    rows = entanglement_by_population(space, dataset, sizes=(10, 40), draws=2)
    assert [row["people"] for row in rows] == [10, 40, 90]
    assert rows[-1]["mean_cosine"] < rows[0]["mean_cosine"]


def test_a_space_without_labels_or_held_out_rows_has_a_report_too(tmp_path: Path) -> None:
    plain = build_space(dataset_of(tmp_path / "plain", decaying(3, 60)), 1)
    write_report(plain, tmp_path / "report")
    assert "No attribute has a direction" in (tmp_path / "report" / "report.html").read_text()


# ---------------------------------------------------------------- commands
def test_the_commands_tell_what_a_space_knows(saved: Path, dataset: WeightDataset, tmp_path: Path) -> None:
    told = w2w("directions", saved, "--entanglement")
    assert told.exit_code == 0, told.output
    assert "Beard" in told.stdout
    assert set(json.loads(w2w("directions", saved, "--json").stdout)["directions"]) >= {"Beard", "Age", "<Hair>=red"}
    near = json.loads(w2w("nearest", saved, "p00002", "--count", 2, "--json").stdout)
    assert len(near) == 2
    assert "p00002" not in [row["row"] for row in near]
    read = json.loads(w2w("read", saved, "p00003", "--json").stdout)
    assert read["attributes"]["Beard"] > 0.5
    assert 0 < read["explained"] <= 1
    told = w2w("report", saved, "--out", tmp_path / "report")
    assert told.exit_code == 0
    assert "--dataset DATASET" in told.stderr
    whole = w2w("report", saved, "--dataset", dataset.path, "--out", tmp_path / "whole")
    assert whole.exit_code == 0
    assert "--dataset" not in whole.stderr
    assert w2w("report", saved, "--out", tmp_path / "report").exit_code == 2
    edited = w2w("edit", saved, "p00001", "<Hair>=red=+2", "PC1=-1", "--out", tmp_path / "p.json")
    assert edited.exit_code == 0, edited.output


def test_a_build_says_how_and_leaves_nothing_unfinished(dataset: WeightDataset, tmp_path: Path) -> None:
    words = ["build", dataset.path, "--k", 5, "--solver", "krylov", "--out", tmp_path / "space"]
    told = w2w(*words)
    assert told.exit_code == 0, told.output
    assert "block Krylov" in told.stderr
    assert "of Gaussian noise" in told.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["space"]
    failed = w2w("build", dataset.path, "--k", 500, "--out", tmp_path / "other")
    assert failed.exit_code == 2
    assert len(failed.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["space"]
