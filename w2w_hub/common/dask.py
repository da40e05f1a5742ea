"""The connection to a Dask scheduler, shared by all that runs on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError, missing_extra

if TYPE_CHECKING:
    from distributed import Client


def connect(scheduler: str | Any, timeout: float = 10) -> Client:
    """Return a client of a scheduler's address (``tcp://host:8786``) or of a cluster object; the caller closes it.

    Raises
    ------
    InvalidInputError
        If no scheduler answers within `timeout` seconds.
    """
    try:
        import distributed
    except ImportError:
        raise missing_extra("dask.distributed", "dask") from None
    try:
        return distributed.Client(scheduler, timeout=f"{timeout}s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InvalidInputError(
            f"no Dask scheduler answers at {scheduler} ({' '.join(str(error).split())}); start one with: dask scheduler"
        ) from error
