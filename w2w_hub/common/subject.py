"""The subject of an error: the path or Hub file that parsed bytes came from."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any


@dataclass(frozen=True)
class HubFile:
    """A file of a Hub repository at one revision; ``str()`` names it in messages."""

    repo_id: str
    revision: str
    name: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}: {self.name}"


Where = HubFile | PathLike[str] | str  # a string only names the place in messages


def about(where: object) -> dict[str, Any]:
    """Return the `W2WError` keywords for a path or a Hub file; an empty dict for any other text.

    Examples
    --------
    >>> about(HubFile("org/people", "v1.0.0", "manifest.json"))
    {'repo_id': 'org/people', 'revision': 'v1.0.0', 'name': 'manifest.json'}
    """
    if isinstance(where, HubFile):
        return {"repo_id": where.repo_id, "revision": where.revision, "name": where.name}
    return {"path": where} if isinstance(where, PathLike) else {}
