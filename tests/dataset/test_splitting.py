from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import WeightDataset, add_rows
from w2w_hub.dataset import SplitRule, relabel_rows, remove_rows
from w2w_hub.dataset.changes import commit
from w2w_hub.dataset.splits import SplitRuleWarning
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
    with pytest.raises(InvalidInputError, match=r"'person'.*'r1'"):
        SplitRule("person").apply(table(["a", None]))


def test_a_column_that_is_not_there_and_impossible_shares_are_refused():
    with pytest.raises(UnknownNameError, match=r"'family'.*id, split, person"):
        SplitRule("family").apply(table(["a"]))
    for holdout in (0, 1, -0.1, float("nan")):
        with pytest.raises(InvalidInputError, match="holdout"):
            SplitRule("person", holdout)
    with pytest.raises(InvalidInputError, match="train"):
        SplitRule("person", 0.1, split="train")


@pytest.mark.parametrize("name", ["a-b", "all", "", "über"])
def test_a_name_that_no_split_can_have_is_refused_before_anything_is_split(name):
    with pytest.raises(InvalidInputError):
        SplitRule("person", split=name)


@pytest.mark.parametrize(
    "options",
    [
        {"column": 3}, {"column": "split"}, {"column": "row"}, {"holdout": "a"}, {"holdout": True}, {"holdout": None},
        {"seed": 1.5}, {"seed": "x"}, {"split": 3}, {"split": "Train"}, {"split": "con"},
    ],
    ids=str,
)  # fmt: skip
def test_a_rule_of_other_things_is_refused(options):
    with pytest.raises(InvalidInputError):
        SplitRule(**({"column": "person"} | options))


# --------------------------------------------------------- a dataset with a rule
@pytest.fixture
def ruled(make_dataset):
    """Six rows of persons a, b and c, of whom one is held out."""
    labels = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "who": list("aabbcc")})
    return make_dataset(labels=labels, split_rule=SplitRule("who", 0.3))


def sides(ds) -> dict:
    return ds.labels.groupby("who")["split"].unique().map(list).to_dict()


def more(make_dataset, who, splits=None, folder="more"):
    table = pd.DataFrame({"id": [f"q{i}" for i in range(6)], "who": who})
    return make_dataset(folder, prefix="q", labels=table if splits is None else table.assign(split=splits)).path


def test_added_rows_keep_the_splits_they_state_and_others_follow_their_group(ruled, make_dataset):
    (held,) = [who for who, split in sides(ruled).items() if split == ["test"]]
    free = next(who for who in "abc" if who != held)
    splits = ["val", "val", "train", "test", "train", "test"]
    grown = add_rows(ruled.path, more(make_dataset, ["d", "d", free, held, "e", "f"], splits))
    assert grown.labels["split"].tolist()[6:] == splits
    assert grown.manifest.split_rule == ruled.manifest.split_rule


def test_a_row_that_states_another_split_than_its_group_has_is_refused_by_name(ruled, make_dataset):
    (held,) = [who for who, split in sides(ruled).items() if split == ["test"]]
    for who, splits in ((held, ["val"] * 6), ("new", ["val"] * 3 + ["test"] * 3)):
        with pytest.raises(InvalidInputError, match=rf"'q\d'.*'{who}'"):
            add_rows(ruled.path, more(make_dataset, [who] * 6, splits, f"more-{who}"))
    assert WeightDataset.open(ruled.path).manifest == ruled.manifest


def test_labels_that_put_a_group_on_two_sides_end_the_rule_with_a_word(ruled):
    with pytest.warns(SplitRuleWarning, match="'z'"):
        after = relabel_rows(ruled.path, pd.DataFrame({"id": [f"p{i}" for i in range(6)], "who": ["z"] * 6}))
    assert after.manifest.split_rule is None
    assert after.labels["split"].tolist() == ruled.labels["split"].tolist()
    assert "on one side" not in (after.path / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "change",
    [{"labels": pd.DataFrame({"id": ["p0"], "who": [None]})}, {"drop_columns": "who"},
     {"labels": pd.DataFrame({"id": ["p0"], "split": ["dev"]})}],
    ids=["cleared", "dropped", "moved"],
)  # fmt: skip
def test_a_rule_that_cannot_hold_any_more_ends_with_a_word(ruled, change):
    with pytest.warns(SplitRuleWarning, match="'who'"):
        assert relabel_rows(ruled.path, **change).manifest.split_rule is None


def test_labels_that_repeat_the_split_keep_the_rule(ruled):
    table = ruled.labels.reset_index()[["id", "split", "who"]]
    assert relabel_rows(ruled.path, table).manifest.split_rule == ruled.manifest.split_rule
    assert remove_rows(ruled.path, ["p0", "p3"]).manifest.split_rule == ruled.manifest.split_rule


def test_a_rule_that_an_older_version_left_broken_is_dropped_by_the_next_change(make_dataset, monkeypatch):
    labels = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "who": list("aabbcc"), "split": ["train", "test"] * 3})
    with monkeypatch.context() as patch:
        patch.setattr(commit, "kept_rule", lambda *_: {"column": "who", "holdout": 0.3, "seed": 0, "split": "test"})
        ds = make_dataset(labels=labels)
    assert ds.manifest.split_rule is not None
    with pytest.warns(SplitRuleWarning, match="'a'"):
        grown = add_rows(ds.path, more(make_dataset, list("abcdef")))
    assert grown.manifest.split_rule is None
    assert grown.labels["split"].tolist() == ["train", "test"] * 3 + ["train"] * 6


def test_a_rule_with_a_field_of_a_later_version_is_followed_and_keeps_it(make_dataset, monkeypatch):
    stated = {"column": "who", "holdout": 0.3, "seed": 0, "split": "test", "stratify": "Age"}
    labels = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "who": list("aabbcc"), "split": list("xxyyxx")})
    with monkeypatch.context() as patch:
        patch.setattr(commit, "kept_rule", lambda *_: stated)
        ds = make_dataset(labels=labels)
    grown = add_rows(ds.path, more(make_dataset, list("aabbcc")))
    assert grown.manifest.split_rule == stated
    assert grown.labels["split"].tolist()[6:] == list("xxyyxx")


@pytest.mark.parametrize(
    ("splits", "kept"),
    [(["val", None, "train", "train", None, None], True), (["train"] * 6, False), ([None] * 6, False)],
    ids=str,
)
def test_a_new_dataset_keeps_the_splits_that_are_stated_unless_all_are_for_training(make_dataset, splits, kept):
    labels = pd.DataFrame({"id": [f"p{i}" for i in range(6)], "who": list("aabbcc"), "split": splits})
    ds = make_dataset(labels=labels, split_rule=SplitRule("who", 0.3))
    assert all(len(split) == 1 for split in sides(ds).values())
    assert (sides(ds)["a"] == ["val"]) == kept
    assert "test" in ds.manifest.splits
    with pytest.raises(InvalidInputError, match=r"'p1'.*'a'"):
        make_dataset("bad", labels=labels.assign(split=["val", "test", *"xxxx"]), split_rule=SplitRule("who", 0.3))


def test_what_is_no_rule_is_refused(make_dataset, ruled):
    for rule in ("who", {"column": "who"}, True):
        with pytest.raises(InvalidInputError, match="SplitRule"):
            make_dataset("other", split_rule=rule)
        with pytest.raises(InvalidInputError, match="SplitRule"):
            relabel_rows(ruled.path, split_rule=rule)
