"""Directions of attributes: vectors to read and to edit them, with their evidence."""

from __future__ import annotations

from .curve import StrengthCurve
from .direction import Direction, UnreliableDirectionWarning
from .editing import overlap, partial_effects
from .entanglement import Entanglement, entanglement
from .fit import fit_directions
from .missing import missing_lines
from .synonyms import synonyms, synonyms_text
from .targets import MIN_ROWS_A_CLASS, why_not

__all__ = [
    "MIN_ROWS_A_CLASS",
    "Direction",
    "Entanglement",
    "StrengthCurve",
    "UnreliableDirectionWarning",
    "entanglement",
    "fit_directions",
    "missing_lines",
    "overlap",
    "partial_effects",
    "synonyms",
    "synonyms_text",
    "why_not",
]
