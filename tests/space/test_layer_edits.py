"""Edits of some layers alone: which modules they change, what the point keeps, and what is said of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import ParameterLayout, Target, WeightSpace, build_space
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.space.identity import Identity, edited, resolve
from w2w_hub.space.keeping import save_identity
from w2w_hub.space.layers import block_of, block_sizes, select_layers, shares_by_block

from .population import dataset_of, decaying

PATHS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_v",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.10.attentions.0.transformer_blocks.0.attn2.to_v",
)
LAYOUT = ParameterLayout(
    {Target("unet", path): (1, 9 + i, 7) for i, path in enumerate(PATHS)}
    | {Target("text_encoder", f"text_model.encoder.layers.{i}.self_attn.q_proj"): (1, 5, 6) for i in (0, 3)},
    2.0,
)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> WeightSpace:
    rows = decaying(50, LAYOUT.size)
    people = dataset_of(
        tmp_path_factory.mktemp("layers") / "people", rows, held_out=8, layout=LAYOUT,
        columns={"Beard": rows[:, 0] > np.median(rows[:, 0]), "Hat": rows[:, 40] > np.median(rows[:, 40])},
    )  # fmt: skip
    return build_space(people, 6)


def moved(before: Identity, after: Identity) -> list[str]:
    """The paths of the modules whose weights changed."""
    return [
        slot.target.module
        for slot in LAYOUT.slots
        if not np.array_equal(before.vector[slot.offset : slot.end], after.vector[slot.offset : slot.end])
    ]


@pytest.mark.parametrize(
    ("layers", "selected"),
    [
        ("mid", PATHS[2:4]),
        ("down", PATHS[:2]),
        ("down.2", PATHS[1:2]),
        ("up.1", PATHS[4:5]),  # not up.10
        (["up.1", "mid"], PATHS[2:5]),
        ("attn2", (PATHS[1], PATHS[3], PATHS[5])),
        ("attn2.to_v", (PATHS[1], PATHS[3], PATHS[5])),
        ("up_blocks.10.attentions.0", PATHS[5:]),
        ("*_block*.attn1.*", (PATHS[0], PATHS[2], PATHS[4])),
        ("unet.mid_block.*", PATHS[2:4]),
        ("text_encoder", tuple(s.target.module for s in LAYOUT.slots if s.target.component == "text_encoder")),
        ("text_encoder.text_model.encoder.layers.3", ("text_model.encoder.layers.3.self_attn.q_proj",)),
    ],
)
@pytest.mark.parametrize("strengths", [{"Beard": 2.0}, {"PC1": -1.0, "Hat": 1.0}])
def test_an_edit_of_layers_changes_these_as_the_whole_edit_does_and_no_other_bit(
    space: WeightSpace, layers: str | list[str], selected: tuple[str, ...], strengths: dict[str, float]
) -> None:
    before = resolve(space, "p00003")
    after, whole = edited(space, before, strengths, layers=layers), edited(space, before, strengths)
    assert sorted(moved(before, after)) == sorted(selected)
    for slot in LAYOUT.slots:
        if slot.target.module in selected:
            part = slice(slot.offset, slot.end)
            np.testing.assert_allclose(after.vector[part], whole.vector[part], atol=1e-6)


@given(parts=st.lists(st.sampled_from(["down", "mid", "up", "text_encoder"]), min_size=1, unique=True))
def test_the_parts_of_a_layer_wise_edit_add_up_to_the_whole(space: WeightSpace, parts: list[str]) -> None:
    rest = [name for name in ("down", "mid", "up", "text_encoder") if name not in parts]
    start = resolve(space, "p00004")
    once = edited(space, start, {"Beard": 1.5})
    both = edited(space, start, {"Beard": 1.5}, layers=parts)
    both = edited(space, both, {"Beard": 1.5}, layers=rest) if rest else both
    np.testing.assert_allclose(both.vector, once.vector, atol=1e-5)
    np.testing.assert_allclose(both.point.coefficients, once.point.coefficients, atol=1e-4)


def test_the_point_of_a_layer_wise_edit_is_its_projection_and_says_how_much_it_keeps(space: WeightSpace) -> None:
    for before in (resolve(space, "p00003"), resolve(space, space.adapter("p00005"))):
        after = edited(space, before, {"Beard": 3.0}, layers="mid")
        assert after.layer_wise
        np.testing.assert_allclose(after.point.coefficients, space.project(after.vector), atol=1e-3)
        kept = space.coordinates.explained(after.vector).explained_ratio
        assert after.explained_ratio == pytest.approx(kept, abs=1e-4)
        assert kept < 0.9995
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            point = space.edit(before.point, {"Beard": 3.0}, layers="mid")
        assert [warning.category for warning in caught] == [UserWarning]
        assert caught[0].filename == __file__
        np.testing.assert_allclose(point.coefficients, after.point.coefficients, atol=1e-5)
        for shown in (after.note, repr(point)):
            assert "mid" in shown
            assert "Beard +3" in shown


def test_all_layers_are_an_ordinary_edit(space: WeightSpace) -> None:
    before = resolve(space, "p00003")
    one = edited(space, before, {"Beard": 2.0}, layers=["unet", "text_encoder"])
    other = edited(space, before, {"Beard": 2.0})
    assert one == other
    assert one.point.history == other.point.history
    assert not one.layer_wise


def test_a_layer_wise_edit_preserves_scores_of_its_point(space: WeightSpace) -> None:
    before = resolve(space, "p00003")
    found = edited(space, before, {"Beard": 2.0}, layers=["down", "up"], preserve="Hat")
    free = edited(space, before, {"Beard": 2.0}, layers=["down", "up"])
    reading = space.direction("Hat").reading.astype(np.float64)
    scores = [(i.point.coefficients - before.point.coefficients) @ reading for i in (found, free)]
    assert abs(scores[0]) < 1e-5 < abs(scores[1])
    assert set(moved(before, found)) == {path for path in PATHS if not path.startswith("mid")}


def test_layer_wise_edits_are_recorded_beside_others_and_survive_a_file(space: WeightSpace, tmp_path: Path) -> None:
    identity = edited(space, resolve(space, "p00003"), {"Hat": 1.0})
    identity = edited(space, identity, {"Beard": 2.0}, layers=["mid", "up.1"])
    identity = edited(space, identity, {"Hat": 0.5})
    assert identity.layer_wise  # it stays out of the space
    assert identity.point.history["edits"] == {"Hat": 1.5}
    assert identity.point.history["steps"] == [{"edits": {"Beard": 2.0}, "layers": ["mid", "up.1"]}]
    with pytest.warns(UserWarning, match=r"p\.json"):
        path = save_identity(space, identity, tmp_path / "p.json")
    again = resolve(space, path)
    np.testing.assert_allclose(again.point.coefficients, identity.point.coefficients, atol=1e-6)
    assert again.point.history["steps"] == identity.point.history["steps"]


def test_a_delayed_layer_wise_edit_is_injected_late(space: WeightSpace) -> None:
    before = resolve(space, "p00003")
    after = edited(space, before, {"Beard": 2.0}, layers="mid", start=0.5)
    np.testing.assert_array_equal(after.at(0.4), before.vector)
    assert moved(before, after) == list(PATHS[2:4])


@pytest.mark.parametrize(
    ("layers", "error", "hint"),
    [
        ("dwn", UnknownNameError, "down"), ("up.7", UnknownNameError, "up.1"), ("attn3", UnknownNameError, "attn"),
        ("*nothing*", UnknownNameError, "mid"), ("", InvalidInputError, "layers"),
        ([""], UnknownNameError, "mid"), (["mid", "x"], UnknownNameError, "'x'"),
        ("*" * 5000, UnknownNameError, "mid"), ([], InvalidInputError, "layers"), (3, InvalidInputError, "layers"),
        (["mid", 3], InvalidInputError, "layers"), ({"mid": 1}, InvalidInputError, "layers"),
    ],
)  # fmt: skip
def test_layers_that_do_not_exist_are_one_line_that_says_which_do(
    space: WeightSpace, layers: object, error: type[Exception], hint: str
) -> None:
    for call in (
        lambda: edited(space, resolve(space, "p00003"), {"Beard": 1.0}, layers=layers),  # type: ignore[arg-type]
        lambda: space.edit("p00003", {"Beard": 1.0}, layers=layers),  # type: ignore[arg-type]
    ):
        with pytest.raises(error) as caught:
            call()
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- where an attribute lives
def test_shares_by_block_sum_to_one_and_are_those_of_the_decoded_step(space: WeightSpace) -> None:
    coordinates = space.coordinates
    step = np.random.default_rng(0).normal(size=space.k)
    found = shares_by_block(coordinates, {"step": step, "nothing": np.zeros(space.k)})
    change = (coordinates.decode(step) - coordinates.decode(np.zeros(space.k))) / coordinates.std
    mid = select_layers(space.layout, ["mid"])
    assert mid is not None
    assert found["step"]["mid"] == pytest.approx((change[mid.mask] ** 2).sum() / (change**2).sum(), rel=1e-3)
    assert sum(found["step"].values()) == pytest.approx(1)
    assert set(found["nothing"].values()) == {0.0}
    assert list(found["step"]) == list(block_sizes(space.layout))
    assert sum(block_sizes(space.layout).values()) == space.layout.size


@pytest.mark.parametrize(
    ("component", "module", "block"),
    [
        ("unet", "down_blocks.12.attentions.0.to_q", "down.12"), ("unet", "mid_block.attentions.0.to_q", "mid"),
        ("unet", "conv_in", "conv_in"), ("unet", "time_embedding.linear_1", "time_embedding"),
        ("transformer", "transformer_blocks.3.attn.to_q", "transformer_blocks.3"),
        ("text_encoder", "text_model.encoder.layers.3.mlp.fc1", "text_encoder.text_model.encoder.layers.3"),
    ],
)  # fmt: skip
def test_a_block_is_named_as_in_papers(component: str, module: str, block: str) -> None:
    assert block_of(Target(component, module)) == block
