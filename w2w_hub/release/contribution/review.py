"""Review a pull request: every check again on what the Hub has, trusting nothing that the contributor's side said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...common.arguments import checked
from ...common.constraints import flag, optional, text, whole
from ...common.text import command, counted, markdown, one_line
from ...dataset.matrix.geometry import GROUP
from ...dataset.opening import open_folder, open_source
from ...dataset.reader import DatasetReader
from ...dataset.sketches import FILE as SKETCHES
from ...errors import ContributionError, UnsupportedFormatError, W2WError
from ...store.hub.client import Token, call
from ...store.manifest import DATASET
from ..remote import Remote
from ..small_commit import main_commit
from ..withdrawal import dataset_name, read_list
from .batch import Batch, batch_files, digests_of
from .checks import Finding, Reference, Verdict, check_batch
from .hub_merge import merge_problems, reviewed_batches
from .requests import batch_of, fetch_batch, open_requests, read_request
from .waiting import waiting_rows

LONGEST_TITLE = 200
LISTED = 50  # problems in a comment
UNSHOWN = ("folder", "digests", "weights", "dataset")  # fields that are no part of the verdict as data
FETCHED = 16_000_000  # bytes of a matrix without published sketches that is downloaded for the checks


@dataclass(frozen=True)
class Review:
    """The verdict on a pull request at one of its commits.

    Attributes
    ----------
    repo : str
    number : int
    commit : str
        The commit of the pull request that was reviewed; `merge` takes it, whatever was pushed later.
    base : str
        The commit of main that it was checked against.
    title, contributor, status : str
        As the Hub states them.
    outcome : {"accept", "refuse", "merged", "released", "closed"}
        `merged`: its batch waits on main for the next release. `released`: its rows are in the dataset. `closed`:
        it was closed without a merge, and nothing was checked.
    batch : str or None
        Folder below ``contributions/``; None if it is not the batch of one contribution.
    problems : tuple of Finding
        Of the request as a whole; those of single rows are in `rows`.
    rows : tuple of Verdict
        One per row.
    notes : tuple of str
    folder : Path or None
        Where the batch lies on this computer, below ``contributions/``.
    digests : mapping of str to str
        The digest that each row will have, by its id.
    weights : ndarray or None
        The rows ``(n, size)``, float32 or float16; None if the batch could not be read.
    dataset : DatasetReader or None
        The dataset that they were checked against.
    """

    repo: str
    number: int
    commit: str
    base: str
    title: str
    contributor: str
    status: str
    outcome: str
    batch: str | None = None
    problems: tuple[Finding, ...] = ()
    rows: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Path | None = field(default=None, repr=False, compare=False)
    digests: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    weights: np.ndarray | None = field(default=None, repr=False, compare=False)
    dataset: DatasetReader | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """True if it can be merged."""
        return self.outcome == "accept"

    @property
    def next(self) -> str:
        """The command or step that a maintainer takes next."""
        if self.outcome == "accept":
            return command("w2w merge", f"{self.repo}#{self.number}", options=("--commit", self.commit))
        if self.outcome == "merged":
            return command("w2w release", self.repo)
        if self.outcome == "refuse":
            tell = command("w2w review", f"{self.repo}#{self.number}", options=("--comment",))
            return f"{tell} tells the contributor what to change; or close it on the Hub"
        return command("w2w review", self.repo)

    def to_json(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in UNSHOWN}
        problems = [{"check": each.check, "message": each.message} for each in self.problems]
        rows = [row.to_json() for row in self.rows]
        return {**kept, "ok": self.ok, "problems": problems, "rows": rows, "notes": list(self.notes), "next": self.next}

    def to_markdown(self) -> str:
        """Return the verdict as a comment for the pull request; what the contributor wrote is escaped."""
        lines = [f"{self.mark}, checked against {self.base[:12]}.", ""]
        problems = [f"- {markdown(each.message)}" for each in self.problems]
        problems += [f"- {markdown(row.id)}: {markdown(each.message)}" for row in self.rows for each in row.problems]
        lines += problems[:LISTED]
        if problems[LISTED:]:
            lines.append(f"- and {counted(len(problems) - LISTED, 'more problem')}")
        if self.outcome == "refuse":
            lines += ["", "Correct this, and offer it again with `w2w contribute`, which opens a new pull request."]
        return "\n".join(lines) + "\n"

    @property
    def mark(self) -> str:
        """The beginning of the comment, by which a verdict that was posted before is known."""
        return f"**{self.headline}** at commit {self.commit[:12]}"

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        bad = sum(not row.ok for row in self.rows)
        count = counted(len(self.rows), "adapter")
        return {
            "accept": f"Accepted: {count}, every check passed",
            "refuse": f"Refused: {bad} of {count}" if bad else "Refused",
            "merged": "Merged already: it is part of the next release",
            "released": "Released already: its rows are in the dataset",
            "closed": "Closed: nothing was checked",
        }[self.outcome]


@dataclass(frozen=True)
class OpenRequest:
    """An open pull request in a list.

    Attributes
    ----------
    number : int
    title, author, status, created : str
    """

    number: int
    title: str
    author: str
    status: str
    created: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@checked(repo=text(), number=whole(1), commit=optional(text()), comment=flag())
def review(
    repo: str, number: int, *, commit: str | None = None, comment: bool = False, token: Token = None
) -> Review:  # fmt: skip
    """Check a pull request of a dataset on the Hub again, and return the verdict (`w2w review`).

    Reads its commit, its two files and what the dataset publishes; opens no pickle, follows no link, and changes
    nothing.

    Parameters
    ----------
    repo : str
        ``org/name``.
    number : int
        As the Hub shows it.
    commit : str, optional
        A commit of the pull request; by default its newest.
    comment : bool
        Post the verdict in the pull request, once for each commit; this needs a token.

    Raises
    ------
    HubNotFoundError
        If there is no such pull request.
    ContributionError
        If `commit` is not a commit of the pull request.
    UnsupportedFormatError
        If the repository is not a dataset.
    HubError

    Examples
    --------
    >>> review("org/people", 12).outcome   # doctest: +SKIP
    'accept'
    """
    remote = Remote(dataset_name(repo), "dataset", token)
    found = reviewed(remote, number, main_commit(remote), commit)
    if comment:
        _post(remote, found)
    return found


@checked(repo=text())
def contributions(repo: str, *, token: Token = None) -> list[OpenRequest]:
    """Return the open pull requests of a dataset on the Hub, the oldest first (`w2w review REPO`).

    Raises
    ------
    HubNotFoundError, HubError
    """
    remote = Remote(dataset_name(repo), "dataset", token)
    return [
        OpenRequest(int(each.num), str(each.title), str(each.author), str(each.status), f"{each.created_at:%Y-%m-%d}")
        for each in open_requests(remote)
    ]


def _post(remote: Remote, found: Review) -> None:
    """Post a verdict in its pull request, unless it is there already."""
    details = call(remote.repo, remote.client.get_discussion_details, remote.repo, found.number, repo_type=remote.type)
    if any(found.mark in getattr(event, "content", "") for event in details.events):
        return
    call(
        remote.repo, remote.client.comment_discussion, remote.repo, found.number, found.to_markdown(),
        repo_type=remote.type, retries=0,
    )  # fmt: skip


def reviewed(remote: Remote, number: int, head: str, commit: str | None = None) -> Review:
    """Return the verdict on a pull request against one commit of main."""
    request = read_request(remote, number, head, commit)
    entries = remote.entries(head)
    pending = reviewed_batches(remote, head, entries)
    notes = ["the contributor has pushed another commit since; it is not looked at"] if request.newer else []

    def verdict(outcome: str, **facts: Any) -> Review:
        return Review(
            remote.repo, number, request.commit, head, one_line(request.title, LONGEST_TITLE), request.author,
            request.status, outcome, notes=tuple(notes), **facts,
        )  # fmt: skip

    merged = next((record for record in pending.records if record.pull_request == number), None)
    if merged is not None:
        return verdict("merged", batch=merged.batch)
    dataset, withdrawn = dataset_at(remote, head), read_list(remote, head).dates
    try:
        name = batch_of(request)
        batch, folder = fetch_batch(remote, request.commit, name, request.sizes, dataset.layout)
    except W2WError as error:
        if not isinstance(error, (ContributionError, ValueError)):  # the network, or this computer's disk
            raise
        if not request.is_active:
            return verdict("closed")
        return verdict("refuse", problems=(Finding("files", error.message),))
    digests = digests_of(batch, dataset.dtype)
    if _is_released(batch, digests, dataset):
        return verdict("released", batch=name, folder=folder)
    if not request.is_active and not set(batch_files(name)) <= entries.keys():  # and was not merged on the Hub
        return verdict("closed", batch=name)
    problems = tuple(Finding("files", why) for why in merge_problems(remote, head, entries, request, name))
    reference = Reference.of(dataset, remote.repo)
    sizes = {path: int(entry.size) for path, entry in entries.items()}
    waiting = waiting_rows(remote, head, pending, sizes, dataset, reference.sketches)
    notes += [f"not compared with a merged batch: {why}" for why in waiting.unread]
    rows = check_batch(batch, reference, withdrawn=withdrawn, waiting=waiting, digests=digests)
    outcome = "accept" if not problems and all(row.ok for row in rows) else "refuse"
    named = dict(zip(map(str, batch.ids), digests, strict=True))
    return verdict(
        outcome, batch=name, problems=problems, rows=tuple(rows), folder=folder, digests=named, weights=batch.rows,
        dataset=dataset,
    )  # fmt: skip


def dataset_at(remote: Remote, head: str) -> DatasetReader:
    """Return the dataset of main, withdrawn rows included, so that new ones are compared with them."""
    source = remote.source(head)
    if source is None or source.manifest().get("format") != DATASET:
        raise UnsupportedFormatError(
            f"{remote.repo} is not a dataset of w2w_hub; name one that was published with w2w push",
            repo_id=remote.repo,
        )
    weights = [name for name in source.files if name.startswith(f"{GROUP}/")]
    if SKETCHES in source.files or sum(source.files[name]["size"] for name in weights) > FETCHED:
        return DatasetReader(*open_source(source, guarded=False))
    source.need([*weights, *(name for name in source.files if "/" not in name or name.startswith("labels/"))])
    return DatasetReader(*open_folder(source.folder))  # rows are compared with each other without sketches


def _is_released(batch: Batch, digests: Sequence[str], dataset: DatasetReader) -> bool:
    """Return whether every row of a batch is in the dataset, under its own id."""
    there: Mapping[str, str] = dict(zip(dataset.ids, dataset.labels["row_sha256"].tolist(), strict=True))
    found = zip(batch.ids, digests, strict=True)
    return all(isinstance(name, str) and there.get(name) == digest for name, digest in found)


def problems_of(review: Review) -> Sequence[str]:
    """Return all problems of a review as lines."""
    rows = [f"{row.id}: {each.message}" for row in review.rows for each in row.problems]
    return [*(each.message for each in review.problems), *rows]


__all__ = ["OpenRequest", "Review", "contributions", "review"]
