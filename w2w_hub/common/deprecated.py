"""Old public names that keep working for one release, with a DeprecationWarning that names the new one."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
REMOVED_IN = "0.3"


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that `old` is now called `new`."""
    warnings.warn(f"{old} is now {new}; the old name goes with {REMOVED_IN}", DeprecationWarning, stacklevel=stacklevel)


def renamed_keywords(**new_names: str) -> Callable[[F], F]:
    """Accept old keywords of a function as their new names: ``@renamed_keywords(old="new")``.

    Raises
    ------
    TypeError
        At the call, if both are given.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old, new in new_names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise TypeError(f"{function.__name__}() got both {new!r} and its old name {old!r}")
                    warn_renamed(f"{function.__name__}({old}=)", f"{new}=")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def deprecated_alias(old: str, function: F) -> F:
    """Return a function or method that warns and calls `function`, to be bound to an old name."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        warn_renamed(old, function.__name__)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def renamed_names(module: str, **new_names: str) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` for old names: ``__getattr__ = renamed_names(__name__, Old="New")``."""

    def look_up(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", new_names[name])
        return getattr(sys.modules[module], new_names[name])

    return look_up
