"""Imported people are private: nobody who can be recognized in them has agreed to more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.upstream.published import publish
from w2w_hub import build_space, relabel_rows
from w2w_hub.upstream import import_w2w

from .conftest import Client
from .loopback import LoopbackHub

PUSH = """
from w2w_hub import release
found = {}
for name, folder, repo, private, *options in json.loads(sys.argv[1]):
    try:
        found[name] = release.push(folder, repo, version="1.0.0", private=private, **dict(*options)).outcome
    except Exception as error:
        found[name] = [type(error).__name__, str(getattr(error, "path", "")), getattr(error, "name", "")]
out(**found)
"""


def test_imported_people_are_pushed_to_private_repositories_only(
    hub: LoopbackHub, client: Callable[..., Client], tmp_path: Path
) -> None:
    import json

    publish(tmp_path / "w2w", celebrities=True, dogs=False)
    made = import_w2w(tmp_path / "w2w", tmp_path / "out")
    assert made.dataset is not None
    people, space, own = str(made.path / "dataset"), str(made.path / "space"), str(tmp_path / "own")
    build_space(made.dataset, 4, directions=False).save(own)
    agreed = str(tmp_path / "agreed")
    import_w2w(tmp_path / "w2w", agreed, consent="signed forms, 2024", k=2)
    pushes = [
        ["people", people, "org/people", False], ["space", space, "org/space", False], ["own", own, "org/own", False],
        ["bare", own, "org/own", False, {"population": False}],
        ["private people", people, "org/people", True], ["again", people, "org/people", False],
        ["private space", space, "org/space", True],
        ["agreed", f"{agreed}/dataset", "org/agreed", False],
        ["agreed space", f"{agreed}/space", "org/agreed-space", False],
    ]  # fmt: skip
    found = client("ann", "ann").run(PUSH, json.dumps(pushes))
    for name, folder in (("people", people), ("space", space), ("own", own), ("bare", own)):
        assert found[name] == ["InvalidInputError", folder, "consent"]
    assert found["private people"] == found["private space"] == "published"
    assert found["again"] == "unchanged"
    assert found["agreed"] == found["agreed space"] == "published"
    assert hub.repos[("dataset", "org/people")].private
    assert ("space", "org/own") not in hub.repos

    table = made.dataset.labels[["split"]].assign(consent="a form")
    changed = relabel_rows(made.path / "dataset", table)  # as the people agree
    assert changed.manifest.imported is not None
    build_space(changed, 4, directions=False).save(tmp_path / "later")
    later = client("ann", "ann").run(PUSH, json.dumps([["later", str(tmp_path / "later"), "org/later", False]]))
    assert later["later"] == "published"
