"""Labels: files, columns and their kinds."""

from __future__ import annotations

from .table import read_labels

__all__ = ["read_labels"]
