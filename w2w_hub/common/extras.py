"""Optional packages: tells those that are not installed from those that are broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ..errors import BrokenExtraError, W2WError, missing_extra
from .text import one_line

# top-level name of an import -> (package, extra of this package)
OPTIONAL = {
    "OpenSSL": ("pyOpenSSL", "sign"),
    "PIL": ("pillow", "diffusers"),
    "accelerate": ("accelerate", "diffusers"),
    "dask": ("dask", "dask"),
    "datasets": ("datasets", "datasets"),
    "diffusers": ("diffusers", "diffusers"),
    "distributed": ("distributed", "dask"),
    "gradio": ("gradio", "explore"),
    "model_signing": ("model-signing", "sign"),
    "peft": ("peft", "diffusers"),
    "torch": ("torch", "diffusers"),
    "transformers": ("transformers", "diffusers"),
    "umap": ("umap-learn", "umap"),
}


@contextmanager
def optional_imports(extra: str) -> Iterator[None]:
    """Guard imports of the optional packages of an extra: ``with optional_imports("diffusers"): import torch``.

    Raises
    ------
    MissingExtraError
        If one of them is not installed; the message has the pip command.
    BrokenExtraError
        If importing one fails for another reason, which is its cause.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        explained = import_problem(error, extra)
        if explained is None:
            raise
        raise explained from (error if isinstance(explained, BrokenExtraError) else None)


def import_problem(error: BaseException, extra: str | None = None) -> W2WError | None:
    """Return the error that explains a failed import of an optional package; None if it is about something else."""
    if isinstance(error, W2WError):
        return None
    stated = str(getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and stated in OPTIONAL and not _is_installed(stated):
        package, usual = OPTIONAL[stated]
        return missing_extra(package, extra or usual)
    broken = next((name for name in [*_importing(error), stated] if name in OPTIONAL), None)
    if broken is None:
        return None
    package = OPTIONAL[broken][0]
    reason = one_line(" ".join(str(error).split()) or type(error).__name__, 300)
    return BrokenExtraError(
        f"{package} is installed, but importing it fails: {reason}; repair that, or reinstall {package}", name=package
    )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _importing(error: BaseException) -> Iterator[str]:
    """Yield the top-level names of the modules in which an error occurred, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        trace = trace.tb_next
