from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub.dataset import SplitRule
from w2w_hub.errors import InvalidInputError, UnknownNameError


def table(groups) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"r{i}" for i in range(len(groups))], "split": "train", "person": groups})


@given(
    groups=st.lists(st.integers(0, 30), min_size=1, max_size=200),
    holdout=st.floats(0.05, 0.9),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=60)
def test_all_rows_of_a_group_are_on_one_side_whatever_the_order_of_rows(groups, holdout, seed):
    rule = SplitRule("person", holdout, seed)
    given = table([str(g) for g in groups])
    found = rule.apply(given)
    assert (found.groupby("person")["split"].nunique() == 1).all()
    again = rule.apply(given.sample(frac=1, random_state=seed))
    assert dict(zip(again["id"], again["split"], strict=True)) == dict(zip(found["id"], found["split"], strict=True))
    largest = found["person"].value_counts().max()
    assert abs((found["split"] == "test").sum() - holdout * len(groups)) <= largest


def test_the_share_is_near_what_was_asked_and_the_seed_changes_who_is_held_out():
    given = table([str(i // 5) for i in range(1000)])
    found = SplitRule("person", 0.1).apply(given)
    assert (found["split"] == "test").sum() == 100
    assert (SplitRule("person", 0.1, seed=1).apply(given)["split"] != found["split"]).any()


@given(old=st.lists(st.integers(0, 9), min_size=1, max_size=40), new=st.lists(st.integers(0, 15), max_size=40))
@settings(deadline=None, max_examples=40)
def test_what_is_placed_stays_and_new_rows_follow_their_group(old, new):
    rule = SplitRule("person", 0.3)
    before = rule.apply(table([str(g) for g in old]))
    after = table([str(g) for g in old + new])
    after.loc[: len(old) - 1, "split"] = before["split"].to_list()
    grown = rule.apply(after, placed=[True] * len(old) + [False] * len(new))
    assert grown["split"].tolist()[: len(old)] == before["split"].tolist()
    assert (grown.groupby("person")["split"].nunique() == 1).all()


def test_a_row_without_a_group_is_refused_with_its_id():
    with pytest.raises(InvalidInputError, match="1 rows have no 'person', the first is 'r1'"):
        SplitRule("person").apply(table(["a", None]))


def test_a_column_that_is_not_there_and_impossible_shares_are_refused():
    with pytest.raises(UnknownNameError, match="no column 'family' to split by; there are id, split, person"):
        SplitRule("family").apply(table(["a"]))
    for holdout in (0, 1, -0.1, float("nan")):
        with pytest.raises(InvalidInputError, match="holdout must be between 0 and 1"):
            SplitRule("person", holdout)
    with pytest.raises(InvalidInputError, match="name another split"):
        SplitRule("person", 0.1, split="train")


@pytest.mark.parametrize("name", ["a-b", "all", "", "über"])
def test_a_name_that_no_split_can_have_is_refused_before_anything_is_split(name):
    with pytest.raises(InvalidInputError, match="use letters, digits"):
        SplitRule("person", split=name)
