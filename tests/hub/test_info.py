"""`w2w info` of a repository fetches its manifest alone, and names withdrawn rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Client, Folders, seed
from .loopback import LoopbackHub

pytestmark = pytest.mark.slow

MakeClient = Callable[..., Client]
IDENTIFY = "from w2w_hub import identify\n"


def test_a_repository_is_named_by_its_manifest_alone(hub: LoopbackHub, client: MakeClient, folders: Folders) -> None:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.space, "org/space")
    seed(hub, folders.people, "org/both")
    seed(hub, folders.space, "org/both")
    for name, file in (("other", "x"), ("lora", "pytorch_lora_weights.safetensors"), ("base", "model_index.json")):
        lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": {"path": file, "content": ""}}]
        hub.apply(hub.create("model", f"org/{name}", hub.token("org")), "main", lines, "ann", create_pr=False)
    reader = client()
    found = reader.run(
        IDENTIFY
        + """
for name in ("org/people@v1.0.0", "org/space@v1.0.0", "org/both", "datasets/org/both", "models/org/both", "org/other",
             "org/lora", "org/base"):
    out(**{name: identify(name).to_json()})
out(nothing=refused(identify, "org/nothing"), version=refused(identify, "org/people@v9.0.0"))
"""
    )
    kinds = {name: told["kind"] for name, told in found.items() if isinstance(told, dict)}
    assert kinds == {
        "org/people@v1.0.0": "dataset", "org/space@v1.0.0": "weight space", "org/both": "two repositories",
        "datasets/org/both": "dataset", "models/org/both": "weight space", "org/other": "unknown",
        "org/lora": "adapter", "org/base": "base model",
    }  # fmt: skip
    assert [found[name][0] for name in ("nothing", "version")] == ["HubNotFoundError", "HubNotFoundError"]
    assert found["org/people@v1.0.0"]["facts"]["rows"] == 60
    fetched = {file.name for file in reader.cache.rglob("*") if "snapshots" in file.parts and not file.is_dir()}
    assert fetched <= {"manifest.json", "README.md"}
    steps = [step["command"] for name in kinds for step in found[name]["steps"]]
    assert any(step.startswith("w2w pin org/people@v1.0.0") for step in steps)
    assert all("org/" in step for step in steps)


def test_withdrawn_rows_are_named_in_the_dataset_and_in_a_space_of_it(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.more, "org/people")
    ann = client("ann", "ann")
    ann.w2w("withdraw", "org/people", "person-01", "person-65", "--reason", "consent")
    found = client().run(
        IDENTIFY
        + """
from click.testing import CliRunner
from w2w_hub.cli import main
out(first=identify("org/people@v1.0.0").warnings, second=identify("org/people@v1.1.0").warnings)
out(shown=CliRunner().invoke(main, ["info", "org/people@v1.0.0"]).stderr)
"""
    )
    (first,), (second,) = found["first"], found["second"]
    assert ("person-01" in first, "person-65" in first) == (True, False)
    assert ("person-01" in second, "person-65" in second) == (True, True)
    assert "person-01" in found["shown"]
    assert "withdrawn" in found["shown"]


@pytest.mark.slow
def test_a_space_that_holds_a_withdrawn_row_says_so_and_gets_no_page(
    hub: LoopbackHub, client: MakeClient, folders: Folders, tmp_path: Path
) -> None:
    seed(hub, folders.people, "org/people")
    reader = client("ann", "ann")
    made = reader.run(
        """
from w2w_hub import WeightDataset, build_space
build_space(WeightDataset.open("org/people", revision="v1.0.0"), 3, version="1.0.0").save("space")
"""
    )
    assert "stderr" in made
    seed(hub, reader.home / "space", "org/space")
    reader.w2w("withdraw", "org/people", "person-01", "--reason", "consent")
    found = client().run(
        IDENTIFY
        + """
from w2w_hub.release import space_app
out(it=identify("org/space@v1.0.0").warnings, app=refused(space_app, "org/space@v1.0.0", "app"))
"""
    )
    (warning,) = found["it"]
    assert "person-01" in warning
    assert (found["app"][0], found["app"][2]["name"]) == ("WithdrawnError", "person-01")


@pytest.mark.slow
def test_the_next_commands_of_repositories_locks_and_archives_run(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.space, "org/space")
    found = client().run(
        IDENTIFY
        + """
import shlex
from click.testing import CliRunner
from w2w_hub.cli import main
def w2w(words):
    return CliRunner().invoke(main, words)
w2w(["pin", "org/people@v1.0.0", "org/space@v1.0.0", "-o", "w2w.lock"])
w2w(["archive", "w2w.lock", "-o", "bag"])
for name in ("org/people@v1.0.0", "org/space@v1.0.0", "w2w.lock", "w2w.lock#org/people", "bag"):
    commands = [step.command for step in identify(name).steps]
    out(**{name: {line: w2w(shlex.split(line)[1:]).exit_code for line in commands}})
"""
    )
    del found["stderr"]
    assert all(found.values())
    assert {line: status for ran in found.values() for line, status in ran.items() if status} == {}
