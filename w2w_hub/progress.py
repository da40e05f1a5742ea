"""Progress on standard error for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar that appears after two seconds, only on a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, desc=text, total=total, delay=2, leave=False, disable=not sys.stderr.isatty())
