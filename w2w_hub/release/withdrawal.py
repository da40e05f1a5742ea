"""Withdraw rows of a published dataset: from then on this package reads them at no revision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ..common.arguments import checked
from ..common.checks import text_list
from ..common.constraints import flag, one_of, optional, text
from ..common.limits import MAX_WITHDRAWALS_BYTES
from ..common.subject import HubFile
from ..common.text import counted, few, nearest
from ..dataset.manifest import DatasetManifest
from ..dataset.tables import read_labels
from ..errors import InvalidInputError, UnknownNameError
from ..store.hub.cache import SHA
from ..store.hub.client import Token
from ..store.hub.locate import has_owner, split_kind
from ..store.hub.semver import Version
from ..store.hub.source import Source
from ..store.hub.withdrawals import FILENAME, REASONS, Withdrawal, WithdrawalList, parse_withdrawals, remember
from ..store.manifest import kind_of
from ..store.paths import find_file
from .contribution.pending import pending_batches
from .remote import Remote
from .small_commit import SmallCommit, commit_on_head

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class WithdrawalResult:
    """The result of `withdraw`, or its plan in a dry run.

    Attributes
    ----------
    repo : str
    commit : str or None
        The commit on the branch ``main``; None if there is nothing to do, or in a dry run.
    outcome : {"withdrawn", "unchanged", "planned"}
    rows : tuple of Withdrawal
        The entries of these rows, also those that were withdrawn before.
    versions : tuple of str
        The newest versions that hold the rows; at most one for each of them.
    """

    repo: str
    commit: str | None
    outcome: str
    rows: tuple[Withdrawal, ...]
    versions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "rows": [asdict(row) for row in self.rows]}


@checked(repo=text(), reason=one_of(*REASONS), dry_run=flag(), message=optional(text()))
def withdraw(
    repo: str, ids: str | Sequence[str], *, reason: str, message: str | None = None, token: Token = None,
    dry_run: bool = False,
) -> WithdrawalResult:  # fmt: skip
    """Withdraw rows of a dataset on the Hub, by their ids (`w2w withdraw`).

    Adds id and row digest to ``withdrawn.json`` on the branch ``main``. This package then refuses the rows at every
    revision, also under another id, and the next release drops them. Versions and their files stay as they are: stock
    `datasets`, and copies that somebody made, do not know of the list.

    Parameters
    ----------
    repo : str
        ``org/name``, which the token must be allowed to write to.
    ids : str or sequence of str
        Rows of the head of ``main`` or of any version, or of a merged contribution.
    reason : {"consent", "rights", "license", "content", "error", "other"}
        Stated in the list, which is public; it says nothing else about the person.
    message : str, optional
        Title of the commit.
    dry_run : bool
        Return the plan and change nothing.

    Raises
    ------
    UnknownNameError
        If a row is in no version.
    CorruptFileError, UnsupportedFormatError
        If the present list is damaged, or of a later format.
    HubAccessError, HubConflictError, HubError

    Examples
    --------
    >>> withdraw("org/people", "person-0007", reason="consent")   # doctest: +SKIP
    """
    name, wanted = dataset_name(repo), list(dict.fromkeys(text_list(ids, "an id")))
    if not wanted:
        raise InvalidInputError("there are no rows to withdraw", name="ids")
    call = _Withdrawal(Remote(name, "dataset", token), wanted, reason, message)
    made = commit_on_head(call.remote, partial(call.plan, dry_run=dry_run))
    return call.result(made)


class _Withdrawal:
    """One call of `withdraw`."""

    def __init__(self, remote: Remote, ids: list[str], reason: str, message: str | None):
        self.remote, self.ids, self.reason, self.message = remote, ids, reason, message
        self.today = datetime.now(UTC).date().isoformat()
        self.found: dict[str, _Row] = {}  # rows of the call that were not withdrawn when it began
        self.listed = WithdrawalList()

    def plan(self, head: str, *, dry_run: bool) -> SmallCommit | str:
        """Return the commit that adds the rows to the list of `head`, or the outcome if there is none to make."""
        there = read_list(self.remote, head)
        missing = [row for row in self.ids if row not in there.ids]
        self.found |= _find(self.remote, head, [row for row in missing if row not in self.found])
        new = [Withdrawal(row, self.found[row].digest, self.today, self.reason) for row in missing]
        self.listed = there.with_rows(new)
        if dry_run and new:
            return "planned"
        if not new:  # also after a commit whose answer was lost
            return "withdrawn" if self.found else "unchanged"
        title = self.message or f"Withdraw {counted(len(new), 'row')}"
        lines = "\n".join(f"{row.id}: {row.reason}" for row in new)
        return SmallCommit(title, lines, {FILENAME: self.listed.to_bytes()})

    def result(self, made: str) -> WithdrawalResult:
        """Return the result for a commit or an outcome, and remember the list."""
        if made != "planned":
            remember(self.remote.repo, self.remote.options, self.listed)
        commit = made if SHA.match(made) else None
        rows = tuple(entry for row in self.ids if (entry := self.listed.find(row)) is not None)
        versions = tuple(dict.fromkeys(row.version for row in self.found.values() if row.version))
        return WithdrawalResult(self.remote.repo, commit, "withdrawn" if commit else made, rows, versions)


def dataset_name(repo: str) -> str:
    """Return the name of a dataset repository, without the prefix ``datasets/``.

    Raises
    ------
    InvalidInputError
    """
    kind, name = split_kind(repo)
    if kind == "space" or not has_owner(name):
        raise InvalidInputError(f"{repo} is not the name of a dataset on the Hub (org/name)", name="repo")
    return name


def read_list(remote: Remote, commit: str) -> WithdrawalList:
    """Return the withdrawn rows that a commit lists; none if it has no list.

    Raises
    ------
    CorruptFileError, UnsupportedFormatError, HubError
    """
    raw = remote.read(commit, FILENAME, MAX_WITHDRAWALS_BYTES)
    return WithdrawalList() if raw is None else parse_withdrawals(raw, HubFile(remote.repo, commit, FILENAME))


@dataclass(frozen=True)
class _Row:
    """The digest of a row, and the newest version that holds it; empty for one that is not released."""

    digest: str
    version: str


def _find(remote: Remote, head: str, ids: Sequence[str]) -> dict[str, _Row]:
    """Return rows by id, from the branch or else from the newest version that has them."""
    if not ids:
        return {}
    found = _merged(remote, head, ids)
    if len(found) == len(ids):
        return found
    labels: pd.DataFrame | None = None
    for source in _versions(remote, head):
        version, labels = str(source.manifest()["version"]), labels_of(source)
        for row in (set(ids) - found.keys()) & set(labels.index):
            found[row] = _Row(str(labels.at[row, "row_sha256"]), version)
        if len(found) == len(ids):
            return found
    unknown = [row for row in ids if row not in found]
    close = [] if labels is None else nearest(unknown[0], list(labels.index))
    hint = f"did you mean {' or '.join(close)}?" if close else "ids are listed by: w2w inspect"
    raise UnknownNameError(
        f"{remote.repo} has no row {few([repr(row) for row in unknown])} in any version; {hint}",
        repo_id=remote.repo, name=unknown[0],
    )  # fmt: skip


def _merged(remote: Remote, head: str, ids: Sequence[str]) -> dict[str, _Row]:
    """Return rows of contributions that were merged and wait for the next release."""
    waiting: dict[str, str] = {}
    for record in pending_batches(remote, head, remote.entries(head)).records:
        waiting.update(record.rows)
    return {row: _Row(waiting[row], "") for row in ids if row in waiting}


def _versions(remote: Remote, head: str) -> Iterator[Source]:
    """Yield the branch, and then its versions from the newest on."""
    known = remote.head()
    tags = {} if known is None else known.tags
    newest = sorted(tags, key=Version.parse, reverse=True)
    for commit in dict.fromkeys([head, *(tags[tag] for tag in newest)]):
        source = remote.source(commit)
        if source is not None and kind_of(source.manifest()) == "dataset":
            yield source


def labels_of(source: Source) -> pd.DataFrame:
    """Return the labels of a commit of a dataset, which are fetched if they are not cached."""
    folder = source.need(name for name in source.files if name.startswith("labels/"))
    return read_labels(partial(find_file, folder), DatasetManifest.read(folder), str(source.revision))


__all__ = ["WithdrawalResult", "withdraw"]
