"""Write a bench's figures (name, value, unit) to a file that `bench_all.py` reads.

Less is better in every figure. A unit that starts with "of" is a ratio to a peer of the same run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def save_figures(path: Path | None, figures: Iterable[tuple[str, float, str]]) -> None:
    """Write ``(name, value, unit)`` triples as a JSON list of objects; nothing without a path."""
    if path is not None:
        entries = [{"figure": name, "value": float(value), "unit": unit} for name, value, unit in figures]
        path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
