"""Read a pull request of a dataset repository: who opened it, its commit, and the files that it changes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.limits import MAX_HEADER_BYTES
from ...common.text import few
from ...errors import ContributionError, HubError, HubNotFoundError, InvalidInputError
from ...lora.layout import ParameterLayout
from ...store.hub.client import call
from ...store.hub.source import ResolvedRevision, Source, download
from ...store.paths import find_file, make_parents, short
from ..remote import Remote
from ..withdrawal import dataset_name
from .batch import FOLDER, MAX_BATCH_ROWS, MAX_LABELS_BYTES, Batch, batch_files, parse_batch_path, read_batch

ACTIVE = ("open", "draft")
SHORT_COMMIT = 7  # digits of a commit that are enough, if no other commit begins with them


@dataclass(frozen=True)
class Request:
    """A pull request at one of its commits.

    Attributes
    ----------
    number : int
    title, author : str
        As the Hub states them; the author is the account that opened it.
    status : {"open", "draft", "closed", "merged"}
    commit : str
        The commit that is looked at.
    newer : bool
        Whether the contributor has pushed another commit since.
    changes : mapping of str to str
        Path to ``added``, ``changed`` or ``removed``, compared with the commit of main that it started from.
    sizes : mapping of str to int
        Bytes of the added files.
    blobs : mapping of str to str
        Git's digest of each added or changed file, or of the pointer to a large one.
    """

    number: int
    title: str
    author: str
    status: str
    commit: str
    newer: bool
    changes: Mapping[str, str]
    sizes: Mapping[str, int]
    blobs: Mapping[str, str]

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE


def split_number(text: str) -> tuple[str, int]:
    """Return the repository and the number of a pull request that is written ``org/name#12``.

    Raises
    ------
    InvalidInputError
    """
    repo, _, number = text.rpartition("#")
    if not repo or not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise InvalidInputError(
            f"{short(text)} does not name a pull request; write org/name#12, with the number that the Hub shows",
            name="repo",
        )
    return dataset_name(repo), int(number)


def read_request(remote: Remote, number: int, head: str, commit: str | None = None) -> Request:
    """Return a pull request at its newest commit, or at an earlier one.

    Parameters
    ----------
    head : str
        The commit of main.

    Raises
    ------
    HubNotFoundError
        If there is no such pull request.
    ContributionError
        If `commit` is not one of its commits.
    HubError
    """
    found = _details(remote, number)
    ref = f"refs/pr/{number}"
    history = remote.history(ref)
    ours = set(remote.history(head))
    own = [each for each in history if each not in ours]
    named = [each for each in own if commit is None or (len(commit) >= SHORT_COMMIT and each.startswith(commit))]
    if commit is not None and len(named) != 1:
        raise ContributionError(
            f"{remote.repo}#{number} has no commit {short(commit)}; see: w2w review {remote.repo}#{number}",
            repo_id=remote.repo, revision=commit,
        )  # fmt: skip
    chosen = history[0] if commit is None else named[0]
    start = next((each for each in history if each in ours), None)
    before = {} if start is None else remote.entries(start)
    after = remote.entries(chosen)
    changes = {path: "removed" for path in before if path not in after}
    for path, entry in after.items():
        if path not in before:
            changes[path] = "added"
        elif entry.blob_id != before[path].blob_id:
            changes[path] = "changed"
    return Request(
        number, str(found.title), str(found.author), str(found.status), chosen, chosen != history[0], changes,
        {path: int(entry.size) for path, entry in after.items() if changes.get(path) == "added"},
        {path: str(entry.blob_id) for path, entry in after.items() if path in changes},
    )  # fmt: skip


def _details(remote: Remote, number: int) -> Any:
    missing = HubNotFoundError(
        f"{remote.repo} has no pull request #{number}; list those that are open with: w2w review {remote.repo}",
        what="revision", repo_id=remote.repo, revision=f"refs/pr/{number}",
    )  # fmt: skip
    try:
        found = call(remote.repo, remote.client.get_discussion_details, remote.repo, number, repo_type=remote.type)
    except HubError as error:
        if isinstance(error, HubNotFoundError) or error.what == "404":
            raise missing from error
        raise
    if not found.is_pull_request:
        raise missing
    return found


def open_requests(remote: Remote) -> list[Any]:
    """Return the open pull requests, the oldest first, as huggingface_hub describes them."""
    return _listed(remote, ACTIVE)


def merged_requests(remote: Remote) -> list[int]:
    """Return the numbers of the pull requests that were merged by the Hub, which `w2w merge` never asks for."""
    return [int(each.num) for each in _listed(remote, ("merged",))]


def _listed(remote: Remote, statuses: Collection[str]) -> list[Any]:
    def listing() -> list[Any]:
        found = remote.client.get_repo_discussions(remote.repo, repo_type=remote.type)
        return [each for each in found if each.is_pull_request and each.status in statuses]

    return sorted(call(remote.repo, listing), key=lambda each: int(each.num))


def batch_of(request: Request) -> str:
    """Return the batch that a pull request adds.

    Raises
    ------
    ContributionError
        If it changes anything else.
    """
    batches = {found for path in request.changes if (found := parse_batch_path(path)) is not None}
    names = {name for name, _ in batches}
    wanted = {path for name in names for path in batch_files(name)}
    others = [f"{short(path)} is {how}" for path, how in request.changes.items() if path not in wanted]
    others += [f"{path} is {how}" for path, how in request.changes.items() if path in wanted and how != "added"]
    if others:
        raise ContributionError(
            f"{few(others, 4)}; a contribution adds the two files of one batch below {FOLDER}/ and changes nothing else"
        )
    if len(names) != 1 or len(batches) != 2:
        what = "adds no batch" if not names else f"adds {len(names)} batches" if len(names) > 1 else "adds half a batch"
        raise ContributionError(f"it {what}; a contribution adds the two files of one: make it with w2w contribute")
    return names.pop()


def fetch_batch(
    remote: Remote, commit: str, name: str, sizes: Mapping[str, int], layout: ParameterLayout
) -> tuple[Batch, Path]:
    """Download a batch of a commit into the cache; return it, and the folder that holds ``contributions/``.

    Raises
    ------
    ContributionError
        If its files are larger than a batch can be; nothing is downloaded then.
    CorruptFileError, UnsafePathError, LayoutMismatchError, UnsupportedFormatError
        See :func:`read_batch`; also if more bytes arrive than the repository lists.
    """
    rows, labels = batch_files(name)
    limits = {rows: MAX_BATCH_ROWS * layout.size * 4 + MAX_HEADER_BYTES, labels: MAX_LABELS_BYTES}
    for path, limit in limits.items():
        if sizes[path] > limit:
            raise ContributionError(f"{path} has {sizes[path]:,} bytes; a batch has at most {limit:,} there")
    revision = ResolvedRevision(remote.repo, remote.kind, commit, commit)
    source = Source(Path(), revision, {path: {"size": sizes[path]} for path in limits}, remote.options)
    for path in limits:
        download(revision, path, source)
    cached = source.cache.own_snapshot(commit)
    with tempfile.TemporaryDirectory() as folder:  # in the cache, there may be other files of the commit beside them
        for path in limits:
            link_file(find_file(cached, path), make_parents(Path(folder), path))
        return read_batch(Path(folder), name, layout), cached


def link_file(source: Path, target: Path) -> None:
    """Give a file of the cache another name, or copy it where the file system has no links."""
    found = source.resolve()
    try:
        os.link(found, target)
    except OSError:
        shutil.copyfile(found, target)


__all__ = [
    "Request",
    "batch_of",
    "fetch_batch",
    "link_file",
    "merged_requests",
    "open_requests",
    "read_request",
    "split_number",
]
