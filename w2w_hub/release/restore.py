"""Bring everything that a lock pins to this machine, from the Hub or from any copy; and make an archive of it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ..common.checks import require_path
from ..common.limits import MAX_JSON_BYTES
from ..common.progress import progress
from ..dialects.base_model import MODEL_INDEX
from ..errors import CorruptFileError, HubNotFoundError, UnsafePathError, W2WError
from ..store.atomic import disk_error, new_folder
from ..store.cards import template
from ..store.hashing import sha256_file
from ..store.hub.cache import RepoCache, is_own_blob
from ..store.hub.client import Token
from ..store.hub.pins import BasePin, Lock, Pin, read_lock
from ..store.hub.resolve import open_base, open_pin, require_fields
from ..store.manifest import CARD, parse_manifest
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import find_file, has_file, make_parents, opened, read_regular, walk
from .card import published_card, split_card
from .cite import citation_file
from .copies import Copy, Wanted, copy_at

LOCK = "w2w.lock"


def restore(
    lock: Path | str,
    source: str | Path | None = None,
    *,
    token: Token = None,
    cache_dir: Path | str | None = None,
) -> list[Path]:
    """Bring everything that a lock pins into the cache, so that all of it opens offline by name, tag or lock.

    Parameters
    ----------
    source : path or URL, optional
        A folder or web server with copies: an archive, another cache, a mirror. The Hub without it. A copy need not
        be trusted: only regular files are read, never more bytes than are pinned, and what does not have the pinned
        digest is refused. No digest covers the card, so that one is written from the manifest instead.

    Returns
    -------
    list of Path
        The folder of each pinned dataset, weight space and base model.

    Raises
    ------
    HubNotFoundError
        If the source has no copy of something that is pinned.
    CorruptFileError
        If its copy is not what was pinned.
    HubError
        If a server sends too slowly.
    DiskError
    """
    read = read_lock(lock)
    folders: list[Path] = []
    if source is None:
        for pin in read.pins:
            found = open_pin(pin, token=token, cache_dir=cache_dir)
            folders.append(found.need(found.files))
            found.need_card()
            if pin.base is not None:
                folders.append(open_base(pin.base, token=token, cache_dir=cache_dir).folder)
            _name(pin, cache_dir)
        return folders
    with closing(copy_at(source)) as copies:
        for pin in read.pins:
            folders.append(_restore_pin(pin, copies, cache_dir))
            if pin.base is not None:
                folders.append(_restore_base(pin.base, copies, cache_dir))
            _name(pin, cache_dir)
    return folders


def _name(pin: Pin, cache_dir: Path | str | None) -> None:
    """Have what is restored found offline by the revision that was pinned."""
    cache = RepoCache(pin.repo, pin.kind, cache_dir)
    if pin.revision not in cache.refs():
        cache.remember(pin.revision, pin.commit)


def _restore_pin(pin: Pin, copies: Copy, cache_dir: Path | str | None) -> Path:
    wanted = Wanted(pin.repo, pin.kind, pin.commit, MANIFEST, pin.manifest_sha256)
    cache = RepoCache(pin.repo, pin.kind, cache_dir)
    found = _found(copies, wanted, pin.name)
    folder, scratch = cache.own_snapshot(pin.commit, make=True), f".{uuid.uuid4().hex[:8]}.manifest"
    try:
        _take(copies, found, MANIFEST, folder, scratch, pin.manifest_sha256, MAX_JSON_BYTES)
        raw = read_regular(folder / scratch, MAX_JSON_BYTES)
        files = require_fields(parse_manifest(raw, f"{pin.name}: {MANIFEST}"), f"{pin.name}: {MANIFEST}")
        _take_all(copies, found, files, folder, cache)
        os.replace(folder / scratch, folder / MANIFEST)  # last: what has a manifest is whole
    finally:
        (folder / scratch).unlink(missing_ok=True)
    cache.is_verified(folder / MANIFEST, {"sha256": pin.manifest_sha256, "size": len(raw)})
    _write_card(pin, parse_manifest(raw, folder / MANIFEST), folder)
    return folder


def _write_card(pin: Pin, manifest: dict[str, Any], folder: Path) -> None:
    """Write the card that the manifest gives, unless the Hub's own is there; leave it out if there is none to give.

    Stock `load_dataset` reads which files are which split out of the card.
    """
    with suppress(W2WError):
        if has_file(folder, CARD) and is_own_blob(folder, CARD):
            return
    with suppress(OSError):
        (folder / CARD).unlink(missing_ok=True)  # a copy's, which an earlier version put there
    try:
        card = published_card(folder, manifest, manifest, pin.repo)
        configs = split_card(card)[0].get("configs", [])
        paths = [entry["path"] for config in configs for entry in config["data_files"]]
    except (W2WError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return  # the manifest lacks what a card states; what opens it says so
    listed = manifest["files"]
    if all(name in listed for path in paths for name in ([path] if isinstance(path, str) else path)):
        _put(folder, CARD, card.encode())


def _restore_base(base: BasePin, copies: Copy, cache_dir: Path | str | None) -> Path:
    if MODEL_INDEX not in base.files:
        raise CorruptFileError(f"the lock lists no {MODEL_INDEX} of the base model {base.repo}; make it again")
    anchor = base.files[MODEL_INDEX]
    wanted = Wanted(base.repo, "model", base.commit, MODEL_INDEX, anchor["sha256"], anchor["size"])
    cache = RepoCache(base.repo, "model", cache_dir)
    found = _found(copies, wanted, f"{base.repo}@{base.commit[:12]}")
    folder = cache.own_snapshot(base.commit, make=True)
    _take_all(copies, found, base.files, folder, cache)
    return folder


def _found(copies: Copy, wanted: Wanted, name: str) -> Any:
    found = copies.find(wanted)
    if found is None:
        raise HubNotFoundError(
            f"{copies.shown} has no copy of {name}: no {wanted.anchor} with sha256 {wanted.sha256[:12]}; "
            "try another copy"
        )
    return found


def _take_all(copies: Copy, found: Any, files: Mapping[str, Mapping[str, Any]], folder: Path, cache: RepoCache) -> None:
    for name, entry in progress(list(files.items()), f"restoring {cache.repo}"):
        if _is_there(folder, name, entry, cache):
            continue
        _take(copies, found, name, folder, name, entry["sha256"], entry["size"])
        if not _is_there(folder, name, entry, cache):
            raise CorruptFileError(
                f"{folder / name} changed while it was restored; run the same command again", path=folder / name
            )


def _is_there(folder: Path, name: str, entry: Mapping[str, Any], cache: RepoCache) -> bool:
    try:
        return has_file(folder, name) and cache.is_verified(find_file(folder, name), entry)
    except UnsafePathError:
        make_parents(folder, name)  # raises if it is a folder above that is a link
        if (folder / name).is_symlink():
            return False  # is replaced, wherever it leads
        raise


def _take(copies: Copy, found: Any, name: str, folder: Path, to: str, sha256: str, limit: int) -> None:
    """Copy one file beside its place, and put it there only if it has the digest; no link is written through."""
    target = make_parents(folder, to)
    partial = target.with_name(f".{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "x+b") as file:
            arrived = copies.fetch(found, name, limit, file)
        if arrived != sha256:
            raise CorruptFileError(f"{copies.shown}: {name} is not what was pinned; restore from another copy")
        os.replace(partial, target)
    except OSError as error:
        if isinstance(error, W2WError):
            raise
        raise disk_error(target, error, "; run the same command again to continue") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _put(folder: Path, name: str, data: bytes) -> None:
    target = make_parents(folder, name)
    partial = target.with_name(f".{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, target)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


# ---------------------------------------------------------------- archive
GUIDE = """\
An archive of {names}
{line}

It is a BagIt bag (RFC 8493): `data/` holds the files, `manifest-sha256.txt` their digests. Check it with
`sha256sum -c manifest-sha256.txt`.

data/w2w.lock      commits, digests, package versions and recipes
data/FORMAT.md     how the files are to be read, for anyone who has to do it without w2w_hub
data/CITATION.cff  how to cite it
{folders}

With w2w_hub (pip install w2w-hub), on a machine that never saw the Hub:

    w2w restore data/w2w.lock --from .
    w2w verify data/w2w.lock
"""


def archive(lock: Path | str, out: Path | str, *, token: Token = None, cache_dir: Path | str | None = None) -> Path:
    """Write everything that a lock pins as a BagIt folder, fit for a long-term archive and for `restore`.

    Raises
    ------
    AlreadyExistsError, HubError, CorruptFileError
    """
    read, out = read_lock(lock), require_path(out, "the archive to write")
    with new_folder(out) as bag:
        restore(lock, token=token, cache_dir=cache_dir)
        data = bag / "data"
        for pin in read.pins:
            source = open_pin(pin, token=token, cache_dir=cache_dir, local_files_only=True)
            listed = {**source.files, MANIFEST: {"sha256": pin.manifest_sha256}}
            place = Wanted(pin.repo, pin.kind, pin.commit).folder
            _put_all(source.folder, listed, data / place, card=True)
            if pin.base is not None:
                base = open_base(pin.base, token=token, cache_dir=cache_dir, local_files_only=True)
                place = Wanted(pin.base.repo, "model", pin.base.commit).folder
                _put_all(base.folder, base.files, data / place, card=False)
        shutil.copyfile(lock, data / LOCK)
        (data / "FORMAT.md").write_text(template("FORMAT.md").template, "utf-8")
        (data / "CITATION.cff").write_text(citation_file(read.pins), "utf-8")
        _make_bag(bag, read)
    return out


def _put_all(source: Path, files: Mapping[str, Mapping[str, Any]], target: Path, *, card: bool) -> None:
    for name, entry in progress(list(files.items()), f"archiving {target.parent.name}"):
        _copy_file(source, name, target)
        if sha256_file(target / name) != entry["sha256"]:
            raise CorruptFileError(
                f"{source / name} has changed on this disk; load it again, then archive", path=source / name
            )
    if card and has_file(source, CARD) and is_own_blob(source, CARD) is not False:
        _copy_file(source, CARD, target)


def _copy_file(source: Path, name: str, target: Path) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    with opened(source, name) as file, open(target / name, "xb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def _make_bag(bag: Path, lock: Lock) -> None:
    data = bag / "data"
    names = ", ".join(pin.name for pin in lock.pins)
    folders = "\n".join(f"data/{Wanted(p.repo, p.kind, p.commit).folder}" for p in lock.pins)
    (bag / "README.txt").write_text(GUIDE.format(names=names, line="=" * (14 + len(names)), folders=folders), "utf-8")
    (bag / "bagit.txt").write_text("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n", "utf-8")
    files = sorted(found.name for found in walk(data))
    size = sum((data / name).stat().st_size for name in files)
    info = f"External-Description: {names}\nPayload-Oxum: {size}.{len(files)}\nBagging-Software-Agent: w2w_hub\n"
    (bag / "bag-info.txt").write_text(info, "utf-8")
    _list_digests(bag, [f"data/{name}" for name in files], "manifest-sha256.txt")
    tags = ["README.txt", "bag-info.txt", "bagit.txt", "manifest-sha256.txt"]
    _list_digests(bag, tags, "tagmanifest-sha256.txt")


def _list_digests(bag: Path, names: list[str], into: str) -> None:
    lines = []
    for name in names:
        escaped = name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")  # as RFC 8493 asks
        lines.append(f"{sha256_file(bag / name)}  {escaped}\n")
    (bag / into).write_text("".join(lines), "utf-8")
