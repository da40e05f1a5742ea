"""Attributes without a direction: the reasons, condensed for a manifest and for display."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ...common.text import few
from ...dataset.labels.kinds import MIN_ROWS_A_CLASS, AttributeTarget

MOST_LEVELS = 5  # with too few rows that are listed by name, each with its own reason
FEW = f"fewer than {MIN_ROWS_A_CLASS} labeled fitted rows have it"
_TOGETHER = re.compile(r"(?P<attribute>.*) \([\d,]+ values\)", re.DOTALL)


def condensed(reasons: Mapping[str, str], targets: Mapping[str, AttributeTarget], fitted: np.ndarray) -> dict[str, str]:
    """Return reasons in which levels with too few rows share one reason, where there are many of them.

    The levels of one attribute are then named together, as ``person (1,056 values)``.

    Parameters
    ----------
    reasons : mapping
        Names of targets, each with the reason why it has no direction.
    targets : mapping
        The targets of these names.
    fitted : ndarray
        The mask of the fitted rows.
    """
    rare = []
    for name, reason in reasons.items():
        target = targets[name]
        positives = int((target.values[fitted] == 1).sum())
        if target.level is not None and positives < MIN_ROWS_A_CLASS and target.why_not(fitted) == reason:
            rare.append(name)
    if len(rare) <= MOST_LEVELS:
        return dict(reasons)
    levels: dict[str, list[str]] = {}
    for name in rare:
        levels.setdefault(targets[name].attribute, []).append(name)
    found = {name: reason for name, reason in reasons.items() if name not in set(rare)}
    for attribute, names in levels.items():
        together = [f"{attribute} ({len(names):,} values)"] if len(names) > MOST_LEVELS else names
        found |= dict.fromkeys(together, FEW)
    return found


def reason_of(name: str, reasons: Mapping[str, str]) -> str | None:
    """Return why an attribute or level has no direction, also where it is named together with others."""
    if name in reasons:
        return reasons[name]
    for key, reason in reasons.items():
        match = _TOGETHER.fullmatch(key)
        if match is not None and name.startswith(f"{match['attribute']}="):
            return reason
    return None


def by_reason(reasons: Mapping[str, str]) -> list[tuple[Sequence[str], str]]:
    """Return the names that share each reason, in the order of the reasons' first names."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        found.setdefault(reason, []).append(name)
    return [(names, reason) for reason, names in found.items()]


def missing_lines(reasons: Mapping[str, str]) -> list[str]:
    """Return one line for each reason, with the first attributes that it applies to."""
    return [f"no direction for {few(names)}: {reason}" for names, reason in by_reason(reasons)]
