"""Restore everything that a lock pins to this machine, from the Hub or from any copy."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ..common.arguments import checked, place
from ..common.constraints import optional
from ..common.limits import MAX_JSON_BYTES
from ..common.progress import progress
from ..common.subject import HubFile
from ..dialects.base_model import MODEL_INDEX
from ..errors import CorruptFileError, HubNotFoundError, UnsafePathError, W2WError
from ..space.card import HubFacts
from ..store.atomic import as_disk_error, replaced
from ..store.cards import split_card
from ..store.hub.cache import RepoCache, is_own_blob
from ..store.hub.client import Token
from ..store.hub.options import HubOptions
from ..store.hub.pins import BasePin, Pin, read_lock
from ..store.hub.resolve import open_base, open_pin, require_fields
from ..store.manifest import CARD, parse_manifest
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import find_file, has_file, make_parents, read_regular
from .card import published_card
from .copies import Copy, Wanted, copy_at


@checked(lock=place(), source=optional(place()))
def restore(
    lock: Path | str,
    source: str | Path | None = None,
    *,
    token: Token = None,
    cache_dir: Path | str | None = None,
) -> list[Path]:
    """Restore everything that a lock pins into the cache (`w2w restore`), to be opened offline.

    Parameters
    ----------
    source : path or URL, optional
        A folder or web server with copies (an archive, another cache, a mirror); by default the Hub. A copy need not
        be trusted: only regular files are read, at most the pinned number of bytes, and a file without the pinned
        digest is refused. No digest covers the card, so a new one is rendered from the manifest.

    Returns
    -------
    list of Path
        The folder of each pinned dataset, weight space and base model.

    Raises
    ------
    HubNotFoundError
        If the source has no copy of a pinned repository.
    CorruptFileError
        If a copy does not have the pinned digest.
    HubError
        If a server sends too slowly.
    DiskError
    """
    read, options = read_lock(lock), HubOptions(token, cache_dir)
    folders: list[Path] = []
    if source is None:
        for pin in read.pins:
            found = open_pin(pin, options)
            folders.append(found.need(found.files))
            found.need_card()
            if pin.base is not None:
                folders.append(open_base(pin.base, options).folder)
            _remember(pin, cache_dir)
        return folders
    with closing(copy_at(source)) as copies:
        for pin in read.pins:
            folders.append(_restore_pin(pin, copies, cache_dir))
            if pin.base is not None:
                folders.append(_restore_base(pin.base, copies, cache_dir))
            _remember(pin, cache_dir)
    return folders


def _remember(pin: Pin, cache_dir: Path | str | None) -> None:
    """Record the pinned revision in the cache, so that it resolves offline."""
    cache = RepoCache(pin.repo, pin.kind, cache_dir)
    if pin.revision not in cache.refs():
        cache.remember(pin.revision, pin.commit)


def _restore_pin(pin: Pin, copies: Copy, cache_dir: Path | str | None) -> Path:
    wanted = Wanted(pin.repo, pin.kind, pin.commit, MANIFEST, pin.manifest_sha256)
    cache = RepoCache(pin.repo, pin.kind, cache_dir)
    found, where = _found(copies, wanted), HubFile(pin.repo, pin.revision, MANIFEST)
    folder, scratch = cache.own_snapshot(pin.commit, make=True), f".{uuid.uuid4().hex[:8]}.manifest"
    try:
        _fetch(copies, found, MANIFEST, folder, scratch, pin.manifest_sha256, MAX_JSON_BYTES)
        raw = read_regular(folder / scratch, MAX_JSON_BYTES)
        files = require_fields(parse_manifest(raw, where), where)
        _fetch_all(copies, found, files, folder, cache)
        os.replace(folder / scratch, folder / MANIFEST)  # last: a folder with a manifest is complete
    finally:
        (folder / scratch).unlink(missing_ok=True)
    cache.is_verified(folder / MANIFEST, {"sha256": pin.manifest_sha256, "size": len(raw)})
    _write_card(pin, parse_manifest(raw, folder / MANIFEST), folder)
    return folder


def _write_card(pin: Pin, manifest: dict[str, Any], folder: Path) -> None:
    """Write the card that follows from the manifest, unless the Hub's own is there; none if the manifest lacks facts.

    Stock `load_dataset` reads the files of each split from the card.
    """
    with suppress(W2WError):
        if has_file(folder, CARD) and is_own_blob(folder, CARD):
            return
    with suppress(OSError):
        (folder / CARD).unlink(missing_ok=True)  # copied by an earlier release
    try:
        card = published_card(folder, manifest, HubFacts(pin.repo))
        configs = split_card(card)[0].get("configs", [])
        paths = [entry["path"] for config in configs for entry in config["data_files"]]
    except (W2WError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return  # the manifest lacks facts, which its reader reports
    listed = manifest["files"]
    if all(name in listed for path in paths for name in ([path] if isinstance(path, str) else path)):
        target = make_parents(folder, CARD)
        with as_disk_error(target), replaced(target) as partial:
            partial.write_bytes(card.encode())


def _restore_base(base: BasePin, copies: Copy, cache_dir: Path | str | None) -> Path:
    if MODEL_INDEX not in base.files:
        raise CorruptFileError(
            f"the lock lists no {MODEL_INDEX} of the base model {base.repo}; make it again", repo_id=base.repo
        )
    anchor = base.files[MODEL_INDEX]
    wanted = Wanted(base.repo, "model", base.commit, MODEL_INDEX, anchor["sha256"], anchor["size"])
    cache = RepoCache(base.repo, "model", cache_dir)
    found = _found(copies, wanted)
    folder = cache.own_snapshot(base.commit, make=True)
    _fetch_all(copies, found, base.files, folder, cache)
    return folder


def _found(copies: Copy, wanted: Wanted) -> Any:
    found = copies.find(wanted)
    if found is None:
        raise HubNotFoundError(
            f"{copies.shown} has no copy of {wanted.repo} at {wanted.commit[:12]}: no {wanted.anchor} with sha256 "
            f"{wanted.sha256[:12]}; try another copy",
            what="repository",
            repo_id=wanted.repo,
            revision=wanted.commit,
        )
    return found


def _fetch_all(
    copies: Copy, found: Any, files: Mapping[str, Mapping[str, Any]], folder: Path, cache: RepoCache
) -> None:
    for name, entry in progress(list(files.items()), f"restoring {cache.repo}"):
        if _is_there(folder, name, entry, cache):
            continue
        _fetch(copies, found, name, folder, name, entry["sha256"], entry["size"])
        if not _is_there(folder, name, entry, cache):
            raise CorruptFileError(
                f"{folder / name} changed while it was restored; run the same command again", path=folder / name
            )


def _is_there(folder: Path, name: str, entry: Mapping[str, Any], cache: RepoCache) -> bool:
    try:
        return has_file(folder, name) and cache.is_verified(find_file(folder, name), entry)
    except UnsafePathError:
        make_parents(folder, name)  # raises if a folder above is a link
        if (folder / name).is_symlink():
            return False  # will be replaced
        raise


def _fetch(copies: Copy, found: Any, name: str, folder: Path, to: str, sha256: str, limit: int) -> None:
    """Copy one file to a temporary path, and to its place only if it has the digest; no link is followed."""
    target = make_parents(folder, to)
    with as_disk_error(target, "; run the same command again to continue"), replaced(target) as partial:
        with open(partial, "x+b") as file:
            arrived = copies.fetch(found, name, limit, file)
        if arrived != sha256:
            raise CorruptFileError(
                f"{copies.shown}: {name} does not match the pin; restore from another copy", name=name
            )


__all__ = ["restore"]
