"""List the versions of a Hub repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.arguments import checked
from ..common.constraints import text
from ..common.text import counted
from ..errors import HubError, HubNotFoundError, InvalidInputError
from ..store.hub.cache import TYPES
from ..store.hub.client import Token, api, call
from ..store.hub.locate import REPOSITORY, ambiguous_kind, split_kind
from ..store.hub.options import HubOptions
from ..store.hub.resolve import open_repository
from ..store.hub.semver import Version, is_version_tag


@dataclass(frozen=True)
class Release:
    """One version tag of a repository, or its branch `main` if that is not tagged.

    Attributes
    ----------
    version : str
    tag : str or None
    commit, date, title : str
        Hash, date (``YYYY-MM-DD``) and title of the commit.
    digest : str or None
        The content digest; None if the commit has no manifest of this package.
    contents : str
        For example ``1,000 rows``.
    """

    version: str
    tag: str | None
    commit: str
    date: str
    title: str
    digest: str | None
    contents: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@checked(repo=text())
def log(repo: str, *, token: Token = None, cache_dir: Path | str | None = None) -> list[Release]:
    """Return the versions of a repository, newest first (`w2w log`).

    Parameters
    ----------
    repo : str
        ``org/name``, optionally prefixed with ``datasets/`` or ``models/``.

    Raises
    ------
    InvalidInputError
        If a dataset and a weight space share the name.
    HubNotFoundError, HubError
    """
    stated, bare = split_kind(repo)
    match = REPOSITORY.match(bare)
    if match is None or match["revision"]:
        raise InvalidInputError(f"{repo!r} is not the name of a Hub repository (org/name)", name="repo")
    options = HubOptions(token, cache_dir)
    client, failures = api(token), []
    found: list[list[Release]] = []
    for kind in (stated,) if stated else ("dataset", "space"):
        try:
            refs = call(bare, client.list_repo_refs, bare, repo_type=TYPES[kind])
        except HubNotFoundError as error:
            failures.append(error)
            continue
        found.append(_releases(client, bare, kind, refs, options))
    if not found:
        raise failures[0]
    ours = [releases for releases in found if any(release.digest for release in releases)]
    if len(ours) > 1:
        raise ambiguous_kind(repo)
    return (ours or found)[0]


def _releases(client: Any, repo: str, kind: str, refs: Any, options: HubOptions) -> list[Release]:
    history = {c.commit_id: c for c in call(repo, client.list_repo_commits, repo, repo_type=TYPES[kind])}
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    head = next((ref.target_commit for ref in refs.branches if ref.name == "main"), None)
    listed = [(name, commit) for name, commit in tags.items() if is_version_tag(name)]
    if head is not None and head not in tags.values():
        listed.append(("main", head))
    found = []
    for name, commit in listed:
        try:
            manifest = open_repository(repo, kind, commit, options).manifest()
        except (HubError, ValueError):
            manifest = {}
        entry = history.get(commit)
        tagged = name != "main"
        found.append(
            Release(
                version=name.removeprefix("v") if tagged else str(manifest.get("version", "?")),
                tag=name if tagged else None,
                commit=commit,
                date=entry.created_at.strftime("%Y-%m-%d") if entry else "",
                title=entry.title if entry else "",
                digest=manifest.get("digest"),
                contents=_contents(manifest),
            )
        )
    tagged_ones = sorted((r for r in found if r.tag), key=lambda r: Version.parse(r.version), reverse=True)
    known = {(r.version, r.digest) for r in tagged_ones}  # main may have merged contributions besides
    untagged = [r for r in found if r.tag is None and r.digest is not None and (r.version, r.digest) not in known]
    return untagged + tagged_ones


def _contents(manifest: Mapping[str, Any]) -> str:
    if "rows" in manifest:
        return counted(manifest["rows"], "row")
    return f"{manifest['k']:,} components" if "k" in manifest else ""


__all__ = ["Release", "log"]
