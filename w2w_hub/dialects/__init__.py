"""LoRA checkpoint dialects: one module each, behind one base class and one registry."""

from __future__ import annotations

from typing import Any

from ..common.deprecated import deprecated_alias, warn_renamed
from .dialect import Dialect
from .reading import read_adapter, read_deltas, recognize
from .registry import writers
from .writing import convert_adapter, write_adapter

__all__ = ["Dialect", "convert_adapter", "read_adapter", "read_deltas", "recognize", "write_adapter", "writers"]

detect = deprecated_alias("detect", recognize)


def __getattr__(name: str) -> Any:
    if name == "CheckpointFormat":
        warn_renamed("CheckpointFormat", "Dialect")
        return Dialect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
