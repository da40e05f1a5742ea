"""A population model in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...common.text import counted, few, one_line
from .model import PopulationModel

SHOWN, LONGEST = 8, 110  # names in a line, characters of a name that is not


def summary_lines(model: PopulationModel) -> list[str]:
    """Return factors, relations between attributes, and evidence, for the command line and for reports."""
    evidence = model.evidence
    lines = [f"population model: {counted(len(model.factors), 'factor')}: {_names([f.name for f in model.factors])}"]
    for kind, word in (("excludes", "exclude each other"), ("implies", "imply another")):
        pairs = [r for r in _relations(evidence) if r.get("kind") == kind]
        if pairs:
            sign = " and " if kind == "excludes" else " implies "
            shown = few([one_line(f"{r.get('first')}{sign}{r.get('second')}", LONGEST) for r in pairs], 3)
            lines.append(f"{counted(len(pairs), 'pair')} of attributes {word}: {shown}")
    found = evidence.get("explained_variance")
    if isinstance(found, Mapping) and all(isinstance(found.get(name), (int, float)) for name in SCORES):
        rows = counted(int(found["rows"]), "held-out row" if found.get("held_out") else "left-out row")
        lines.append(
            f"it explains {found['model']:.1%} of the variance of {rows}, additive effects {found['additive']:.1%}, "
            f"permuted labels {found['permuted']:.1%}, the mean alone 0 %"
        )
    source = ", by pictures" if "pictures" in evidence else ""
    lines.append(f"typical strength of a set: {model.strength:g}{source}")
    return lines


SCORES = ("rows", "model", "additive", "permuted")


def _relations(evidence: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = evidence.get("relations")
    return [r for r in found if isinstance(r, Mapping)] if isinstance(found, list) else []


def _names(names: list[str]) -> str:
    return few([one_line(name, LONGEST) for name in names], SHOWN)
