"""An adapter in memory: factors, parameter layout, canonical form; numpy only."""

from __future__ import annotations

from .adapter import Adapter, LoraFactors, Target
from .canonical import canonicalise, canonicalise_rows
from .layout import ParameterLayout, Slot

__all__ = ["Adapter", "LoraFactors", "ParameterLayout", "Slot", "Target", "canonicalise", "canonicalise_rows"]
