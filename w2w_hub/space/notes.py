"""Say in words what a point stands for, from the record of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.display import brief, listed, percent


def describe_history(history: Mapping[str, Any], explained_ratio: float | None = None) -> str:
    """Return in words how a point was made; its record may be of any file."""
    kept = "" if explained_ratio is None else f", {percent(explained_ratio)} of its weights' variance kept"
    row, made, seed = (history.get(name) for name in ("row", "made", "seed"))
    if isinstance(row, str):
        found = f"{brief(row)}: its point in the weight space{kept}"
    elif made == "projection":
        found = f"an adapter's point in the weight space{kept}"
    elif made == "sample" and isinstance(seed, int):
        found = f"a sample, seed {brief(seed)}"
    elif made in ("inversion", "interpolation", "mean", "import"):
        known = {"inversion": "an inversion of pictures", "mean": "the mean of the population"}
        found = {**known, "import": "an imported point"}.get(made, f"an {made}")
    else:
        found = "a point of the weight space"
    return found + describe_edits(history)


def describe_edits(history: Mapping[str, Any]) -> str:
    """Return the edits in the record of a point, to follow what it was made of; empty without any."""
    edits = history.get("edits")
    if not isinstance(edits, Mapping) or not edits:
        return ""
    return f"; edited by {listed(f'{brief(name)} {_signed(by)}' for name, by in edits.items())}"


def _signed(strength: object) -> str:
    return f"{strength:+.3g}" if isinstance(strength, float) else brief(strength)
