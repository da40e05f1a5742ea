"""Publishing: one visible change, resumed when killed, races told, versions never replaced."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_hub import WeightDataset
from w2w_hub.store.cards import split_card

from .conftest import Client, Folders, reseal, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]
PUSH = """
from w2w_hub import release
def push(folder, repo="org/people", **options):
    try:
        return release.push(folder, repo, **options).to_json()
    except Exception as error:
        return {"error": type(error).__name__, "says": str(error)}
"""


def dataset(hub: LoopbackHub):
    return hub.repos[("dataset", "org/people")]


def sent_files(requests: list) -> int:
    return sum(r.received for r in requests if "/upload/" in r.path)


def content(hub: LoopbackHub, kind: str, name: str, revision: str, path: str) -> bytes:
    blob = hub.repos[(kind, name)].files(revision)[path]
    return hub.blobs[blob.etag]


def test_a_version_is_one_commit_and_a_tag_and_pushing_it_again_changes_nothing(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    ann = client("ann", "ann")
    first = ann.run(
        PUSH
        + """
before = push(sys.argv[1], dry_run=True)
out(before=before, done=push(sys.argv[1]), again=push(sys.argv[1]), dry=push(sys.argv[2], dry_run=True))
""",
        folders.people,
        folders.more,
    )
    assert (first["before"]["outcome"], first["before"]["created"]) == ("planned", True)
    assert first["before"]["sent"] == first["done"]["sent"]
    assert first["done"]["outcome"] == "published"
    assert first["again"]["outcome"] == "unchanged"
    assert first["again"]["commit"] == first["done"]["commit"] == dataset(hub).tags["v1.0.0"]
    assert (first["dry"]["outcome"], first["dry"]["level"], first["dry"]["commit"]) == ("planned", "minor", None)
    assert [c.title for c in hub.history(dataset(hub), "main")] == ["Version 1.0.0", "initial commit"]
    card = content(hub, "dataset", "org/people", "main", "README.md").decode()
    assert 'WeightDataset.open("org/people", revision="v1.0.0")  # rows by number' in card
    assert 'load_dataset("org/people", "labels", revision="v1.0.0")' in card
    assert split_card(card)[0]["license"] == "cc0-1.0"

    with hub.counted() as requests:
        second = ann.w2w("push", folders.more, "org/people", "--version", "1.1.0", "-m", "Ten more people")
    assert second.status == 0, second.stderr
    assert hub.history(dataset(hub), "main")[0].title == "Ten more people"
    assert "10 rows" in second.stderr
    assert "minor" in second.stderr
    assert "w2w pin org/people@v1.1.0 -o w2w.lock" in second.stderr
    assert len(hub.history(dataset(hub), "main")) == 3
    unchanged = {n for n, b in dataset(hub).files("v1.0.0").items() if dataset(hub).files("main").get(n) == b}
    assert "weights.zarr/zarr.json" in unchanged
    assert not [r for r in requests if "zarr.json" in r.path]
    log = ann.w2w("log", "org/people")
    assert [line.split()[0] for line in log.stdout.splitlines()] == ["v1.1.0", "v1.0.0"]
    assert "70 rows" in log.stdout
    difference = json.loads(ann.w2w("diff", "org/people@v1.0.0", "org/people@v1.1.0", "--json").stdout)
    assert (difference["level"], len(difference["added"])) == ("minor", 10)


def test_a_version_that_is_there_or_says_too_little_is_refused_with_the_one_to_use(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    seed(hub, folders.people, "org/people")
    before = dict(dataset(hub).tags), dataset(hub).branches["main"]
    broken = shutil.copytree(folders.people, tmp_path / "broken")
    (broken / "labels" / "test.parquet").write_bytes(b"PAR1")
    found = client("ann", "ann").run(
        PUSH
        + """
people, more, fewer, broken = sys.argv[1:]
out(other=push(more, version="1.0.0"), low=push(more, version="0.9.0"), patch=push(more, version="1.0.1"))
out(minor=push(fewer, version="1.1.0"), word=push(more, version="two"), broken=push(broken, version="1.0.1"))
out(name=push(people, "people"), at=push(people, "org/people@v1"), nothing=push("nowhere"))
out(pre=push(fewer, version="2.0.0-rc.1", dry_run=True), major=push(fewer, version="2.0.0", dry_run=True))
""",
        folders.people,
        folders.more,
        folders.fewer,
        broken,
    )
    assert found["other"]["error"] == "AlreadyExistsError"
    assert "1.0.1" in found["other"]["says"]
    assert all(version in found["low"]["says"] for version in ("0.9.0", "1.0.0", "1.1.0"))
    assert (
        found["low"]["error"]
        == found["patch"]["error"]
        == found["minor"]["error"]
        == found["word"]["error"]
        == "VersionError"
    )
    assert all(fact in found["patch"]["says"] for fact in ("10 rows", "minor", "1.1.0"))
    assert all(fact in found["minor"]["says"] for fact in ("major", "2.0.0"))
    assert found["broken"]["error"] == "CorruptFileError"
    assert found["name"]["error"] == found["at"]["error"] == "InvalidInputError"
    assert found["nothing"]["error"] == "MissingPathError"
    assert found["pre"]["outcome"] == found["major"]["outcome"] == "planned"
    assert (dict(dataset(hub).tags), dataset(hub).branches["main"]) == before


@pytest.mark.slow
def test_a_push_killed_while_files_go_up_shows_nothing_and_goes_on_where_it_stopped(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    old, ann = dataset(hub).branches["main"], client("ann", "ann")
    before = len(hub.blobs)
    held = hub.fault("PUT /upload/", "hold", skip=2, times=99)
    job = ann.start(PUSH + "out(done=push(sys.argv[1]))", folders.more)
    assert held.reached.wait(60)
    while len(hub.blobs) < before + 2:  # the two that may pass
        time.sleep(0.01)
    job.kill()
    held.abandon()
    assert dataset(hub).branches["main"] == old
    assert list(dataset(hub).tags) == ["v1.0.0"]
    with hub.counted() as requests:
        done = ann.run(PUSH + "out(done=push(sys.argv[1]))", folders.more)["done"]
    assert done["outcome"] == "published"
    large = [name for name in done["sent"] if name.endswith((".parquet", "/0"))]
    assert len([r for r in requests if r.method == "PUT" and r.status == 200]) == len(large) - 2
    assert len(hub.history(dataset(hub), "main")) == 3
    assert dataset(hub).tags["v1.1.0"] == dataset(hub).branches["main"]
    reader = client().run('import w2w_hub; w2w_hub.WeightDataset.open("org/people", revision="v1.1.0").verify()')
    assert reader["stderr"] == ""


def test_a_push_killed_before_its_tag_is_finished_by_the_same_command(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    ann = client("ann", "ann")
    held = hub.fault("POST .*/tag/", "hold")
    job = ann.start(PUSH + "out(done=push(sys.argv[1]))", folders.people)
    assert held.reached.wait(60)
    job.kill()
    held.abandon()
    head = dataset(hub).branches["main"]
    assert dataset(hub).tags == {}
    assert "main" in ann.w2w("log", "org/people").stderr
    with hub.counted() as requests:
        done = ann.run(PUSH + "out(done=push(sys.argv[1]))", folders.people)["done"]
    assert (done["outcome"], done["commit"]) == ("tagged", head)
    assert dataset(hub).tags == {"v1.0.0": head}
    assert not [r for r in requests if "preupload" in r.path or "/commit/" in r.path]


@pytest.mark.slow
def test_lost_answers_overload_and_cut_uploads_end_in_one_commit_and_one_tag(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    hub.fault("POST .*/preupload/", status=500)
    hub.fault("PUT /upload/", status=503)
    hub.fault("PUT /upload/", "drop", skip=1)
    hub.fault("POST .*/lfs/objects/batch", status=429, headers={"Retry-After": "0"})
    hub.fault("POST .*/commit/main", "drop")
    hub.fault("POST .*/commit/main", status=503)
    hub.fault("POST .*/commit/main", "lost")
    hub.fault("POST .*/tag/", "lost")
    done = client("ann", "ann").run(PUSH + "out(done=push(sys.argv[1]))", folders.more)["done"]
    assert done.get("outcome") == "published", done
    assert all(fault.times == 0 for fault in hub.faults)
    assert len(hub.history(dataset(hub), "main")) == 3
    assert dataset(hub).tags["v1.1.0"] == dataset(hub).branches["main"] == done["commit"]


def test_of_two_publishers_one_wins_and_the_other_is_told(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    ann, org = client("ann", "ann"), client("org", "org")
    held = hub.fault("POST .*/commit/main", "hold")
    slow = ann.start(PUSH + "out(done=push(sys.argv[1]))", folders.more)
    assert held.reached.wait(60)
    fast = org.run(PUSH + "out(done=push(sys.argv[1]))", folders.fewer)["done"]
    held.released.set()
    told = ann.finish(slow)["done"]
    assert fast["outcome"] == "published"
    assert told["error"] == "HubConflictError"
    assert "2.0.0" in told["says"]
    assert dataset(hub).tags.keys() == {"v1.0.0", "v2.0.0"}
    assert dataset(hub).branches["main"] == dataset(hub).tags["v2.0.0"]


def test_two_who_publish_the_same_make_one_version(hub: LoopbackHub, client: MakeClient, folders: Folders) -> None:
    seed(hub, folders.people, "org/people")
    held = hub.fault("POST .*/commit/main", "hold")
    slow = client("ann", "ann").start(PUSH + "out(done=push(sys.argv[1]))", folders.more)
    assert held.reached.wait(60)
    fast = client("org", "org").run(PUSH + "out(done=push(sys.argv[1]))", folders.more)["done"]
    held.released.set()
    done = client("ann", "ann").finish(slow)["done"]
    assert fast["commit"] == done["commit"] == dataset(hub).tags["v1.1.0"]
    assert len(hub.history(dataset(hub), "main")) == 3


@pytest.mark.slow
def test_who_may_not_publish_is_told_and_private_and_gated_repositories_are_made(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    script = PUSH + 'out(done=push(sys.argv[1], version="1.1.0"), new=push(sys.argv[1], "org/new"))'
    for name, role in (("bob", "write"), ("ann", "read"), ("ann", "expired")):
        found = client(name + role, name, role).run(script, folders.more)
        assert found["done"]["error"] == found["new"]["error"] == "HubAccessError", (name, role, found)
    anonymous = client("nobody").run(script, folders.more)
    assert anonymous["done"]["error"] == "HubAccessError"
    assert list(dataset(hub).tags) == ["v1.0.0"]
    closed = client("ann", "ann").w2w("push", folders.people, "org/closed", "--private", "--gated", "manual")
    assert closed.status == 0, closed.stderr
    made = hub.repos[("dataset", "org/closed")]
    assert (made.private, made.gated) == (True, "manual")


def test_files_that_others_added_stay_and_files_that_a_version_drops_go(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    seed(hub, folders.people, "org/people")
    repo = dataset(hub)
    note = {"key": "file", "value": {"path": "NOTES.md", "content": "aGk="}}
    hub.apply(repo, "main", [{"key": "header", "value": {"summary": "a note"}}, note], "bob", create_pr=False)
    from w2w_hub import write_dataset

    people = WeightDataset.open(folders.people)
    bare = write_dataset(
        people.to_numpy(), tmp_path / "bare", layout=people.layout, ids=people.ids, labels=people.labels.reset_index(),
        name="people", license="cc0-1.0", compatibility=people.manifest.compatibility, parquet_view=False,
    )  # fmt: skip
    done = client("ann", "ann").run(PUSH + 'out(done=push(sys.argv[1], version="1.0.1"))', bare.path)["done"]
    assert done["level"] == "patch"
    assert done["deleted"] == ["parquet/test.parquet", "parquet/train.parquet"]
    assert "NOTES.md" in repo.files("main")
    assert "parquet/test.parquet" not in repo.files("main")
    assert "parquet/test.parquet" in repo.files("v1.0.0")


def test_a_card_that_somebody_wrote_is_kept_with_what_the_hub_needs_at_its_head(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    mine = shutil.copytree(folders.people, tmp_path / "mine")
    (mine / "README.md").write_text("---\ntags: [faces]\nlicense: mit\nthumbnail: a.png\n---\n\n# Zoë's people\n")
    reseal(mine, licence="Faces only: no. 3")
    assert client("ann", "ann").run(PUSH + "out(done=push(sys.argv[1]))", mine)["done"]["outcome"] == "published"
    data, body = split_card(content(hub, "dataset", "org/people", "v1.0.0", "README.md").decode())
    assert body == "\n# Zoë's people\n"
    assert (data["license"], data["license_name"]) == ("other", "faces-only-no.-3")
    assert data["thumbnail"] == "a.png"
    assert data["tags"][0] == "faces"
    assert "w2w-hub" in data["tags"]
    assert data["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in data["configs"]] == ["weights", "labels"]


def test_a_weight_space_is_published_as_a_model_that_names_its_origins(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    hub.create("model", "org/base", hub.token("org"))
    done = client("ann", "ann").w2w("push", folders.space, "org/space", "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["kind"] == "space"
    data, _ = split_card(content(hub, "model", "org/space", "v1.0.0", "README.md").decode())
    assert (data["library_name"], data["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert data["base_model"] == ["org/base"]


def test_what_is_published_is_not_changed_in_place_and_what_others_cannot_find_is_not_published(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    seed(hub, folders.people, "org/people")
    ann = client("ann", "ann")
    added = ann.w2w("add", "org/people@v1.0.0", folders.more)
    assert (added.status, "org/people" in added.stderr) == (2, True)
    removed = ann.w2w("remove", "org/people", "person-00")
    assert (removed.status, "org/people" in removed.stderr) == (2, True)
    space = shutil.copytree(folders.space, tmp_path / "space")
    for stated in ({"base_model": "/home/me/base"}, {"base_model": "org/base"}, {"base_model": "../base"}):
        text = json.dumps(stated)
        (space / "w2w_pipeline.json").write_text(text)
        files = json.loads((folders.space / "manifest.json").read_text())["files"]
        entry = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "size": len(text)}
        reseal(space, files={**files, "w2w_pipeline.json": entry})
        done = ann.w2w("push", space, "org/space")
        assert (done.status, "w2w_pipeline.json" in done.stderr) == (2, True), done.stderr
    assert ("model", "org/space") not in hub.repos


def test_a_dry_run_sends_nothing(hub: LoopbackHub, client: MakeClient, folders: Folders) -> None:
    seed(hub, folders.people, "org/people")
    with hub.counted() as requests:
        done = client("ann", "ann").w2w("push", folders.more, "org/people", "--dry-run")
    assert done.status == 0
    assert "--dry-run" not in done.stderr  # the command that sends it
    assert "w2w push" in done.stderr
    assert {r.method for r in requests} <= {"GET", "HEAD"}
    with hub.counted() as requests:
        assert client("ann", "ann").w2w("push", folders.more, "org/new", "--dry-run").status == 0
    assert {r.method for r in requests} <= {"GET", "HEAD"}
    assert ("dataset", "org/new") not in hub.repos


@pytest.mark.parametrize("words", [("push", "nowhere", "org/x"), ("log", "org/nothing"), ("diff", "org/a", "org/b")])
def test_bad_input_is_one_line_and_status_2(hub: LoopbackHub, client: MakeClient, words: tuple[str, ...]) -> None:
    done = client("ann", "ann").w2w(*words)
    assert done.status == 2
    assert done.stdout == ""
    assert done.stderr.startswith("w2w: error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_in_the_default_mode_a_version_is_one_commit_too(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    # the bytes that hf_xet sends are accepted and not read back: that they are right only the real Hub can prove
    seed(hub, folders.people, "org/people")
    hub.adopt(folders.more)
    ann = client("ann", "ann")
    ann.extra["HF_HUB_DISABLE_XET"] = "0"
    with hub.counted() as requests:
        found = ann.run(
            PUSH
            + """
import w2w_hub
from huggingface_hub.utils._runtime import is_xet_available
out(xet=is_xet_available(), done=push(sys.argv[1]), again=push(sys.argv[1]))
ds = w2w_hub.WeightDataset.open("org/people", revision="v1.1.0", lazy=False)
ds.verify()
out(rows=len(ds))
""",
            folders.more,
        )
    assert found["xet"]
    assert found["done"]["outcome"] == "published", found["done"]
    assert found["again"]["outcome"] == "unchanged"
    assert found["rows"] == 70
    assert [r for r in requests if "/v1/xorbs/" in r.path]
    assert not [r for r in requests if "/upload/" in r.path]
    assert len(hub.history(dataset(hub), "main")) == 3


# ---------------------------------------------------------------- what others did on the Hub meanwhile
def edit(hub: LoopbackHub, path: str, data: bytes | None) -> None:
    """A file of org/people changed in the Hub's web editor; deleted for None."""
    value = {"path": path} | ({} if data is None else {"content": base64.b64encode(data).decode()})
    lines = [{"key": "header", "value": {"summary": "edit"}}]
    lines.append({"key": "deletedFile" if data is None else "file", "value": value})
    hub.apply(dataset(hub), "main", lines, "org", create_pr=False)


@pytest.mark.slow
def test_a_card_that_was_edited_on_the_hub_goes_on_in_the_next_versions(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    ann = client("ann", "ann")
    assert ann.w2w("push", folders.people, "org/people").status == 0
    card = content(hub, "dataset", "org/people", "main", "README.md").decode()
    edit(hub, "README.md", (card + "\n## Ethics\nAsk Zoë.\n").encode())
    assert ann.w2w("push", folders.people, "org/people").status == 0
    for folder, version in ((folders.more, "1.1.0"), (folders.fewer, "2.0.0")):
        done = ann.w2w("push", folder, "org/people")
        assert done.status == 0, done.stderr
        card = content(hub, "dataset", "org/people", f"v{version}", "README.md").decode()
        assert "## Ethics\nAsk Zoë.\n" in card
        assert f'revision="v{version}"' in card
        assert 'revision="v1.0.0"' not in card
        assert json.loads((folder / "manifest.json").read_text())["digest"] in card
        assert split_card(card)[0]["license"] == "cc0-1.0"
    mine = shutil.copytree(folders.fewer, tmp_path / "mine")
    (mine / "README.md").write_text("# Mine\n")
    done = ann.w2w("push", mine, "org/people", "--version", "2.0.1")
    assert (done.status, "README.md" in done.stderr) == (0, True), done.stderr
    assert content(hub, "dataset", "org/people", "v2.0.1", "README.md").decode().endswith("# Mine\n")
    for version in ("1.1.0", "2.0.1"):
        assert client().w2w("verify", "--deep", f"org/people@v{version}").status == 0


def test_a_card_that_nobody_edited_is_rendered_anew(hub: LoopbackHub, client: MakeClient, folders: Folders) -> None:
    ann = client("ann", "ann")
    assert ann.w2w("push", folders.people, "org/people").status == 0
    assert ann.w2w("push", folders.more, "org/people").status == 0
    digest = json.loads((folders.more / "manifest.json").read_text())["digest"]
    assert f"| dataset digest | `{digest}` |" in content(hub, "dataset", "org/people", "main", "README.md").decode()


def test_files_that_were_changed_after_a_cut_push_are_put_right_before_the_tag(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people", tag=False)
    edit(hub, "weights.zarr/zarr.json", b"{}")
    done = client("ann", "ann").run(PUSH + "out(done=push(sys.argv[1]))", folders.people)["done"]
    assert done["outcome"] == "published", done
    assert "weights.zarr/zarr.json" in done["sent"]
    client().run('import w2w_hub; w2w_hub.WeightDataset.open("org/people", revision="v1.0.0", lazy=False).verify()')


@pytest.mark.parametrize("left", [None, b"{", b"{}"])
def test_a_manifest_that_somebody_broke_on_main_does_not_switch_the_version_rules_off(
    hub: LoopbackHub, client: MakeClient, folders: Folders, left: bytes | None
) -> None:
    seed(hub, folders.people, "org/people")
    edit(hub, "manifest.json", left)
    found = client("ann", "ann").run(
        PUSH + 'out(low=push(sys.argv[1], version="1.0.1"), right=push(sys.argv[1], version="2.0.0"))', folders.fewer
    )
    assert found["low"]["error"] == "VersionError"
    assert all(fact in found["low"]["says"] for fact in ("major", "2.0.0")), found
    assert found["right"]["outcome"] == "published"


def test_a_release_after_a_pre_release_is_compared_with_the_release_before(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    found = client("ann", "ann").run(
        PUSH
        + """
people, more, fewer = sys.argv[1:]
out(rc=push(more, version="1.1.0-rc.1"), next=push(fewer, version="1.1.0-rc.2"), low=push(fewer, version="v1.1.0"))
out(minor=push(more, version="v1.1.0"))
""",
        folders.people,
        folders.more,
        folders.fewer,
    )
    assert (found["rc"]["outcome"], found["minor"]["outcome"]) == ("published", "published")
    for name in ("next", "low"):
        assert found[name]["error"] == "VersionError"
        assert all(fact in found[name]["says"] for fact in ("major", "2.0.0")), found[name]


def test_a_branch_that_is_called_like_the_tag_is_refused(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    dataset(hub).branches["v1.1.0"] = dataset(hub).branches["main"]
    done = client("ann", "ann").w2w("push", folders.more, "org/people")
    assert (done.status, "v1.1.0" in done.stderr) == (2, True), done.stderr
    assert list(dataset(hub).tags) == ["v1.0.0"]


# ---------------------------------------------------------------- closed repositories
def test_nothing_is_published_openly_that_was_asked_to_be_closed(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    ann = client("ann", "ann")
    for option in (["--private"], ["--gated", "auto"]):
        done = ann.w2w("push", folders.more, "org/people", *option)
        assert (done.status, "org/people" in done.stderr) == (2, True), done.stderr
    assert list(dataset(hub).tags) == ["v1.0.0"]
    hub.fault("PUT .*/settings", status=400)  # cut short between its creation and its gate
    words = ("push", folders.people, "org/closed", "--private", "--gated", "manual")
    assert ann.w2w(*words).status == 2
    assert ann.w2w(*words).status == 0
    made = hub.repos[("dataset", "org/closed")]
    assert (made.private, made.gated, list(made.tags)) == (True, "manual", ["v1.0.0"])


def test_a_commit_that_the_hub_asks_to_delay_is_made_after_that_time(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    hub.fault("POST .*/commit/main", status=429, headers={"Retry-After": "2"})
    began = time.monotonic()
    done = client("ann", "ann").run(PUSH + "out(done=push(sys.argv[1]))", folders.more)["done"]
    assert done["outcome"] == "published"
    assert time.monotonic() - began > 2
    refused = hub.fault("POST .*/commit/main", status=400, times=9)
    done = client("ann", "ann").run(PUSH + "out(done=push(sys.argv[1]))", folders.fewer)["done"]
    assert (done["error"], refused.times) == ("HubError", 8)  # what cannot help is not repeated


def test_a_folder_whose_manifest_lacks_fields_is_not_pushed(
    client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    bad = shutil.copytree(folders.people, tmp_path / "bad")
    manifest = json.loads((bad / "manifest.json").read_text())
    for change in ({"files": None}, {"files": {"../x": {"sha256": "0" * 64, "size": 1}}}, {"digest": None}):
        (bad / "manifest.json").write_text(json.dumps({**manifest, **change}))
        done = client("ann", "ann").w2w("push", bad, "org/people")
        assert (done.status, done.stderr.count("\n")) == (2, 1), done.stderr
