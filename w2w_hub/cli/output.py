"""Write to the terminal; everything is escaped by :func:`w2w_hub.common.text.terminal`.

Standard output is data, standard error is progress and messages. No other module prints, which a test checks.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click

from ..common.text import terminal
from .tables import Column, colored, fact_lines, table_lines, terminal_width, wants_color

_PREFIXES = {"w2w: error:": "bad", "w2w: note:": "warning"}


def say(*lines: object) -> None:
    """Write messages to standard error, one line per argument."""
    color = wants_color(sys.stderr)
    _write((_tinted(terminal(line), color) for line in lines), err=True, color=color)


def _tinted(line: str, color: bool) -> str:
    prefix = next((prefix for prefix in _PREFIXES if line.startswith(prefix)), "")
    return f"{colored(prefix, _PREFIXES[prefix], color)}{line.removeprefix(prefix)}" if prefix else line


def data(*lines: object) -> None:
    """Write data to standard output, one line per argument."""
    _write(map(terminal, lines), err=False)


def data_text(text: str) -> None:
    """Write a text of several lines, already escaped for its format, to standard output."""
    _write([terminal(text.removesuffix("\n"), keep="\n")], err=False)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, head: bool = True) -> None:
    """Write a table to standard output, see :func:`w2w_hub.cli.tables.table_lines`."""
    _write(table_lines(columns, rows, head=head), err=False, color=wants_color())


def say_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table to standard error, below a message."""
    color = wants_color(sys.stderr)
    _write(table_lines(columns, rows, width=terminal_width(sys.stderr), color=color), err=True, color=color)


def facts(values: Mapping[str, str]) -> None:
    """Write names and values to standard output, see :func:`w2w_hub.cli.tables.fact_lines`."""
    _write(fact_lines(values), err=False, color=wants_color())


def print_json(value: Any, indent: int | None = 1) -> None:
    """Write JSON to standard output, in ASCII with JSON escapes."""
    _write([json.dumps(value, indent=indent)], err=False)


def _write(lines: Iterable[str], *, err: bool, color: bool = False) -> None:
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    for line in lines:
        click.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=err, color=color)


# ---------------------------------------------------------------- output of other libraries
@contextmanager
def captured_messages() -> Iterator[None]:
    """Send warnings through :func:`say` and escape log messages while a command runs."""
    import logging

    shown, make_record = warnings.showwarning, logging.getLogRecordFactory()

    def escaped(*args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*args, **options)
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the message
            message = f"{record.msg} {record.args}"
        record.msg, record.args = _flat(message), ()
        return record

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"w2w: note: {_flat(message)}")

    warnings.showwarning = show
    logging.setLogRecordFactory(escaped)
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.setLogRecordFactory(make_record)


def _flat(message: object) -> str:
    """Return a message of several lines as one line."""
    return terminal(" ".join(str(message).split()))


def say_usage_error(error: click.ClickException) -> None:
    """Write click's message about an invalid command line, which quotes words of it, as one line with a hint."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2; its message is the help
        text = io.StringIO()
        error.show(text)
        _write([terminal(text.getvalue().removesuffix("\n"), keep="\n\t")], err=True)
        return
    message = " ".join(error.format_message().split()).removesuffix(".")
    if context is None:
        say(f"w2w: error: {message}")
        return
    usage = " ".join(context.get_usage().split()).replace("Usage:", "usage:", 1)
    hint = f"{usage}; " if isinstance(error, click.MissingParameter) else ""
    say(f"w2w: error: {message}; {hint}see: {context.command_path} --help")


def say_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the traceback of an unexpected error, as `sys.excepthook`."""
    import traceback

    text = "".join(traceback.format_exception(kind, error, trace))
    _write(map(terminal, text.splitlines()), err=True)
