"""Semantic versions, and the level of increment that changes of a dataset or weight space require."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

from ...common.text import counted
from ...errors import VersionError
from ..paths import short

_SEMVER = re.compile(
    r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:[0-9A-Za-z-]+)(?:\.[0-9A-Za-z-]+)*))?", re.ASCII
)
LONGEST = 100  # characters of a version
LEVELS = ("none", "patch", "minor", "major")


@total_ordering
@dataclass(frozen=True)
class Version:
    """``major.minor.patch`` with an optional pre-release, ordered by semver.org."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """Parse a version, with or without ``v``.

        Raises
        ------
        VersionError
        """
        match = _SEMVER.fullmatch(text) if isinstance(text, str) and len(text) <= LONGEST else None
        pre = tuple(match[4].split(".")) if match and match[4] else ()
        if match is None or any(part.isdigit() and len(part) > 1 and part[0] == "0" for part in pre):
            raise VersionError(
                f"{short(text)} is not a version; give three numbers, 1.2.0 for instance", name=str(text)[:LONGEST]
            )
        return cls(int(match[1]), int(match[2]), int(match[3]), pre)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" + (f"-{'.'.join(self.pre)}" if self.pre else "")

    @property
    def tag(self) -> str:
        return f"v{self}"

    def _key(self) -> tuple[Any, ...]:
        pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, pre)

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def next(self, level: str) -> Version:
        """Return the smallest version after a change of this level; before 1.0.0 a major change increments `minor`."""
        if self.pre:
            return Version(self.major, self.minor, self.patch)
        if level == "major" and self.major > 0:
            return Version(self.major + 1, 0, 0)
        if level in ("major", "minor"):
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)

    def allows(self, new: Version, level: str) -> bool:
        """Return whether `new` may follow this version with a change of this level."""
        if not self < new:
            return False
        if (self.major, self.minor, self.patch) == (new.major, new.minor, new.patch):
            return True  # from a pre-release, to the next one or the release
        if level == "major" and self.major > 0:
            return new.major > self.major
        if level in ("major", "minor"):
            return (new.major, new.minor) > (self.major, self.minor)
        return True


def is_version_tag(name: str) -> bool:
    """Return whether a tag is ``v`` and a version, as `push` sets it."""
    try:
        return name.startswith("v") and bool(Version.parse(name))
    except VersionError:
        return False


@dataclass(frozen=True)
class Change:
    """One difference between two versions, and the level that it requires."""

    level: str
    text: str


def highest_level(changes: list[Change]) -> str:
    """Return the level of the most severe change."""
    return max((change.level for change in changes), key=LEVELS.index, default="none")


def compare_common(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the changes that datasets and weight spaces have in common."""
    found = []
    if old["format"] != new["format"]:
        return [Change("major", f"a {new['format']} instead of a {old['format']}")]
    if old["format_version"] != new["format_version"]:
        found.append(Change("major", f"format version {old['format_version']} -> {new['format_version']}"))
    if old["layout"]["digest"] != new["layout"]["digest"]:
        found.append(Change("major", f"another layout: {old['layout']['size']:,} -> {new['layout']['size']:,} numbers"))
    for key in ("base_digest", "initialisation"):
        was, now = old["compatibility"].get(key), new["compatibility"].get(key)
        if was != now:
            level = "minor" if was in (None, "unknown") else "major"
            found.append(Change(level, f"{key.replace('_', ' ')} {_short(was)} -> {_short(now)}"))
    if old.get("licence") != new.get("licence"):
        level = "minor" if old.get("licence") in (None, "unknown") else "major"
        found.append(Change(level, f"licence {old.get('licence')} -> {new.get('licence')}"))
    if old.get("name") != new.get("name"):
        found.append(Change("patch", f"name {old.get('name')} -> {new.get('name')}"))
    return found


def compare_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the change of files that are stored differently although nothing else differs."""
    changed = [n for n in {**old["files"], **new["files"]} if _sha(old, n) != _sha(new, n)]
    return [Change("patch", f"{counted(len(changed), 'file')} stored differently")] if changed else []


def _sha(manifest: Mapping[str, Any], name: str) -> Any:
    return manifest["files"].get(name, {}).get("sha256")


def _short(value: Any) -> str:
    text = "not stated" if value is None else str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def require_level(old: Version, new: Version, changes: list[Change]) -> None:
    """Raise `VersionError` unless `new` may follow `old` with these changes."""
    level = highest_level(changes)
    if old.allows(new, level):
        return
    why = next((change.text for change in changes if change.level == level), "nothing changed")
    if not old < new:
        raise VersionError(
            f"version {new} is not greater than {old}, the newest version; push it as {old.next(level)}", name=str(new)
        )
    raise VersionError(
        f"version {new} is too small a step from {old}: {why} is a {level} change; use {old.next(level)}", name=str(new)
    )
