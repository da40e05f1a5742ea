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
        found = f"a sample, seed {brief(seed)}{_nearest(history.get('nearest'))}"
    elif made in ("inversion", "interpolation", "mean", "encoding", "import"):
        found = {
            "inversion": "an inversion of pictures", "mean": "the mean of the population",
            "encoding": "an encoder's guess from pictures", "import": "an imported point",
        }.get(made, f"an {made}")  # fmt: skip
    else:
        found = "a point of the weight space"
    return found + describe_edits(history)


def _nearest(near: object) -> str:
    """Return the nearest row in the record of a sample, in words."""
    row, cosine = (near.get("row"), near.get("cosine")) if isinstance(near, Mapping) else (None, None)
    if not isinstance(row, str) or not isinstance(cosine, float):
        return ""
    return f", nearest row {brief(row)} (cosine {cosine:.2f})"


def describe_edits(history: Mapping[str, Any]) -> str:
    """Return the edits in the record of a point, to follow what it was made of; empty without any."""
    edits, steps = history.get("edits"), history.get("steps")
    parts = [listed(_pushes(edits))] if isinstance(edits, Mapping) and edits else []
    if isinstance(steps, list):
        found = [_step(step) for step in steps if isinstance(step, Mapping)]
        parts += [listed(found)] if found else []
    return f"; edited by {', '.join(parts)}" if parts else ""


def _pushes(edits: Mapping[str, Any]) -> list[str]:
    return [f"{brief(name)} {_signed(by)}" for name, by in edits.items()]


def _step(step: Mapping[str, Any]) -> str:
    """Return one set, or one layer-wise edit, in words."""
    wanted, edits, strength, layers = (step.get(name) for name in ("set", "edits", "strength", "layers"))
    parts = [f"{brief(name)} = {brief(value)}" for name, value in wanted.items()] if isinstance(wanted, Mapping) else []
    times = f" (x {strength:.3g})" if parts and isinstance(strength, float) else ""
    pushed = _pushes(edits) if isinstance(edits, Mapping) else []
    where = f" in {listed(map(brief, layers))}" if isinstance(layers, list) and layers else ""
    return f"{listed([*parts, *pushed])}{times}{where}"


def _signed(strength: object) -> str:
    return f"{strength:+.3g}" if isinstance(strength, float) else brief(strength)
