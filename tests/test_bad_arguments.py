"""Every public call, every parameter, values of every wrong type: it works, or one typed line says what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from w2w_hub.errors import W2WError

from .bad_arguments import ODD, Row, World, public_calls, rows, takes
from .tiny_world import TinyWorld

ROWS = rows()
CALLS = {name: parameters for name, _, parameters in public_calls()}
FORWARDED = ("options",)  # of stock calls, which refuse what they do not take


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_space: Path, tiny_world: TinyWorld) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("bad-arguments")
        (folder / "here").mkdir()
        patch.chdir(folder / "here")  # where relative paths end up
        patch.setattr("w2w_hub.release.publish.push", lambda *args, **options: None)
        yield World(folder, tiny_space, tiny_world.base)


def test_every_public_call_has_a_row_with_a_kind_for_each_of_its_parameters() -> None:
    without = {
        name: missing
        for name, parameters in CALLS.items()
        if (missing := set(parameters) - set(FORWARDED) - set(ROWS[name].kinds if name in ROWS else ()))
    }
    assert not without, f"add a row, or a kind for the parameter, to tests/bad_arguments.py: {without}"
    assert set(CALLS) == set(ROWS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_valid_call_of_every_row_works(name: str, world: World) -> None:
    function, valid = ROWS[name].valid(world)
    function(**valid)


def cases() -> Iterator[Any]:
    for name in sorted(ROWS):
        for parameter in sorted(set(ROWS[name].kinds) & set(CALLS[name])):
            yield pytest.param(name, parameter, id=f"{name}-{parameter}")


@pytest.mark.parametrize(("name", "parameter"), cases())
def test_a_wrong_argument_is_one_typed_line_or_works(name: str, parameter: str, world: World) -> None:
    wrong = []
    for label in ROWS[name].odd:
        told = outcome(ROWS[name], parameter, label, world)
        if told:
            wrong.append(told)
    assert not wrong, f"{name}({parameter}=...): " + "; ".join(wrong)


def outcome(row: Row, parameter: str, label: str, world: World) -> str:
    """What is wrong with the call under one odd value; empty if nothing is."""
    may = label in takes(row.kinds[parameter])
    if may and label in row.left_out.get(parameter, ()):
        return ""
    function, valid = row.valid(world)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(**{**valid, parameter: ODD[label]()})
        except (W2WError, IndexError) as error:
            return "" if "\n" not in str(error) and str(error) else f"{label}: not one line"
        except Exception as error:
            return f"{label}: {type(error).__name__}: {str(error).splitlines()[:1]}"
    return "" if may else f"{label} is accepted"
