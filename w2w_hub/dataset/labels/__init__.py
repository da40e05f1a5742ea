"""Labels of rows: files, columns and kinds of columns."""

from __future__ import annotations

from .files import read_labels

__all__ = ["read_labels"]
