"""Encoders: from a picture to a point without torch, as files and in the folder of a weight space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.space.encoders import HIDDEN, SIZE, WIDTH, forged, random_encoder
from tests.space.population import dataset_of, decaying
from w2w_hub import Encoder, WeightSpace, build_space, describe
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    CorruptFileError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    UnsupportedFormatError,
)
from w2w_hub.release import diff
from w2w_hub.space.encoder.network import final_size, forward, reduced, reduction, shapes
from w2w_hub.space.integrity import check_space

FILE = "encoder.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("space")
    beard = {"Beard": [bool(i % 2) for i in range(30)]}
    return build_space(dataset_of(root / "people", decaying(30, 40), held_out=6, columns=beard), k=4).save(root / "s")


@pytest.fixture
def space(folder: Path, tmp_path: Path) -> WeightSpace:
    return WeightSpace.open(shutil.copytree(folder, tmp_path / "space"))


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(5).random((*SIZE, 3)).astype(np.float32)


# ------------------------------------------------------------------ the network
def by_definition(tensors: dict[str, np.ndarray], picture: np.ndarray) -> np.ndarray:
    """One picture through the network as FORMAT.md states it, number by number."""

    def bent(x: float) -> float:
        return x / (1 + np.exp(-x))

    x = (2 * picture.astype(np.float64) - 1).transpose(2, 0, 1)
    for i, stride in enumerate((2, 2, 1, 2, 2)):
        weight, bias = tensors[f"conv.{i}.weight"], tensors[f"conv.{i}.bias"]
        _, height, across = x.shape
        framed = np.zeros((len(x), height + 2, across + 2))
        framed[:, 1:-1, 1:-1] = x
        rows, columns = range(0, height, stride), range(0, across, stride)
        x = np.array(
            [
                [[bent((framed[:, r : r + 3, c : c + 3] * w).sum() + b) for c in columns] for r in rows]
                for w, b in zip(weight, bias, strict=True)
            ]
        )
    hidden = np.array([bent(v) for v in tensors["dense.0.weight"] @ x.ravel() + tensors["dense.0.bias"]])
    return tensors["dense.1.weight"] @ hidden + tensors["dense.1.bias"]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_the_network_is_what_the_format_states(height: int, across: int, hidden: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = shapes((height, across), 2, hidden, k)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in wanted.items()}
    pictures = rng.random((2, height, across, 3)).astype(np.float32)
    found = forward(tensors, pictures)
    assert found.shape == (2, k)
    for row, picture in zip(found, pictures, strict=True):
        np.testing.assert_allclose(row, by_definition(tensors, picture), rtol=1e-3, atol=1e-3)
    assert final_size((height, across)) == (-(-height // 16), -(-across // 16))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 128))
def test_pictures_are_averaged_over_whole_squares_to_no_less_than_the_resolution(
    height: int, across: int, resolution: int
) -> None:
    factor = reduction((height, across), resolution)
    assert height % factor == across % factor == 0
    assert factor == 1 or min(height, across) // factor >= resolution
    assert not any(
        height % n == across % n == 0 and min(height, across) // n >= resolution for n in range(factor + 1, 301)
    )


def test_averaging_keeps_every_square_s_mean() -> None:
    pictures = np.random.default_rng(0).random((2, 6, 4, 3)).astype(np.float32)
    found = reduced(pictures, 2)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(found[1, 2, 0], pictures[1, 4:6, 0:2].mean((0, 1)), rtol=1e-6)


# ------------------------------------------------------------------ encoding
def test_a_picture_is_the_point_that_the_network_states(space: WeightSpace, picture: np.ndarray) -> None:
    encoder = space.encoder = random_encoder(space)
    point = space.encode(picture)
    small = picture.reshape(6, 2, 4, 2, 3).mean((1, 3))
    expected = space.spread.mean + by_definition(dict(encoder.tensors), small) * space.spread.std
    np.testing.assert_allclose(point.coefficients, expected, rtol=1e-3, atol=1e-3)
    assert point.history["made"] == "encoding"
    assert encoder.digest.startswith(point.history["encoder"])
    assert "picture" in repr(point)


def test_every_form_of_a_picture_is_one_point(space: WeightSpace, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    space.encoder = random_encoder(space)
    whole = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(whole).save(tmp_path / "picture.png")
    forms = [
        whole, whole / 255.0, Image.fromarray(whole), torch.from_numpy(whole).permute(2, 0, 1),
        tmp_path / "picture.png", str(tmp_path / "picture.png"),
    ]  # fmt: skip
    points = [space.encode(form).coefficients for form in forms]
    for other in points[1:]:
        np.testing.assert_allclose(other, points[0], rtol=1e-4, atol=1e-4)


def test_pictures_of_one_person_are_one_point_and_lists_of_lists_are_several(space: WeightSpace) -> None:
    space.encoder = random_encoder(space)
    pictures = list(np.random.default_rng(2).random((5, *SIZE, 3)).astype(np.float32))
    alone = [space.encode(picture).coefficients for picture in pictures]
    together = space.encode(pictures[:3])
    np.testing.assert_allclose(together.coefficients, np.mean(alone[:3], 0), rtol=1e-4, atol=1e-4)
    people = space.encode([pictures[:3], [pictures[4]]])
    assert len(people) == 2
    np.testing.assert_allclose(people[0].coefficients, together.coefficients, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(people[1].coefficients, alone[4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [[]],
        np.zeros((8, 12, 3)),
        np.zeros((12, 8)),
        np.full((12, 8, 3), 2.0),
        3,
        None,
        {"a": 1},
        [np.zeros((1, 1))],
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_picture_of_the_encoder_s_size_is_refused(space: WeightSpace, wrong: Any) -> None:
    space.encoder = random_encoder(space)
    with pytest.raises(InvalidInputError) as told:
        space.encode(wrong)
    assert "\n" not in str(told.value)


def test_a_picture_of_another_size_says_both_and_its_name(space: WeightSpace, tmp_path: Path) -> None:
    space.encoder = random_encoder(space)
    Image.new("RGB", (32, 16)).save(tmp_path / "wide.png")
    with pytest.raises(InvalidInputError, match=r"wide\.png is 32x16 .* 8x12"):
        space.encode(tmp_path / "wide.png")
    with pytest.raises(MissingPathError):
        space.encode(tmp_path / "gone.png")


def test_a_space_without_an_encoder_says_how_to_get_one(space: WeightSpace, picture: np.ndarray) -> None:
    assert space.encoder is None
    with pytest.raises(InvalidInputError, match="fit-encoder"):
        space.encode(picture)


# ------------------------------------------------------------------ files
def test_a_saved_encoder_is_the_same(space: WeightSpace, tmp_path: Path) -> None:
    encoder = random_encoder(space)
    path = encoder.save(tmp_path / "e.safetensors")
    again = Encoder.load(path)
    assert again == encoder
    assert hash(again) == hash(encoder)
    assert again.to_json() == encoder.to_json()
    np.testing.assert_array_equal(again.spread.std, encoder.spread.std)
    with pytest.raises(AlreadyExistsError):
        encoder.save(path)
    for other in (random_encoder(space, seed=1), replace(encoder, recipe={}), replace(encoder, factor=1)):
        assert other != encoder
    with pytest.raises(InvalidInputError, match="safetensors"):
        encoder.save(tmp_path / "e.pt")


FORGERIES: dict[str, Callable[[Path], object]] = {
    "another format": lambda p: forged(p, format="w2w-point"),
    "a later version": lambda p: forged(p, format_version="2"),
    "no version": lambda p: forged(p, format_version="one"),
    "facts that are no object": lambda p: forged(p, encoder="[1]"),
    "facts that are no JSON": lambda p: forged(p, encoder="{"),
    "another network": lambda p: forged(p, lambda f: f.update(network="conv-9")),
    "no basis": lambda p: forged(p, lambda f: f.pop("basis_digest")),
    "a base that is no text": lambda p: forged(p, lambda f: f.update(base_digest=7)),
    "a size of one side": lambda p: forged(p, lambda f: f.update(size=[8])),
    "no pixels": lambda p: forged(p, lambda f: f.update(size=[0, 8])),
    "sides that are no numbers": lambda p: forged(p, lambda f: f.update(size=[True, 8.0])),
    "a picture larger than any": lambda p: forged(p, lambda f: f.update(size=[2**40, 2**40])),
    "a network on more pixels than any": lambda p: forged(p, lambda f: f.update(size=[1024, 1024], factor=1)),
    "no factor": lambda p: forged(p, lambda f: f.update(factor=0)),
    "a factor that does not divide": lambda p: forged(p, lambda f: f.update(factor=5)),
    "another size than the tensors'": lambda p: forged(p, lambda f: f.update(size=[64, 64])),
    "rows below zero": lambda p: forged(p, lambda f: f.update(rows=-1)),
    "evidence that is no object": lambda p: forged(p, lambda f: f.update(evidence=[1])),
    "a tensor less": lambda p: forged(p, tensors=lambda a: a.pop("dense.1.bias")),
    "a tensor of another shape": lambda p: forged(p, tensors=lambda a: a.update({"conv.1.bias": np.zeros(3, "f2")})),
    "a tensor of other axes": lambda p: forged(p, tensors=lambda a: a.update(mean=a["mean"][None])),
    "whole numbers": lambda p: forged(p, tensors=lambda a: a.update({"conv.0.bias": np.zeros(WIDTH, "i4")})),
    "a mean of another dtype": lambda p: forged(p, tensors=lambda a: a.update(mean=a["mean"].astype("f4"))),
    "no coefficients": lambda p: forged(p, tensors=lambda a: a.update(mean=np.zeros(0))),
    "a value that is not finite": lambda p: forged(p, tensors=lambda a: a["conv.0.weight"].fill(np.inf)),
    "a deviation below zero": lambda p: forged(p, tensors=lambda a: a["std"].fill(-1)),
    "a file that ends early": lambda p: p.write_bytes(p.read_bytes()[:-8]),
    "an empty file": lambda p: p.write_bytes(b""),
    "JSON": lambda p: p.write_text(json.dumps({"format": "w2w-encoder"})),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_encoder_is_refused_in_one_line(space: WeightSpace, tmp_path: Path, forge: Any) -> None:
    path = random_encoder(space).save(tmp_path / "e.safetensors")
    forge(path)
    with pytest.raises((CorruptFileError, UnsupportedFormatError)) as told:
        Encoder.load(path)
    assert "\n" not in str(told.value)
    assert "e.safetensors" in str(told.value)


def test_a_network_wider_than_any_is_refused_before_its_tensors_are_read(space: WeightSpace, tmp_path: Path) -> None:
    path = random_encoder(space).save(tmp_path / "e.safetensors")
    wide = {name: np.zeros(shape, "f2") for name, shape in shapes((6, 4), 257, HIDDEN, space.k).items()}
    forged(path, tensors=lambda a: a.update(wide))
    with pytest.raises(CorruptFileError, match="257"):
        Encoder.load(path)


def test_inspect_says_what_an_encoder_is_and_that_a_space_has_one(space: WeightSpace, tmp_path: Path) -> None:
    encoder = random_encoder(space)
    facts = describe(encoder.save(tmp_path / "e.safetensors"))
    assert (facts["kind"], facts["digest"], facts["basis digest"]) == ("encoder", encoder.digest, space.digest)
    assert "encoder" not in describe(space.path)
    space.add_encoder(encoder)
    assert describe(space.path)["encoder"]


def test_an_unknown_field_and_tensor_are_ignored(space: WeightSpace, tmp_path: Path) -> None:
    path = random_encoder(space).save(tmp_path / "e.safetensors")
    forged(path, lambda f: f.update(novel=1), lambda a: a.update(novel=np.zeros(2)))
    assert Encoder.load(path) == random_encoder(space)


# ------------------------------------------------------------------ with the weight space
def test_an_encoder_is_stored_with_its_space_and_changes_no_digest(
    space: WeightSpace, tmp_path: Path, picture: np.ndarray
) -> None:
    digest, encoder = space.digest, random_encoder(space)
    assert space.add_encoder(encoder) == FILE
    assert space.encoder is encoder
    again = WeightSpace.open(space.path)
    assert (again.digest, again.encoder) == (digest, encoder)
    assert check_space(space.path).problems == []
    copy = WeightSpace.open(again.save(tmp_path / "copy"))
    assert copy.encoder == encoder
    np.testing.assert_array_equal(copy.encode(picture).coefficients, again.encode(picture).coefficients)
    assert copy.without_population().encoder == encoder
    with pytest.raises(AlreadyExistsError):
        again.add_encoder(random_encoder(space, seed=1))
    again.add_encoder(random_encoder(space, seed=1), overwrite=True)
    assert WeightSpace.open(space.path).encoder == random_encoder(space, seed=1)
    again.encoder = None
    assert WeightSpace.open(again.save(tmp_path / "bare")).encoder is None


def test_an_encoder_is_not_read_before_it_is_used(space: WeightSpace) -> None:
    space.add_encoder(random_encoder(space))
    opened = WeightSpace.open(space.path)
    (space.path / FILE).unlink()
    assert opened.sample()[0].basis_digest == opened.digest
    with pytest.raises(MissingPathError):
        _ = opened.encoder


def test_a_damaged_encoder_is_no_obstacle(space: WeightSpace, picture: np.ndarray) -> None:
    space.add_encoder(random_encoder(space))
    (space.path / FILE).write_bytes(b"damaged")
    opened = WeightSpace.open(space.path)
    assert len(opened.decode(opened.sample()[0])) == opened.layout.size
    with pytest.raises(CorruptFileError):
        opened.encode(picture)
    assert [p.file for p in check_space(space.path).problems] == [FILE]


def test_fewer_components_are_the_first_of_the_guess(space: WeightSpace, picture: np.ndarray) -> None:
    space.add_encoder(random_encoder(space))
    whole = space.encode(picture).coefficients
    few = WeightSpace.open(space.path, k=2)
    np.testing.assert_array_equal(few.encode(picture).coefficients, whole[:2])
    space.encoder = random_encoder(space, k=3)
    assert space.encode(picture).coefficients.shape == (3,)


@pytest.mark.parametrize("how", ["set", "add", "open"])
def test_an_encoder_of_another_space_or_base_is_refused(space: WeightSpace, how: str) -> None:
    stated = replace(space, compatibility=replace(space.compatibility, base_digest="a" * 64))
    for foreign, kind in (
        (random_encoder(space, basis_digest="0" * 64), LayoutMismatchError),
        (random_encoder(space, base_digest="b" * 64), BaseModelMismatchError),
    ):
        with pytest.raises(kind, match="fit-encoder"):
            use(stated, foreign, how)
    stated.encoder = random_encoder(space, base_digest=None)


def use(space: WeightSpace, encoder: Encoder, how: str) -> None:
    if how == "set":
        space.encoder = encoder
    elif how == "add":
        space.add_encoder(encoder)
    else:
        replace(space, stored_encoder=None).add_encoder(random_encoder(space), overwrite=True)
        forged(
            space.path / FILE, lambda f: f.update(basis_digest=encoder.basis_digest, base_digest=encoder.base_digest)
        )
        opened = WeightSpace.open(space.path)
        opened.compatibility = space.compatibility
        _ = opened.encoder


def test_what_is_no_encoder_is_refused(space: WeightSpace) -> None:
    for wrong in ("encoder.safetensors", 3, {}):
        with pytest.raises(InvalidInputError):
            space.encoder = wrong  # type: ignore[assignment]
    assert space.encoder is None


def test_a_new_or_other_encoder_is_a_minor_change_and_none_a_major_one(space: WeightSpace, tmp_path: Path) -> None:
    old = shutil.copytree(space.path, tmp_path / "old")
    space.add_encoder(random_encoder(space))
    first = shutil.copytree(space.path, tmp_path / "first")
    space.add_encoder(random_encoder(space, seed=1), overwrite=True)
    assert [diff(*pair).level for pair in ((old, first), (first, space.path), (first, old), (first, first))] == [
        "minor", "minor", "major", "none",
    ]  # fmt: skip


def test_adding_an_encoder_needs_a_folder(space: WeightSpace) -> None:
    in_memory = replace(space, path=None, source=None)
    with pytest.raises(InvalidInputError):
        in_memory.add_encoder(random_encoder(space))
