"""Say what a path or a repository is, and what can be done with it: :func:`identify` is ``w2w info``."""

from __future__ import annotations

from .identify import identify
from .result import Info, Step

__all__ = ["Info", "Step", "identify"]
