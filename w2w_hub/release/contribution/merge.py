"""Merge a reviewed contribution: a commit of our own with the two files that were reviewed, never the Hub's merge.

The Hub's merge takes what the pull request holds at that moment, which its author can change after the review.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...common.arguments import checked
from ...common.constraints import optional, text, whole
from ...common.text import counted, few
from ...common.warn import warn_caller
from ...errors import ContributionError, HubError
from ...store.hub.client import Token, call
from ...store.paths import find_file
from ..remote import Remote
from ..small_commit import SmallCommit, commit_on_head
from ..withdrawal import dataset_name
from .batch import batch_files
from .pending import MergeRecord, record_path
from .requests import ACTIVE
from .review import Review, problems_of, reviewed


@dataclass(frozen=True)
class Merged:
    """The result of `merge`.

    Attributes
    ----------
    repo : str
    number : int
    outcome : {"merged", "unchanged"}
        `unchanged`: an earlier call had merged it.
    commit : str or None
        The new commit of main.
    reviewed : str
        The commit of the pull request whose files were merged.
    batch : str or None
    rows : int
    closed : bool
        Whether the pull request is closed.
    """

    repo: str
    number: int
    outcome: str
    commit: str | None
    reviewed: str
    batch: str | None
    rows: int
    closed: bool

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@checked(repo=text(), number=whole(1), commit=optional(text()))
def merge(repo: str, number: int, *, commit: str | None = None, token: Token = None) -> Merged:
    """Merge a contribution into main of a dataset on the Hub, and close its pull request (`w2w merge`).

    All checks run again, at the commit that was reviewed and against main as it is now. The batch's two files are then
    committed with a record of who offered them, and `release` makes rows of them. An interrupted call can be repeated.

    Parameters
    ----------
    commit : str, optional
        The commit that the verdict of `review` names; what the contributor pushed after it is not merged. By default
        the newest commit is reviewed and merged.

    Raises
    ------
    ContributionError
        If it does not pass, was closed, or does not have this commit; nothing is changed.
    HubAccessError, HubConflictError, HubError

    Examples
    --------
    >>> from w2w_hub.release import merge, review
    >>> merge("org/people", 12, commit=review("org/people", 12).commit)   # doctest: +SKIP
    """
    remote = Remote(dataset_name(repo), "dataset", token)
    job = _Merge(remote, number, commit)
    made = commit_on_head(remote, job.plan)
    review = job.review
    assert review is not None
    new = isinstance(made, str)
    closed = _close(remote, review)
    outcome = "merged" if new or job.planned else "unchanged"
    return Merged(
        remote.repo, number, outcome, made if isinstance(made, str) else None, review.commit, review.batch, job.rows,
        closed,
    )  # fmt: skip


class _Merge:
    """One call of `merge`."""

    def __init__(self, remote: Remote, number: int, commit: str | None):
        self.remote, self.number, self.commit = remote, number, commit
        self.review: Review | None = None
        self.rows, self.planned = 0, False

    def plan(self, head: str) -> SmallCommit | Review:
        """Return the commit that merges the contribution, or its review if it is merged already."""
        found = self.review = reviewed(self.remote, self.number, head, self.commit)
        self.commit = found.commit  # also if the contributor pushes before a second attempt
        if found.outcome in ("merged", "released"):
            return found
        name = f"{self.remote.repo}#{self.number}"
        if not found.ok or found.batch is None or found.folder is None:
            why = few(problems_of(found), 3) if found.outcome == "refuse" else f"it is {found.status}"
            raise ContributionError(
                f"{name} is not merged: {why}; all is listed by: w2w review {name}",
                repo_id=self.remote.repo, revision=found.commit, name=found.batch,
            )  # fmt: skip
        today = datetime.now(UTC).date().isoformat()
        record = MergeRecord(found.batch, self.number, found.contributor, found.commit, today, found.digests)
        there = self.remote.tree(head)
        add: dict[str, bytes | Path] = {
            path: find_file(found.folder, path).resolve() for path in batch_files(found.batch) if path not in there
        }
        add[record_path(found.batch)] = record.to_bytes()
        self.rows, self.planned = len(found.rows), True
        title = f"Merge #{self.number}: {counted(len(found.rows), 'adapter')} by {found.contributor}"
        return SmallCommit(title, f"Reviewed commit {found.commit}", add)


def _close(remote: Remote, review: Review) -> bool:
    """Close a pull request whose batch is on main; a warning says if that is not possible."""
    if review.status not in ACTIVE:
        return True
    text = f"Merged at commit {review.commit[:12]} by w2w merge; the next version of the dataset has it. Thank you."
    try:
        call(
            remote.repo, remote.client.change_discussion_status, remote.repo, review.number, "closed", comment=text,
            repo_type=remote.type,
        )  # fmt: skip
    except HubError as error:
        warn_caller(
            f"{remote.repo}#{review.number} is merged, but could not be closed ({error}); close it on the Hub",
        )
        return False
    return True


__all__ = ["Merged", "merge"]
