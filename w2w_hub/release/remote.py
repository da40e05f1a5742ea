"""Read and change a Hub repository for `push`: its head, version tags and tree; one commit, one tag."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.limits import MAX_FILES
from ..common.progress import progress
from ..errors import CorruptFileError, HubConflictError, HubError, HubNotFoundError, InvalidInputError
from ..store.hub.cache import TYPES
from ..store.hub.client import RETRIES, Token, api, call, retry_delay
from ..store.hub.options import HubOptions
from ..store.hub.resolve import FORMATS, open_repository
from ..store.hub.semver import Version, is_version_tag
from ..store.hub.source import ResolvedRevision, Source, download
from ..store.manifest import CHECKSUM, upgraded
from ..store.paths import read_file
from .outgoing import Outgoing

FILES_PER_BATCH = 50  # after each batch an interrupted push can continue


@dataclass(frozen=True)
class Head:
    """The state of main and of the version tags at one time.

    Attributes
    ----------
    commit : str or None
    tags : mapping
        Version tags and their commits.
    source : Source or None
        The files of main, if its manifest is one of this package.
    branches : frozenset of str
    """

    commit: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None
    branches: frozenset[str] = frozenset()

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        return None if self.source is None else self.source.manifest()

    @property
    def is_released(self) -> bool:
        """True once a version was published; a push may have been interrupted before that."""
        return bool(self.tags) or self.source is not None

    @property
    def versions(self) -> list[Version]:
        return sorted(map(Version.parse, self.tags))


class Remote:
    """The Hub repository that a push changes.

    Parameters
    ----------
    repo : str
        ``org/name``.
    kind : {"dataset", "space"}
    """

    def __init__(self, repo: str, kind: str, token: Token):
        self.repo, self.kind, self.type = repo, kind, TYPES[kind]
        self.options, self.client = HubOptions(token), api(token)

    # ------------------------------------------------------------ reading
    def head(self) -> Head | None:
        """Return the current head; None if the repository does not exist."""
        try:
            refs = call(self.repo, self.client.list_repo_refs, self.repo, repo_type=self.type)
        except HubNotFoundError:
            return None
        tags = {ref.name: ref.target_commit for ref in refs.tags if is_version_tag(ref.name)}
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        commit = branches.get("main")
        return Head(commit, tags, None if commit is None else self.source(commit), frozenset(branches))

    def source(self, commit: str) -> Source | None:
        """Return the files of a commit; None if it has no manifest of this package."""
        try:
            return open_repository(self.repo, self.kind, commit, self.options)
        except (HubNotFoundError, ValueError):
            return None

    def read(self, commit: str, name: str, limit: int) -> bytes | None:
        """Return the content of a small file of a commit, through the cache; None if the commit does not have it.

        Raises
        ------
        CorruptFileError
            If it has more than `limit` bytes.
        """
        revision = ResolvedRevision(self.repo, self.kind, commit, commit)
        source = Source(Path(), revision, {name: {"size": limit}}, self.options)
        try:
            download(revision, name, source)
        except HubNotFoundError as error:
            if error.what != "file":
                raise
            return None
        return read_file(source.cache.own_snapshot(commit), name, limit)

    def entries(self, commit: str) -> dict[str, Any]:
        """Return the files of a commit by path, as huggingface_hub describes them (`RepoFile`).

        Raises
        ------
        CorruptFileError
            If there are more than `MAX_FILES`.
        """
        from huggingface_hub.hf_api import RepoFile

        def listing() -> dict[str, Any]:
            entries = self.client.list_repo_tree(self.repo, repo_type=self.type, revision=commit, recursive=True)
            found = [entry for entry in islice(entries, MAX_FILES + 1) if isinstance(entry, RepoFile)]
            if len(found) > MAX_FILES:
                raise CorruptFileError(
                    f"{self.repo}@{commit} has more than {MAX_FILES:,} files", repo_id=self.repo, revision=commit
                )
            return {entry.path: entry for entry in found}

        return call(self.repo, listing)

    def history(self, revision: str) -> list[str]:
        """Return the commits of a revision, the newest first."""
        listed = call(self.repo, self.client.list_repo_commits, self.repo, repo_type=self.type, revision=revision)
        return [str(commit.commit_id) for commit in listed]

    def tree(self, commit: str | None) -> dict[str, str]:
        """Return the files of a commit: path to the sha256 of a large file, or git's digest of a small one."""
        entries = {} if commit is None else self.entries(commit)
        return {path: entry.lfs.sha256 if entry.lfs else entry.blob_id for path, entry in entries.items()}

    # ------------------------------------------------------------ changing
    def create(self, private: bool) -> None:
        call(self.repo, self.client.create_repo, self.repo, repo_type=self.type, private=private or None, exist_ok=True)

    def is_private(self) -> bool:
        """Return whether the repository exists and is private."""
        return bool(call(self.repo, self.client.repo_info, self.repo, repo_type=self.type).private)

    def require_closed(self, head: Head, private: bool, gated: str | None, dry_run: bool) -> None:
        """Raise if an existing repository is more open than requested; gate one without a version.

        A repository without a version counts as new, since a push may have been interrupted before it was gated.
        """
        found: Any = call(self.repo, self.client.repo_info, self.repo, repo_type=self.type)
        if gated and not found.gated and not head.is_released and not dry_run:
            call(self.repo, self.client.update_repo_settings, self.repo, repo_type=self.type, gated=gated)
            found.gated = gated
        if (private and not found.private) or (gated and not found.gated and (head.is_released or not dry_run)):
            wanted = "private" if private and not found.private else "gated"
            raise InvalidInputError(
                f"{self.repo} exists and is not {wanted}; nothing was sent: make it {wanted} in its "
                "settings on the Hub, then push again, or leave the option out",
                repo_id=self.repo,
                name=wanted,
            )

    def commit(
        self, head: Head, files: Outgoing, send: Sequence[str], delete: Sequence[str], title: str, description: str
    ) -> str:
        """Upload files, then change main in one commit, and return that commit."""
        from huggingface_hub import CommitOperationDelete

        additions = [files.addition(name) for name in send]
        batches = [additions[i : i + FILES_PER_BATCH] for i in range(0, len(additions), FILES_PER_BATCH)]
        for batch in progress(batches, f"sending to {self.repo}", len(batches)):
            call(
                self.repo, self.client.preupload_lfs_files, self.repo, additions=batch, repo_type=self.type,
                free_memory=False,
            )  # fmt: skip
            files.require_sent(batch)
        operations: list[Any] = [*additions, *(CommitOperationDelete(path_in_repo=name) for name in delete)]

        def create() -> str:
            with warnings.catch_warnings():  # about Parquet files in a model repository
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                return self.client.create_commit(
                    self.repo, operations, repo_type=self.type, parent_commit=head.commit, commit_message=title,
                    commit_description=description,
                ).oid  # fmt: skip

        for attempt in range(RETRIES + 1):
            try:
                return call(self.repo, create, retries=0)
            except HubError as error:
                delay = retry_delay(error.__cause__ or error, attempt)
                if delay is not None:
                    time.sleep(delay)
                # the commit may exist although its response was lost
                if made := self._committed_since(head, files.manifest, error):
                    return made
                if delay is None or attempt == RETRIES:
                    raise
        raise AssertionError  # unreachable: the last attempt returns or raises

    def _committed_since(self, head: Head, manifest: Mapping[str, Any], error: HubError) -> str | None:
        """Return main's commit if it has this content; raise `HubConflictError` if it has other new content."""
        now = self.head()
        if now is None or now.commit == head.commit:
            return None
        if now.manifest is not None and is_same_content(now.manifest, manifest):
            return now.commit
        found = now.manifest.get("version") if now.manifest else "something else"
        raise HubConflictError(
            f"{self.repo} was changed at the same time (main is now at {found}); "
            f"see w2w log {self.repo}, then push again",
            repo_id=self.repo,
            revision=now.commit,
        ) from error

    def tag(self, version: Version, commit: str) -> None:
        """Set a version's tag; an existing one must be on this commit."""
        try:
            call(self.repo, self.client.create_tag, self.repo, tag=version.tag, revision=commit,
                 repo_type=self.type, tag_message=f"Version {version}")  # fmt: skip
        except HubError as error:
            refs = call(self.repo, self.client.list_repo_refs, self.repo, repo_type=self.type)
            there = {ref.name: ref.target_commit for ref in refs.tags}.get(version.tag)
            if there == commit:
                return
            if there is None:
                raise type(error)(
                    f"{error}; the files are on main, run the same command again to set the tag", **error.data()
                ) from error
            raise HubConflictError(
                f"{self.repo} got the tag {version.tag} on {there[:12]} at the same time, this push is {commit[:12]}; "
                "tags never move: push this as the next version",
                repo_id=self.repo,
                revision=version.tag,
            ) from error


def is_same_content(there: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Return whether a published manifest equals mine, as stored on disk, except for the checksum."""
    mine = upgraded(dict(mine), "the manifest", *FORMATS)  # as `there` was
    return {k: v for k, v in there.items() if k != CHECKSUM} == {k: v for k, v in mine.items() if k != CHECKSUM}
