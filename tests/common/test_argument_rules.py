"""The rules of arguments: what each takes, at and beside its limits, and the plain value that the function gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2w_hub import errors
from w2w_hub.common.arguments import LARGEST, RULES, checked, info, listed, place, scheduler
from w2w_hub.common.constraints import (
    Rule,
    as_array,
    either,
    flag,
    has,
    instance,
    names,
    names_by_name,
    number,
    one_of,
    optional,
    path,
    positive,
    text,
    validated,
    whole,
)
from w2w_hub.common.equality import ByValue
from w2w_hub.errors import InvalidInputError, W2WError


def takes(rule: Rule, value: Any) -> bool:
    try:
        rule.checked(value, "it")
    except InvalidInputError:
        return False
    return True


@given(st.integers(-6, 6), st.none() | st.integers(-5, 5), st.none() | st.integers(-5, 5))
def test_a_whole_number_may_be_its_limits_and_nothing_outside(value: int, low: int | None, high: int | None) -> None:
    fits = (low is None or low <= value) and (high is None or value <= high)
    for given_value in (value, np.int8(value), np.int64(value)):
        assert takes(whole(low, high), given_value) == fits
        if fits:
            taken = whole(low, high).checked(given_value, "it")
            assert type(taken) is int
            assert taken == value
    for other in (float(value), str(value), True, np.True_, None):
        assert not takes(whole(low, high), other)


@given(st.integers(-4, 4), st.integers(-3, 3), st.integers(-3, 3))
def test_a_number_has_closed_and_open_limits(value: int, one: int, two: int) -> None:
    low, high = sorted((one, two))
    for given_value in (value, float(value), np.float32(value), Fraction(value)):
        assert takes(number(low, high), given_value) == (low <= value <= high)
        assert takes(number(above=low, below=high), given_value) == (low < value < high)
        assert takes(number(low, below=high), given_value) == (low <= value < high)
        assert takes(number(above=low, high=high), given_value) == (low < value <= high)
        assert takes(positive(), given_value) == (value > 0)
        assert type(number().checked(given_value, "it")) is float


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 10**400, True, np.True_, np.bool_(False), "1", None, 1j]
)
def test_a_value_that_is_not_a_finite_number_is_refused(value: Any) -> None:
    assert not takes(number(), value)
    assert not takes(positive(), value)


def test_each_rule_takes_its_kind_as_a_plain_value_and_nothing_else(tmp_path: Path) -> None:
    class Text(str):
        pass

    taken: list[tuple[Rule, Any, Any]] = [
        (flag(), True, True), (flag(), np.False_, False), (text(), Text("a"), "a"), (text(), "", ""),
        (path(), "a/b", Path("a/b")), (path(), tmp_path, tmp_path), (one_of("a", "b"), "b", "b"),
        (names(), ("a", "b"), ["a", "b"]), (names(), {"b": 1}.keys(), ["b"]), (names(), iter("ab"), ["a", "b"]),
        (names(), [], []), (names_by_name(), {"a": ("b",), "c": []}, {"a": ["b"], "c": []}),
        (instance(Path, "a path"), tmp_path, tmp_path), (has("split", "text"), "a b", "a b"),
        (optional(whole(1)), None, None), (optional(whole(1)), np.int8(2), 2),
        (either(whole(1), text()), np.int8(1), 1), (either(whole(1), text()), "0", "0"),
        (either(number(), whole()), 2, 2.0), (place(), "org/name", "org/name"), (place(), tmp_path, tmp_path),
        (scheduler(), "tcp://host:1", "tcp://host:1"), (listed(), "one", "one"), (listed(), [0, 1], [0, 1]),
        (info(), {"Age": {"unit": "years"}}, {"Age": {"unit": "years"}}), (info(), {}, {}),
    ]  # fmt: skip
    for rule, value, plain in taken:
        found = rule.checked(value, "it")
        assert found == plain, rule.expected
        assert type(found) is type(plain), rule.expected
    refused: list[tuple[Rule, list[Any]]] = [
        (flag(), [1, 0, "True", None]), (text(), [b"a", 1, None, Path("a")]),
        (path(), ["", "a\0b", b"a", 3, None]), (one_of("a", "b"), ["c", None, 1, ["a"], "A"]),
        (names(), ["ab", b"ab", {"a": 1}, 3, None, [1], ["a", None], np.array("a")]),
        (names_by_name(), [[("a", ["b"])], {"a": "b"}, {1: ["b"]}, {"a": [1]}, None]),
        (instance(Path, "a path"), ["a", None]), (has("split", "text"), [3, None]), (has("real", "a call"), [3]),
        (optional(whole(1)), [0, False]), (either(whole(1), text()), [0, None, 1.0]), (place(), [3, None]),
        (scheduler(), [3, None, object()]), (listed(), [np.array(3)]),
        (info(), [[], {"a": "b"}, {"a": {}, "b": 1}, None]),
    ]  # fmt: skip
    for rule, values in refused:
        for value in values:
            assert not takes(rule, value), (rule.expected, value)


class Text(str):
    """A string that is more than one, as NumPy's are."""


def kinds(value: Any) -> Any:
    """The types of a value and of everything in it."""
    if isinstance(value, dict):
        return type(value), [(kinds(k), kinds(v)) for k, v in value.items()]
    return type(value), [kinds(v) for v in value] if isinstance(value, (list, tuple)) else None


def test_what_a_rule_takes_is_of_pythons_own_types_down_to_the_elements() -> None:
    for rule, value, plain in (
        (text(), np.str_("a"), "a"), (text(), Text("a"), "a"), (one_of("a", "b"), np.str_("a"), "a"),
        (names(), [np.str_("a"), Text("b")], ["a", "b"]), (names(), np.array(["a", "b"]), ["a", "b"]),
        (names_by_name(), {np.str_("k"): (Text("a"),)}, {"k": ["a"]}), (flag(), np.False_, False),
        (whole(), np.uint8(3), 3), (number(), np.float32(0.5), 0.5), (number(), Fraction(1, 2), 0.5),
        (number(), 2, 2.0),
        (optional(either(whole(), names())), [np.str_("a")], ["a"]), (optional(text()), None, None),
        (positive(), np.int64(2), 2.0),
    ):  # fmt: skip
        taken = rule.checked(value, "it")
        assert taken == plain
        assert kinds(taken) == kinds(plain)


def test_a_call_gets_plain_values_by_position_and_name_and_defaults_and_others_as_they_are() -> None:
    @validated(count=whole(1), ratio=number(0, 1))
    def made(count: Any, ratio: Any = "unset", *rest: Any, **options: Any) -> tuple[Any, ...]:
        return count, ratio, rest, options

    count, ratio, rest, options = made(np.int32(3), np.float32(0.5), None, other=[1])
    assert (type(count), type(ratio)) == (int, float)
    assert (count, ratio, rest, options) == (3, 0.5, (None,), {"other": [1]})
    assert made(count=2)[1] == "unset"
    assert set(made.constraints) == {"count", "ratio"}  # type: ignore[attr-defined]
    with pytest.raises(InvalidInputError, match="made: count"):
        made(0)
    with pytest.raises(InvalidInputError, match="made: ratio"):
        made(1, ratio=2)
    with pytest.raises(TypeError):
        made()
    with pytest.raises(TypeError):
        validated(missing=whole())(lambda present: present)


def test_shared_rules_hold_for_parameters_of_their_names_and_a_call_may_have_its_own() -> None:
    @checked(seed=whole(5))
    def made(k: Any = None, seed: Any = 9, free: Any = None) -> Any:
        return k, seed, free

    assert made(None, 5, "x") == (None, 5, "x")
    assert set(made.constraints) == {"k", "seed"}  # type: ignore[attr-defined]
    for wrong in ({"k": 0}, {"seed": 4}, {"k": True}):
        with pytest.raises(InvalidInputError):
            made(**wrong)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("workers", 1, None), ("seed", 0, None), ("k", 1, None), ("start", 0, LARGEST), ("stop", 0, LARGEST),
        ("shard_size", 1, LARGEST), ("svd_rank", 1, 2**31 - 1),
    ],
)  # fmt: skip
def test_a_shared_rule_of_a_number_ends_where_it_says(name: str, least: int, most: int | None) -> None:
    rule = RULES[name]
    assert takes(rule, least)
    assert not takes(rule, least - 1)
    assert takes(rule, most or 2**70)
    if most is not None:
        assert not takes(rule, most + 1)


def test_shared_rules_take_none_just_where_it_means_something() -> None:
    optionals = {
        "base", "revision", "token", "cache_dir", "lazy", "compatibility", "name", "version", "column_info", "dtype",
        "dask", "trust", "component", "canonical", "alpha", "svd_rank", "k", "cosine", "ids", "sources", "adapters",
        "columns", "drop_columns", "key", "indices", "points", "dialects", "start_adapter", "workers",
    }  # fmt: skip
    assert {name for name, rule in RULES.items() if takes(rule, None)} == optionals
    assert {name for name, rule in RULES.items() if takes(rule, True)} >= {"token", "lazy", "centered", "parquet_view"}
    cosine = RULES["cosine"]
    assert [takes(cosine, value) for value in (0, 1e-9, 1, 1.0001, -0.5, math.nan)] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]


def test_an_array_is_taken_of_lists_arrays_and_tensors_without_a_copy_and_of_nothing_else() -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(3, dtype=np.float32)
    assert as_array(values, "it") is values
    assert np.array_equal(as_array([1, 2], "it"), [1, 2])
    tensor = torch.tensor([0.5, 1.5], requires_grad=True)
    assert np.array_equal(as_array(tensor, "it"), [0.5, 1.5])
    half = as_array(tensor.detach().to(torch.bfloat16), "it")
    assert half.dtype == np.float32
    assert np.array_equal(half, [0.5, 1.5])
    for wrong in (["a"], [True, False], np.array([True]), [[1], [1, 2]], None, [1j], object(), "3"):
        with pytest.raises(InvalidInputError):
            as_array(wrong, "it")


# ---------------------------------------------------------------- equality
@dataclass(eq=False)
class Held(ByValue):
    values: Any
    name: str = ""
    note: str = field(default="", compare=False)


@dataclass(eq=False)
class More(Held):
    pass


def test_things_that_hold_arrays_are_equal_by_class_shape_and_values_and_hash_so() -> None:
    first = Held(np.arange(6.0))
    same = [Held(np.arange(6.0)), Held(np.arange(6)), Held(np.arange(6.0), note="not compared"), first]
    other = [
        Held(np.arange(6.0).reshape(2, 3)), Held(np.arange(6.0) + 1), Held(np.arange(6.0), "named"),
        Held(list(range(6))), Held(3.0), Held(None), More(np.arange(6.0)), Held(np.arange(5.0)),
    ]  # fmt: skip
    for one in same:
        assert first == one
        assert one == first
        assert hash(first) == hash(one)
    for one in other:
        assert first != one
        assert one != first
    assert len({hash(one) for one in (first, other[0], other[1], other[2], other[6])}) == 5
    assert Held(np.zeros(2)) == Held(-np.zeros(2))
    assert hash(Held(np.zeros(2))) == hash(Held(-np.zeros(2)))
    assert Held({"a": [1]}) == Held({"a": [1]})
    assert hash(Held({"a": [1]})) == hash(Held({"a": [1]}))
    assert Held([1]) != Held([2])
    assert first != 3


# ---------------------------------------------------------------- errors
KINDS = {
    "InvalidInputError": (ValueError,), "MissingPathError": (FileNotFoundError,),
    "AlreadyExistsError": (FileExistsError,),
    "CorruptFileError": (ValueError,), "UnsafePathError": (errors.CorruptFileError,),
    "UnsupportedFormatError": (ValueError,), "ScaleConflictError": (ValueError,), "LayoutMismatchError": (ValueError,),
    "UnsafeCheckpointError": (errors.UnsafePathError, errors.UnsupportedFormatError),
    "NotACheckpointError": (errors.UnsupportedFormatError,), "BaseModelMismatchError": (ValueError,),
    "InitializationError": (ValueError,), "DatasetChangedError": (ValueError,), "ConvergenceError": (ArithmeticError,),
    "MissingPopulationError": (errors.InvalidInputError,),
    "UnknownNameError": (KeyError,), "RowIndexError": (errors.InvalidInputError, IndexError),
    "AdapterNotAppliedError": (RuntimeError,), "HubError": (OSError,),
    "HubNotFoundError": (errors.HubError, FileNotFoundError), "HubAccessError": (errors.HubError, PermissionError),
    "HubConflictError": (errors.HubError,), "VersionError": (errors.InvalidInputError,),
    "MissingExtraError": (ImportError,), "BrokenExtraError": (ImportError,),
    "BusyError": (BlockingIOError,), "DiskError": (OSError,), "WithdrawnError": (LookupError,),
    "OutOfMemoryError": (MemoryError,), "ContributionError": (ValueError,), "SignatureError": (ValueError,),
}  # fmt: skip


def test_each_error_is_also_what_a_caller_would_catch_and_only_such_are_raised() -> None:
    ours = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, W2WError) and kind is not W2WError
    }
    assert set(ours) == set(KINDS)
    for name, also in KINDS.items():
        assert issubclass(ours[name], W2WError)
        for kind in also:
            assert issubclass(ours[name], kind), name
    assert not issubclass(errors.HubError, ValueError)
    assert not issubclass(errors.InvalidInputError, OSError)


def test_an_error_carries_what_is_missing_and_what_is_cached() -> None:
    plain = errors.HubNotFoundError("no such file")
    assert (plain.what, plain.cached, str(plain)) == ("file", (), "no such file")
    full = errors.HubNotFoundError("gone", iter(["v1.0.0", "v2.0.0"]), what="cache")
    assert (full.what, full.cached) == ("cache", ("v1.0.0", "v2.0.0"))
    assert str(errors.UnknownNameError("no row 'x'")) == "no row 'x'"
    assert str(errors.UnknownNameError()) == ""
    assert errors.install_command("diffusers") in str(errors.missing_extra("peft", "diffusers"))
    assert "peft" in str(errors.missing_extra("peft", "diffusers"))
