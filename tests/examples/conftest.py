"""The room of the examples, and a loopback Hub with two versions of its dataset and one of its weight space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import Client, seed
from tests.hub.loopback import LoopbackHub
from tests.hub.offers import offer
from tests.hub.processes import Nursery
from tests.tiny_world import TinyWorld

from .room import copied, link, make_room, state
from .running import on_the_hub


@pytest.fixture(scope="session")
def kept_room(
    made_once: Callable[..., Path], tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The room, made once and copied by each process; no example may change its files in place.

    A link from another process would count as a change of a file that is just being hashed.
    """
    first = made_once("room", lambda folder: make_room(folder, tiny_world))
    folder = copied(first, tmp_path_factory.mktemp("kept") / "room")
    before = state(folder)
    yield folder
    assert state(folder) == before


@pytest.fixture
def room(kept_room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the room to work in; the current folder."""
    folder = link(kept_room, tmp_path / "room")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def opened_pipe(kept_room: Path) -> Any:
    from w2w_hub import W2WPipeline

    return W2WPipeline.from_pretrained(kept_room / "space")


@pytest.fixture
def pipe(opened_pipe: Any) -> Any:
    """The pipeline of the room's weight space, without an identity."""
    opened_pipe.identity = None
    return opened_pipe


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    started = Nursery(tmp_path_factory.mktemp("examples"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def published(kept_room: Path, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A machine that uses a Hub with org/people (v1.0.0, v1.1.0) and org/space (v1.0.0), and has pins of both."""
    from w2w_hub import add_rows, read_labels

    folder = tmp_path_factory.mktemp("published")
    newer = link(kept_room / "people", folder / "people-1.1")
    labels = read_labels(kept_room / "more.csv")
    add_rows(newer, kept_room / "new-lora", labels=labels, initialization="seed-0", version="1.1.0")
    with LoopbackHub() as hub:
        hub.user("org")
        for path, repo in (
            (kept_room / "people", "org/people"),
            (newer, "org/people"),
            (kept_room / "space", "org/space"),
        ):
            seed(hub, path, repo)
        client = Client(hub, folder / "home", nursery, hub.token("org"))
        for line in ("w2w pin org/space@v1.0.0 org/people@v1.0.0 -o w2w.lock", "w2w archive w2w.lock -o bundle"):
            on_the_hub(line, client, client.home)
        yield client


@pytest.fixture
def empty_hub(nursery: Nursery, tmp_path: Path) -> Iterator[Client]:
    """A machine that uses a Hub without repositories."""
    with LoopbackHub() as hub:
        hub.user("org")
        yield Client(hub, tmp_path / "home", nursery, hub.token("org"))


@pytest.fixture
def maintained(kept_room: Path, nursery: Nursery, tmp_path: Path) -> Iterator[Client]:
    """A machine of the maintainers of org/people, to which somebody offers an adapter in pull request #12."""
    from w2w_hub import WeightDataset, read_adapter
    from w2w_hub.release.contribution.batch import pack_batch

    layout = WeightDataset.open(kept_room / "people").layout
    label = {"source": "trained for this example", "licence": "cc0-1.0", "consent": "a drawing"}
    row = layout.flatten(read_adapter(kept_room / "my-lora"))
    _, files = pack_batch(["my-lora"], row[None], [label], {}, layout)
    with LoopbackHub() as hub:
        hub.user("org")
        seed(hub, kept_room / "people", "org/people")
        repo = hub.repos[("dataset", "org/people")]
        for _ in range(11):
            hub.open_pull(repo, "an earlier one", "somebody", "closed")
        assert offer(hub, repo, files) == 12
        yield Client(hub, tmp_path / "home", nursery, hub.token("org"))
