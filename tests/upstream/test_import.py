"""The whole publication becomes datasets and a weight space with its values, and says what was assumed."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.upstream.published import PROJECTED, PUBLISHED, ROWS, Published, dimensions, modules, publish
from tests.upstream.test_reading import nested
from w2w_hub import WeightDataset, WeightSpace, build_space, fit_directions, read_adapter, rebuild
from w2w_hub.errors import (
    AlreadyExistsError,
    CorruptFileError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    UnknownNameError,
    UnsafePathError,
    W2WError,
)
from w2w_hub.space import compare_components
from w2w_hub.space.integrity import check_space
from w2w_hub.upstream import LeakingSplitWarning, import_point, import_w2w
from w2w_hub.upstream.published import SIZE, sd15_targets

pytestmark = pytest.mark.filterwarnings("ignore::w2w_hub.upstream.LeakingSplitWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("whole") / "w2w")


@pytest.fixture(scope="module")
def files_only(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("files") / "w2w", rows=False, dogs=False)


@pytest.fixture
def own(whole: Published, tmp_path: Path) -> Published:
    """A copy that a test may change."""
    shutil.copytree(whole.folder, tmp_path / "w2w")
    return Published(**{**vars(whole), "folder": tmp_path / "w2w"})


def decoded(published: Published, row: int, k: int) -> np.ndarray:
    """What a row's published coefficients decode to with the published files."""
    scaled = (published.weights[row] - published.mean) / published.std
    return (scaled @ published.basis[:, :k]) @ published.basis[:, :k].T * published.std + published.mean


# ---------------------------------------------------------------- round trip
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_publication_round_trips_and_verifies(legacy: bool, tmp_path: Path) -> None:
    published = publish(tmp_path / "w2w", celebrities=True, coding="0/1", legacy=legacy)
    made = import_w2w(tmp_path / "w2w", tmp_path / "out")
    people, dogs, space = made.dataset, made.dogs, made.space
    assert people is not None
    assert dogs is not None
    assert space is not None
    for each in (people, dogs, space):
        each.verify()
    assert list(people.ids) == published.ids  # 1, 10, 11, ..., 2, 20
    np.testing.assert_array_equal(people[:], published.weights)
    np.testing.assert_array_equal(dogs[:], published.weights[:12] + 1)
    for name in ("Male", "Young", "5_o_Clock_Shadow"):
        expected = (published.labels[name] > 0).loc[published.ids]
        assert people.labels[name].tolist() == expected.tolist()
    assert people.layout.scale == 27
    assert {slot.target.module for slot in people.layout.slots} == set(modules())
    assert dogs.labels["wavy"].tolist() == [bool(i % 2) for i in range(12)]
    assert people.labels["source"].str.contains(".jpg", regex=False).all()
    assert space.k == PUBLISHED
    for row in (0, 7):
        found = space.decode(space.row(published.ids[row]))
        np.testing.assert_allclose(found, decoded(published, row, PUBLISHED), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "w2w"]


def test_components_keep_their_values_up_to_the_recorded_signs(whole: Published, tmp_path: Path) -> None:
    space = import_w2w(whole.folder, tmp_path / "out").space
    assert space is not None
    signs = np.ones(PUBLISHED, np.float32)
    signs[space.recipe["as_published"]["flipped"]] = -1
    assert 0 < (signs < 0).sum() < PUBLISHED
    np.testing.assert_array_equal(space.coordinates.basis, whole.basis.T * signs[:, None])
    np.testing.assert_array_equal(space.coordinates.mean, whole.mean)
    np.testing.assert_array_equal(space.coordinates.std, whole.std)
    population = space.population
    assert population is not None
    np.testing.assert_array_equal(population.coefficients[:, :PROJECTED], whole.projections * signs[:PROJECTED])
    scaled = (whole.weights - whole.mean) / whole.std
    np.testing.assert_allclose(population.coefficients, scaled @ whole.basis * signs, atol=1e-4)
    np.testing.assert_allclose(
        space.coordinates.singular_values, np.linalg.norm(population.coefficients.astype(float), axis=0)
    )
    largest = np.take_along_axis(space.coordinates.basis, np.abs(space.coordinates.basis).argmax(1)[:, None], 1)
    assert (largest > 0).all()


def test_files_without_weights_make_a_space_of_the_published_coefficients(
    files_only: Published, tmp_path: Path
) -> None:
    made = import_w2w(files_only.folder, tmp_path / "out")
    assert made.dataset is None
    assert made.space is not None
    assert made.space.k == PROJECTED
    made.space.verify()
    labels = pd.read_csv(tmp_path / "out" / "labels.csv", index_col="id", dtype={"id": str})
    assert labels.index.tolist() == files_only.ids
    with pytest.raises(InvalidInputError, match=r"all_weights\.pt"):
        import_w2w(files_only.folder, tmp_path / "more", k=PROJECTED + 1)
    fewer = import_w2w(files_only.folder, tmp_path / "fewer", k=3).space
    assert fewer is not None
    np.testing.assert_array_equal(fewer.coordinates.basis, made.space.coordinates.basis[:3])


def test_rows_without_labels_and_components_make_datasets(own: Published, tmp_path: Path) -> None:
    for name in ("weight_dimensions.pt", "adapter_config.json"):
        own.file(name).rename(own.folder / "weights_datasets" / name)
    made = import_w2w(own.folder / "weights_datasets", tmp_path / "out")
    assert made.space is None
    assert made.dataset is not None
    assert made.dogs is not None
    np.testing.assert_array_equal(made.dataset["row-000003"], own.weights[3])
    assert any("identity_df.pt is not there" in each for each in made.report["assumed"])
    (own.folder / "weights_datasets" / "adapter_config.json").unlink()
    again = import_w2w(own.folder / "weights_datasets", tmp_path / "again")
    assert again.dataset is not None
    assert again.dataset.layout.scale == 27
    assert any("alpha" in each for each in again.report["assumed"])


# ---------------------------------------------------------------- what the report says
@pytest.mark.parametrize(("standardized", "kind"), [(True, "standardized"), (False, "as they are")])
def test_the_report_says_what_the_components_are_of(standardized: bool, kind: str, tmp_path: Path) -> None:
    publish(tmp_path / "w2w", standardized=standardized, dogs=False)
    made = import_w2w(tmp_path / "w2w", tmp_path / "out")
    checks = made.report["checks"]
    assert checks["components_of"] == kind
    assert made.space is not None
    assert made.space.recipe["as_published"]["measured"]["components_of"] == kind
    card = (tmp_path / "out" / "space" / "README.md").read_text("utf-8")
    assert ("not of the standardised ones" in card) != standardized
    assert checks["mean_error"] < 1e-5
    assert checks["std_error"] < 1e-5
    assert checks["pseudo_inverse_error"] < 1e-4


def test_coefficients_of_other_rows_are_noticed(own: Published, tmp_path: Path) -> None:
    own.write("files/proj_1000pc.pt", torch.from_numpy(own.projections[::-1].copy()))
    with pytest.warns(UserWarning, match=r"proj_1000pc\.pt"):
        made = import_w2w(own.folder, tmp_path / "out")
    assert made.report["checks"]["projection_error"] > 0.5


def test_components_that_are_not_orthonormal_are_measured_and_kept(own: Published, tmp_path: Path) -> None:
    basis = own.basis.copy()
    basis[:, 1] += 0.1 * basis[:, 0]
    own.write("files/V.pt", torch.from_numpy(basis))
    space = import_w2w(own.folder, tmp_path / "out").space
    assert space is not None
    assert space.diagnostics["orthogonality_error"] == pytest.approx(0.1, rel=0.01)
    np.testing.assert_array_equal(np.abs(space.coordinates.basis), np.abs(basis.T))
    space.verify()
    manifest = tmp_path / "out" / "space" / "manifest.json"
    changed = json.loads(manifest.read_text("utf-8"))
    changed["diagnostics"]["orthogonality_error"] = 1e-7
    changed.pop("checksum")
    manifest.write_text(json.dumps(changed), "utf-8")
    assert not check_space(tmp_path / "out" / "space").ok


def test_the_report_names_every_file_with_its_digest(whole: Published, tmp_path: Path) -> None:
    made = import_w2w(whole.folder, tmp_path / "out")
    names = {path.relative_to(whole.folder).as_posix() for path in whole.folder.rglob("*") if path.is_file()}
    assert set(made.report["files"]) == names
    assert all(len(entry["sha256"]) == 64 for entry in made.report["files"].values())
    assert json.loads((tmp_path / "out" / "import.json").read_text("utf-8")) == made.report
    assert "non-commercial" in made.report["license"]
    assert "non-commercial" in (tmp_path / "out" / "space" / "README.md").read_text("utf-8")
    assert "non-commercial" in (tmp_path / "out" / "dataset" / "README.md").read_text("utf-8")


def test_a_space_of_the_imported_rows_is_compared_with_the_published_one(whole: Published, tmp_path: Path) -> None:
    made = import_w2w(whole.folder, tmp_path / "out")
    assert made.dataset is not None
    assert made.space is not None
    ours = build_space(made.dataset, PUBLISHED)
    found = compare_components(made.space, ours)
    np.testing.assert_allclose(found.cosines, 1, atol=1e-4)
    assert set(found.angles) == {10, PUBLISHED}
    assert found.angles[PUBLISHED].max() < 0.1
    assert found.components_of == ("standardized", "standardized")
    for m, share in found.explained_variance[0].items():
        assert share == pytest.approx(found.explained_variance[1][m], abs=1e-4)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(PUBLISHED, PUBLISHED)))[0]
    ours.coordinates.basis[:] = turned @ ours.coordinates.basis  # another basis of the same span
    mixed = compare_components(made.space, ours)
    assert mixed.angles[PUBLISHED].max() < 0.1
    assert mixed.cosines.min() < 0.9
    with pytest.raises(InvalidInputError):
        rebuild(made.space, made.dataset)
    assert set(fit_directions(made.space, made.dataset)) == {"Male", "Young", "5_o_Clock_Shadow"}


# ---------------------------------------------------------------- labels
def test_a_split_keeps_all_models_of_a_celebrity_on_one_side(tmp_path: Path) -> None:
    publish(tmp_path / "w2w", celebrities=True, dogs=False)
    people = import_w2w(tmp_path / "w2w", tmp_path / "out", holdout=0.25).dataset
    assert people is not None
    assert people.manifest.split_rule is not None
    assert people.manifest.splits["test"] in (8, 12)
    sides = people.labels.groupby("celebrity")["split"].nunique()
    assert (sides == 1).all()


@pytest.mark.filterwarnings("default::w2w_hub.upstream.LeakingSplitWarning")
def test_labels_without_celebrities_warn_that_a_split_leaks(whole: Published, tmp_path: Path) -> None:
    with pytest.warns(LeakingSplitWarning):
        made = import_w2w(whole.folder, tmp_path / "out")
    assert made.dataset is not None
    assert list(made.dataset.manifest.splits) == ["train"]
    assert any("leak" in each for each in made.report["assumed"])
    with pytest.raises(UnknownNameError):
        import_w2w(whole.folder, tmp_path / "by", split_by="celebrity")


def frame_in(published: Published, way: str) -> pd.DataFrame:
    table = published.labels
    if way == "file column":
        return table.assign(file=table.index).reset_index(drop=True)
    if way == "numbers":
        return table.set_index(pd.Index([int(name) for name in table.index]))
    if way == "paths":
        return table.set_index(pd.Index([f"/data/lora/{name}" for name in table.index]))
    return table.sample(frac=1, random_state=0)


@pytest.mark.parametrize("way", ["file column", "numbers", "paths", "shuffled"])
def test_rows_are_in_alphanumeric_order_of_the_folders(way: str, own: Published, tmp_path: Path) -> None:
    own.write("files/identity_df.pt", frame_in(own, way))
    people = import_w2w(own.folder, tmp_path / "out").dataset
    assert people is not None
    assert list(people.ids) == own.ids
    expected = (own.labels["Male"] > 0).loc[own.ids]
    assert people.labels["Male"].tolist() == expected.tolist()
    np.testing.assert_array_equal(people["10"], own.weights[1])


def test_labels_that_fit_another_order_are_noticed(own: Published, tmp_path: Path) -> None:
    by_table = own.labels.copy()
    for name in ("Male", "Young"):  # as if the rows were in the order of the table
        by_table[name] = own.labels[name].loc[own.ids].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", LeakingSplitWarning)
        right = import_w2w(own.folder, tmp_path / "right").report["checks"]["label_fit"]
    own.write("files/identity_df.pt", by_table)
    with pytest.warns(UserWarning, match=r"identity_df\.pt"):
        wrong = import_w2w(own.folder, tmp_path / "wrong").report["checks"]["label_fit"]
    assert right["alphanumeric"] > 1.5 * wrong["alphanumeric"]
    assert wrong["table"] == pytest.approx(right["alphanumeric"], rel=0.2)
    made = import_w2w(own.folder, tmp_path / "table", row_order="table")
    assert made.dataset is not None
    assert list(made.dataset.ids) == own.folders
    assert made.dataset.labels["Male"].tolist() == (by_table["Male"] > 0).tolist()


BAD_TABLES: dict[str, Any] = {
    "a row less": lambda table: table[:-1],
    "a folder twice": lambda table: table.set_index(pd.Index(["1", *table.index[:-1]])),
    "no coding": lambda table: table.assign(Male=[-1, 0, 1, *[1] * (ROWS - 3)]),
    "no table": lambda table: [1, 2, 3],
    "no Unicode": lambda table: table.assign(name=pd.Series(["\ud800"] * ROWS, table.index, dtype=object)),
    "huge numbers": lambda table: table.assign(age=pd.Series([2**70] * ROWS, table.index, dtype=object)),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_wrong_table_of_labels_is_refused(name: str, own: Published, tmp_path: Path) -> None:
    own.write("files/identity_df.pt", BAD_TABLES[name](own.labels))
    with pytest.raises(W2WError, match=r"identity_df\.pt") as caught:
        import_w2w(own.folder, tmp_path / "out")
    assert caught.value.path == own.folder / "files" / "identity_df.pt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w2w"]


DOG_LABELS: dict[str, Any] = {
    "columns": {"wavy": [np.int64(i % 2) for i in range(12)]},
    "arrays": {"wavy": np.arange(12) % 2},
    "rows": [{"wavy": i % 2} for i in range(12)],
    "named rows": {f"n{i:02d}": {"wavy": np.int64(i % 2)} for i in range(12)},
    "columns of named rows": {"wavy": {f"n{i:02d}": np.int64(i % 2) for i in range(12)}},
    "a list": [i % 2 for i in range(12)],
    "a tensor": torch.arange(12) % 2,
    "a matrix": np.stack([np.arange(12) % 2, np.arange(12)], 1),
    "a frame": pd.DataFrame({"wavy": [1 if i % 2 else -1 for i in range(12)]}),
}


@pytest.mark.parametrize("way", DOG_LABELS)
def test_labels_of_dogs_are_read_in_each_form(way: str, own: Published, tmp_path: Path) -> None:
    own.write("weights_datasets/dogs/dog_labels.pt", DOG_LABELS[way])
    dogs = import_w2w(own.folder, tmp_path / "out", k=2).dogs
    assert dogs is not None
    name = {"a list": "label", "a tensor": "label", "a matrix": "label-0"}.get(way, "wavy")
    assert dogs.labels[name].tolist() == [bool(i % 2) for i in range(12)]
    assert dogs.ids[0] == ("n00" if "named rows" in way else "dog-000000")


# ---------------------------------------------------------------- layout
def test_keys_in_an_unknown_spelling_are_matched_by_order_and_shape(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    folder = tmp_path / "w2w"
    (folder / "weights_datasets" / "dogs").mkdir(parents=True)
    torch.save(torch.from_numpy(draw.normal(size=(3, SIZE)).astype(np.float32)),
               folder / "weights_datasets" / "dogs" / "dog_weights.pt")  # fmt: skip
    shapes = [shape for rank, i, o in sd15_targets().values() for shape in ((rank, i), (o, rank))]
    sizes = {f"layer-{i}": (a * b, torch.Size((a, b))) for i, (a, b) in enumerate(shapes)}
    torch.save(sizes, folder / "weights_datasets" / "weight_dimensions.pt")
    made = import_w2w(folder, tmp_path / "out")
    assert made.dogs is not None
    assert [slot.target for slot in made.dogs.layout.slots] == list(sd15_targets())
    assert made.dogs.layout.scale == 27
    assert any("in their order" in each for each in made.report["assumed"])
    items = list(sizes.items())
    items[0], items[20] = items[20], items[0]
    torch.save(dict(items), folder / "weights_datasets" / "weight_dimensions.pt")
    with pytest.raises(LayoutMismatchError, match=r"weight_dimensions\.pt"):
        import_w2w(folder, tmp_path / "other")


def changed_dimensions(way: str) -> Any:
    items = list(dimensions().items())
    if way == "another order":
        items[0], items[4] = items[4], items[0]
    elif way == "another sum":
        items = items[:-2]
    elif way == "count and shape differ":
        items[0] = (items[0][0], (items[0][1][0] + 1, items[0][1][1]))
    elif way == "half a module":
        items = items[:-1]
    elif way == "two keys of one factor":
        items.append((items[0][0].removesuffix(".weight"), items[0][1]))
    elif way == "nested":
        items[0] = (items[0][0], nested(60))
    elif way == "unknown keys":
        items = [(f"k{i}", value) for i, (_, value) in enumerate(items)]
    return dict(items)


@pytest.mark.parametrize(
    "way",
    [
        "another order",
        "another sum",
        "count and shape differ",
        "half a module",
        "unknown keys",
        "nested",
        "two keys of one factor",
    ],
)
def test_wrong_dimensions_are_refused(way: str, own: Published, tmp_path: Path) -> None:
    own.write("files/weight_dimensions.pt", changed_dimensions(way))
    with pytest.raises(W2WError, match=r"weight_dimensions\.pt"):
        import_w2w(own.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["V.pt", "mean.pt", "std.pt", "proj_1000pc.pt", "pinverse_1000pc.pt", "all_weights.pt"]
)
@pytest.mark.parametrize("value", [torch.zeros(3, 5), {"a": 1}, torch.full((ROWS,), float("nan"))],
                         ids=["another shape", "no tensor", "not finite"])  # fmt: skip
def test_a_file_of_something_else_is_refused_by_name(name: str, value: Any, own: Published, tmp_path: Path) -> None:
    torch.save(value, own.file(name))
    with pytest.raises((CorruptFileError, InvalidInputError, LayoutMismatchError)) as caught:
        import_w2w(own.folder, tmp_path / "out")
    assert caught.value.path is not None
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["w2w"]


def test_a_row_of_values_that_are_not_finite_is_named_with_its_file(own: Published, tmp_path: Path) -> None:
    weights = torch.from_numpy(own.weights.copy())
    weights[5, 3] = torch.inf
    torch.save(weights, own.file("all_weights.pt"))
    with pytest.raises((CorruptFileError, InvalidInputError), match=r"all_weights\.pt: row 5"):
        import_w2w(own.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_of_two_copies_of_a_file_that_is_damaged_is_refused_by_name(own: Published, tmp_path: Path) -> None:
    copy = own.folder / "V.pt"
    copy.write_bytes(own.file("V.pt").read_bytes()[:900])
    with pytest.raises((CorruptFileError, InvalidInputError)) as caught:
        import_w2w(own.folder, tmp_path / "out")
    assert caught.value.path == copy


def test_a_damaged_row_is_refused_before_anything_is_written(own: Published, tmp_path: Path) -> None:
    path = own.file("all_weights.pt")
    whole = path.read_bytes()
    data = bytearray(whole)
    data[data.index(own.weights[5].tobytes()) + 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"all_weights\.pt"):
        import_w2w(own.folder, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["w2w"]
    path.write_bytes(whole)  # fetched again
    assert import_w2w(own.folder, tmp_path / "out", k=2).dataset is not None


def test_two_different_files_of_one_kind_are_refused(own: Published, tmp_path: Path) -> None:
    own.write("weights_datasets/identities/identity_df.pt", own.labels)
    import_w2w(own.folder, tmp_path / "out", k=2)
    own.write("weights_datasets/identities/identity_df.pt", own.labels[::-1])
    with pytest.raises(InvalidInputError, match=r"identity_df\.pt"):
        import_w2w(own.folder, tmp_path / "other", k=2)


def test_a_link_out_of_the_folder_is_not_followed(own: Published, tmp_path: Path) -> None:
    own.file("V.pt").rename(tmp_path / "elsewhere.pt")
    (own.folder / "files" / "V.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(UnsafePathError, match=r"V\.pt"):
        import_w2w(own.folder, tmp_path / "out")


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(MissingPathError):
            import_w2w(folder, tmp_path / "out")


# ---------------------------------------------------------------- points and adapters
def test_saved_points_are_points_of_the_imported_space(own: Published, tmp_path: Path) -> None:
    scaled = (own.weights[3:4] - own.mean) / own.std
    own.write("w2wmodel.pt", torch.from_numpy(own.projections[3:4]))
    own.write("saved/inverted.pt", torch.nn.Parameter(torch.from_numpy(scaled @ own.basis).bfloat16()))
    made = import_w2w(own.folder, tmp_path / "out")
    space = made.space
    assert space is not None
    assert [path.stem for path in made.points] == ["saved-inverted", "w2wmodel"]
    np.testing.assert_allclose(space.decode(str(made.points[1])), decoded(own, 3, PROJECTED), atol=1e-5)
    expected = decoded(own, 3, PUBLISHED)
    np.testing.assert_allclose(space.decode(str(made.points[0])), expected, atol=0.02 * np.abs(expected).max())
    alone = import_point(own.folder / "w2wmodel.pt", space)
    np.testing.assert_array_equal(alone.coefficients, space.coefficients_of(str(made.points[1])))
    assert made.dataset is not None
    with pytest.raises(InvalidInputError):
        import_point(own.folder / "w2wmodel.pt", build_space(made.dataset, PUBLISHED))


def test_a_point_with_more_coefficients_than_the_space_becomes_an_adapter(
    files_only: Published, tmp_path: Path
) -> None:
    shutil.copytree(files_only.folder, tmp_path / "w2w")
    coefficients = ((files_only.weights[3:4] - files_only.mean) / files_only.std) @ files_only.basis
    torch.save(torch.from_numpy(coefficients), tmp_path / "w2w" / "w2wmodel.pt")
    made = import_w2w(tmp_path / "w2w", tmp_path / "out")
    assert made.points == []
    space = made.space
    assert space is not None
    vector = space.layout.flatten(read_adapter(made.adapters[0]))
    np.testing.assert_allclose(vector, decoded(files_only, 3, PUBLISHED), atol=1e-5)
    with pytest.raises(InvalidInputError, match=r"w2wmodel\.pt"):
        import_point(tmp_path / "w2w" / "w2wmodel.pt", space)


@pytest.mark.parametrize("configured", [True, False])
def test_adapters_saved_for_diffusers_are_adapters(configured: bool, own: Published, tmp_path: Path) -> None:
    folder, offset, tensors = own.folder / "person", 0, {}
    folder.mkdir()
    for key, (count, shape) in dimensions().items():
        name = key.replace(".weight", ".identity1.weight")
        tensors[name] = own.weights[4, offset : offset + count].reshape(shape).copy()
        offset += count
    save_file(tensors, folder / "adapter_model.safetensors")
    if configured:
        shutil.copy(own.file("adapter_config.json"), folder)
    made = import_w2w(own.folder, tmp_path / "out", k=2)
    assert [path.name for path in made.adapters] == ["person"]
    assert made.dataset is not None
    adapter = read_adapter(made.adapters[0])
    np.testing.assert_array_equal(made.dataset.layout.flatten(adapter), own.weights[4])
    assert {pair.scale for pair in adapter.factors.values()} == {27}
    assert "non-commercial" in adapter.metadata["w2w.license"]
    assert all(".identity1." not in key for key in load_file(made.adapters[0] / "adapter_model.safetensors"))


def test_a_malicious_point_is_refused(own: Published, tmp_path: Path) -> None:
    own.write("w2wmodel.pt", torch.nn.Linear(2, 2))
    with pytest.raises(CorruptFileError, match=r"w2wmodel\.pt"):
        import_w2w(own.folder, tmp_path / "out")


# ---------------------------------------------------------------- outputs
def test_an_earlier_import_is_replaced_only_on_demand(whole: Published, tmp_path: Path) -> None:
    import_w2w(whole.folder, tmp_path / "out", k=2)
    with pytest.raises(AlreadyExistsError):
        import_w2w(whole.folder, tmp_path / "out", k=3)
    made = import_w2w(whole.folder, tmp_path / "out", k=3, overwrite=True)
    assert made.space is not None
    assert made.space.k == 3
    (tmp_path / "out" / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(AlreadyExistsError):
        import_w2w(whole.folder, tmp_path / "out", k=2, overwrite=True)
    assert WeightSpace.from_pretrained(tmp_path / "out" / "space").k == 3
    assert WeightDataset.open(tmp_path / "out" / "dataset").manifest.imported is not None
