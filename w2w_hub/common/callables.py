"""Callables that a user names as ``package.module:function``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from ..errors import InvalidInputError
from .text import one_line

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
LONGEST = 300  # characters of another module's error


def find_callable(name: str, what: str) -> Callable[..., Any]:
    """Import the callable that a user of the command line names, which runs the code of its module.

    Only for names that the user typed: never for a name from a file.

    Parameters
    ----------
    what : str
        What it is for, for error messages.

    Raises
    ------
    InvalidInputError
        If the name is not ``package.module:function``, or there is no such callable.
    """
    if not NAME.fullmatch(name):
        raise InvalidInputError(f"{what} {name!r} is not of the form package.module:function", name=name)
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # the module's own code may raise anything
        reason = one_line(f"{type(error).__name__}: {error}", LONGEST)
        missing = isinstance(error, ModuleNotFoundError)
        hint = "; install it, or put its folder into PYTHONPATH" if missing else ""
        raise InvalidInputError(f"{what} {name}: importing {module} failed ({reason}){hint}", name=name) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise InvalidInputError(f"{what} {name}: {module} has no {path}", name=name)
        found = getattr(found, part)
    if not callable(found):
        raise InvalidInputError(f"{what} {name} cannot be called; name a function", name=name)
    return found  # type: ignore[no-any-return]


def name_of(function: Callable[..., Any]) -> str:
    """Return a callable's name as ``package.module:function``, as far as it has one."""
    named = function if hasattr(function, "__qualname__") else type(function)
    path = re.sub(r"\W+", "_", named.__qualname__.replace("<locals>.", ""), flags=re.ASCII).strip("_")
    name = f"{named.__module__}:{path}"
    return name if NAME.fullmatch(name) else "callable"
