"""The subject of an error, passed down to code that parses bytes and does not know where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any


@dataclass(frozen=True)
class HubFile:
    """A file of a Hub repository at one revision; as text, how messages name it."""

    repo_id: str
    revision: str
    name: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}: {self.name}"


Where = HubFile | PathLike[str] | str  # a string only names the place in messages


def about(where: object) -> dict[str, Any]:
    """Return the keywords for a `W2WError` about a path or a file on the Hub; none for a text that names the place.

    Examples
    --------
    >>> about(HubFile("org/people", "v1.0.0", "manifest.json"))
    {'repo_id': 'org/people', 'revision': 'v1.0.0', 'name': 'manifest.json'}
    """
    if isinstance(where, HubFile):
        return {"repo_id": where.repo_id, "revision": where.revision, "name": where.name}
    return {"path": where} if isinstance(where, PathLike) else {}
