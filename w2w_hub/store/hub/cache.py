"""The local cache of huggingface_hub: a repository's commits, known revisions and verified files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.checks import require_path
from ...common.limits import MAX_JSON_BYTES
from ...errors import UnsafePathError, W2WError
from ..atomic import replaced
from ..manifest import FILENAME as MANIFEST
from ..paths import find_file, has_file, is_name, make_parents, open_regular, read_file, walk

SHA = re.compile(r"^[0-9a-f]{40}\Z")
SHORT = re.compile(r"[0-9a-f]{7,39}")
REPO = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)  # a repository name
TYPES = {"dataset": "dataset", "space": "model", "model": "model"}  # kind -> the Hub's repository type
KIND_NAMES = {"dataset": "dataset", "space": "weight space", "model": "base model"}  # in messages
MARKS = ".w2w-verified"  # beside blobs/, refs/ and snapshots/: records of verified files


@dataclass(frozen=True)
class RepoCache:
    """One repository in the cache.

    Attributes
    ----------
    repo : str
        ``org/name``.
    kind : {"dataset", "space", "model"}
    root : Path or None
        Another cache than the usual one (``HF_HUB_CACHE``).
    """

    repo: str
    kind: str
    root: Path | str | None = None

    def __post_init__(self) -> None:
        if self.root is not None:
            require_path(self.root, "cache_dir")

    @property
    def folder(self) -> Path:
        from huggingface_hub import constants

        root = Path(constants.HF_HUB_CACHE if self.root is None else self.root).expanduser()
        return root / f"{TYPES[self.kind]}s--{self.repo.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def refs(self) -> dict[str, str]:
        """Return the branches and tags that were resolved before, and the commits they were at then."""
        folder, found = self.folder / "refs", {}
        for entry in walk(folder) if folder.is_dir() else ():
            if entry.is_file and not entry.name.rpartition("/")[2].startswith("."):
                with suppress(OSError, UnicodeDecodeError), open(folder / entry.name, encoding="utf-8") as file:
                    if SHA.match(commit := file.read(100).strip()):
                        found[entry.name] = commit
        return found

    def commit(self, revision: str) -> str | None:
        """Return the commit to which a revision last resolved, if its manifest is cached."""
        commit = revision if SHA.match(revision) else self.refs().get(revision)
        return commit if commit and self.is_cached(commit) else None

    def full_commit(self, revision: str) -> str:
        """Return the one cached commit that begins with a short SHA, or else the revision unchanged."""
        if not SHORT.fullmatch(revision) or revision in self.refs():
            return revision
        found = [commit.name for commit in (self.folder / "snapshots").glob(f"{revision}*")]
        return found[0] if len(found) == 1 and SHA.match(found[0]) else revision

    def is_cached(self, commit: str) -> bool:
        """Return whether the manifest of a commit is in the cache."""
        try:
            return has_file(self.own_snapshot(commit), MANIFEST)
        except W2WError:
            return False

    def revisions(self) -> list[str]:
        """Return the cached revisions for messages: ``v1.0.0 (0123456789ab)``, or a bare commit."""
        refs, folder = self.refs(), self.folder / "snapshots"
        commits = sorted(p.name for p in folder.iterdir() if self.is_cached(p.name)) if folder.is_dir() else []
        named = [f"{name} ({commit[:12]})" for name, commit in refs.items() if commit in commits]
        return named + [commit for commit in commits if commit not in refs.values()]

    def remember(self, revision: str, commit: str) -> None:
        """Record the commit of a branch or tag for offline use; ignored where the cache is read-only."""
        if SHA.match(revision) or not is_name(revision):
            return
        with suppress(OSError, W2WError):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.refs().get(revision) != commit:
                write_text(make_parents(self.folder, f"refs/{revision}"), commit)

    # ------------------------------------------------------------ verified files
    def has_content(self, sha256: str) -> bool:
        """Return whether a large file with this digest was fetched before, at any commit; it is not sent again."""
        return os.path.lexists(self.folder / "blobs" / sha256)

    def own_snapshot(self, commit: str, *, make: bool = False) -> Path:
        """Return the folder of a commit; neither it nor its parent may be a link.

        Parameters
        ----------
        make : bool
            Create it if it does not exist.

        Raises
        ------
        UnsafePathError
        """
        folder = self.snapshot(commit)
        if make:
            self.folder.mkdir(parents=True, exist_ok=True)
            make_parents(self.folder, f"snapshots/{commit}/{MANIFEST}")
        for part in (folder.parent, folder):
            if part.is_symlink():
                raise UnsafePathError(f"{part} is a link, which a cache does not have there; remove it", path=part)
        return folder

    def is_verified(self, file: Path, entry: Mapping[str, Any]) -> bool:
        """Return whether a regular file has the size and sha256 of its manifest entry.

        It is hashed once. After that its size, inode, mtime and ctime are compared, of which only the system can set
        the ctime. Silent damage on the disk changes none of them: `w2w verify` hashes again.
        """
        with open(open_regular(file, follow=False), "rb") as stream:
            before = os.fstat(stream.fileno())
            if before.st_size != entry["size"]:
                return False
            mark, seen = self.folder / MARKS / str(entry["sha256"]), _identity(before)
            try:
                if mark.read_text("utf-8") == seen:
                    return True
            except (OSError, UnicodeDecodeError):
                pass
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                return False
            unchanged = _identity(os.fstat(stream.fileno())) == seen
        if unchanged:
            with suppress(OSError):  # in a read-only cache files are hashed every time
                write_text(mark, seen)
        return unchanged

    def was_verified(self, file: Path, sha256: str) -> bool:
        """Return whether a file was verified against the digest in a lock, and has not changed since."""
        try:
            return (self.folder / MARKS / sha256).read_text("utf-8") == _identity(os.lstat(file))
        except (OSError, UnicodeDecodeError):
            return False

    def forget(self, entry: Mapping[str, Any]) -> None:
        """Discard the record that a file was verified, so that it is hashed again."""
        with suppress(OSError):
            (self.folder / MARKS / str(entry["sha256"])).unlink(missing_ok=True)

    def remove(self, commit: str, name: str) -> None:
        """Remove a damaged file of a commit and its blob, which the next download would link again."""
        file = self.snapshot(commit) / name
        with suppress(OSError, W2WError):
            find_file(self.snapshot(commit), name).unlink(missing_ok=True)
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def is_own_blob(folder: Path, name: str) -> bool | None:
    """Return whether a cached file has the digest (git's or sha256) by which its blob is named.

    For files that no manifest lists: the manifest itself and the card. None if the file is not a link to a blob, as in
    a cache without symbolic links or after `w2w restore`.
    """
    data = read_file(folder, name, MAX_JSON_BYTES)
    try:
        blob = os.path.basename(os.readlink(folder / name))
    except OSError:
        return None
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return hashlib.sha256(data).hexdigest() == blob
    if re.fullmatch(r"[0-9a-f]{40}", blob):
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == blob
    return None


def write_text(file: Path, text: str) -> None:
    """Write a small file of the cache atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file) as partial:
        partial.write_text(text, "utf-8")
