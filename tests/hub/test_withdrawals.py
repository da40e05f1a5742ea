"""Withdrawn rows: no revision gives them, and everything that needs them says so."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2w_hub.errors import CorruptFileError, UnsupportedFormatError, W2WError
from w2w_hub.store.hub.withdrawals import parse_withdrawals

from .conftest import Client, Folders, seed
from .loopback import LoopbackHub
from .store import Repo

MakeClient = Callable[..., Client]

OPEN = """
import w2w_hub
from w2w_hub import WeightDataset
def opened(revision="v1.0.0", **options):
    ds, said = warned(WeightDataset.open, "org/people", revision=revision, **options)
    return ds, [text for text in said if "withdrawn" in text]
"""


def commit(repo: Repo, hub: LoopbackHub, name: str, data: bytes) -> None:
    """Put a file on the branch, without any client."""
    header = {"key": "header", "value": {"summary": name}}
    line = {"key": "file", "value": {"path": name, "content": base64.b64encode(data).decode()}}
    hub.apply(repo, "main", [header, line], "ann", create_pr=False)


def listed(hub: LoopbackHub, repo_id: str = "org/people") -> dict[str, Any]:
    blob = hub.repos[("dataset", repo_id)].files("main")["withdrawn.json"]
    found: dict[str, Any] = json.loads(hub.blobs[blob.oid])
    return found


@pytest.fixture
def people(hub: LoopbackHub, folders: Folders) -> Repo:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.more, "org/people")
    return hub.repos[("dataset", "org/people")]


def test_a_withdrawn_row_is_refused_at_every_revision_and_the_others_are_read(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    first = people.tags["v1.0.0"]
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "person-65", "--reason", "consent")
    entry, _ = listed(hub)["rows"]
    assert (entry["id"], entry["reason"], len(entry["row_sha256"])) == ("person-01", "consent", 64)
    found = client().run(
        OPEN
        + """
for name, revision in {"v1": "v1.0.0", "main": "main", "commit": sys.argv[1]}.items():
    ds, said = opened(revision)
    out(**{name: [refused(ds.__getitem__, "person-01"), refused(ds.__getitem__, 1), refused(ds.to_numpy), said,
        sorted(ds.withdrawn), 1 in ds.where(), len(ds.where()), ds[ds.where()].shape[0], float(ds["person-02"].sum()),
        refused(ds.adapter, "person-01"), sum(len(b) for _, b in ds.iter_blocks()), ds.view(0, 3) is None]})
""",
        first,
    )
    for name, gone in {"v1": [1], "main": [1, 65], "commit": [1]}.items():
        by_id, by_index, whole, said, rows, inside, left, read, _, adapter, blocks, view = found[name]
        for refusal in (by_id, by_index, whole, adapter):
            assert refusal[0] == "WithdrawnError"
            assert (refusal[2]["repo_id"], refusal[2]["name"]) == ("org/people", "person-01")
            assert entry["date"] in refusal[1]
        assert (rows, inside, view, len(said)) == (gone, False, True, 1)
        total = 70 if name == "main" else 60
        assert left == read == blocks == total - len(gone)


@pytest.mark.slow
def test_a_row_that_was_withdrawn_is_found_under_another_id(hub: LoopbackHub, client: MakeClient, people: Repo) -> None:
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "rights")
    data = listed(hub)
    data["rows"][0]["id"] = "called-otherwise"
    commit(people, hub, "withdrawn.json", json.dumps(data).encode())
    found = client().run(OPEN + """out(it=refused(opened()[0].__getitem__, "person-01"))""")
    assert found["it"][0] == "WithdrawnError"


@pytest.mark.slow
def test_the_list_costs_one_conditional_request_per_process_and_none_offline(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    reader = client()
    script = (
        OPEN
        + """
for revision in ("v1.0.0", "main", "v1.1.0"):
    out(rows=sorted(opened(revision)[0].withdrawn))
"""
    )

    def asked(**environment: str) -> list[int]:
        with hub.counted() as requests:
            assert reader.run(script, **environment)["rows"] == [1]
        return [request.status for request in requests if "withdrawn.json" in request.path]

    assert asked() == [200]
    assert asked() == [304]
    assert asked(HF_HUB_OFFLINE="1") == []
    with hub.counted() as requests:
        mixed = "out(rows=sorted(opened(local_files_only=True)[0].withdrawn), then=sorted(opened()[0].withdrawn))"
        assert reader.run(OPEN + mixed)["then"] == [1]
    assert [request.status for request in requests if "withdrawn.json" in request.path] == [304]
    people.branches["main"] = people.tags["v1.1.0"]  # without the list again
    hub.fault("GET /datasets/org/people/resolve/main/withdrawn.json", status=500, times=9)
    assert asked() == [500]  # the last list seen counts


@pytest.mark.slow
def test_a_list_that_was_never_seen_is_one_warning_and_a_repository_without_one_is_none(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    reader = client()
    assert reader.run(OPEN + "out(said=opened()[1])")["said"] == []
    assert reader.run(OPEN + "out(said=opened()[1])", HF_HUB_OFFLINE="1")["said"] == []
    (reader.cache / "datasets--org--people" / ".w2w-withdrawn.json").unlink()
    found = reader.run(OPEN + "out(first=opened()[1], again=opened()[1])", HF_HUB_OFFLINE="1")
    assert (len(found["first"]), found["again"]) == (1, [])
    (reader.cache / "datasets--org--people" / ".w2w-withdrawn.json").write_text('{"list": {}}')
    assert len(reader.run(OPEN + "out(said=opened()[1])", HF_HUB_OFFLINE="1")["said"]) == 1


@pytest.mark.slow
def test_withdrawing_again_changes_nothing_and_who_may_not_write_is_refused(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    ann = client("ann", "ann")
    dry = ann.w2w("withdraw", "org/people", "person-01", "--reason", "consent", "--dry-run", "--json")
    assert json.loads(dry.stdout)["outcome"] == "planned"
    assert "withdrawn.json" not in people.files("main")
    first = json.loads(ann.w2w("withdraw", "org/people", "person-01", "--reason", "consent", "--json").stdout)
    assert (first["outcome"], first["commit"]) == ("withdrawn", people.branches["main"])
    again = json.loads(ann.w2w("withdraw", "org/people", "person-01", "--reason", "other", "--json").stdout)
    assert (again["outcome"], again["commit"], again["rows"]) == ("unchanged", None, first["rows"])
    dry = ann.w2w("withdraw", "org/people", "person-01", "--reason", "consent", "--dry-run")
    assert "next:" not in dry.stderr  # there is nothing to do
    assert people.branches["main"] == first["commit"]
    for words, told in (
        (("org/people", "nobody"), "nobody"),
        (("org/people/x", "person-01"), "org/people/x"),
        (("models/org/people", "person-01"), "models/org/people"),
    ):
        done = ann.w2w("withdraw", *words, "--reason", "consent")
        assert (done.status, told in done.stderr) == (2, True), done.stderr
    assert client("bob", "bob").w2w("withdraw", "org/people", "person-02", "--reason", "consent").status == 2


@pytest.mark.slow
def test_a_row_of_an_old_version_can_be_withdrawn_and_others_may_commit_meanwhile(
    hub: LoopbackHub, client: MakeClient, people: Repo, folders: Folders
) -> None:
    seed(hub, folders.fewer, "org/people")  # person-00 is gone
    ann = client("ann", "ann")
    held = hub.fault("POST /api/datasets/org/people/commit/main", "hold")
    job = ann.start("from w2w_hub.release import withdraw\nr = withdraw('org/people', 'person-00', reason='error')\n"
                    "out(commit=r.commit, versions=r.versions)")  # fmt: skip
    assert held.reached.wait(60)
    commit(people, hub, "note.txt", b"x")
    held.released.set()
    done = ann.finish(job)
    assert (done["commit"], done["versions"]) == (people.branches["main"], ["1.1.0"])
    assert {"note.txt", "withdrawn.json"} <= people.files("main").keys()
    hub.fault("POST /api/datasets/org/people/commit/main", "lost")
    lost = ann.w2w("withdraw", "org/people", "person-05", "--reason", "error", "--json")
    assert json.loads(lost.stdout)["outcome"] == "withdrawn"
    assert [row["id"] for row in listed(hub)["rows"]] == ["person-00", "person-05"]


@pytest.mark.slow
def test_verify_passes_with_a_notice_and_a_rebuild_names_the_rows_that_it_misses(
    hub: LoopbackHub, client: MakeClient, people: Repo, tmp_path: Path
) -> None:
    reader = client()
    built = reader.run(OPEN + f"""
ds, _ = opened()
w2w_hub.build_space(ds, 4, name="s", version="1.0.0", directions=False).save({str(tmp_path / "old")!r})
""")  # fmt: skip
    assert built
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    verified = reader.w2w("verify", "org/people@v1.0.0", "--deep")
    assert verified.status == 0
    assert "person-01" in verified.stderr
    rebuilt = reader.w2w("rebuild", tmp_path / "old", "--check", "--dataset", "org/people@v1.0.0")
    assert rebuilt.status == 2
    assert "person-01" in rebuilt.stderr.splitlines()[-1]
    found = reader.run(OPEN + f"""
space, said = warned(w2w_hub.WeightSpace.from_pretrained, {str(tmp_path / "old")!r})
out(said=said)
ds, _ = opened()
new = w2w_hub.build_space(ds, 4, name="s", version="1.0.0", directions=False)
new.save({str(tmp_path / "new")!r})
out(new=len(new.population), inside="person-01" in new.population)
out(same=w2w_hub.rebuild(new, ds).digest == new.digest)
_, quiet = warned(w2w_hub.WeightSpace.from_pretrained, {str(tmp_path / "new")!r})
out(quiet=quiet)
""")  # fmt: skip
    assert [("person-01" in text) for text in found["said"]] == [True]
    assert (found["new"], found["inside"], found["same"], found["quiet"]) == (59, False, True, [])


@pytest.mark.slow
def test_a_published_space_warns_by_the_dataset_that_its_card_links(
    hub: LoopbackHub, client: MakeClient, people: Repo, folders: Folders
) -> None:
    ann = client("ann", "ann")
    pushed = ann.w2w("push", folders.space, "org/space", "--version", "1.0.0", "--dataset", "org/people@v1.0.0")
    assert pushed.status == 0, pushed.stderr
    script = "import w2w_hub\n_, said = warned(w2w_hub.WeightSpace.from_pretrained, 'org/space')\nout(said=said)"
    assert client().run(script)["said"] == []
    ann.w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    assert ["person-01" in text for text in client().run(script)["said"]] == [True]
    noted = client().w2w("verify", "org/space@v1.0.0")
    assert (noted.status, "person-01" in noted.stderr) == (0, True)


@pytest.mark.slow
def test_a_space_without_a_population_warns_by_the_labels_of_its_datasets_commit(
    hub: LoopbackHub, client: MakeClient, people: Repo, tmp_path: Path
) -> None:
    reader, where = client(), str(tmp_path)
    build = (
        OPEN
        + """
ds, _ = opened()
def save(name, **options):
    made = w2w_hub.build_space(ds, 4, name="s", directions=False, **options).without_population()
    made.save(Path(sys.argv[1]) / name)
"""
    )
    reader.run(build + 'save("all"); save("some", rows=[ds.ids[i] for i in ds.where(split="train")[2:20]])', where)
    ask = (
        OPEN
        + """
opened()
told = {}
for name in sys.argv[2:]:
    space, said = warned(w2w_hub.WeightSpace.from_pretrained, Path(sys.argv[1]) / name)
    assert space.population is None
    told[name] = [text for text in said if "weight space" in text]
out(**told)
"""
    )
    before = reader.run(ask, where, "all", "some")
    assert (before["all"], before["some"]) == ([], [])
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    after = reader.run(ask, where, "all", "some")
    assert [["person-01" in text for text in after[name]] for name in ("all", "some")] == [[True], [True]]
    reader.run(build + 'save("later")', where)  # without the row
    client("ann", "ann").w2w("withdraw", "org/people", "person-02", "--reason", "consent")
    last = reader.run(ask, where, "later", "all")
    assert [("person-01" in text, "person-02" in text) for text in last["later"]] == [(False, True)]
    assert [("person-01" in text, "person-02" in text) for text in last["all"]] == [(True, True)]


@pytest.mark.slow
def test_a_file_that_was_made_of_a_withdrawn_row_says_so_once_the_list_is_known(
    hub: LoopbackHub, client: MakeClient, people: Repo, tmp_path: Path
) -> None:
    reader, where = client(), str(tmp_path / "lora")
    reader.run(OPEN + """
from w2w_hub.space.identity import resolve
from w2w_hub.space.keeping import export_identity
space = w2w_hub.build_space(opened()[0], 4, name="s", directions=False)
export_identity(space, resolve(space, "person-01"), Path(sys.argv[1]), dialects=("peft",))
space.save(sys.argv[1] + "-space")
""", where)  # fmt: skip
    script = (
        OPEN
        + """
out(told=w2w_hub.describe(sys.argv[1]).get("withdrawn", ""))
space = w2w_hub.WeightSpace.open(sys.argv[1] + "-space")
_, said = warned(space.coefficients_of, Path(sys.argv[1]))
out(said=said)
"""
    )
    before = reader.run(script, where)
    assert (before["told"], before["said"]) == ("", [])
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    reader.run(OPEN + "opened()")
    after = reader.run(script, where)
    assert "person-01" in after["told"]
    assert ["person-01" in text for text in after["said"]] == [True]


@pytest.mark.slow
def test_other_views_of_a_dataset_leave_withdrawn_rows_out(hub: LoopbackHub, client: MakeClient, people: Repo) -> None:
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    found = client().run(
        OPEN
        + """
rows = w2w_hub.load_dataset("org/people", revision="v1.0.0")
ds, _ = opened()
out(loaded={split: len(part) for split, part in rows.items()}, ids=list(rows["train"]["id"]))
out(torch=len(ds.torch("train")), near=len(w2w_hub.find_duplicates(ds).near), mean=len(ds.mean_std()[0]))
import pickle
out(again=refused(pickle.loads(pickle.dumps(ds)).__getitem__, "person-01")[0])
"""
    )
    assert found["loaded"] == {"train": 49, "test": 10}
    assert "person-01" not in found["ids"]
    assert (found["torch"], found["near"], found["again"]) == (49, 0, "WithdrawnError")


@pytest.mark.slow
def test_a_push_of_a_withdrawn_row_is_refused(
    hub: LoopbackHub, client: MakeClient, people: Repo, folders: Folders, tmp_path: Path
) -> None:
    ann = client("ann", "ann")
    ann.w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    refused = ann.w2w("push", folders.people, "org/people", "--version", "2.0.0")
    assert (refused.status, "w2w remove" in refused.stderr) == (2, True)
    work = shutil.copytree(folders.more, tmp_path / "work")
    assert ann.w2w("remove", work, "person-01").status == 0
    assert ann.w2w("push", work, "org/people", "--version", "2.0.0").status == 0
    assert "withdrawn.json" in people.files("main")


ROW = {"id": "a", "row_sha256": "0" * 64, "date": "2026-11-28", "reason": "consent"}
HOSTILE: dict[str, Any] = {
    "not an object": b"[]", "not JSON": b"{", "of another format": {"format": "w2w-lock"}, "of no rows": {"rows": {}},
    "of a later version": {"format_version": 9}, "a name twice": b'{"format": "w2w-withdrawals", "format": "x"}',
    "an id that is a path": {"rows": [ROW | {"id": "../x"}]}, "a long id": {"rows": [ROW | {"id": "a" * 300}]},
    "no id": {"rows": [{}]}, "an entry that is a list": {"rows": [[]]},
    "a digest": {"rows": [ROW | {"row_sha256": "0"}]},
    "no day": {"rows": [ROW | {"date": "2026-13-40"}]}, "a time": {"rows": [ROW | {"date": "2026-11-28T00"}]},
    "markup": {"rows": [ROW | {"reason": "<b>"}]}, "a number": {"rows": [ROW | {"date": 3}]},
    "deep": b'{"format":' + b"[" * 100_000,
}  # fmt: skip


def content(case: Any) -> bytes:
    if isinstance(case, bytes):
        return case
    return json.dumps({"format": "w2w-withdrawals", "format_version": 1, "rows": []} | case).encode()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_list_that_is_not_valid_is_refused(case: str) -> None:
    with pytest.raises((CorruptFileError, UnsupportedFormatError)):
        parse_withdrawals(content(HOSTILE[case]), "the list")


def test_a_list_of_this_format_is_read_whatever_else_it_says() -> None:
    row = ROW | {"reason": "a-later-reason", "by": "x"}
    found = parse_withdrawals(content({"rows": [row, row], "more": 1}), "the list")
    assert found.find("a") == found.find(None, "0" * 64) != found.find("b")
    assert parse_withdrawals(found.to_bytes(), "the list") == found


@pytest.mark.slow
def test_a_damaged_list_stops_nobody_from_reading_and_never_hides_the_last_one(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    client("ann", "ann").w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    reader = client()
    assert reader.run(OPEN + "out(rows=sorted(opened()[0].withdrawn))")["rows"] == [1]
    for bad in (b"{", content(HOSTILE["markup"]), b"x" * 1000):
        commit(people, hub, "withdrawn.json", bad)
        found = reader.run(OPEN + "ds, said = opened()\nout(rows=sorted(ds.withdrawn), said=said)")
        assert (found["rows"], len(found["said"])) == ([1], 2)
    refused = client("ann", "ann").w2w("withdraw", "org/people", "person-02", "--reason", "consent")
    assert refused.status == 2
    assert "withdrawn.json" in refused.stderr
    with pytest.raises(W2WError):
        parse_withdrawals(b" " * (41 * 2**20), "the list")
