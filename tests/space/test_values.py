"""Points, directions and spaces in memory: equality, shapes that fit and shapes that do not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnknownNameError, W2WError
from w2w_hub.space import Direction, Point
from w2w_hub.space.identity import resolve
from w2w_hub.space.points import load_point, save_point

from .test_directions import labelled

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    return labelled(tmp_path_factory.mktemp("d") / "people")


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, 12)


# ---------------------------------------------------------------- equality
def test_points_are_equal_by_coefficients_and_basis(space: WeightSpace) -> None:
    point = space.row("p00003")
    same = space.point(point.coefficients.copy(), made="again")
    others = [space.row("p00004"), space.point(point.coefficients[:5]), dataclasses.replace(point, basis_digest="0")]
    assert point == same
    assert hash(point) == hash(same)
    assert len({point, same, *others}) == 4
    assert all(point != other for other in [*others, None, 3, "p00003", point.coefficients.tolist()])
    zero, negative = space.point(np.zeros(2)), space.point(-np.zeros(2))
    assert zero == negative
    assert hash(zero) == hash(negative)
    assert resolve(space, "p00003") == resolve(space, point)
    assert resolve(space, "p00003") != resolve(space, "p00004")


def test_directions_are_equal_by_vectors_and_evidence(space: WeightSpace) -> None:
    for name, direction in space.directions.items():
        same = dataclasses.replace(direction, editing=direction.editing.copy())
        assert direction == same
        assert hash(direction) == hash(same)
        assert direction != dataclasses.replace(direction, sd=direction.sd + 1)
        assert direction != dataclasses.replace(direction, reading=-direction.reading)
        assert [other for other, d in space.directions.items() if d == direction] == [name]
    assert space.direction("PC2") == space.direction("PC2") != space.direction("PC3")
    assert space.entanglement() == space.entanglement()
    assert space.coordinates.explained(mean := space.coordinates.mean) == space.coordinates.explained(mean)


def test_a_space_equals_what_is_opened_of_it_and_nothing_else(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    space.save(tmp_path / "space")
    again = WeightSpace.from_pretrained(tmp_path / "space")
    assert again == space
    assert hash(again) == hash(space)
    assert build_space(dataset, 12) == space  # also the evidence, to the bit
    first = WeightSpace.from_pretrained(tmp_path / "space", k=5)
    assert first != space
    assert space.population is not None
    moved = dataclasses.replace(space.population, coefficients=space.population.coefficients + 1)
    turned = dataclasses.replace(space.coordinates, basis=-space.coordinates.basis)
    for change in (
        {"version": "2.0.0"}, {"directions": {}}, {"population": moved}, {"population": None}, {"coordinates": turned},
    ):  # fmt: skip
        assert dataclasses.replace(space, **change) != space
    assert space not in (None, 3, "space")


# ---------------------------------------------------------------- fewer coefficients
@pytest.mark.parametrize("k", [1, 3, 11])
def test_a_point_that_leaves_coefficients_out_means_zeros(space: WeightSpace, k: int) -> None:
    c = space.row("p00007").coefficients[:k]
    short, padded = space.point(c), space.point(np.pad(c, (0, space.k - k)))
    np.testing.assert_allclose(space.decode(short), space.decode(padded), atol=1e-6)
    for strengths, preserve in (({"Beard": 1.5, "Age": -1.0}, ()), ({"Age": 2.0}, ("Beard",)), ({"PC12": 1.0}, ())):
        moved = space.edit(short, strengths, preserve=preserve)
        np.testing.assert_array_equal(moved.coefficients, space.edit(padded, strengths, preserve=preserve).coefficients)
    for name in [*space.directions, "PC1", "PC12"]:
        assert space.read(short, name) == pytest.approx(space.read(padded, name))
    other = space.row("p00011")
    assert space.interpolate([short, other], [1, 3]) == space.interpolate([padded, other], [1, 3])
    assert len(space.interpolate([short, short], [1, 1]).coefficients) == k
    assert space.nearest(short)[0][0] in space.population


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12), st.floats(0.1, 5))
def test_a_point_interpolated_with_itself_is_itself_and_edits_add_up(
    space: WeightSpace, values: list[float], share: float
) -> None:
    point = space.point(values)
    twice = space.interpolate([point, point], [share, 1])
    np.testing.assert_allclose(twice.coefficients, point.coefficients, atol=1e-4)
    one = space.edit(space.edit(point, {"Beard": share}), {"Age": -1.0}).coefficients
    np.testing.assert_allclose(space.edit(point, {"Beard": share, "Age": -1.0}).coefficients, one, atol=1e-3)


@pytest.mark.parametrize(
    "weights",
    [[NAN, 1], [INF, 1], [1, -INF], [1], [1, 1, 1], [1, -1], "ab", ["a", "b"], None, 1, [[1, 1]], [True, False], {}],
    ids=repr,
)
def test_weights_that_cannot_be_normalized_are_refused(space: WeightSpace, weights: Any) -> None:
    with pytest.raises(InvalidInputError):
        space.interpolate([space.row("p00000"), space.row("p00001")], weights)


# ---------------------------------------------------------------- what is not a point
BAD: dict[str, Any] = {
    "a number": 3.0, "no numbers": [], "nothing": None, "NaN": [NAN, 1.0], "infinity": np.array([INF]),
    "words": ["a", "b"], "flags": [True, False], "ragged": [[1.0], [1.0, 2.0]], "complex": [1j], "an object": object(),
    "a mapping": {"a": 1}, "too many": np.zeros(13), "a cube": np.zeros((2, 2, 2)), "too large": [10**400],
    "an empty matrix": np.zeros((3, 0)), "a tensor of NaN": torch.tensor([NAN]),
}  # fmt: skip
USES = {
    "decode": lambda space, what: space.decode(what),
    "adapter": lambda space, what: space.adapter(what),
    "read": lambda space, what: space.read(what, "Beard"),
    "read_all": lambda space, what: space.read_all(what),
    "distance": lambda space, what: space.distance(what),
    "mahalanobis": lambda space, what: space.mahalanobis(what),
    "nearest": lambda space, what: space.nearest(what),
    "edit": lambda space, what: space.edit(what, {"Beard": 1.0}),
    "interpolate": lambda space, what: space.interpolate([what, space.mean_point()], [1, 1]),
    "point": lambda space, what: space.point(what),
    "resolve": lambda space, what: resolve(space, what),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_a_point_is_refused_everywhere(space: WeightSpace, kind: str, use: str) -> None:
    with pytest.raises(InvalidInputError):
        USES[use](space, BAD[kind])


@pytest.mark.parametrize("use", [name for name in USES if name != "decode"])
def test_several_points_are_decoded_only(space: WeightSpace, use: str) -> None:
    assert space.decode(np.zeros((2, 5))).shape == (2, space.layout.size)
    with pytest.raises(InvalidInputError):
        USES[use](space, np.zeros((2, 5)))


@pytest.mark.parametrize("use", [name for name in USES if name not in ("point", "nearest")])
def test_a_rows_id_is_its_point(space: WeightSpace, use: str) -> None:
    by_name, by_point = (USES[use](space, what) for what in ("p00003", space.row("p00003")))
    if use == "adapter":
        by_name, by_point = map(space.layout.flatten, (by_name, by_point))
    assert np.array_equal(by_name, by_point) if isinstance(by_name, np.ndarray) else by_name == by_point
    with pytest.raises(UnknownNameError, match="nobody"):
        USES[use](space, "nobody")


def test_lists_tensors_and_other_dtypes_are_coefficients_too(space: WeightSpace) -> None:
    c = space.row("p00003").coefficients
    tensor = torch.tensor(c, requires_grad=True)
    for what in (c.tolist(), tuple(c.tolist()), tensor, c.astype(np.float64), c.astype(">f4")):
        np.testing.assert_array_equal(space.decode(what), space.decode(c))
        assert space.point(what) == space.row("p00003")
    assert space.point([1, 2]) == space.point(torch.tensor([1, 2], dtype=torch.bfloat16))


@pytest.mark.parametrize("name", [None, 7, ["Beard"], True, b"Beard"], ids=repr)
def test_a_directions_name_is_a_word(space: WeightSpace, name: Any) -> None:
    for call in (lambda: space.direction(name), lambda: space.read("p00000", name)):
        with pytest.raises(InvalidInputError):
            call()


@pytest.mark.parametrize("what", [NAN, INF], ids=repr)
def test_weights_that_are_not_finite_have_no_coefficients(space: WeightSpace, what: float) -> None:
    mean = space.coordinates.mean
    vector = mean.copy()
    vector[3] = what
    together = lambda v: space.project(np.stack([mean, v]))  # noqa: E731
    for call in (space.project, space.coordinates.explained, space.read_all, together):
        with pytest.raises(W2WError):
            call(vector)
    for shape in (np.zeros(3), "a", None, np.zeros((1, 1, space.layout.size))):
        with pytest.raises(W2WError):
            space.project(shape)


# ---------------------------------------------------------------- history
def test_a_history_is_kept_as_plain_json(space: WeightSpace, tmp_path: Path) -> None:
    history = {
        "loss": np.float32(0.5), "steps": np.int64(3), "done": np.True_, "losses": np.array([1.0, 2.0]), "pair": (1, 2),
        "of": Path("a/b"), "worst": NAN, "names": {"b", "a"}, "nested": {"deep": [np.int8(1), INF]},
    }  # fmt: skip
    point = space.point([1.0, 2.0], **history)
    plain = {
        "loss": 0.5, "steps": 3, "done": True, "losses": [1.0, 2.0], "pair": [1, 2], "of": "a/b", "worst": None,
        "names": ["a", "b"], "nested": {"deep": [1, None]},
    }  # fmt: skip
    assert point.history == plain
    assert json.loads(json.dumps(point.history, allow_nan=False)) == plain
    for suffix in ("json", "safetensors"):
        save_point(point, tmp_path / f"p.{suffix}")
        again = load_point(tmp_path / f"p.{suffix}")
        assert again == point
        assert again.history == plain


@pytest.mark.parametrize(
    "bad",
    [{"a": object()}, {"a": b"x"}, {7: 1}, {"a": {None: 1}}, {"a": 1j}, "row", None],
    ids=lambda value: repr(value)[:8],
)
def test_a_history_that_json_cannot_hold_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInputError):
        Point(np.zeros(3), "0" * 64, bad)


# ---------------------------------------------------------------- evidence from a file
WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    "x",
    "1",
    [],
    [1],
    [1, 2, 3],
    {},
    NAN,
    INF,
    10**400,
    ["a"],
    [NAN, 1],
    [None, 1],
]
RIGHT = {  # which of these a field may be
    "sd": {"1.5"}, "intercept": {"-1", "1.5"}, "auc": {"None"}, "r2": {"None", "-1"}, "p_value": {"None"},
    "positives": set(), "rows": set(), "held_out_rows": set(), "kind": set(), "attribute": {"None", "'x'", "'1'"},
    "level": {"None", "'x'", "'1'"}, "interval": {"None"}, "null": {"None"}, "interval_method": {"None", "'x'", "'1'"},
    "reading_method": {"'x'", "'1'"}, "editing_method": {"'x'", "'1'"}, "held": {"[]", "['a']"}, "components": {"None"},
}  # fmt: skip


@pytest.mark.parametrize("field", RIGHT)
def test_a_field_of_evidence_that_is_wrong_is_named_with_its_direction(space: WeightSpace, field: str) -> None:
    direction = space.direction("Beard")
    entry = json.loads(json.dumps(direction.evidence()))
    assert Direction.from_evidence(direction.editing, direction.reading, entry) == direction
    for wrong in WRONG:
        arguments = (direction.editing, direction.reading, {**entry, field: wrong}, "Beard")
        if repr(wrong) in RIGHT[field]:
            found = Direction.from_evidence(*arguments)
            assert isinstance(found.unreliable, str)
            continue
        with pytest.raises(CorruptFileError, match=rf"'Beard'.*{field}"):
            Direction.from_evidence(*arguments)


def test_evidence_without_a_field_or_with_other_arrays_is_refused(space: WeightSpace) -> None:
    direction = space.direction("Beard")
    entry, c = direction.evidence(), direction.editing
    curves = {"curve", "removal_curve"}  # a space of few rows has none
    assert {*RIGHT, "unreliable"} - curves == set(entry) - curves
    assert Direction.from_evidence(c, c, {**entry, "of a later version": 1}).kind == "binary"
    for field in ("sd", "intercept", "auc", "positives", "rows", "held_out_rows"):
        with pytest.raises(CorruptFileError, match=f"'Beard'.*{field}"):
            Direction.from_evidence(c, c, {k: v for k, v in entry.items() if k != field}, "Beard")
    for editing, reading in ((c[:3], c), (c, c[None]), (c * NAN, c), (c, c.astype(int)), (np.array(1.0), c)):
        with pytest.raises(CorruptFileError, match="'Beard'"):
            Direction.from_evidence(editing, reading, entry, "Beard")
    for bad in (None, [], "x"):
        with pytest.raises(CorruptFileError):
            Direction.from_evidence(c, c, bad)
