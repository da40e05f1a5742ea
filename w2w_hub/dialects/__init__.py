"""LoRA checkpoint dialects: one module each, behind one base class and one registry."""

from __future__ import annotations

from ..common.deprecated import deprecated_alias, renamed_names
from ..common.lazy import public_names
from .dialect import Dialect
from .reading import read_adapter, read_deltas, recognize
from .registry import writers
from .writing import convert_adapter, write_adapter

__all__ = ["Dialect", "convert_adapter", "read_adapter", "read_deltas", "recognize", "write_adapter", "writers"]

detect = deprecated_alias("detect", recognize)


__getattr__ = renamed_names(__name__, CheckpointFormat="Dialect")


def __dir__() -> list[str]:
    return public_names(__name__, __all__)
