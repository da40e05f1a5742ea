"""Collect the files that a push sends: a verified folder, whose files must not change until they are sent.

Nothing below the folder may be a link, which could publish a private file. The one exception is a snapshot of the Hub's
cache, whose files are links to its blobs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..common.checks import require_path
from ..common.limits import MAX_CARD_BYTES, MAX_JSON_BYTES
from ..common.text import command
from ..dialects.base_model import CONFIG, EMBEDDED
from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnsafePathError
from ..store.commit import State, open_state
from ..store.hub.cache import REPO, SHA
from ..store.hub.resolve import require_fields
from ..store.hub.semver import Version
from ..store.hub.source import Source
from ..store.manifest import CARD, CHECKSUM, has_right_checksum, parse_json, seal
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import find_file, has_file, is_name, read_file, short, walk
from .verification import verify_source

IN_MEMORY = 1 << 20  # smaller files are sent from memory; larger ones must not change until they are sent


@dataclass
class Outgoing:
    """The files of one push, each with its verified digest.

    Attributes
    ----------
    local, manifest : dict
        The manifests in the folder and of the published version.
    version : Version
    """

    local: dict[str, Any]
    manifest: dict[str, Any]
    version: Version
    _content: dict[str, bytes | Path] = field(default_factory=dict)
    _sha256: dict[str, str] = field(default_factory=dict)
    _identity: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of files read while sending

    @property
    def names(self) -> list[str]:
        return list(self._content)

    def add(self, name: str, content: bytes) -> None:
        self._content[name] = content
        self._sha256[name] = hashlib.sha256(content).hexdigest()
        self._identity.pop(name, None)

    def add_file(self, name: str, path: Path, sha256: str) -> None:
        """Add a file that was verified to have this digest."""
        self._content[name], self._sha256[name], self._identity[name] = path, sha256, _identity(path)
        if self.size(name) <= IN_MEMORY:
            data = read_file(path.parent, path.name, IN_MEMORY)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise _changed(path)
            self.add(name, data)

    def content(self, name: str) -> bytes:
        """Return the content of a small file."""
        found = self._content[name]
        return found if isinstance(found, bytes) else read_file(found.parent, found.name, IN_MEMORY)

    def size(self, name: str) -> int:
        content = self._content[name]
        return len(content) if isinstance(content, bytes) else os.stat(content).st_size

    def is_same(self, name: str, there: str | None) -> bool:
        """Return whether the Hub has this content; `there` is its sha256, or git's digest of a small file."""
        if there is None:
            return False
        if len(there) == 64:
            return there == self._sha256[name]
        content = self._content[name]
        data = content if isinstance(content, bytes) else read_file(content.parent, content.name, self.size(name))
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == there

    def addition(self, name: str) -> Any:
        """Return the operation that adds a file to a commit."""
        from huggingface_hub import CommitOperationAdd

        content = self._content[name]
        if isinstance(content, bytes):
            return CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        if _identity(content) != self._identity[name]:
            raise _changed(content)
        made = CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(content))
        if not _is_sent_by_xet():  # Xet hashes what it sends; otherwise the Hub checks this digest
            made.upload_info.sha256 = bytes.fromhex(self._sha256[name])
        return made

    def require_sent(self, additions: Iterable[Any]) -> None:
        """Raise if a file that was just sent is not the verified one."""
        for made in additions:
            name, path = made.path_in_repo, self._content[made.path_in_repo]
            if isinstance(path, Path) and (
                _identity(path) != self._identity[name] or made.upload_info.sha256.hex() != self._sha256[name]
            ):
                raise _changed(path)


def source_of(what: Any) -> Source:
    """Return the files of a folder, or of an open dataset."""
    if isinstance(what, (str, os.PathLike)):
        return Source(require_path(what, "the folder"))
    source: Source = what.source
    source.need(source.files)
    source.need_card()
    if source.manifest()["digest"] != what.manifest.digest:
        raise CorruptFileError(f"{source.folder} has changed since it was opened; open it again", path=source.folder)
    return source


def collect(source: Source, version: str | None) -> Outgoing:
    """Verify a folder completely and return the files to send, without the card.

    Raises
    ------
    MissingPathError, CorruptFileError, UnsafePathError, UnsupportedFormatError, InvalidInputError, VersionError
    """
    folder = source.folder
    if not has_file(folder, MANIFEST):
        raise MissingPathError(f"{folder} is not a dataset or weight space: it has no {MANIFEST}", path=folder)
    state = open_state(folder)
    if state.unfinished:
        raise InvalidInputError(
            f"{folder} holds a change that was not finished; finish it with: {command('w2w repair', folder)}",
            path=folder,
        )
    _require_own_files(folder)
    require_fields(state.data, folder / MANIFEST)
    _require_public_base(folder)
    local = parse_json(state.raw, state.manifest_path)
    parsed = Version.parse(str(local.get("version")) if version is None else version)
    published = {**local, "version": str(parsed)}
    paths = {name: _listed(state, name) for name in state.data["files"]}
    before = {name: _identity(path) for name, path in paths.items()}
    verify_source(source, deep=True).raise_if_any()
    found = Outgoing(local, published, parsed)
    for name, path in paths.items():
        if _identity(path) != before[name]:
            raise _changed(path)
        found.add_file(name, path, state.data["files"][name]["sha256"])
    if open_state(folder).raw != state.raw:
        raise _changed(state.manifest_path)
    kept = str(local.get("version")) == str(parsed) and has_right_checksum(state.raw)
    raw = state.raw if kept else seal({k: v for k, v in published.items() if k != CHECKSUM})
    found.manifest = parse_json(raw, state.manifest_path)
    found.add(MANIFEST, raw)
    return found


def _require_own_files(folder: Path) -> None:
    """Raise if anything below a folder is a link, or the card is too long or not a regular file."""
    for found in walk(folder):
        if found.is_link:
            try:
                find_file(folder, found.name)  # a link of the Hub's cache to one of its blobs
            except MissingPathError:
                raise UnsafePathError(
                    f"{folder / found.name} is a broken link; remove it", path=folder / found.name
                ) from None
        elif not found.is_file:
            raise UnsafePathError(
                f"{folder / found.name} is not a regular file; remove it from the folder", path=folder / found.name
            )
    if has_file(folder, CARD):
        read_file(folder, CARD, MAX_CARD_BYTES)


def _listed(state: State, name: str) -> Path:
    try:
        return state.find(name)
    except MissingPathError:
        raise MissingPathError(
            f"{state.root / name} is missing, and the manifest lists it; restore it", path=state.root / name
        ) from None


def _require_public_base(folder: Path) -> None:
    """Refuse a weight space whose base model others cannot find."""
    if not has_file(folder, CONFIG):
        return
    stated = parse_json(read_file(folder, CONFIG, MAX_JSON_BYTES), folder / CONFIG)
    base, commit = stated.get("base_model"), stated.get("revision")
    if base == EMBEDDED or (is_name(base) and (folder / str(base)).is_dir()):
        return
    if not isinstance(base, str) or not REPO.fullmatch(base) or not SHA.match(str(commit)):
        raise InvalidInputError(
            f"{folder}/{CONFIG} names the base model {short(base)} at {short(commit)}, which others cannot find; "
            "embed it, or name a repository and its commit: pipe.save_pretrained(FOLDER, base_model=..., revision=...)",
            path=folder / CONFIG,
        )


def _is_sent_by_xet() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _identity(path: Path) -> tuple[int, ...]:
    """Return values that change with a file; only the system can set the ctime."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _changed(path: Path) -> CorruptFileError:
    return CorruptFileError(f"{path} was changed during the push; push again when nothing writes there", path=path)


__all__ = ["Outgoing", "collect"]
