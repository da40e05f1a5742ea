"""What the loopback Hub answers to each request of the protocol."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from urllib.parse import parse_qs

import yaml

from w2w_hub.release.card import HUB_LICENSES

from .server import LoopbackHub, route
from .store import Refused, Repo

SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"}
PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


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
    if licence is not None and licence not in HUB_LICENSES:
        errors.append(f'"license" must be one of {sorted(HUB_LICENSES)}, not {licence!r}')
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
        etag = f'"{blob.oid}"'
        if to.headers.get("If-None-Match") == etag:
            to.answer(304, data=b"", ETag=etag, **headers)
            return
        to.answer(200, data=hub.blobs[blob.oid], ETag=etag, **{"Accept-Ranges": "bytes"}, **headers)


@route("GET", "/cdn/(?P<oid>[0-9a-f]+)")
def cdn(hub: LoopbackHub, to: Any, oid: str) -> None:
    to.answer(200, data=hub.blobs[oid], ETag=f'"{oid}"', **{"Accept-Ranges": "bytes"})


# ---------------------------------------------------------------- pull requests
def _pull(hub: LoopbackHub, repo: Repo, number: int) -> dict[str, Any]:
    pull = repo.pulls[number]
    event = {"id": "0", "type": "comment", "author": {"name": pull.author}, "createdAt": "2026-01-01T00:00:00.000Z"}

    def comment(number: int, author: str, text: str) -> dict[str, Any]:
        latest = {"raw": text, "html": "", "updatedAt": event["createdAt"], "author": {"name": author}}
        content = {"edited": False, "hidden": False, "latest": latest, "numEdits": 0, "history": []}
        return event | {"id": str(number), "author": {"name": author}, "data": content}

    events = [comment(i, *each) for i, each in enumerate([(pull.author, ""), *pull.comments])]
    return {
        "num": number, "title": pull.title, "status": pull.status, "isPullRequest": True, "author": event["author"],
        "createdAt": event["createdAt"], "repo": {"name": repo.id, "type": repo.kind}, "org": {}, "diffUrl": "",
        "events": events, "changes": {"base": "refs/heads/main", "mergeCommitId": None},
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
        pull = found.pulls[int(number)]
        pull.comments = (*pull.comments, (str(name), to.json()["comment"]))
        to.answer(200, {"newMessage": event | {"type": "comment", "data": {"edited": False, "hidden": False,
                  "latest": {"raw": to.json()["comment"], "html": "", "updatedAt": event["createdAt"],
                             "author": event["author"]}, "numEdits": 0, "history": []}}})  # fmt: skip
