"""Warnings that point to the caller's line, however many decorators and helpers of this package are between."""

from __future__ import annotations

import sys
import warnings


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside of the library; the command line counts as outside."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_library(str(frame.f_globals.get("__name__", ""))):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_library(module: str) -> bool:
    package, *inside = module.split(".")
    return package == "w2w_hub" and inside[:1] != ["cli"]
