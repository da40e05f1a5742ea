from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.conftest import factors
from w2w_hub import (
    Adapter,
    ParameterLayout,
    WeightDataset,
    add_rows,
    pack_adapters,
    read_adapter,
    write_adapter,
    write_dataset,
)
from w2w_hub.dataset import read_labels, remove_rows
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import (
    AlreadyExistsError,
    InitializationError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    UnknownNameError,
)
from w2w_hub.lora.adapter import Target


@pytest.fixture
def lora(tmp_path, layout):
    """Write an adapter of the small layout as a PEFT folder."""

    def write(name: str, seed: int = 0, scale: float = 3.0, **hints):
        plain = layout.unflatten(np.random.default_rng(seed).normal(size=layout.size))
        pairs = {t: type(p)(p.A, p.B, scale) for t, p in plain.factors.items()}
        write_adapter(Adapter(pairs, **hints), tmp_path / "loras" / name, ("peft",))
        return tmp_path / "loras" / name

    return write


def state(folder):
    return WeightDataset.open(folder).manifest


# -------------------------------------------------------------------- pack
def test_folders_of_the_real_peft_become_rows_named_after_them(peft_folder, tmp_path):
    folders = [peft_folder(name, seed=i) for i, name in enumerate(("zoe", "ann"))]
    table = pd.DataFrame({"id": ["ann", "zoe"], "Beard": [False, True]})
    ds = pack_adapters(folders, tmp_path / "people", labels=table, initialization="seed-0", license="mit")
    assert ds.ids == ("zoe", "ann")
    assert ds.attribute("Beard").to_dict() == {"zoe": True, "ann": False}
    assert ds.layout == ParameterLayout.from_adapter(read_adapter(folders[0]))
    for folder in folders:
        np.testing.assert_array_equal(ds[folder.name], ds.layout.flatten(read_adapter(folder)))
    assert (ds[0] != ds[1]).any()
    assert (ds.manifest.compatibility.initialisation, ds.manifest.licence) == ("seed-0", "mit")
    ds.verify()


def test_an_adapter_goes_in_and_comes_out_with_the_same_change(peft_folder, tmp_path):
    before = read_adapter(peft_folder())
    after = pack_adapters([tmp_path / "lora"], tmp_path / "people").adapter("lora")
    for target, pair in before.factors.items():
        np.testing.assert_array_equal(after.factors[target].delta(), pair.delta())


def test_another_scale_is_folded_into_the_row(lora, tmp_path):
    ds = pack_adapters([lora("a"), lora("b", seed=1, scale=1.5)], tmp_path / "people")
    assert ds.layout.scale == 3
    for target, pair in read_adapter(lora("again", seed=1, scale=1.5)).factors.items():
        np.testing.assert_allclose(ds.adapter("b").factors[target].delta(), pair.delta(), rtol=1e-6)


def test_rows_whose_scale_was_folded_are_recorded_as_long_as_they_are_there(lora, tmp_path):
    ds = pack_adapters([lora("a"), lora("b", seed=1, scale=1.5)], tmp_path / "people")
    modules = len(ds.layout.slots)
    assert ds.manifest.rescaled == {"b": {"1.5": modules}}
    other = pack_adapters([lora("c", seed=2), lora("d", seed=3, scale=6.0)], tmp_path / "other")
    ds = add_rows(ds.path, [lora("e", seed=4, scale=0.75), other.path])
    assert ds.manifest.rescaled == {"b": {"1.5": modules}, "d": {"6.0": modules}, "e": {"0.75": modules}}
    ds = remove_rows(ds.path, ["b", "c"])
    assert ds.manifest.rescaled == {"d": {"6.0": modules}, "e": {"0.75": modules}}
    assert pack_adapters([lora("f")], tmp_path / "plain").manifest.rescaled is None


def test_the_base_models_name_is_recorded_where_all_adapters_agree(lora, tmp_path):
    same = [lora("a", base_model="x/y"), lora("b", base_model="x/y")]
    assert pack_adapters(same, tmp_path / "one").manifest.compatibility.base_model == "x/y"
    mixed = [*same, lora("c", base_model="x/z")]
    assert pack_adapters(mixed, tmp_path / "two").manifest.compatibility.base_model is None


def test_an_initialisation_that_is_not_stated_is_unknown(lora, tmp_path):
    assert pack_adapters([lora("a")], tmp_path / "people").manifest.compatibility.initialisation == "unknown"


def test_a_checkpoint_of_another_shape_is_refused_and_nothing_is_written(lora, layout, tmp_path):
    write_adapter(Adapter({s.target: factors(1) for s in layout.slots}), tmp_path / "odd", ("peft",))
    with pytest.raises(LayoutMismatchError, match=r"odd.*rank 1 instead of 2"):
        pack_adapters([lora("a"), tmp_path / "odd"], tmp_path / "people")
    assert not (tmp_path / "people").exists()


def test_nothing_to_pack_existing_output_and_missing_labels_are_refused(lora, tmp_path):
    with pytest.raises(InvalidInputError):
        pack_adapters([], tmp_path / "people")
    with pytest.raises(UnknownNameError, match="'a'"):
        pack_adapters([lora("a")], tmp_path / "people", labels=pd.DataFrame({"id": ["b"]}))
    (tmp_path / "people").mkdir()
    with pytest.raises(AlreadyExistsError):
        pack_adapters([tmp_path / "no such adapter"], tmp_path / "people")


# --------------------------------------------------------------------- add
def test_added_checkpoints_come_after_the_old_rows_which_stay_as_they_were(make_dataset, lora):
    before = make_dataset(version="1.0.0", license="mit", compatibility=Compatibility("x/y", None, "seed-0"))
    old = before.to_numpy()
    labels = pd.DataFrame({"id": ["new"], "split": ["test"], "Beard": ["true"], "Age": [7]})
    new = lora("new", seed=9)
    after = add_rows(before.path, [new], labels=labels, version="1.1.0", initialization="seed-0")
    assert after.ids == (*before.ids, "new")
    np.testing.assert_array_equal(after.to_numpy()[:6], old)
    np.testing.assert_array_equal(after["new"], after.layout.flatten(read_adapter(lora("again", seed=9))))
    assert after.labels.iloc[:6].drop(columns="row").equals(before.labels.drop(columns="row"))
    assert after.labels.loc["new", ["split", "Beard", "Age"]].tolist() == ["test", True, 7.0]
    assert pd.isna(after.labels.loc["new", "Hair"])
    assert (after.manifest.version, after.manifest.licence, after.manifest.name) == ("1.1.0", "mit", "people")
    assert after.manifest.compatibility == before.manifest.compatibility
    assert after.manifest.digest != before.manifest.digest
    after.verify()


@pytest.mark.parametrize("mine", [None, "x/y"])
def test_added_checkpoints_do_not_decide_what_base_model_the_others_had(make_dataset, lora, mine):
    ds = make_dataset(compatibility=Compatibility(base_model=mine))
    for name, base_model in (("a", "x/z"), ("b", None)):
        grown = add_rows(ds.path, [lora(name, seed=len(name), base_model=base_model)])
        assert grown.manifest.compatibility == ds.manifest.compatibility


def test_added_rows_give_the_digest_of_a_dataset_written_at_once(make_dataset, layout):
    from w2w_hub import write_dataset

    first, second = make_dataset("a"), make_dataset("b", seed=1, prefix="q")
    joined = add_rows(first.path, [second.path])
    table = pd.concat([first.labels, second.labels]).reset_index(names="id")
    rows = np.concatenate([second.to_numpy(), joined.to_numpy()[:6]])
    ids = [*second.ids, *joined.ids[:6]]
    once = write_dataset(rows, first.path.with_name("once"), layout=layout, ids=ids, labels=table)
    assert once.manifest.digest == joined.manifest.digest


def test_a_checkpoint_added_without_labels_is_for_training_and_says_nothing(make_dataset, lora):
    after = add_rows(make_dataset().path, [lora("new")])
    assert after.labels.loc["new", "split"] == "train"
    assert after.labels.loc["new", ["Beard", "Age", "Hair"]].isna().all()


def test_new_rows_take_the_fields_of_a_csv_as_they_are_written_where_the_column_is_text(make_dataset, lora, tmp_path):
    (tmp_path / "l.csv").write_text("id,Hair,Age,Beard,New\na,2.50,1.50,true,1.10\nb,1e3,2,false,1.1\n")
    after = add_rows(make_dataset().path, [lora("a"), lora("b", 1)], labels=read_labels(tmp_path / "l.csv"))
    new = after.labels.loc[["a", "b"]]
    assert new["Hair"].tolist() == ["2.50", "1e3"]
    assert new[["Age", "Beard", "New"]].to_numpy(object).tolist() == [[1.5, True, 1.1], [2.0, False, 1.1]]


def test_labels_of_new_rows_may_have_their_ids_as_the_index(make_dataset, lora):
    after = add_rows(make_dataset().path, [lora("new")], labels=pd.DataFrame({"Age": [2.5]}, index=["new"]))
    assert after.labels.loc["new", "Age"] == 2.5


@pytest.mark.parametrize("value", [1, 1.0, True, "true"], ids=repr)
def test_a_binary_label_stays_binary_however_the_new_table_writes_it(make_dataset, lora, value):
    labels = pd.DataFrame({"id": ["new"], "Beard": [value]})
    after = add_rows(make_dataset().path, [lora("new")], labels=labels)
    assert after.manifest.columns["Beard"] == "binary"
    assert after.where(Beard=True).tolist() == [0, 2, 5, 6]


@pytest.mark.parametrize("value", [0, 1, 7])
def test_a_number_stays_a_number_when_the_new_ones_look_like_booleans(make_dataset, lora, value):
    after = add_rows(make_dataset().path, [lora("new")], labels=pd.DataFrame({"id": ["new"], "Age": [value]}))
    assert after.manifest.columns["Age"] == "float"
    assert after.labels.loc["new", "Age"] == value


@pytest.mark.parametrize(("column", "value", "kinds"), [("Beard", 0.5, "binary"), ("Age", "old", "float")])
def test_a_label_of_another_kind_is_refused_and_the_dataset_is_as_before(make_dataset, lora, column, value, kinds):
    before = make_dataset()
    with pytest.raises(InvalidInputError, match=f"'{column}'.*{kinds}"):
        add_rows(before.path, [lora("new")], labels=pd.DataFrame({"id": ["new"], column: [value]}))
    assert state(before.path) == before.manifest


def test_float16_rows_widen_exactly_into_a_float32_dataset(make_dataset):
    wide, half = make_dataset("wide"), make_dataset("half", seed=1, prefix="q", dtype="float16")
    after = add_rows(wide.path, [half.path])
    assert after.manifest.dtype == "float32"
    np.testing.assert_array_equal(after.to_numpy()[6:], half.to_numpy().astype(np.float32))


def test_float32_rows_are_not_rounded_into_a_dataset_that_was_born_float16(make_dataset, lora, layout):
    rows = np.random.default_rng(0).normal(size=(2, layout.size)).astype(np.float16)
    born = write_dataset(rows, make_dataset("wide", prefix="q").path.with_name("born"), layout=layout)
    assert born.manifest.float16_max_error is None
    for source in (born.path.with_name("wide"), lora("new")):
        with pytest.raises(InvalidInputError, match=r"0\.0.*float32"):
            add_rows(born.path, [source])
    assert state(born.path) == born.manifest


def test_a_float16_dataset_that_was_rounded_grows_and_its_largest_error_stays_known(make_dataset, lora, layout):
    half = make_dataset("half", dtype="float16")
    joined = add_rows(half.path, [make_dataset("more", prefix="r", dtype="float16", seed=5).path])
    errors = [half.manifest.float16_max_error, state(joined.path.with_name("more")).float16_max_error]
    assert joined.manifest.dtype == "float16"
    assert joined.manifest.float16_max_error == max(errors)
    big = layout.unflatten(np.full(layout.size, 1000.3))
    write_adapter(big, joined.path.with_name("big"), ("peft",))
    grown = add_rows(joined.path, [joined.path.with_name("big")])
    assert grown.manifest.float16_max_error == pytest.approx(0.2, abs=0.01)
    grown.verify()


@pytest.mark.parametrize("view", [True, False])
def test_the_parquet_view_is_kept_where_there_was_one(make_dataset, view):
    first = make_dataset("a", parquet_view=view)
    after = add_rows(first.path, [make_dataset("b", prefix="q").path])
    assert (after.path / "parquet").is_dir() == view


@pytest.mark.parametrize(
    ("mine", "theirs", "field"),
    [
        (Compatibility(initialisation="seed-0"), Compatibility(initialisation="seed-1"), "initialisation 'seed-1'"),
        (Compatibility(initialisation="seed-0"), Compatibility(), "initialisation 'unknown'"),
        (Compatibility(base_digest="aa"), Compatibility(base_digest="bb"), "base_digest 'bb'"),
    ],
)
def test_rows_of_another_initialisation_or_base_are_refused(make_dataset, mine, theirs, field):
    first = make_dataset("a", compatibility=mine)
    second = make_dataset("b", prefix="q", compatibility=theirs)
    with pytest.raises(InitializationError, match=f"b .*{field}"):
        add_rows(first.path, [second.path])
    assert state(first.path) == first.manifest


def test_what_does_not_fit_or_is_there_already_leaves_the_dataset_as_before(make_dataset, lora, tmp_path):
    before = make_dataset()
    write_adapter(Adapter({Target("unet", "mid_block.attentions.0.proj_in"): factors()}), tmp_path / "odd", ("peft",))
    with pytest.raises(LayoutMismatchError, match="odd"):
        add_rows(before.path, [lora("new"), tmp_path / "odd"])
    with pytest.raises(InvalidInputError, match="'p0'"):
        add_rows(before.path, [lora("p0")])
    with pytest.raises(InvalidInputError):
        add_rows(before.path, [before.path])
    with pytest.raises(MissingPathError, match="nobody"):
        add_rows(before.path, [tmp_path / "nobody"])
    assert state(before.path) == before.manifest
    WeightDataset.open(before.path).verify()


def test_a_dataset_of_another_layout_is_refused_with_the_difference(make_dataset, layout):
    sizes = {s.target: (s.rank, s.inputs, s.outputs) for s in layout.slots}
    first, second = make_dataset("a"), make_dataset("b", prefix="q", layout=ParameterLayout(sizes, 4.0))
    with pytest.raises(LayoutMismatchError, match=r"b .*a: scale 4 instead of 3"):
        add_rows(first.path, [second.path])
