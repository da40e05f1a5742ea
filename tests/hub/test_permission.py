"""What may be published for everybody: imported rows with a license and consent, rows that state what they must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from w2w_hub import WeightDataset, relabel_rows
from w2w_hub.errors import HubError, InvalidInputError
from w2w_hub.release import push, withdraw
from w2w_hub.release.permission import missing_permission, require_permission
from w2w_hub.release.remote import Head
from w2w_hub.release.row_rules import require_stated_rows
from w2w_hub.store.hub.source import Source
from w2w_hub.store.manifest import parse_json
from w2w_hub.upstream import import_w2w

from ..upstream.published import publish

IMPORTED = {"from": "elsewhere", "license": "theirs", "consent": "given"}


def of_space(licence: str = "theirs", **imported: Any) -> dict[str, Any]:
    return {"format": "w2w-space", "licence": licence, "recipe": {"imported": IMPORTED | imported}}


@pytest.mark.parametrize(
    ("manifest", "allowed"),
    [
        (of_space(), True), (of_space(consent=None), False), (of_space(consent=" "), False),
        (of_space(consent=True), False), (of_space("unknown"), False), (of_space("unknown", consent=None), False),
        ({"format": "w2w-space", "licence": "unknown", "recipe": {}}, True),
        ({"format": "w2w-space", "licence": "unknown", "recipe": {"imported": None}}, True),
    ],
)  # fmt: skip
def test_a_space_of_imported_rows_needs_a_license_and_consent(
    manifest: dict[str, Any], allowed: bool, tmp_path: Path
) -> None:
    assert (missing_permission(tmp_path, manifest) is None) is allowed
    asked: list[str] = []

    def unknown() -> bool:
        asked.append("private?")
        raise HubError("no answer")

    require_permission(tmp_path, manifest, "org/space", private=lambda: True)
    for private in (lambda: False, unknown):
        if allowed:
            require_permission(tmp_path, manifest, "org/space", private=private)
        else:
            with pytest.raises(InvalidInputError) as caught:
                require_permission(tmp_path, manifest, "org/space", private=private)
            assert (caught.value.path, caught.value.repo_id, caught.value.name) == (tmp_path, "org/space", "consent")
    assert bool(asked) is not allowed  # the Hub is asked only if it matters


@pytest.mark.filterwarnings("ignore::w2w_hub.upstream.LeakingSplitWarning")
def test_an_imported_dataset_needs_the_consent_of_every_row(tmp_path: Path) -> None:
    publish(tmp_path / "w2w", dogs=False)
    dataset = import_w2w(tmp_path / "w2w", tmp_path / "out", k=2).dataset
    assert dataset is not None
    folder = dataset.path

    def reason() -> str | None:
        return missing_permission(folder, stated(folder))

    assert reason() is not None
    table = pd.DataFrame({"id": list(dataset.ids), "consent": "given"})
    table.loc[5, "consent"] = None
    relabel_rows(folder, table)
    assert reason() is not None
    table.loc[5, "consent"] = "given"
    relabel_rows(folder, table)
    assert reason() is None


def stated(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = parse_json((folder / "manifest.json").read_bytes(), folder)
    return found


def published(folder: Path) -> Source:
    return Source(folder, files=stated(folder)["files"])


def test_rows_that_do_not_state_what_they_must_are_named_unless_the_repository_is_private(
    make_dataset: Callable[..., WeightDataset],
) -> None:
    dataset = make_dataset()  # rows with a source, without license and consent
    folder, manifest = dataset.path, stated(dataset.path)
    remote: Any = SimpleNamespace(is_private=lambda: False)
    private: Any = SimpleNamespace(is_private=lambda: True)
    for there in (Head(), Head(commit="a" * 40)):
        with pytest.raises(InvalidInputError) as caught:
            require_stated_rows(remote, there, folder, manifest)
        assert (caught.value.path, caught.value.name) == (folder, "p0")
    with pytest.raises(InvalidInputError):
        require_stated_rows(private, Head(), folder, manifest)  # there is no repository yet
    require_stated_rows(private, Head(commit="a" * 40), folder, manifest)
    require_stated_rows(remote, Head(), folder, {**manifest, "format": "w2w-space"})
    require_stated_rows(remote, Head(commit="a" * 40, source=published(folder)), folder, manifest)  # new to nobody
    others = published(make_dataset("others", seed=1).path)  # the same ids with other weights
    with pytest.raises(InvalidInputError):
        require_stated_rows(remote, Head(commit="a" * 40, source=others), folder, manifest)
    relabel_rows(folder, pd.DataFrame({"id": list(dataset.ids), "consent": "given", "licence": "cc0-1.0"}))
    require_stated_rows(remote, Head(), folder, stated(folder))


NO_NAMES = ["people", "datasets/people", "models/people", "org/people/more", "org/people#3", "../org/people", ""]


@pytest.mark.parametrize("repo", ["models/org/people", *NO_NAMES])
def test_only_a_datasets_name_has_rows_to_withdraw(repo: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        withdraw(repo, "p0", reason="error")
    assert caught.value.name == "repo"


@pytest.mark.parametrize("repo", NO_NAMES)
def test_a_version_is_pushed_to_a_repository_with_an_owner(repo: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        push(tmp_path, repo)
    assert caught.value.name == "repo"
