"""Engines: the same passes over the data with NumPy, torch or Dask."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ....errors import InvalidInputError
from .base import Engine
from .numpy_engine import NumpyEngine

if TYPE_CHECKING:
    from .dask_engine import DaskEngine as DaskEngine
    from .torch_engine import TorchEngine as TorchEngine

# every engine by its name; its class is in the module <name>_engine, which may need an extra. A new one is added here.
ENGINES = {"numpy": "NumpyEngine", "torch": "TorchEngine", "dask": "DaskEngine"}
__all__ = ["ENGINES", "DaskEngine", "Engine", "NumpyEngine", "TorchEngine", "get_engine"]


def get_engine(engine: str | Engine = "numpy", **settings: Any) -> Engine:
    """Return an engine by its name, or the one that is given.

    Parameters
    ----------
    **settings
        Settings of the named engine; None means its default.

    Raises
    ------
    InvalidInputError
        If there is no such engine or setting, or settings are given besides an Engine.
    MissingExtraError
        If the engine needs an extra that is not installed.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(engine, str) and engine not in ENGINES:
        raise InvalidInputError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}")
    allowed = () if isinstance(engine, Engine) else engine_class(engine).setting_names()
    for name in settings:
        if name not in allowed:
            raise InvalidInputError(f"{name} is not a setting of {engine!r}")
    return engine if isinstance(engine, Engine) else engine_class(engine)(**settings)


def engine_class(name: str) -> type[Engine]:
    """Return the class of an engine, which imports its library."""
    found: type[Engine] = getattr(importlib.import_module(f".{name}_engine", __name__), ENGINES[name])
    return found


def __getattr__(name: str) -> Any:
    for engine, public in ENGINES.items():
        if public == name:
            return engine_class(engine)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
