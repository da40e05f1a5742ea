"""Labels that a column of text takes as they are written, files that are read under limits, and equal groups."""

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from w2w_hub import ParameterLayout, add_rows, write_dataset
from w2w_hub.dataset import SplitRule, read_labels, relabel_rows
from w2w_hub.dataset.changes.add import _labels_of
from w2w_hub.dataset.integrity import check
from w2w_hub.dataset.labels import files as label_files
from w2w_hub.dataset.labels.kinds import CATEGORICAL
from w2w_hub.dataset.labels.table import normalize
from w2w_hub.dataset.labels.written import as_written
from w2w_hub.dataset.problems import Problems
from w2w_hub.errors import CorruptFileError, InvalidInputError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.to_q"): (1, 1, 1)}, 1.0)


@pytest.fixture
def write(tmp_path):
    def written(name, values, prefix="p", **options):
        ids = [f"{prefix}{i}" for i in range(len(values))]
        labels = pd.DataFrame({"id": ids, "x": values})
        rows = np.arange(2.0 * len(ids)).reshape(-1, 2)
        return write_dataset(rows, tmp_path / name, layout=SMALL, ids=ids, labels=labels, parquet_view=False, **options)

    return written


def csv_labels(tmp_path, fields):
    (tmp_path / "l.csv").write_text("id,x\n" + "".join(f"p{i},{field}\n" for i, field in enumerate(fields)))
    return read_labels(tmp_path / "l.csv")


# ------------------------------------------------------------- text as written
@pytest.mark.parametrize(
    "fields",
    [["2.50", "2.5"], ["true", "FALSE"], ["1.30", ""], ["1e3", "1000"], ["1.10", "1.1"], ["-0", "0"], ["1.0", "1"]],
    ids=str,
)
def test_a_column_of_text_takes_the_fields_of_a_csv_as_they_are_written(write, tmp_path, fields):
    ds = write("d", ["ann", "bob", "2.50"])
    ds = relabel_rows(ds.path, csv_labels(tmp_path, fields))
    assert ds.manifest.columns == {"x": "categorical"}
    assert ds.labels["x"].fillna("").tolist() == [*fields, "2.50"]


def test_added_rows_take_the_fields_of_a_csv_as_they_are_written(write, tmp_path):
    ds, ids = write("d", ["ann", "bob"], "q"), ["p0", "p1", "p2"]
    given = _labels_of(ids, csv_labels(tmp_path, ["2.50", "1e3", "1.30"]), Problems(), ds)
    given = as_written(given, {"x": CATEGORICAL})
    assert normalize(given, ids, Problems(), known={"x": CATEGORICAL})["x"].tolist() == ["2.50", "1e3", "1.30"]


def test_fields_go_with_their_rows_and_not_with_values_that_were_changed(write, tmp_path):
    ds = write("d", ["ann", "bob", "2.50", "eve"])
    table = csv_labels(tmp_path, ["2.50", "1.10", "1.1"]).sort_values("id", ascending=False).iloc[:2].set_index("id")
    assert relabel_rows(ds.path, table).labels["x"].tolist() == ["ann", "1.10", "1.1", "eve"]
    table.loc["p1", "x"] = 7.5
    with pytest.raises(InvalidInputError, match=r"'x'.*7\.5"):
        relabel_rows(ds.path, table)


@pytest.mark.parametrize("value", [True, 2.5, 1.0, np.float32(2), np.True_])
def test_a_value_without_a_text_of_its_own_is_no_new_level(write, value):
    ds = write("d", ["ann", "2.5", "True"])
    with pytest.raises(InvalidInputError, match="'x'"):
        relabel_rows(ds.path, pd.DataFrame({"id": ["p0"], "x": [value]}))
    assert relabel_rows(ds.path, pd.DataFrame({"id": ["p0"], "x": [7]})).labels["x"].tolist() == ["7", "2.5", "True"]


def test_a_binary_column_of_another_dataset_makes_no_levels(write):
    ds = write("d", pd.Categorical(["true", "false"]))
    with pytest.raises(InvalidInputError, match="'x'"):
        add_rows(ds.path, write("e", [True, False], "q").path)


def test_a_table_of_a_csv_is_written_and_joined_as_any_other(tmp_path):
    table = csv_labels(tmp_path, ["2.50", "1"])
    assert table["x"].tolist() == [2.5, 1.0]
    assert json.dumps(table.attrs) == '{"w2w_written": {}}'
    table.to_parquet(tmp_path / "l.parquet")
    assert read_labels(tmp_path / "l.parquet").attrs == {}
    assert pd.concat([table, csv_labels(tmp_path, ["1.10", "1"])]).attrs == {}


def test_a_source_and_a_licence_stay_what_a_csv_says(tmp_path):
    (tmp_path / "l.csv").write_text("id,source,licence,consent\na,1.10,2.0,true\nb,1.1,,false\n")
    table = normalize(read_labels(tmp_path / "l.csv"), ["a", "b"], Problems())
    assert table["source"].tolist() == ["1.10", "1.1"]
    assert table["consent"].tolist() == ["true", "false"]
    assert table["licence"].fillna("").tolist() == ["2.0", ""]


# ------------------------------------------------------------------- files
def test_a_small_parquet_file_of_many_rows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3_000_000, np.int32)), ["a"])
    pq.write_table(pa.table({"id": many}), tmp_path / "l.parquet", compression="zstd")
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(CorruptFileError, match=r"l\.parquet.*192,000,000"):
        read_labels(tmp_path / "l.parquet")


@pytest.mark.parametrize(
    ("dtype", "number"),
    [(pa.timestamp("ms", "Europe/Berlin"), 2**62), (pa.date64(), 2**62)],
    ids=str,
)
def test_times_that_python_cannot_tell_are_refused_with_their_column(write, dtype, number):
    ds = write("d", ["ann", "bob", "eve"])
    column = pd.Series(pa.array([number, None], pa.int64()).cast(dtype), dtype=pd.ArrowDtype(dtype))
    for change in (relabel_rows, lambda _, labels: write("e", labels["x"])):
        with pytest.raises(InvalidInputError, match="'x'"):
            change(ds.path, pd.DataFrame({"id": ["p0", "p1"], "x": column}))


def test_many_columns_take_no_quadratic_time(tmp_path):
    names = [f"c{i}" for i in range(40_000)]
    start = time.process_time()
    label_files._once([(name, 1) for name in names])
    assert time.process_time() - start < 1
    (tmp_path / "l.csv").write_text(",".join([*names, "id", "id"]) + "\n")
    start = time.process_time()
    with pytest.raises(CorruptFileError, match="'id'"):
        read_labels(tmp_path / "l.csv")
    assert time.process_time() - start < 2


# ------------------------------------------------------------------- groups
def test_zero_is_one_group_whatever_its_sign(write):
    values = [0.0, -0.0, 1.5, 2.5, 0.0, -0.0, 3.5, 4.5]
    for seed in range(6):
        ds = write(f"d{seed}", values, split_rule=SplitRule("x", 0.4, seed))
        assert check(ds.path).ok
        assert ds.labels.groupby("x")["split"].nunique().max() == 1
    grown = add_rows(ds.path, write("e", [-0.0, 0.0, 1.5], "q").path)
    assert grown.manifest.split_rule
    assert check(grown.path).ok
    assert grown.labels.groupby("x")["split"].nunique().max() == 1


@pytest.mark.parametrize("name", ["l.csv", "l.tsv", "l.jsonl", "l.ndjson", "l.json"])
def test_a_table_is_the_same_with_a_byte_order_mark_and_the_line_ends_of_windows(tmp_path, name):
    text = "id,Hair,Größe\n007,rot,1.5\nb,Ä,2\n".replace(",", "\t" if name == "l.tsv" else ",")
    if "json" in name:
        text = '{"id": "007", "Hair": "rot", "Größe": 1.5}\n\n{"id": "b", "Hair": "Ä", "Größe": 2}\n'
    tables = []
    for start, end in (("", "\n"), ("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r\n")):
        (tmp_path / name).write_bytes((start + text.replace("\n", end)).encode())
        tables.append(read_labels(tmp_path / name))
    assert list(tables[0].columns) == ["id", "Hair", "Größe"]
    assert tables[0].to_numpy(object).tolist() == [["007", "rot", 1.5], ["b", "Ä", 2]]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        (["inf", "Infinity", "-INF"], ["inf", "Infinity", "-INF"]), (["inf", ""], ["inf", None]),
        (["inf", "1.5", "-Infinity"], [np.inf, 1.5, -np.inf]), (["inf", "007"], ["inf", "007"]),
    ],
)  # fmt: skip
def test_words_for_infinity_are_numbers_only_beside_numbers(tmp_path, fields, read):
    (tmp_path / "l.csv").write_text("id,x\n" + "".join(f"p{i},{field}\n" for i, field in enumerate(fields)), "utf-8")
    assert read_labels(tmp_path / "l.csv")["x"].tolist() == read
