"""What lies between two versions of a dataset or weight space: their differences, and a repository's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.checks import require_path
from ..dialects.base_model import CONFIG, MODEL_INDEX
from ..errors import (
    HubAccessError,
    HubError,
    HubNotFoundError,
    InvalidInputError,
    MissingPathError,
    UnknownNameError,
    UnsupportedFormatError,
    W2WError,
)
from ..store.hub.cache import SHA, TYPES
from ..store.hub.client import Token, api, call
from ..store.hub.pins import is_lock
from ..store.hub.resolve import MANIFEST, REPOSITORY, Source, is_ours, locate, open_repository, split_kind, split_lock
from ..store.hub.semver import Change, Version, compare_common, compare_files, highest, is_version_tag
from ..store.manifest import DATASET, read_manifest
from ..store.paths import has_file

OWN_FOLDERS = ("coefficients/", "previews/")  # of a weight space; the others hold its embedded base model

if TYPE_CHECKING:
    from ..dataset import WeightDataset
    from ..dataset.compare import Difference as RowDifference


@dataclass(frozen=True)
class Difference:
    """What `diff_revisions` finds.

    Attributes
    ----------
    kind : {"dataset", "space"}
    old, new : dict
        ``version``, ``digest`` and, from the Hub, ``repo`` and ``commit``.
    level : {"none", "patch", "minor", "major"}
        What the version rules ask of the newer one.
    changes : tuple of Change
    rows : w2w_hub.dataset.compare.Difference or None
        Of datasets: the rows, labels and facts that differ.
    """

    kind: str
    old: dict[str, Any]
    new: dict[str, Any]
    level: str
    changes: tuple[Change, ...]
    rows: RowDifference | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "old": self.old, "new": self.new, "level": self.level,
            "changes": [{"level": c.level, "text": c.text} for c in self.changes],
            **({} if self.rows is None else vars(self.rows)),
        }  # fmt: skip


def kind_of(manifest: Mapping[str, Any]) -> str:
    """``dataset`` or ``space``."""
    return "dataset" if manifest.get("format") == DATASET else "space"


def diff_revisions(
    old: str | Path, new: str | Path, *, token: Token = None, cache_dir: Path | str | None = None
) -> Difference:
    """Compare two versions, each ``org/name@revision`` or a folder. Only manifests and label tables are fetched.

    Examples
    --------
    >>> diff_revisions("org/people@v1.0.0", "org/people@v1.1.0").rows.added   # doctest: +SKIP
    """
    first = find(old, token=token, cache_dir=cache_dir)
    second = find(new, token=token, cache_dir=cache_dir, kind=kind_of(first.manifest()))
    changes, rows = compare(first, second)
    return Difference(kind_of(first.manifest()), _facts(first), _facts(second), highest(changes), tuple(changes), rows)


def find(
    what: str | Path, *, kind: str | None = None, token: Token = None, cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Source:  # fmt: skip
    """A source whose kind is not known: a dataset and a weight space are looked for, and one must be there.

    Raises
    ------
    InvalidInputError
        If there are both and the name does not say which.
    """
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    text = require_path(what, "the dataset or weight space").as_posix()
    kind = kind or split_kind(text)[0]
    failures: list[W2WError] = []
    found: list[Source] = []
    for each in (kind,) if kind else ("dataset", "space"):
        try:
            source = locate(what, each, **options)
        except (HubNotFoundError, UnknownNameError, UnsupportedFormatError) as error:  # none, or none of ours
            failures.append(error)
            continue
        except HubAccessError as error:
            if not found:
                raise
            raise _doubt(text) from error
        if source.revision is None and not is_ours(source.folder):
            if source.folder.is_dir() and has_file(source.folder, MANIFEST):
                read_manifest(source.folder)  # says what is wrong with it
            raise MissingPathError(f"{what} is not a dataset folder, a weight space or a Hub repository (org/name)")
        found.append(source)
        by_commit = source.revision is None or SHA.match(text.rpartition("@")[2])
        if by_commit:  # a folder has one kind, and no two repositories share a commit
            return source
    if len(found) > 1:
        if is_lock(Path(split_lock(text)[0])):
            raise InvalidInputError(
                f"{text} pins a dataset and a weight space; say which: {split_lock(text)[0]}#org/name"
            )
        raise _doubt(text)
    if found:
        return found[0]
    # the failure that knows more: what is there but not ours, or a revision that is missing
    raise max(failures, key=_knows)


def _knows(failure: W2WError) -> tuple[bool, bool, int]:
    if not isinstance(failure, HubNotFoundError):
        return True, False, 0
    return False, failure.what == "revision", len(failure.cached)


def _doubt(name: str) -> InvalidInputError:
    return InvalidInputError(f"{name} is a dataset and a weight space; say which: datasets/{name} or models/{name}")


def _facts(source: Source) -> dict[str, Any]:
    manifest = source.manifest()
    facts = {"version": manifest.get("version"), "digest": manifest.get("digest")}
    return facts | (source.revision.to_json() if source.revision else {})


def compare(old: Source, new: Source) -> tuple[list[Change], RowDifference | None]:
    """All differences between two versions, and of datasets the rows that differ."""
    was, now = old.manifest(), new.manifest()
    changes = compare_common(was, now)
    rows = None
    if was["format"] == now["format"]:
        if kind_of(was) == "dataset":
            from ..dataset.compare import diff

            rows = diff(*(_dataset(source) for source in (old, new)))
            found = _of_rows(rows, was, now)
        else:
            found = _compare_spaces(was, now)
        changes += found or compare_files(was, now)
    return changes, rows


def _dataset(source: Source) -> WeightDataset:
    from ..dataset import WeightDataset
    from ..dataset.matrix.remote import open_remote

    return WeightDataset.open(source.folder) if source.revision is None else open_remote(source, lazy=True)


def _of_rows(rows: RowDifference, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    changes = []
    if was["dtype"] != now["dtype"]:
        changes.append(Change("major", f"stored as {now['dtype']}, was {was['dtype']}"))
    for name, (before, after) in rows.columns.items():
        if before is None:
            changes.append(Change("minor", f"new attribute {name} ({after})"))
        elif after is None:
            changes.append(Change("major", f"attribute {name} is gone"))
        else:
            changes.append(Change("major", f"attribute {name} is {after}, was {before}"))
    moved = [name for name, columns in rows.relabelled.items() if "split" in columns]
    relabelled = [name for name, columns in rows.relabelled.items() if set(columns) - {"split"} - set(rows.columns)]
    for ids, level, text in (
        (rows.removed, "major", "rows are gone"),
        (rows.changed, "major", "rows have other weights"),
        (moved, "major", "rows are in another split"),
        (rows.added, "minor", "rows were added"),
        (relabelled, "minor", "rows are labelled otherwise"),
    ):
        if ids:
            changes.append(
                Change(level, f"{len(ids):,} {text} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})")
            )
    return changes


def _compare_spaces(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    changes = []
    if was["digest"] != now["digest"]:
        why = "another dataset" if _fitted(was) != _fitted(now) else "another computation"
        text = f"another basis: k {was['k']} -> {now['k']}, from {why}; saved points do not fit it"
        changes.append(Change("major", text))
    gone = sorted(set(was["directions"]) - set(now["directions"]))
    new = sorted(set(now["directions"]) - set(was["directions"]))
    if gone:
        changes.append(Change("major", f"directions are gone: {', '.join(gone)}"))
    if new:
        changes.append(Change("minor", f"directions were added: {', '.join(new)}"))
    differing = {n for n in {**was["files"], **now["files"]} if was["files"].get(n) != now["files"].get(n)}
    if not (gone or new) and any(name.startswith("directions.") for name in differing):
        changes.append(Change("minor", "directions were estimated again"))
    had, has = (bool(manifest.get("population", True)) for manifest in (was, now))
    if had != has:
        lost = Change("major", "the population is gone: no rows, no neighbors")
        changes.append(lost if had else Change("minor", "the population was added"))
    elif any(name.startswith("coefficients/") for name in differing) and was["digest"] == now["digest"]:
        changes.append(Change("minor", "coefficients of other rows"))
    base = {n for n in differing if n in (CONFIG, MODEL_INDEX) or ("/" in n and not n.startswith(OWN_FOLDERS))}
    if CONFIG in base or any(not name.endswith((".json", ".txt")) for name in base):
        changes.append(Change("major", "the base model is another one, or stands elsewhere"))
    elif base:  # every release of diffusers writes its own version into them
        changes.append(Change("minor", f"settings of the base model: {', '.join(sorted(base)[:3])}"))
    return changes


def _fitted(manifest: Mapping[str, Any]) -> Any:
    return manifest.get("recipe", {}).get("dataset_digest")


# ---------------------------------------------------------------- history
@dataclass(frozen=True)
class Release:
    """One version tag of a repository, or an untagged head of main."""

    version: str
    tag: str | None
    commit: str
    date: str
    title: str
    digest: str | None
    contents: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def log_versions(repo: str, *, token: Token = None, cache_dir: Path | str | None = None) -> list[Release]:
    """The versions of a repository (``org/name``, or ``datasets/`` or ``models/`` before it), newest first.

    Raises
    ------
    InvalidInputError
        If there is a dataset and a weight space of that name.
    HubNotFoundError, HubError
    """
    stated, bare = split_kind(repo) if isinstance(repo, str) else (None, "")
    match = REPOSITORY.match(bare)
    if match is None or match["revision"]:
        raise InvalidInputError(f"{repo!r} is not the name of a Hub repository (org/name)")
    client, failures = api(token), []
    found: list[list[Release]] = []
    for kind in (stated,) if stated else ("dataset", "space"):
        try:
            refs = call(bare, client.list_repo_refs, bare, repo_type=TYPES[kind])
        except HubNotFoundError as error:
            failures.append(error)
            continue
        found.append(_releases(client, bare, kind, refs, token, cache_dir))
    if not found:
        raise failures[0]
    ours = [releases for releases in found if any(release.digest for release in releases)]
    if len(ours) > 1:
        raise _doubt(repo)
    return (ours or found)[0]


def _releases(
    client: Any, repo: str, kind: str, refs: Any, token: Token, cache_dir: Path | str | None
) -> list[Release]:
    history = {c.commit_id: c for c in call(repo, client.list_repo_commits, repo, repo_type=TYPES[kind])}
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    head = next((ref.target_commit for ref in refs.branches if ref.name == "main"), None)
    listed = [(name, commit) for name, commit in tags.items() if is_version_tag(name)]
    if head is not None and head not in tags.values():
        listed.append(("main", head))
    found = []
    for name, commit in listed:
        try:
            manifest = open_repository(repo, kind, commit, token=token, cache_dir=cache_dir).manifest()
        except (HubError, InvalidInputError, ValueError):
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
    untagged = [r for r in found if r.tag is None and r.digest is not None]
    tagged_ones = sorted((r for r in found if r.tag), key=lambda r: Version.parse(r.version), reverse=True)
    return untagged + tagged_ones


def _contents(manifest: Mapping[str, Any]) -> str:
    if "rows" in manifest:
        return f"{manifest['rows']:,} rows"
    return f"{manifest['k']:,} components" if "k" in manifest else ""


__all__ = ["Difference", "Release", "diff_revisions", "log_versions"]
