"""What a set of attributes makes of a person's levels: as little as it can, and nothing that excludes itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.space.population_model.kernel import Belief
from w2w_hub.space.population_model.setting import Setter
from w2w_hub.space.population_model.storage import from_json

from .test_model_files import K, model

RED, GREY, DARK = range(3)
NO, YES = range(2)


def setter() -> Setter:
    """Hair, a hat that nobody with dark hair wears, and an age; hair that is not grey is an attribute of its own."""
    data, tensors = model()
    data["attributes"]["Not_grey"] = {"kind": "binary", "factors": [0], "truth": [True, False, True]}
    found = from_json(data, tensors, K)
    return Setter(found.factors, found.attributes, found.excluded, found.codes, found.counts)


SETTER = setter()
CODES = st.tuples(st.sampled_from([0, 1, 2, np.nan]), st.sampled_from([0, 1, np.nan]), st.sampled_from([30.0, np.nan]))
WANTED = st.fixed_dictionaries({}, optional={
    "Hair": st.sampled_from(["red", "grey", "dark"]), "Hat": st.booleans(), "Red_hat": st.booleans(),
    "Not_grey": st.booleans(), "Age": st.sampled_from([20.0, 45.0]),
})  # fmt: skip


def levels(belief: Belief) -> dict[int, dict[float, float]]:
    """The weight of each level of each factor that it can have."""
    found: dict[int, dict[float, float]] = {}
    for part in belief:
        for j, i in enumerate(part.factors):
            assert i not in found
            found[i] = {}
            for value, weight in zip(part.values[:, j], part.weights, strict=True):
                if weight > 0:
                    found[i][float(value)] = found[i].get(float(value), 0.0) + float(weight)
    return found


def people() -> list[tuple[int, int]]:
    """Levels of hair and hat that a person can have."""
    return [(hair, hat) for hair, hat in product(range(3), range(2)) if (hair, hat) != (DARK, YES)]


def has(wanted: dict[str, Any], hair: int, hat: int) -> bool:
    truths = {"Hair": ["red", "grey", "dark"][hair], "Hat": hat == YES, "Not_grey": hair != GREY,
              "Red_hat": (hair, hat) == (RED, YES)}  # fmt: skip
    return all(value == truths[name] for name, value in wanted.items() if name != "Age")


@settings(max_examples=60, deadline=None)
@given(WANTED, st.none() | CODES)
def test_a_plan_has_what_is_wanted_covers_each_factor_once_and_contradicts_only_what_nobody_has(
    wanted: dict[str, Any], own: tuple[float, ...] | None
) -> None:
    codes = None if own is None else np.array(own)
    can = any(has(wanted, *person) for person in people())
    try:
        belief = SETTER.plan(wanted, codes)
    except InvalidInputError:
        assert not can
        return
    found = levels(belief)
    assert sorted(found) == [0, 1, 2]
    assert all(sum(weights.values()) == pytest.approx(1) for weights in found.values())
    if "Age" in wanted:
        assert found[2] == {wanted["Age"]: 1.0}
    if can:
        values = SETTER.values(belief)
        assert {name: values[name] for name in wanted} == wanted
    if codes is not None and not wanted:  # nothing changes
        for i, code in enumerate(codes):
            assert np.isnan(code) or found[i] == {float(code): 1.0}


def plan(wanted: dict[str, Any], hair: float, hat: float) -> dict[int, dict[float, float]]:
    return levels(SETTER.plan(wanted, np.array([hair, hat, 30.0])))


def test_of_what_gives_an_attribute_the_level_is_taken_that_changes_the_fewest_others() -> None:
    assert plan({"Not_grey": True}, GREY, YES)[0] == {RED: 1.0}  # dark hair would take the hat
    assert plan({"Not_grey": True}, GREY, YES)[1] == {YES: 1.0}
    assert plan({"Not_grey": True}, GREY, NO)[0].keys() == {RED, DARK}
    assert plan({"Not_grey": True}, DARK, NO)[0] == {DARK: 1.0}
    assert plan({"Hair": "dark"}, GREY, YES)[1] == {NO: 1.0}
    assert plan({"Hat": True}, DARK, NO)[0] == {RED: 1.0}  # as the only row with a hat whose hair is known
    assert plan({"Hat": True}, np.nan, NO)[0] == {RED: 1.0}
    assert plan({"Not_grey": True}, GREY, np.nan)[1].keys() == {NO, YES}  # only some of those hair colors exclude it
    assert plan({"Hat": False}, np.nan, YES)[0] == {RED: 0.5, GREY: 0.25, DARK: 0.25}
    without = plan({"Red_hat": False}, RED, YES)
    assert (without[0], without[1]) == ({RED: 0.5, GREY: 0.25, DARK: 0.25}, {NO: 0.5, YES: 0.5})


def test_a_row_with_a_wrong_label_makes_nothing_possible_that_is_excluded() -> None:
    wrong = replace(SETTER, codes=np.array([[DARK, NO, 30], [DARK, YES, 30]]), counts=np.array([1, 9]))
    assert levels(wrong.plan({"Hair": "dark"}))[1] == {NO: 1.0}
    assert levels(wrong.plan({"Hair": "red"}))[1] == {NO: 0.5, YES: 0.5}
    nobody = replace(SETTER, codes=np.array([[RED, YES, 30.0]]), counts=np.array([1]))
    assert levels(nobody.plan({"Hair": "dark"}))[1] == {NO: 1.0}
    neither = replace(SETTER, excluded=(replace(SETTER.excluded[0], table=np.arange(6).reshape(3, 2) > 3),))
    assert levels(neither.plan({"Hair": "dark"}))[1] == {NO: 1.0}  # as the row with dark hair


def test_the_two_that_contradict_each_other_are_named() -> None:
    for wanted, named in (
        ({"Red_hat": True, "Hair": "dark", "Age": 30.0}, {"Red_hat", "Hair"}),
        ({"Hat": True, "Age": 30.0, "Hair": "dark"}, {"Hat", "Hair"}),
        ({"Not_grey": True, "Hair": "grey", "Red_hat": False}, {"Not_grey", "Hair"}),
        ({"Not_grey": True, "Red_hat": True, "Hair": "dark"}, {"Red_hat", "Hair"}),
    ):
        with pytest.raises(InvalidInputError) as caught:
            SETTER.plan(wanted)
        assert caught.value.name in named
        assert {name for name in wanted if f"{name}=" in str(caught.value)} == named
    with pytest.raises(UnknownNameError):
        SETTER.plan({"Hut": True})
    for wrong in ({"Hat": "yes"}, [("Hat", True)]):
        with pytest.raises(InvalidInputError):
            SETTER.plan(wrong)  # type: ignore[arg-type]
