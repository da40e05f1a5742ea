"""Contributions on the loopback Hub: without write access, in one pull request, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.hub.conftest import Client, seed
from tests.hub.contributions import LAYOUT, trained, write_target
from tests.hub.loopback import LoopbackHub
from w2w_hub import convert_adapter, write_adapter, write_dataset
from w2w_hub.release.contribution.batch import parse_batch_path, read_batch

STATED = ("--source", "made up", "--license", "CC-BY-4.0", "--consent", "not needed")


@pytest.fixture(scope="session")
def target(made_once: Callable[..., Path]) -> Path:
    return made_once("contribution-target", lambda folder: write_target(folder / "people")) / "people"


def fetched(hub: LoopbackHub, number: int, folder: Path) -> str:
    """Write what a pull request adds to the repository into a folder; return the batch's name."""
    repo = hub.repos["dataset", "org/people"]
    there, before = repo.files(f"refs/pr/{number}"), repo.files("main")
    added = {path: file for path, file in there.items() if path not in before}
    names = {found[0] for path in added if (found := parse_batch_path(path)) is not None}
    assert len(added) == 2
    assert len(names) == 1
    assert {path: there[path] for path in before} == before
    for path, file in added.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(hub.blobs[file.etag])
    return names.pop()


def test_a_contributor_without_access_opens_one_pull_request_also_if_its_answer_was_lost(
    hub: LoopbackHub, client: Callable[..., Client], target: Path, tmp_path: Path
) -> None:
    head = seed(hub, target, "org/people")
    mine = trained(1, 2)
    write_adapter(LAYOUT.unflatten(mine[0]), tmp_path / "loras" / "ann-1", ("peft",))
    write_adapter(LAYOUT.unflatten(mine[1]), tmp_path / "as-peft", ("peft",))
    convert_adapter(tmp_path / "as-peft", tmp_path / "loras" / "ann-2.safetensors", "kohya")
    arguments = ("contribute", "org/people", tmp_path / "loras", *STATED, "--label", "Beard=true", "--json")
    bob = client("bob", "bob")

    with hub.counted() as asked:
        plan = bob.w2w(*arguments, "--dry-run")
    assert plan.status == 0, plan.stderr
    planned = json.loads(plan.stdout)
    assert (planned["outcome"], planned["accepted"], planned["commit"]) == ("planned", ["ann-2", "ann-1"], head)
    assert not hub.repos["dataset", "org/people"].pull_heads
    paths = " ".join(request.path for request in asked)
    assert "sketches.safetensors" in paths
    assert "initialisation.safetensors" in paths
    assert "weights/c/" not in paths
    assert "parquet/" not in paths

    hub.fault("POST .*/commit/", "lost")
    done = bob.w2w(*arguments)
    assert done.status == 0, done.stderr
    opened = json.loads(done.stdout)
    assert (opened["number"], opened["batch"]) == (1, planned["batch"])
    assert hub.repos["dataset", "org/people"].resolve("main") == head

    again = json.loads(bob.w2w(*arguments).stdout)
    assert (again["outcome"], again["number"]) == ("offered", 1)
    assert list(hub.repos["dataset", "org/people"].pull_heads) == [1]

    name = fetched(hub, 1, tmp_path / "pr")
    batch = read_batch(tmp_path / "pr", name, LAYOUT)
    assert (name, batch.ids) == (opened["batch"], ("ann-2", "ann-1"))
    assert np.array_equal(batch.rows[1], mine[0])
    assert np.allclose(batch.rows[0], mine[1], rtol=1e-6)
    assert batch.labels[1] == {
        "id": "ann-1", "source": "made up", "licence": "cc-by-4.0", "consent": "not needed", "Beard": True
    }  # fmt: skip


def test_without_a_token_nothing_is_sent_and_the_login_is_named(
    hub: LoopbackHub, client: Callable[..., Client], target: Path, tmp_path: Path
) -> None:
    seed(hub, target, "org/people")
    write_adapter(LAYOUT.unflatten(trained(3)[0]), tmp_path / "ann", ("peft",))
    done = client("nobody").w2w("contribute", "org/people", tmp_path / "ann", *STATED)
    assert done.status == 2
    assert "hf auth login" in done.stderr
    assert not hub.repos["dataset", "org/people"].pull_heads


def test_rows_that_do_not_state_their_consent_are_published_in_private_only(
    hub: LoopbackHub, client: Callable[..., Client], tmp_path: Path
) -> None:
    silent = tmp_path / "silent"
    write_dataset(trained(0, 4), silent, layout=LAYOUT, version="1.0.0", license="mit", initialization="seed-7")
    org = client("org", "org")
    refused = org.w2w("push", silent, "org/silent")
    assert refused.status == 2
    assert "consent" in refused.stderr
    assert ("dataset", "org/silent") not in hub.repos
    assert org.w2w("push", silent, "org/silent", "--private").status == 0
    assert org.w2w("push", silent, "org/silent", "--version", "1.0.1").status == 0  # which is private by now


@pytest.mark.slow
def test_a_contribution_killed_at_any_request_shows_all_or_nothing_and_the_same_call_makes_it_one(
    hub: LoopbackHub, client: Callable[..., Client], target: Path, tmp_path: Path
) -> None:
    head = seed(hub, target, "org/people")
    repo = hub.repos["dataset", "org/people"]
    bob = client("bob", "bob")
    points = [
        "GET .*/revision/",
        "GET .*discussions",
        "POST .*/preupload/",
        "POST .*/objects/batch",
        "PUT ",
        "POST .*/commit/",
    ]
    for made, point in enumerate(points):
        lora = tmp_path / f"lora-{made}"
        write_adapter(LAYOUT.unflatten(trained(100 + made)[0]), lora, ("peft",))
        words = ["contribute", "org/people", lora, *STATED, "--json"]
        fault = hub.fault(point, "hold")
        job = bob.nursery.start(
            "from w2w_hub.cli import main\nmain(prog_name='w2w')", list(map(str, words)), bob.environment(), bob.home
        )
        assert fault.reached.wait(120), point
        job.kill()
        fault.abandon()
        job.wait()
        assert len(repo.pull_heads) == made, point
        done = bob.w2w(*words)
        assert done.status == 0, done.stderr
        assert json.loads(done.stdout)["number"] == made + 1
        assert list(repo.pull_heads) == list(range(1, made + 2))
    assert repo.resolve("main") == head
