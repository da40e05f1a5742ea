"""Attributes without a direction: the reasons, condensed for a manifest and for display."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...common.text import few
from ...dataset.labels.kinds import AttributeTarget

MOST_LEVELS = 5  # of one attribute that are listed by name for one reason
_TOGETHER = re.compile(r"(?P<attribute>.*) \([\d,]+ values\)", re.DOTALL)


def condensed(reasons: Mapping[str, str], targets: Mapping[str, AttributeTarget]) -> dict[str, str]:
    """Return reasons in which many levels of one attribute are named together, as ``person (1,056 values)``.

    Parameters
    ----------
    reasons : mapping
        Names of targets, each with the reason why it has no direction.
    targets : mapping
        The targets of these names.
    """
    levels: dict[tuple[str, str], list[str]] = {}
    for name, reason in reasons.items():
        target = targets[name]
        levels.setdefault((name if target.level is None else target.attribute, reason), []).append(name)
    found: dict[str, str] = {}
    for (attribute, reason), names in levels.items():
        together = [f"{attribute} ({len(names):,} values)"] if len(names) > MOST_LEVELS else names
        found |= dict.fromkeys(together, reason)
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
