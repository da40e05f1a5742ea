"""Which rows a key chooses: the right ones, or one typed line."""

from __future__ import annotations

import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from w2w_hub import W2WError
from w2w_hub.dataset import remove_rows
from w2w_hub.errors import CorruptFileError, InvalidInputError, RowIndexError, UnknownNameError


@pytest.fixture
def ds(make_dataset):
    return make_dataset()  # p0 to p5; Beard is true, false, true, missing, false, true


CHOSEN = {
    "object mask with missing": lambda ds: np.array([True, None, True, pd.NA, False, True], object),
    "list with missing": lambda ds: [True, None, True, None, False, True],
    "pyarrow": lambda ds: pa.array([True, False, True, None, False, True]),
    "pyarrow chunks": lambda ds: pa.chunked_array([[True, False, True], [None, False, True]]),
    "nullable": lambda ds: ds.labels["Beard"],
    "compared": lambda ds: ds.labels["Beard"] == True,  # noqa: E712
    "in another order": lambda ds: ds.labels["Beard"].iloc[[3, 1, 5, 0, 4, 2]],
    "sorted by another column": lambda ds: ds.labels.sort_values("Age", ascending=False)["Beard"],
    "numbered rows": lambda ds: ds.labels.reset_index()["Beard"],
    "numbered rows in another order": lambda ds: ds.labels.reset_index().sort_values("Age", ascending=False)["Beard"],
    "objects in another order": lambda ds: ds.labels["Beard"].astype(object).iloc[::-1],
    "pyarrow bools in another order": lambda ds: ds.labels["Beard"].astype("bool[pyarrow]").iloc[::-1],
    "masked array": lambda ds: np.ma.array([True, False, True, True, False, True], mask=[0, 0, 0, 1, 0, 0]),
    "numbers": lambda ds: [0, 2, 5],
    "negative numbers": lambda ds: np.array([-6, 2, -1], np.int8),
    "ids": lambda ds: ("p0", "p2", "p5"),
    "ids and numbers": lambda ds: ["p0", 2, "p5"],
    "categories": lambda ds: pd.Series(["p0", "p2", "p5"], dtype="category"),
    "index": lambda ds: ds.labels.index[[0, 2, 5]],
    "array of text": lambda ds: np.array(["p0", "p2", "p5"]),
    "generator": lambda ds: (i for i in (0, 2, 5)),
    "numbers of a Series": lambda ds: pd.Series([0, 2, 5], index=[9, 9, 9], dtype="UInt8"),
}


@pytest.mark.parametrize("key", CHOSEN.values(), ids=CHOSEN)
def test_the_rows_that_are_meant_are_chosen(ds, key):
    assert ds.row_indices(key(ds)).tolist() == [0, 2, 5]
    np.testing.assert_array_equal(ds[key(ds)], ds.to_numpy()[[0, 2, 5]])


def test_masks_and_single_rows_of_torch_are_taken(ds):
    torch = pytest.importorskip("torch")
    assert ds.row_indices(torch.tensor([True, False, True, False, False, True])).tolist() == [0, 2, 5]
    np.testing.assert_array_equal(ds[torch.tensor(2)], ds["p2"])
    np.testing.assert_array_equal(ds[np.array(2)], ds["p2"])
    with pytest.raises(InvalidInputError):
        ds[torch.tensor(True)]


def test_a_text_mask_chooses_no_row_whose_value_is_missing(ds):
    assert ds.row_indices(ds.labels["Hair"] == "red").tolist() == [1, 2, 5]
    assert ds.row_indices(ds.labels["Hair"] != "red").tolist() == [0, 4]
    assert ds.row_indices(pd.Series([None] * 6, ds.labels.index, dtype="boolean")).tolist() == []


REFUSED = {
    "float": lambda ds: 1.0,
    "none": lambda ds: None,
    "bool": lambda ds: True,
    "numpy bool": lambda ds: np.True_,
    "array of one float": lambda ds: np.array(1.0),
    "ellipsis": lambda ds: ...,
    "bytes": lambda ds: b"p0",
    "floats": lambda ds: [0.0, 1.0],
    "decimal": lambda ds: [Decimal(1)],
    "numbers with missing": lambda ds: pd.Series([1, None]),
    "all missing": lambda ds: [None] * 6,
    "nested": lambda ds: [[0, 1]],
    "set": lambda ds: {0, 1},
    "dict": lambda ds: {0: 1},
    "frame": lambda ds: ds.labels[["Beard"]],
    "two dimensions": lambda ds: np.ones((6, 1), bool),
    "mask and numbers": lambda ds: [True, 1, 0, 0, 0, 0],
    "masked numbers": lambda ds: np.ma.array([1, 2], mask=[0, 1]),
    "row and column": lambda ds: (0, slice(None)),
    "slice of text": lambda ds: slice("p0", "p2"),
    "slice without a step": lambda ds: slice(0, 3, 0),
    "short mask": lambda ds: [True] * 5,
    "empty mask": lambda ds: np.array([], bool),
    "mask of some rows": lambda ds: ds.labels["Beard"].iloc[:3],
    "mask of other rows": lambda ds: pd.Series([True] * 6, list("abcdef")),
    "mask with a row twice": lambda ds: pd.Series([True] * 6, ["p0", "p0", "p1", "p2", "p3", "p4"]),
    "bytes in an array": lambda ds: np.array([b"p0"]),
    "dates": lambda ds: np.array(["2020-01-01"], "datetime64[D]"),
}


@pytest.mark.parametrize("key", REFUSED.values(), ids=REFUSED)
def test_what_chooses_no_rows_is_refused_in_one_typed_line(ds, key):
    with pytest.raises(InvalidInputError) as caught:
        ds[key(ds)]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [6, -7, [0, 6], np.array([2**63], np.uint64), [2**70], np.array([-7]), np.int64(99)])
def test_a_row_that_does_not_exist_is_an_index_error_of_ours(ds, key):
    with pytest.raises(RowIndexError) as caught:
        ds[key]
    assert isinstance(caught.value, IndexError)
    assert isinstance(caught.value, W2WError)


def test_an_id_that_does_not_exist_is_named_whatever_its_type(ds):
    for key in ("nobody", ["p0", "nobody"], np.str_("nobody")):
        with pytest.raises(UnknownNameError, match="nobody"):
            ds[key]
    with pytest.raises(UnknownNameError):
        ds.position(["p0"])


def test_a_dataset_is_iterated_to_its_end(ds):
    assert len(list(ds)) == 6


def test_a_dataset_that_changed_is_not_opened_as_what_it_was(ds):
    sent = pickle.dumps(ds)
    assert pickle.loads(sent).ids == ds.ids
    remove_rows(ds.path, "p0")
    with pytest.raises(CorruptFileError):
        pickle.loads(sent)


def test_an_attribute_that_is_passed_as_a_split_and_a_mistyped_value_name_what_there_is(ds):
    for call, words in {
        lambda: ds.where("Beard"): ("'Beard'", "where(Beard=", "True"),
        lambda: ds.where("nothing"): ("'nothing'", "train, test"),
        lambda: ds.where(Hair="Red "): ("'Red '", "mean 'red'", "'grey'"),
        lambda: ds.where(hair="red"): ("'hair'", "mean 'Hair'"),
    }.items():
        with pytest.raises(UnknownNameError) as caught:
            call()
        assert all(word in str(caught.value) for word in words), str(caught.value)
    for wrong, words in {"Age": ("'old'", "20", "61"), "Beard": ("'old'", "True")}.items():
        with pytest.raises(InvalidInputError) as refused:
            ds.where(**{wrong: "old"})
        assert all(word in str(refused.value) for word in words), str(refused.value)
