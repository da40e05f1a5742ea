"""The options of a new dataset: one object, each field a keyword too, and old names for one release."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import numpy as np
import pytest

from w2w_hub import ParameterLayout, pack_adapters, write_adapter, write_dataset
from w2w_hub.cli import main
from w2w_hub.dataset import DatasetOptions, find_duplicates
from w2w_hub.dataset.changes.options import OptionKeywords
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.errors import InvalidInputError
from w2w_hub.lora.adapter import Target

SMALL = ParameterLayout({Target("unet", "mid_block.attentions.0.proj_in"): (1, 3, 4)}, 2.0)
ROWS = np.random.default_rng(0).normal(size=(3, SMALL.size)).astype(np.float32)


def test_an_option_reads_the_same_from_the_object_and_as_a_keyword_which_wins(tmp_path):
    options = DatasetOptions(name="n", dtype="float16", license="mit", initialization="seed-0")
    one = write_dataset(ROWS, tmp_path / "a", layout=SMALL, options=options)
    two = write_dataset(
        ROWS, tmp_path / "b", layout=SMALL, name="n", dtype="float16", license="mit", initialization="seed-0"
    )
    assert one.manifest == two.manifest
    assert one.manifest.licence == "mit"
    assert one.manifest.compatibility.initialisation == "seed-0"
    assert write_dataset(ROWS, tmp_path / "c", layout=SMALL, options=options, dtype="float32").dtype == np.float32


@pytest.mark.parametrize("function", [write_dataset, pack_adapters])
def test_every_option_is_in_the_signature_and_known_to_type_checkers(function):
    names = {field.name for field in fields(DatasetOptions)}
    assert names | {"options"} <= set(inspect.signature(function).parameters)
    assert set(OptionKeywords.__annotations__) == names


def test_an_unknown_option_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        write_dataset(ROWS, tmp_path / "d", layout=SMALL, colour="red")
    with pytest.raises(InvalidInputError, match="options"):
        write_dataset(ROWS, tmp_path / "d", layout=SMALL, options={"dtype": "float16"})


def test_a_compatibility_record_excludes_what_it_states_itself():
    with pytest.raises(InvalidInputError, match="compatibility"):
        DatasetOptions(compatibility=Compatibility(), initialization="seed-0")


def test_old_keywords_and_methods_work_with_a_warning_that_names_the_new(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"license=|initialization="):
        ds = write_dataset(ROWS, tmp_path / "d", layout=SMALL, licence="mit", initialisation="seed-0")
    assert (ds.manifest.licence, ds.manifest.compatibility.initialisation) == ("mit", "seed-0")
    with pytest.warns(DeprecationWarning, match="row_indices"):
        assert ds.numbers([2, 0]).tolist() == [2, 0]
    with pytest.warns(DeprecationWarning, match="release"):
        ds.seen(0, 1)
    with pytest.warns(DeprecationWarning, match="start="):
        assert ds.view(first=0, last=2).shape == (2, SMALL.size)
    out = np.empty((1, SMALL.size), np.float32)
    with pytest.warns(DeprecationWarning, match="indices="):
        ds.read_into(numbers=np.array([1]), out=out)
    np.testing.assert_array_equal(out[0], ROWS[1])
    with pytest.warns(DeprecationWarning, match="centered="):
        found = find_duplicates(ds, centred=False)
    with pytest.warns(DeprecationWarning, match="redundant_ids"):
        assert found.superfluous() == []


@pytest.mark.parametrize("words", [("--license", "--initialization"), ("--licence", "--initialisation")])
def test_the_command_line_takes_both_spellings(tmp_path, words):
    from click.testing import CliRunner

    write_adapter(SMALL.unflatten(ROWS[0]), tmp_path / "lora", ("peft",))
    line = ["pack", str(tmp_path / "lora"), "--out", str(tmp_path / "d"), words[0], "mit", words[1], "seed-0", "--json"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "d" / "manifest.json").read_text("utf-8")
    assert re.search(r'"licence":\s*"mit"', text)
    assert re.search(r'"initialisation":\s*"seed-0"', text)
