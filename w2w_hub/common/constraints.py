"""Declarative argument checks: one rule per parameter, stated in a decorator of the function.

As scikit-learn's ``_parameter_constraints``: a value that breaks its rule raises an `InvalidInputError` that names the
function, the parameter and the values it takes; any other value is passed on as a plain Python type.
"""

from __future__ import annotations

import array
import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import InvalidInputError
from .checks import is_whole

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """The values that a parameter takes.

    Attributes
    ----------
    expected : str
        The values in words, to follow "must be".
    take : callable
        Return the value as a plain type; raise ValueError if it breaks the rule.
    """

    expected: str
    take: Callable[[Any], Any]

    def checked(self, value: Any, what: str) -> Any:
        """Return the value as a plain type, or raise `InvalidInputError` with `what` as its subject."""
        try:
            return self.take(value)
        except ValueError:
            raise InvalidInputError(
                f"{what} must be {self.expected}, not {reprlib.repr(value)}", name=what.rpartition(": ")[2]
            ) from None


def whole(low: int | None = None, high: int | None = None) -> Rule:
    """A whole number, Python's or NumPy's, of at least `low` and at most `high`; no bool and no float."""

    def take(value: Any) -> int:
        if not is_whole(value) or (low is not None and value < low) or (high is not None and value > high):
            raise ValueError
        return int(value)

    limits = [f"at {word} {limit:,}" for word, limit in (("least", low), ("most", high)) if limit is not None]
    return Rule(" ".join(["a whole number", *(["of"] if limits else []), " and ".join(limits)]).rstrip(), take)


def number(
    low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, below: float = math.inf
) -> Rule:
    """A finite real number in [low, high], more than `above` and less than `below`; no bool."""

    def take(value: Any) -> float:
        if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
            raise ValueError
        try:
            plain = float(value)
        except OverflowError:
            raise ValueError from None
        if not (math.isfinite(plain) and low <= plain <= high and above < plain < below):
            raise ValueError
        return plain

    limits = [
        f"{word} {limit:g}"
        for word, limit in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if math.isfinite(limit)
    ]
    return Rule(" ".join(["a finite number", " and ".join(limits)]).rstrip(), take)


def positive() -> Rule:
    """A finite number above zero."""
    return Rule("a positive number", number(above=0).take)


def flag() -> Rule:
    """True or False."""

    def take(value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError
        return bool(value)

    return Rule("True or False", take)


def text() -> Rule:
    """A string."""

    def take(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        return str(value)

    return Rule("a string", take)


def unicode_text() -> Rule:
    """A string without halves of surrogate pairs, which undecodable bytes of a command line become."""

    def take(value: Any) -> str:
        try:
            text().take(value).encode()
        except UnicodeEncodeError:
            raise ValueError from None
        return str(value)

    return Rule("a string of valid Unicode", take)


def path() -> Rule:
    """A path, as a string or a `pathlib.Path`."""

    def take(value: Any) -> Path:
        if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
            raise ValueError
        return Path(value)

    return Rule("a path", take)


def one_of(*values: str) -> Rule:
    """One of these strings."""

    def take(value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError
        return str(value)

    return Rule(" or ".join(map(repr, values)), take)


def names() -> Rule:
    """Several strings; a single string is refused, since it would be read as a list of letters."""

    def take(value: Any) -> list[str]:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise ValueError
        try:
            taken = list(value)
        except TypeError:  # a zero-dimensional array claims to be iterable
            raise ValueError from None
        if not all(isinstance(name, str) for name in taken):
            raise ValueError
        return [str(name) for name in taken]

    return Rule("a list of names", take)


def names_by_name() -> Rule:
    """A mapping of names to lists of names."""

    def take(value: Any) -> dict[str, list[str]]:
        if not isinstance(value, Mapping):
            raise ValueError
        return dict(zip(names().take(value.keys()), map(names().take, value.values()), strict=True))

    return Rule("a mapping of names to lists of names", take)


def instance(kind: type, expected: str) -> Rule:
    """An object of a class, which `expected` describes."""

    def take(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return Rule(expected, take)


def has(attribute: str, expected: str) -> Rule:
    """An object with this method, for classes of packages that are not imported here."""

    def take(value: Any) -> Any:
        if not callable(getattr(value, attribute, None)):
            raise ValueError
        return value

    return Rule(expected, take)


def optional(rule: Rule) -> Rule:
    """A rule, or None."""
    return Rule(f"{rule.expected} or None", lambda value: None if value is None else rule.take(value))


def either(*rules: Rule) -> Rule:
    """The first of these rules that accepts the value."""

    def take(value: Any) -> Any:
        for rule in rules:
            try:
                return rule.take(value)
            except ValueError:
                pass
        raise ValueError

    return Rule(" or ".join(rule.expected for rule in rules), take)


def as_list(values: Any, what: str) -> list[Any]:
    """Return several values as a list.

    Raises
    ------
    InvalidInputError
        For a string, bytes, a mapping or a single value.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise InvalidInputError(f"{what} must be a list, not {reprlib.repr(values)}")
    return list(values)


def as_array(values: Any, what: str) -> np.ndarray:
    """Return real numbers (a list, an array or a torch tensor on any device) as an array, without a copy if possible.

    Raises
    ------
    InvalidInputError
        If they are not numbers, or do not have one shape.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.numpy() if str(values.dtype) != "torch.bfloat16" else values.float().numpy()
    try:
        # a sequence of another kind, such as a dataset, would be read whole
        plain = hasattr(values, "__array__") or isinstance(values, (Real, list, tuple, range, memoryview, array.array))
        found = np.asarray(values) if plain else np.asarray(None)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"{what} must be an array of numbers, not {reprlib.repr(values)}") from None
    if found.dtype.kind not in "iuf":
        raise InvalidInputError(f"{what} must be an array of numbers, not {reprlib.repr(values)}")
    return found


def validated(**rules: Rule) -> Callable[[F], F]:
    """Check the arguments of a function or method by a rule for each parameter.

    Defaults are not checked, nor are parameters without a rule. The rules stay readable as ``function.constraints``.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        unknown = set(rules) - set(signature.parameters)
        if unknown:
            raise TypeError(f"{function.__qualname__} has no parameter {unknown}")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in rules:
                    bound.arguments[name] = rules[name].checked(value, f"{function.__name__}: {name}")
            return function(*bound.args, **bound.kwargs)

        call.constraints = rules  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate
