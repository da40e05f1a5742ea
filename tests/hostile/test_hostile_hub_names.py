"""Names, titles and versions that a Hub repository or a lock file holds are shown as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from w2w_hub.cli import main

from ..hub.conftest import Client, client, hub, nursery, seed  # noqa: F401, fixtures
from ..hub.loopback import LoopbackHub
from ..hub.offers import batch, offer, write_crowd
from .hostile_names import FILE_NAME, HOSTILE, MARK, make_world, require_shown_safely

BY_THE_HUB = ("space-app", "push", "log", "pin", "restore", "archive", "cite", "review", "merge", "release", "withdraw")


def test_commands_show_what_a_repository_holds_as_text(
    hub: LoopbackHub,  # noqa: F811
    client: Callable[..., Client],  # noqa: F811
    tmp_path: Path,
) -> None:
    world, ann = make_world(tmp_path / "world"), client("ann", "ann")
    lock, bag = world.people.parent / "w2w.lock", world.people.parent / "bag"

    def w2w(*words: object) -> str:
        done = ann.w2w(*words)
        require_shown_safely(done.stdout)
        require_shown_safely(done.stderr)
        assert done.status == 0, done.stderr
        return done.stdout + done.stderr

    assert MARK in w2w("push", world.numbered, "org/people", "--version", "1.0.0", "--message", HOSTILE, "--dry-run")
    w2w("push", world.numbered, "org/people", "--version", "1.0.0", "--message", HOSTILE)
    title = {"key": "header", "value": {"summary": HOSTILE}}
    note = {"key": "file", "value": {"path": "note", "content": base64.b64encode(b"x").decode()}}
    repo = hub.repos[("dataset", "org/people")]
    commit, _ = hub.apply(repo, "main", [title, note], "ann", create_pr=False)
    hub.tag(repo, "v1.0.1", commit)
    assert MARK in w2w("log", "org/people")
    assert MARK in w2w("diff", "org/people@v1.0.0", world.later)
    assert MARK in w2w("info", "org/people@v1.0.0")
    assert MARK in w2w("info", "org/people@v1.0.0", "--json")
    assert MARK in w2w("pin", "org/people@v1.0.0", "-o", lock)
    w2w("info", lock)
    assert MARK in w2w("archive", lock, "-o", bag)
    assert MARK in w2w("restore", lock, "--from", bag)


@pytest.mark.slow
def test_maintainers_are_shown_what_a_pull_request_says_as_text(
    hub: LoopbackHub,  # noqa: F811
    client: Callable[..., Client],  # noqa: F811
    tmp_path: Path,
) -> None:
    seed(hub, write_crowd(tmp_path / "crowd"), "org/people")
    repo, ann = hub.repos[("dataset", "org/people")], client("ann", "ann")
    offer(hub, repo, batch([HOSTILE], source=HOSTILE)[1], title=HOSTILE)
    offer(hub, repo, {**batch(["new-1"])[1], FILE_NAME: b"x", HOSTILE: b"x"}, title=HOSTILE)
    for words in (
        ("review", "org/people"), ("review", "org/people#1"), ("review", "org/people#2"), ("merge", "org/people#1"),
        ("merge", "org/people#2"), ("review", f"org/{HOSTILE}#1"), ("release", f"org/{HOSTILE}"),
        ("withdraw", "org/people", HOSTILE, "--reason", "consent"),
    ):  # fmt: skip
        done = ann.w2w(*words)
        require_shown_safely(done.stdout)
        require_shown_safely(done.stderr)
        assert MARK in done.stdout + done.stderr
        assert done.status == (0 if words == ("review", "org/people") else 1 if "#" in words[1] and words[0] == "review"
                               and HOSTILE not in words[1] else 2)  # fmt: skip


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock file with hostile fields wherever one is text."""
    pin = {
        "repo": "org/people_1.x", "revision": "v1", "commit": "a" * 40, "digest": f"d{HOSTILE}", "licence": HOSTILE,
        "version": f"1{HOSTILE}", "manifest_sha256": "b" * 64, "published": f"2026{HOSTILE}",
    }  # fmt: skip
    space = pin | {"kind": "space", "repo": "org/space", "recipe": {"dataset": HOSTILE, "dataset_digest": HOSTILE}}
    data = {"format": "w2w-lock", "format_version": 1, "packages": {HOSTILE: HOSTILE}}
    path = tmp_path / f"{FILE_NAME}.lock"
    path.write_text(json.dumps(data | {"pins": [pin | {"kind": "dataset"}, space]}), "utf-8")
    return path


@pytest.mark.parametrize("kind", ["bibtex", "cff"])
def test_a_citation_holds_what_a_lock_says_as_text_of_its_own_format(lock: Path, kind: str) -> None:
    result = CliRunner().invoke(main, ["cite", str(lock), "--format", kind])
    require_shown_safely(result.output)
    assert result.exit_code == 0, result.output
    if kind == "cff":
        cited = yaml.safe_load(result.stdout)
        assert cited["version"] == f"1{HOSTILE}"
        assert cited["references"][0]["identifiers"][0]["value"] == f"sha256:d{HOSTILE}"
        return
    entries = result.stdout.strip().split("\n\n")
    assert len(entries) == 2
    for entry in entries:
        depths = [entry[: i + 1].count("{") - entry[: i + 1].count("}") for i in range(len(entry))]
        assert depths[-1] == 0
        assert min(depths[entry.index("{") : -1]) > 0  # nothing closes the entry before its end
        assert len(entry.splitlines()) == entry.count(" = {") + 2  # a field a line
        assert "\\input" not in entry


@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["restore"], ["archive", "--out", "bag"]])
def test_a_lock_is_refused_or_described_as_text(
    lock: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [words[0], str(lock), *words[1:]])
    assert isinstance(result.exception, (SystemExit, type(None)))
    require_shown_safely(result.output)
