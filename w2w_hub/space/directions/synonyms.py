"""Directions that say the same: columns that label the same rows, or all others, give the same vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .direction import Direction
from .entanglement import cosines

EDITING, READING = 0.95, 0.8  # smallest |cosines|; those of other pairs of the demo's attributes are below 0.82, 0.7
EXACT = 1 - 1e-6  # up to floating point


def synonyms(directions: Mapping[str, Direction]) -> dict[str, dict[str, float]]:
    """Return the distinct directions, each with the others that say the same or nearly so.

    Of several, the name of a column comes before that of a level (``Bald`` before ``top=NONE``), then the first counts.

    Returns
    -------
    dict of str to dict
        Name to ``{synonym: cosine of the editing directions}``, which is negative where the one has the attribute if
        the other has not.
    """
    names = sorted(directions, key=lambda name: directions[name].level is not None)  # stable
    if not names:
        return {}
    longest = max(len(directions[name].editing) for name in names)
    both = []
    for vector in ("editing", "reading"):
        rows = np.zeros((len(names), longest))
        for row, name in zip(rows, names, strict=True):
            values = getattr(directions[name], vector)
            row[: len(values)] = values
        both.append(cosines(rows))
    editing, reading = both
    alike = (np.abs(editing) > EDITING) & (np.abs(reading) > READING) & (np.sign(editing) == np.sign(reading))
    found: dict[str, dict[str, float]] = {}
    taken: set[str] = set()
    for i, name in enumerate(names):
        if name in taken:
            continue
        others = [j for j in np.flatnonzero(alike[i]).tolist() if j != i and names[j] not in taken]
        found[name] = {names[j]: float(editing[i, j]) for j in others}
        taken |= {name, *found[name]}
    return {name: found[name] for name in directions if name in found}


def synonyms_text(others: Mapping[str, float]) -> str:
    """Return the synonyms of a direction in words: ``= not accessory=NONE``, or ``~ hair_color=RED`` if nearly so."""
    words = []
    for other, cosine in others.items():
        words += ["=" if abs(cosine) > EXACT else "~", *(["not"] if cosine < 0 else []), other]
    return " ".join(words)
