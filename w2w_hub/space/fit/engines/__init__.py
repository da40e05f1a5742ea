"""Engines: the same passes over the data with NumPy, torch or Dask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....errors import InvalidInputError
from .base import Engine

ENGINES = ("numpy", "torch", "dask")


def get_engine(
    engine: str | Engine = "numpy",
    *,
    device: str | Sequence[str] | None = None,
    scheduler: str | None = None,
    memory: int | None = None,
) -> Engine:
    """An engine by its name, or the one that is given.

    Parameters
    ----------
    device : str or sequence of str, optional
        Of torch.
    scheduler : str, optional
        Address for Dask.
    memory : int, optional
        Bytes of rows that each GPU keeps between passes.
    """
    options: dict[str, Any] = {"device": device, "scheduler": scheduler, "memory": memory}
    takes = {"numpy": (), "torch": ("device", "memory"), "dask": ("scheduler",)}
    name = engine.name if isinstance(engine, Engine) else engine
    allowed = () if isinstance(engine, Engine) else takes.get(name, ())
    for option, value in options.items():
        if value is not None and option not in allowed:
            owner = next(e for e, names in takes.items() if option in names)
            raise InvalidInputError(f"{option} is an option of the {owner} engine, not of {name}")
    if isinstance(engine, Engine):
        return engine
    if name == "numpy":
        return Engine()
    if name == "torch":
        from .torch_engine import TorchEngine

        return TorchEngine(device, memory)
    if name == "dask":
        from .dask_engine import DaskEngine

        return DaskEngine(scheduler)
    raise InvalidInputError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
