"""Validates arguments of public calls: the value in its own type, or one typed line that names the parameter."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import InvalidInputError

SEEDS = 2**63 - 1  # the largest seed that torch and NumPy both take
T = TypeVar("T")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(value: Any, name: str, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return a whole number, Python's or NumPy's, as an int.

    Raises
    ------
    InvalidInputError
        For anything else (True, 2.0, "3"), and outside of the stated range.
    """
    low, high = minimum is not None, maximum is not None
    if not is_whole(value) or (low and value < minimum) or (high and value > maximum):
        raise InvalidInputError(f"{name} must be a whole number{_between(minimum, maximum)}, not {shown(value)}")
    return int(value)


def finite(value: Any, name: str, *, minimum: float | None = None, maximum: float | None = None) -> float:
    """Return a finite number as a float, without converting text; see :func:`whole`."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) else math.nan
    except OverflowError:  # of an int
        number = math.nan
    inside = (minimum is None or number >= minimum) and (maximum is None or number <= maximum)
    if not math.isfinite(number) or not inside:
        raise InvalidInputError(f"{name} must be a finite number{_between(minimum, maximum)}, not {shown(value)}")
    return number


def flag(value: Any, name: str) -> bool:
    """Return True or False, Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInputError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def string(value: Any, name: str) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} must be a string, not {shown(value)}")
    return value


def one_of(value: T, name: str, choices: Collection[Any]) -> T:
    """Return a value that is one of a few."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise InvalidInputError(f"{name} must be one of {', '.join(map(repr, choices))}, not {shown(value)}")
    return value


def path_of(value: Any, name: str) -> Path:
    """Return a path that a file may have, of a string or a path object."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidInputError(f"{name} must be a path, not {shown(value)}")
    return Path(value)


def names_of(value: Any, name: str) -> list[str]:
    """Return a list of strings, of one string or an iterable of them, each once."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)) or getattr(value, "ndim", 1) != 1:
        raise InvalidInputError(f"{name} must be a name or a list of names, not {shown(value)}")
    found = []
    for item in value:
        if not isinstance(item, str):
            raise InvalidInputError(f"{name} must hold names, not {shown(item)}")
        found.append(str(item))
    return list(dict.fromkeys(found))


def instance(value: Any, name: str, kind: type[T]) -> T:
    """Return an object of a class."""
    if not isinstance(value, kind):
        raise InvalidInputError(f"{name} must be a {kind.__name__}, not {shown(value)}")
    return value


def numbers(value: Any, name: str, ndim: int | tuple[int, ...] = 1) -> np.ndarray:
    """Return real finite numbers as an array of float64, of an array, a tensor or (nested) lists.

    Raises
    ------
    InvalidInputError
        For text, objects, complex numbers, NaN and infinity, and another number of axes.
    """
    if hasattr(value, "detach"):  # a torch tensor, wherever it lies
        value = value.detach().float().cpu().numpy()
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    try:
        values = np.asarray(value)
        found = None if values.dtype.kind not in "fiu" else values.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        found = None
    if found is None:
        raise InvalidInputError(f"{name} must be numbers, not {shown(value)}")
    if found.ndim not in allowed:
        axes = " or ".join(map(str, allowed))
        raise InvalidInputError(f"{name} must be an array of {axes} axes, not of shape {found.shape}")
    if not np.isfinite(found).all():
        raise InvalidInputError(f"{name} must be finite, but NaN or infinite values are among them")
    return found


def shown(value: Any) -> str:
    """Return a short form of a value for a message."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        try:
            shown = repr(value)
        except ValueError:  # an int of more digits than Python prints
            return "a huge int"
        return shown if len(shown) <= 80 else f"{shown[:80]}..."
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")


def _between(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum:g} to {maximum:g}" if maximum < 1e9 else f" of at least {minimum:g}"
    if minimum is not None:
        return f" of at least {minimum:g}"
    return "" if maximum is None else f" of at most {maximum:g}"
