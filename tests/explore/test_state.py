"""Links of the explorer: every state comes back from its link, and a stranger's link is checked."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub.errors import InvalidInputError
from w2w_hub.explore.state import LONGEST_LINK, Mixed, Row, Sampled, Saved, State

NAMES = st.text(min_size=1, max_size=20).filter(lambda text: text < "\ud800" or text.isprintable())
SEEDS = st.integers(0, 2**63 - 1)
AMOUNTS = st.floats(-100, 100, allow_nan=False)
VALUES = st.one_of(st.booleans(), NAMES, st.floats(-1e6, 1e6, allow_nan=False))
SAMPLED = st.builds(Sampled, SEEDS, st.floats(0, 10), st.dictionaries(NAMES, VALUES, max_size=3))
SAVED = st.builds(
    lambda values: Saved(tuple(np.asarray(values, np.float32).tolist())),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8),
)
PEOPLE = st.one_of(SAMPLED, st.builds(Row, NAMES), SAVED)
MIXED = st.builds(
    lambda parts: Mixed(tuple(parts)), st.lists(st.tuples(PEOPLE, st.floats(0, 100)), min_size=1, max_size=4)
)
STATES = st.builds(
    State, person=st.one_of(PEOPLE, MIXED), wanted=st.dictionaries(NAMES, VALUES, max_size=3),
    pushes=st.dictionaries(NAMES, AMOUNTS, max_size=3), preserve=st.lists(NAMES, max_size=3).map(tuple),
    factor=st.none() | st.floats(0, 10), start=st.floats(0, 0.99), prompt=NAMES, seed=SEEDS,
    steps=st.none() | st.integers(1, 100), guidance=st.none() | st.floats(0, 100),
    compared=st.lists(PEOPLE, max_size=4).map(tuple),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(STATES)
def test_every_state_comes_back_from_its_link(state: State) -> None:
    assert State.from_link(state.to_link("f" * 64), "f" * 64) == state


def test_a_link_says_only_what_differs_from_a_new_page() -> None:
    assert State(Row("person-0001")).to_link() == "?person=%7B%22row%22%3A%22person-0001%22%7D"


def test_a_link_of_another_weight_space_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        State.from_link(State().to_link("a" * 64), "b" * 64)


def test_people_with_too_many_coefficients_for_a_link_are_refused() -> None:
    with pytest.raises(InvalidInputError):
        State(compared=(Saved((0.5,) * 5000),) * 3).to_link()


def test_unknown_fields_of_a_link_are_ignored() -> None:
    assert State.from_link("?theme=dark&seed=4") == State(seed=4)


HOSTILE: list[tuple[str, Any]] = [
    ("person", 3), ("person", []), ("person", {"row": ""}), ("person", {"row": "x" * 501}), ("person", {"row": 3}),
    ("person", {"sample": -1}), ("person", {"sample": 1.5}), ("person", {"sample": True}),
    ("person", {"sample": 2**63}),
    ("person", {"sample": 0, "truncation": 1e300}), ("person", {"sample": 0, "attributes": [1]}),
    ("person", {"sample": 0, "attributes": {"Beard": {"deep": 1}}}),
    ("person", {"sample": 0, "attributes": {str(i): True for i in range(201)}}),
    ("person", {"point": "%%%"}), ("person", {"point": ""}), ("person", {"point": "AAA"}), ("person", {"point": 7}),
    ("person", {"point": "AADAfw"}),  # NaN
    ("person", {"mix": []}), ("person", {"mix": [[{"row": "a"}, -1]]}), ("person", {"mix": [[{"row": "a"}, 1]] * 5}),
    ("person", {"mix": [[{"mix": [[{"row": "a"}, 1]]}, 1]]}), ("person", {"mix": [["a", 1]]}),
    ("set", []), ("set", {"Beard": None}), ("set", {"": True}), ("push", {"Beard": "2"}), ("push", {"Beard": 101}),
    ("push", {"Beard": True}), ("keep", "Beard"), ("keep", [1]), ("keep", ["x"] * 201), ("factor", 11), ("factor", "2"),
    ("start", 1), ("start", -0.1), ("seed", -1), ("seed", "1"), ("steps", 0), ("steps", 101), ("steps", 1e9),
    ("guidance", 101), ("compare", [{"row": "a"}] * 5), ("compare", {"row": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), HOSTILE)
def test_a_link_with_a_wrong_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError):
        State.from_link(f"?{field}={quote(json.dumps(value))}")


@pytest.mark.parametrize("words", ["{", "[" * 5000, "NaN", "1}", "1e999", "\x00", '{"row":"a","row":"b"}'])
def test_a_link_with_a_damaged_value_is_refused(words: str) -> None:
    with pytest.raises(InvalidInputError):
        State.from_link(f"?person={quote(words)}")


def test_the_fields_of_a_link_are_together_as_long_as_a_link_may_be() -> None:
    fields = {"prompt": "x" * 400, "theme": "y" * (LONGEST_LINK - 400)}
    assert State.from_link(fields) == State(prompt="x" * 400)
    with pytest.raises(InvalidInputError):
        State.from_link(fields | {"other": "z"})


def test_texts_names_and_coefficients_have_a_largest_number() -> None:
    for count, fits in ((500, True), (501, False)):
        for field, value in (("prompt", "x" * count), ("person", json.dumps({"row": "x" * count}))):
            if fits:
                State.from_link({field: value})
            else:
                with pytest.raises(InvalidInputError) as caught:
                    State.from_link({field: value})
                assert field in str(caught.value)
    most = Saved((0.5,) * 5000)
    assert State.from_link(State(most).to_link()) == State(most)
    with pytest.raises(InvalidInputError):
        State.from_link(State(Saved((0.5,) * 5001)).to_link())


@pytest.mark.parametrize(
    "link", ["?prompt=" + "x" * LONGEST_LINK, "?" + "&".join(f"a{i}=1" for i in range(200)), "?prompt="]
)
def test_a_link_that_is_too_long_or_has_an_empty_prompt_is_refused(link: str) -> None:
    with pytest.raises(InvalidInputError):
        State.from_link(link)
