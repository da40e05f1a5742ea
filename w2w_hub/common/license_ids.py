"""License identifiers: those of SPDX, those of the Hub, and which of several is the strictest."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

UNKNOWN = "unknown"
# the Hub's identifiers that SPDX has not, as of its documentation of dataset cards; "unknown" states nothing
HUB = (
    "apple-amlr", "apple-ascl", "bigcode-openrail-m", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd",
    "c-uda", "cc", "creativeml-openrail-m", "deepfloyd-if-license", "etalab-2.0", "fair-noncommercial-research-license",
    "gemma", "gfdl", "gpl", "grok2-community", "h-research", "intel-research", "lgpl", "lgpl-lr", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "odbl", "odc-by", "open-mdw", "openmdw-1.0", "openrail", "openrail++",
    "other", "pddl",
)  # fmt: skip

# each license, and the licenses with fewer conditions that it covers directly; see `strictest`
_COVERS: dict[str, tuple[str, ...]] = {
    "cc0-1.0": (),
    "0bsd": ("cc0-1.0",), "unlicense": ("cc0-1.0",), "pddl": ("cc0-1.0",),
    "mit": ("0bsd", "unlicense", "pddl"),
    "isc": ("0bsd", "unlicense", "pddl"),
    "bsd-2-clause": ("mit", "isc"),
    "bsd-3-clause": ("bsd-2-clause",),
    "apache-2.0": ("bsd-3-clause",),
    "cc-by-4.0": ("bsd-3-clause",),
    "cc-by-sa-4.0": ("cc-by-4.0",),
    "cc-by-nc-4.0": ("cc-by-4.0",),
    "cc-by-nc-sa-4.0": ("cc-by-nc-4.0",),
    "cc-by-nd-4.0": ("cc-by-4.0",),
    "cc-by-nc-nd-4.0": ("cc-by-nc-4.0", "cc-by-nd-4.0"),
    "openrail": ("apache-2.0",),
    "openrail++": ("openrail",),
    "creativeml-openrail-m": ("openrail",),
    "bigscience-openrail-m": ("openrail",),
    "bigcode-openrail-m": ("openrail",),
}  # fmt: skip


@cache
def _known() -> dict[str, str]:
    spdx = (Path(__file__).parent / "spdx.txt").read_text("ascii").split()
    return {name.lower(): name.lower() for name in (*spdx, *HUB)}


def normal_license(text: object) -> str | None:
    """Return a license identifier as the Hub spells it, in lower case; None if it is neither SPDX's nor the Hub's.

    ``unknown`` is no license. Of SPDX, single identifiers are known, not expressions.

    Examples
    --------
    >>> normal_license("Apache-2.0"), normal_license("CreativeML-OpenRAIL-M"), normal_license("free")
    ('apache-2.0', 'creativeml-openrail-m', None)
    """
    return _known().get(text.strip().lower()) if isinstance(text, str) else None


def strictest(licenses: Iterable[object]) -> str:
    """Return the license of a work that is made of works under all of these.

    It is the one of them whose conditions include those of all others, by a table of common licenses (public domain,
    then MIT, BSD, Apache, then Creative Commons and OpenRAIL). If one is not known, or two conditions are incomparable
    (``cc-by-sa-4.0`` and ``cc-by-nc-4.0``), it is ``unknown``.

    Examples
    --------
    >>> strictest(["mit", "CreativeML-OpenRAIL-M"]), strictest(["cc-by-sa-4.0", "cc-by-nc-4.0"])
    ('creativeml-openrail-m', 'unknown')
    """
    found = {normal_license(each) for each in licenses}
    if None in found or not found:
        return UNKNOWN
    names = {name for name in found if name is not None}
    if len(names) == 1:
        return names.pop()
    return next((name for name in sorted(names) if names <= _covered(name)), UNKNOWN)


@cache
def _covered(name: str) -> frozenset[str]:
    """Return a license of the table and all that it covers."""
    return frozenset({name}).union(*(_covered(below) for below in _COVERS.get(name, ())))
