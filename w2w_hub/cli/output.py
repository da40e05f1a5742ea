"""The one place that writes to a terminal: whatever a command shows passes :func:`w2w_hub.common.text.terminal` here.

Standard output is data, standard error is progress and messages. No other module prints; a test holds them to it.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click

from ..common.text import one_line, terminal

LONGEST_NAME, WIDEST = 200, 60  # characters of a name in a table, and of its column


def say(*lines: object) -> None:
    """Write progress and remarks to standard error, each argument as one line."""
    _write(map(terminal, lines), err=True)


def data(*lines: object) -> None:
    """Write data to standard output, each argument as one line."""
    _write(map(terminal, lines), err=False)


def data_text(text: str) -> None:
    """Write a text of several lines to standard output, whose parts are escaped as its own format wants."""
    _write([terminal(text.removesuffix("\n"), keep="\n")], err=False)


def print_json(value: Any, indent: int | None = 1) -> None:
    """Write JSON to standard output; it is ASCII, with everything else as JSON's own escapes."""
    _write([json.dumps(value, indent=indent)], err=False)


def _write(lines: Iterable[str], *, err: bool) -> None:
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    for line in lines:
        click.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=err)


def name_column(names: Iterable[str]) -> list[str]:
    """Return names as the first column of a table: escaped, shortened and padded to one width."""
    shown = [one_line(name, LONGEST_NAME) for name in names]
    width = min(max(map(len, shown), default=0), WIDEST)
    return [f"{name:<{width}}" for name in shown]


# ---------------------------------------------------------------- what others would print themselves
@contextmanager
def captured_messages() -> Iterator[None]:
    """Send warnings through :func:`say`, and escape what is logged, while a command runs."""
    import logging

    shown, make_record = warnings.showwarning, logging.getLogRecordFactory()

    def escaped(*args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*args, **options)
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: logging would report it with all of them
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
    """Return what a library says on several lines as one."""
    return terminal(" ".join(str(message).split()))


def say_usage_error(error: click.ClickException) -> None:
    """Write what click says of a command line that cannot be read; it quotes words of that line."""
    if isinstance(getattr(error, "message", None), str):
        vars(error)["message"] = terminal(error.message)
    text = io.StringIO()
    error.show(text)
    _write([terminal(text.getvalue().removesuffix("\n"), keep="\n\t")], err=True)


def say_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the traceback of an error that is not ours, as `sys.excepthook`."""
    import traceback

    text = "".join(traceback.format_exception(kind, error, trace))
    _write(map(terminal, text.splitlines()), err=True)
