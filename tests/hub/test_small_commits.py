"""Commits of a few files while others commit, answers are lost, or the Hub is overloaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from w2w_hub.errors import HubConflictError, HubError
from w2w_hub.release.small_commit import CONFLICTS, SmallCommit, commit_on_head
from w2w_hub.store.hub.client import RETRIES


class Hub:
    """Answers each commit with the next of these errors, and then makes it."""

    def __init__(self, errors: Sequence[Exception] = ()):
        self.errors, self.tried, self.head = list(errors), list[str](), 0

    @property
    def remote(self) -> Any:
        return SimpleNamespace(repo="org/people", type="dataset", client=self)

    def repo_info(self, *_: Any, **options: Any) -> Any:
        assert options == {"repo_type": "dataset", "revision": "main"}
        return SimpleNamespace(sha=f"head-{self.head}")

    def create_commit(self, repo: str, operations: list[Any], **options: Any) -> Any:
        self.tried.append(options["parent_commit"])
        self.head += 1
        if self.errors:
            raise self.errors.pop(0)
        self.operations, self.options = operations, options
        return SimpleNamespace(oid="made")


def answered(status: int) -> Exception:
    request = httpx2.Request("POST", "https://hub.test")
    return httpx2.HTTPStatusError("", request=request, response=httpx2.Response(status, request=request))


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_a_commit_is_planned_again_for_each_head_until_others_stop(slept: list[float]) -> None:
    plans: list[str] = []

    def plan(head: str) -> SmallCommit:
        plans.append(head)
        return SmallCommit("t", "d", {"a": head.encode()}, ["b"])

    hub = Hub([HubConflictError("other")] * CONFLICTS)
    assert commit_on_head(hub.remote, plan) == "made"
    assert plans == hub.tried == [f"head-{i}" for i in range(CONFLICTS + 1)]
    assert [operation.path_in_repo for operation in hub.operations] == ["a", "b"]
    assert (hub.options["commit_message"], hub.options["commit_description"]) == ("t", "d")
    hub = Hub([HubConflictError("other")] * (CONFLICTS + 1))
    with pytest.raises(HubConflictError):
        commit_on_head(hub.remote, plan)
    assert len(hub.tried) == CONFLICTS + 1
    assert slept == []


def test_a_lost_answer_is_planned_again_and_what_is_done_already_ends_the_call(slept: list[float]) -> None:
    hub = Hub([answered(503)] * RETRIES)
    assert commit_on_head(hub.remote, lambda head: SmallCommit("t")) == "made"
    assert len(slept) == RETRIES
    assert slept == sorted(slept)
    assert slept[0] < slept[-1]
    hub = Hub([answered(503)])
    done = commit_on_head(hub.remote, lambda head: "done" if hub.tried else SmallCommit("t"))
    assert (done, len(hub.tried)) == ("done", 1)


@pytest.mark.parametrize(("status", "tries"), [(503, RETRIES + 1), (400, 1)])
def test_an_overload_that_does_not_end_and_a_refusal_are_raised(status: int, tries: int) -> None:
    hub = Hub([answered(status)] * 20)
    with pytest.raises(HubError) as caught:
        commit_on_head(hub.remote, lambda head: SmallCommit("t"))
    assert caught.value.repo_id == "org/people"
    assert len(hub.tried) == tries


def test_a_file_is_committed_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"rows")
    path, data = SmallCommit("t", add={"a": tmp_path / "rows", "b": b"bytes"}).operations()
    assert (path.path_or_fileobj, data.path_or_fileobj) == (str(tmp_path / "rows"), b"bytes")
