"""Leaves out remarks of the stock libraries that nobody can act on, or that this package makes in its own words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

NOTES, TOKENIZERS = "transformers.utils.import_utils", "transformers.tokenization_utils_base"


@contextmanager
def no_torchvision_note() -> Iterator[None]:
    """Drop transformers' note that an image processor, which no pipeline here uses, would need torchvision."""
    with _without("torchvision", NOTES):
        yield


@contextmanager
def no_truncation_notes(pipe: Any) -> Iterator[None]:
    """Drop the notes of a pipeline and its tokenizers on a prompt that is too long, which repeat it whole."""
    with _without("was truncated", type(pipe).__module__), _without("sequence length", TOKENIZERS):
        yield


@contextmanager
def _without(words: str, name: str) -> Iterator[None]:
    """Drop a logger's messages with some words; its level and handlers, which are the user's, stay as they are."""

    def is_other(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logger = logging.getLogger(name)
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


def no_loading_bars() -> None:
    """Turn off the bars with which diffusers and transformers load a model."""
    for library in _bars():
        library.disable_progress_bar()


def _bars() -> tuple[Any, Any]:
    import diffusers.utils.logging
    import transformers.utils.logging

    return diffusers.utils.logging, transformers.utils.logging
