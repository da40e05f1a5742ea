"""The local cache of huggingface_hub: a repository's commits, the revisions that are known, what was verified."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import sha256_file

SHA = re.compile(r"^[0-9a-f]{40}\Z")
SHORT = re.compile(r"[0-9a-f]{7,39}")
TYPES = {"dataset": "dataset", "space": "model", "model": "model"}  # our word -> the Hub's repository type
MARKS = ".w2w-verified"  # beside blobs/, refs/ and snapshots/: files whose sha256 has been seen to be right


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

    @property
    def folder(self) -> Path:
        from huggingface_hub import constants

        root = Path(constants.HF_HUB_CACHE if self.root is None else self.root).expanduser()
        return root / f"{TYPES[self.kind]}s--{self.repo.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def refs(self) -> dict[str, str]:
        """Branches and tags that were resolved before, and their commits then."""
        folder, found = self.folder / "refs", {}
        for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if file.name[0] != "." and file.is_file() and SHA.match(commit := file.read_text().strip()):
                found[file.relative_to(folder).as_posix()] = commit
        return found

    def commit(self, revision: str) -> str | None:
        """The commit that a revision had when it was last resolved, if its manifest is there."""
        commit = revision if SHA.match(revision) else self.refs().get(revision)
        return commit if commit and self.is_cached(commit) else None

    def whole(self, revision: str) -> str:
        """The one cached commit that a short SHA begins, as messages show it; any other revision as it is."""
        if not SHORT.fullmatch(revision) or revision in self.refs():
            return revision
        found = [commit.name for commit in (self.folder / "snapshots").glob(f"{revision}*")]
        return found[0] if len(found) == 1 and SHA.match(found[0]) else revision

    def is_cached(self, commit: str) -> bool:
        return (self.snapshot(commit) / "manifest.json").is_file()

    def revisions(self) -> list[str]:
        """What is cached, for messages: ``v1.0.0 (0123456789ab)``, or a bare commit."""
        refs, folder = self.refs(), self.folder / "snapshots"
        commits = sorted(p.name for p in folder.iterdir() if self.is_cached(p.name)) if folder.is_dir() else []
        named = [f"{name} ({commit[:12]})" for name, commit in refs.items() if commit in commits]
        return named + [commit for commit in commits if commit not in refs.values()]

    def remember(self, revision: str, commit: str) -> None:
        """Note what a branch or tag is, so that it is found offline; a read-only cache stays as it is."""
        if SHA.match(revision) or leaves(revision):
            return
        file = self.folder / "refs" / revision
        with suppress(OSError):
            if not file.is_file() or file.read_text() != commit:
                _write(file, commit)

    # ------------------------------------------------------------ verified files
    def is_verified(self, file: Path, entry: Mapping[str, Any]) -> bool:
        """Whether a file has the size and sha256 of its manifest entry; hashed once, then known by size and time."""
        stat = file.stat()
        if stat.st_size != entry["size"]:
            return False
        mark, seen = self.folder / MARKS / str(entry["sha256"]), f"{stat.st_size} {stat.st_mtime_ns}"
        try:
            if mark.read_text() == seen:
                return True
        except OSError:
            pass
        if sha256_file(file) != entry["sha256"]:
            return False
        with suppress(OSError):  # a read-only cache is hashed every time
            _write(mark, seen)
        return True

    def forget(self, entry: Mapping[str, Any]) -> None:
        """Have a file hashed again when it is needed next."""
        with suppress(OSError):
            (self.folder / MARKS / str(entry["sha256"])).unlink(missing_ok=True)


def is_own_blob(file: Path) -> bool:
    """Whether a cached file has the content that its name in ``blobs/`` promises (a git or a sha256 digest).

    For files that no manifest lists: the manifest itself, and the card. Without symbolic links nothing is known.
    """
    name = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return sha256_file(file) == name
    if re.fullmatch(r"[0-9a-f]{40}", name):
        data = file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == name
    return True


def leaves(name: str) -> bool:
    """Whether a file that somebody else named would lie outside its folder, or be no file."""
    parts = name.split("/")
    return not all(parts) or any(part in (".", "..") for part in parts) or "\\" in name or "\0" in name


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    partial.write_text(text)
    os.replace(partial, file)
