"""Pin what a paper used in a lock file, and verify that what is there is still that."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..base import CONFIG, EMBEDDED, MODEL_INDEX, digest_of_folder
from ..errors import CorruptFileError, HubError, InvalidInputError, W2WError
from ..files import read_json, sha256_file, write_json
from ..layout import ParameterLayout
from ..progress import progress
from .cache import TYPES, RepoCache
from .client import Token, api, call
from .pins import BasePin, Lock, Pin, read_lock
from .resolve import MANIFEST, REPOSITORY, ResolvedRevision, Source, download, open_base, open_pin, resolve, split_kind
from .versions import find, kind_of

# what can change a number that is computed from a pinned space
PACKAGES = (
    "w2w-hub", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "zarr", "safetensors", "huggingface_hub", "torch",
    "diffusers", "transformers", "peft",
)  # fmt: skip
# of a base model: what diffusers reads, not the same weights in other formats
BASE_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
OTHER_VARIANTS = (".fp16.", ".non_ema.", ".bf16.", "openvino", "onnx", "flax")


@dataclass(frozen=True)
class Check:
    """One thing that `verify_lock` looked at."""

    name: str
    ok: bool
    detail: str


def pin(
    names: Sequence[str],
    path: Path | str | None = None,
    *,
    token: Token = None,
    cache_dir: Path | str | None = None,
    replace: bool = False,
) -> Lock:
    """Pin datasets and weight spaces, each ``org/name@revision``, and write the lock if a path is given.

    The lock holds commits, digests, the base models' commits and files, recipes and package versions; nothing of
    this machine or its user. The same repositories and packages give the same bytes.

    Examples
    --------
    >>> pin(["org/space@v1.2.0", "org/people@v2.0.0"], "w2w.lock")   # doctest: +SKIP

    Raises
    ------
    HubNotFoundError, HubError, InvalidInputError
    """
    if not names:
        raise InvalidInputError("name what to pin: org/name@v1.0.0")
    pins: dict[tuple[str, str, str], Pin] = {}
    for name in names:
        if not REPOSITORY.match(split_kind(str(name))[1]):
            raise InvalidInputError(f"{name} cannot be pinned; publish it with w2w push, then pin org/name@version")
        found = _pin(find(name, token=token, cache_dir=cache_dir), token, cache_dir)
        pins[(found.kind, found.repo, found.commit)] = found
    lock = Lock(tuple(pins.values()), _packages())
    if path is not None:
        write_json(path, lock.to_json(), replace=replace)
    return read_lock(path) if path is not None else lock


def _packages() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _pin(source: Source, token: Token, cache_dir: Path | str | None) -> Pin:
    revision = source.revision
    if revision is None:
        raise InvalidInputError(f"{source.folder} is a folder; publish it with w2w push, then pin org/name@version")
    manifest = source.manifest()
    kind = kind_of(manifest)
    return Pin(
        repo=revision.renamed or revision.repo,
        kind=kind,
        revision=revision.asked,
        commit=revision.commit,
        version=str(manifest["version"]),
        digest=str(manifest["digest"]),
        manifest_sha256=sha256_file(source.folder / MANIFEST),
        published=_date(revision, token),
        licence=str(manifest.get("licence", "unknown")),
        recipe=dict(manifest.get("recipe", {})),
        base=_pin_base(source, manifest, token, cache_dir) if kind == "space" else None,
    )


def _date(revision: ResolvedRevision, token: Token) -> str | None:
    try:
        listed = call(
            revision.repo, api(token).list_repo_commits, revision.repo, repo_type=TYPES[revision.kind],
            revision=revision.commit,
        )  # fmt: skip
    except HubError:
        return None
    return next((c.created_at.strftime("%Y-%m-%d") for c in listed if c.commit_id == revision.commit), None)


def _pin_base(source: Source, manifest: dict[str, Any], token: Token, cache_dir: Path | str | None) -> BasePin | None:
    """The base model of a space by reference; None if it is embedded, or the space has none."""
    if CONFIG not in source.files:
        return None
    stated = read_json(source.need([CONFIG]) / CONFIG)
    repo = stated.get("base_model")
    if repo == EMBEDDED:
        return None
    if not isinstance(repo, str) or not REPOSITORY.match(repo) or "@" in repo:
        raise InvalidInputError(f"{source.revision}: {CONFIG} names no Hub repository ({repo!r}); nothing to pin")
    resolved = resolve(repo, "model", str(stated.get("revision") or "main"), token=token, cache_dir=cache_dir)
    return BasePin(
        resolved.renamed or repo,
        resolved.commit,
        manifest["compatibility"].get("base_digest"),
        _base_files(resolved, token, cache_dir),
    )


def _base_files(revision: ResolvedRevision, token: Token, cache_dir: Path | str | None) -> dict[str, dict[str, Any]]:
    """Digests of a base model's files: large ones as the Hub knows them, small ones hashed here."""
    from huggingface_hub.hf_api import RepoFile

    def listing() -> list[RepoFile]:
        entries = api(token).list_repo_tree(revision.repo, repo_type="model", revision=revision.commit, recursive=True)
        return [entry for entry in entries if isinstance(entry, RepoFile)]

    source = Source(
        RepoCache(revision.repo, "model", cache_dir).snapshot(revision.commit), revision, {}, token, cache_dir
    )
    index = download(revision, MODEL_INDEX, source)
    components = {name for name, value in read_json(index).items() if isinstance(value, list)}
    found = {}
    for entry in call(revision.repo, listing):
        folder, _, name = entry.path.partition("/")
        wanted = entry.path == MODEL_INDEX or (folder in components and name.endswith(BASE_SUFFIXES))
        if not wanted or any(part in entry.path for part in OTHER_VARIANTS):
            continue
        sha256 = entry.lfs.sha256 if entry.lfs else sha256_file(download(revision, entry.path, source))
        found[entry.path] = {"sha256": sha256, "size": entry.size}
    return found


# ---------------------------------------------------------------- verify
def verify_lock(
    path: Path | str,
    *,
    rebuild: bool = False,
    token: Token = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
) -> list[Check]:
    """Hash everything that a lock pins, and with `rebuild` compute its weight spaces again.

    What is not in the cache is fetched. A file is hashed even if it was verified before.

    Returns
    -------
    list of Check
        All checks, also after one that failed.
    """
    lock, checks = read_lock(path), []
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    for each in lock.pins:
        checks += _guarded(each.name, lambda each=each: _verify_pin(each, options))  # type: ignore[misc]
        if each.base is not None:
            name = f"{each.base.repo}@{each.base.commit[:12]}"
            checks += _guarded(name, lambda each=each: _verify_base(each, options))  # type: ignore[misc]
        if rebuild and each.kind == "space":
            checks += _guarded(f"{each.name} rebuilt", lambda each=each: _rebuild(lock, each, options))  # type: ignore[misc]
    return checks


def _guarded(name: str, check: Any) -> list[Check]:
    try:
        return [Check(name, True, check())]
    except W2WError as error:
        return [Check(name, False, str(error))]


def _verify_pin(each: Pin, options: dict[str, Any]) -> str:
    source = open_pin(each, **options)
    manifest = source.manifest()
    facts = {
        "version": str(manifest["version"]), "digest": manifest["digest"], "recipe": dict(manifest.get("recipe", {})),
        "licence": str(manifest.get("licence", "unknown")),
    }  # fmt: skip
    if edited := [name for name, value in facts.items() if getattr(each, name) != value]:
        raise CorruptFileError(f"{each.name}: the lock's {', '.join(edited)} is not the manifest's; make it again")
    _hash_all(source, source.files)
    if each.kind == "dataset":
        from ..dataset import WeightDataset

        WeightDataset.open(source.folder).verify()
    else:
        from ..space import WeightSpace

        WeightSpace.from_pretrained(source.folder)  # compares the digest of mean, std and basis
    return f"{len(source.files)} files, digest {each.digest[:12]}"


def _verify_base(each: Pin, options: dict[str, Any]) -> str:
    assert each.base is not None
    source = open_base(each.base, **options)
    _hash_all(source, source.files)
    if each.base.digest is not None:
        layout = ParameterLayout.from_json(open_pin(each, **options).manifest()["layout"])
        found = digest_of_folder(source.folder, layout)
        if found != each.base.digest:
            raise CorruptFileError(f"{source.folder} has base digest {found[:12]}, pinned is {each.base.digest[:12]}")
    return f"{len(source.files)} files of the base model"


def _hash_all(source: Source, names: Iterable[str]) -> None:
    """Hash every file, whatever was known of it."""
    folder = source.need(names)
    for name in progress(list(names), f"hashing {source.revision.repo if source.revision else folder}"):
        if sha256_file(folder / name) != source.files[name]["sha256"]:
            source.cache.forget(source.files[name])
            raise CorruptFileError(
                f"{folder / name} has changed on this disk since it was verified; the next load fetches it again, or: "
                "w2w restore LOCK --from FOLDER"
            )


def _rebuild(lock: Lock, each: Pin, options: dict[str, Any]) -> str:
    from .rebuild import rebuild_pin

    return rebuild_pin(lock, each, **options)
