"""Decide whether what the Hub's own merge put on main is exactly the batch that was reviewed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...common.text import few
from ...store.hub.client import call
from ...store.paths import short
from ..remote import Remote
from .batch import batch_files
from .requests import Request

FARTHEST = 100  # commits of main that are searched for the one that added a batch


def merge_problems(remote: Remote, head: str, entries: Mapping[str, Any], request: Request, batch: str) -> list[str]:
    """Return why a batch that is on main without a record of its merge cannot be completed; empty if it can.

    It can if both files on main are those of the reviewed commit, and the commit that brought them changed nothing
    else that is still so: the Hub merges all that a pull request holds at that moment.

    Parameters
    ----------
    entries : mapping
        The files of main's commit `head`, see :meth:`Remote.entries`.
    """
    wanted = batch_files(batch)
    if set(wanted).isdisjoint(entries):
        return []
    folder = wanted[0].rpartition("/")[0]
    remove = f"remove {folder}/ from main, and let the contributor offer it again"
    if any(path not in entries or entries[path].blob_id != request.blobs[path] for path in wanted):
        return [f"main has other files in {folder}/ than the reviewed commit {request.commit[:12]}; {remove}"]
    added, before = _brought_by(remote, head, wanted)
    if added is None:
        return [f"which commit brought {folder}/ to main is not found; {remove}"]
    after, earlier = remote.entries(added), {} if before is None else remote.entries(before)
    changed = [path for path in {*after, *earlier} - {*wanted} if _blob(after, path) != _blob(earlier, path)]
    still = sorted(path for path in changed if _blob(entries, path) == _blob(after, path))
    if still:
        return [
            f"the commit {added[:12]}, which brought {folder}/ to main without a review, also changed "
            f"{few([short(path) for path in still], 3)}; undo that on main first, then merge it again"
        ]
    return []


def _brought_by(remote: Remote, head: str, wanted: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return the oldest of the latest commits of main that have these files, and the commit before it."""
    found: str | None = None
    for commit in remote.history(head)[:FARTHEST]:
        there = call(
            remote.repo, remote.client.get_paths_info, remote.repo, list(wanted), repo_type=remote.type, revision=commit
        )
        if len(there) < len(wanted):
            return found, commit
        found = commit
    return None, None


def _blob(entries: Mapping[str, Any], path: str) -> str | None:
    return entries[path].blob_id if path in entries else None


__all__ = ["merge_problems"]
