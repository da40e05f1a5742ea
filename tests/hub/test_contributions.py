"""Contributions from the maintainer's side: what is accepted, merged and released, and what is refused."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from w2w_hub import WeightDataset
from w2w_hub.dataset.manifest import row_digest
from w2w_hub.errors import CorruptFileError, UnsupportedFormatError
from w2w_hub.release.contribution.pending import MergeRecord, parse_record

from .conftest import Client, seed
from .loopback import LoopbackHub
from .offers import LAYOUT, STATED, batch, named, new_rows, offer, push_more, write_crowd
from .store import Repo

MakeClient = Callable[..., Client]
CALLS = """
from w2w_hub.release import contributions, merge, release, review, withdraw
def verdict(number, **options):
    found = review("org/people", number, **options).to_json()
    problems = [p["check"] for p in found["problems"]] + [p["check"] for r in found["rows"] for p in r["problems"]]
    return {"outcome": found["outcome"], "checks": sorted(set(problems)), "commit": found["commit"], "all": found}
"""


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crowd(tmp_path_factory.mktemp("crowd") / "people")


@pytest.fixture
def people(hub: LoopbackHub, crowd: Path) -> Repo:
    seed(hub, crowd, "org/people")
    return hub.repos[("dataset", "org/people")]


def manifest(hub: LoopbackHub, repo: Repo) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hub.blobs[repo.files("main")["manifest.json"].oid])
    return found


@pytest.mark.slow
# ---------------------------------------------------------------- the usual way
def test_a_contribution_is_reviewed_merged_and_released_with_its_contributor(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    rows = new_rows(2, 1)
    _, files = batch(["new-1", "new-2"], rows=rows)
    number = offer(hub, people, files)
    ann = client("ann", "ann")
    for words, status, told in (
        (("review", "org/people"), 0, "#1"),
        (("review", f"org/people#{number}"), 0, "w2w merge"),
        (("merge", f"org/people#{number}", "--commit", people.pull_heads[number]), 0, "w2w release"),
        (("merge", f"org/people#{number}"), 0, "before"),
        (("release", "org/people", "--dry-run"), 0, "1.1.0"),
        (("release", "org/people"), 0, "w2w verify"),
        (("verify", "org/people@v1.1.0", "--deep"), 0, "matches its manifest"),
        (("release", "org/people"), 0, "nothing to release"),
        (("review", "org/people"), 0, "no open pull request"),
        (("review", f"org/people#{number}"), 0, "Released"),
        (("merge", f"org/people#{number}"), 0, "before"),
    ):
        done = ann.w2w(*words)
        assert (done.status, told in done.stdout + done.stderr) == (status, True), done
    assert people.pulls[number].status == "closed"
    assert not [path for path in people.files("main") if path.startswith("contributions")]
    found = client().run(
        """
from w2w_hub import WeightDataset
ds = WeightDataset.open("org/people", revision="v1.1.0")
out(by=ds.labels["contributor"].dropna().to_dict(), beard=bool(ds.labels.at["new-1", "Beard"]),
    digests=ds.labels["row_sha256"].to_dict(), rows=len(ds), kinds=ds.manifest.columns)
"""
    )
    assert found["by"] == {"new-1": "bob", "new-2": "bob"}
    assert (found["rows"], found["beard"]) == (26, True)
    assert [found["digests"][f"new-{i + 1}"] for i in range(2)] == [row_digest(row) for row in rows]
    card = hub.blobs[people.files("main")["README.md"].oid].decode()
    assert "| contributors | bob (2 rows) |" in card
    assert "| 1.1.0 | " in card
    cited = ann.w2w("cite", "org/people@v1.1.0").stdout
    assert "{{org} and {bob}}" in cited
    assert "drawn for this test" in cited


def test_what_is_pushed_after_the_review_is_not_merged(hub: LoopbackHub, client: MakeClient, people: Repo) -> None:
    _, files = batch(["new-1"])
    number = offer(hub, people, files)
    reviewed = people.pull_heads[number]
    other, more = batch(["other-1"], 2)
    push_more(hub, people, number, {**dict.fromkeys(files), **more, "README.md": b"mine"})
    found = client("ann", "ann").run(
        CALLS
        + """
out(now=verdict(1), then=verdict(1, commit=sys.argv[1]), none=refused(review, "org/people", 1, commit="0" * 40),
    short=verdict(1, commit=sys.argv[1][:10])["commit"], empty=refused(review, "org/people", 1, commit=""))
out(merged=merge("org/people", 1, commit=sys.argv[1]).to_json())
""",
        reviewed,
    )
    assert (found["now"]["outcome"], found["then"]["outcome"]) == ("refuse", "accept")
    assert found["then"]["all"]["notes"]
    assert found["none"][0] == found["empty"][0] == "ContributionError"
    assert found["short"] == reviewed
    assert found["merged"]["reviewed"] == reviewed
    main = people.files("main")
    assert [main[path].etag for path in files] == [people.commits[reviewed].files[path].etag for path in files]
    assert not [path for path in main if other in path]


@pytest.mark.slow
def test_the_hubs_own_merge_is_completed_by_a_merge_that_reviews(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    number = offer(hub, people, batch(["new-1"])[1])
    hub.merge(people, number, "ann")
    ann = client("ann", "ann")
    skipped = json.loads(ann.w2w("release", "org/people", "--json").stdout)
    assert (skipped["outcome"], len(skipped["skipped"])) == ("unchanged", 1)
    assert ann.w2w("merge", f"org/people#{number}").status == 0
    assert json.loads(ann.w2w("release", "org/people", "--json").stdout)["added"] == {"new-1": "bob"}


@pytest.mark.slow
def test_a_merge_of_the_hub_that_brought_more_or_other_things_is_not_completed(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    from .test_withdrawals import commit

    _, files = batch(["new-1"])
    readme = hub.blobs[people.files("main")["README.md"].oid]
    more = offer(hub, people, files)
    reviewed = people.pull_heads[more]
    push_more(hub, people, more, {"README.md": b"mine"})
    hub.merge(people, more, "ann")
    _, others = batch(["new-2"], 2)
    changed = offer(hub, people, others)
    then = people.pull_heads[changed]
    rows = next(path for path in others if path.endswith("rows.safetensors"))
    push_more(hub, people, changed, {rows: files[next(path for path in files if path.endswith("rows.safetensors"))]})
    hub.merge(people, changed, "ann")
    ann = client("ann", "ann")
    before = people.branches["main"]
    for number, at, told in ((more, reviewed, "README.md"), (changed, then, "other files")):
        done = ann.w2w("merge", f"org/people#{number}", "--commit", at)
        assert (done.status, told in done.stderr) == (2, True), done
    assert people.branches["main"] == before
    commit(people, hub, "README.md", readme)  # what the Hub's merge changed is undone
    assert ann.w2w("merge", f"org/people#{more}", "--commit", reviewed).status == 0
    assert json.loads(ann.w2w("release", "org/people", "--json").stdout)["added"] == {"new-1": "bob"}


@pytest.mark.slow
def test_a_record_that_came_with_the_pull_request_itself_counts_as_no_review(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    name, files = batch(["new-1"])
    number = offer(hub, people, files)
    digest = row_digest(new_rows(1, 1)[0])
    forged = MergeRecord(name, number, "ann", people.pull_heads[number], "2026-11-28", {"new-1": digest})
    push_more(hub, people, number, {f"contributions/{name}/merged.json": forged.to_bytes()})
    hub.merge(people, number, "ann")
    offer(hub, people, batch(["new-2"], 2)[1], "carol")  # which starts from a main with the forged record
    ann = client("ann", "ann")
    assert ann.w2w("merge", f"org/people#{number + 1}").status == 0
    done = json.loads(ann.w2w("release", "org/people", "--json").stdout)
    assert done["added"] == {"new-2": "carol"}
    assert [f"#{number}" in text for text in done["skipped"]] == [True]
    assert manifest(hub, people)["rows"] == 25


@pytest.mark.slow
def test_a_near_copy_of_a_batch_that_waits_for_the_release_is_found(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    rows = new_rows(2, 1)
    near = rows[:1] + np.float32(1e-3) * np.random.default_rng(3).normal(size=rows[:1].shape).astype(np.float32)
    offer(hub, people, batch(["new-1", "new-2"], rows=rows)[1])
    offer(hub, people, batch(["copy"], rows=near)[1], "carol")
    found = client("ann", "ann").run(
        CALLS
        + """
out(before=verdict(2)["checks"])
merge("org/people", 1)
out(after=verdict(2), refused=refused(merge, "org/people", 2)[0])
release("org/people")
out(released=verdict(2)["checks"])
"""
    )
    assert found["before"] == []
    assert found["after"]["checks"] == found["released"] == ["near_duplicate"]
    assert "'new-1' of #1" in found["after"]["all"]["rows"][0]["problems"][0]["message"]
    assert found["refused"] == "ContributionError"


@pytest.mark.slow
def test_two_contributors_with_one_id_or_one_adapter_do_not_both_get_in(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    rows = new_rows(1, 1)
    numbers = [
        offer(hub, people, batch(["new-1"], rows=rows)[1], "bob"),
        offer(hub, people, batch(["NEW-1"], 2)[1], "carol"),
        offer(hub, people, batch(["new-2"], rows=rows)[1], "dave"),
    ]
    found = client("ann", "ann").run(
        CALLS
        + """
out(before=[verdict(n)["outcome"] for n in (1, 2, 3)], merged=merge("org/people", 1).rows)
out(after=[verdict(n)["checks"] for n in (2, 3)], refused=[refused(merge, "org/people", n)[0] for n in (2, 3)])
release("org/people")
out(later=[verdict(n)["checks"] for n in (2, 3)])
"""
    )
    assert numbers == [1, 2, 3]
    assert found["before"] == ["accept"] * 3
    assert found["after"] == found["later"] == [["id"], ["duplicate"]]
    assert found["refused"] == ["ContributionError"] * 2


@pytest.mark.slow
def test_a_stale_request_is_checked_against_what_is_released_by_then(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    offer(hub, people, batch(["new-1"])[1])
    stale = offer(hub, people, batch(["new-2"], 2)[1], "carol")
    found = client("ann", "ann").run(
        CALLS
        + """
merge("org/people", 1); out(first=release("org/people").to_json())
out(stale=verdict(2)["outcome"]); merge("org/people", 2); out(second=release("org/people").to_json())
"""
    )
    assert (stale, found["stale"]) == (2, "accept")
    assert [found[name]["version"] for name in ("first", "second")] == ["1.1.0", "1.2.0"]
    assert manifest(hub, people)["rows"] == 26
    assert [entry["contributors"] for entry in manifest(hub, people)["history"]] == [["bob"], ["carol"]]


@pytest.mark.slow
def test_a_withdrawn_row_is_dropped_by_the_next_release_and_never_accepted_again(
    hub: LoopbackHub, client: MakeClient, people: Repo, crowd: Path
) -> None:
    gone = WeightDataset.open(crowd)["person-03"]
    offer(hub, people, batch(["new-1"])[1])
    offer(hub, people, batch(["again"], rows=gone[None])[1])
    offer(hub, people, batch(["person-03"], 3)[1])
    found = client("ann", "ann").run(
        CALLS
        + """
merge("org/people", 1)
withdraw("org/people", "person-03", reason="consent")
out(too_small=refused(release, "org/people", "1.0.1"), old=refused(release, "org/people", "1.0.0"))
done = release("org/people")
out(done=done.to_json(), again=[verdict(n)["checks"] for n in (2, 3)])
out(nothing=release("org/people").outcome)
"""
    )
    assert found["too_small"][0] == found["old"][0] == "VersionError"
    assert (found["done"]["version"], found["done"]["level"]) == ("2.0.0", "major")
    assert (found["done"]["dropped"], found["done"]["added"]) == (["person-03"], {"new-1": "bob"})
    assert found["again"] == [["withdrawn"], ["withdrawn"]]
    assert found["nothing"] == "unchanged"
    reader = client()
    assert reader.w2w("verify", "org/people@v2.0.0", "--deep").status == 0
    ids = reader.run("import w2w_hub\nout(ids=w2w_hub.WeightDataset.open('org/people').ids)")["ids"]
    assert ("person-03" in ids, len(ids)) == (False, 24)


@pytest.mark.slow
def test_a_release_fetches_each_file_once_and_its_dry_run_says_how_much_is_missing(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    matrix = 24 * 4 * LAYOUT.size
    offer(hub, people, batch(["new-1"])[1])
    assert client("reviewer", "ann").w2w("merge", "org/people#1").status == 0
    new, old = client("new", "ann"), client("old", "ann")
    old.run("from w2w_hub import WeightDataset\nWeightDataset.open('org/people', lazy=False)")
    for someone, all_of_it in ((new, True), (old, False)):
        with hub.counted() as planned:
            plan = json.loads(someone.w2w("release", "org/people", "--dry-run", "--json").stdout)
        read = sum(r.sent for r in planned if r.cdn or "/resolve/" in r.path)
        assert (plan["to_download"] > matrix) is all_of_it
        assert read < matrix / 3  # labels and the batch
    with hub.counted() as requests:
        assert old.w2w("release", "org/people").status == 0
    fetched = sum(r.sent for r in requests if r.method == "GET" and (r.cdn or "/resolve/" in r.path))
    view = sum(f.size for name, f in people.files("v1.0.0").items() if name.startswith("parquet/"))
    assert fetched < view + matrix / 3


@pytest.mark.slow
def test_a_row_may_be_withdrawn_between_its_merge_and_its_release(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    offer(hub, people, batch(["new-1", "new-2"])[1])
    offer(hub, people, batch(["new-3"], 2)[1], "carol")
    found = client("ann", "ann").run(
        CALLS
        + """
merge("org/people", 1); merge("org/people", 2)
out(gone=withdraw("org/people", ["new-1", "new-3"], reason="error").to_json())
out(done=release("org/people").to_json(), nothing=release("org/people").outcome)
"""
    )
    assert (found["gone"]["outcome"], found["gone"]["versions"]) == ("withdrawn", [])
    assert (found["done"]["added"], found["done"]["version"]) == ({"new-2": "bob"}, "1.1.0")
    assert found["nothing"] == "unchanged"
    assert not [path for path in people.files("main") if path.startswith("contributions")]
    offer(hub, people, batch(["new-4"], 4)[1], "dave")
    last = client("ann", "ann").run(
        CALLS + 'merge("org/people", 3); withdraw("org/people", "new-4", reason="error")\n'
        'out(dry=release("org/people", dry_run=True).outcome, done=release("org/people").to_json())'
    )
    assert (last["dry"], last["done"]["outcome"], last["done"]["version"]) == ("unchanged", "unchanged", None)
    assert not [path for path in people.files("main") if path.startswith("contributions")]


@pytest.mark.slow
def test_a_hand_written_card_keeps_its_text_and_gets_the_change_log(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    text = hub.blobs[people.files("main")["README.md"].oid].decode() + "\nOur own words.\n"
    from .test_withdrawals import commit

    commit(people, hub, "README.md", text.encode())
    offer(hub, people, batch(["new-1"])[1])
    offer(hub, people, batch(["new-2"], 2)[1])
    client("ann", "ann").run(
        CALLS + "merge('org/people', 1); release('org/people'); merge('org/people', 2); release('org/people')"
    )
    card = hub.blobs[people.files("main")["README.md"].oid].decode()
    assert card.count("Our own words.") == card.count("## Changes") == 1
    assert card.index("| 1.2.0 |") < card.index("| 1.1.0 |")


@pytest.mark.slow
def test_a_verdict_is_posted_with_everything_in_it_escaped(hub: LoopbackHub, client: MakeClient, people: Repo) -> None:
    offer(hub, people, {"<img src=x>": b"x"}, title="[x](javascript:alert(1))\x1b[2J")
    with hub.counted() as requests:
        done = client("ann", "ann").w2w("review", "org/people#1", "--comment")
    assert done.status == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert [r.status for r in requests if r.path.endswith("/comment")] == [200]
    ((author, text),) = people.pulls[1].comments
    assert (author, "<img" in text, "Refused" in text) == ("ann", False, True)
    assert client("bob", "bob").w2w("merge", "org/people#1").status == 2
    assert client().w2w("review", "org/people#9").status == 2
    assert client().w2w("review", "people").status == 2
    assert client().w2w("merge", "org/people").status == 2


@pytest.mark.slow
def test_the_workflow_for_maintainers_posts_each_verdict_once(
    hub: LoopbackHub, client: MakeClient, people: Repo, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "scripts" / "review-contributions.yml").read_text("utf-8")
    steps = yaml.safe_load(text)["jobs"]["review"]["steps"]
    script = next(step["run"] for step in steps if step.get("name") == "Review")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "w2w"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m w2w_hub "$@"\n')
    command.chmod(0o755)
    good, bad = offer(hub, people, batch(["new-1"])[1]), offer(hub, people, {"README.md": b"mine"}, "eve")
    environment = client("ann", "ann").environment(DATASET="org/people")
    environment["PATH"] = f"{command.parent}:{Path(sys.executable).parent}:{environment['PATH']}"
    for _ in range(2):
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for number, told in ((good, "Accepted"), (bad, "Refused")):
        ((_, text),) = people.pulls[number].comments
        assert told in text


# ---------------------------------------------------------------- hostile ones
def header(shape: list[int], size: int, dtype: str = "F32", layout: str = LAYOUT.digest, **more: Any) -> bytes:
    """A file of rows that claims this shape."""
    meta = {"format": "w2w-batch", "format_version": "1", "layout": layout}
    entry = {"weights": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}, **more}
    text = json.dumps({"__metadata__": meta, **entry}).encode()
    return struct.pack("<Q", len(text)) + text


def line(**labels: Any) -> bytes:
    return json.dumps({"id": "new-1", **STATED, **labels}).encode() + b"\n"


def rows_of(array: np.ndarray, **meta: str) -> bytes:
    stated = {"format": "w2w-batch", "format_version": "1", "layout": LAYOUT.digest} | meta
    made: bytes = save({"weights": array}, metadata=stated)
    return made


ROWS = new_rows(1, 1)
GOOD = rows_of(ROWS)
NAME, FILES = batch(["new-1"])
WITHDRAWN = json.dumps({"format": "w2w-withdrawals", "format_version": 1, "rows": []}).encode()
HOSTILE: dict[str, dict[str, bytes | None]] = {
    "a pickle": named(pickle.dumps({"weights": [1.0]}), line()),
    "a zip archive": named(b"PK\x03\x04" + bytes(1000), line()),
    "a path out of the folder": FILES | {"contributions/../../x": b"x"},
    "a path out of the batch": FILES | {f"contributions/{NAME}/../x": b"x"},
    "an absolute path": FILES | {"/etc/passwd": b"x"},
    "10^9 rows": named(header([10**9, LAYOUT.size], 4), line()),
    "10^9 columns": named(header([1, 10**9], 4), line()),
    "a million empty rows": named(header([10**6, 0], 0), line() * 1000),
    "a million lines": named(GOOD, b"\n" * 10**6),
    "long labels": named(GOOD, line(source="x" * 5_000_000)),
    "another layout": named(rows_of(ROWS, layout="0" * 64), line()),
    "another size": named(rows_of(ROWS[:, :-1]), line()),
    "another tensor": named(save({"weights": ROWS, "more": ROWS}, metadata={"format": "w2w-batch"}), line()),
    "integers": named(rows_of(ROWS.astype(np.int32)), line()),
    "somebody else's id": named(GOOD, line(id="person-00")),
    "somebody else's id in capitals": named(GOOD, line(id="PERSON-00")),
    "an id that is a path": named(GOOD, line(id="../x")),
    "an id that is a number": named(GOOD, line(id=3)),
    "a published row": named(rows_of(new_rows(24, 0)[:1]), line()),
    "NaN": named(rows_of(np.full_like(ROWS, np.nan)), line()),
    "infinity": named(rows_of(np.full_like(ROWS, np.inf)), line()),
    "nothing trained": named(rows_of(np.zeros_like(ROWS)), line()),
    "another start": named(rows_of(np.random.default_rng(8).normal(size=ROWS.shape).astype(np.float32)), line()),
    "a published file": FILES | {"manifest.json": b"{}"},
    "a published shard": FILES | {"weights.zarr/weights/c/0/0": b"\0" * 100},
    "a removed file": FILES | {"labels/train.parquet": None},
    "markup in a label": named(GOOD, line(source="<script>alert(1)</script>")),
    "a formula": named(GOOD, line(consent="=HYPERLINK(1)")),
    "a terminal's code": named(GOOD, line(source="x\x1b[2J")),
    "a README edit": FILES | {"README.md": b"# <script>alert(1)</script>"},
    "only a README edit": {"README.md": b"mine"},
    "a file outside of the batch": FILES | {"note.txt": b"x"},
    "a file beside the rows": FILES | {f"contributions/{NAME}/x.py": b"import os"},
    "a record of a merge": FILES | {f"contributions/{NAME}/merged.json": b"{}"},
    "a symbolic link": named(b"../../weights.zarr/weights/c/0/0", line()),
    "a link as labels": named(GOOD, b"../../labels/train.parquet"),
    "a changed withdrawal list": FILES | {"withdrawn.json": WITHDRAWN},
    "a writer's folder": FILES | {".w2w-commit/manifest.json": b"{}"},
    "a writer's lock": FILES | {".w2w-lock": b""},
    "git's settings": FILES | {".gitattributes": b"* text"},
    "two batches": FILES | batch(["new-2"], 2)[1],
    "half a batch": {f"contributions/{NAME}/rows.safetensors": GOOD},
    "another name": {path.replace(NAME, "0" * 16): data for path, data in FILES.items()},
    "nothing": {},
    "its own split": named(GOOD, line(split="test")),
    "its own digest": named(GOOD, line(row_sha256="0" * 64)),
    "its own row": named(GOOD, line(row=0)),
    "an unknown label": named(GOOD, line(Glasses=True)),
    "a label of another kind": named(GOOD, line(Beard="yes")),
    "no license": named(GOOD, line(licence=None)),
    "an unknown license": named(GOOD, line(licence="mine")),
    "no consent": named(GOOD, line(consent="")),
    "no source": named(GOOD, line(source=None)),
    "a key twice": named(GOOD, b'{"id": "new-1", "id": "new-2"}\n'),
    "deep JSON": named(GOOD, b'{"id":' + b"[" * 100_000 + b"\n"),
    "a line too few": named(rows_of(new_rows(2, 1)), line()),
    "one id twice": named(rows_of(new_rows(2, 1)), line() + line()),
    "an infinite label": named(GOOD, b'{"id": "new-1", "Age": Infinity}\n'),
}  # fmt: skip


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
HALVES = ROWS.astype(np.float16)


def claimed(length: int) -> bytes:
    """A file that claims a header of this length."""
    return struct.pack("<Q", length) + b"{}"


def halves(value: float) -> bytes:
    """A batch in half precision with one such value."""
    made = HALVES.copy()
    made[0, 7] = value
    return rows_of(made)


HOSTILE |= {
    "an id of look-alike letters": named(GOOD, line(id="\u0440erson-00")),
    "an id of wide digits": named(GOOD, line(id="person-\uff10\uff10")),
    "an id with a zero-width space": named(GOOD, line(id="person-00\u200b")),
    "an id with a line break": named(GOOD, line(id="new-1\n")),
    "an id of half a character": named(GOOD, b'{"id": "\\ud800", "source": "x", "licence": "mit", "consent": "y"}\n'),
    "a file name in capitals": FILES | {f"contributions/{NAME}/ROWS.safetensors": GOOD},
    "a folder name in capitals": {path.replace("contributions", "Contributions"): data for path, data in FILES.items()},
    "a batch in a batch": FILES | {f"contributions/{NAME}/contributions/{NAME}/rows.safetensors": GOOD},
    "a writer's lock in the batch": FILES | {f"contributions/{NAME}/.w2w-lock": b""},
    "a writer's folder in the batches": FILES | {"contributions/.w2w-commit/manifest.json": b"{}"},
    "git's settings in the batch": FILES | {f"contributions/{NAME}/.gitattributes": b"* -filter"},
    "git's modules": FILES | {".gitmodules": b'[submodule "x"]\n path = x\n url = https://example.org/x\n'},
    "a workflow": FILES | {".github/workflows/x.yml": b"on: push"},
    "an array's description": FILES | {"weights.zarr/weights/zarr.json": b"{}"},
    "sketches": FILES | {"sketches.safetensors": GOOD},
    "another initialization": FILES | {"initialisation.safetensors": GOOD},
    "a signature": FILES | {"manifest.sig": b"x"},
    "rows that are a pointer": named(POINTER, line()),
    "labels that are a pointer": named(GOOD, POINTER),
    "one tensor twice": named(header([1, LAYOUT.size], 4).replace(b'"weights"', b'"weights": 0, "weights"', 1), line()),
    "a header of 100 MB": named(claimed(100_000_000), line()),
    "a header of 2^63 bytes": named(claimed(2**63), line()),
    "a header of spaces": named(struct.pack("<Q", 3_000_000) + b" " * 3_000_000, line()),
    "a header that overlaps": named(header([1, LAYOUT.size], 4 * LAYOUT.size, more=1) + bytes(4), line()),
    "bytes after the rows": named(GOOD + b"more", line()),
    "a negative shape": named(header([-1, -LAYOUT.size], 4 * LAYOUT.size) + bytes(4 * LAYOUT.size), line()),
    "a shape that is true": named(header([True, LAYOUT.size], 4 * LAYOUT.size) + bytes(4 * LAYOUT.size), line()),
    "brain floats": named(header([1, LAYOUT.size], 2 * LAYOUT.size, "BF16") + bytes(2 * LAYOUT.size), line()),
    "doubles": named(rows_of(ROWS.astype(np.float64)), line()),
    "NaN in half precision": named(halves(np.nan), line()),
    "infinity in half precision": named(halves(np.inf), line()),
    "subnormal numbers only": named(rows_of(np.full_like(HALVES, 6e-8)), line()),
    "subnormal single numbers": named(rows_of(np.full_like(ROWS, 1e-45)), line()),
    "the largest numbers": named(rows_of(np.full_like(ROWS, 3e38)), line()),
    "a published row, nearly": named(rows_of(new_rows(24, 0)[:1] * np.float32(1.0001)), line()),
    "a million columns": named(GOOD, b'{"id":"new-1",' + b",".join(b'"%x":0' % i for i in range(300_000)) + b"}\n"),
    "a huge integer": named(GOOD, b'{"id": "new-1", "Beard": ' + b"9" * 400 + b"}\n"),
    "an integer that Python does not parse": named(GOOD, b'{"id": "new-1", "Beard": ' + b"9" * 5000 + b"}\n"),
    "a huge exponent": named(GOOD, b'{"id": "new-1", "Beard": 1e999}\n'),
    "a number as a flag": named(GOOD, line(Beard=1)),
    "labels with a byte order mark": named(GOOD, b"\xef\xbb\xbf" + line()),
    "labels in UTF-16": named(GOOD, line().decode().encode("utf-16")),
    "labels with a zero byte": named(GOOD, line()[:-1] + b"\0\n"),
    "labels that are a list": named(GOOD, b"[1]\n"),
    "another contributor": named(GOOD, line(contributor="ann")),
    "a label without a name": named(GOOD, line(**{"": 1})),
    "a label that is markup": named(GOOD, line(**{"<b>": 1})),
    "the prototype of objects": named(GOOD, line(__proto__=1)),
    "a line break in the source": named(GOOD, line(source="x\nlicense: mit")),
    "a bell in the license": named(GOOD, line(licence="mit\x07")),
    "a reversed consent": named(GOOD, line(consent="\u202egiven")),
    "a zero-width consent": named(GOOD, line(consent="\u200b\u200d")),
    "a paragraph separator in the consent": named(GOOD, line(consent="given\u2029by me")),
    "a tab and a formula": named(GOOD, line(source="\t=1+1")),
    "a formula of another kind": named(GOOD, line(source="@SUM(1)")),
    "a wide formula": named(GOOD, line(source="\uff1d1+1")),
    "a consent of points": named(GOOD, line(consent="...")),
    "a consent that is none.": named(GOOD, line(consent="None.")),
    "a consent that is true": named(GOOD, line(consent=True)),
    "a license that is a list": named(GOOD, line(licence=["mit"])),
}  # fmt: skip


@pytest.mark.slow
def test_hostile_contributions_are_refused_by_review_and_by_merge_and_change_nothing(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    numbers = {offer(hub, people, files, "eve"): case for case, files in HOSTILE.items()}
    before = people.branches["main"]
    found = client("ann", "ann").run(
        CALLS
        + """
results = {}
for number in range(1, int(sys.argv[1]) + 1):
    results[number] = [verdict(number)["outcome"], refused(merge, "org/people", number)[0]]
out(results=results)
""",
        len(numbers),
    )
    results = {numbers[int(number)]: result for number, result in found["results"].items()}
    assert {case: result for case, result in results.items() if result != ["refuse", "ContributionError"]} == {}
    assert people.branches["main"] == before
    assert {pull.status for pull in people.pulls.values()} == {"open"}


@pytest.mark.slow
def test_a_batch_on_main_that_is_not_what_was_merged_is_not_released(
    hub: LoopbackHub, client: MakeClient, people: Repo
) -> None:
    from .test_withdrawals import commit

    number = offer(hub, people, FILES)
    ann = client("ann", "ann")
    assert ann.w2w("merge", f"org/people#{number}").status == 0
    path = f"contributions/{NAME}/merged.json"
    raw = hub.blobs[people.files("main")[path].oid]
    record = json.loads(raw)
    for change, status in (
        ({"rows": {"new-1": "0" * 64}}, 2), ({"rows": {"other": record["rows"]["new-1"]}}, 2), ({"batch": "0" * 16}, 0),
        ({"contributor": "<b>"}, 0), ({"format_version": 9}, 0),
    ):  # fmt: skip
        commit(people, hub, path, json.dumps(record | change).encode())
        done = ann.w2w("release", "org/people")
        assert (done.status, NAME in done.stderr) == (status, True), done
        assert manifest(hub, people)["rows"] == 24
    commit(people, hub, path, raw)
    assert ann.w2w("release", "org/people").status == 0
    assert manifest(hub, people)["rows"] == 25


RECORD = MergeRecord("0" * 16, 12, "bob", "a" * 40, "2026-11-28", {"new-1": "b" * 64})
BAD_RECORDS: tuple[dict[str, Any], ...] = (
    {"contributor": "x" * 200}, {"contributor": "a/b"}, {"commit": "main"}, {"date": "today"}, {"rows": {}},
    {"rows": {"../x": "b" * 64}}, {"rows": {"x": "b"}}, {"pull_request": True}, {"pull_request": 0}, {"batch": "x"},
    {"rows": {"x": "b" * 64, "../y": "b" * 64}}, {"rows": {"x": "b" * 64, "y": "b"}}, {"rows": ["x"]},
    {"rows": {f"row-{i}": "b" * 64 for i in range(1001)}}, {"format": "w2w-lock"}, {"format_version": 2},
)  # fmt: skip


@pytest.mark.parametrize("change", BAD_RECORDS)
def test_a_record_of_a_merge_that_is_not_valid_is_refused(change: dict[str, Any]) -> None:
    assert parse_record(RECORD.to_bytes(), "0" * 16, "here") == RECORD
    with pytest.raises((CorruptFileError, UnsupportedFormatError)):
        parse_record(json.dumps(json.loads(RECORD.to_bytes()) | change).encode(), "0" * 16, "here")
