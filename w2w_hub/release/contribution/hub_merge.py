"""Find out what the Hub's own merge put on main: exactly the batch that was reviewed, more, or a forged record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...common.text import few
from ...errors import HubNotFoundError
from ...store.hub.client import call
from ...store.paths import short
from ..remote import Remote
from .batch import batch_files
from .pending import Pending, pending_batches, record_path
from .requests import Request, merged_requests, read_request

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


def reviewed_batches(remote: Remote, head: str, entries: Mapping[str, Any]) -> Pending:
    """Return the merged batches of main's commit `head`, without those whose record came with a pull request itself.

    `w2w merge` writes a record to main, never to a pull request; the Hub's merge takes whatever a pull request holds.

    Parameters
    ----------
    entries : mapping
        The files of the commit, see :meth:`Remote.entries`.
    """
    pending = pending_batches(remote, head, entries)
    forged = _forged(remote, head, entries, [record_path(record.batch) for record in pending.records])
    others = [
        f"{path} came with #{number}, which was merged on the Hub without a review; remove its folder from main"
        for path, number in sorted(forged.items())
    ]
    kept = tuple(record for record in pending.records if record_path(record.batch) not in forged)
    return replace(pending, records=kept, others=(*pending.others, *others))


def _forged(remote: Remote, head: str, entries: Mapping[str, Any], records: Collection[str]) -> dict[str, int]:
    """Return the records, of these paths, that a pull request brought to main, and its number."""
    found: dict[str, int] = {}
    for number in merged_requests(remote) if records else ():
        try:
            there = call(
                remote.repo, remote.client.get_paths_info, remote.repo, list(records), repo_type=remote.type,
                revision=f"refs/pr/{number}",
            )  # fmt: skip
        except HubNotFoundError:  # the Hub has removed its commits
            continue
        same = [file.path for file in there if _blob(entries, file.path) == getattr(file, "blob_id", None)]
        if same:  # also where the pull request started from a main that had the record
            blobs = read_request(remote, number, head).blobs
            found |= {path: number for path in same if blobs.get(path) == _blob(entries, path)}
    return found


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


__all__ = ["merge_problems", "reviewed_batches"]
