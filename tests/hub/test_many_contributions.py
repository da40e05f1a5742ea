"""Many contributions in any order, and maintainers who are killed at any moment: nothing is lost or doubled."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2w_hub.dataset.manifest import row_digest

from .conftest import Client, seed
from .loopback import LoopbackHub
from .offers import batch, new_rows, offer, write_crowd
from .store import Repo
from .test_contributions import CALLS
from .test_contributions import crowd as crowd

MakeClient = Callable[..., Client]
pytestmark = pytest.mark.slow
STATE = """
from w2w_hub import WeightDataset
def state(repo):
    ds = WeightDataset.open(repo)
    return {"ids": sorted(ds.ids), "digests": ds.labels["row_sha256"].to_dict(), "version": ds.manifest.version,
            "by": ds.labels["contributor"].dropna().to_dict() if "contributor" in ds.labels else {}}
"""


def test_50_contributions_of_10_users_in_any_order_become_three_versions_with_every_row_once(
    hub: LoopbackHub, client: MakeClient, crowd: Path
) -> None:
    seed(hub, crowd, "org/people")
    repo, rng = hub.repos[("dataset", "org/people")], random.Random(1)
    wanted: dict[str, tuple[str, str]] = {}
    users = {}
    for number in range(50):
        user, count = f"user-{number % 10}", rng.randint(1, 3)
        ids, rows = [f"c{number:02d}-{i}" for i in range(count)], new_rows(count, 100 + number)
        opened = offer(hub, repo, batch(ids, rows=rows)[1], user)
        users[opened] = user
        wanted |= {name: (user, row_digest(row)) for name, row in zip(ids, rows, strict=True)}
    order = list(users)
    rng.shuffle(order)
    script = (
        CALLS
        + STATE
        + """
versions = []
for share in json.loads(sys.argv[1]):
    for number in share:
        merge("org/people", number, commit=review("org/people", number).commit)
    versions.append(release("org/people").to_json())
out(versions=[v["version"] for v in versions], added=[sorted(v["added"]) for v in versions], state=state("org/people"))
out(problems=[p.message for v in ("v1.1.0", "v1.2.0", "v1.3.0") for p in verify("org/people@" + v).problems])
"""
    )
    shares = [order[:20], order[20:35], order[35:]]
    found = client("ann", "ann").run("from w2w_hub.release import verify\n" + script, json.dumps(shares))
    assert found["versions"] == ["1.1.0", "1.2.0", "1.3.0"]
    assert sorted(name for share in found["added"] for name in share) == sorted(wanted)  # each once
    assert found["problems"] == []
    state = found["state"]
    assert len(state["ids"]) == len(set(state["ids"])) == 24 + len(wanted)
    assert {name: (state["by"][name], state["digests"][name]) for name in wanted} == wanted
    assert {pull.status for pull in repo.pulls.values()} == {"closed"}
    assert not [path for path in repo.files("main") if path.startswith("contributions")]


def test_maintainers_at_work_at_the_same_time_neither_lose_nor_double_anything(
    hub: LoopbackHub, client: MakeClient, crowd: Path
) -> None:
    seed(hub, crowd, "org/people")
    repo = hub.repos[("dataset", "org/people")]
    for number in range(8):
        offer(hub, repo, batch([f"c{number}"], 100 + number)[1], f"user-{number}")
    hub.user("dora", org="write")
    script = (
        CALLS
        + """
from w2w_hub import W2WError
for number in json.loads(sys.argv[1]):
    merge("org/people", number)
    try:
        release("org/people")
    except W2WError as error:
        out(**{f"error{number}": type(error).__name__})
"""
    )
    jobs = [
        (machine := client(user, user), machine.start(script, json.dumps(numbers)))
        for user, numbers in (("ann", [1, 2, 3, 4]), ("dora", [5, 6, 7, 8]))
    ]
    told = [machine.finish(job) for machine, job in jobs]
    errors = {value for found in told for name, value in found.items() if name.startswith("error")}
    assert errors <= {"HubConflictError", "VersionError", "AlreadyExistsError"}
    found = client("ann", "ann").run(CALLS + STATE + 'release("org/people"); out(state=state("org/people"))')
    assert sorted(set(found["state"]["ids"]) - {f"person-{i:02d}" for i in range(24)}) == [f"c{i}" for i in range(8)]
    tags = sorted(repo.tags)
    rows = [json.loads(hub.blobs[repo.files(tag)["manifest.json"].oid])["rows"] for tag in tags]
    assert rows == sorted(rows)


# a process that ends itself, by SIGKILL, at its n-th request or change of a file; or counts them
KILLED = """
import signal
import httpx2, huggingface_hub.hf_api, huggingface_hub.file_download, huggingface_hub.utils, safetensors.numpy
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url  # each process of its own then starts with all imports
from w2w_hub.release import *
def child(work, at=None):
    \"\"\"What happens in a process of its own: how many events there were, or 'killed'.\"\"\"
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        seen = 0
        def event():
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        def counted(function):
            def call(*args, **options):
                event()
                return function(*args, **options)
            return call
        httpx2.Client.send = counted(httpx2.Client.send)
        os.rename, os.replace = counted(os.rename), counted(os.replace)
        try:
            work()
            os.write(write, str(seen).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return "killed" if os.waitstatus_to_exitcode(status) == -signal.SIGKILL else said
def points(work, most):
    count = int(child(lambda: work("org/count")))
    results = {}
    for number in range(min(most, count)):
        repo = f"org/p{number}"
        killed = child(lambda: work(repo), 1 + number * count // most)
        again = child(lambda: work(repo))
        results[repo] = [killed, again.isdigit() or again]
    return results
"""
CASES: dict[str, tuple[str, int]] = {
    "merge": ("lambda repo: merge(repo, 1)", 12),
    "release": ("lambda repo: release(repo)", 18),
    "withdraw": ("lambda repo: withdraw(repo, 'person-03', reason='consent')", 10),
}


def prepared(hub: LoopbackHub, folder: Path, name: str, case: str, folded: dict[str, Any]) -> Repo:
    """A repository in which the command has something to do."""
    repo_id = f"org/{name}"
    seed(hub, folder, repo_id)
    repo = hub.repos[("dataset", repo_id)]
    offer(hub, repo, batch(["new-1", "new-2"])[1])
    if case == "release":
        from .test_withdrawals import commit

        for path, data in folded.items():
            if isinstance(data, bytes):
                commit(repo, hub, path, data)
            else:
                head = {"key": "header", "value": {"summary": "x"}}
                hub.apply(repo, "main", [head, {"key": "lfsFile", "value": data}], "ann", create_pr=False)
    return repo


@pytest.mark.parametrize("case", CASES)
def test_a_maintainer_who_is_killed_at_any_point_can_run_the_command_again(
    hub: LoopbackHub, client: MakeClient, crowd: Path, case: str
) -> None:
    ann = client("ann", "ann")
    folded: dict[str, Any] = {}
    if case == "release":  # what a merge leaves on main
        model = prepared(hub, crowd, "model", "merge", {})
        assert ann.w2w("merge", "org/model#1").status == 0
        for path, blob in model.files("main").items():
            if path.startswith("contributions/"):
                folded[path] = {"path": path, "oid": blob.sha256} if blob.sha256 else hub.blobs[blob.oid]
    work, most = CASES[case]
    repos = {name: prepared(hub, crowd, name, case, folded) for name in ("count", *(f"p{i}" for i in range(most)))}
    job = ann.start(KILLED + f"out(results=points({work}, {most}))")
    job.read("status", 900)
    found = ann.finish(job)["results"]
    assert sum(killed == "killed" for killed, _ in found.values()) >= most - 2  # or it had fewer events than the first
    assert [result for result in found.values() if result[1] is not True] == []
    for name in found:
        repo = repos[name.removeprefix("org/")]
        main = repo.files("main")
        batches = [path for path in main if path.startswith("contributions/")]
        if case == "merge":
            assert (len(batches), repo.pulls[1].status) == (3, "closed")
            assert sum("Merge #1" in commit.title for commit in repo.commits.values()) == 1
        elif case == "release":
            assert (batches, sorted(repo.tags)) == ([], ["v1.0.0", "v1.1.0"])
            assert repo.files("v1.1.0")["manifest.json"] == main["manifest.json"]
        else:
            assert [row["id"] for row in json.loads(hub.blobs[main["withdrawn.json"].oid])["rows"]] == ["person-03"]
    if case == "release":
        check = (
            "out(bad=[n for n in sys.argv[1:] if not verify(n + '@v1.1.0').ok], s={n: state(n) for n in sys.argv[1:]})"
        )
        checked = client("reader").run(f"from w2w_hub.release import verify\n{STATE}{check}", *found)
        assert checked["bad"] == []
        assert {tuple(s["ids"][:2]) for s in checked["s"].values()} == {("new-1", "new-2")}
        assert {len(s["ids"]) for s in checked["s"].values()} == {26}


def test_release_and_merge_work_where_uploads_go_by_xet(hub: LoopbackHub, client: MakeClient, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    folder = write_crowd(tmp_path / "people")
    ann = client("ann", "ann")
    for name, environment in (("lfs", {}), ("xet", {"HF_HUB_DISABLE_XET": "0"})):
        seed(hub, folder, f"org/{name}")  # the content is known to the storage from the first one
        offer(hub, hub.repos[("dataset", f"org/{name}")], batch(["new-1"])[1])
        script = CALLS + f"merge('org/{name}', 1); out(made=release('org/{name}').to_json())"
        assert ann.run(script, **environment)["made"]["version"] == "1.1.0"
    lfs, xet = (hub.repos[("dataset", f"org/{name}")].files("main") for name in ("lfs", "xet"))
    assert {path: blob for path, blob in lfs.items() if path != "README.md"} == {
        path: blob for path, blob in xet.items() if path != "README.md"
    }
