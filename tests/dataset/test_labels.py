from __future__ import annotations

import shutil
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from w2w_hub import ParameterLayout, WeightDataset, relabel_rows, write_dataset
from w2w_hub.dataset import read_labels
from w2w_hub.errors import CorruptFileError, InvalidInputError, MissingPathError, UnknownNameError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 1, 1)}, 1.0)


@pytest.fixture
def written(tmp_path):
    """Write a dataset with these label columns and open it from disk."""

    def write(table: pd.DataFrame | None = None, *, ids=None, **columns) -> WeightDataset:
        if table is None:
            length = len(next(iter(columns.values())))
            table = pd.DataFrame({"id": [f"p{i}" for i in range(length)], **columns})
        ids = list(table["id"].astype(str)) if ids is None else ids
        rows = np.arange(2.0 * len(ids)).reshape(-1, 2)
        write_dataset(rows, tmp_path / "d", layout=SMALL, ids=ids, labels=table)
        return WeightDataset.open(tmp_path / "d")

    return write


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([True, False], "binary", [True, False]),
        ([1, 0], "binary", [True, False]),
        ([1.0, 0.0, None], "binary", [True, False, None]),
        (["true", "False", None], "binary", [True, False, None]),
        ([True, None, False], "binary", [True, None, False]),
        ([True, 0, 1.0], "binary", [True, False, True]),
        ([1, 2], "float", [1.0, 2.0]),
        ([-1, 1], "binary", [False, True]),
        ([0.5, None, 1.0], "float", [0.5, None, 1.0]),
        ([2.0, 3.0], "float", [2.0, 3.0]),
        ([float("nan"), float("nan")], "float", [None, None]),
        (["a", None, "b"], "categorical", ["a", None, "b"]),
        (["0", "1"], "categorical", ["0", "1"]),
        (["3", "x"], "categorical", ["3", "x"]),
        ([Decimal("1.5"), None], "float", [1.5, None]),
        (np.array([2, 3], np.longdouble), "float", [2.0, 3.0]),
        (pd.array([date(2020, 1, 2), None], pd.ArrowDtype(pa.date32())), "categorical", ["2020-01-02", None]),
    ],
    ids=str,
)
def test_a_columns_type_follows_from_its_values_and_survives_the_disk(written, values, kind, read):
    ds = written(A=pd.Series(values, dtype=object if None in values or len({type(v) for v in values}) > 1 else None))
    assert ds.manifest.columns == {"A": kind}
    assert [None if pd.isna(v) else v for v in ds.attribute("A")] == read
    python = {"binary": (bool, np.bool_), "float": (float, np.float64), "categorical": (str,)}[kind]
    assert all(isinstance(v, python) for v in ds.attribute("A").dropna())
    ds.verify()


def test_what_a_table_does_not_say_is_missing_never_false(written):
    ds = written(Beard=[True, None, False], Age=[None, 3.0, 4.0], Hair=["x", None, None])
    assert ds.labels[["Beard", "Age", "Hair"]].isna().sum().to_dict() == {"Beard": 1, "Age": 1, "Hair": 2}
    assert ds.where(Beard=False).tolist() == [2]


def test_a_column_without_any_value_stays_missing_in_every_split(written):
    ds = written(split=["train", "test"], Nothing=[None, None], Half=[True, None])
    assert ds.labels["Nothing"].isna().all()
    assert ds.where(Half=True).tolist() == [0]
    ds.verify()


def test_reserved_columns_are_no_attributes(written):
    ds = written(source=["s", None], licence=["mit", "mit"], consent=["yes", None], split=["a", "b"], Beard=[1, 0])
    assert ds.attributes == ("Beard",)
    assert ds.labels["source"].tolist()[0] == "s"
    assert pd.isna(ds.labels["source"].iloc[1])
    assert ds.labels["consent"].iloc[0] == "yes"


def test_a_column_license_is_the_reserved_column_licence(written, tmp_path):
    (tmp_path / "labels.csv").write_text("id,Beard,License\np0,true,mit\np1,false,\n")
    for table in (read_labels(tmp_path / "labels.csv"), pd.DataFrame({"Beard": [1, 0], "license": ["mit", None]})):
        ds = written(table if "id" in table else table.assign(id=["p0", "p1"]), ids=["p0", "p1"])
        assert list(ds.manifest.columns) == ["Beard"]
        assert ds.labels["licence"].fillna("-").tolist() == ["mit", "-"]
        shutil.rmtree(ds.path)


def test_an_attribute_license_beside_licence_stays_one(written, tmp_path):
    ds = written(license=["a", "b"], licence=["mit", "mit"])
    assert list(ds.manifest.columns) == ["license"]
    relabel_rows(ds.path, pd.DataFrame({"id": ["p0"], "license": ["c"]}))
    assert WeightDataset.open(ds.path).labels["license"].tolist() == ["c", "b"]
    (tmp_path / "labels.csv").write_text("id,license\np1,d\n")
    relabel_rows(ds.path, read_labels(tmp_path / "labels.csv"))
    labels = WeightDataset.open(ds.path).labels
    assert labels["license"].tolist() == ["c", "d"]
    assert labels["licence"].tolist() == ["mit", "mit"]


def test_labels_follow_the_ids_not_the_tables_order(written):
    table = pd.DataFrame({"id": ["c", "a", "b"], "Age": [3.0, 1.5, 2.0]})
    ds = written(table, ids=["a", "b", "c"])
    assert ds.attribute("Age").to_dict() == {"a": 1.5, "b": 2.0, "c": 3.0}


def test_ids_may_be_the_index_of_the_table(written):
    ds = written(pd.DataFrame({"Age": [1.5, 2.0]}, index=["a", "b"]), ids=["b", "a"])
    assert ds.attribute("Age").to_dict() == {"b": 2.0, "a": 1.5}


def test_without_a_split_every_row_is_for_training(written):
    assert written(Beard=[1, 0]).manifest.splits == {"train": 2}


def test_infinite_labels_are_refused_with_the_column(written):
    with pytest.raises(InvalidInputError, match="'Age'"):
        written(Age=[1.5, float("inf")])


def test_rows_without_labels_are_counted_and_one_is_named(written):
    with pytest.raises(UnknownNameError, match=r"2 .*'b'"):
        written(pd.DataFrame({"id": ["a"]}), ids=["a", "b", "c"])


def test_an_id_that_occurs_twice_is_refused(written):
    with pytest.raises(InvalidInputError, match="'a'"):
        written(pd.DataFrame({"id": ["a"]}), ids=["a", "a"])
    with pytest.raises(InvalidInputError, match="'a'"):
        written(pd.DataFrame({"id": ["a", "b", "a"]}), ids=["a", "b"])


def test_a_row_without_a_split_is_refused_when_others_have_one(written):
    with pytest.raises(InvalidInputError, match="split"):
        written(split=["train", None])


# ------------------------------------------------------------------- files
def test_ids_of_a_csv_keep_their_leading_zeros(tmp_path):
    (tmp_path / "l.csv").write_text("id,Beard,Age\n0001,true,3\n0002,,4.5\n")
    table = read_labels(tmp_path / "l.csv")
    assert table["id"].tolist() == ["0001", "0002"]


def test_a_parquet_table_is_read_as_a_csv_is(tmp_path):
    table = pd.DataFrame({"id": ["a", "b"], "Age": [1.5, 2.0]})
    table.to_parquet(tmp_path / "l.parquet")
    table.to_csv(tmp_path / "l.csv", index=False)
    pd.testing.assert_frame_equal(
        read_labels(tmp_path / "l.parquet"), read_labels(tmp_path / "l.csv"), check_dtype=False
    )


def test_the_labels_of_a_dataset_can_be_read_and_given_to_another(written, tmp_path):
    ds = written(split=["train", "train"], Beard=[True, None], Age=[1.5, None])
    table = read_labels(ds.path / "labels" / "train.parquet")
    again = write_dataset(ds.to_numpy(), tmp_path / "again", layout=SMALL, ids=ds.ids, labels=table)
    assert again.manifest.digest == ds.manifest.digest


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("l.csv", b"name,Beard\na,1\n", InvalidInputError, r"l\.csv.*'id'.*name, Beard"),
        ("l.csv", b"", CorruptFileError, r"l\.csv"),
        ("l.csv", b"id\n\xff\n", CorruptFileError, r"l\.csv"),
        ("l.csv", b'id,x\na,1\nb,1,2,3,"', CorruptFileError, r"l\.csv"),
        # pandas would take the first fields for an index and the last two for id and x
        ("l.csv", b"id,x\na,1,2,3\nb,1,2,3\n", CorruptFileError, r"l\.csv.*2"),
        ("l.csv", b"id,x,x\na,1,2\n", CorruptFileError, r"l\.csv.*'x'"),
        ("l.jsonl", b'{"id":' + b"[" * 5000, CorruptFileError, r"l\.jsonl"),
        ("l.parquet", b"PAR1 no", CorruptFileError, r"l\.parquet"),
    ],
)
def test_a_file_that_is_no_label_table_is_an_error_that_names_it(tmp_path, name, data, error, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        read_labels(tmp_path / name)


def test_a_comma_at_the_end_of_every_row_moves_no_field_to_another_column(tmp_path):
    (tmp_path / "l.csv").write_text("id,x\na,1,\nb,2,\n")
    assert read_labels(tmp_path / "l.csv").to_dict("list") == {"id": ["a", "b"], "x": [1, 2]}


def test_a_parquet_table_may_have_the_ids_as_its_index_and_suffixes_are_known_in_capitals(tmp_path):
    pd.DataFrame({"x": [1]}, index=pd.Index(["01"], name="id")).to_parquet(tmp_path / "l.PARQUET")
    (tmp_path / "l.TSV").write_text("id\tx\n01\t1\n")
    for name in ("l.PARQUET", "l.TSV"):
        assert read_labels(tmp_path / name).to_dict("list") == {"id": ["01"], "x": [1]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], None], "'x'.*list"),
        ([{"a": 1}, None], "'x'.*dict"),
        ([1j, 2j], "'x'.*complex"),
        (pd.Series(["\ud800", "a"], dtype=object), "'x'"),
    ],
)
def test_values_that_are_no_labels_are_refused_with_their_column(written, tmp_path, values, message):
    with pytest.raises(InvalidInputError, match=message):
        written(x=values)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.Series([1], ["p0"]), "Series"),
        ({"id": ["p0"]}, "dict"),
        (pd.DataFrame({("id", ""): ["p0"], ("x", "y"): [1]}), "MultiIndex"),
        (pd.DataFrame({"x": [1]}, pd.MultiIndex.from_tuples([("p0", 1)])), "MultiIndex"),
        (pd.DataFrame({"id": ["p0"], 7: [1], "7": [2]}), "'7'"),
    ],
)
def test_a_table_of_another_shape_is_refused(written, table, message):
    with pytest.raises(InvalidInputError, match=message):
        written(table, ids=["p0"])


def test_labels_that_are_not_there_are_an_error_that_names_the_file(tmp_path):
    with pytest.raises(MissingPathError, match=r"l\.csv"):
        read_labels(tmp_path / "l.csv")
