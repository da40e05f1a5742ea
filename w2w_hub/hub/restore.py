"""Bring everything that a lock pins to this machine, from the Hub or from any copy; and make an archive of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from ..base import MODEL_INDEX
from ..cards import template
from ..errors import CorruptFileError, HubError, HubNotFoundError, MissingPathError
from ..files import list_files, new_folder, read_json, sha256_file
from ..progress import progress
from .cache import RepoCache
from .cite import citation_file
from .client import Token, call
from .pins import BasePin, Lock, Pin, read_lock
from .resolve import CARD, MANIFEST, open_base, open_pin, require_fields

PLURAL = {"dataset": "datasets", "space": "spaces", "model": "models"}
LOCK = "w2w.lock"


@dataclass(frozen=True)
class Wanted:
    """One folder to bring here: where it goes, and by which file and digest a copy of it is recognised."""

    repo: str
    kind: str
    commit: str
    anchor: str
    sha256: str

    @property
    def folder(self) -> str:
        """Its place in an archive."""
        return f"{PLURAL[self.kind]}/{self.repo}/{self.commit}"


class Copy(Protocol):
    """Somewhere that may have what a lock pins; `shown` names it in messages."""

    shown: str

    def find(self, wanted: Wanted) -> Any:
        """What to give to `open`, or None if there is no copy whose anchor has the digest."""

    def open(self, found: Any, name: str) -> Any:
        """A context manager that gives a file's stream."""


class FolderCopy:
    """A folder with copies anywhere below it: an archive, another cache, a plain download."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise MissingPathError(f"{folder} is not a folder; give --from a folder or a URL")
        self.folder, self.shown = folder, str(folder)
        self._anchors: dict[str, list[tuple[str, Path]]] = {}

    def find(self, wanted: Wanted) -> Path | None:
        if wanted.anchor not in self._anchors:
            files = [file for file in self.folder.rglob(wanted.anchor) if file.is_file()]
            self._anchors[wanted.anchor] = [(sha256_file(file), file.parent) for file in files]
        return next((folder for sha256, folder in self._anchors[wanted.anchor] if sha256 == wanted.sha256), None)

    def open(self, found: Path, name: str) -> BinaryIO:
        try:
            return open(found / name, "rb")
        except OSError as error:
            raise MissingPathError(f"{found / name} cannot be read ({error.strerror})") from error


class UrlCopy:
    """A web server with an archive, a plain copy, or the paths of a Hub (a mirror)."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        # who names a copy may do so with a password or a signature, which messages leave out
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")

    def find(self, wanted: Wanted) -> str | None:
        hub = ("datasets/" if wanted.kind == "dataset" else "") + f"{wanted.repo}/resolve/{wanted.commit}"
        for place in (f"data/{wanted.folder}", wanted.folder, wanted.repo, hub, ""):
            root = "/".join(part for part in (self.url, place) if part)
            try:
                with self.open(root, wanted.anchor) as stream:
                    if hashlib.sha256(stream.read()).hexdigest() == wanted.sha256:
                        return root
            except HubNotFoundError:
                continue
        return None

    @contextmanager
    def open(self, found: str, name: str) -> Iterator[BinaryIO]:
        from huggingface_hub.utils import get_session

        url = f"{found}/{quote(name)}"

        def get() -> Path:
            # not as the Hub's client: no token goes to a server that the user only named as a copy
            part = Path(holder) / "part"
            with get_session().stream("GET", url) as response, open(part, "wb") as file:
                if response.status_code != 200:
                    raise HubNotFoundError(f"{self.shown}: {name} is not there ({response.status_code})")
                for block in response.iter_bytes():
                    file.write(block)
            return part

        with tempfile.TemporaryDirectory() as holder, open(call(self.shown, get), "rb") as stream:
            yield stream


def copy_at(place: str | Path) -> Copy:
    """A folder or URL as a place to restore from."""
    text = str(place)
    if text.startswith("file://"):
        return FolderCopy(Path(url2pathname(urlsplit(text).path)))
    if text.startswith(("http://", "https://")):
        return UrlCopy(text)
    return FolderCopy(Path(place))


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
        A folder or web server with copies: an archive, another cache, a mirror. It need not be trusted: a file
        whose digest does not match is refused. The Hub without it.

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
    """
    read = read_lock(lock)
    copies = None if source is None else copy_at(source)
    folders = []
    for pin in read.pins:
        if copies is None:
            found = open_pin(pin, token=token, cache_dir=cache_dir)
            folders.append(found.need(found.files))
            found.need_card()
            if pin.base is not None:
                folders.append(open_base(pin.base, token=token, cache_dir=cache_dir).folder)
        else:
            folders.append(_restore_pin(pin, copies, cache_dir))
            if pin.base is not None:
                folders.append(_restore_base(pin.base, copies, cache_dir))
        cache = RepoCache(pin.repo, pin.kind, cache_dir)
        if pin.revision not in cache.refs():
            cache.remember(pin.revision, pin.commit)
    return folders


def _restore_pin(pin: Pin, copies: Copy, cache_dir: Path | str | None) -> Path:
    wanted = Wanted(pin.repo, pin.kind, pin.commit, MANIFEST, pin.manifest_sha256)
    cache = RepoCache(pin.repo, pin.kind, cache_dir)
    folder, found = cache.snapshot(pin.commit), _found(copies, wanted, pin.name)
    scratch = folder / f".{uuid.uuid4().hex[:8]}.manifest"
    try:
        _take(copies, found, MANIFEST, scratch, {"sha256": pin.manifest_sha256})
        files = require_fields(read_json(scratch), f"{pin.name}: {MANIFEST}")
        _take_all(copies, found, files, folder, cache)
        os.replace(scratch, folder / MANIFEST)  # last: what has a manifest is whole
    finally:
        scratch.unlink(missing_ok=True)
    with suppress(HubError, MissingPathError):  # no pin depends on the card
        _take(copies, found, CARD, folder / CARD, None)
    return folder


def _restore_base(base: BasePin, copies: Copy, cache_dir: Path | str | None) -> Path:
    if MODEL_INDEX not in base.files:
        raise CorruptFileError(f"the lock lists no {MODEL_INDEX} of the base model {base.repo}; make it again")
    wanted = Wanted(base.repo, "model", base.commit, MODEL_INDEX, base.files[MODEL_INDEX]["sha256"])
    cache = RepoCache(base.repo, "model", cache_dir)
    found = _found(copies, wanted, f"{base.repo}@{base.commit[:12]}")
    _take_all(copies, found, base.files, cache.snapshot(base.commit), cache)
    return cache.snapshot(base.commit)


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
        target = folder / name
        if not (target.is_file() and cache.is_verified(target, entry)):
            _take(copies, found, name, target, entry)
            cache.is_verified(target, entry)


def _take(copies: Copy, found: Any, name: str, target: Path, entry: Mapping[str, Any] | None) -> None:
    """Copy one file beside its place, and put it there only if it has the digest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex[:8]}.partial")
    digest = hashlib.sha256()
    try:
        with copies.open(found, name) as stream, open(partial, "wb") as file:
            while block := stream.read(1 << 20):
                digest.update(block)
                file.write(block)
        if entry is not None and digest.hexdigest() != entry["sha256"]:
            raise CorruptFileError(f"{copies.shown}: {name} is not what was pinned; restore from another copy")
        os.replace(partial, target)
    finally:
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
    read, out = read_lock(lock), Path(out)
    with new_folder(out) as bag:
        restore(lock, token=token, cache_dir=cache_dir)
        data = bag / "data"
        for pin in read.pins:
            source = open_pin(pin, token=token, cache_dir=cache_dir, local_files_only=True)
            listed = {**source.files, MANIFEST: {"sha256": pin.manifest_sha256}}
            place = Wanted(pin.repo, pin.kind, pin.commit, "", "").folder
            _put_all(source.folder, listed, data / place, card=True)
            if pin.base is not None:
                base = open_base(pin.base, token=token, cache_dir=cache_dir, local_files_only=True)
                place = Wanted(pin.base.repo, "model", pin.base.commit, "", "").folder
                _put_all(base.folder, base.files, data / place, card=False)
        shutil.copyfile(lock, data / LOCK)
        (data / "FORMAT.md").write_text(template("FORMAT.md").template)
        (data / "CITATION.cff").write_text(citation_file(read.pins))
        _make_bag(bag, read)
    return out


def _put_all(source: Path, files: Mapping[str, Mapping[str, Any]], target: Path, *, card: bool) -> None:
    for name, entry in progress(list(files.items()), f"archiving {target.parent.name}"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
        if sha256_file(target / name) != entry["sha256"]:
            raise CorruptFileError(f"{source / name} has changed on this disk; load it again, then archive")
    if card and (source / CARD).is_file():
        shutil.copyfile(source / CARD, target / CARD)


def _make_bag(bag: Path, lock: Lock) -> None:
    data = bag / "data"
    names = ", ".join(pin.name for pin in lock.pins)
    folders = "\n".join(f"data/{Wanted(p.repo, p.kind, p.commit, '', '').folder}" for p in lock.pins)
    (bag / "README.txt").write_text(GUIDE.format(names=names, line="=" * (14 + len(names)), folders=folders))
    (bag / "bagit.txt").write_text("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
    files = list_files(data)
    size = sum((data / name).stat().st_size for name in files)
    info = f"External-Description: {names}\nPayload-Oxum: {size}.{len(files)}\nBagging-Software-Agent: w2w_hub\n"
    (bag / "bag-info.txt").write_text(info)
    _list_digests(bag, [f"data/{name}" for name in files], "manifest-sha256.txt")
    tags = ["README.txt", "bag-info.txt", "bagit.txt", "manifest-sha256.txt"]
    _list_digests(bag, tags, "tagmanifest-sha256.txt")


def _list_digests(bag: Path, names: list[str], into: str) -> None:
    lines = []
    for name in names:
        escaped = name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")  # as RFC 8493 asks
        lines.append(f"{sha256_file(bag / name)}  {escaped}\n")
    (bag / into).write_text("".join(lines))
