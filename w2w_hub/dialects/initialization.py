"""Detect a shared initialization: LoRA training changes A little, so its cosine to the initial A stays near 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..lora.adapter import Adapter

_KEPT = 64  # layouts for which the first adapter's A is kept
SAME_START = 0.3  # cosine: A of a trained adapter stays near its start, and two random starts are orthogonal


class InitializationTracker:
    """Compares the A of each scanned adapter with that of the first adapter with the same layout.

    Adapters from one initialization have a cosine near 1, from different ones near 0. One A per layout is kept, for at
    most 64 layouts.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, path: str, adapter: Adapter, layout_digest: str) -> dict[str, Any]:
        """Compare one adapter; return the path of the first of its layout and the cosine, or None for both."""
        mine = a_vector(adapter)
        if layout_digest not in self._first:
            if len(self._first) < _KEPT:
                self._first[layout_digest] = (path, mine)
            return {"initialisation_of": None, "initialisation_cosine": None}
        first, theirs = self._first[layout_digest]
        return {"initialisation_of": first, "initialisation_cosine": cosine(mine, theirs)}


def a_vector(adapter: Adapter) -> np.ndarray:
    """Return all A factors in layout order as one float32 vector."""
    ordered = sorted(adapter.factors, key=lambda t: t.sort_key)
    return np.concatenate([adapter.factors[t].A.ravel() for t in ordered]).astype(np.float32, copy=False)


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the cosine similarity of two vectors to six decimals, or None if one is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return round(float(a @ b) / size, 6) + 0.0 if size else None
