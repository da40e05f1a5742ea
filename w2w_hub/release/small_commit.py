"""Commit a few small files to the branch of a repository, also while others commit to it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import HubConflictError, HubError
from ..store.hub.client import RETRIES, call, retry_delay
from .remote import Remote

T = TypeVar("T")
CONFLICTS = 8  # commits of others in a row, after which a call gives up


@dataclass(frozen=True)
class SmallCommit:
    """Files to add and remove.

    Attributes
    ----------
    add : mapping of str to bytes or Path
        Their content, or a file that has it.
    delete : sequence of str
    """

    title: str
    description: str = ""
    add: Mapping[str, bytes | Path] = field(default_factory=dict)
    delete: Sequence[str] = ()

    def operations(self) -> list[Any]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        added = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(data) if isinstance(data, Path) else data)
            for name, data in self.add.items()
        ]
        return [*added, *(CommitOperationDelete(path_in_repo=name) for name in self.delete)]


def main_commit(remote: Remote) -> str:
    """Return the commit of the branch.

    Raises
    ------
    HubError
    """
    found: Any = call(remote.repo, remote.client.repo_info, remote.repo, repo_type=remote.type, revision="main")
    return str(found.sha)


def commit_on_head(remote: Remote, plan: Callable[[str], SmallCommit | T]) -> str | T:
    """Make a commit on the branch, and return it.

    The plan is made for one head, and made again if somebody else commits meanwhile or an answer is lost. It therefore
    has to recognize what is done already.

    Parameters
    ----------
    plan : callable
        Takes the head commit and returns the commit to make; anything else ends the call and is returned.

    Raises
    ------
    HubConflictError
        If others kept committing.
    HubError
    """
    attempt = conflicts = 0
    while True:
        head = main_commit(remote)
        planned = plan(head)
        if not isinstance(planned, SmallCommit):
            return planned
        try:
            return call(remote.repo, _create, remote, head, planned, retries=0)
        except HubConflictError:
            conflicts += 1
            if conflicts > CONFLICTS:
                raise
        except HubError as error:
            delay = retry_delay(error.__cause__ or error, attempt)
            attempt += 1
            if delay is None or attempt > RETRIES:
                raise
            time.sleep(delay)


def _create(remote: Remote, head: str, planned: SmallCommit) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
        return str(
            remote.client.create_commit(
                remote.repo, planned.operations(), repo_type=remote.type, parent_commit=head,
                commit_message=planned.title, commit_description=planned.description,
            ).oid
        )  # fmt: skip
