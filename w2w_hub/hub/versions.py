"""What lies between two versions of a dataset or weight space: their differences, and a repository's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, HubNotFoundError, InvalidInputError, VersionError
from ..files import read_json
from .cache import TYPES
from .client import Token, api, call
from .resolve import MANIFEST, ResolvedRevision, Source, locate, open_repository
from .semver import Change, Version, compare_common, compare_files, highest

if TYPE_CHECKING:
    import pandas as pd

NOT_CONTENT = ("row", "row_sha256")  # columns of a label table that are no label


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
    rows : dict of str to list of str
        Of a dataset: ids of rows ``added``, ``removed``, ``changed`` (other weights) and ``relabelled``.
    """

    kind: str
    old: dict[str, Any]
    new: dict[str, Any]
    level: str
    changes: tuple[Change, ...]
    rows: dict[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "old": self.old, "new": self.new, "level": self.level,
            "changes": [{"level": c.level, "text": c.text} for c in self.changes], "rows": self.rows,
        }  # fmt: skip


def kind_of(manifest: Mapping[str, Any]) -> str:
    """``dataset`` or ``space``."""
    return "dataset" if manifest.get("format") == "w2w-dataset" else "space"


def diff_revisions(
    old: str | Path, new: str | Path, *, token: Token = None, cache_dir: Path | str | None = None
) -> Difference:
    """Compare two versions, each ``org/name@revision`` or a folder. Only manifests and label tables are fetched.

    Examples
    --------
    >>> diff_revisions("org/people@v1.0.0", "org/people@v1.1.0").rows["added"]   # doctest: +SKIP
    """
    first = find(old, token=token, cache_dir=cache_dir)
    second = find(new, token=token, cache_dir=cache_dir, kind=kind_of(first.manifest()))
    changes, rows = compare(first, second)
    return Difference(kind_of(first.manifest()), _facts(first), _facts(second), highest(changes), tuple(changes), rows)


def find(
    what: str | Path, *, kind: str | None = None, token: Token = None, cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> Source:  # fmt: skip
    """A source whose kind is not known: a dataset is looked for first, then a weight space."""
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    kinds = (kind,) if kind else ("dataset", "space")
    failures: list[HubNotFoundError] = []
    for each in kinds:
        try:
            source = locate(what, each, **options)
        except HubNotFoundError as error:
            failures.append(error)
            continue
        read_json(source.folder / MANIFEST)
        return source
    # the failure that knows more: a revision that is missing rather than the repository
    raise max(failures, key=lambda e: ("no revision" in str(e), len(e.cached)))


def _facts(source: Source) -> dict[str, Any]:
    manifest = source.manifest()
    facts = {"version": manifest.get("version"), "digest": manifest.get("digest")}
    return facts | (source.revision.to_json() if source.revision else {})


def compare(old: Source, new: Source) -> tuple[list[Change], dict[str, list[str]]]:
    """All differences between two versions, and of datasets the rows that differ."""
    was, now = old.manifest(), new.manifest()
    changes = compare_common(was, now)
    rows: dict[str, list[str]] = {}
    if was["format"] == now["format"]:
        if kind_of(was) == "dataset":
            found, rows = _compare_datasets(was, _labels(old), now, _labels(new))
        else:
            found = _compare_spaces(was, now)
        changes += found or compare_files(was, now)
    return changes, rows


def _labels(source: Source) -> pd.DataFrame:
    import pandas as pd

    names = [name for name in source.manifest()["files"] if name.startswith("labels/")]
    folder = source.need(names)
    return pd.concat([pd.read_parquet(folder / name, dtype_backend="numpy_nullable") for name in names]).set_index("id")


def _compare_datasets(
    was: Mapping[str, Any], before: pd.DataFrame, now: Mapping[str, Any], after: pd.DataFrame
) -> tuple[list[Change], dict[str, list[str]]]:
    changes = []
    if was["dtype"] != now["dtype"]:
        changes.append(Change("major", f"stored as {now['dtype']}, was {was['dtype']}"))
    columns = {**was["columns"], **now["columns"]}
    for name in columns:
        first, second = was["columns"].get(name), now["columns"].get(name)
        if first is None:
            changes.append(Change("minor", f"new attribute {name} ({second})"))
        elif second is None:
            changes.append(Change("major", f"attribute {name} is gone"))
        elif first != second:
            changes.append(Change("major", f"attribute {name} is {second}, was {first}"))
    kept = before.index.intersection(after.index)
    first, second = before.loc[kept], after.loc[kept]
    weights = list(kept[(first["row_sha256"] != second["row_sha256"]).to_numpy(bool)])
    moved = list(kept[(first["split"] != second["split"]).to_numpy(bool)])
    shared = [c for c in before.columns if c in after.columns and c not in (*NOT_CONTENT, "split")]
    unequal = (~_same(first[shared], second[shared])).any(axis=1).to_numpy(bool) if shared else [False] * len(kept)
    rows = {
        "added": sorted(after.index.difference(before.index)),
        "removed": sorted(before.index.difference(after.index)),
        "changed": sorted(weights),
        "relabelled": sorted({*kept[unequal], *moved}),
    }
    for key, level, text in (
        ("removed", "major", "rows are gone"),
        ("changed", "major", "rows have other weights"),
        ("added", "minor", "rows were added"),
    ):
        if rows[key]:
            changes.append(Change(level, f"{len(rows[key]):,} {text} ({_few(rows[key])})"))
    if moved:
        changes.append(Change("major", f"{len(moved):,} rows are in another split ({_few(sorted(moved))})"))
    if any(unequal):
        relabelled = sorted(kept[unequal])
        changes.append(Change("minor", f"{len(relabelled):,} rows are labelled otherwise ({_few(relabelled)})"))
    return changes, rows


def _same(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    both = first.isna() & second.isna()
    return both | (first.astype(object) == second.astype(object)).fillna(False).astype(bool)


def _few(names: list[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


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
    if any(name.startswith("coefficients/") for name in differing) and was["digest"] == now["digest"]:
        changes.append(Change("minor", "coefficients of other rows"))
    if any("/" in n and n.endswith(".safetensors") for n in differing) or "w2w_pipeline.json" in differing:
        changes.append(Change("major", "the base model is another one, or stands elsewhere"))
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
    """The versions of a repository, newest first.

    Raises
    ------
    HubNotFoundError, HubError
    """
    client, failures = api(token), []
    for kind in ("dataset", "space"):
        try:
            refs = call(repo, client.list_repo_refs, repo, repo_type=TYPES[kind])
        except HubNotFoundError as error:
            failures.append(error)
            continue
        return _releases(client, repo, kind, refs, token, cache_dir)
    raise failures[0]


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


def is_version_tag(name: str) -> bool:
    try:
        return name.startswith("v") and bool(Version.parse(name))
    except VersionError:
        return False


__all__ = ["Difference", "Release", "ResolvedRevision", "diff_revisions", "log_versions"]
