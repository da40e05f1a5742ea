"""The loopback Hub itself: unmodified clients do their work on it, and its refusals are those of the real one."""

from __future__ import annotations

from collections.abc import Callable

from .conftest import Client, Folders, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]


def test_huggingface_hub_and_datasets_do_their_work_on_it(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    found = client("ann", "ann").run(
        """
import huggingface_hub as h
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError
api = h.HfApi()
def error(function, *args, **options):
    try:
        function(*args, **options)
    except Exception as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)]
out(me=api.whoami()["name"])
api.create_repo("org/files", repo_type="dataset", private=True)
out(twice=error(api.create_repo, "org/files", repo_type="dataset"), foreign=error(api.create_repo, "bob/files"))
Path("up/deep").mkdir(parents=True)
Path("up/README.md").write_text("---\\nlicense: mit\\n---\\nhello")
Path("up/deep/small.txt").write_text("small")
Path("up/deep/large.bin").write_bytes(os.urandom(3000))
first = api.upload_folder(repo_id="org/files", repo_type="dataset", folder_path="up")
again = api.upload_folder(repo_id="org/files", repo_type="dataset", folder_path="up")
out(same=first.oid == again.oid, files=api.list_repo_files("org/files", repo_type="dataset"))
bad = h.CommitOperationAdd("README.md", b"---\\nlicense: my-own\\n---\\n")
out(card=error(api.create_commit, "org/files", [bad], commit_message="x", repo_type="dataset"))
late = h.CommitOperationAdd("late.txt", b"late")
out(guard=error(api.create_commit, "org/files", [late], commit_message="x", repo_type="dataset",
                parent_commit="0" * 40))
api.create_tag("org/files", tag="v1", repo_type="dataset")
out(moved=error(api.create_tag, "org/files", tag="v1", repo_type="dataset"))
api.create_branch("org/files", branch="dev", repo_type="dataset")
pr = api.create_commit("org/files", [h.CommitOperationAdd("pr.txt", b"pr")], commit_message="a pr", repo_type="dataset",
                       create_pr=True)
out(refs=sorted(r.ref for r in (lambda g: g.branches + g.tags + g.pull_requests)(
    api.list_repo_refs("org/files", repo_type="dataset", include_pull_requests=True))))
out(before=h.HfFileSystem().exists("datasets/org/files/pr.txt"))
out(there=Path(h.hf_hub_download("org/files", "pr.txt", repo_type="dataset", revision="refs/pr/1")).read_text())
draft = api.create_pull_request("org/files", "an idea", repo_type="dataset")
out(status=[draft.status, error(api.merge_pull_request, "org/files", draft.num, repo_type="dataset")[1]])
api.create_commit("org/files", [h.CommitOperationAdd("idea.txt", b"idea")], commit_message="i", repo_type="dataset",
                  revision=draft.git_reference)
api.change_discussion_status("org/files", draft.num, "open", repo_type="dataset")
for number in (pr.pr_num, draft.num):
    api.merge_pull_request("org/files", number, repo_type="dataset")
out(merged=[api.file_exists("org/files", name, repo_type="dataset") for name in ("pr.txt", "idea.txt")])
out(titles=[c.title for c in api.list_repo_commits("org/files", repo_type="dataset")])
out(ranged=h.HfFileSystem().cat_file("datasets/org/files/deep/large.bin", start=10, end=20)
    == Path("up/deep/large.bin").read_bytes()[10:20])
path = h.snapshot_download("org/files", repo_type="dataset", revision="v1")
out(snapshot=sorted(p.name for p in Path(path).rglob("*") if p.is_file()))
out(missing=[error(h.hf_hub_download, "org/nope", "a"), error(h.hf_hub_download, "org/files", "a", repo_type="dataset"),
             error(h.hf_hub_download, "org/files", "README.md", repo_type="dataset", revision="v9"),
             error(h.hf_hub_download, "org/files", "README.md", repo_type="dataset", token=False)])
api.move_repo("org/files", "org/renamed", repo_type="dataset")
out(renamed=api.dataset_info("org/files").id)
api.delete_tag("org/renamed", tag="v1", repo_type="dataset")
api.delete_repo("org/renamed", repo_type="dataset")
out(gone=error(api.dataset_info, "org/renamed"))
"""
    )
    assert found["me"] == "ann"
    assert found["twice"] == ["HfHubHTTPError", 409]
    assert found["foreign"] == ["HfHubHTTPError", 403]
    assert found["same"]
    assert found["files"] == [".gitattributes", "README.md", "deep/large.bin", "deep/small.txt"]
    assert found["card"][0] == "ValueError"
    assert found["guard"] == ["HfHubHTTPError", 412]
    assert found["moved"] == ["HfHubHTTPError", 409]
    assert found["refs"] == ["refs/heads/dev", "refs/heads/main", "refs/pr/1", "refs/tags/v1"]
    assert (found["before"], found["there"]) == (False, "pr")
    assert found["status"] == ["draft", 409]
    assert found["merged"] == [True, True]
    assert found["titles"][:2] == ["an idea (#2)", "a pr (#1)"]
    assert found["ranged"]
    assert found["snapshot"] == [".gitattributes", "README.md", "large.bin", "small.txt"]
    assert [kind for kind, _ in found["missing"]] == [
        "RepositoryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"
    ]  # fmt: skip
    assert found["renamed"] == "org/renamed"
    assert found["gone"] == ["RepositoryNotFoundError", 404]
    # the token goes to the Hub and never to where files are stored
    assert all(not r.authorised for r in hub.requests if r.cdn)


def test_stock_datasets_streams_and_loads_a_published_dataset_at_a_tag(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.fewer, "org/people")
    found = client().run(
        """
import datasets
one = datasets.load_dataset("org/people", revision="v1.0.0")
labels = datasets.load_dataset("org/people", "labels", revision="v2.0.0", split="train")
stream = datasets.load_dataset("org/people", split="test", revision="v1.0.0", streaming=True)
out(rows={k: len(v) for k, v in one.items()}, columns=labels.column_names, labels=len(labels))
out(first=next(iter(stream))["id"])
"""
    )
    assert found["rows"] == {"train": 50, "test": 10}
    assert (found["labels"], "weights" in found["columns"]) == (58, False)
    assert found["first"] == "person-05"
