"""What a Hub keeps: repositories with commits, references, pull requests and blobs; users with tokens. No HTTP."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin", ".npy", ".npz", ".zip", ".arrow", ".gif", ".jpg")
LFS_SIZE = 10_000_000


class Refused(Exception):
    """A request that the Hub answers with an error."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    """A file of a commit: `oid` is git's; a large file also has the sha256 that the storage knows it by."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]


@dataclass
class User:
    name: str
    organisations: dict[str, str] = field(default_factory=dict)  # organisation -> read or write


@dataclass
class PullRequest:
    number: int
    title: str
    author: str
    status: str  # draft, open, merged or closed
    comments: tuple[tuple[str, str], ...] = ()  # author, text


@dataclass
class Repo:
    id: str
    kind: str  # model, dataset or space
    private: bool = False
    gated: Any = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)
    pull_heads: dict[int, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def resolve(self, revision: str) -> str:
        if revision.startswith("refs/pr/") and revision[8:].isdigit() and int(revision[8:]) in self.pull_heads:
            return self.pull_heads[int(revision[8:])]
        for known in (self.branches, self.tags):
            if revision in known:
                return known[revision]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision: str) -> dict[str, Blob]:
        return self.commits[self.resolve(revision)].files


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Store:
    """The state behind one loopback Hub."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[tuple[str, str], str] = {}
        self.blobs: dict[str, bytes] = {}  # git oid, or sha256 of a large file -> content
        self.tokens: dict[str, tuple[User, str]] = {}  # token -> user, role (read, write or expired)
        self.users: dict[str, User] = {}
        self._clock = itertools.count()

    # ------------------------------------------------------------ users
    def user(self, name: str, **organisations: str) -> User:
        return self.users.setdefault(name, User(name, organisations))

    def token(self, name: str, role: str = "write") -> str:
        token = f"hf_{name}{role}{len(self.tokens):04d}secret"
        self.tokens[token] = (self.user(name), role)
        return token

    def who(self, token: str | None) -> tuple[str | None, str]:
        if token is None:
            return None, "none"
        if token not in self.tokens or self.tokens[token][1] == "expired":
            raise Refused(401, "Invalid credentials in Authorization header")
        user, role = self.tokens[token]
        return user.name, role

    def _member(self, name: str | None, namespace: str, role: str) -> bool:
        if name is None:
            return False
        held = self.users[name].organisations.get(namespace)
        return name == namespace or held == "write" or (held is not None and role == "read")

    # ------------------------------------------------------------ repositories
    def create(self, kind: str, repo_id: str, token: str | None, private: bool = False) -> Repo:
        name, role = self.who(token)
        if role != "write" or not self._member(name, repo_id.split("/")[0], "write"):
            raise Refused(403 if name else 401, f"You don't have the rights to create a {kind} under this namespace")
        key = (kind, repo_id.lower())
        if key in self.repos:
            raise Refused(409, "You already created this repo")
        repo = self.repos[key] = Repo(repo_id, kind, private)
        self.moved.pop(key, None)
        self.blobs[git_oid(GITATTRIBUTES)] = GITATTRIBUTES
        first = {".gitattributes": Blob(git_oid(GITATTRIBUTES), len(GITATTRIBUTES))}
        repo.branches["main"] = self._commit(repo, None, "initial commit", "", "system", first)
        return repo

    def repo(self, kind: str, repo_id: str, token: str | None, role: str = "read", *, content: bool = False) -> Repo:
        """A repository that this token may use in this way."""
        name, held = self.who(token)
        repo = self.repos.get((kind, repo_id.lower()))
        if repo is None or (repo.private and not self._member(name, repo.namespace, "read")):
            raise Refused(404 if name else 401, "Repository not found", "RepoNotFound")
        if role == "write" and (held != "write" or not self._member(name, repo.namespace, "write")):
            raise Refused(403 if name else 401, "You need write access; pass `create_pr=1` to open a pull request")
        if content and repo.gated and name not in repo.granted and not self._member(name, repo.namespace, "read"):
            raise Refused(403 if name else 401, f"Access to {repo.kind} {repo.id} is restricted", "GatedRepo")
        return repo

    def move(self, kind: str, old: str, new: str) -> None:
        repo = self.repos.pop((kind, old.lower()))
        repo.id = new
        self.repos[(kind, new.lower())] = repo
        self.moved[(kind, old.lower())] = new

    # ------------------------------------------------------------ commits
    def _commit(
        self, repo: Repo, parent: str | None, title: str, message: str, author: str, files: dict[str, Blob]
    ) -> str:
        number = next(self._clock)
        date = f"2026-01-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.000Z"
        listed = json.dumps([parent, title, date, sorted((p, b.etag) for p, b in files.items())])
        oid = hashlib.sha1(listed.encode()).hexdigest()
        repo.commits[oid] = Commit(oid, parent, title, message, author, date, dict(files))
        return oid

    def mode(self, path: str, size: int, sample: bytes) -> str:
        binary = b"\0" in sample
        return "lfs" if path.endswith(LFS_SUFFIXES) or size > LFS_SIZE or (binary and size) else "regular"

    def apply(
        self, repo: Repo, revision: str, lines: list[dict[str, Any]], author: str, create_pr: bool
    ) -> tuple[str, PullRequest | None]:
        """Make a commit of an NDJSON payload; returns it and the pull request that it opened."""
        header = lines[0]["value"]
        with self.lock:
            head = repo.resolve(revision)
            if header.get("parentCommit") not in (None, head):
                raise Refused(412, "The branch has been updated since; refresh and try again")
            files = dict(repo.commits[head].files)
            for line in lines[1:]:
                self._change(files, line["key"], line["value"])
            title, message = header["summary"], header.get("description", "")
            if create_pr:
                pull = self.open_pull(repo, title, author, "open")
                repo.pull_heads[pull.number] = self._commit(repo, head, title, message, author, files)
                return repo.pull_heads[pull.number], pull
            oid = self._commit(repo, head, title, message, author, files)
            if revision.startswith("refs/pr/"):
                repo.pull_heads[int(revision[8:])] = oid
            elif revision in repo.branches:
                repo.branches[revision] = oid
            else:
                raise Refused(400, f"{revision} is no branch")
            return oid, None

    def _change(self, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        import base64

        path = value["path"]
        if key == "file":
            data = base64.b64decode(value["content"])
            self.blobs[git_oid(data)] = data
            files[path] = Blob(git_oid(data), len(data))
        elif key == "lfsFile":
            if value["oid"] not in self.blobs:
                raise Refused(400, f"LFS pointer of {path} refers to a file that was not uploaded")
            size = len(self.blobs[value["oid"]])
            files[path] = Blob(git_oid(pointer(value["oid"], size)), size, value["oid"])
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for name in [n for n in files if n.startswith(path.rstrip("/") + "/")]:
                del files[name]
        else:
            raise Refused(400, f"unknown operation {key}")

    def put(self, sha256: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refused(400, "the content does not have the sha256 that was announced")
        self.blobs[sha256] = data

    def adopt(self, folder: Path) -> None:
        """Know the content of a folder's files by their sha256, as a storage does after an upload that it can read."""
        for file in folder.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                self.put(hashlib.sha256(data).hexdigest(), data)

    # ------------------------------------------------------------ references
    def tag(self, repo: Repo, name: str, revision: str) -> None:
        with self.lock:
            target = repo.resolve(revision)
            if name in repo.tags:
                raise Refused(409, f"Tag {name} already exists")
            repo.tags[name] = target

    def open_pull(self, repo: Repo, title: str, author: str, status: str) -> PullRequest:
        with self.lock:
            number = len(repo.pulls) + 1
            repo.pulls[number] = PullRequest(number, title, author, status)
            repo.pull_heads[number] = repo.branches["main"]
            return repo.pulls[number]

    def merge(self, repo: Repo, number: int, author: str) -> None:
        """Squash a pull request onto main: its changes since it branched off, as one commit."""
        with self.lock:
            pull, head, main = repo.pulls[number], repo.pull_heads[number], repo.branches["main"]
            if pull.status != "open":
                raise Refused(409, f"this pull request is {pull.status}")
            mine = self._ancestry(repo, main)
            fork = next(oid for oid in self._ancestry(repo, head) if oid in mine)
            before, after, files = repo.commits[fork].files, repo.commits[head].files, dict(repo.files("main"))
            for path in {*before, *after}:
                if before.get(path) != after.get(path):
                    if files.get(path) != before.get(path):
                        raise Refused(409, f"merge conflict in {path}")
                    if path in after:
                        files[path] = after[path]
                    else:
                        del files[path]
            repo.branches["main"] = self._commit(repo, main, f"{pull.title} (#{number})", "", author, files)
            repo.pulls[number] = replace(pull, status="merged")

    def _ancestry(self, repo: Repo, oid: str | None) -> list[str]:
        found = []
        while oid is not None:
            found.append(oid)
            oid = repo.commits[oid].parent
        return found

    def history(self, repo: Repo, revision: str) -> list[Commit]:
        return [repo.commits[oid] for oid in self._ancestry(repo, repo.resolve(revision))]
