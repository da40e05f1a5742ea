"""All problems of an input, collected before anything is written and raised together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..errors import LONGEST, InvalidInputError, W2WError

SHOWN = 20


class Problems:
    """Typed errors collected; :meth:`raise_if_any` raises them as one."""

    def __init__(self) -> None:
        self.found: list[W2WError] = []

    def add(self, error: W2WError) -> None:
        self.found.append(error)

    def extend(self, errors: Iterable[W2WError]) -> None:
        self.found.extend(errors)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect a typed error of the block instead of raising it."""
        try:
            yield
        except W2WError as error:
            self.found.append(error)

    def raise_if_any(self) -> None:
        """Raise the only problem, or all in one line, as their common type or else `InvalidInputError`."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        kinds = {type(error) for error in self.found}
        more = f"; and {len(self.found) - SHOWN} more" if len(self.found) > SHOWN else ""
        listed = "; ".join(f"({i}) {error}" for i, error in enumerate(self.found[:SHOWN], 1))
        kind = kinds.pop() if len(kinds) == 1 else InvalidInputError
        raise tell_all(kind(f"{len(self.found)} problems, nothing was written: {listed}{more}"))


def tell_all(error: W2WError) -> W2WError:
    """Return an error whose message is shown in full, since each of its parts is short."""
    error.limit = (SHOWN + 1) * LONGEST
    return error
