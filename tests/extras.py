"""Tests that need an extra which is not installed are skipped wherever they import it; conftest.py has the hooks.

Only a package that is not there counts: one that is there and cannot be imported fails the test.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OPTIONAL = (
    "PIL", "accelerate", "dask", "datasets", "diffusers", "distributed", "filelock", "fsspec", "gradio", "peft",
    "playwright", "tensorstore", "torch", "transformers", "umap",
)  # fmt: skip


def absent_extra(error: BaseException | None) -> str | None:
    """Return the optional package whose absence caused the error."""
    while error is not None:
        name = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
        root = {"pillow": "PIL"}.get(name, name).partition(".")[0]
        if root in OPTIONAL and importlib.util.find_spec(root) is None:
            return root
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def skipped_without_extras() -> Iterator[None]:
    try:
        yield
    except (ImportError, pytest.Collector.CollectError) as error:
        if name := absent_extra(error):
            pytest.skip(f"{name} is not installed", allow_module_level=True)
        raise


def skip_without_extras(said: str) -> None:
    """Skip if a process of a test says that it lacks an extra."""
    for name in re.findall(r"(?:No module named '|MissingExtraError: )(\w+)", said):
        if absent := absent_extra(ImportError(name=name)):
            pytest.skip(f"{absent} is not installed")


class ModuleWithExtras(pytest.Module):
    """A module of tests that may import an extra at its top."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        with skipped_without_extras():
            return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return ModuleWithExtras.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with skipped_without_extras():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with skipped_without_extras():
        return (yield)
