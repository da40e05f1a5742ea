"""Publish a dataset or weight space as a version: one atomic commit, then a tag."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import DATASET, checked, place
from ..common.constraints import either, flag, one_of, optional, text
from ..common.deprecated import deprecated_alias
from ..errors import (
    AlreadyExistsError,
    CorruptFileError,
    HubConflictError,
    InvalidInputError,
    VersionError,
)
from ..space.card import dataset_repository
from ..store.hub.cache import KIND_NAMES
from ..store.hub.client import Token
from ..store.hub.locate import PREFIX_OF, has_owner, split_kind
from ..store.hub.resolve import FORMATS
from ..store.hub.semver import Change, Version, highest_level, require_level
from ..store.hub.source import Source
from ..store.hub.withdrawals import FILENAME as WITHDRAWN
from ..store.manifest import CARD, kind_of
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import short
from .card import published_card
from .difference import compare
from .hub_facts import hub_facts
from .kept_card import kept_card, kept_link
from .leaving_out import source_without
from .outgoing import Outgoing, collect, source_of
from .permission import require_permission
from .remote import Head, Remote, is_same_content
from .row_rules import require_not_withdrawn, require_stated_rows
from .signing import FILENAME as SIGNATURE
from .signing import sign_manifest

if TYPE_CHECKING:
    from ..dataset import WeightDataset


@dataclass(frozen=True)
class Published:
    """The result of `push`, or its plan in a dry run.

    Attributes
    ----------
    repo, kind, version, tag : str
    commit : str or None
        None in a dry run that would make one.
    outcome : {"published", "tagged", "unchanged", "planned"}
        `tagged`: an earlier push was interrupted before its tag. `unchanged`: the version exists already.
    sent, reused, deleted : tuple of str
        Files with new content, files that the repository has already, and files removed from it.
    bytes_sent : int
        Total size of `sent`; large files that the Hub has already are not uploaded again.
    level : {"none", "patch", "minor", "major"}
        The level of the change since the previous version.
    changes : tuple of str
    created : bool
        Whether the repository is new.
    dataset : str or None
        What the card of a weight space links as its dataset, ``org/name@revision``.
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
    dataset: str | None = None

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tag": self.tag}


@checked(
    path=either(place(), DATASET), repo=text(), private=flag(), message=optional(text()), dry_run=flag(),
    gated=optional(one_of("auto", "manual")), dataset=optional(place()), sign=optional(place()),
    population=flag(), population_model=flag(),
)  # fmt: skip
def push(
    path: Path | str | WeightDataset,
    repo: str,
    *,
    version: str | None = None,
    private: bool = False,
    gated: str | None = None,
    message: str | None = None,
    dataset: Path | str | None = None,
    sign: Path | str | None = None,
    token: Token = None,
    dry_run: bool = False,
    population: bool = True,
    population_model: bool = True,
) -> Published:
    """Publish a dataset or weight-space folder as one version of a Hub repository (`w2w push`).

    Readers see the old version or the whole new one. Files that the repository has already are not sent; after an
    interruption the same call continues. The tag is set last and never moved, and history is kept. The folder is
    verified first and not changed: the published manifest has the version and a checksum of its own.

    Parameters
    ----------
    path : path or WeightDataset
        A folder, whose manifest, listed files and README.md are sent; or an open dataset, which is fetched completely
        first if it was opened lazily.
    repo : str
        ``org/name``, optionally prefixed with ``datasets/`` or ``models/``; created if it does not exist. A new one
        needs the prefix if the other kind has the name already.
    version : str, optional
        Semantic version; by default the manifest's. The changes determine the smallest
        allowed increment, see ``cards/FORMAT.md``.
    private : bool
        Make a new repository private; an existing public one is refused. Only a private one may hold rows that do not
        state their source, license and consent.
    gated : {"auto", "manual"}, optional
        Require readers of a new repository to request access.
    message : str, optional
        Title of the commit.
    dataset : path or str, optional
        Where the Hub has the dataset that a weight space was built from (``org/name@v1.0.0``, or a lock file that pins
        it), for the link on the card. By default the repository that it was opened from for the build, that the last
        version's card links, or a public one of this owner that has the recipe's name for it and its digest.
    sign : path, optional
        File of a private key (elliptic curve, PEM), to sign the manifest: ``manifest.sig``, which
        ``verify(identity=...)`` checks. Needs the extra `sign`. Without it, a version has no signature.
    token : str or bool, optional
        As in huggingface_hub.
    dry_run : bool
        Return the plan and send nothing.
    population : bool
        Send ids and coefficients of a weight space's rows. Without them, see :meth:`WeightSpace.without_population`.
    population_model : bool
        Send its model of the population, from which the coefficients of a fitted row can be estimated if nobody else
        has its attributes. What is left out stays in the folder; a card that was written by hand is sent as it is.

    Returns
    -------
    Published

    Raises
    ------
    AlreadyExistsError
        If the version exists with other content.
    VersionError
        If the version is not greater than the last one, or the increment is too small for the changes.
    HubConflictError
        If somebody else published at the same time.
    CorruptFileError
        If verification of the folder fails, or the folder changes while it is sent.
    UnsafePathError
        If anything below the folder is a link, or a listed file is not a regular file.
    InvalidInputError
        If a killed writer left an unfinished change in the folder, which ``w2w repair`` finishes; or if the repository
        is not private, and rows do not state their source, license and consent, or the LoRAs were imported from
        weights2weights without the consent of the people shown.
    HubAccessError, HubError

    Examples
    --------
    >>> push("people", "org/people", version="1.0.0")   # doctest: +SKIP
    """
    kind, name = split_kind(repo)
    if not has_owner(name):
        raise InvalidInputError(f"{short(repo)} is not the name of a Hub repository (org/name)", name="repo")
    with ExitStack() as stack:
        source = given = source_of(path)
        if not (population and population_model):
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="w2w-")))
            source = source_without(source, scratch, population=population, population_model=population_model)
        job = _Push(source, name, kind, version, dataset, token, private=private, given=given.folder)
        if sign is not None:
            job.sign(sign)
        return job.run(private=private, gated=gated, dry_run=dry_run, message=message)


publish = deprecated_alias("publish", push)


def publish_on(
    source: Source, repo: str, version: str, *, base: str, message: str, remove: Sequence[str] = (),
    sign: Path | str | None = None, token: Token = None,
) -> Published:  # fmt: skip
    """Publish the next version of a dataset, made of the one with the digest `base`, as `push` does.

    Parameters
    ----------
    message : str
        Title of the commit.
    remove : sequence of str
        Files of the repository that the same commit removes.

    Raises
    ------
    HubConflictError
        If main has another version by now, or changes meanwhile.
    """
    job = _Push(source, repo, "dataset", version, None, token, private=False)
    job.base, job.remove = base, tuple(remove)
    if sign is not None:
        job.sign(sign)
    return job.run(private=False, gated=None, dry_run=False, message=message)


class _Push:
    """One call of `push`: compares a verified folder with the repository and publishes it."""

    def __init__(
        self, source: Source, repo: str, kind: str | None, version: str | None, dataset: Path | str | None,
        token: Token, *, private: bool, given: Path | None = None,
    ):  # fmt: skip
        self.source, self.folder, self.repo, self.stated_kind = source, source.folder, repo, kind
        self.files: Outgoing = collect(source, version)
        self.manifest, self.version = self.files.manifest, self.files.version
        self.kind = kind_of(self.manifest)
        if kind not in (None, self.kind):
            raise InvalidInputError(
                f"{self.folder} is a {KIND_NAMES[self.kind]}, and {PREFIX_OF[str(kind)]}{repo} names a "
                f"{KIND_NAMES[str(kind)]}; push it to {PREFIX_OF[self.kind]}{repo}",
                name="repo",
            )
        self.remote = Remote(repo, self.kind, token)
        given = given or self.folder  # not the copy from which the population is left out
        require_permission(given, self.manifest, repo, private=lambda: private or self.remote.is_private())
        self.dataset_given = dataset is not None
        self.facts = hub_facts(self.folder, self.manifest, repo, dataset, self.remote)
        self.files.add(CARD, published_card(self.folder, self.manifest, self.facts).encode())
        self.base: str | None = None  # digest of the version that main must have
        self.remove: tuple[str, ...] = ()  # files of others that the commit removes

    def sign(self, key: Path | str) -> None:
        """Send a signature of the published manifest, too."""
        self.files.add(SIGNATURE, sign_manifest(self.files.content(MANIFEST), key))

    def run(self, *, private: bool, gated: str | None, dry_run: bool, message: str | None) -> Published:
        head, created = self.remote.head(), False
        if head is None:
            created = True
            self._require_own_name()
            if not private:
                require_stated_rows(self.remote, Head(), self.folder, self.manifest)
            if not dry_run:
                self.remote.create(private)
                head = self.remote.head()
            head = head or Head()
        if head.commit is not None and (private or gated):
            self.remote.require_closed(head, private, gated, dry_run)
        if self.version.tag in head.branches:
            raise InvalidInputError(
                f"{self.repo} has a branch {self.version.tag}, which hides a tag of that name; delete the "
                "branch, or push the next version",
                repo_id=self.repo,
                revision=self.version.tag,
            )
        done = self._existing(head)
        if done is not None:
            return done
        if self.base is not None and (head.manifest or {}).get("digest") != self.base:
            raise HubConflictError(
                f"{self.repo} got another version meanwhile; nothing was changed, run the same command again",
                repo_id=self.repo,
            )
        if not private and not created:
            require_stated_rows(self.remote, head, self.folder, self.manifest)
        self._keep_link(head)
        plan = self._plan(head, self._changes(head), created)
        if dry_run:
            return plan
        if plan.outcome == "tagged":
            assert head.commit is not None
            self.remote.tag(self.version, head.commit)
            return plan
        title = message or f"Version {self.version}" + (f": {plan.changes[0]}" if plan.changes else "")
        commit = self.remote.commit(head, self.files, plan.sent, plan.deleted, title, "\n".join(plan.changes))
        self._require_arrived(commit)
        self.remote.tag(self.version, commit)
        return replace(plan, commit=commit, outcome="published")

    def _require_own_name(self) -> None:
        """Raise before a repository is made whose name one of the other kind has, unless the kind was stated."""
        other = "space" if self.kind == "dataset" else "dataset"
        if self.stated_kind is None and Remote(self.repo, other, self.remote.options.token).head() is not None:
            raise InvalidInputError(
                f"{self.repo} is a {KIND_NAMES[other]} already; choose another name for this {KIND_NAMES[self.kind]}, "
                f"or push it to {PREFIX_OF[self.kind]}{self.repo} and write that prefix wherever you name one of them",
                repo_id=self.repo,
                name="repo",
            )

    def _existing(self, head: Head) -> Published | None:
        """Return the result if this version is tagged already."""
        commit = head.tags.get(self.version.tag)
        if commit is None:
            return None
        there = head.source if commit == head.commit else self.remote.source(commit)
        if there is not None and is_same_content(there.manifest(), self.manifest):
            return self._result(commit, "unchanged")
        found = "an unknown manifest" if there is None else f"digest {str(there.manifest().get('digest'))[:12]}"
        mine = f"digest {str(self.manifest['digest'])[:12]}"
        other = "labels" if self.kind == "dataset" else "directions, population"
        what = f"other {other} or metadata and the same {mine}"
        if found != mine:
            what = f"different content ({found}, this folder has {mine})"
        raise AlreadyExistsError(
            f"{self.repo} already has {self.version.tag} with {what}; a version is never replaced: push it as "
            f"{head.versions[-1].next('patch')} or later, as far as the changes require",
            repo_id=self.repo,
            revision=self.version.tag,
        )

    def _changes(self, head: Head) -> list[Change]:
        """Return the changes since main's version; raise `VersionError` if the new version is too close to it."""
        newest = max(head.versions, default=None)
        if head.source is None and newest is not None:  # main's manifest is damaged or missing
            head = replace(head, source=self.remote.source(head.tags[newest.tag]))
        if head.source is None or head.manifest is None:
            if newest is not None and not newest < self.version:
                require_level(newest, self.version, [])
            return []
        if head.manifest.get("format") not in FORMATS or is_same_content(head.manifest, self.manifest):
            return []
        changes, _ = compare(head.source, self.source)
        known = [newest] if newest else []
        with suppress(VersionError):  # pushed by other means, without a version
            known.append(Version.parse(str(head.manifest.get("version"))))
        if known:
            require_level(max(known), self.version, changes)
            released = max((version for version in head.versions if not version.pre), default=None)
            if max(known).pre and released is not None:  # a pre-release is compared with the last release, too
                last = self.remote.source(head.tags[released.tag])
                if last is not None:
                    require_level(released, self.version, compare(last, self.source)[0])
        return changes

    def _plan(self, head: Head, changes: list[Change], created: bool) -> Published:
        there = self.remote.tree(head.commit)
        if head.source is not None and CARD in there and not self.files.is_same(CARD, there[CARD]):
            self._keep_card(head.source)
        if self.kind == "dataset" and WITHDRAWN in there and head.commit is not None:
            require_not_withdrawn(self.remote, head.commit, self.source)
        send = [name for name in self.files.names if not self.files.is_same(name, there.get(name))]
        if head.manifest is not None and is_same_content(head.manifest, self.manifest) and not {*send} - {CARD}:
            return self._result(head.commit, "tagged")
        # files listed in the last version only; files that others added stay
        listed = head.manifest.get("files", {}) if head.manifest else {}
        delete = [name for name in (*listed, *self.remove, SIGNATURE) if name in there and name not in self.files.names]
        return replace(
            self._result(None, "planned"),
            sent=tuple(sorted(send)), reused=tuple(sorted(set(self.files.names) - set(send))), deleted=tuple(delete),
            bytes_sent=sum(self.files.size(name) for name in send),
            level=highest_level(changes), changes=tuple(c.text for c in changes), created=created,
        )  # fmt: skip

    def _keep_link(self, head: Head) -> None:
        """Link the dataset that the last version's card links, unless one was named."""
        if self.dataset_given or head.source is None or head.manifest is None:
            return
        link = kept_link(head.source, head.manifest, self.manifest)
        if link is not None:
            self.facts = replace(self.facts, dataset=link)
            self.files.add(CARD, published_card(self.folder, self.manifest, self.facts).encode())

    def _keep_card(self, published: Source) -> None:
        """Send the card that was edited on the Hub, unless the folder has a hand-written one."""
        text = kept_card(published, self.repo, self.folder, self.manifest, self.facts)
        if text is not None:
            self.files.add(CARD, published_card(self.folder, self.manifest, self.facts, own=text).encode())

    def _require_arrived(self, commit: str) -> None:
        """Raise before the tag is set if a commit does not hold the verified files."""
        there = self.remote.tree(commit)
        if wrong := [name for name in self.files.names if not self.files.is_same(name, there.get(name))]:
            raise CorruptFileError(
                f"{self.repo}: {wrong[0]} differs from the file that was sent, so that {self.version.tag} is not set; "
                "push again",
                repo_id=self.repo,
                revision=commit,
                name=wrong[0],
            )

    def _result(self, commit: str | None, outcome: str) -> Published:
        reused, recipe = tuple(sorted(self.files.names)), self.manifest.get("recipe", {})
        link = None if self.kind == "dataset" else dataset_repository(recipe, self.facts)
        return Published(
            self.repo, self.kind, str(self.version), commit, outcome, reused=reused, dataset=link and "@".join(link)
        )


__all__ = ["Published", "push"]
