"""A folder, a repository at a revision, or a pin in a lock file becomes the verified files of one commit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...common.checks import require_path
from ...errors import (
    CorruptFileError,
    HubError,
    HubNotFoundError,
    InvalidInputError,
    UnsupportedFormatError,
    VersionError,
    W2WError,
)
from ..hashing import sha256_file
from ..manifest import DATASET, SPACE, kind_of, require_files
from ..manifest import FILENAME as MANIFEST
from ..paths import find_file, has_file, short
from .cache import SHA, TYPES, RepoCache, is_own_blob
from .client import Token, api, call, is_offline, is_transient, translate
from .pins import BasePin, Pin, is_lock, read_lock
from .semver import Version, is_version_tag
from .source import ResolvedRevision, Source, download

FORMATS = (DATASET, SPACE)
REPOSITORY = re.compile(r"^(?P<repo>\w[\w.-]*/[\w.-]+)(?:@(?P<revision>[^@\s]+))?\Z", re.ASCII)
# as huggingface_hub writes the type of a repository; a weight space is a model there
PREFIXES = {"datasets/": "dataset", "models/": "space"}
WORDS = {"dataset": "dataset", "space": "weight space"}


def locate(
    what: Path | str,
    kind: str,
    *,
    revision: str | None = None,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Source:
    """Find a dataset or weight space.

    Parameters
    ----------
    what : path or str
        A folder; ``org/name`` or ``org/name@revision``, with ``datasets/`` or ``models/`` before it if one likes; a
        lock file, with ``#org/name`` if it pins several.
    kind : {"dataset", "space"}
    revision : str, optional
        Tag, branch or commit; ``main`` without it.

    Raises
    ------
    HubNotFoundError
        If there is no such repository or revision; offline, if it is not in the cache.
    """
    path = require_path(what, f"the {WORDS[kind]}")
    text = path.as_posix()
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    lock, name = split_lock(text)
    if is_lock(Path(lock)):
        if revision is not None:
            raise InvalidInputError(f"{lock} is a lock and states the commit; leave out revision={revision!r}")
        return open_pin(read_lock(lock).find(kind, name or None, Path(lock)), **options)
    stated, bare = split_kind(text)
    match = REPOSITORY.match(bare)
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise InvalidInputError(f"{text}: revision={revision!r} names nothing; give a tag, a branch or a commit")
    if match and revision is not None and match["revision"] is not None:
        raise InvalidInputError(f"{text} states a revision, and so does revision={revision!r}; give one of them")
    asked = revision or (match["revision"] if match else None)
    if is_ours(path):
        if asked is None:
            return Source(path)
        if match is None:
            raise InvalidInputError(
                f"{path} is a folder; revision={asked!r} is for a Hub repository (org/name)", path=path
            )
        warnings.warn(f"{text} is also a folder here; with a revision the Hub's is opened", stacklevel=3)
    if match is None:
        if asked is not None:
            raise InvalidInputError(f"{text} is not the name of a Hub repository (org/name); it has no revisions")
        return Source(path)  # its reader says what is missing
    if stated not in (None, kind):
        raise InvalidInputError(
            f"{text} names a {WORDS[stated]}, and a {WORDS[kind]} is wanted here; name one of those"
        )
    if path.is_dir() and asked is None:
        warnings.warn(f"{text} is also a folder here, but not one of ours; the Hub's is opened", stacklevel=3)
    try:
        return open_repository(match["repo"], kind, asked or "main", **options)
    except PermissionError as error:
        if isinstance(error, W2WError):
            raise
        raise translate(error, text) from error
    except HubNotFoundError as error:
        # a misspelt path looks like a repository that is not there
        misspelt = error.what in ("repository", "cache") and not error.cached and not path.exists()
        here = f"{text} is no folder here; " if misspelt else ""
        raise HubNotFoundError(f"{here}{error}", error.cached, what=error.what) from error


def split_kind(text: str) -> tuple[str | None, str]:
    """The kind that a name states by its prefix, and ``org/name`` without it."""
    for prefix, kind in PREFIXES.items():
        if text.startswith(prefix) and REPOSITORY.match(bare := text.removeprefix(prefix)):
            return kind, bare
    return None, text


def split_lock(text: str) -> tuple[str, str | None]:
    """A lock's path and what follows ``#``; a path may have that sign too."""
    path, sign, name = text.rpartition("#")
    return (text, None) if not sign or Path(text).is_file() else (path, name)


def is_ours(path: Path) -> bool:
    """Whether a path is a folder with a dataset or weight space."""
    try:
        return path.is_dir() and kind_of(path) in FORMATS
    except (W2WError, OSError):
        return False


def open_repository(
    repo: str,
    kind: str,
    asked: str,
    *,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
    manifest_sha256: str | None = None,
) -> Source:
    """One commit of a repository with its manifest; other files come when they are needed.

    Raises
    ------
    CorruptFileError
        If the manifest is not the one of the commit or the lock, if it lists a file that is no file of a repository,
        or if `asked` is a version's tag and the manifest is of another version.
    """
    resolved = resolve(repo, kind, asked, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    cache = RepoCache(repo, kind, cache_dir)
    folder = cache.own_snapshot(resolved.commit)
    source = Source(folder, resolved, {}, token, cache_dir, local_files_only or is_offline())
    if not cache.is_cached(resolved.commit):
        if source.local_files_only:
            raise _not_cached(cache, asked, f"{repo} at {asked} is not in the cache")
        try:
            download(resolved, MANIFEST, source)
        except HubNotFoundError as error:
            if error.what != "file":
                raise
            raise UnsupportedFormatError(f"{resolved} has no {MANIFEST}; it is no {kind} of w2w_hub") from error
    for force in (False, True):
        if force:
            if source.local_files_only:
                raise CorruptFileError(
                    f"{folder / MANIFEST} is damaged; go online and open {repo} again", path=folder / MANIFEST
                )
            warnings.warn(f"{repo}: {MANIFEST} arrived damaged; it is fetched again", stacklevel=3)
            download(resolved, MANIFEST, source, force=True)
        own, file = is_own_blob(folder, MANIFEST), find_file(folder, MANIFEST)
        sha256 = sha256_file(file)
        if own is not False and manifest_sha256 in (None, sha256):
            break
    else:
        raise CorruptFileError(f"{resolved}: {MANIFEST} is not the one that was pinned, or arrives damaged")
    if manifest_sha256 is not None:
        cache.is_verified(file, {"sha256": sha256, "size": file.stat().st_size})
    source.vouched = bool(own) or manifest_sha256 is not None or cache.was_verified(file, sha256)
    manifest = source.manifest()
    source.files = require_fields(manifest, f"{resolved}: {MANIFEST}")
    require_tagged_version(asked, manifest["version"], resolved)
    cache.remember(asked, resolved.commit)
    return source


def require_tagged_version(revision: str, version: str, where: object) -> None:
    """Raise `CorruptFileError` if a revision is a version's tag and the manifest there is of another version.

    Publishing sets both. A branch or a commit says nothing of the version.
    """
    if not is_version_tag(revision):
        return
    with suppress(VersionError):
        if Version.parse(version) == Version.parse(revision):
            return
    raise CorruptFileError(
        f"{where}: the tag {revision} leads to a manifest of version {short(version)}; somebody set or moved it by "
        "hand: tell who published it, and open the commit that you mean"
    )


def require_fields(manifest: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The files of a manifest; raises unless it states what everything here relies on."""
    if manifest.get("format") not in FORMATS:
        raise UnsupportedFormatError(f"{where} is a {manifest.get('format')!r} manifest, none of {', '.join(FORMATS)}")
    kinds = {"version": str, "digest": str, "layout": dict, "compatibility": dict}
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            raise CorruptFileError(f"{where} lacks or misstates {name!r}; tell who published it")
    recipe = manifest.get("recipe", {})  # of a weight space
    if not isinstance(recipe, dict) or not isinstance(recipe.get("dataset_revision", {}), dict):
        raise CorruptFileError(f"{where} misstates 'recipe'; tell who published it")
    return dict(require_files(manifest.get("files"), where))


def open_pin(
    pin: Pin, *, token: Token = None, cache_dir: Path | str | None = None, local_files_only: bool = False
) -> Source:
    """The commit that a lock pins; its manifest must have the pinned sha256."""
    source = open_repository(
        pin.repo, pin.kind, pin.commit, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
        manifest_sha256=pin.manifest_sha256,
    )  # fmt: skip
    source.base = pin.base
    return source


def open_base(
    base: BasePin, *, token: Token = None, cache_dir: Path | str | None = None, local_files_only: bool = False
) -> Source:
    """The base model that a lock pins, every file of it verified."""
    resolved = ResolvedRevision(base.repo, "model", base.commit, base.commit)
    folder = RepoCache(base.repo, "model", cache_dir).own_snapshot(base.commit)
    source = Source(folder, resolved, base.files, token, cache_dir, local_files_only or is_offline())
    if source.local_files_only and not all(has_file(folder, name) for name in base.files):
        raise HubNotFoundError(
            f"the base model {resolved} is not in the cache; fetch it with: w2w restore LOCK", what="cache"
        )
    source.need(base.files)
    return source


def resolve(
    repo: str,
    kind: str,
    asked: str,
    *,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> ResolvedRevision:
    """The commit that a revision is: asked of the Hub, or of the cache if the Hub is away or not to be asked.

    A commit in the cache asks nobody. What the cache says of a branch may be old, and is said to be so.
    """
    cache = RepoCache(repo, kind, cache_dir)
    asked = cache.whole(asked)
    known = cache.commit(asked)
    if known is not None and SHA.match(asked):
        return ResolvedRevision(repo, kind, asked, known)
    if local_files_only or is_offline():
        if known is None:
            raise _not_cached(cache, asked, f"{repo} at {asked} is not in the cache")
        return ResolvedRevision(repo, kind, asked, known)
    client, repo_type = api(token), TYPES[kind]
    try:
        found = _info(client, repo, repo_type, asked)
    except Exception as error:
        if not is_transient(error):
            raise _refusal(error, cache, asked) from error
        if known is not None:
            warnings.warn(f"{translate(error, repo)}; opened from the cache: {asked} is {known}", stacklevel=4)
            return ResolvedRevision(repo, kind, asked, known)
        try:
            found = call(repo, _info, client, repo, repo_type, asked)
        except HubError as final:
            raise _not_cached(cache, asked, f"{str(final).rstrip('.')}, and {asked} is not in the cache") from error
    renamed = found.id if found.id.lower() != repo.lower() else None
    if renamed:
        warnings.warn(f"{repo} is now called {renamed}; use that name", stacklevel=4)
    if known not in (None, found.sha) and re.match(r"^v\d", asked):
        warnings.warn(
            f"the tag {asked} of {repo} was {known[:12]} and is now {found.sha[:12]}: somebody moved it; pin commits",
            stacklevel=4,
        )
    return ResolvedRevision(repo, kind, asked, found.sha, renamed)


def _info(client: Any, repo: str, repo_type: str, revision: str) -> Any:
    return client.repo_info(repo, repo_type=repo_type, revision=revision, timeout=10)


def _refusal(error: Exception, cache: RepoCache, asked: str) -> W2WError:
    """The error for a repository or revision that the Hub does not give, with what else there would be."""
    from huggingface_hub.errors import RevisionNotFoundError

    told = translate(error, cache.repo)
    if isinstance(error, RevisionNotFoundError):
        told = HubNotFoundError(f"{cache.repo} has no revision {asked!r}; see: w2w log {cache.repo}", what="revision")
    cached = cache.revisions()
    if not cached or not isinstance(told, HubError):
        return told
    text = f"{told}. In the cache (open with local_files_only=True): {', '.join(cached)}"
    return HubNotFoundError(text, cached, what=told.what) if isinstance(told, HubNotFoundError) else type(told)(text)


def _not_cached(cache: RepoCache, asked: str, why: str) -> HubNotFoundError:
    cached = cache.revisions()
    there = f"there is {', '.join(cached)}" if cached else "nothing of it is cached"
    return HubNotFoundError(f"{why}; {there}", cached, what="cache")


__all__ = ["ResolvedRevision", "Source", "locate", "open_base", "open_pin", "open_repository", "resolve"]
