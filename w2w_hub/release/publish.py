"""Publish a dataset or weight space as a version: one commit that is seen whole or not at all, then a tag."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.checks import require_path
from ..common.limits import MAX_CARD_BYTES
from ..common.progress import progress
from ..errors import (
    AlreadyExistsError,
    CorruptFileError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    InvalidInputError,
    VersionError,
)
from ..store.hub.cache import TYPES
from ..store.hub.client import PATIENCE, Token, api, call, pause
from ..store.hub.resolve import FORMATS, REPOSITORY, Source, download, open_repository
from ..store.hub.semver import Change, Version, highest, is_version_tag, require_level
from ..store.manifest import CARD, CHECKSUM
from ..store.paths import read_file, short
from .card import is_written, published_card, rendered_bodies, split_card, with_facts
from .outgoing import Outgoing, collect
from .versions import compare, kind_of

if TYPE_CHECKING:
    from ..dataset import WeightDataset

FILES_A_BATCH = 50  # uploaded and then known to the Hub, so that a killed push goes on from there


@dataclass(frozen=True)
class Published:
    """What `publish` did, or would do.

    Attributes
    ----------
    repo, kind, version, tag : str
    commit : str or None
        None in a dry run that would make one.
    outcome : {"published", "tagged", "unchanged", "planned"}
        `tagged`: an earlier push had been cut short before its tag. `unchanged`: the version was there already.
    sent, reused, deleted : tuple of str
        Files whose content is new, that the repository has already, and that it loses.
    bytes_sent : int
        Size of `sent`; what the Hub has of it already is not sent again.
    level : str
        Of the change since the version before: none, patch, minor or major.
    changes : tuple of str
    """

    repo: str
    kind: str
    version: str
    commit: str | None
    outcome: str
    sent: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    bytes_sent: int = 0
    level: str = "none"
    changes: tuple[str, ...] = ()
    created: bool = False

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tag": self.tag}


@dataclass(frozen=True)
class _Head:
    """What main and the version tags are at one moment."""

    commit: str | None
    tags: Mapping[str, str]
    source: Source | None  # main's manifest, if it has one of ours
    branches: frozenset[str] = frozenset()

    @property
    def manifest(self) -> dict[str, Any] | None:
        return None if self.source is None else self.source.manifest()


def publish(
    path: Path | str | WeightDataset,
    repo: str,
    *,
    version: str | None = None,
    private: bool = False,
    gated: str | None = None,
    message: str | None = None,
    token: Token = None,
    dry_run: bool = False,
) -> Published:
    """Publish a dataset or weight-space folder as one version of a Hub repository.

    A reader sees the old version or the whole new one. Files that the repository has are not sent; a push that
    was killed is repeated by the same call and goes on. The tag is set last and never moved; history is kept. The
    folder is verified first and stays as it is: the published manifest has the version and its own checksum.

    Parameters
    ----------
    path : path or WeightDataset
        A folder. Only what its manifest lists, the manifest and README.md are sent. Or an open dataset: one that was
        opened lazily is fetched whole first.
    repo : str
        ``org/name``, created if it is not there.
    version : str, optional
        Semantic version; the manifest's without it. How far it must be from the last one follows from what
        changed, see ``cards/FORMAT.md``.
    private : bool
        Of a new repository.
    gated : {"auto", "manual"}, optional
        Readers of a new repository must ask for access.
    dry_run : bool
        Tell what would be done; nothing is sent.

    Raises
    ------
    AlreadyExistsError
        If the version is there with other content.
    VersionError
        If the version is not after the last one, or does not say how much has changed.
    HubConflictError
        If somebody else published meanwhile.
    CorruptFileError
        If the folder does not verify, or is changed while it is sent.
    UnsafePathError
        If anything below the folder is a link, or something that is listed is not a regular file.
    InvalidInputError
        If the folder holds a change that a killed writer did not finish; ``w2w repair`` does.
    HubAccessError, HubError

    Examples
    --------
    >>> publish("people", "org/people", version="1.0.0")   # doctest: +SKIP
    """
    if not isinstance(repo, str) or not REPOSITORY.match(repo) or "@" in repo:
        raise InvalidInputError(f"{short(repo)} is not the name of a Hub repository (org/name)")
    if gated not in (None, "auto", "manual"):
        raise InvalidInputError(f"gated is auto or manual, not {gated!r}")
    job = _Push(_source_of(path), repo, version, token, message)
    return job.run(private=private, gated=gated, dry_run=dry_run)


def _source_of(what: Any) -> Source:
    """The files of a folder, or of an open dataset."""
    if isinstance(what, (str, os.PathLike)):
        return Source(require_path(what, "the folder"))
    source = getattr(what, "source", None)
    manifest = getattr(what, "manifest", None)
    if not isinstance(source, Source) or manifest is None:
        raise InvalidInputError(f"a folder or an open dataset is published, not {type(what).__name__}")
    source.need(source.files)
    source.need_card()
    if source.manifest()["digest"] != manifest.digest:
        raise CorruptFileError(f"{source.folder} has changed since it was opened; open it again", path=source.folder)
    return source


class _Push:
    """One push: what the folder is, and the steps that bring it to the Hub."""

    def __init__(self, source: Source, repo: str, version: str | None, token: Token, message: str | None):
        self.source, self.folder = source, source.folder
        self.repo, self.token, self.message = repo, token, message
        self.files: Outgoing = collect(source, version)
        self.local, self.manifest, self.version = self.files.local, self.files.manifest, self.files.version
        self.kind = kind_of(self.manifest)
        self.type, self.client = TYPES[self.kind], api(token)
        self.files.add(CARD, published_card(self.folder, self.local, self.manifest, repo).encode())

    # ------------------------------------------------------------ steps
    def run(self, *, private: bool, gated: str | None, dry_run: bool) -> Published:
        head, created = self._head(), False
        if head is None:
            created = True
            if not dry_run:
                self._create(private)
                head = self._head()
            head = head or _Head(None, {}, None)
        if head.commit is not None and (private or gated):
            self._require_closed(head, private, gated, dry_run)
        if self.version.tag in head.branches:
            raise InvalidInputError(
                f"{self.repo} has a branch {self.version.tag}, so that nobody could tell the version from it; "
                "delete the branch, or push the next version"
            )
        done = self._already(head)
        if done is not None:
            return done
        changes = self._changes(head)
        plan = self._plan(head, changes, created)
        if dry_run:
            return plan
        if plan.outcome == "tagged":
            assert head.commit is not None
            self._tag(head.commit)
            return plan
        commit = self._commit(head, plan)
        self._require_arrived(commit)
        self._tag(commit)
        return replace(plan, commit=commit, outcome="published")

    def _head(self) -> _Head | None:
        """Main's head and the version tags; None without a repository."""
        try:
            refs = call(self.repo, self.client.list_repo_refs, self.repo, repo_type=self.type)
        except HubNotFoundError:
            return None
        tags = {ref.name: ref.target_commit for ref in refs.tags if is_version_tag(ref.name)}
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        commit = branches.get("main")
        return _Head(commit, tags, None if commit is None else self._source(commit), frozenset(branches))

    def _source(self, commit: str) -> Source | None:
        try:
            return open_repository(self.repo, self.kind, commit, token=self.token)
        except (InvalidInputError, HubNotFoundError, ValueError):
            return None  # nothing of ours there yet

    def _create(self, private: bool) -> None:
        call(self.repo, self.client.create_repo, self.repo, repo_type=self.type, private=private or None, exist_ok=True)

    def _require_closed(self, head: _Head, private: bool, gated: str | None, dry_run: bool) -> None:
        """Refuse to publish openly what was asked to be closed: these options make new repositories only.

        One without a version counts as new, since a push may have been cut short before it was gated.
        """
        there: Any = call(self.repo, self.client.repo_info, self.repo, repo_type=self.type)
        if gated and not there.gated and not head.tags and head.source is None and not dry_run:
            call(self.repo, self.client.update_repo_settings, self.repo, repo_type=self.type, gated=gated)
            there.gated = gated
        known = not dry_run or head.tags or head.source is not None
        if (private and not there.private) or (gated and not there.gated and known):
            wanted = "private" if private and not there.private else "gated"
            raise InvalidInputError(
                f"{self.repo} is there already and is not {wanted}; nothing was sent: make it {wanted} in its "
                "settings on the Hub, then push again, or leave the option out"
            )

    def _already(self, head: _Head) -> Published | None:
        """The result, if this version is tagged already."""
        commit = head.tags.get(self.version.tag)
        if commit is None:
            return None
        there = head.source if commit == head.commit else self._source(commit)
        if there is not None and _same_content(there.manifest(), self.manifest):
            return self._result(commit, "unchanged")
        found = "nothing of ours" if there is None else f"digest {str(there.manifest().get('digest'))[:12]}"
        mine = str(self.manifest["digest"])[:12]
        newest = max((Version.parse(tag) for tag in head.tags), default=self.version)
        raise AlreadyExistsError(
            f"{self.repo} has {self.version.tag} already with other content ({found}, this folder has {mine}); a "
            f"version is never replaced: push it as {newest.next('patch')} or later"
        )

    def _changes(self, head: _Head) -> list[Change]:
        """What changed since main's version; refuses a version that does not say so."""
        newest = max((Version.parse(tag) for tag in head.tags), default=None)
        if head.source is None and newest is not None:  # somebody broke or removed main's manifest
            head = replace(head, source=self._source(head.tags[newest.tag]))
        if head.source is None or head.manifest is None:
            if newest is not None and not newest < self.version:
                require_level(newest, self.version, [])
            return []
        if head.manifest.get("format") not in FORMATS or _same_content(head.manifest, self.manifest):
            return []
        changes, _ = compare(head.source, self.source)
        known = [newest] if newest else []
        with suppress(VersionError):  # pushed by other means, under something that is no version
            known.append(Version.parse(str(head.manifest.get("version"))))
        if known:
            require_level(max(known), self.version, changes)
            released = max((v for v in map(Version.parse, head.tags) if not v.pre), default=None)
            if max(known).pre and released is not None:  # pre-releases promise nothing; the last release did
                last = self._source(head.tags[released.tag])
                if last is not None:
                    require_level(released, self.version, compare(last, self.source)[0])
        return changes

    def _plan(self, head: _Head, changes: list[Change], created: bool) -> Published:
        there = self._tree(head.commit)
        if head.source is not None and CARD in there and not self.files.is_same(CARD, there[CARD]):
            self._keep_card(head.source)
        send = [name for name in self.files.names if not self.files.is_same(name, there.get(name))]
        if head.manifest is not None and _same_content(head.manifest, self.manifest) and not {*send} - {CARD}:
            return self._result(head.commit, "tagged")
        # what the last version listed and this one does not; files that others added stay
        listed = head.manifest.get("files", {}) if head.manifest else {}
        delete = [name for name in listed if name in there and name not in self.files.names]
        return Published(
            self.repo, self.kind, str(self.version), None, "planned",
            sent=tuple(sorted(send)), reused=tuple(sorted(set(self.files.names) - set(send))), deleted=tuple(delete),
            bytes_sent=sum(self.files.size(name) for name in send),
            level=highest(changes), changes=tuple(c.text for c in changes), created=created,
        )  # fmt: skip

    def _keep_card(self, published: Source) -> None:
        """Go on with a card that somebody wrote on the Hub, unless the folder has one that somebody wrote, too."""
        assert published.revision is not None
        was = published.manifest()
        published.need(name for name in published.files if name.startswith("directions."))
        download(published.revision, CARD, published)
        theirs = read_file(published.folder, CARD, MAX_CARD_BYTES).decode("utf-8", errors="replace")
        before = rendered_bodies(published.folder, was, self.repo)
        if split_card(theirs)[1] in before:
            return
        if is_written(self.folder, self.local):
            warnings.warn(
                f"{self.repo}: README.md was edited on the Hub; the folder's takes its place, and the Hub's history "
                "keeps the other",
                stacklevel=5,
            )
            return
        after = rendered_bodies(self.folder, self.manifest, self.repo)
        text = with_facts(theirs, before[1], after[1])
        self.files.add(CARD, published_card(self.folder, self.local, self.manifest, self.repo, own=text).encode())

    def _tree(self, commit: str | None) -> dict[str, str]:
        """Path to sha256 of a large file, or to git's digest of a small one."""
        from huggingface_hub.hf_api import RepoFile

        if commit is None:
            return {}

        def listing() -> dict[str, str]:
            entries = self.client.list_repo_tree(self.repo, repo_type=self.type, revision=commit, recursive=True)
            return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}

        return call(self.repo, listing)

    def _require_arrived(self, commit: str) -> None:
        """Raise before a tag is set on a commit that does not hold the files that were verified here."""
        there = self._tree(commit)
        if wrong := [name for name in self.files.names if not self.files.is_same(name, there.get(name))]:
            raise CorruptFileError(
                f"{self.repo}: {wrong[0]} arrived as something else than was sent, and {self.version.tag} is not set; "
                "push again"
            )

    def _commit(self, head: _Head, plan: Published) -> str:
        """Upload, then make the one commit that changes main."""
        from huggingface_hub import CommitOperationDelete

        additions = [self.files.addition(name) for name in plan.sent]
        batches = [additions[i : i + FILES_A_BATCH] for i in range(0, len(additions), FILES_A_BATCH)]
        for batch in progress(batches, f"sending to {self.repo}", len(batches)):
            call(
                self.repo, self.client.preupload_lfs_files, self.repo, additions=batch, repo_type=self.type,
                free_memory=False,
            )  # fmt: skip
            self.files.require_sent(batch)
        operations: list[Any] = [*additions, *(CommitOperationDelete(path_in_repo=name) for name in plan.deleted)]
        what = f"Version {self.version}" + (f": {plan.changes[0]}" if plan.changes else "")

        def commit() -> str:
            with warnings.catch_warnings():  # a model repository with Parquet files is what is meant
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                return self.client.create_commit(
                    self.repo, operations, repo_type=self.type, parent_commit=head.commit,
                    commit_message=self.message or what, commit_description="\n".join(plan.changes),
                ).oid  # fmt: skip

        return self._land(head, commit)

    def _land(self, head: _Head, commit: Callable[[], str]) -> str:
        """Commit once: an answer that was lost is looked for at the head before anything is repeated."""
        for attempt in range(PATIENCE + 1):
            try:
                return call(self.repo, commit, patience=0)
            except HubError as error:
                cause = error.__cause__ or error
                wait = pause(cause, attempt)
                if wait is not None:
                    time.sleep(wait)
                now = self._head()
                if now is not None and now.commit != head.commit:
                    if now.manifest is not None and _same_content(now.manifest, self.manifest):
                        assert now.commit is not None
                        return now.commit
                    there = now.manifest.get("version") if now.manifest else "something else"
                    raise HubConflictError(
                        f"{self.repo} was changed meanwhile (main is now at {there}); see w2w log {self.repo}, then "
                        "push again"
                    ) from error
                if wait is None or attempt == PATIENCE:
                    raise
        raise AssertionError  # the last attempt returns or raises

    def _tag(self, commit: str) -> None:
        """Set the version's tag; if it is there, it must be on this commit."""
        try:
            call(self.repo, self.client.create_tag, self.repo, tag=self.version.tag, revision=commit,
                 repo_type=self.type, tag_message=f"Version {self.version}")  # fmt: skip
        except HubError as error:
            refs = call(self.repo, self.client.list_repo_refs, self.repo, repo_type=self.type)
            there = {ref.name: ref.target_commit for ref in refs.tags}.get(self.version.tag)
            if there == commit:
                return
            if there is None:
                raise type(error)(
                    f"{error}; the files are on main, run the same command again to set the tag"
                ) from error
            raise HubConflictError(
                f"{self.repo} got {self.version.tag} on {there[:12]} meanwhile, this push is {commit[:12]}; a version "
                "is never moved: push this under the next one"
            ) from error

    def _result(self, commit: str | None, outcome: str) -> Published:
        return Published(
            self.repo, self.kind, str(self.version), commit, outcome, reused=tuple(sorted(self.files.names))
        )


def _same_content(there: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether two manifests list the same version of the same files, whatever they state as their own checksum."""
    return {k: v for k, v in there.items() if k != CHECKSUM} == {k: v for k, v in mine.items() if k != CHECKSUM}
