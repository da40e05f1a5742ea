"""A loopback Hub for each test, and scripts that use it through the real clients in processes of their own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from tests.extras import skip_without_extras
from w2w_hub import ParameterLayout, write_dataset
from w2w_hub.lora.adapter import Target
from w2w_hub.store.manifest import seal

from .loopback import LoopbackHub
from .processes import Job, Nursery

HEAD = """
import json, os, sys, warnings
from pathlib import Path
def out(**values):
    print("RESULT " + json.dumps(values, default=str), flush=True)
def warned(function, *args, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = function(*args, **options)
    return value, [str(w.message) for w in caught]
def refused(function, *args, **options):
    from w2w_hub import W2WError
    try:
        function(*args, **options)
    except W2WError as error:
        return [type(error).__name__, str(error), error.data() | {"cached": getattr(error, "cached", None)}]
    return ["nothing raised", "", {}]
"""


class Spoken(NamedTuple):
    status: int
    stdout: str
    stderr: str


class Client:
    """Somebody's machine: a home with a cache, a token, and scripts run there.

    The clients read their environment when they are imported, so that every script is a process of its own.
    """

    def __init__(self, hub: LoopbackHub, home: Path, nursery: Nursery, token: str | None = None):
        self.hub, self.home, self.nursery, self.token = hub, home, nursery, token
        self.extra: dict[str, str] = {}
        home.mkdir(parents=True, exist_ok=True)

    @property
    def cache(self) -> Path:
        return self.home / "hf" / "hub"

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        return {
            **kept,
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **({"HF_TOKEN": self.token} if self.token else {}),
            **self.extra,
            **extra,
        }

    def start(self, script: str, *arguments: Any, **extra: str) -> Job:
        code = HEAD + textwrap.dedent(script)
        return self.nursery.start(code, [str(a) for a in arguments], self.environment(**extra), self.home)

    def finish(self, job: Job) -> dict[str, Any]:
        """The values that a script gave to `out`."""
        status, stdout, stderr = job.wait()
        self.listen(stdout + stderr)
        if status:
            skip_without_extras(stderr)
        assert status == 0, stderr[-4000:]
        found: dict[str, Any] = {"stderr": stderr}
        for line in stdout.splitlines():
            if line.startswith("RESULT "):
                found |= json.loads(line[7:])
        return found

    def run(self, script: str, *arguments: Any, **extra: str) -> dict[str, Any]:
        return self.finish(self.start(script, *arguments, **extra))

    def w2w(self, *words: Any, **extra: str) -> Spoken:
        """A command and what it said."""
        command = "from w2w_hub.cli import main\nmain(prog_name='w2w')"
        done = Spoken(
            *self.nursery.start(command, [str(w) for w in words], self.environment(**extra), self.home).wait()
        )
        self.listen(done.stdout + done.stderr)
        return done

    def listen(self, spoken: str) -> None:
        """Nothing secret is ever said: no token, no signed address."""
        for token in self.hub.tokens:
            assert token not in spoken
        assert "Signature" not in spoken


def seed(hub: LoopbackHub, folder: Path, repo_id: str, *, tag: bool = True) -> str:
    """Put a folder on the Hub as its manifest's version, without any client; the commit."""
    kind = "dataset" if "rows" in (manifest := json.loads((folder / "manifest.json").read_text())) else "model"
    owner = hub.token(repo_id.split("/")[0])
    repo = hub.repos.get((kind, repo_id.lower())) or hub.create(kind, repo_id, owner)
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": f"Version {manifest['version']}"}}]
    lines += [{"key": "deletedFile", "value": {"path": n}} for n in repo.files("main") if n != ".gitattributes"]
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        data, name = file.read_bytes(), file.relative_to(folder).as_posix()
        if hub.mode(name, len(data), data[:512]) == "lfs":
            sha256 = hashlib.sha256(data).hexdigest()
            hub.put(sha256, data)
            lines.append({"key": "lfsFile", "value": {"path": name, "oid": sha256}})
        else:
            lines.append({"key": "file", "value": {"path": name, "content": base64.b64encode(data).decode()}})
    commit, _ = hub.apply(repo, "main", lines, "ann", create_pr=False)
    if tag:
        hub.tag(repo, f"v{manifest['version']}", commit)
    return commit


def reseal(folder: Path, **changes: Any) -> dict[str, Any]:
    """Change fields of a folder's manifest as its writer would: with its own right checksum."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8")) | changes
    manifest.pop("checksum", None)
    (folder / "manifest.json").write_bytes(seal(manifest))
    return manifest


@dataclass(frozen=True)
class Folders:
    """Versions of one dataset, and a weight space of the first, as a user has them."""

    people: Path  # 1.0.0
    more: Path  # 1.1.0: rows added
    fewer: Path  # 2.0.0: a row is gone
    space: Path  # 1.0.0 of people


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    from w2w_hub import WeightDataset, build_space
    from w2w_hub.dataset.manifest import Compatibility

    place = tmp_path_factory.mktemp("hub")
    names = [f"mid_block.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in range(4)]
    layout = ParameterLayout({Target("unet", name): (2, 60, 60) for name in names}, 1.0)
    rows = np.random.default_rng(0).normal(size=(70, layout.size)).astype(np.float32)
    ids = [f"person-{i:02d}" for i in range(70)]
    table = pd.DataFrame({"id": ids, "Beard": [i % 2 == 0 for i in range(70)], "licence": "cc0-1.0"})
    table["source"], table["consent"] = "made up", "not needed"
    table["split"] = ["test" if i % 6 == 5 else "train" for i in range(70)]

    def write(name: str, version: str, chosen: list[int]) -> Path:
        write_dataset(
            rows[chosen], place / name, layout=layout, ids=[ids[i] for i in chosen], labels=table.iloc[chosen],
            name="people", version=version, license="cc0-1.0",
            compatibility=Compatibility("org/base", None, "seed-0"),
        )  # fmt: skip
        return place / name

    people = write("people", "1.0.0", list(range(60)))
    more, fewer = write("more", "1.1.0", list(range(70))), write("fewer", "2.0.0", list(range(1, 70)))
    space = build_space(WeightDataset.open(people), 8, name="space", version="1.0.0").save(place / "space")
    return Folders(people, more, fewer, space)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as started:
        started.user("org")
        started.user("ann", org="write", lab="read")
        started.user("bob")
        yield started


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    started = Nursery(tmp_path_factory.mktemp("scenarios"))
    yield started
    started.close()


@pytest.fixture
def client(hub: LoopbackHub, nursery: Nursery, tmp_path: Path) -> Any:
    """Make a machine: ``client("name")``, with the token of a user if one is named."""

    def make(name: str = "reader", user: str | None = None, role: str = "write") -> Client:
        return Client(hub, tmp_path / f"home-{name}", nursery, hub.token(user, role) if user else None)

    return make
