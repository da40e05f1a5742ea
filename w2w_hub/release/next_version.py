"""Release the next version of a dataset on the Hub: merged contributions become rows, withdrawn rows are dropped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import checked, place
from ..common.constraints import flag, optional, text
from ..common.progress import progress
from ..common.text import counted, few
from ..dataset.changes.commit import change
from ..dataset.changes.fold import Offer, plan_folding
from ..dataset.manifest import DatasetManifest
from ..dataset.weight_dataset import WeightDataset
from ..dataset.withdrawn import withdrawn_rows
from ..errors import (
    CorruptFileError,
    HubConflictError,
    HubNotFoundError,
    InvalidInputError,
    UnsupportedFormatError,
    VersionError,
)
from ..store.hub.client import Token
from ..store.hub.semver import Version
from ..store.hub.source import Source
from ..store.hub.withdrawals import WithdrawalList
from ..store.locks import writer_lock
from ..store.manifest import FILENAME, kind_of
from ..store.paths import find_file, make_parents
from .contribution.batch import Batch, digests_of
from .contribution.hub_merge import reviewed_batches
from .contribution.pending import MergeRecord, Pending
from .contribution.requests import fetch_batch, link_file
from .publish import publish_on
from .remote import Head, Remote
from .small_commit import CONFLICTS, SmallCommit, commit_on_head
from .withdrawal import dataset_name, labels_of, read_list

if TYPE_CHECKING:
    from ..dataset.changes.plan import Plan
    from .publish import Published

WORK = ".w2w-release"  # in a repository's folder of the cache: where the next version is built


@dataclass(frozen=True)
class Released:
    """The result of `release`, or its plan in a dry run.

    Attributes
    ----------
    repo : str
    outcome : {"released", "tagged", "unchanged", "planned"}
        `tagged`: an earlier call was interrupted before the tag, which is set now. `unchanged`: nothing waits.
    version : str or None
        The new version; without one, None.
    commit : str or None
    level : {"none", "patch", "minor", "major"}
    added : mapping of str to str
        Id of each new row, and the account that offered it.
    dropped : tuple of str
        Ids of withdrawn rows that the version does not have.
    changes : tuple of str
        What the change log of the card says.
    skipped : tuple of str
        Files below ``contributions/`` that are not merged contributions, each with the reason.
    to_download : int
        Of a plan: bytes of the present version that are not in the cache of this computer, which the release fetches.
    """

    repo: str
    outcome: str
    version: str | None = None
    commit: str | None = None
    level: str = "none"
    added: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    to_download: int = 0

    @property
    def tag(self) -> str | None:
        return None if self.version is None else f"v{self.version}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tag": self.tag}


@checked(repo=text(), version=optional(text()), dry_run=flag(), sign=optional(place()))
def release(
    repo: str, version: str | None = None, *, sign: Path | str | None = None, token: Token = None, dry_run: bool = False
) -> Released:  # fmt: skip
    """Publish the next version of a dataset on the Hub (`w2w release`).

    Merged contributions become rows, which the split rule places, with the column ``contributor``; withdrawn rows are
    dropped. One commit makes the version, removes the folded batches and adds an entry to the change log of the card;
    its tag follows. A call that was interrupted can be repeated: it continues, and nothing is lost or doubled. What is
    merged meanwhile waits for the next release.

    The present version is downloaded as a whole: every file and row of what is published is verified before the tag is
    set, sketches and the Parquet view are made of rows of many shards, and of a version with a missing file nothing
    could be said. A file that is in the cache, of whatever version, is not fetched again. A dry run fetches labels and
    batches, and returns how much is missing.

    Parameters
    ----------
    version : str, optional
        By default the next one that the changes require: a major one if a row goes, else a minor one.
    sign : path, optional
        File of a private key to sign the version with, see `push`.
    dry_run : bool
        Return the plan and change nothing.

    Raises
    ------
    VersionError
        If `version` is not greater than the last one, or too small a step for the changes.
    CorruptFileError
        If a merged batch is not the one that was reviewed.
    BusyError
        If another process on this computer is releasing the same dataset.
    HubConflictError
        If somebody else released at the same time; nothing is lost, run it again.
    HubAccessError, HubError

    Examples
    --------
    >>> release("org/people").version   # doctest: +SKIP
    '1.1.0'
    """
    remote = Remote(dataset_name(repo), "dataset", token)
    head = _head(remote)
    state = _State.of(remote, head)
    stated = Version.parse(str(state.manifest["version"]))
    if stated.tag not in head.tags and (not head.tags or max(head.versions) < stated):
        return _finished(remote, head, stated, state, dry_run)
    if not state.pending.records and not state.gone:
        return Released(remote.repo, "unchanged", skipped=state.pending.others)
    return _Next(remote, head, state, version, sign).run(dry_run)


def _head(remote: Remote) -> Head:
    head = remote.head()
    if head is None:
        raise HubNotFoundError(
            f"{remote.repo} is not on the Hub, or private and not visible with this token; make it with w2w push",
            what="repository", repo_id=remote.repo,
        )  # fmt: skip
    if head.source is None or head.commit is None or kind_of(head.source.manifest()) != "dataset":
        raise UnsupportedFormatError(f"{remote.repo} is not a dataset of w2w_hub", repo_id=remote.repo)
    return head


def _finished(remote: Remote, head: Head, version: Version, state: _State, dry_run: bool) -> Released:
    """Set the tag of a version whose release was interrupted before it."""
    assert head.commit is not None
    if not dry_run:
        remote.tag(version, head.commit)
    entry: dict[str, Any] = next(
        (each for each in reversed(state.parsed.history) if each["version"] == str(version)), {}
    )
    return Released(
        remote.repo, "tagged", str(version), head.commit, changes=tuple(entry.get("changes", ())),
        skipped=state.pending.others,
    )  # fmt: skip


@dataclass(frozen=True)
class _State:
    """What a commit of main holds.

    Attributes
    ----------
    gone : tuple of str
        Ids of rows of the dataset that were withdrawn.
    sizes : mapping
        Bytes of each file.
    """

    source: Source
    manifest: dict[str, Any]
    pending: Pending
    withdrawn: WithdrawalList
    gone: tuple[str, ...]
    sizes: dict[str, int]

    @classmethod
    def of(cls, remote: Remote, head: Head) -> _State:
        assert head.commit is not None
        assert head.source is not None
        withdrawn = read_list(remote, head.commit)
        labels = labels_of(head.source)
        gone = tuple(labels.index[number] for number in withdrawn_rows(labels, withdrawn))
        entries = remote.entries(head.commit)
        sizes = {path: int(entry.size) for path, entry in entries.items()}
        pending = reviewed_batches(remote, head.commit, entries)
        return cls(head.source, head.source.manifest(), pending, withdrawn, gone, sizes)

    @cached_property
    def parsed(self) -> DatasetManifest:
        return DatasetManifest.from_json(self.manifest, self.source.folder / FILENAME)


class _Next:
    """Builds the next version of a dataset from one commit of main, and publishes it."""

    def __init__(self, remote: Remote, head: Head, state: _State, version: str | None, sign: Any = None):
        self.remote, self.head, self.state, self.key = remote, head, state, sign
        self.level = "major" if state.gone else "minor"
        newest = max([*head.versions, Version.parse(str(state.manifest["version"]))])
        self.version = newest.next(self.level) if version is None else Version.parse(version)
        if not newest < self.version:
            raise VersionError(
                f"version {self.version} is not greater than {newest}, the newest version; release it as "
                f"{newest.next(self.level)}",
                name=str(self.version),
            )
        if self.version.tag in head.branches:
            raise VersionError(
                f"{remote.repo} has a branch {self.version.tag}, which hides a tag of that name; delete the branch",
                name=str(self.version),
            )
        self.added: dict[str, str] = {}

    def run(self, dry_run: bool) -> Released:
        """Publish the version, or return what would be published."""
        offers = [offer for record in self.state.pending.records if (offer := self._offer(record)).labels]
        result = self._result()
        if not self.added and not self.state.gone:  # every row that waits was withdrawn
            return self._without_version(dry_run)
        if not self.added and len(self.state.gone) == self.state.manifest["rows"]:
            raise InvalidInputError(
                f"every row of {self.remote.repo} was withdrawn, and a dataset has at least one; make the repository "
                "private or delete it on the Hub",
                repo_id=self.remote.repo,
            )
        if dry_run:
            return result
        with self._work() as folder:
            change(folder, lambda dataset: self._plan(dataset, offers))
            published = self._publish(folder)
        return replace(result, outcome="released", commit=published.commit)

    def _offer(self, record: MergeRecord) -> Offer:
        """Return the rows of a merged batch without those that were withdrawn since."""
        batch = self._batch(record)
        digests = digests_of(batch, str(self.state.manifest["dtype"]))
        if dict(zip(batch.ids, digests, strict=True)) != dict(record.rows):
            raise CorruptFileError(
                f"{self.remote.repo}: contributions/{batch.name} does not hold the rows that were merged as "
                f"#{record.pull_request}; remove the folder from main, and merge it again",
                repo_id=self.remote.repo, name=batch.name,
            )  # fmt: skip
        kept = [i for i, row in enumerate(batch.ids) if self.state.withdrawn.find(row, digests[i]) is None]
        self.added |= {batch.ids[i]: record.contributor for i in kept}
        return Offer(record.contributor, batch.rows[kept], [batch.labels[i] for i in kept])

    def _batch(self, record: MergeRecord) -> Batch:
        """Download a batch into the cache and read it, which checks its digests."""
        assert self.head.commit is not None
        layout = self.state.parsed.layout
        return fetch_batch(self.remote, self.head.commit, record.batch, self.state.sizes, layout)[0]

    @property
    def _batches(self) -> list[str]:
        """The files of the merged batches."""
        return [path for record in self.state.pending.records for path in self.state.pending.files[record.batch]]

    def _without_version(self, dry_run: bool) -> Released:
        """Remove batches of which no row is left."""

        def plan(head: str) -> SmallCommit | str:
            there = self.remote.tree(head)
            left = [path for path in self._batches if path in there]
            return SmallCommit("Remove contributions whose rows were withdrawn", delete=left) if left else head

        commit = None if dry_run else commit_on_head(self.remote, plan)
        return Released(self.remote.repo, "unchanged", commit=commit, skipped=self.state.pending.others)

    # ------------------------------------------------------------ the change log
    def _result(self) -> Released:
        return Released(
            self.remote.repo, "planned", str(self.version), None, self.level, dict(self.added), self.state.gone,
            tuple(self._changes()), self.state.pending.others, self._missing_bytes(),
        )  # fmt: skip

    def _missing_bytes(self) -> int:
        """Return the bytes of the present version that are not in the cache."""
        source = self.state.source
        named = {entry["sha256"]: name for name, entry in source.files.items()}
        missing = [name for sha256, name in named.items() if not source.cache.has_content(sha256)]
        # small files have other names among the blobs
        return sum(int(source.files[name]["size"]) for name in missing if not source.has(name))

    def _changes(self) -> list[str]:
        found = []
        if self.added:
            found.append(f"{counted(len(self.added), 'row was added', 'rows were added')} ({few(list(self.added), 3)})")
        if self.state.gone:  # without names, which the withdrawal was about
            found.append(f"{counted(len(self.state.gone), 'withdrawn row was dropped', 'withdrawn rows were dropped')}")
        return found

    def _plan(self, dataset: WeightDataset, offers: Sequence[Offer]) -> Plan:
        entry = {
            "version": str(self.version), "date": datetime.now(UTC).date().isoformat(), "changes": self._changes(),
            "contributors": sorted(set(self.added.values()), key=str.lower),
        }  # fmt: skip
        return plan_folding(dataset, offers, self.state.gone, version=str(self.version), history=entry)

    # ------------------------------------------------------------ building and publishing
    @contextmanager
    def _work(self) -> Iterator[Path]:
        """Yield a folder with the present version, to be changed, and remove it afterwards.

        Its files are other names of those in the cache, which a change never writes in place.

        Raises
        ------
        BusyError
            If another process uses it.
        """
        source = self.state.source
        folder = source.cache.folder / WORK
        source.cache.folder.mkdir(parents=True, exist_ok=True)
        with writer_lock(folder.with_name(f"{WORK}-lock")):  # never a folder, so that the lock is outside of it
            shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
            folder.mkdir()
            source.need(source.files)
            names = [FILENAME, *source.files]  # without the card, which `push` takes from main
            for name in progress(names, "preparing the next version", len(names)):
                link_file(find_file(source.folder, name), make_parents(folder, name))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path) -> Published:
        """Publish the folder on main as it is by then, unless somebody else has released meanwhile."""
        for attempt in range(CONFLICTS + 1):
            try:
                return publish_on(
                    Source(folder), self.remote.repo, str(self.version), base=str(self.state.manifest["digest"]),
                    message=f"Version {self.version}: {'; '.join(self._changes())}",
                    remove=self._batches, sign=self.key,
                    token=self.remote.options.token,
                )  # fmt: skip
            except HubConflictError:
                head = self.remote.head()
                now = None if head is None or head.manifest is None else head.manifest.get("digest")
                if now != self.state.manifest["digest"] or attempt == CONFLICTS:
                    raise
        raise AssertionError  # unreachable: the last attempt returns or raises


__all__ = ["Released", "release"]
