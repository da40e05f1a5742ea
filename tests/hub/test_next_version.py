"""Releases that were interrupted, cannot be made, or meet somebody else's; each changes nothing until it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from .loopback import LoopbackHub
from .offers import batch, offer, write_crowd
from .store import Repo
from .test_contributions import CALLS, MakeClient, crowd, people  # noqa: F401, two fixtures


@pytest.mark.slow
def test_a_release_whose_tag_is_missing_is_finished_but_not_by_a_dry_run(
    hub: LoopbackHub, client: MakeClient, people: Repo  # noqa: F811
) -> None:  # fmt: skip
    offer(hub, people, batch(["new-1"])[1])
    ann = client("ann", "ann")
    done = ann.run(CALLS + 'merge("org/people", 1); out(done=release("org/people").to_json())')["done"]
    commit = people.tags.pop("v1.1.0")
    planned = ann.run(CALLS + 'out(it=release("org/people", dry_run=True).to_json())')["it"]
    assert sorted(people.tags) == ["v1.0.0"]
    again = ann.run(CALLS + 'out(it=release("org/people").to_json())')["it"]
    assert people.tags["v1.1.0"] == commit
    assert planned == again
    assert (again["outcome"], again["version"], again["commit"]) == ("tagged", "1.1.0", commit)
    assert again["changes"] == done["changes"] != []


@pytest.mark.slow
def test_a_release_that_cannot_be_made_is_refused_and_changes_nothing(
    hub: LoopbackHub, client: MakeClient, people: Repo  # noqa: F811
) -> None:  # fmt: skip
    offer(hub, people, batch(["new-1"])[1])
    ann = client("ann", "ann")
    ann.run(CALLS + 'merge("org/people", 1)')
    people.branches["v1.1.0"] = people.branches["v7"] = people.branches["main"]
    before = dict(people.branches), dict(people.tags)
    refused = ann.run(
        CALLS + 'out(hidden=refused(release, "org/people"), stated=refused(release, "org/people", "7.0.0"))'
    )
    assert refused["hidden"][0] == "VersionError"
    assert refused["hidden"][2]["name"] == "1.1.0"
    assert refused["stated"][0] == "nothing raised"  # v7 is another name than v7.0.0
    assert (before[1].keys() ^ people.tags.keys()) == {"v7.0.0"}
    ids = [f"person-{i:02d}" for i in range(24)]
    found = ann.run(
        CALLS
        + """
withdraw("org/people", [*sys.argv[1:], "new-1"], reason="error")
out(none=refused(release, "org/people"), dry=refused(release, "org/people", dry_run=True))
""",
        *ids,
    )
    assert found["none"][0] == found["dry"][0] == "InvalidInputError"
    assert found["none"][2]["repo_id"] == "org/people"
    assert sorted(people.tags) == ["v1.0.0", "v7.0.0"]


@pytest.mark.slow
def test_a_version_that_somebody_else_publishes_meanwhile_is_a_conflict(
    hub: LoopbackHub, client: MakeClient, people: Repo, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    offer(hub, people, batch(["new-1"])[1])
    other = write_crowd(tmp_path / "other", 30, version="1.1.0")
    found = client("ann", "ann").run(
        CALLS
        + """
from w2w_hub.release import next_version, push
merge("org/people", 1)
change = next_version.change
def late(*arguments):
    change(*arguments)
    next_version.change = change
    push(sys.argv[1], "org/people")
next_version.change = late
out(conflict=refused(release, "org/people", "1.5.0"), then=release("org/people").to_json())
""",
        other,
    )
    assert found["conflict"][0] == "HubConflictError"
    assert found["conflict"][2]["repo_id"] == "org/people"
    assert (found["then"]["version"], found["then"]["added"]) == ("1.2.0", {"new-1": "bob"})
    assert sorted(people.tags) == ["v1.0.0", "v1.1.0", "v1.2.0"]
