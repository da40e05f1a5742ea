"""Regular expressions in a stranger's configuration: as PEFT reads them, in bounded time, or refused by name."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.dialects.test_detection import MODULE, A, B
from w2w_hub import read_adapter
from w2w_hub.common import limits
from w2w_hub.dialects import patterns
from w2w_hub.dialects.patterns import PatternTable
from w2w_hub.errors import CorruptFileError, UnsupportedFormatError, W2WError


def by_peft(values: dict[str, int], module: str) -> int:
    """What the real PEFT states for a module."""
    from peft.utils.other import get_pattern_key

    return values.get(get_pattern_key(list(values), module), 0)


PIECES = st.sampled_from([
    "a", "b", "_", "1", ".", r"\.", ".*", "+", "*", "?", "(", ")", "|", "[ab]", "[^a.]", "-", "{2}", "{1,2}", "{,2}",
    "^", "$", r"\d", r"\w", r"\b", r"\B", r"\Z", "(?:", "(?i:", "(?P<x>", "A", r"\-", "[", "x", "[:a:]", "(?=", "(?i)",
])  # fmt: skip
MODULES = st.text(alphabet="ab_1.A-", max_size=6)


@given(keys=st.lists(st.lists(PIECES, max_size=5).map("".join), min_size=1, max_size=3, unique=True), module=MODULES)
@settings(deadline=None, max_examples=200)
def test_a_key_means_what_it_means_to_peft_or_is_refused(keys, module):
    values = {key: i + 1 for i, key in enumerate(keys)}
    try:
        table = PatternTable(values, "config")
    except W2WError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = by_peft(values, module)
        except re.error:
            assume(False)
    assert table.value(module, 0) == expected


@given(keys=st.lists(MODULES, min_size=1, max_size=4, unique=True), module=MODULES, front=st.sampled_from(["", "^"]))
@settings(deadline=None, max_examples=200)
def test_plain_names_are_looked_up_with_the_result_of_pefts_matching(keys, module, front):
    values = {front + key: i + 1 for i, key in enumerate(keys)}
    assert PatternTable(values, "config").value(module, 0) == by_peft(values, module)


def test_the_first_key_that_matches_counts_whether_a_name_or_an_expression():
    for keys in (["to_q", r".*\.to_[qk]"], [r".*\.to_[qk]", "to_q"], ["x.to_q", "a.b.to_q", "to_q"], ["b.to.q", "^a"]):
        values = {key: i + 1 for i, key in enumerate(keys)}
        for module in ("a.b.to_q", "b.to_q", "to_q", "a.b.to_k", "a"):
            assert PatternTable(values, "config").value(module, 0) == by_peft(values, module)


@pytest.mark.parametrize(
    "pattern",
    ["a(?=b)", "a(?!b)", "(?<=a)b", r"(a)\1", "(?P<n>a)(?P=n)", "(?x:(a+) +)Z", "(?>a+)b", "a++", "(?i)a", "(?s:.)",
     r"a\Z", r"\x61", r"\pL", "[[:alpha:]]", "a{,9}", "a{2000}", "(?(1)a|b)", "(?#b)a", "?i)(a",
     "ünet", "a" * 2000 + "+"],
)  # fmt: skip
def test_what_re2_cannot_match_or_reads_differently_is_refused_by_its_name(peft_folder, pattern, capfd):
    config = peft_folder() / "adapter_config.json"
    data = json.loads(config.read_text())
    for field in ("rank_pattern", "alpha_pattern"):
        config.write_text(json.dumps(data | {field: {"to_q": 2, pattern: 2}}))
        with pytest.raises(UnsupportedFormatError) as caught:
            read_adapter(config.parent)
        assert field in str(caught.value)
        assert pattern.split("\\")[0][:4] in str(caught.value)
        assert len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")  # RE2's own log is silent


@pytest.mark.parametrize("pattern", ["a(", "a)", "[a", "a\\", "*a", "\x1b]0;owned\x07("])
def test_what_is_no_regular_expression_is_corrupt_and_shown_escaped(peft_folder, pattern, capfd):
    config = peft_folder() / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rank_pattern": {pattern: 2}}))
    with pytest.raises(CorruptFileError, match="rank_pattern") as caught:
        read_adapter(config.parent)
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


MANY = {
    "3,000 expressions": {f"x{i}.*y": 2 for i in range(3000)},
    "a pattern of 20 MB": {"a|" * 10**7: 2},
    "a pattern that is too long": {"a+" * limits.MAX_PATTERN_CHARS: 2},
    "together too long": {f"{i}" + "a?" * 400: 2 for i in range(60)},
    "100,000 names": {f"m{i}": 2 for i in range(100_000)},
    "four repeats, nested": {"((((a.*)*b.*)*c.*)*d.*)*Z": 2},
    "the largest that are taken": {f"{i:03}(.?.?.?.?.?.?){{15}}(.*b.*a){{4}}Z": 2 for i in range(200)},
}  # fmt: skip


@pytest.mark.parametrize("keys", MANY.values(), ids=MANY)
@pytest.mark.parametrize("place", ["config", "header"])
def test_no_number_or_size_of_patterns_takes_more_than_seconds(tmp_path, keys, place):
    paths = itertools.product(range(4), range(5), range(10))
    modules = [f"down_blocks.{i}.attentions.{j}.transformer_blocks.{k}.attn1.to_q" for i, j, k in paths]
    tensors = {f"base_model.model.{m}.lora_{n}.weight": t for m in modules for n, t in (("A", A), ("B", B))}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "alpha_pattern": keys}
    metadata = None
    if place == "header":
        metadata = {"lora_adapter_metadata": json.dumps(config)}
    else:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata=metadata)
    began = time.process_time()
    with contextlib.suppress(W2WError):
        assert {pair.scale for pair in read_adapter(tmp_path).factors.values()} == {1.0}
    assert time.process_time() - began < 8


def test_patterns_are_counted_before_any_is_compiled(monkeypatch):
    import re2

    monkeypatch.setattr(re2, "compile", lambda *_: pytest.fail("a pattern was compiled"))
    for keys in (dict.fromkeys([f"x{i}.*y" for i in range(limits.MAX_PATTERNS + 1)], 1), {"a+": 1, "b+" * 4000: 1}):
        with pytest.raises(UnsupportedFormatError):
            PatternTable(keys, "config")


def test_lists_of_modules_and_their_patterns_in_a_configuration_are_not_matched_at_all(peft_folder):
    config = peft_folder() / "adapter_config.json"
    evil = dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), "(a+)+(?=b)\\1" * 300)
    config.write_text(json.dumps(json.loads(config.read_text()) | evil))
    assert len(read_adapter(config.parent).factors) == 16


def test_a_module_name_that_no_model_has_is_not_matched_against_expressions(tmp_path):
    table = PatternTable({"a+b": 2}, "config")
    for module in ("a\nb", "é", "a" * 5000):
        with pytest.raises(UnsupportedFormatError):
            table.value(module, 0)
    assert np.isclose(PatternTable({"to_q": 3}, "config").value(MODULE, 0), 3)


@pytest.mark.parametrize("key", ["to_q", r".*\.to_[qv]", r"to.q"])
def test_the_work_of_all_modules_is_counted_together(monkeypatch, key):
    """One module is quickly matched; very many of them are not, and end."""
    monkeypatch.setattr(patterns, "MAX_PATTERN_WORK", 5_000)
    table, matched = PatternTable({key: 3}, "here"), 0
    while matched <= 5_000:
        try:
            assert table.value("a.to_q", 1) == 3
        except UnsupportedFormatError:
            break
        matched += 1
    assert 1 < matched <= 5_000
