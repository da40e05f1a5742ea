"""Ordinal labels: grades in an order, from a table to every place that shows or uses them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import w2w_hub
from w2w_hub import ParameterLayout, WeightDataset, add_rows, write_dataset
from w2w_hub.cli import main
from w2w_hub.dataset import check, diff, relabel_rows, remove_rows
from w2w_hub.dataset.labels.kinds import KINDS, Ordinal, read_out_kind, stored_kind
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnknownNameError
from w2w_hub.lora.adapter import Target
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.manifest import seal

SMALL = ParameterLayout({Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"): (1, 1, 1)}, 1.0)
LENGTHS = ("none", "short", "long")
VALUES = ["short", "none", None, "long", "none", "short"]


def lengths(values: list[str | None] = VALUES, order: tuple[str, ...] = LENGTHS) -> pd.Categorical:
    return pd.Categorical(values, categories=list(order), ordered=True)


def people(folder: Path, prefix: str = "p", column: object = None, **columns: object) -> WeightDataset:
    column = lengths() if column is None else column
    ids = [f"{prefix}{i}" for i in range(len(column))]  # type: ignore[arg-type]
    table = pd.DataFrame({"id": ids, "Length": column, **columns})
    rows = np.arange(2.0 * len(ids)).reshape(-1, 2)
    return write_dataset(rows, folder, layout=SMALL, ids=ids, labels=table)


def manifest(folder: Path) -> dict[str, object]:
    return json.loads((folder / "manifest.json").read_text("utf-8"))


def restate(folder: Path, **changes: object) -> None:
    (folder / "manifest.json").write_bytes(seal(manifest(folder) | changes))


def plain(column: pd.Series) -> list[str | None]:
    return [None if pd.isna(value) else value for value in column]


# --------------------------------------------------------------- as it is stored
def test_an_ordered_categorical_is_read_back_as_one(tmp_path: Path) -> None:
    ds = people(tmp_path / "d")
    column = ds.attribute("Length")
    assert column.dtype == pd.CategoricalDtype(list(LENGTHS), ordered=True)
    assert plain(column) == VALUES
    assert (column > "none").tolist() == [True, False, False, True, False, True]
    assert ds.manifest.kinds == {"Length": Ordinal(LENGTHS)}
    ds.verify()


def test_on_disk_it_is_a_categorical_of_the_same_digest_with_its_order_beside_it(tmp_path: Path) -> None:
    ordinal, text = people(tmp_path / "a"), people(tmp_path / "b", column=pd.Series(VALUES, dtype="string"))
    stored = manifest(tmp_path / "a")
    assert stored["columns"] == {"Length": "categorical"}
    assert stored["label_kinds"] == {"Length": {"kind": "ordinal", "order": list(LENGTHS)}}
    assert "label_kinds" not in manifest(tmp_path / "b")
    assert ordinal.manifest.digest == text.manifest.digest
    for name in ("labels/train.parquet", "parquet/train.parquet"):
        a, b = (pq.read_table(tmp_path / f / name) for f in "ab")
        assert a.equals(b)


@pytest.mark.parametrize(
    ("column", "order"),
    [
        (pd.Categorical([3, 1, 2], ordered=True), ("1", "2", "3")),
        (pd.Categorical([10, None, 9], categories=[9, 10, 11], ordered=True), ("9", "10", "11")),
        (pd.cut([1, 5, 9], [0, 3, 6, 10]), ("(0, 3]", "(3, 6]", "(6, 10]")),
        (pd.Categorical([None, None], categories=["a", "b"], ordered=True), ("a", "b")),
    ],
    ids=["whole", "missing", "cut", "empty"],
)
def test_grades_of_any_type_are_kept_as_their_text(tmp_path: Path, column: pd.Categorical, order: tuple[str]) -> None:
    ds = people(tmp_path / "d", column=column)
    assert ds.manifest.kinds["Length"] == Ordinal(order)
    assert plain(ds.attribute("Length")) == [None if pd.isna(v) else str(v) for v in column]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=6, unique=True), st.data())
def test_any_order_of_any_texts_comes_back(tmp_path_factory: pytest.TempPathFactory, order: list[str], data) -> None:
    values = data.draw(st.lists(st.sampled_from([*order, None]), min_size=1, max_size=6))
    ds = people(tmp_path_factory.mktemp("d") / "d", column=lengths(values, tuple(order)))
    assert list(ds.attribute("Length").cat.categories) == order
    assert plain(ds.attribute("Length")) == values


@pytest.mark.parametrize("entry", [{"kind": "of a later version"}, {"kind": "ranked", "order": 3}])
def test_a_kind_that_is_not_known_is_ignored(tmp_path: Path, entry: dict[str, object]) -> None:
    people(tmp_path / "d")
    restate(tmp_path / "d", label_kinds={"Length": entry})
    ds = WeightDataset.open(tmp_path / "d")
    assert str(ds.attribute("Length").dtype) == "string"
    assert plain(ds.attribute("Length")) == VALUES
    ds.verify()


@pytest.mark.parametrize(
    "entries",
    [
        {"Length": {"kind": "ordinal"}}, {"Length": {"kind": "ordinal", "order": []}}, {"Length": 3}, {"Length": {}},
        {"Length": {"kind": "ordinal", "order": ["a", "a"]}}, {"Length": {"kind": "ordinal", "order": ["a", 3]}},
        {"Length": {"kind": "ordinal", "order": "none"}}, {"Length": {"kind": ["ordinal"], "order": ["a"]}},
        {"Age": {"kind": "ordinal", "order": ["1"]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_misstated_kind_is_refused_with_its_column(tmp_path: Path, entries: dict[str, object]) -> None:
    people(tmp_path / "d", Age=[1.5] * 6)
    restate(tmp_path / "d", label_kinds=entries)
    with pytest.raises(CorruptFileError, match=next(iter(entries))):
        WeightDataset.open(tmp_path / "d")
    assert not check(tmp_path / "d").ok


def test_a_kind_of_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    people(tmp_path / "d")
    restate(tmp_path / "d", label_kinds={"Halo": {"kind": "ordinal", "order": ["a"]}})
    with pytest.raises(CorruptFileError, match="Halo"):
        WeightDataset.open(tmp_path / "d")


def test_a_stored_grade_that_is_not_in_the_order_is_refused_with_file_column_and_grade(tmp_path: Path) -> None:
    people(tmp_path / "d")
    restate(tmp_path / "d", label_kinds={"Length": {"kind": "ordinal", "order": ["none", "short"]}})
    with pytest.raises(CorruptFileError, match=r"labels/train\.parquet.*Length.*long"):
        WeightDataset.open(tmp_path / "d")
    assert "long" in str(check(tmp_path / "d").problems)


def test_a_column_of_another_type_on_disk_is_found(tmp_path: Path) -> None:
    people(tmp_path / "d")
    path = tmp_path / "d" / "labels" / "train.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("Length")
    pq.write_table(table.set_column(at, "Length", table.column("Length").dictionary_encode()), path)
    files = manifest(tmp_path / "d")["files"] | {"labels/train.parquet": entry_of(path)}  # type: ignore[operator]
    restate(tmp_path / "d", files=files)
    assert "Length" in str(check(tmp_path / "d").problems)


# ---------------------------------------------------------------------- changes
def test_rows_are_chosen_by_grade_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    ds = people(tmp_path / "d")
    assert ds.where(Length="none").tolist() == [1, 4]
    with pytest.raises(UnknownNameError, match="Halo"):
        ds.where(Length="Halo")
    with pytest.raises(InvalidInputError, match="Length"):
        ds.where(Length=2.5)


def test_every_change_keeps_the_order(tmp_path: Path) -> None:
    ds = people(tmp_path / "d")
    kinds = {"Length": Ordinal(LENGTHS)}
    assert remove_rows(ds.path, "p3").manifest.kinds == kinds  # the only long one
    more = people(tmp_path / "e", "q", column=["long", "short"])
    grown = add_rows(ds.path, more.path)
    assert grown.manifest.kinds == kinds
    assert plain(grown.attribute("Length"))[-2:] == ["long", "short"]
    text = pd.DataFrame({"id": ["p0", "p1"], "Length": ["long", None]})
    assert plain(relabel_rows(ds.path, text).attribute("Length"))[:2] == ["long", None]
    every = pd.DataFrame({"id": list(grown.ids), "Length": ["short"] * len(grown)})
    assert relabel_rows(ds.path, every).manifest.kinds == kinds
    nothing = relabel_rows(ds.path, every.assign(Length=None))
    assert nothing.manifest.kinds == kinds
    nothing.verify()


@pytest.mark.parametrize("how", ["relabel one", "relabel all", "add"])
def test_a_grade_that_the_order_lacks_is_refused_and_nothing_is_written(tmp_path: Path, how: str) -> None:
    ds = people(tmp_path / "d")
    before = manifest(ds.path)
    ids = {"relabel one": ["p0"], "relabel all": list(ds.ids), "add": []}[how]
    more = people(tmp_path / "e", "q", column=["huge", "none"]).path
    with pytest.raises(InvalidInputError, match=r"Length.*huge"):
        relabel_rows(ds.path, pd.DataFrame({"id": ids, "Length": "huge"})) if ids else add_rows(ds.path, more)
    assert manifest(ds.path) == before


@pytest.mark.parametrize("rows", [1, 6])
def test_relabelling_with_an_ordered_categorical_orders_the_whole_column(tmp_path: Path, rows: int) -> None:
    ds = people(tmp_path / "d", column=VALUES)
    assert ds.manifest.label_kinds == {}
    order = (*LENGTHS, "huge")
    first = pd.DataFrame({"id": list(ds.ids[:rows]), "Length": lengths(VALUES[:rows], order)})
    after = relabel_rows(ds.path, first)
    assert after.manifest.kinds == {"Length": Ordinal(order)}
    assert plain(after.attribute("Length")) == VALUES
    assert after.manifest.digest == ds.manifest.digest
    with pytest.raises(InvalidInputError, match=r"Length.*long"):
        relabel_rows(ds.path, pd.DataFrame({"id": ["p0"], "Length": lengths(["none"], ("none", "short"))}))


def test_added_rows_may_state_the_same_order_and_no_other(tmp_path: Path, checkpoint_of) -> None:
    ds = people(tmp_path / "d")
    one = checkpoint_of(tmp_path / "new", ds)

    def add(values: list[str], order: tuple[str, ...]) -> WeightDataset:
        return add_rows(ds.path, one, ids="new", labels=pd.DataFrame({"id": ["new"], "Length": lengths(values, order)}))

    with pytest.raises(InvalidInputError, match="Length"):
        add(["none"], ("short", "none"))
    with pytest.raises(UnknownNameError, match="huge"):
        add(["none"], ("none", "huge"))
    after = add(["long"], ("none", "long"))
    assert after.manifest.kinds == {"Length": Ordinal(LENGTHS)}
    assert plain(after.attribute("Length")) == [*VALUES, "long"]


@pytest.fixture
def checkpoint_of():
    from w2w_hub.dialects import write_adapter

    def written(path: Path, ds: WeightDataset) -> Path:
        write_adapter(ds.adapter(0), path, ("diffusers",))
        return path

    return written


def test_another_order_is_a_difference_of_the_column(tmp_path: Path) -> None:
    a, b = people(tmp_path / "a"), people(tmp_path / "b", column=lengths(order=("none", "long", "short")))
    text = people(tmp_path / "c", column=VALUES)
    assert not diff(a, people(tmp_path / "d")).columns
    for one, other in ((a, b), (a, text), (text, b)):
        found = diff(one, other)
        assert set(found.columns) == {"Length"}
        assert not found.relabelled
        before, after = found.columns["Length"]
        assert before != after


# ------------------------------------------------------------------------ views
def test_torch_batches_hold_the_places_of_grades_and_nan_where_one_is_missing(tmp_path: Path) -> None:
    ds = people(tmp_path / "d", Hat=[True, False, None, True, True, True])
    batch = ds.torch(columns=["Length", "Hat"])
    values = [float(batch[i]["Length"]) for i in range(len(batch))]
    np.testing.assert_array_equal(values, [1, 0, np.nan, 2, 0, 1])


def test_datasets_gets_class_labels_in_the_order_of_the_grades(tmp_path: Path) -> None:
    ds = people(tmp_path / "d")
    found = w2w_hub.load_dataset(str(ds.path), split="train")
    assert found.features["Length"].names == list(LENGTHS)
    assert found["Length"][:] == [1, 0, None, 2, 0, 1]


def test_the_card_states_the_order(tmp_path: Path) -> None:
    people(tmp_path / "d")
    row = next(line for line in (tmp_path / "d" / "README.md").read_text("utf-8").splitlines() if "Length" in line)
    assert [row.index(grade) for grade in LENGTHS] == sorted(row.index(grade) for grade in LENGTHS)


# ----------------------------------------------------------------- command line
def run(*arguments: object, status: int = 0) -> str:
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    assert found.exit_code == status, found.output
    return found.output


def test_the_command_line_packs_adds_and_relabels_with_an_order(tmp_path: Path, checkpoint_of) -> None:
    ds = people(tmp_path / "start")
    one, two = (checkpoint_of(tmp_path / name, ds) for name in ("one", "two"))
    (tmp_path / "l.csv").write_text("id,Grade\none,2\n", "utf-8")
    run("pack", one, "--out", tmp_path / "d", "--labels", tmp_path / "l.csv", "--ordinal", "Grade=1, 2,3")
    assert WeightDataset.open(tmp_path / "d").manifest.kinds == {"Grade": Ordinal(("1", "2", "3"))}
    (tmp_path / "m.csv").write_text("id,Grade,Size\ntwo,3,s\n", "utf-8")
    run("add", tmp_path / "d", two, "--labels", tmp_path / "m.csv", "--ordinal", "Size=s,l")
    after = WeightDataset.open(tmp_path / "d")
    assert after.manifest.kinds == {"Grade": Ordinal(("1", "2", "3")), "Size": Ordinal(("s", "l"))}
    assert plain(after.attribute("Grade")) == ["2", "3"]
    run("relabel", tmp_path / "d", "--ordinal", "Grade=3,2,1")
    after = WeightDataset.open(tmp_path / "d")
    assert after.manifest.kinds["Grade"] == Ordinal(("3", "2", "1"))
    assert plain(after.attribute("Size")) == [None, "s"]


@pytest.mark.parametrize("order", ["Length", "Length=", "=a,b", "Length=a,,b", "Length=a,a", "Halo=a", "split=train"])
def test_an_order_that_cannot_be_meant_is_a_usage_error_or_names_the_column(tmp_path: Path, order: str) -> None:
    ds = people(tmp_path / "d")
    assert order.partition("=")[0] in run("relabel", ds.path, "--ordinal", order, status=2)
    assert WeightDataset.open(ds.path).manifest.kinds == {"Length": Ordinal(LENGTHS)}


# ---------------------------------------------------------------- kinds as objects
def test_every_kind_is_found_again_by_what_is_stored_of_it() -> None:
    for kind in (k(LENGTHS) if k is Ordinal else k() for k in KINDS):
        assert stored_kind("x", kind.stored, kind.to_json()) == kind
        assert read_out_kind("x", kind.read_out, kind.to_json()) == kind
        assert hash(kind) == hash(stored_kind("x", kind.stored, kind.to_json()))


def test_no_module_beside_the_kinds_compares_their_names() -> None:
    root = Path(w2w_hub.__file__).parent
    names = {kind.name for kind in KINDS} - {"float"} | {kind.stored for kind in KINDS} - {"float"}
    found = []
    for path in root.rglob("*.py"):
        if path.is_relative_to(root / "dataset" / "labels" / "kinds"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{path.relative_to(root)}:{node.lineno}")
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if any(isinstance(c, ast.Constant) and c.value == "float" for c in compared):
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert not found
