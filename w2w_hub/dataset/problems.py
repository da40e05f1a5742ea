"""Collect the problems of an input, to raise them together before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..errors import LONGEST, InvalidInputError, W2WError

SHOWN = 20


class Problems:
    """Collects typed errors; :meth:`raise_if_any` raises them as one."""

    def __init__(self) -> None:
        self.found: list[W2WError] = []

    def add(self, error: W2WError) -> None:
        self.found.append(error)

    def extend(self, errors: Iterable[W2WError]) -> None:
        self.found.extend(errors)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect a typed error that the block raises."""
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
        error = kind(f"{len(self.found)} problems, nothing was written: {listed}{more}")
        error.limit = (SHOWN + 1) * LONGEST  # print the message in full, since each of its parts is short
        raise error
