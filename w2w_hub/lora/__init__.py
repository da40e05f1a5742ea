"""An adapter in memory: factors, parameter layout, canonical form; numpy only."""

from __future__ import annotations

from .adapter import Adapter, LoraFactors, Target
from .canonical import canonicalise as canonicalise  # deprecated
from .canonical import canonicalise_rows as canonicalise_rows  # deprecated
from .canonical import canonicalize, canonicalize_rows
from .layout import ParameterLayout, Slot

__all__ = ["Adapter", "LoraFactors", "ParameterLayout", "Slot", "Target", "canonicalize", "canonicalize_rows"]
