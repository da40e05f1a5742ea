"""Checks of single arguments that several modules share."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer of Python or NumPy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_path(value: Any, what: str) -> Path:
    """Return a path that the caller gave as text or as a path object.

    Raises
    ------
    InvalidInputError
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str) or "\0" in os.fspath(value):
        raise InvalidInputError(f"{what} must be a path, not {reprlib.repr(value)}")
    return Path(value)


def path_list(paths: Path | str | Sequence[Path | str], what: str) -> list[Path]:
    """Return one path or several as a list; a single string is one path."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else items(paths, what)
    return [require_path(path, what) for path in given]


def text_list(names: str | Sequence[str], what: str) -> list[str]:
    """Return one name or several as a list; a single string is one name."""
    given = [names] if isinstance(names, str) else items(names, what)
    for name in given:
        if not isinstance(name, str):
            raise InvalidInputError(f"{what} must be a string, not {reprlib.repr(name)}")
    return given


def items(values: Any, what: str) -> list[Any]:
    """Return an iterable other than bytes and mappings as a list."""
    if isinstance(values, (bytes, bytearray, Mapping)) or not isinstance(values, Iterable):
        raise InvalidInputError(f"{what} or a list of them is expected, not {reprlib.repr(values)}")
    return list(values)
