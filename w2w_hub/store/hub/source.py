"""Files of a local folder, or of one commit in the Hub's cache, which are fetched when needed and verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.limits import MAX_CARD_BYTES, MAX_JSON_BYTES
from ...common.progress import progress
from ...common.subject import HubFile, about
from ...common.warn import warn_caller
from ...errors import CorruptFileError, HubNotFoundError, MissingPathError
from ..commit import open_state
from ..manifest import CARD, read_manifest
from ..paths import find_file, has_file
from .cache import TYPES, RepoCache
from .client import call, is_offline
from .options import HubOptions
from .pins import BasePin
from .transfer import limited_bar

WORKERS = 8


@dataclass(frozen=True)
class ResolvedRevision:
    """A requested revision and the commit that it resolved to.

    Attributes
    ----------
    repo : str
        ``org/name``, as requested.
    kind : {"dataset", "space", "model"}
    asked : str
        A tag, a branch or a commit.
    commit : str
    renamed : str or None
        The new name of a renamed repository.
    """

    repo: str
    kind: str
    asked: str
    commit: str
    renamed: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit}"

    def file(self, name: str) -> HubFile:
        """Return one of its files as the subject of an error."""
        return HubFile(self.repo, self.commit, name)

    def to_json(self) -> dict[str, str]:
        """Return repository, revision and commit for records, under the repository's current name."""
        return {"repo": self.renamed or self.repo, "revision": self.asked, "commit": self.commit}


@dataclass
class Source:
    """The files of a dataset, weight space or base model; :meth:`need` fetches missing ones.

    Attributes
    ----------
    folder : Path
        A local folder, or the commit's folder in the cache.
    revision : ResolvedRevision or None
        None for a local folder.
    files : dict
        Path to ``{"sha256", "size"}``, from the manifest or the lock.
    options : HubOptions
    base : BasePin or None
        The base model that a lock pins for a weight space.
    vouched : bool
        Whether a lock or the commit states the digest of the manifest's bytes.
    """

    folder: Path
    revision: ResolvedRevision | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: HubOptions = field(default_factory=HubOptions)
    base: BasePin | None = None
    vouched: bool = False

    @property
    def cache(self) -> RepoCache:
        assert self.revision is not None
        return RepoCache(self.revision.repo, self.revision.kind, self.options.cache_dir)

    def need(self, names: Iterable[str]) -> Path:
        """Fetch missing files into :attr:`folder`, verify them and return the folder.

        A local folder is returned unchecked. A file in the cache is hashed once; a damaged one is fetched again.

        Raises
        ------
        CorruptFileError
            If a file does not match the manifest after it was fetched again.
        HubError
        """
        if self.revision is None:
            return self.folder
        wanted = list(names)
        for name in wanted:
            if name not in self.files:
                raise unlisted(self.revision, name)
        missing = [name for name in wanted if not self._is_verified(name)]
        if missing:
            with ThreadPoolExecutor(min(WORKERS, len(missing))) as pool:
                jobs = pool.map(self._fetch, missing)
                for _ in progress(jobs, f"fetching {self.revision.repo}", len(missing)):
                    pass
        return self.folder

    def need_missing(self) -> Path:
        """Fetch missing files but leave damaged ones, so that verification finds them."""
        return self.need(name for name in self.files if not has_file(self.folder, name))

    def need_card(self) -> None:
        """Fetch README.md, if the repository has one, for stock `datasets`; no digest covers it."""
        if self.revision is None or self.options.local_files_only or has_file(self.folder, CARD):
            return
        with suppress(HubNotFoundError):
            download(self.revision, CARD, self)

    def has(self, name: str) -> bool:
        """Return whether a file is local and verified, so that reading it needs no network."""
        return self.revision is None or (name in self.files and self._is_verified(name))

    def _is_verified(self, name: str) -> bool:
        try:
            file = find_file(self.folder, name)
        except MissingPathError:
            return False
        return self.cache.is_verified(file, self.files[name])

    def _fetch(self, name: str) -> None:
        revision = self.revision
        assert revision is not None
        damaged = has_file(self.folder, name)
        if self.options.local_files_only or is_offline():
            if damaged:
                raise CorruptFileError(
                    f"{self.folder / name} is not what the manifest lists; go online and open {revision.repo} again",
                    path=self.folder / name,
                )
            raise HubNotFoundError(
                f"{revision}: {name} is not in the cache; open it online once, a dataset with lazy=False",
                self.cache.revisions(),
                what="cache",
                **about(revision.file(name)),
            )
        if not damaged:
            download(revision, name, self)
            if self._is_verified(name):
                return
        how = "is damaged on this disk" if damaged else "arrived damaged"
        warn_caller(f"{revision.repo}: {name} {how}; it is fetched again")
        download(revision, name, self, force=True)
        if not self._is_verified(name):
            self.cache.remove(revision.commit, name)
            raise CorruptFileError(
                f"{revision}: {name} does not match the manifest, even when fetched again; restore it from "
                "another copy with: w2w restore LOCK --from FOLDER",
                **about(revision.file(name)),
            )

    def manifest(self) -> dict[str, Any]:
        """Return the validated fields of the manifest; in a folder, those of a committed state if there is one."""
        return open_state(self.folder).data if self.revision is None else read_manifest(self.folder)


def download(revision: ResolvedRevision, name: str, source: Source, *, force: bool = False) -> Path:
    """Fetch one file into the cache, with retries and up to the size in the manifest or a limit.

    Raises
    ------
    CorruptFileError
        If the file exceeds that size.
    UnsafePathError
        If a part of its path in the cache is a link.
    HubError
    """
    from huggingface_hub import hf_hub_download

    from ...common.version import __version__

    known = source.files.get(name)
    limit = known["size"] if known else MAX_CARD_BYTES if name == CARD else MAX_JSON_BYTES
    cache = RepoCache(revision.repo, revision.kind, source.options.cache_dir)
    folder = cache.own_snapshot(revision.commit)
    if folder.is_dir():
        has_file(folder, name)  # raises for a link that would redirect the download
    return Path(
        call(
            revision.repo, hf_hub_download, revision.repo, name, repo_type=TYPES[revision.kind],
            revision=revision.commit, token=source.options.token, cache_dir=source.options.cache_dir,
            force_download=force,
            library_name="w2w_hub", library_version=__version__,
            tqdm_class=limited_bar(limit, revision.file(name)),
        )
    )  # fmt: skip


def unlisted(revision: ResolvedRevision | None, name: str) -> HubNotFoundError:
    """Return the error for a file that the manifest of a commit does not list."""
    subject = {} if revision is None else about(revision.file(name))
    return HubNotFoundError(f"{revision}: the manifest lists no {name}", **subject)


__all__ = ["ResolvedRevision", "Source", "download", "unlisted"]
