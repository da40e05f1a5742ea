"""Resolve a repository at a revision, or a pin in a lock file, to the verified files of one commit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ...common.subject import Where, about
from ...common.warn import warn_caller
from ...errors import (
    CorruptFileError,
    HubError,
    HubNotFoundError,
    UnsupportedFormatError,
    VersionError,
    W2WError,
)
from ..hashing import sha256_file
from ..manifest import DATASET, SPACE, misstated, require_files
from ..manifest import FILENAME as MANIFEST
from ..paths import find_file, has_file, short
from .cache import KIND_NAMES, SHA, TYPES, RepoCache, is_own_blob
from .client import api, call, is_offline, is_transient, translate
from .options import HubOptions
from .pins import BasePin, Pin
from .semver import Version, is_version_tag
from .source import ResolvedRevision, Source, download

FORMATS = (DATASET, SPACE)


def open_repository(
    repo: str,
    kind: str,
    asked: str,
    options: HubOptions,
    *,
    manifest_sha256: str | None = None,
) -> Source:
    """Open one commit of a repository; its manifest is fetched now, other files when needed.

    Raises
    ------
    CorruptFileError
        If the manifest is not the one of the commit or the lock, lists an invalid file name, or if `asked` is a version
        tag and the manifest has another version.
    """
    resolved = resolve_revision(repo, kind, asked, options)
    cache = RepoCache(repo, kind, options.cache_dir)
    folder = cache.own_snapshot(resolved.commit)
    options = replace(options, local_files_only=options.local_files_only or is_offline())
    source, where = Source(folder, resolved, {}, options), resolved.file(MANIFEST)
    if not cache.is_cached(resolved.commit):
        if options.local_files_only:
            raise _not_cached(cache, asked, f"{repo} at {asked} is not in the cache")
        try:
            download(resolved, MANIFEST, source)
        except HubNotFoundError as error:
            if error.what != "file":
                raise
            raise UnsupportedFormatError(
                f"{resolved} has no {MANIFEST}; it is not a {KIND_NAMES[kind]} of w2w_hub", **about(where)
            ) from error
    for force in (False, True):
        if force:
            if options.local_files_only:
                raise CorruptFileError(
                    f"{folder / MANIFEST} is damaged; go online and open {repo} again", path=folder / MANIFEST
                )
            warn_caller(f"{repo}: {MANIFEST} is damaged; it is fetched again")
            download(resolved, MANIFEST, source, force=True)
        own, file = is_own_blob(folder, MANIFEST), find_file(folder, MANIFEST)
        sha256 = sha256_file(file)
        if own is not False and manifest_sha256 in (None, sha256):
            break
    else:
        raise CorruptFileError(f"{where} is damaged or not the pinned one, even when fetched again", **about(where))
    if manifest_sha256 is not None:
        cache.is_verified(file, {"sha256": sha256, "size": file.stat().st_size})
    source.vouched = bool(own) or manifest_sha256 is not None or cache.was_verified(file, sha256)
    manifest = source.manifest()
    source.files = require_fields(manifest, where)
    require_tagged_version(asked, manifest["version"], resolved)
    cache.remember(asked, resolved.commit)
    return source


def require_tagged_version(revision: str, version: str, where: object) -> None:
    """Raise `CorruptFileError` if a revision is a version tag and the manifest has another version.

    Publishing sets both; branches and commits do not state a version.
    """
    if not is_version_tag(revision):
        return
    with suppress(VersionError):
        if Version.parse(version) == Version.parse(revision):
            return
    raise CorruptFileError(
        f"{where}: the tag {revision} points to a manifest of version {short(version)}, so it was set or moved by "
        "hand; report it to the publisher, and open the right commit instead",
        revision=revision,
        repo_id=str(where).partition("@")[0],
    )


def require_fields(manifest: Mapping[str, Any], where: Where) -> dict[str, dict[str, Any]]:
    """Return the files of a manifest; raise if it lacks a field that this package needs."""
    if manifest.get("format") not in FORMATS:
        raise UnsupportedFormatError(
            f"{where} is a {manifest.get('format')!r} manifest, expected {' or '.join(FORMATS)}", **about(where)
        )
    kinds = {"version": str, "digest": str, "layout": dict, "compatibility": dict}
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            raise misstated(where, repr(name), "report it to the publisher")
    recipe = manifest.get("recipe", {})  # of a weight space
    if not isinstance(recipe, dict) or not isinstance(recipe.get("dataset_revision", {}), dict):
        raise misstated(where, "'recipe'", "report it to the publisher")
    return dict(require_files(manifest.get("files"), where))


def open_pin(pin: Pin, options: HubOptions) -> Source:
    """Open a pinned commit; its manifest must have the pinned sha256."""
    source = open_repository(pin.repo, pin.kind, pin.commit, options, manifest_sha256=pin.manifest_sha256)
    source.base = pin.base
    return source


def open_base(base: BasePin, options: HubOptions) -> Source:
    """Open a pinned base model, with all of its files fetched and verified."""
    resolved = ResolvedRevision(base.repo, "model", base.commit, base.commit)
    folder = RepoCache(base.repo, "model", options.cache_dir).own_snapshot(base.commit)
    options = replace(options, local_files_only=options.local_files_only or is_offline())
    if options.local_files_only and not all(has_file(folder, name) for name in base.files):
        raise HubNotFoundError(
            f"the base model {resolved} is not in the cache; fetch it with: w2w restore LOCK",
            what="cache",
            repo_id=base.repo,
            revision=base.commit,
        )
    source = Source(folder, resolved, base.files, options)
    source.need(base.files)
    return source


def resolve_revision(repo: str, kind: str, asked: str, options: HubOptions) -> ResolvedRevision:
    """Return the commit of a revision: from the Hub, or from the cache if the Hub is unreachable or offline mode is on.

    A cached commit needs no request. A branch or tag from the cache may be outdated, which raises a warning.
    """
    cache = RepoCache(repo, kind, options.cache_dir)
    asked = cache.full_commit(asked)
    known = cache.commit(asked)
    if known is not None and SHA.match(asked):
        return ResolvedRevision(repo, kind, asked, known)
    if options.local_files_only or is_offline():
        if known is None:
            raise _not_cached(cache, asked, f"{repo} at {asked} is not in the cache")
        return ResolvedRevision(repo, kind, asked, known)
    client, repo_type = api(options.token), TYPES[kind]
    try:
        found = _info(client, repo, repo_type, asked)
    except Exception as error:
        if not is_transient(error):
            raise _refusal(error, cache, asked) from error
        if known is not None:
            warn_caller(f"{translate(error, repo)}; opened from the cache: {asked} is {known}")
            return ResolvedRevision(repo, kind, asked, known)
        try:
            found = call(repo, _info, client, repo, repo_type, asked)
        except HubError as final:
            raise _not_cached(cache, asked, f"{final}, and {asked} is not in the cache") from error
    renamed = found.id if found.id.lower() != repo.lower() else None
    if renamed:
        warn_caller(f"{repo} is now called {renamed}; use that name")
    if known not in (None, found.sha) and is_version_tag(asked):
        warn_caller(
            f"the tag {asked} of {repo} was {known[:12]} and is now {found.sha[:12]}: it was moved; pin commits"
        )
    return ResolvedRevision(repo, kind, asked, found.sha, renamed)


def _info(client: Any, repo: str, repo_type: str, revision: str) -> Any:
    return client.repo_info(repo, repo_type=repo_type, revision=revision, timeout=10)


def _refusal(error: Exception, cache: RepoCache, asked: str) -> W2WError:
    """Return the error for a repository or revision that the Hub refuses, with the revisions that are cached."""
    refusal = translate(error, cache.repo)
    message, data = refusal.message, refusal.data()
    if refusal.what == "revision":
        message, data = (
            f"{cache.repo} has no revision {asked!r}; {_tag_hint(asked)}see: w2w log {cache.repo}",
            data | {"revision": asked},
        )
    cached = cache.revisions()
    if cached and isinstance(refusal, HubError):
        message = f"{message}. In the cache (open with local_files_only=True): {', '.join(cached)}"
    if isinstance(refusal, HubNotFoundError):
        return HubNotFoundError(message, cached, **data)
    return type(refusal)(message, **data)


def _tag_hint(asked: str) -> str:
    """Return advice for a version that was given without the ``v`` of its tag; else the empty text."""
    with suppress(VersionError):
        tag = Version.parse(asked).tag
        return "" if asked == tag else f"a version's tag is {tag}; "
    return ""


def _not_cached(cache: RepoCache, asked: str, why: str) -> HubNotFoundError:
    cached = cache.revisions()
    there = _tag_hint(asked) + (f"cached are {', '.join(cached)}" if cached else "go online to fetch it")
    return HubNotFoundError(f"{why}; {there}", cached, what="cache", repo_id=cache.repo, revision=asked)


__all__ = ["open_base", "open_pin", "open_repository", "require_fields", "require_tagged_version", "resolve_revision"]
