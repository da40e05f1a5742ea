"""How values of labels are read: exactly, or not at all."""

from __future__ import annotations

import datetime
import uuid
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout, add_rows, write_dataset
from w2w_hub.dataset import read_labels, relabel_rows
from w2w_hub.dataset.labels.values import exact_number
from w2w_hub.errors import InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 1, 1)}, 1.0)
BIG = 2**53


@pytest.fixture
def write(tmp_path):
    """Write a dataset with these labels, one row an id."""

    def written(table: pd.DataFrame, folder: str = "d", prefix: str = "p"):
        table = table if "id" in table.columns else table.assign(id=[f"{prefix}{i}" for i in range(len(table))])
        rows = np.arange(2.0 * len(table)).reshape(-1, 2)
        return write_dataset(rows, tmp_path / folder, layout=SMALL, ids=table["id"], labels=table, parquet_view=False)

    return written


def values(ds, name="x"):
    return [None if pd.isna(v) else v for v in ds.attribute(name)]


# ----------------------------------------------------------- exact or as text
@pytest.mark.parametrize(
    ("column", "text"),
    [
        (np.array([BIG + 1, 5], np.int64), [str(BIG + 1), "5"]),
        (np.array([2**64 - 1, 5], np.uint64), [str(2**64 - 1), "5"]),
        ([-BIG - 1, 5], [str(-BIG - 1), "5"]),
        ([10**30, None], [str(10**30), None]),
        (pd.array([BIG + 1, None], "Int64"), [str(BIG + 1), None]),
        (pd.array([BIG + 1, None], pd.ArrowDtype(pa.uint64())), [str(BIG + 1), None]),
        ([Decimal(BIG + 1), None], [str(BIG + 1), None]),
        ([Decimal("0.1234567890123456789"), Decimal("0.5")], ["0.1234567890123456789", "0.5"]),
        (np.array([BIG + 1, 1], np.longdouble), [str(BIG + 1), "1.0"]),
    ],
    ids=str,
)
def test_numbers_that_a_double_cannot_hold_are_kept_as_text_and_that_is_said(write, column, text):
    with pytest.warns(UserWarning, match="x"):
        ds = write(pd.DataFrame({"x": column}))
    assert ds.manifest.columns == {"x": "categorical"}
    assert values(ds) == text
    ds.verify()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_no_file_rounds_a_number_also_beside_a_missing_one(write, tmp_path, suffix):
    numbers = [BIG + 1, None, BIG, -BIG - 1]
    path = tmp_path / f"l.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"id": list("abcd"), "x": pa.array(numbers, pa.int64())}), path)
    elif suffix == "jsonl":
        path.write_text(
            "".join(f'{{"id":"{i}","x":{"null" if n is None else n}}}\n' for i, n in zip("abcd", numbers, strict=True))
        )
    else:
        cut = "," if suffix == "csv" else "\t"
        path.write_text(
            f"id{cut}x\n" + "".join(f"{i}{cut}{'' if n is None else n}\n" for i, n in zip("abcd", numbers, strict=True))
        )
    assert values(write(read_labels(path))) == [None if n is None else str(n) for n in numbers]


@pytest.mark.parametrize(
    "fields",
    [
        ["007", "8"], ["+5", "6"], ["1_000", "2"], ["0x1F", "2"], ["1,5", "2"], ["00", "1"], ["1e999", "2"],
        ["1.2.3", "4"], ["3.14159265358979323846", "1"], [f"{BIG + 1}.0", "1"], ["12345678901234567890", "1"],
        ["\u0663", "\u0664"], ["nan1", "2"], ["9" * 500, "1"], ["1e-400", "1"],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_a_plain_exact_number_in_a_csv_stays_the_text_it_is(write, tmp_path, fields):
    (tmp_path / "l.csv").write_text("id,x\n" + "".join(f'p{i},"{field}"\n' for i, field in enumerate(fields)), "utf-8")
    ds = write(read_labels(tmp_path / "l.csv"))
    assert ds.manifest.columns == {"x": "categorical"}
    assert values(ds) == fields


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        (["1", "-2"], [1.0, -2.0]),
        (["1.50", " 2"], [1.5, 2.0]),
        ([".5", "-.25"], [0.5, -0.25]),
        (["1e3", "2E-2"], [1000.0, 0.02]),
        (["0.10000000000000001", "0.1"], [0.1, 0.1]),
        (["1.000000000000000056e-01", ""], [0.1, None]),  # as NumPy's savetxt writes 0.1
        ([str(BIG), "NA"], [float(BIG), None]),
    ],
    ids=str,
)
def test_what_programs_print_is_a_number(write, tmp_path, fields, read):
    (tmp_path / "l.csv").write_text("id,x\n" + "".join(f"p{i},{field}\n" for i, field in enumerate(fields)))
    ds = write(read_labels(tmp_path / "l.csv"))
    assert ds.manifest.columns == {"x": "float"}
    assert values(ds) == read


@given(st.floats(-1e300, 1e300), st.integers(16, 25))
@settings(max_examples=200, deadline=None)
def test_every_double_is_read_as_it_was_printed(value, digits):
    for text in (repr(value), f"{value:.{digits}e}", f"{value:.17g}"):
        found = exact_number(text)
        assert found == value or (found is None and abs(value) > BIG and "e" not in text and "." not in text)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=25, min_value=-(10**6), max_value=10**6))
@settings(max_examples=100, deadline=None)
def test_a_number_that_is_taken_prints_as_it_was(value):
    found = exact_number(str(value))
    if found is not None:
        assert abs(Decimal(found) - value) <= Decimal(1).scaleb(-25)


# ------------------------------------------------------------------- binary
@pytest.mark.parametrize(
    ("column", "read"),
    [
        ([-1, 1, -1], [False, True, False]),
        ([-1.0, None, 1.0], [False, None, True]),
        (["-1", "1", None], [False, True, None]),
        (["-1.0", "1.0", " 1"], [False, True, True]),
        (pd.array([-1, 1, None], "Int8"), [False, True, None]),
        ([-1, -1, -1], [False, False, False]),
        ([Decimal(-1), Decimal(1), 1], [False, True, True]),
        (["True", "False", None], [True, False, None]),
        (["TRUE", "0", "false"], [True, False, False]),
        ([True, "0", "false"], [True, False, False]),
        (pd.Series(["true", "false", None], dtype="string[pyarrow]"), [True, False, None]),
    ],
    ids=str,
)
def test_minus_one_and_words_are_false_and_true_in_a_new_column_and_that_is_said_once(write, column, read):
    with pytest.warns(UserWarning, match="x, y") as caught:
        ds = write(pd.DataFrame({"x": column, "y": column}))
    assert ds.manifest.columns == {"x": "binary", "y": "binary"}
    assert values(ds) == read
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([-1, 0, 1], "float"),
        ([-1, 2, 1], "float"),
        (["yes", "no", "yes"], "categorical"),
        (["0", "1", "1"], "categorical"),
        (["t", "f", "t"], "categorical"),
        (["true", "false", "unknown"], "categorical"),
        (pd.Categorical(["true", "false", "true"]), "categorical"),  # stated by the dtype
        (pd.Categorical([1, 0, 1]), "binary"),
        (pd.array([True, None, False], "boolean"), "binary"),
        (pd.array([1, None, 3], "Int8"), "float"),
        (pd.to_datetime(["2020-01-02"] * 3), "categorical"),
        ([datetime.date(2020, 1, 2)] * 3, "categorical"),
        ([uuid.UUID(int=5)] * 3, "categorical"),
        (pd.cut([1, 2, 3], 2), "categorical"),
    ],
    ids=str,
)
def test_other_columns_are_what_they_were_and_nothing_is_said(write, column, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write(pd.DataFrame({"x": column})).manifest.columns == {"x": kind}


@pytest.mark.parametrize(
    "value",
    [b"red", bytearray(b"a"), np.array([1, 2]), (1, 2), {1}, 1 + 2j, object(), float("inf"), Decimal("-Infinity")],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_no_label_is_refused_with_its_column(write, tmp_path, value):
    column = pd.Series([value, None], dtype=object)
    with pytest.raises(InvalidInputError, match="'hair'"):
        write(pd.DataFrame({"hair": column}))
    with pytest.raises(InvalidInputError, match="'hair'"):  # also where a kind is known
        relabel_rows(write(pd.DataFrame({"hair": ["a", "b"]})).path, pd.DataFrame({"id": ["p0", "p1"], "hair": column}))


# ------------------------------------------------- a kind that is there already
def added(write, tmp_path, first, more, change=None):
    """Labels after rows whose labels came as another dataset's, or through relabel."""
    ds = write(pd.DataFrame({"x": first}))
    table = pd.DataFrame({"id": [f"p{i}" for i in range(len(more))], "x": more})
    return relabel_rows(ds.path, table.iloc[: len(first) - 1])


@pytest.mark.parametrize(
    ("first", "more", "kind", "read"),
    [
        ([0.5, 2.0, 3.0], [-1, 1], "float", [-1.0, 1.0, 3.0]),
        ([0.5, 2.0, 3.0], ["1.5", "-1"], "float", [1.5, -1.0, 3.0]),
        ([0.5, 2.0, 3.0], [1, 0], "float", [1.0, 0.0, 3.0]),
        ([True, False, True], ["True", "0"], "binary", [True, False, True]),
        ([True, False, True], [-1, 1], "binary", [False, True, True]),
        ([True, False, True], ["FALSE", None], "binary", [False, None, True]),
        (["a", "b", "c"], [-1, 1], "categorical", ["-1", "1", "c"]),
        (["a", "b", "c"], ["True", "false"], "categorical", ["True", "false", "c"]),
        (["a", "b", "c"], pd.Series([BIG + 1, None], dtype=object), "categorical", [str(BIG + 1), None, "c"]),
    ],
    ids=str,
)
def test_a_kind_that_a_column_has_wins(write, tmp_path, first, more, kind, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = added(write, tmp_path, first, more)
    assert ds.manifest.columns == {"x": kind}
    assert values(ds) == read


@pytest.mark.parametrize(
    ("first", "more", "named"),
    [
        ([0.5, 2.0, 3.0], ["old", 1], "'old'"),
        ([0.5, 2.0, 3.0], [BIG + 1, 1], str(BIG + 1)),
        ([0.5, 2.0, 3.0], ["007", 1], "'007'"),
        ([0.5, 2.0, 3.0], [True, False], "True"),  # 1 and 0, or 1 and -1?
        ([True, False, True], ["yes", True], "'yes'"),
        ([True, False, True], [2, True], "2"),
        ([True, False, True], [-1, 0], "-1"),  # unknown, or false?
        ([True, False, True], [0.5, True], "0.5"),
    ],
    ids=str,
)
def test_a_value_that_is_not_of_the_kind_is_refused_and_named(write, tmp_path, first, more, named):
    with pytest.raises(InvalidInputError, match=rf"'x'.*{named}"):
        added(write, tmp_path, first, more)


def test_the_kinds_of_a_dataset_that_is_added_come_with_it(write):
    ds = write(pd.DataFrame({"y": ["a", "b"]}))
    other = write(pd.DataFrame({"x": [0.5, 2.0]}), "other", "q")
    other = relabel_rows(other.path, pd.DataFrame({"id": ["q0", "q1"][:1], "x": [1.0]}))
    other = relabel_rows(other.path, pd.DataFrame({"id": ["q1"], "x": [-1.0]}))
    assert add_rows(ds.path, other.path).manifest.columns == {"y": "categorical", "x": "float"}


def test_a_binary_column_of_another_dataset_does_not_become_numbers(write):
    ds = write(pd.DataFrame({"x": [0.5, -1.0]}))
    other = write(pd.DataFrame({"x": [-1.0, 1.0]}), "other", "q")
    assert other.manifest.columns == {"x": "binary"}
    with pytest.raises(InvalidInputError, match="'x'"):
        add_rows(ds.path, other.path)


def test_text_that_no_file_can_hold_is_refused_in_every_column(write):
    for name in ("x", "split", "source", "consent"):
        with pytest.raises(InvalidInputError, match=name):
            write(pd.DataFrame({name: pd.Series(["\udc80", "a"], dtype=object)}))


# ------------------------------------------------------------ names of columns
@pytest.mark.parametrize(
    "name",
    ["weights", "row", "row_sha256", "coefficients", "Weights", "ROW", "Split", "Source", "ID", "a\nb", "x\x1b[31m",
     "a\u202eb"],
)  # fmt: skip
def test_a_name_that_no_attribute_may_have_is_refused_everywhere(write, name):
    table = pd.DataFrame({"id": ["p0", "p1"], name: [1.5, 2.5]})
    shown = name if name.isprintable() else repr(name)[1:-1]
    with pytest.raises(InvalidInputError) as caught:
        write(table)
    assert shown in str(caught.value)
    ds = write(pd.DataFrame({"x": [1.5, 2.5]}))
    with pytest.raises(InvalidInputError) as caught:
        relabel_rows(ds.path, table)
    assert shown in str(caught.value)
    assert ds.manifest == type(ds).open(ds.path).manifest


@pytest.mark.parametrize(
    ("first", "second"), [("Beard", " Beard"), ("Beard", "beard"), ("Beard", "BEARD\t"), ("x", "\ufeffx"), (" x", "x ")]
)
def test_names_that_cannot_be_told_apart_are_refused(write, tmp_path, first, second):
    with pytest.raises(InvalidInputError, match=r"(?i)beard|x"):
        write(pd.DataFrame({"id": ["a"], first: [1], second: [2]}))
    (tmp_path / "l.csv").write_text(f"id,{first},{second}\na,1,2\n", "utf-8")
    with pytest.raises(ValueError, match=r"(?i)beard|x"):
        read_labels(tmp_path / "l.csv")
    ds = write(pd.DataFrame({first.strip(): [1.5, 2.5]}))
    if first.strip() != second.strip().strip("\ufeff"):
        with pytest.raises(InvalidInputError, match="Beard"):
            relabel_rows(ds.path, pd.DataFrame({"id": ["p0"], second: [1]}))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "frame"])
def test_blanks_around_a_name_are_dropped(write, tmp_path, suffix):
    table = pd.DataFrame({" id": ["a", "b"], "Beard ": [1.5, 2.5], "\tAge": [1.5, 3.5]})
    if suffix == "csv":
        table.to_csv(tmp_path / "l.csv", index=False)
    elif suffix == "parquet":
        table.to_parquet(tmp_path / "l.parquet")
    given = table if suffix == "frame" else read_labels(tmp_path / f"l.{suffix}")
    rows = np.arange(4.0).reshape(2, 2)
    ds = write_dataset(rows, tmp_path / "d", layout=SMALL, ids=["a", "b"], labels=given)
    assert ds.attributes == ("Beard", "Age")


def test_an_index_that_was_written_is_left_out_with_a_word(write, tmp_path):
    table = pd.DataFrame({"id": ["p0", "p1"], "Beard": [0.5, 2]}, index=[7, 3])
    table.to_csv(tmp_path / "once.csv")
    pd.read_csv(tmp_path / "once.csv").to_csv(tmp_path / "twice.csv")
    pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata(None), tmp_path / "l.parquet")
    for name in ("once.csv", "twice.csv", "l.parquet"):
        with pytest.warns(UserWarning, match="column"):
            assert list(read_labels(tmp_path / name).columns) == ["id", "Beard"]
    with pytest.warns(UserWarning, match="'Unnamed: 0'"):
        assert write(pd.read_csv(tmp_path / "once.csv")).attributes == ("Beard",)


@pytest.mark.parametrize("header", ["Unnamed: 0", "", "__index_level_0__"])
def test_a_column_without_a_name_that_is_no_index_is_refused(write, tmp_path, header):
    (tmp_path / "l.csv").write_text(f"id,{header},x\na,red,1\nb,red,2\n")
    with pytest.raises(InvalidInputError, match=header or "column 2"):
        read_labels(tmp_path / "l.csv")


def test_the_labels_that_a_dataset_wrote_may_be_given_with_all_their_columns(write):
    ds = write(pd.DataFrame({"x": [1.5, 2.5]}))
    again = relabel_rows(ds.path, read_labels(ds.path / "labels" / "train.parquet").assign(x=[3.5, None]))
    assert values(again) == [3.5, None]
    forged = ds.labels.reset_index().assign(row_sha256=["ab", "cd"])
    with pytest.raises(InvalidInputError, match="row_sha256"):
        relabel_rows(ds.path, forged)


@pytest.mark.parametrize(
    ("name", "text"), [("l.csv", "id;Beard\na;1\n"), ("l.csv", "id\tBeard\na\t1\n"), ("l.tsv", "Beard|id\n1|a\n")]
)
def test_a_file_with_another_separator_is_refused_with_what_to_do(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=name):
        read_labels(tmp_path / name)


def test_an_object_that_names_a_column_twice_is_refused(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"id": "a", "x": 1, "x": 2}\n')
    with pytest.raises(ValueError, match="'x'"):
        read_labels(tmp_path / "l.jsonl")


# -------------------------------------------------------------------- splits
@pytest.mark.parametrize("pair", [("train", "Train"), ("a.b", "A.b"), ("test", "TEST")])
def test_splits_that_differ_in_case_alone_are_refused_by_both_names(write, pair):
    with pytest.raises(InvalidInputError, match=rf"{pair[0]!r} and {pair[1]!r}"):
        write(pd.DataFrame({"split": list(pair)}))
    ds = write(pd.DataFrame({"split": [pair[0], "x"]}))
    with pytest.raises(InvalidInputError, match=rf"{pair[0]!r} and {pair[1]!r}"):
        relabel_rows(ds.path, pd.DataFrame({"id": ["p1"], "split": [pair[1]]}))
    with pytest.raises(InvalidInputError, match=rf"{pair[0]!r} and {pair[1]!r}"):
        add_rows(ds.path, write(pd.DataFrame({"split": [pair[1]]}), "other", "q").path)


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "lpt9", "aux.x", "ALL", "All", "a/b", "", " train"])
def test_a_split_that_is_no_file_everywhere_is_refused(write, name):
    with pytest.raises(InvalidInputError, match="split"):
        write(pd.DataFrame({"split": [name, "x"]}))


# --------------------------------------------------------------------- where
def test_where_reads_a_value_as_one_of_the_kind(write):
    columns = {"b": [True, False, None], "f": [1.5, 2, None], "c": ["red", "1", None], "self": [1, 0, 0]}
    ds = write(pd.DataFrame(columns))
    for asked, found in [
        ({"b": "True"}, [0]), ({"b": 0}, [1]), ({"b": np.False_}, [1]), ({"f": "1.5"}, [0]), ({"f": 9}, []),
        ({"f": np.float32(2)}, [1]), ({"f": Decimal("1.5")}, [0]), ({"c": np.str_("red")}, [0]), ({"c": 1}, [1]),
        ({"self": True}, [0]),
    ]:  # fmt: skip
        assert ds.where(**asked).tolist() == found


@pytest.mark.parametrize(
    ("name", "value"),
    [("b", "yes"), ("b", 2), ("b", None), ("b", pd.NA), ("b", b"1"), ("f", "old"), ("f", True), ("f", float("nan")),
     ("f", float("inf")), ("f", BIG + 1), ("c", 3), ("c", True), ("c", 1.0), ("c", None), ("c", ["red"]),
     ("c", {"red"})],
)  # fmt: skip
def test_where_refuses_a_value_that_no_row_can_have(write, name, value):
    ds = write(pd.DataFrame({"b": [True, False, None], "f": [1.5, 2, None], "c": ["red", "1", None]}))
    with pytest.raises(InvalidInputError, match=repr(name)):
        ds.where(**{name: value})


def test_where_names_the_levels_there_are(write):
    ds = write(pd.DataFrame({"c": ["red", "grey", None]}))
    with pytest.raises(UnknownNameError, match=r"'green'.*'grey', 'red'"):
        ds.where(c="green")
    for split in (3, ["train"], "dev"):
        with pytest.raises(UnknownNameError, match="train"):
            ds.where(split=split)
