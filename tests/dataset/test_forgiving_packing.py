"""Packing is forgiving where nothing can go wrong: folders, other labels, facts that are filled in later."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from w2w_hub import Adapter, ParameterLayout, WeightDataset, add_rows, pack_adapters, write_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.dataset import SplitRule, relabel_rows
from w2w_hub.dataset.changes.pack import IncompleteRecordWarning
from w2w_hub.dataset.groups import SharedPersonWarning, warn_of_shared_persons
from w2w_hub.errors import (
    BaseModelMismatchError,
    InitializationError,
    InvalidInputError,
    MissingPathError,
    NotACheckpointError,
    UnknownNameError,
    W2WError,
)
from w2w_hub.lora.adapter import LoraFactors

PEOPLE = ("ann", "bob", "cleo")


def w2w(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, layout: ParameterLayout) -> Path:
    """Nine adapters, three of a person; read only."""
    root = tmp_path_factory.mktemp("loras")
    for i, person in enumerate(PEOPLE):
        for take in range(3):
            row = np.random.default_rng(10 * i + take).normal(size=layout.size)
            write_adapter(layout.unflatten(row), root / f"{person}-{take}", ("peft",))
    return root


@pytest.fixture
def loras(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "loras"))


def table(*more: str) -> pd.DataFrame:
    ids = [f"{person}-{take}" for person in (*PEOPLE, *more) for take in range(3)]
    return pd.DataFrame({"id": ids, "person": [name[:-2] for name in ids], "Age": np.arange(len(ids)) + 20.5})


def base_model(folder: Path, layout: ParameterLayout, seed: int = 0) -> Path:
    """A diffusers folder with just the weights that the layout adapts."""
    rng = np.random.default_rng(seed)
    tensors = {
        f"{slot.target.module}.weight": rng.normal(size=slot.weight_shape).astype(np.float32) for slot in layout.slots
    }
    (folder / "unet").mkdir(parents=True)
    save_file(tensors, folder / "unet" / "diffusion_pytorch_model.safetensors")
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# ------------------------------------------------------------------ folders
def test_a_folder_is_scanned_and_gives_the_rows_of_its_adapters(loras: Path, tmp_path: Path) -> None:
    named = pack_adapters(sorted(loras.iterdir()), tmp_path / "named")
    (loras / "README.md").write_text("mine")
    (loras / "old.ckpt").write_bytes(b"x")
    save_file({"weight": np.zeros(3, np.float32)}, loras / "vae.safetensors")
    shutil.copytree(named.path, loras / "packed")
    with pytest.warns(UserWarning, match="README.md") as told:
        found = pack_adapters(loras, tmp_path / "found")
    assert found.ids == named.ids
    assert found.manifest.digest == named.manifest.digest
    skipped = [str(w.message) for w in told if "old.ckpt" in str(w.message)]
    assert len(skipped) == 1
    assert all(name in skipped[0] for name in ("README.md", "vae.safetensors", "packed"))


def test_files_below_folders_are_named_by_what_tells_them_apart(loras: Path, tmp_path: Path, layout: Any) -> None:
    for name in ("ann", "bob"):
        write_adapter(layout.unflatten(np.ones(layout.size)), tmp_path / "runs" / name / "final", ("diffusers",))
    assert pack_adapters(tmp_path / "runs", tmp_path / "people").ids == ("ann", "bob")
    (tmp_path / "mixed").mkdir()
    shutil.move(loras / "ann-0", tmp_path / "mixed" / "zoe")
    ids = pack_adapters([tmp_path / "mixed", loras / "bob-1"], tmp_path / "both", ids=["x", "y"]).ids
    assert ids == ("x", "y")


def test_add_scans_a_folder_too(loras: Path, tmp_path: Path, make_dataset: Callable[..., WeightDataset]) -> None:
    (loras / "notes.txt").write_text("mine")
    dataset = make_dataset()
    assert w2w("add", dataset.path, loras).exit_code == 0
    grown = WeightDataset.open(dataset.path)
    assert grown.ids == (*dataset.ids, *sorted(path.name for path in loras.iterdir() if path.is_dir()))


def test_a_folder_without_adapters_and_what_is_not_there_are_named(loras: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    (tmp_path / "empty" / "labels.csv").write_text("id\n")
    with pytest.raises(NotACheckpointError) as caught:
        pack_adapters([loras, tmp_path / "empty"], tmp_path / "out")
    assert caught.value.path == tmp_path / "empty"
    packed = pack_adapters(loras / "ann-0", tmp_path / "packed").path
    with pytest.raises(NotACheckpointError) as whole:
        pack_adapters([loras, packed], tmp_path / "out")
    assert whole.value.path == packed
    for paths in ([tmp_path / "nothing-*"], [loras, tmp_path / "nothing-*", tmp_path / "gone"]):
        with pytest.raises(MissingPathError) as missing:
            pack_adapters(paths, tmp_path / "out")
        assert missing.value.path == tmp_path / "nothing-*"
    assert not (tmp_path / "out").exists()


def test_an_adapter_in_a_folder_that_cannot_be_read_is_an_error_and_not_skipped(loras: Path, tmp_path: Path) -> None:
    file = loras / "bob-1" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(W2WError, match="bob-1"):
        pack_adapters(loras, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------- extra labels
def test_labels_of_other_rows_are_refused_and_name_the_option_that_ignores_them(loras: Path, tmp_path: Path) -> None:
    table("gina").to_csv(tmp_path / "labels.csv", index=False)
    words = ("pack", loras, "--out", tmp_path / "people", "--labels", tmp_path / "labels.csv")
    refused = w2w(*words)
    assert refused.exit_code == 2
    assert "'gina-0'" in refused.stderr
    assert "--extra-labels ignore" in refused.stderr
    taken = w2w(*words, "--extra-labels", "ignore")
    assert taken.exit_code == 0
    assert "'gina-0'" in taken.stderr
    exact = pack_adapters(loras, tmp_path / "exact", labels=table())
    assert WeightDataset.open(tmp_path / "people").manifest.digest == exact.manifest.digest


def test_every_function_that_takes_labels_may_ignore_those_of_other_rows(
    loras: Path, tmp_path: Path, layout: ParameterLayout
) -> None:
    ids = ["ann-0", "ann-1"]
    rows = np.random.default_rng(0).normal(size=(2, layout.size)).astype(np.float32)
    extra: dict[str, Any] = {"labels": table("gina"), "extra_labels": "ignore"}
    calls: dict[str, Callable[..., WeightDataset]] = {
        "write": lambda **o: write_dataset(rows, tmp_path / "written", layout=layout, ids=ids, **o),
        "relabel": lambda **o: relabel_rows(tmp_path / "written", **o),
        "add": lambda **o: add_rows(tmp_path / "written", [loras / "bob-2"], **o),
    }
    for call in calls.values():
        with pytest.raises(UnknownNameError):
            call(labels=table("gina"))
        with pytest.warns(UserWarning, match="gina|ann|bob"):
            found = call(**extra)
    assert found.labels["Age"].tolist() == [20.5, 21.5, 25.5]
    twice = pd.concat([table(), pd.DataFrame({"id": ["gina-0"] * 2})])
    relabel_rows(found.path, twice, extra_labels="ignore")
    with pytest.raises(InvalidInputError):
        relabel_rows(found.path, pd.concat([table(), table()]), extra_labels="ignore")
    with pytest.raises(InvalidInputError):
        relabel_rows(found.path, table(), extra_labels="drop")


# ------------------------------------------------------------ missing facts
def test_each_fact_that_is_not_stated_is_named_once_with_the_option_that_fills_it_in(
    loras: Path, tmp_path: Path, layout: ParameterLayout
) -> None:
    base = base_model(tmp_path / "base", layout)
    given: dict[str, dict[str, Any]] = {
        "--initialization": {"initialization": "seed-0"}, "--base": {"base": base}, "--license": {"license": "mit"},
    }  # fmt: skip

    def told(folder: str, **options: Any) -> set[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pack_adapters(loras, tmp_path / folder, parquet_view=False, **options)
        found = [str(w.message) for w in caught if w.category is IncompleteRecordWarning]
        words = {option for option in given for text in found if f" {option} " in text}
        assert len(found) == len(words)
        return words

    assert told("none") == set(given)
    for number, (option, options) in enumerate(given.items()):
        assert told(f"one-{number}", **options) == set(given) - {option}
    assert told("all", initialization="seed-0", base=base, license="mit") == set()
    assert "--license" not in told("rows", labels=table().assign(licence="cc0-1.0"))


def test_relabel_fills_in_what_was_not_stated_and_changes_no_digest(
    loras: Path, tmp_path: Path, layout: ParameterLayout
) -> None:
    base = base_model(tmp_path / "base", layout)
    at_once = pack_adapters(loras, tmp_path / "at-once", initialization="seed-0", base=base, license="mit")
    before = pack_adapters(loras, tmp_path / "people")
    result = w2w("relabel", before.path, "--initialization", "seed-0", "--base", base, "--license", "mit")
    assert result.exit_code == 0, result.output
    after = WeightDataset.open(before.path)
    assert after.manifest.compatibility == at_once.manifest.compatibility
    assert after.manifest.licence == "mit"
    assert after.manifest.digest == before.manifest.digest
    assert "license: mit" in (after.path / "README.md").read_text()
    after.verify(deep=True)


def test_a_stated_fact_is_replaced_only_if_that_is_asked_for(
    loras: Path, tmp_path: Path, layout: ParameterLayout
) -> None:
    base, other = (base_model(tmp_path / f"base-{seed}", layout, seed) for seed in range(2))
    stated = pack_adapters(loras, tmp_path / "people", initialization="seed-0", base=base, license="mit")
    same = relabel_rows(stated.path, initialization="seed-0", base=base, license="mit")
    assert same.manifest.compatibility == stated.manifest.compatibility
    options: dict[str, tuple[Any, type[W2WError]]] = {
        "initialization": ("seed-1", InitializationError), "base": (other, BaseModelMismatchError),
        "license": ("cc0-1.0", InvalidInputError),
    }  # fmt: skip
    for name, (value, error) in options.items():
        with pytest.raises(error) as caught:
            relabel_rows(stated.path, **{name: value})
        assert caught.value.path == stated.path
        refused = w2w("relabel", stated.path, f"--{name}", value)
        assert refused.exit_code == 2
        assert "--force" in refused.stderr
    assert WeightDataset.open(stated.path).manifest == same.manifest
    replaced = relabel_rows(stated.path, initialization="seed-1", license="cc0-1.0", overwrite=True)
    assert replaced.manifest.compatibility.initialisation == "seed-1"
    assert w2w("relabel", stated.path, "--base", other, "--force").exit_code == 0
    found = WeightDataset.open(stated.path).manifest
    assert found.compatibility.base_digest not in (None, stated.manifest.compatibility.base_digest)
    assert found.licence == "cc0-1.0"


# ------------------------------------------------------------------- splits
def test_a_share_without_a_column_holds_out_single_rows_which_stay_there(loras: Path, tmp_path: Path) -> None:
    later = shutil.move(loras / "cleo-2", tmp_path / "cleo-2")
    result = w2w("pack", loras, "--out", tmp_path / "people", "--holdout", 0.25, "--initialization", "s")
    assert result.exit_code == 0
    assert "--split-by" in result.stderr
    people = WeightDataset.open(tmp_path / "people")
    assert people.manifest.splits == {"train": 6, "test": 2}
    assert people.manifest.split_rule == {"column": "id", "holdout": 0.25, "seed": 0, "split": "test"}
    assert (
        people.manifest.digest
        == pack_adapters(loras, tmp_path / "again", split_rule=SplitRule(holdout=0.25)).manifest.digest
    )
    grown = add_rows(people.path, later, initialization="s")
    assert grown.labels["split"].iloc[:8].tolist() == people.labels["split"].tolist()
    grown.verify(deep=True)
    assert w2w("relabel", people.path, "--holdout", 0.5).exit_code == 0
    assert WeightDataset.open(people.path).manifest.splits == {"train": 5, "test": 4}


def test_another_share_keeps_the_groups_of_a_dataset(loras: Path, tmp_path: Path) -> None:
    people = pack_adapters(loras, tmp_path / "people", labels=table(), split_rule=SplitRule("person", 0.3))
    assert w2w("relabel", people.path, "--holdout", 0.7).exit_code == 0
    after = WeightDataset.open(people.path)
    assert after.manifest.split_rule == {"column": "person", "holdout": 0.7, "seed": 0, "split": "test"}
    assert (after.labels.groupby("person")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("columns", "ids", "word"),
    [
        ({"person": list("aabbcc")}, None, "person"), ({"Person_ID": [1, 1, 2, 2, 3, 3]}, None, "Person_ID"),
        ({"subjectName": list("aabbcd")}, None, "subjectName"),
        ({}, ["ann-1", "ann-2", "bob_1", "bob_2", "c", "d"], "ann-1"),
        ({"person": list("abcdef")}, None, ""), ({"Beard": [True, False] * 3}, None, ""),
        ({"Hair": ["red", "grey"] * 3}, None, ""), ({}, None, ""), ({"personality": list("aabbcc")}, None, ""),
    ],
)  # fmt: skip
def test_several_rows_of_a_person_are_suspected_by_labels_and_ids(
    columns: dict[str, Any], ids: list[str] | None, word: str, tmp_path: Path, layout: ParameterLayout
) -> None:
    names = ids or [f"person-{i:04d}" for i in range(6)]
    rows, labels = np.ones((6, layout.size), np.float32), pd.DataFrame({"id": names, **columns})

    def told(folder: str, **options: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {"labels": labels, "parquet_view": False, **options}
            write_dataset(rows, tmp_path / folder, layout=layout, ids=names, **options)
        return [str(w.message) for w in caught if w.category is SharedPersonWarning]

    for number, rule in enumerate((None, SplitRule(holdout=0.3))[: 1 + bool(word)]):
        found = told(f"d{number}", split_rule=rule)
        assert len(found) == bool(word)
        assert all(word in text for text in found)
    if word in columns:
        assert told("given", labels=labels.assign(split=["train", "test"] * 3)) == []
        assert told("groups", split_rule=SplitRule(word, 0.4)) == []


@pytest.mark.parametrize(("values", "each", "suspected"), [(60, 2, True), (60, 5, False), (13, 3, False)])
def test_a_text_column_of_many_values_with_few_rows_each_seems_to_name_persons(
    values: int, each: int, suspected: bool, tmp_path: Path
) -> None:
    codes = pd.array([f"code {i % values}" for i in range(values * each)], dtype="string")
    table = pd.DataFrame({"id": [f"row{i:05d}x" for i in range(len(codes))], "split": "train", "look": codes})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_shared_persons(table, None, tmp_path)
    assert [w.category for w in caught] == [SharedPersonWarning] * suspected


# ------------------------------------------------------------------ messages
def test_a_row_that_is_there_already_is_named_with_its_dataset(
    loras: Path, make_dataset: Callable[..., WeightDataset]
) -> None:
    dataset = add_rows(make_dataset().path, loras)
    for sources in ([loras / "bob-1"], [loras]):
        with pytest.raises(InvalidInputError) as caught:
            add_rows(dataset.path, sources)
        assert caught.value.name == ("bob-1" if len(sources) == 1 and sources[0].name == "bob-1" else "ann-0")
        assert str(dataset.path) in str(caught.value)


def test_what_comes_next_can_be_run_as_it_is_written(
    loras: Path, tmp_path: Path, layout: ParameterLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    for out, options in {
        "my people": (), "stated": ("--initialization", "s"), "split": ("--initialization", "s", "--holdout", 0.3),
    }.items():  # fmt: skip
        told = w2w("pack", loras, "--out", out, *options).stderr
        command = shlex.split(told.rpartition("next: ")[2])
        assert command[:2] == ["w2w", "build"]
        assert w2w(*command[1:]).exit_code == 0, command
    single = w2w("pack", loras / "ann-0", "--out", "one").stderr.rpartition("next: ")[2]
    assert shlex.split(single)[:3] == ["w2w", "add", "one"]


def test_one_is_not_many_in_any_message_about_one_row(loras: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("id,Age\nghost,3\n")
    out = tmp_path / "one"
    told = [w2w("pack", loras / "ann-0", "--out", out), w2w("verify", out), w2w("dedupe", out)]
    told += [w2w("add", out, loras / "ann-0"), w2w("relabel", out, "--labels", tmp_path / "l.csv")]
    told += [w2w("pack", loras / "bob-0", "--out", tmp_path / "b", "--labels", tmp_path / "l.csv")]
    told += [w2w("build", out, "--out", tmp_path / "s")]
    for result in told:
        assert not re.search(r"\b1 (rows|labels|pairs|files|redundant equal rows)\b", result.stderr), result.stderr


def test_rows_of_a_default_scale_among_rows_of_a_stated_one_are_named(
    loras: Path, tmp_path: Path, layout: ParameterLayout
) -> None:
    plain = layout.unflatten(np.random.default_rng(0).normal(size=layout.size))
    pairs = {t: LoraFactors(p.A, p.B, 1.0) for t, p in plain.factors.items()}
    file = tmp_path / "gina" / "pytorch_lora_weights.safetensors"
    write_adapter(Adapter(pairs), file.parent, ("diffusers",))
    save_file({k: v for k, v in load_file(file).items() if "alpha" not in k}, file)  # states no scale
    for first, second in ((loras / "ann-0", file.parent), (file.parent, loras / "ann-0")):
        with pytest.warns(UserWarning, match="gina") as caught:
            pack_adapters([first, second], tmp_path / f"from-{first.name}", parquet_view=False)
        assert {w.filename for w in caught} == {__file__}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pack_adapters([file.parent], tmp_path / "alone")
    assert {w.category for w in caught} == {IncompleteRecordWarning}
    assert {w.filename for w in caught} == {__file__}
