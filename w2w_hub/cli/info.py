"""The command `w2w info`, which says what anything is and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..common.text import few, one_line
from .common import examples, json_option
from .output import data, facts, print_json, say, table
from .tables import Cell, Column, as_text, terminal_width

if TYPE_CHECKING:
    from ..info import Info, Step

LONGEST_PATH = 500  # characters
MOST_NAMES = 8  # of a list that is shown in words
LEAST_PURPOSE = 32  # columns beside a command


@click.command(
    epilog=examples("w2w info my-lora", "w2w info org/people@v1.0.0", "w2w info w2w.lock --json", "w2w info downloads")
)
@click.argument("what")
@json_option
@click.pass_context
def info(ctx: click.Context, what: str, as_json: bool) -> None:
    """Say what a file, folder or repository is, in a few lines, and what can be done with it.

    WHAT may be anything; of a repository on the Hub (org/name@v1.0.0) only the manifest is fetched. Nothing is
    unpickled. The exit status is 1 if w2w does not know it. For all facts of adapters, and for folders of them, see
    w2w inspect.
    """
    from ..info import identify

    found = identify(what)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if found.kind == "unknown":
        ctx.exit(1)


def _show(found: Info) -> None:
    data(f"{one_line(found.path, LONGEST_PATH)}: {found.summary}")
    facts({f"  {name}": _brief(value) for name, value in found.facts.items() if value not in (None, "", [], {})})
    for warning in found.warnings:
        say(f"w2w: note: {warning}")
    if found.steps:
        data("next:")
        _show_steps(found.steps)
    data(*found.hints)


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(value) > MOST_NAMES:
        return few([as_text(each) for each in value], MOST_NAMES)
    return as_text(value)


def _show_steps(steps: Sequence[Step]) -> None:
    """Print commands with their purposes beside them, or below where that does not fit; a command is never broken."""
    longest = max(len(step.command) for step in steps)
    if longest + LEAST_PURPOSE <= terminal_width():
        rows = [(Cell(f"  {step.command}", "command"), step.purpose) for step in steps]
        table((Column(), Column(wraps=True)), rows, head=False)
        return
    for step in steps:
        table((Column(),), [(Cell(f"  {step.command}", "command"),)], head=False)
        data(f"      {step.purpose}")
