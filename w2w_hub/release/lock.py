"""Pin the versions that a paper used in a lock file, and verify that they are unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from ..common.arguments import checked, place
from ..common.constraints import flag, optional
from ..common.constraints import names as list_of_names
from ..common.deprecated import renamed_keywords
from ..common.limits import MAX_FILES, MAX_JSON_BYTES
from ..common.progress import progress
from ..common.text import counted
from ..dataset.credits import RowCredits, read_row_credits
from ..dataset.manifest import DatasetManifest
from ..dialects.base_model import CONFIG, EMBEDDED, MODEL_INDEX, digest_of_folder
from ..errors import CorruptFileError, HubError, InvalidInputError, W2WError
from ..lora.layout import ParameterLayout
from ..store.atomic import require_output, write_json
from ..store.hashing import sha256_file
from ..store.hub.cache import REPO, TYPES, RepoCache
from ..store.hub.client import Token, api, call
from ..store.hub.locate import REPOSITORY, locate_either, split_kind
from ..store.hub.options import HubOptions
from ..store.hub.pins import BasePin, Lock, Pin, read_lock
from ..store.hub.resolve import open_base, open_pin, require_tagged_version, resolve_revision
from ..store.hub.source import ResolvedRevision, Source, download
from ..store.manifest import FILENAME as MANIFEST
from ..store.manifest import kind_of, parse_json
from ..store.paths import find_file, read_file, require_name, short
from .rebuild import rebuild_pin
from .verification import verify_source

# packages that may change a number computed from a pinned weight space
PACKAGES = (
    "w2w-hub", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "zarr", "safetensors", "huggingface_hub", "torch",
    "diffusers", "transformers", "peft",
)  # fmt: skip
SHOWN = 5  # problems per pin
# files of a base model that diffusers reads, without the same weights in other formats
BASE_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
OTHER_VARIANTS = (".fp16.", ".non_ema.", ".bf16.", "openvino", "onnx", "flax")


@dataclass(frozen=True)
class Check:
    """The result of one check of `verify_lock`.

    Attributes
    ----------
    name : str
    ok : bool
    detail : str
        The verified facts, or the problem.
    notes : tuple of str
        Remarks that are not problems.
    """

    name: str
    ok: bool
    detail: str
    notes: tuple[str, ...] = ()


@renamed_keywords(replace="overwrite")
@checked(names=list_of_names(), path=optional(place()))
def pin(
    names: Sequence[str],
    path: Path | str | None = None,
    *,
    token: Token = None,
    cache_dir: Path | str | None = None,
    overwrite: bool = False,
) -> Lock:
    """Pin datasets and weight spaces (`w2w pin`), and write a lock file if a path is given.

    The lock holds commits, digests, recipes, package versions, and the commits and files of base models, but nothing
    about this machine or its user. The same repositories and packages give the same bytes.

    Parameters
    ----------
    names : sequence of str
        Each ``org/name@revision``.
    path : path, optional
    overwrite : bool
        Replace an existing file.

    Examples
    --------
    >>> pin(["org/space@v1.0.0", "org/people@v1.0.0"], "w2w.lock")   # doctest: +SKIP

    Raises
    ------
    HubNotFoundError, HubError, InvalidInputError
    AlreadyExistsError
        If the lock file exists and `overwrite` is False.
    """
    if not names:
        raise InvalidInputError("give a list of names to pin, each one org/name@v1.0.0", name="names")
    if path is not None:
        require_output(path, overwrite=overwrite)
    pins: dict[tuple[str, str, str], Pin] = {}
    options = HubOptions(token, cache_dir)
    for name in names:
        if not REPOSITORY.match(split_kind(name)[1]):
            raise InvalidInputError(
                f"{name} is not a Hub repository; publish it with w2w push, then pin org/name@version", name=name
            )
        found = pin_of(locate_either(name, options=options), options)
        pins[(found.kind, found.repo, found.commit)] = found
    lock = Lock(tuple(pins.values()), _packages())
    if path is not None:
        write_json(path, lock.to_json(), replace=overwrite)
    return read_lock(path) if path is not None else lock


def _packages() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def pin_of(source: Source, options: HubOptions) -> Pin:
    """Return the pin of a located repository."""
    revision = source.revision
    if revision is None:
        raise InvalidInputError(
            f"{source.folder} is a folder; publish it with w2w push, then pin org/name@version", path=source.folder
        )
    manifest = source.manifest()
    kind = kind_of(manifest)
    credits = _credits(source) if kind == "dataset" else RowCredits()
    return Pin(
        repo=revision.renamed or revision.repo,
        kind=kind,
        revision=revision.asked,
        commit=revision.commit,
        version=str(manifest["version"]),
        digest=str(manifest["digest"]),
        manifest_sha256=sha256_file(find_file(source.folder, MANIFEST)),
        published=_date(revision, options),
        licence=str(manifest.get("licence", "unknown")),
        recipe=dict(manifest.get("recipe", {})),
        base=_pin_base(source, manifest, options) if kind == "space" else None,
        contributors=tuple(credits.names),
        sources=tuple(credits.main_sources()),
    )


def _credits(source: Source) -> RowCredits:
    """Return the contributors and sources of a dataset, whose labels are fetched for them."""
    folder = source.need(name for name in source.files if name.startswith("labels/"))
    return read_row_credits(partial(find_file, folder), DatasetManifest.read(folder))


def _date(revision: ResolvedRevision, options: HubOptions) -> str | None:
    try:
        listed = call(
            revision.repo, api(options.token).list_repo_commits, revision.repo, repo_type=TYPES[revision.kind],
            revision=revision.commit,
        )  # fmt: skip
    except HubError:
        return None
    return next((c.created_at.strftime("%Y-%m-%d") for c in listed if c.commit_id == revision.commit), None)


def _pin_base(source: Source, manifest: dict[str, Any], options: HubOptions) -> BasePin | None:
    """Return the base model that a weight space refers to; None if it is embedded or there is none."""
    if CONFIG not in source.files:
        return None
    folder = source.need([CONFIG])
    stated = parse_json(read_file(folder, CONFIG, MAX_JSON_BYTES), folder / CONFIG)
    repo = stated.get("base_model")
    if repo == EMBEDDED:
        return None
    if not isinstance(repo, str) or not REPO.fullmatch(repo):
        raise InvalidInputError(
            f"{source.revision}: {CONFIG} does not name a Hub repository but {short(repo)}, which cannot be pinned",
            path=folder / CONFIG,
        )
    resolved = resolve_revision(repo, "model", str(stated.get("revision") or "main"), options)
    return BasePin(
        resolved.renamed or repo,
        resolved.commit,
        manifest["compatibility"].get("base_digest"),
        _base_files(resolved, options),
    )


def _base_files(revision: ResolvedRevision, options: HubOptions) -> dict[str, dict[str, Any]]:
    """Return digests and sizes of a base model's files; those of large files as the Hub states them."""
    from huggingface_hub.hf_api import RepoFile

    def listing() -> list[RepoFile]:
        entries = api(options.token).list_repo_tree(
            revision.repo, repo_type="model", revision=revision.commit, recursive=True
        )
        listed = [entry for entry in islice(entries, MAX_FILES + 1) if isinstance(entry, RepoFile)]
        if len(listed) > MAX_FILES:
            raise InvalidInputError(
                f"{revision} has more than {MAX_FILES:,} files and cannot be pinned as a base model",
                repo_id=revision.repo,
            )
        return listed

    folder = RepoCache(revision.repo, "model", options.cache_dir).own_snapshot(revision.commit)
    source = Source(folder, revision, {}, options)
    download(revision, MODEL_INDEX, source)
    index = parse_json(read_file(folder, MODEL_INDEX, MAX_JSON_BYTES), revision.file(MODEL_INDEX))
    components = {name for name, value in index.items() if isinstance(value, list)}
    found = {}
    for entry in call(revision.repo, listing):
        component, _, name = entry.path.partition("/")
        wanted = entry.path == MODEL_INDEX or (component in components and name.endswith(BASE_SUFFIXES))
        if not wanted or any(part in entry.path for part in OTHER_VARIANTS):
            continue
        require_name(entry.path, revision)
        if not entry.lfs:
            download(revision, entry.path, source)
        sha256 = entry.lfs.sha256 if entry.lfs else sha256_file(find_file(folder, entry.path))
        found[entry.path] = {"sha256": sha256, "size": entry.size}
    return found


# ---------------------------------------------------------------- verify
@checked(rebuild=flag())
def verify_lock(
    path: Path | str,
    *,
    rebuild: bool = False,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> list[Check]:
    """Hash everything that a lock pins, and with `rebuild` build its weight spaces again (`w2w verify LOCK`).

    Files that are not in the cache are fetched. Every file is hashed, even if it was verified before.

    Returns
    -------
    list of Check
        All checks, even those after a failed one.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsupportedFormatError
        If the lock file itself cannot be read.
    """
    lock, checks = read_lock(path), []
    options = HubOptions(token, cache_dir, local_files_only)
    for each in lock.pins:
        checks.append(_guarded(each.name, _verify_pin, each, options))
        if each.base is not None:
            checks.append(_guarded(f"{each.base.repo}@{each.base.commit[:12]}", _verify_base, each, options))
        if rebuild and each.kind == "space":
            checks.append(_guarded(f"{each.name} rebuilt", rebuild_pin, lock, each, options))
    return checks


def _guarded(name: str, check: Callable[..., tuple[str, list[str]]], *arguments: Any) -> Check:
    try:
        detail, notes = check(*arguments)
        return Check(name, True, detail, tuple(notes))
    except W2WError as error:
        return Check(name, False, str(error))


def _verify_pin(each: Pin, options: HubOptions) -> tuple[str, list[str]]:
    source = open_pin(each, options)
    manifest = source.manifest()
    facts = {
        "version": str(manifest["version"]), "digest": manifest["digest"], "recipe": dict(manifest.get("recipe", {})),
        "licence": str(manifest.get("licence", "unknown")),
    }  # fmt: skip
    if edited := [name for name, value in facts.items() if getattr(each, name) != value]:
        raise CorruptFileError(
            f"{each.name}: the lock's {', '.join(edited)} differs from the manifest; run w2w pin again",
            repo_id=each.repo,
            revision=each.commit,
        )
    require_tagged_version(each.revision, each.version, each.name)
    report = verify_source(source)
    if not report.ok:
        raise CorruptFileError(
            f"{'; '.join(problem.message for problem in report.problems[:SHOWN])}; the next load fetches it again, or: "
            "w2w restore LOCK --from FOLDER",
            repo_id=each.repo,
            revision=each.commit,
        )
    return f"{counted(len(source.files), 'file')}, digest {each.digest[:12]}", report.notes


def _verify_base(each: Pin, options: HubOptions) -> tuple[str, list[str]]:
    assert each.base is not None
    source = open_base(each.base, options)
    for name in progress(list(source.files), f"hashing {each.base.repo}"):
        file = find_file(source.folder, name)
        if sha256_file(file) != source.files[name]["sha256"]:
            source.cache.forget(source.files[name])
            raise CorruptFileError(
                f"{file} has changed on disk since it was verified; the next load fetches it again, or: "
                "w2w restore LOCK --from FOLDER",
                path=file,
            )
    if each.base.digest is not None:
        layout = ParameterLayout.from_json(open_pin(each, options).manifest()["layout"])
        found = digest_of_folder(source.folder, layout)
        if found != each.base.digest:
            raise CorruptFileError(
                f"{source.folder} has base digest {found[:12]}, the lock pins {each.base.digest[:12]}",
                path=source.folder,
            )
    return f"{counted(len(source.files), 'file')} of the base model", []


__all__ = ["Check", "pin", "verify_lock"]
