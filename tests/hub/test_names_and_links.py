"""Names that say which kind is meant, links from a weight space's card, and what is told about tokens."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from w2w_hub.store.cards import split_card

from .conftest import Client, Folders, seed
from .loopback import LoopbackHub

MakeClient = Callable[..., Client]
PUSH = "from w2w_hub.release import pin, push\nspace, people, more = sys.argv[1:]\n"


def card(hub: LoopbackHub, kind: str, name: str, revision: str = "main") -> tuple[dict[str, Any], str]:
    return split_card(hub.blobs[hub.repos[(kind, name)].files(revision)["README.md"].etag].decode())


def test_a_card_links_the_dataset_that_the_user_or_a_lock_names_if_it_is_the_right_one(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    seed(hub, folders.people, "org/people")
    seed(hub, folders.more, "org/people")
    script = """
    plain = push(space, "org/plain", dry_run=True)
    out(plain=plain.outcome, unlinked=plain.dataset,
        main=refused(push, space, "org/space", dataset="org/people"),
        folder=refused(push, space, "org/space", dataset=people),
        data=refused(push, people, "org/other", dataset="org/people"),
        named=push(space, "org/space", dataset="datasets/org/people@v1.0.0").outcome)
    pin(["org/people@v1.0.0", "org/people@v1.1.0"], "w2w.lock")
    out(locked=push(space, "org/locked", dataset="w2w.lock").outcome,
        next=push(space, "org/locked", version="1.0.1").outcome)
    pin(["org/people@v1.1.0"], "other.lock")
    out(other=refused(push, space, "org/more", dataset="other.lock"))
    """
    done = client("ann", "ann").run(PUSH + textwrap.dedent(script), folders.space, folders.people, folders.more)
    assert (done["plain"], done["named"], done["locked"]) == ("planned", "published", "published")
    assert {done[name][0] for name in ("main", "folder", "data", "other")} == {"InvalidInputError"}
    assert "org/people" in done["main"][1]
    assert done["unlinked"] is None  # the newest version beside it is another one
    for name in ("org/space", "org/locked"):
        data, body = card(hub, "model", name)
        assert data["datasets"] == ["org/people"]
        assert "/datasets/org/people/tree/v1.0.0)" in body
        assert "base_model" not in data  # the Hub has none of that name
        assert f"# {name.partition('/')[2]} 1.0." in body
    assert hub.repos[("model", "org/locked")].tags.keys() == {"v1.0.0", "v1.0.1"}
    assert ("model", "org/more") not in hub.repos


def test_a_name_that_the_other_kind_has_needs_the_prefix_which_every_call_takes(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    script = """
    from w2w_hub.release import log
    out(first=push(people, "datasets/org/people").repo,
        taken=refused(push, space, "org/people"), dry=refused(push, space, "org/people", dry_run=True),
        wrong=refused(push, space, "datasets/org/space"), none=refused(push, space, "datasets/space"),
        stated=push(space, "models/org/people").repo, linked=push(space, "org/beside", dry_run=True).dataset,
        elsewhere=push(space, "ann/space", dry_run=True).dataset, again=push(people, "org/people").outcome,
        log=[r.tag for r in log("models/org/people")])
    """
    done = client("ann", "ann").run(PUSH + textwrap.dedent(script), folders.space, folders.people, folders.more)
    assert (done["first"], done["stated"], done["again"]) == ("org/people", "org/people", "unchanged")
    assert {done[name][0] for name in ("taken", "dry", "wrong", "none")} == {"InvalidInputError"}
    for name in ("taken", "dry"):
        assert "models/org/people" in done[name][1]
    assert "models/org/space" in done["wrong"][1]
    assert done["log"] == ["v1.0.0"]
    assert done["linked"] == "org/people@v1.0.0"  # public, of the same owner, and with the digest of the recipe
    assert done["elsewhere"] is None
    assert {key for key in hub.repos if key[1] == "org/people"} == {("dataset", "org/people"), ("model", "org/people")}


def test_no_token_a_refused_token_and_missing_rights_are_told_apart(
    hub: LoopbackHub, client: MakeClient, folders: Folders
) -> None:
    script = """
    tokens = {"nobody": False, "expired": os.environ["EXPIRED"], "bob": os.environ["BOB"]}
    out(**{name: refused(push, people, "org/new", token=token) for name, token in tokens.items()})
    """
    tokens = {"EXPIRED": hub.token("ann", "expired"), "BOB": hub.token("bob")}
    folder = (folders.space, folders.people, folders.more)
    done = client("nobody").run(PUSH + textwrap.dedent(script), *folder, **tokens)
    told = {name: done[name] for name in ("nobody", "expired", "bob")}
    assert {kind for kind, _, _ in told.values()} == {"HubAccessError"}
    assert len({text for _, text, _ in told.values()}) == 3
    assert "HF_TOKEN" in told["nobody"][1]
    assert "expired" in told["expired"][1]
    assert "log in" not in told["bob"][1]  # who is logged in already
