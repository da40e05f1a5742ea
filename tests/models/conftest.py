from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from w2w_hub import W2WPipeline


@pytest.fixture(scope="session")
def loaded(tiny_space: Path) -> W2WPipeline:
    """One pipeline for many tests, which give it back as they found it."""
    pipe = W2WPipeline.from_pretrained(tiny_space)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: W2WPipeline) -> Iterator[W2WPipeline]:
    generation = loaded._generation
    yield loaded
    loaded.identity, loaded._generation = None, generation
