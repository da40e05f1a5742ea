"""LoRA checkpoint dialects: one module each, behind one base class and one registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy_names

if TYPE_CHECKING:
    from .dialect import Dialect as Dialect
    from .reading import read_adapter as read_adapter
    from .reading import read_deltas as read_deltas
    from .reading import recognize as recognize
    from .registry import writers as writers
    from .writing import convert_adapter as convert_adapter
    from .writing import write_adapter as write_adapter

# public name -> module, imported when first used
_WHERE = {
    "Dialect": "dialects.dialect",
    "convert_adapter": "dialects.writing",
    "read_adapter": "dialects.reading",
    "read_deltas": "dialects.reading",
    "recognize": "dialects.reading",
    "write_adapter": "dialects.writing",
    "writers": "dialects.registry",
}
__all__ = sorted(_WHERE)
# modules that are attributes before they are imported
_MODULES = (
    "base_model", "checkpoint", "dialect", "loading", "reading", "registry", "scan", "writing",
)  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__, _WHERE, _MODULES, renamed={"CheckpointFormat": "Dialect", "detect": "recognize"}
)
