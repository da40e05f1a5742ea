"""Old names, subjects of errors, names that are imported when they are used, and tables of other packages."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path

import pytest

from w2w_hub.common.datasets_feature import NAME, register
from w2w_hub.common.deprecated import deprecated_alias, renamed_keywords, renamed_names, warn_renamed
from w2w_hub.common.lazy import lazy_names
from w2w_hub.common.pipelines import (
    IMAGE_TO_IMAGE,
    PIPELINES,
    TEXT_TO_IMAGE,
    family_of,
    pipeline_row,
    text_to_image_row,
)
from w2w_hub.common.subject import HubFile, about
from w2w_hub.errors import CorruptFileError
from w2w_hub.store.manifest import parse_json


def test_an_old_keyword_is_the_new_one_and_both_together_are_an_error():
    @renamed_keywords(believe="trust", out="path")
    def function(*args: object, **options: object) -> tuple[object, ...]:
        return args, options

    for given, told in (({"believe": 1, "out": 2}, 2), ({"believe": 1, "path": 2}, 1), ({"trust": 1, "path": 2}, 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert function(0, **given) == ((0,), {"trust": 1, "path": 2})
        assert [(w.category, w.filename) for w in caught] == [(DeprecationWarning, __file__)] * told
    for given in ({"believe": 1, "trust": 1}, {"out": None, "path": None}, {"believe": 1, "trust": 2, "out": 3}):
        with pytest.raises(TypeError):
            function(**given)


def test_a_warning_of_an_old_name_points_to_the_line_that_uses_it():
    def new() -> int:
        return 7

    module = types.ModuleType("some_module")
    module.new = new  # type: ignore[attr-defined]
    module.__getattr__ = renamed_names("some_module", old="new")  # type: ignore[method-assign]
    sys.modules["some_module"] = module
    alias = deprecated_alias("old", new)

    def inner() -> None:
        warn_renamed("a", "b")

    try:
        for use in (lambda: module.old() == 7, lambda: alias() == 7, lambda: inner() is None):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert use()
            assert [(w.filename, w.lineno) for w in caught] == [(__file__, use.__code__.co_firstlineno)]
        with pytest.raises(AttributeError):
            module.neither  # noqa: B018
    finally:
        del sys.modules["some_module"]


def test_every_lazy_name_is_listed_beside_what_is_there_and_found_in_its_module():
    import w2w_hub

    names = dir(w2w_hub)
    assert {"errors", *w2w_hub.__all__} - {"__version__"} <= set(names)
    look_up, listed = lazy_names("w2w_hub", {"Target": "lora.adapter"})
    assert "Target" in listed()
    assert "__name__" in listed()
    assert look_up("Target") is importlib.import_module("w2w_hub.lora.adapter").Target
    with pytest.raises(AttributeError):
        look_up("nothing")


def test_a_feature_is_registered_again_in_the_place_of_the_stand_in():
    table: dict[str, type] = {}

    def register_feature(feature: type, name: str) -> None:
        assert name not in table, "datasets warns of a name that it has"
        table[name] = feature

    features = types.SimpleNamespace(_FEATURE_TYPES=table, register_feature=register_feature)
    for feature in (int, float):
        register(features, feature)  # type: ignore[arg-type]
        assert table == {NAME: feature}


def test_a_family_has_one_text_to_image_pipeline_which_comes_first():
    for row in PIPELINES:
        assert pipeline_row(row.stock) is row
        family = family_of(row.stock)
        assert row in family
        assert [one.task == TEXT_TO_IMAGE for one in family] == [True] + [False] * (len(family) - 1)
        assert text_to_image_row(row.stock) is family[0]
    assert any(row.task == IMAGE_TO_IMAGE for row in PIPELINES)
    assert family_of("Another") == ()
    assert pipeline_row("Another") is None
    assert text_to_image_row("Another") is text_to_image_row(None) is PIPELINES[0]


def test_the_subject_of_an_error_is_all_that_is_known_of_the_place():
    place = HubFile("org/people", "v1.0.0", "manifest.json")
    assert about(place) == {"repo_id": "org/people", "revision": "v1.0.0", "name": "manifest.json"}
    assert about(Path("a/b")) == {"path": Path("a/b")}
    assert about("these bytes") == about(None) == {}
    for where in (place, Path("a/b")):
        for bad in (b"{", b"[]", b'{"a": 1, "a": 2}'):
            with pytest.raises(CorruptFileError) as caught:
                parse_json(bad, where)
            assert caught.value.data() == about(where)
            assert str(where) in str(caught.value)
