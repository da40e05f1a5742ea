"""Checks of values given by callers that several modules need."""

from __future__ import annotations

import os
import reprlib
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
