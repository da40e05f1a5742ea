"""Options that commands with edits share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from .common import FiniteType, complete_attributes

F = TypeVar("F", bound=Callable[..., Any])
V = TypeVar("V")


class ValueType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``ATTRIBUTE=VALUE``, for instance ``Beard=true`` or ``hair_color=RED``."""

    name = "attribute=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, sign, wanted = str(value).partition("=")
        if not name or not sign or not wanted:
            self.fail(f"{value!r} is not ATTRIBUTE=VALUE, for instance Beard=true", param, ctx)
        return name, wanted


def set_options(function: F) -> F:
    """Add the option ``--set``, as `wanted`."""
    return click.option(
        "--set", "wanted", multiple=True, type=ValueType(), metavar="ATTRIBUTE=VALUE",
        help="Set an attribute: true or false, a level, or a number. May be repeated.",
    )(function)  # fmt: skip


def edit_options(function: F) -> F:
    """Add the options of an edit: ``--strength`` as `factor`, ``--unit``, ``--layers`` and ``--preserve``."""
    for option in (
        click.option(
            "--preserve", multiple=True, metavar="ATTRIBUTE", shell_complete=complete_attributes,
            help="Attribute whose score must not change. May be repeated.",
        ),
        click.option(
            "--layers", multiple=True, metavar="NAME",
            help="Limit the edit to layers: down, mid, up, up.1, a part of module paths (attn2), or a pattern "
            "('up_blocks.*'). May be repeated.",
        ),
        click.option(
            "--unit", type=click.Choice(["sd", "typical"]), default="sd", show_default=True,
            help="Unit of pushes: standard deviations of the population, or what each direction recommends.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def factor_option(function: F) -> F:
    """Add the option ``--strength`` of sets, as `factor`."""
    return click.option(
        "--strength", "factor", type=FiniteType(0, 10),
        help="Factor of what --set adds.  [default: the one that SPACE was calibrated to]",
    )(function)  # fmt: skip


def once(pairs: Sequence[tuple[str, V]], advice: str) -> dict[str, V]:
    """Return (attribute, value) pairs as a mapping; an attribute that is given twice is a usage error."""
    twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if twice:
        raise click.UsageError(f"{twice[0]} is given twice; {advice}")
    return dict(pairs)


def layer_names(given: Sequence[str]) -> list[str] | None:
    """Return the names of layers of ``--layers``, which may be joined by commas; None without any."""
    return [name for words in given for name in words.split(",")] or None
