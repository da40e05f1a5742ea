"""Leaves out two remarks of the stock libraries that nobody can act on, for as long as this package loads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

NOTES = "transformers.utils.import_utils"


@contextmanager
def no_torchvision_note() -> Iterator[None]:
    """Drop transformers' note that an image processor, which no pipeline here uses, would need torchvision.

    Levels and handlers, which are the user's, stay as they are.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return "torchvision" not in record.getMessage()

    logger = logging.getLogger(NOTES)
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


@contextmanager
def quiet_loading(*, local: bool) -> Iterator[None]:
    """Load without that note, and a local folder without bars, as long as the user did not ask for bars or none.

    Downloads keep their bars.
    """
    with ExitStack() as stack:
        stack.enter_context(no_torchvision_note())
        if local and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
            for library in _bars():
                if library.is_progress_bar_enabled():
                    library.disable_progress_bar()
                    stack.callback(library.enable_progress_bar)
        yield


def _bars() -> tuple[Any, Any]:
    import diffusers.utils.logging
    import transformers.utils.logging

    return diffusers.utils.logging, transformers.utils.logging
