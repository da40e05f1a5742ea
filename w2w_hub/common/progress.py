"""Progress bars on standard error for work that takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .text import terminal

T = TypeVar("T")


def progress(
    items: Iterable[T], text: str, total: int | None = None, status: Callable[[], str] | None = None
) -> Iterator[T]:
    """Iterate with a bar that appears after two seconds, only on a terminal; `status` is shown beside it."""
    from tqdm import tqdm

    bar = tqdm(items, desc=terminal(text), total=total, delay=2, leave=False, disable=not sys.stderr.isatty())
    for item in bar:
        yield item
        if status is not None and not bar.disable:
            bar.set_postfix_str(terminal(status()), refresh=False)
