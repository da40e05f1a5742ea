"""Solver and engine keywords of `build_space` in 0.1, deprecated; this module is removed in 0.3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ...common.deprecated import warn_renamed
from ...errors import InvalidInputError
from .engines import get_engine
from .solvers import Krylov, get_solvers

F = TypeVar("F", bound=Callable[..., Any])
ENGINE_KEYWORDS = {"device": "devices", "scheduler": "scheduler", "memory": "memory", "block_rows": "block_rows"}


def flat_keywords(function: F) -> F:
    """Accept the settings of solvers and engines as keywords of a function that takes `solver` and `engine`."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        solver = {name: kwargs.pop(name) for name in Krylov.setting_names() if name in kwargs}
        engine = {new: kwargs.pop(old) for old, new in ENGINE_KEYWORDS.items() if old in kwargs}
        for settings, parameter, example in ((solver, "solver", "Krylov"), (engine, "engine", "TorchEngine")):
            if settings:
                old = ", ".join(f"{name}=" for name in settings)
                new = f"a setting of an object, as {parameter}={example}({old}...)"
                warn_renamed(f"{function.__name__}({old})", new)
        if solver:
            if not isinstance(kwargs.get("solver"), (str, type(None))):
                raise InvalidInputError(f"{next(iter(solver))} must be a setting of the given solver")
            kwargs["solver"] = get_solvers(kwargs.get("solver"), **solver)
        if engine:
            kwargs["engine"] = get_engine(kwargs.get("engine", "numpy"), **engine)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
