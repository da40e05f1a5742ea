"""Sets of attributes and samples that have them, in a population whose attributes are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import Point, WeightSpace, build_space
from w2w_hub.errors import InvalidInputError, MissingPopulationError, UnknownNameError
from w2w_hub.space.identity import edited, resolve
from w2w_hub.space.keeping import save_identity

from .population import dataset_of

HAIR = ("BLACK", "RED", "GRAY")
PERSON = "p00007"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> WeightSpace:
    """People whose weights follow a beard, a hair color, an age, and a hat that covers the hair of some."""
    rng = np.random.default_rng(0)
    n, d = 240, 90
    table = pd.DataFrame({
        "Beard": rng.random(n) < 0.4, "hair": rng.choice(HAIR, n), "Age": rng.uniform(20, 70, n).round(1),
    })  # fmt: skip
    table["Red_Hair"] = table["hair"] == "RED"
    effects = rng.normal(size=(5, d))
    codes = np.stack([table["Beard"], *(table["hair"] == h for h in HAIR), (table["Age"] - 45) / 15], 1).astype(float)
    rows = codes @ effects + 0.3 * rng.normal(size=(n, 12)) @ rng.normal(size=(12, d)) + 0.05 * rng.normal(size=(n, d))
    people = dataset_of(
        tmp_path_factory.mktemp("sets") / "people", rows.astype(np.float32), held_out=40,
        columns={name: table[name].to_numpy() for name in table},
    )  # fmt: skip
    return build_space(people, 16)


def own(space: WeightSpace, what: Any) -> dict[str, Any]:
    assert space.population_model is not None
    return space.population_model.read(space.coefficients_of(what))


def other_hair(space: WeightSpace) -> str:
    return next(h for h in HAIR if h != own(space, PERSON)["hair"])


def test_a_set_reads_back_and_keeps_the_rest(space: WeightSpace) -> None:
    before = own(space, PERSON)
    wanted = {"Beard": not before["Beard"], "hair": other_hair(space)}
    for point in (space.edit(PERSON, set=wanted), edited(space, resolve(space, PERSON), set=wanted).point):
        after = own(space, point)
        assert {name: after[name] for name in wanted} == wanted
        assert after["Red_Hair"] == (wanted["hair"] == "RED")  # it follows
        assert after["Age"] == pytest.approx(before["Age"], abs=8)
    older = own(space, space.edit(PERSON, set={"Age": 65.0}, strength=1.0))["Age"]
    assert older == pytest.approx(65, abs=8)


def test_the_step_is_the_difference_of_the_population_s_means_and_strength_scales_it(space: WeightSpace) -> None:
    model, c = space.population_model, space.coefficients_of(PERSON)
    assert model is not None
    wanted = {"hair": other_hair(space)}
    for strength, factor in ((1.0, 1.0), (0.0, 0.0), (2.5, 2.5), ("typical", model.strength)):
        step = space.coefficients_of(space.edit(PERSON, set=wanted, strength=strength)) - c
        np.testing.assert_allclose(step, model.step(c, wanted, factor), atol=1e-5)
    already = space.edit(PERSON, set={"hair": own(space, PERSON)["hair"]})
    np.testing.assert_allclose(already.coefficients, c, atol=1e-5)


@given(strength=st.floats(0, 4), push=st.floats(-3, 3))
def test_a_set_and_a_push_in_one_call_are_both(space: WeightSpace, strength: float, push: float) -> None:
    wanted, c = {"hair": other_hair(space)}, space.coefficients_of(PERSON)
    both = space.edit(PERSON, {"Beard": push}, set=wanted, strength=strength)
    alone = [space.edit(PERSON, {"Beard": push}), space.edit(PERSON, set=wanted, strength=strength)]
    steps = [point.coefficients.astype(np.float64) - c for point in (both, *alone)]
    np.testing.assert_allclose(steps[0], steps[1] + steps[2], atol=1e-4)


def test_what_lies_outside_the_space_and_preserved_scores_stay(space: WeightSpace) -> None:
    identity = resolve(space, space.decode(PERSON) + 0.01 * np.random.default_rng(0).normal(size=90).astype(np.float32))
    wanted = {"hair": other_hair(space)}
    after = edited(space, identity, set=wanted, preserve="Beard", start=0.5)
    step = space.decode(after.point) - space.decode(identity.point)
    np.testing.assert_allclose(after.vector - identity.vector, step, atol=1e-4)
    np.testing.assert_array_equal(after.at(0.2), identity.vector)
    reading = space.direction("Beard").reading.astype(np.float64)
    assert abs((after.point.coefficients - identity.point.coefficients) @ reading) < 1e-3


def test_sets_are_recorded_in_their_order_and_saved(space: WeightSpace, tmp_path: Path) -> None:
    identity = edited(space, resolve(space, PERSON), {"Beard": 1.0}, set={"hair": "RED"}, strength=1)
    identity = edited(space, identity, set={"Age": 30, "hair": np.str_("GRAY")})
    model = space.population_model
    assert model is not None
    assert identity.point.history == {
        "row": PERSON, "edits": {"Beard": 1.0},
        "steps": [
            {"set": {"hair": "RED"}, "strength": 1.0},
            {"set": {"Age": 30.0, "hair": "GRAY"}, "strength": model.strength},
        ],
    }  # fmt: skip
    for shown in ("hair = RED (x 1)", "Age = 30", "hair = GRAY", "Beard +1"):
        assert shown in identity.note
    path = save_identity(space, identity, tmp_path / "p.json")
    assert Point.load(path).history == identity.point.history
    assert identity.note.replace(PERSON, "") in resolve(space, path).note.replace(PERSON, "")


@pytest.mark.parametrize("steps", [3, "x", [3], [{"set": 3}], [{"set": {"a": []}, "strength": "x", "layers": 3}], [{}]])
def test_a_record_of_a_stranger_is_shown_and_added_to(space: WeightSpace, steps: Any) -> None:
    point = space.point_with(space.mean_point().coefficients, {"steps": steps, "made": "sample", "nearest": 3})
    assert "\n" not in repr(point)
    assert isinstance(space.edit(point, set={"hair": "RED"}).history["steps"], list)


@pytest.mark.parametrize(
    ("given", "error", "hint"),
    [
        ({"set": {"Bear": True}}, UnknownNameError, "Beard"),
        ({"set": {"hair": "REDD"}}, UnknownNameError, "RED"),
        ({"set": {"hair": "BLACK", "Red_Hair": True}}, InvalidInputError, "Red_Hair"),
        ({"set": {"Beard": 4.5}}, InvalidInputError, "Beard"),
        ({"set": {"Age": "old"}}, InvalidInputError, "Age"),
        ({"set": {"Age": 900.0}}, InvalidInputError, "Age"),
        ({"set": {}}, InvalidInputError, "set"),
        ({"set": {"Beard": True}, "strength": 50}, InvalidInputError, "strength"),
        ({"set": {"Beard": True}, "strength": -1}, InvalidInputError, "strength"),
        ({"set": {"Beard": True}, "strength": float("nan")}, InvalidInputError, "strength"),
        ({"set": {"Beard": True}, "strength": "much"}, InvalidInputError, "typical"),
        ({"strengths": {"Beard": True}}, InvalidInputError, "set="),
        ({"strengths": {"hair": "RED"}}, InvalidInputError, "set="),
        ({"strengths": {"Beard": np.True_}}, InvalidInputError, "set="),
        ({"strengths": {"Beard": 1.0}, "set": {"Beard": True}}, InvalidInputError, "Beard"),
        ({"strengths": {"hair=RED": 1.0}, "set": {"hair": "RED"}}, InvalidInputError, "hair"),
        ({"set": {"hair": "RED"}, "preserve": ["hair=RED"]}, InvalidInputError, "hair"),
        ({"strengths": {"Beard": 1.0}, "strength": 2.0}, InvalidInputError, "set"),
        ({}, InvalidInputError, "set="),
        ({"strengths": {"PC1": 1.0}, "unit": "typical"}, InvalidInputError, "PC1"),
        ({"strengths": {"PC1": 1.0}, "unit": "class gaps"}, InvalidInputError, "typical"),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_is_one_line(
    space: WeightSpace, given: dict[str, Any], error: type[Exception], hint: str
) -> None:
    for call in (lambda: space.edit(PERSON, **given), lambda: edited(space, resolve(space, PERSON), **given)):
        with pytest.raises(error) as caught:
            call()
        assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_space_without_a_model_says_what_can_be_done(space: WeightSpace) -> None:
    bare = replace(space, population_model=None)
    for call in (lambda: bare.edit(PERSON, set={"Beard": True}), lambda: bare.sample(attributes={"Beard": True})):
        with pytest.raises(InvalidInputError, match="build it again"):
            call()
    assert bare.sample(2, seed=3) == space.sample(2, seed=3, method="neighbors")
    assert bare.edit(PERSON, {"Beard": 1.0}) == space.edit(PERSON, {"Beard": 1.0})


def test_a_push_in_typical_units_is_the_recommended_strength(space: WeightSpace) -> None:
    direction = space.direction("Beard")
    assert direction.typical is not None
    one = space.edit(PERSON, {"Beard": -0.5}, unit="typical")
    assert one == space.edit(PERSON, {"Beard": -0.5 * direction.typical})
    assert one.history["edits"] == {"Beard": -0.5 * direction.typical}


# ---------------------------------------------------------------- samples
def test_samples_have_what_they_are_asked_for_and_what_occurs_together(space: WeightSpace) -> None:
    asked = space.sample(40, seed=1, attributes={"hair": "RED", "Beard": True})
    read = [own(space, point) for point in asked]
    assert np.mean([r["hair"] == "RED" and r["Beard"] and r["Red_Hair"] for r in read]) > 0.9
    assert {tuple(p.history["wanted"].items()) for p in asked} == {(("hair", "RED"), ("Beard", True))}
    free = space.sample(300, seed=2)
    for point in free:
        assert (point.history["attributes"]["hair"] == "RED") == point.history["attributes"]["Red_Hair"]
    share = np.mean([p.history["attributes"]["Beard"] for p in free])
    assert share == pytest.approx(space.direction("Beard").positives / space.direction("Beard").rows, abs=0.12)
    assert np.mean([own(space, p)["hair"] == p.history["attributes"]["hair"] for p in free]) > 0.9


def test_every_sample_names_its_nearest_row(space: WeightSpace) -> None:
    for method in (None, "population", "neighbors", "gaussian"):
        for point in space.sample(5, seed=3, method=method):
            [(row, cosine)] = space.nearest(point)
            assert point.history["nearest"] == {"row": row, "cosine": pytest.approx(cosine, abs=1e-3)}
            assert row in repr(point)
    published = space.without_population()
    assert "nearest" not in published.sample(1, seed=3)[0].history
    assert replace(published, population_model=None).sample(2) == space.sample(2, method="gaussian")
    for needs_rows in ({"covariance": "full"}, {"method": "neighbors"}):
        with pytest.raises(MissingPopulationError):
            published.sample(**needs_rows)


def test_truncation_goes_to_the_mean_or_to_the_mean_of_people_like_that(space: WeightSpace) -> None:
    np.testing.assert_allclose(space.sample(1, truncation=0)[0].coefficients, space.spread.mean, atol=1e-6)
    red = space.sample(2, truncation=0, attributes={"hair": "RED"})
    np.testing.assert_array_equal(red[0].coefficients, red[1].coefficients)
    assert own(space, red[0])["hair"] == "RED"
    whole, half = (space.sample(3, 5, t) for t in (1.0, 0.5))
    for a, b in zip(whole, half, strict=True):
        np.testing.assert_allclose(
            b.coefficients, space.spread.mean + (a.coefficients - space.spread.mean) / 2, atol=1e-5
        )


@pytest.mark.parametrize(
    "given",
    [
        {"attributes": {"Bear": True}}, {"attributes": {"hair": "BLUE"}}, {"attributes": ["Beard"]}, {"method": "none"},
        {"attributes": {"Red_Hair": True, "hair": "GRAY"}}, {"method": "gaussian", "attributes": {"Beard": True}},
        {"method": "neighbors", "attributes": {"Beard": True}}, {"method": "neighbors", "covariance": "full"},
        {"method": "population", "covariance": "full"}, {"covariance": "full", "attributes": {"Beard": True}},
        {"seed": -1}, {"count": 0}, {"truncation": -1},
    ],
)  # fmt: skip
def test_samples_that_cannot_be_drawn_are_one_line(space: WeightSpace, given: dict[str, Any]) -> None:
    with pytest.raises((InvalidInputError, UnknownNameError)) as caught:
        space.sample(**given)
    assert "\n" not in str(caught.value)
