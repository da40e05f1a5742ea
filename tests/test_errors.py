"""Errors carry what they are about as attributes, and no code reads it out of their messages."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path

import pytest

from w2w_hub import errors
from w2w_hub.errors import HubNotFoundError, MissingPathError, UnknownNameError, W2WError

PRODUCT = Path(errors.__file__).parent
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, W2WError)]
DATA = {"path": Path("people/a.json"), "repo_id": "org/people", "revision": "v1.0.0", "name": "Beard", "what": "file"}
# messages of other libraries that are the only thing that tells their errors apart
FOREIGN = {"store/hub/client.py": {"Consistency check failed", "Invalid metadata in README.md"}}


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_of_an_error_keep_its_data(kind: type[W2WError]) -> None:
    error = kind("people/a.json is damaged", **DATA)
    error.add_note("while reading people")
    for again in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is kind
        assert (str(again), again.data(), again.__notes__) == (str(error), DATA, error.__notes__)
        if isinstance(again, OSError):
            assert again.filename == "people/a.json"


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_error_does_not_know_is_None(kind: type[W2WError]) -> None:
    error = kind("no subject")
    assert {name: getattr(error, name) for name in DATA if name != "what"} == dict.fromkeys(set(DATA) - {"what"})


def test_the_cached_revisions_of_a_missing_one_survive_a_pickle() -> None:
    error = HubNotFoundError("no v3", ["v1.0.0", "v2.0.0"], what="revision", repo_id="org/people")
    again = pickle.loads(pickle.dumps(error))
    assert (again.cached, again.what, again.repo_id) == (("v1.0.0", "v2.0.0"), "revision", "org/people")


def test_the_message_is_one_line_whichever_builtin_the_error_is_too() -> None:
    for error in (MissingPathError("a\nb", path="x"), UnknownNameError("a\nb", name="x")):
        assert str(error) == error.message == "a\\nb"


def test_no_product_code_looks_into_the_message_of_an_error() -> None:
    found = {
        f"{file.relative_to(PRODUCT)}:{node.lineno}"
        for file in PRODUCT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if reads_a_message(node, FOREIGN.get(file.relative_to(PRODUCT).as_posix(), set()))
    }
    assert not found


def reads_a_message(node: ast.AST, allowed: set[str]) -> bool:
    """Return whether a node decides by the text of an exception."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) and side.value in allowed for side in sides):
            return False
        return any(map(is_message, sides))
    cuts = ("startswith", "endswith", "partition", "rpartition", "find", "index")
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in cuts
        and is_message(node.func.value)
    )


def is_message(node: ast.AST) -> bool:
    """Return whether a node is ``str(error)``, ``error.args[0]`` or ``error.message``."""
    names = ("e", "error", "err", "exc", "exception", "failure", "problem", "told")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return isinstance(node.args[0], ast.Name) and node.args[0].id in names
    value = node.value if isinstance(node, ast.Subscript) else node
    return (
        isinstance(value, ast.Attribute)
        and value.attr in ("args", "message")
        and isinstance(value.value, ast.Name)
        and value.value.id in names
    )
