"""A Hub on 127.0.0.1: the part of the protocol that huggingface_hub, datasets, diffusers and peft speak, and faults.

Large files go by the LFS protocol and are served by a second port, as the real Hub's are by another host. Uploads
by Xet are accepted and thrown away: a test that wants them served has to :meth:`Store.adopt` their content.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from w2w_hub.hub.card import HUB_LICENCES

from .store import Refused, Repo, Store, User

SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"}
PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
NAME = r"(?P<repo>[^/]+/[^/]+?)"


@dataclass
class Fault:
    """Something that goes wrong `times` times with requests that match, after `skip` that went well.

    `kind`: status (answer `status` at once), cut (half of the body), flip (one byte of the body), lost (done, but
    the connection ends without an answer), drop (the connection ends after half of the request's body), slow
    (answered after `seconds`), hold (waits for `released`, or is abandoned).
    """

    pattern: str
    kind: str = "status"
    status: int = 500
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False

    def abandon(self) -> None:
        """Let go of what was held without doing it: who asked is dead."""
        self.abandoned, self.times = True, 0
        self.released.set()

    def hits(self, request: str) -> bool:
        if self.times <= 0 or not re.search(self.pattern, request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.reached.set()
        return True


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int
    received: int  # bytes of the request's body
    sent: int  # bytes of the answer's body
    cdn: bool
    authorised: bool


class LoopbackHub(Store):
    """Start with ``with LoopbackHub() as hub``; give clients ``hub.environment(...)``."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, cdn)) for cdn in (False, True)]
        for server in self._servers:
            server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for fault in self.faults:
            fault.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fault(self, pattern: str, kind: str = "status", **options: Any) -> Fault:
        """Add a fault for requests like ``GET /api/...``."""
        self.faults.append(Fault(pattern, kind, **options))
        return self.faults[-1]

    def find_fault(self, request: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.hits(request)), None)

    @contextmanager
    def counted(self) -> Iterator[list[Request]]:
        """The requests that come while the block runs."""
        start, found = len(self.requests), []
        yield found
        found += self.requests[start:]


Route = tuple[str, re.Pattern[str], Callable[..., Any]]
ROUTES: list[Route] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an answer; `KIND` and `REPO` in the pattern stand for a repository's API path."""
    pattern = pattern.replace("KIND", r"(?P<kind>model|dataset|space)s").replace("REPO", NAME)

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append((method, re.compile(pattern + "$"), function))
        return function

    return add


def _handler(hub: LoopbackHub, cdn: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self.serve
            raise AttributeError(name)

        def serve(self) -> None:
            self.path_only, _, query = self.path.partition("?")
            self.query = {key: values[0] for key, values in parse_qs(query).items()}
            authorisation = self.headers.get("Authorization", "")
            self.token = authorisation.removeprefix("Bearer ") or None
            self.received = self.sent = 0
            self.status = 0
            fault = hub.find_fault(f"{self.command} {self.path_only}")
            kind = fault.kind if fault else None
            self.mangle = kind if kind in ("cut", "flip") else None
            try:
                if fault and kind == "drop":
                    self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
                    self.close_connection = True
                    return
                self.body = self.read_body()
                if fault and kind == "slow":
                    time.sleep(fault.seconds)
                if fault and kind == "hold":
                    fault.released.wait(60)
                    if fault.abandoned:
                        self.close_connection = True
                        return
                if fault and kind == "status":
                    self.answer(fault.status, {"error": "a fault"}, **fault.headers)
                    return
                self.lose = kind == "lost"
                try:
                    self.dispatch()
                except Refused as error:
                    code = {"X-Error-Code": error.code} if error.code else {}
                    self.answer(error.status, {"error": error.message}, **{"X-Error-Message": error.message}, **code)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                hub.requests.append(
                    Request(self.command, self.path, self.status, self.received, self.sent, cdn, bool(self.token))
                )

        lose = False

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                body = b"".join(parts)
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.received = len(body)
            return body

        def json(self) -> Any:
            return json.loads(self.body)

        def dispatch(self) -> None:
            for method, pattern, function in ROUTES:
                match = pattern.match(self.path_only)
                if match and method in (self.command, "GET" if self.command == "HEAD" else ""):
                    names = match.groupdict()
                    if "repo" in names and self.redirected(names):
                        return
                    function(hub, self, **{key: unquote(value or "") for key, value in names.items()})
                    return
            self.answer(404, {"error": f"no route for {self.command} {self.path}"})

        def redirected(self, names: dict[str, str]) -> bool:
            key = (names["kind"] or "model", names["repo"].lower())
            if key not in hub.moved:
                return False
            self.answer(307, {}, Location=self.path.replace(names["repo"], hub.moved[key], 1))
            return True

        def answer(self, status: int, value: Any = None, data: bytes | None = None, **headers: str) -> None:
            """Send JSON or bytes; a range of the bytes if one was asked for."""
            if self.lose:
                self.close_connection, self.status = True, -status
                return
            if data is None:
                data = json.dumps({} if value is None else value).encode()
                headers = {"Content-Type": "application/json", **headers}
            elif (wanted := self.headers.get("Range")) and status == 200:
                begin, _, end = wanted.removeprefix("bytes=").partition("-")
                first = int(begin) if begin else max(0, len(data) - int(end))
                last = min(int(end), len(data) - 1) if end and begin else len(data) - 1
                if first > last:
                    status, headers, data = 416, {"Content-Range": f"bytes */{len(data)}"}, b""
                else:
                    status, headers = 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
                    data = data[first : last + 1]
            self.status = status
            self.send_response(status)
            for name, text in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.mangle == "flip" and data:
                data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
            if self.mangle == "cut":
                data, self.close_connection = data[: len(data) // 2], True
            self.wfile.write(data)
            self.sent = len(data)

    return Handler


# ---------------------------------------------------------------- users and repositories
@route("GET", "/api/whoami-v2")
def whoami(hub: LoopbackHub, to: Any) -> None:
    name, role = hub.who(to.token)
    if name is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"name": org} for org in hub.users[name].organisations]
    to.answer(200, {"type": "user", "name": name, "orgs": orgs, "auth": {"accessToken": {"role": role}}})


@route("POST", "/api/repos/create")
def create(hub: LoopbackHub, to: Any) -> None:
    data = to.json()
    kind, repo_id = data.get("type") or "model", f"{data['organization'] or hub.who(to.token)[0]}/{data['name']}"
    repo = hub.create(kind, repo_id, to.token, data.get("visibility") == "private")
    to.answer(200, {"url": f"{hub.url}/{PREFIX[kind]}{repo.id}", "name": repo.id})


@route("DELETE", "/api/repos/delete")
def delete(hub: LoopbackHub, to: Any) -> None:
    data = to.json()
    repo = hub.repo(data.get("type") or "model", f"{data['organization']}/{data['name']}", to.token, "write")
    del hub.repos[(repo.kind, repo.id.lower())]
    to.answer(200)


@route("POST", "/api/repos/move")
def move(hub: LoopbackHub, to: Any) -> None:
    data = to.json()
    hub.repo(data["type"], data["fromRepo"], to.token, "write")
    hub.move(data["type"], data["fromRepo"], data["toRepo"])
    to.answer(200)


@route("PUT", "/api/KIND/REPO/settings")
def settings(hub: LoopbackHub, to: Any, kind: str, repo: str) -> None:
    found, data = hub.repo(kind, repo, to.token, "write"), to.json()
    found.gated = data.get("gated", found.gated)
    if "visibility" in data:
        found.private = data["visibility"] == "private"
    to.answer(200)


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: LoopbackHub, to: Any) -> None:
    """The checks of the real Hub that a card of ours can fail."""
    content, errors = to.json()["content"], []
    match = re.match(r"^---\r?\n(.*?)\n---\r?\n", content, re.DOTALL)
    try:
        card = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        card, errors = {}, [f"Invalid YAML: {error}"]
    licence = card.get("license")
    if licence is not None and licence not in HUB_LICENCES:
        errors.append(f'"license" must be one of {sorted(HUB_LICENCES)}, not {licence!r}')
    if licence == "other" and not card.get("license_name"):
        errors.append('"license_name" is required with license: other')
    if set(card.get("size_categories", ())) - SIZES:
        errors.append('"size_categories" is unknown')
    for key in ("base_model", "datasets"):
        values = card.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(value)):
                errors.append(f'"{key}" with value {value!r} is not the name of a repository')
    for key in ("tags", "configs"):
        if not isinstance(card.get(key, []), list):
            errors.append(f'"{key}" must be an array')
    if errors:
        to.answer(400, {"errors": [{"message": m} for m in errors], "warnings": []})
    else:
        to.answer(200, {"errors": [], "warnings": []})


def _describe(repo: Repo, revision: str) -> dict[str, Any]:
    oid = repo.resolve(revision)
    return {
        "_id": "0" * 24, "id": repo.id, "sha": oid, "private": repo.private, "gated": repo.gated, "disabled": False,
        "downloads": 0, "likes": 0, "tags": [], "lastModified": repo.commits[oid].date,
        "createdAt": "2026-01-01T00:00:00.000Z", "author": repo.namespace,
        "siblings": [{"rfilename": name} for name in sorted(repo.commits[oid].files)],
    }  # fmt: skip


@route("GET", "/api/KIND/REPO")
@route("GET", "/api/KIND/REPO/revision/(?P<rev>.+)")
def info(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str = "main") -> None:
    to.answer(200, _describe(hub.repo(kind, repo, to.token), rev))


@route("GET", "/api/KIND/REPO/auth-check")
def auth_check(hub: LoopbackHub, to: Any, kind: str, repo: str) -> None:
    hub.repo(kind, repo, to.token, content=True)
    to.answer(200)


@route("GET", "/api/KIND")
def listing(hub: LoopbackHub, to: Any, kind: str) -> None:
    author = to.query.get("author")
    name, _ = hub.who(to.token)
    repos = [r for (k, _), r in hub.repos.items() if k == kind and (not author or r.namespace == author)]
    to.answer(200, [_describe(r, "main") for r in repos if not r.private or hub._member(name, r.namespace, "read")])


# ---------------------------------------------------------------- trees, references, history
def _entry(path: str, blob: Any) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "oid": blob.oid, "size": blob.size}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    return entry


@route("GET", "/api/KIND/REPO/tree/(?P<rev>[^/]+)(?:/(?P<under>.*))?")
def tree(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str, under: str = "") -> None:
    files = hub.repo(kind, repo, to.token).files(rev)
    base = f"{under}/" if under else ""
    below = {path: blob for path, blob in files.items() if path.startswith(base)}
    if under and not below:
        raise Refused(404, f"{under} does not exist", "EntryNotFound")
    parents = {path.rsplit("/", i)[0] for path in below for i in range(1, path.count("/") + 1)}
    folders = {name for name in parents if name.startswith(base) and name != under}
    if to.query.get("recursive", "").lower() not in ("1", "true"):
        below = {path: blob for path, blob in below.items() if "/" not in path[len(base) :]}
        folders = {name for name in folders if "/" not in name[len(base) :]}
    entries = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders]
    entries += [_entry(path, blob) for path, blob in below.items()]
    to.answer(200, sorted(entries, key=lambda entry: entry["path"]))


@route("POST", "/api/KIND/REPO/paths-info/(?P<rev>[^/]+)")
def paths_info(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    files = hub.repo(kind, repo, to.token).files(rev)
    is_json = "json" in to.headers.get("Content-Type", "")
    wanted = to.json()["paths"] if is_json else parse_qs(to.body.decode())["paths"]
    to.answer(200, [_entry(path, files[path]) for path in wanted if path in files])


@route("GET", "/api/KIND/REPO/refs")
def refs(hub: LoopbackHub, to: Any, kind: str, repo: str) -> None:
    found = hub.repo(kind, repo, to.token)
    groups = {
        "branches": {f"refs/heads/{name}": (name, oid) for name, oid in found.branches.items()},
        "tags": {f"refs/tags/{name}": (name, oid) for name, oid in found.tags.items()},
        "pullRequests": {f"refs/pr/{number}": (str(number), oid) for number, oid in found.pull_heads.items()},
    }
    listed = {
        key: [{"ref": ref, "name": name, "targetCommit": oid} for ref, (name, oid) in group.items()]
        for key, group in groups.items()
    }
    to.answer(200, {"converts": [], **listed})


@route("GET", "/api/KIND/REPO/commits/(?P<rev>[^/]+)")
def commits(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    history = hub.history(hub.repo(kind, repo, to.token), rev)
    listed = [
        {"id": c.oid, "authors": [{"user": c.author}], "date": c.date, "title": c.title, "message": c.message}
        for c in history
    ]
    to.answer(200, listed)


@route("POST", "/api/KIND/REPO/tag/(?P<rev>[^/]+)")
def tag(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    hub.tag(hub.repo(kind, repo, to.token, "write"), to.json()["tag"], rev)
    to.answer(200)


@route("DELETE", "/api/KIND/REPO/tag/(?P<rev>[^/]+)")
def untag(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    if hub.repo(kind, repo, to.token, "write").tags.pop(rev, None) is None:
        raise Refused(404, f"no tag {rev}", "RevisionNotFound")
    to.answer(200)


@route("POST", "/api/KIND/REPO/branch/(?P<rev>[^/]+)")
def branch(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    found = hub.repo(kind, repo, to.token, "write")
    if rev in found.branches:
        raise Refused(409, f"Reference refs/heads/{rev} already exists")
    found.branches[rev] = found.resolve(to.json().get("startingPoint", "main"))
    to.answer(200)


# ---------------------------------------------------------------- commits
@route("POST", "/api/KIND/REPO/preupload/(?P<rev>[^/]+)")
def preupload(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    import base64

    found = hub.repo(kind, repo, to.token, "read" if to.query.get("create_pr") else "write")
    there, listed = found.files(rev), []
    for file in to.json()["files"]:
        mode = hub.mode(file["path"], file["size"], base64.b64decode(file.get("sample", "")))
        old = there.get(file["path"])
        entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        listed.append(entry | ({"oid": old.etag} if old else {}))
    to.answer(200, {"files": listed})


@route("POST", "/api/KIND/REPO/commit/(?P<rev>[^/]+)")
def commit(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    create_pr = bool(to.query.get("create_pr"))
    found = hub.repo(kind, repo, to.token, "read" if create_pr or rev.startswith("refs/pr/") else "write")
    name, _ = hub.who(to.token)
    if name is None:
        raise Refused(401, "Invalid username or password.")
    lines = [json.loads(line) for line in to.body.splitlines() if line.strip()]
    oid, pull = hub.apply(found, rev, lines, name, create_pr)
    base = f"{hub.url}/{PREFIX[kind]}{found.id}"
    to.answer(
        200,
        {"success": True, "commitOid": oid, "commitUrl": f"{base}/commit/{oid}",
         "pullRequestUrl": f"{base}/discussions/{pull.number}" if pull else None, "hookOutput": ""},
    )  # fmt: skip


@route("POST", "/(?:(?P<kind>dataset|space)s/)?REPO\\.git/info/lfs/objects/batch")
def lfs_batch(hub: LoopbackHub, to: Any, kind: str, repo: str) -> None:
    hub.repo(kind or "model", repo, to.token)
    if hub.who(to.token)[1] != "write":
        raise Refused(403, "this token cannot write")
    objects = []
    for item in to.json()["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in hub.blobs:
            entry["actions"] = {
                "upload": {"href": f"{hub.cdn_url}/upload/{item['oid']}?X-Amz-Signature=signed", "header": {}},
                "verify": {"href": f"{hub.url}/api/lfs-verify/{item['oid']}", "header": {}},
            }
        objects.append(entry)
    to.answer(200, {"transfer": "basic", "objects": objects})


@route("PUT", "/upload/(?P<oid>[0-9a-f]+)")
def upload(hub: LoopbackHub, to: Any, oid: str) -> None:
    hub.put(oid, to.body)
    to.answer(200)


@route("POST", "/api/lfs-verify/(?P<oid>[0-9a-f]+)")
def lfs_verify(hub: LoopbackHub, to: Any, oid: str) -> None:
    if oid not in hub.blobs:
        raise Refused(404, "not uploaded")
    to.answer(200)


# ---------------------------------------------------------------- Xet's storage: accepted, never read back
@route("GET", "/api/KIND/REPO/xet-write-token/(?P<rev>[^/]+)")
def xet_token(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str) -> None:
    hub.repo(kind, repo, to.token, "write")
    expiry = int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": hub.url, "X-Xet-Access-Token": "xet-token", "X-Xet-Token-Expiration": str(expiry)
    }  # fmt: skip
    to.answer(200, {"casUrl": hub.url, "accessToken": "xet-token", "exp": expiry}, **headers)


@route("GET", "/v1/chunks/default/(?P<digest>[0-9a-f]+)")
def xet_chunks(hub: LoopbackHub, to: Any, digest: str) -> None:
    to.answer(404, {})  # nothing to deduplicate with


@route("POST", "/v1/xorbs/default/(?P<digest>[0-9a-f]+)")
def xet_xorb(hub: LoopbackHub, to: Any, digest: str) -> None:
    to.answer(200, {"was_inserted": True})


@route("POST", "/v1/shards")
def xet_shard(hub: LoopbackHub, to: Any) -> None:
    to.answer(200, {"result": 1})


@route("POST", "/v1/telemetry")
def xet_telemetry(hub: LoopbackHub, to: Any) -> None:
    to.answer(200)


# ---------------------------------------------------------------- files
@route("GET", "/(?:(?P<kind>dataset|space)s/)?REPO/resolve/(?P<rev>(?:refs(?:/|%2F)pr(?:/|%2F))?[^/]+)/(?P<path>.+)")
def resolve(hub: LoopbackHub, to: Any, kind: str, repo: str, rev: str, path: str) -> None:
    found = hub.repo(kind or "model", repo, to.token, content=True)
    oid = found.resolve(rev)
    blob = found.commits[oid].files.get(path)
    headers = {"X-Repo-Commit": oid}
    if blob is None:
        raise Refused(404, f"Entry not found: {path}", "EntryNotFound")
    if blob.sha256:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "ETag": f'"{blob.oid}"'}
        location = f"{hub.cdn_url}/cdn/{blob.sha256}?X-Amz-Signature=signed"
        to.answer(302, data=b"", Location=location, **headers)
    else:
        to.answer(200, data=hub.blobs[blob.oid], ETag=f'"{blob.oid}"', **{"Accept-Ranges": "bytes"}, **headers)


@route("GET", "/cdn/(?P<oid>[0-9a-f]+)")
def cdn(hub: LoopbackHub, to: Any, oid: str) -> None:
    to.answer(200, data=hub.blobs[oid], ETag=f'"{oid}"', **{"Accept-Ranges": "bytes"})


# ---------------------------------------------------------------- pull requests
def _pull(hub: LoopbackHub, repo: Repo, number: int) -> dict[str, Any]:
    pull = repo.pulls[number]
    event = {"id": "0", "type": "comment", "author": {"name": pull.author}, "createdAt": "2026-01-01T00:00:00.000Z"}
    content = {"edited": False, "hidden": False, "latest": {"raw": "", "html": "", "updatedAt": event["createdAt"],
               "author": event["author"]}, "numEdits": 0, "history": []}  # fmt: skip
    return {
        "num": number, "title": pull.title, "status": pull.status, "isPullRequest": True, "author": event["author"],
        "createdAt": event["createdAt"], "repo": {"name": repo.id, "type": repo.kind}, "org": {}, "diffUrl": "",
        "events": [event | {"data": content}], "changes": {"base": "refs/heads/main", "mergeCommitId": None},
        "filesWithConflicts": [],
    }  # fmt: skip


@route("POST", "/api/KIND/REPO/discussions")
def open_discussion(hub: LoopbackHub, to: Any, kind: str, repo: str) -> None:
    found, (name, _) = hub.repo(kind, repo, to.token), hub.who(to.token)
    if name is None:
        raise Refused(401, "Invalid username or password.")
    to.answer(200, {"num": hub.open_pull(found, to.json()["title"], name, "draft").number})


@route("GET", "/api/KIND/REPO/discussions")
def discussions(hub: LoopbackHub, to: Any, kind: str, repo: str) -> None:
    found = hub.repo(kind, repo, to.token)
    listed = [_pull(hub, found, number) for number in found.pulls]
    to.answer(200, {"discussions": listed if to.query.get("p", "0") == "0" else [], "count": len(listed), "start": 0})


@route("GET", "/api/KIND/REPO/discussions/(?P<number>\\d+)")
def discussion(hub: LoopbackHub, to: Any, kind: str, repo: str, number: str) -> None:
    found = hub.repo(kind, repo, to.token)
    if int(number) not in found.pulls:
        raise Refused(404, "no such discussion")
    to.answer(200, _pull(hub, found, int(number)))


@route("POST", "/api/KIND/REPO/discussions/(?P<number>\\d+)/(?P<what>status|merge|comment)")
def change_discussion(hub: LoopbackHub, to: Any, kind: str, repo: str, number: str, what: str) -> None:
    found, (name, _) = hub.repo(kind, repo, to.token), hub.who(to.token)
    event = {"id": "1", "author": {"name": name}, "createdAt": "2026-01-01T00:00:00.000Z"}
    if what == "merge":
        hub.repo(kind, repo, to.token, "write")
        hub.merge(found, int(number), str(name))
        to.answer(200, {"newStatus": event | {"type": "status-change", "data": {"status": "merged"}}})
    elif what == "status":
        found.pulls[int(number)].status = to.json()["status"]
        to.answer(200, {"newStatus": event | {"type": "status-change", "data": {"status": to.json()["status"]}}})
    else:
        to.answer(200, {"newMessage": event | {"type": "comment", "data": {"edited": False, "hidden": False,
                  "latest": {"raw": to.json()["comment"], "html": "", "updatedAt": event["createdAt"],
                             "author": event["author"]}, "numEdits": 0, "history": []}}})  # fmt: skip


__all__ = ["Fault", "LoopbackHub", "Request", "User", "quote", "urlsplit"]
