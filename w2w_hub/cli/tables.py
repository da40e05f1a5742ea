"""Lay out tables and lists of facts for the width of a terminal, in colors where it shows them.

Output into a file or a pipe is neither shortened nor wrapped nor colored, unless COLUMNS or FORCE_COLOR says so.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TextIO

import click

from ..common.text import few, one_line
from ..common.width import columns_of, padded, shortened, wrapped

WIDE = 10_000  # columns of what is no terminal: text of files is never longer
FIRST_ROWS = 64  # rows that decide the widths of columns; later rows are printed as they come
GAP = "  "
WIDEST = 60  # columns that longer text leaves unaligned where nothing is shortened
LEAST_WRAPPED, LEAST_BESIDE = 24, 12  # columns of text worth wrapping beside others, and beside its name
LONGEST_CELL = 1000  # characters of a cell
INDENT = 4  # spaces before text that goes on below its row
_COLORS: dict[str, dict[str, Any]] = {
    "good": {"fg": "green"}, "bad": {"fg": "red", "bold": True}, "warning": {"fg": "yellow"}, "name": {"bold": True},
    "command": {"fg": "cyan"}, "head": {"bold": True}, "quiet": {"dim": True},
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    title : str
    right : bool
        Align to the right, as numbers are.
    least : int or None
        Columns of the terminal to which it may be shortened; None if its text is always whole.
    keep_end : bool
        Leave out the beginning of longer text, as for paths.
    wraps : bool
        Text of any length, in further lines if it does not fit; only the last column of a table.
    drops : int
        Above 0, the column is left out of a terminal that is too narrow for it; the largest number first.
    """

    title: str = ""
    right: bool = False
    least: int | None = None
    keep_end: bool = False
    wraps: bool = False
    drops: int = 0


@dataclass(frozen=True)
class Cell:
    """A text with a color: a key of `_COLORS`."""

    text: str
    color: str = ""


def good_or_bad(good: bool, yes: str = "ok", no: str = "FAILED") -> Cell:
    """Return the cell of a check: `yes` in green or `no` in red."""
    return Cell(yes, "good") if good else Cell(no, "bad")


# ----------------------------------------------------------------- terminal
def terminal_width(stream: TextIO | None = None) -> int:
    """Return the columns to fill: of the terminal, or without one `WIDE`; the variable COLUMNS says otherwise."""
    stated = os.environ.get("COLUMNS", "")
    if not (stated.isdecimal() and int(stated)) and not _is_terminal(stream or sys.stdout):
        return WIDE
    return max(shutil.get_terminal_size().columns, 20)


def wants_color(stream: TextIO | None = None) -> bool:
    """Return whether to write colors: to a terminal that shows them, unless NO_COLOR or FORCE_COLOR says otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR", "")
    if forced:
        return forced != "0"
    return _is_terminal(stream or sys.stdout) and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False


def colored(text: str, color: str, on: bool | None = None) -> str:
    """Return visible text in a color of `_COLORS`, if colors are on."""
    style = _COLORS.get(color)
    return click.style(text, **style) if style and text and (wants_color() if on is None else on) else text


# -------------------------------------------------------------------- table
@dataclass(frozen=True)
class _Plan:
    """Which columns of a table are shown, and how wide.

    Attributes
    ----------
    shown : list of int
        The columns beside each other.
    widths : list of int
    below : int or None
        The column whose text is written below its row.
    dropped : tuple of int
        The columns that are left out.
    cuts : bool
        Whether text that is too long is shortened or wrapped.
    """

    shown: list[int]
    widths: list[int]
    below: int | None = None
    dropped: tuple[int, ...] = ()
    cuts: bool = True


def table_lines(
    columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, head: bool = True, width: int | None = None,
    color: bool | None = None,
) -> Iterator[str]:  # fmt: skip
    """Yield the lines of a table, escaped, which fit the width of the terminal.

    Columns that may be shortened give way, the widest first; then text that wraps goes below its row; then columns are
    left out that may be, which a last line says; and if all of this is not enough, each row is a block of lines. Widths
    follow from the first rows, so that rows can be printed while they are found.

    Parameters
    ----------
    rows : iterable of sequences
        One value per column: text, a number or a `Cell`.
    head : bool
        Write the titles above.
    width : int, optional
        Columns of the terminal; by default, those of standard output.
    color : bool, optional
        By default, whether standard output shows colors.
    """
    width = terminal_width() if width is None else width
    color = wants_color() if color is None else color
    left = map(_cells, rows)
    first = list(islice(left, FIRST_ROWS))
    if not first:
        return
    titles = [Cell(column.title, "head") for column in columns]
    plan = _plan(columns, titles if head else None, first, width, more=len(first) == FIRST_ROWS)
    if plan is None:
        for row in chain(first, left):
            yield from _block(columns, row, width, color)
        return
    if plan.below is not None:
        titles[plan.below] = Cell("")
    for row in chain([titles] if head else [], first, left):
        yield from _row(columns, row, plan, width, color)
    if names := [columns[place].title for place in plan.dropped]:
        yield colored(shortened(f"(a wider terminal shows {few(names)}, too)", width), "quiet", color)


def _cells(row: Sequence[Any]) -> list[Cell]:
    found = [value if isinstance(value, Cell) else Cell(str(value)) for value in row]
    return [Cell(one_line(cell.text, LONGEST_CELL), cell.color) for cell in found]


def _plan(
    columns: Sequence[Column], titles: Sequence[Cell] | None, rows: Sequence[Sequence[Cell]], width: int, *, more: bool
) -> _Plan | None:
    """Return how a table fits, or None if it does not; a column without any text is not shown.

    If there may be `more` rows than these, all columns are shown, and text that wraps gets all the room.
    """
    shown = [place for place in range(len(columns)) if more or any(row[place].text for row in rows)]
    lines = rows if titles is None else [titles, *rows]
    natural = [max(columns_of(row[place].text) for row in lines) for place in range(len(columns))]
    if more:
        natural = [width if column.wraps else wide for column, wide in zip(columns, natural, strict=True)]
    if width == WIDE:
        return _Plan(shown, [min(natural[place], WIDEST) for place in shown], cuts=False)
    droppable = sorted((place for place in shown if columns[place].drops), key=lambda place: -columns[place].drops)
    for count in range(len(droppable) + 1):
        dropped = tuple(sorted(droppable[:count]))
        kept = [place for place in shown if place not in dropped]
        if (widths := _fitted(columns, natural, kept, width)) is not None:
            return _Plan(kept, widths, dropped=dropped)
        wraps = bool(kept) and columns[kept[-1]].wraps
        if wraps and (widths := _fitted(columns, natural, kept[:-1], width)) is not None:
            return _Plan(kept[:-1], widths, below=kept[-1], dropped=dropped)
    if len(shown) == 1 and columns[shown[0]].least is None and not columns[shown[0]].wraps:
        return _Plan(shown, [width])  # longer text is left to the terminal
    return None


def _fitted(
    columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], width: int
) -> list[int] | None:  # fmt: skip
    """Return the widths of columns beside each other, or None if they do not fit."""
    least = [_least(columns[place], natural[place]) for place in shown]
    found = [natural[place] for place in shown]
    gaps = len(GAP) * (len(shown) - 1)
    if not shown or sum(least) + gaps > width:
        return None
    if columns[shown[-1]].wraps:
        found[-1] = least[-1]
    while (over := sum(found) + gaps - width) > 0:
        able = [i for i in range(len(found)) if found[i] > least[i]]
        widest = max(able, key=lambda i: found[i])
        second = max((found[i] for i in able if found[i] < found[widest]), default=0)
        found[widest] -= max(1, min(over, found[widest] - max(second, least[widest])))
    if columns[shown[-1]].wraps:
        found[-1] = min(natural[shown[-1]], found[-1] + width - sum(found) - gaps)
    return found


def _least(column: Column, natural: int) -> int:
    if column.wraps:
        return min(natural, LEAST_WRAPPED)
    return natural if column.least is None else min(natural, max(column.least, columns_of(column.title)))


def _row(columns: Sequence[Column], row: Sequence[Cell], plan: _Plan, width: int, color: bool) -> Iterator[str]:
    line, more = [], list[str]()
    for place, wide in zip(plan.shown, plan.widths, strict=True):
        column, text = columns[place], row[place].text
        if plan.cuts and column.wraps and columns_of(text) > wide:
            text, *more = wrapped(text, wide)
        elif plan.cuts and column.least is not None:
            text = shortened(text, wide, keep_end=column.keep_end)
        final = place == plan.shown[-1] and not column.right
        line.append(colored(text if final else padded(text, wide, right=column.right), row[place].color, color))
    yield GAP.join(line).rstrip()
    start = sum(plan.widths[:-1]) + len(GAP) * (len(plan.widths) - 1)
    tint = row[plan.shown[-1]].color
    if plan.below is not None and row[plan.below].text:
        start, tint = INDENT, row[plan.below].color
        more = wrapped(row[plan.below].text, width - INDENT)
    yield from (f"{' ' * start}{colored(text, tint, color)}" for text in more)


def _block(columns: Sequence[Column], row: Sequence[Cell], width: int, color: bool) -> Iterator[str]:
    """Yield one row as a line per column, each with its title, and an empty line."""
    label = max(columns_of(column.title) for column in columns)
    for column, cell in zip(columns, row, strict=True):
        if cell.text:
            title = f"{padded(column.title, label)}{GAP}" if label else ""
            yield from _beside(title, cell, width, color)
    yield ""


def as_text(value: Any) -> str:
    """Return a value of JSON in words; text, which may come from strangers, is escaped and shortened."""
    if isinstance(value, dict):
        return ", ".join(f"{one_line(str(k), LONGEST_CELL)} {as_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return one_line(str(value), LONGEST_CELL)


def fact_lines(facts: Mapping[str, str], *, width: int | None = None, color: bool | None = None) -> Iterator[str]:
    """Yield names and values as two columns, the values wrapped to the width of the terminal."""
    width = terminal_width() if width is None else width
    color = wants_color() if color is None else color
    label = max(map(columns_of, facts), default=0)
    for name, value in facts.items():
        yield from _beside(f"{padded(name, label)}{GAP}", Cell(value), width, color)


def _beside(title: str, cell: Cell, width: int, color: bool) -> Iterator[str]:
    beside = width - columns_of(title)
    if title and beside < LEAST_BESIDE:  # below the title
        yield title.rstrip()
        title, beside = " " * INDENT, width - INDENT
    first, *more = wrapped(cell.text, max(beside, 2))
    yield f"{title}{colored(first, cell.color, color)}".rstrip()
    yield from (f"{' ' * columns_of(title)}{colored(line, cell.color, color)}" for line in more)


__all__ = [
    "Cell",
    "Column",
    "as_text",
    "colored",
    "fact_lines",
    "good_or_bad",
    "table_lines",
    "terminal_width",
    "wants_color",
]
