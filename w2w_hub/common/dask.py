"""Connect to a Dask scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError
from .extras import optional_imports

if TYPE_CHECKING:
    from distributed import Client


def connect(scheduler: str | Any, timeout: float = 10) -> Client:
    """Return a client for a scheduler address (``tcp://host:8786``) or a cluster object; the caller closes it.

    Raises
    ------
    InvalidInputError
        If no scheduler answers within `timeout` seconds.
    """
    with optional_imports("dask"):
        import distributed
    try:
        return distributed.Client(scheduler, timeout=f"{timeout}s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InvalidInputError(
            f"no Dask scheduler answers at {scheduler} ({' '.join(str(error).split())}); start one with: dask scheduler"
        ) from error
