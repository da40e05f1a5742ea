from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    CorruptFileError,
    InvalidInputError,
    LayoutMismatchError,
    UnknownNameError,
    UnsupportedFormatError,
)
from w2w_hub.space.points import load_point, save_point

from ..tiny_world import TinyWorld, make_base


@pytest.fixture(scope="module")
def space(tiny_space: Path) -> WeightSpace:
    return WeightSpace.from_pretrained(tiny_space)


def test_a_saved_space_opens_as_it_was(space: WeightSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "copy")
    again = WeightSpace.from_pretrained(tmp_path / "copy")
    assert again.digest == space.digest
    assert again.population.ids == space.population.ids
    np.testing.assert_array_equal(again.population.coefficients, space.population.coefficients)
    for name, direction in space.directions.items():
        np.testing.assert_array_equal(again.direction(name).editing, direction.editing)
        assert again.direction(name).auc == direction.auc


def test_the_basis_is_split_into_files_of_a_thousand_components(
    space: WeightSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2w_hub.space.coordinate_files.COMPONENTS_A_FILE", 5)
    space.save(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("basis-*.safetensors"))) == 3
    assert WeightSpace.from_pretrained(tmp_path / "parts").digest == space.digest


def test_a_changed_basis_is_noticed_on_opening(space: WeightSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "bad")
    file = tmp_path / "bad" / "basis-00000.safetensors"
    basis = load_file(file)["basis"]
    basis[0, 0] += 1
    save_file({"basis": basis}, file)
    with pytest.raises(CorruptFileError, match=re.escape(str(tmp_path / "bad"))):
        WeightSpace.from_pretrained(tmp_path / "bad")


def test_a_space_of_a_later_format_asks_for_an_update(space: WeightSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "late")
    manifest = json.loads((tmp_path / "late" / "manifest.json").read_text())
    (tmp_path / "late" / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(UnsupportedFormatError, match="99"):
        WeightSpace.from_pretrained(tmp_path / "late")


def test_an_existing_folder_is_left_alone(space: WeightSpace, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(AlreadyExistsError):
        space.save(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_foreign_base_model_is_refused_and_nothing_is_written(tiny_world: TinyWorld, tmp_path: Path) -> None:
    make_base(tmp_path / "foreign", seed=5)
    fresh = build_space(WeightDataset.open(tiny_world.rows), 4)
    with pytest.raises(BaseModelMismatchError, match=re.escape(str(tmp_path / "foreign"))):
        fresh.save(tmp_path / "space", base=tmp_path / "foreign")
    assert not (tmp_path / "space").exists()


def test_a_base_model_without_the_target_modules_names_the_first(tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copytree(tiny_world.base, tmp_path / "cut")
    file = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "mid_block" not in k}, file)
    fresh = build_space(WeightDataset.open(tiny_world.rows), 4)
    with pytest.raises(BaseModelMismatchError, match=r"unet\.mid_block"):
        fresh.save(tmp_path / "space", base=tmp_path / "cut")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12))
def test_projecting_a_decoded_point_gives_it_back(space: WeightSpace, values: list[float]) -> None:
    c = np.zeros(space.k, np.float32)
    c[: len(values)] = values
    vector = space.decode(c[: len(values)])
    # decoding rounds to float32 around weights of about 1, which dividing by std magnifies
    tolerance = 1e-3 + np.abs(vector).max() * 2e-7 / space.coordinates.std.min()
    np.testing.assert_allclose(space.project(vector), c, atol=tolerance)


def test_a_point_of_another_basis_is_refused(space: WeightSpace) -> None:
    other = dataclasses.replace(space.row("person-0000"), basis_digest="0" * 64)
    with pytest.raises(LayoutMismatchError, match="000000000000"):
        space.decode(other)


def test_the_same_seed_samples_the_same_people_and_truncation_zero_is_the_mean(space: WeightSpace) -> None:
    first, second = space.sample(3, seed=7), space.sample(3, seed=7)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.coefficients, b.coefficients)
    assert not np.array_equal(first[0].coefficients, space.sample(1, seed=8)[0].coefficients)
    mean = space.sample(1, truncation=0.0)[0].coefficients
    np.testing.assert_allclose(mean, space.mean_point().coefficients, atol=1e-6)


def test_samples_have_the_populations_spread(space: WeightSpace) -> None:
    drawn = np.stack([p.coefficients for p in space.sample(4000, seed=0, method="gaussian")])
    np.testing.assert_allclose(drawn.std(0), space.spread.std, rtol=0.08)


def test_a_row_is_its_own_nearest_neighbour(space: WeightSpace) -> None:
    [(name, cosine), (_, second)] = space.nearest(space.row("person-0003"), 2)
    assert name == "person-0003"
    assert cosine == pytest.approx(1)
    assert second < 1


def test_held_out_rows_are_never_offered_as_neighbours(space: WeightSpace) -> None:
    held_out = [i for i, s in zip(space.population.ids, space.population.splits, strict=True) if s == "test"]
    assert space.nearest(space.row(held_out[0]))[0][0] not in held_out


def test_interpolation_ends_in_its_points(space: WeightSpace) -> None:
    a, b = space.row("person-0000"), space.row("person-0001")
    np.testing.assert_allclose(space.interpolate([a, b], [1, 0]).coefficients, a.coefficients, atol=1e-6)
    with pytest.raises(InvalidInputError):
        space.interpolate([a, b], [1])


def test_unknown_rows_and_attributes_are_named_with_what_there_is(space: WeightSpace) -> None:
    with pytest.raises(UnknownNameError, match="person-0000"):
        space.row("nobody")
    with pytest.raises(UnknownNameError, match="Sunglasses, Full_Beard, Dark_Skin"):
        space.edit(space.mean_point(), {"Halo": 1.0})


def test_a_strength_that_is_no_number_is_refused(space: WeightSpace) -> None:
    with pytest.raises(InvalidInputError, match="Sunglasses"):
        space.edit(space.mean_point(), {"Sunglasses": float("nan")})


def test_edits_add_up_and_are_recorded(space: WeightSpace) -> None:
    both = space.edit(space.edit(space.mean_point(), {"Sunglasses": 1.0}), {"Dark_Skin": 2.0})
    once = space.edit(space.mean_point(), {"Sunglasses": 1.0, "Dark_Skin": 2.0})
    np.testing.assert_allclose(both.coefficients, once.coefficients, atol=1e-5)
    assert both.history["edits"] == {"Sunglasses": 1.0, "Dark_Skin": 2.0}


def test_a_saved_point_comes_back(space: WeightSpace, tmp_path: Path) -> None:
    point = space.sample(1, seed=3)[0]
    save_point(point, tmp_path / "p.json")
    again = load_point(tmp_path / "p.json")
    np.testing.assert_array_equal(again.coefficients, point.coefficients)
    assert again.basis_digest == space.digest
    (tmp_path / "q.json").write_text('{"format": "something"}')
    with pytest.raises(UnsupportedFormatError):
        load_point(tmp_path / "q.json")
