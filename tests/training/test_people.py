"""Whom to train: tables and folders of people, good and bad."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from w2w_hub.errors import InvalidInputError, MissingPathError, W2WError
from w2w_hub.training import read_people

from .test_runs import portrait


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder `f` with people ann and bob."""
    for seed, name in enumerate(("ann", "bob")):
        portrait(tmp_path / "f" / name / "0.png", seed, (8, 8))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "error", "subject"),
    [
        ("p.csv", "id,pictures\n,f/ann\n", InvalidInputError, "row 1"),
        ("p.csv", "id,pictures\n\ufffe,f/ann\n", InvalidInputError, "row 1"),
        ("p.jsonl", '{"id": null, "pictures": "f/ann"}', InvalidInputError, "row 1"),
        ("p.jsonl", '{"id": NaN, "pictures": "f/ann"}', InvalidInputError, "row 1"),
        ("p.jsonl", '{"id": true, "pictures": "f/ann"}', InvalidInputError, "row 1"),
        ("p.jsonl", '{"id": 1.5, "pictures": "f/ann"}', InvalidInputError, "row 1"),
        ("p.jsonl", r'{"id": "\ud800", "pictures": "f/ann"}', InvalidInputError, "row 1"),
        ("p.jsonl", '{"id": 1, "pictures": "f/ann"}\n{"id": "1", "pictures": "f/bob"}', InvalidInputError, "'1'"),
        ("p.jsonl", '{"id": "a", "pictures": null}', InvalidInputError, "'a'"),
        ("p.jsonl", '{"id": "a", "pictures": "f/\\u0000"}', MissingPathError, "'a'"),
        ("p.jsonl", '{"id": "a", "pictures": "f/ann", "caption": 3}', InvalidInputError, "'a'"),
        ("p.jsonl", r'{"id": "a", "pictures": "f/ann", "caption": "\ud800"}', InvalidInputError, "'a'"),
        ("p.csv", "id,pictures\na,f/ann\nb,f/empty\n", MissingPathError, "empty"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_names_the_row(
    room: Path, name: str, text: str, error: type[W2WError], subject: str
) -> None:
    (room / "f" / "empty").mkdir()
    (room / name).write_text(text, "utf-8")
    with pytest.raises(error, match=subject) as caught:
        read_people(room / name)
    assert "\n" not in str(caught.value)


def test_ids_are_text_and_whole_numbers_and_labels_have_the_same(room: Path) -> None:
    (room / "p.csv").write_text("id,pictures,Beard\n0007,f/ann,true\nNA,f/bob,false\n", "utf-8")
    people, labels = read_people(room / "p.csv")
    assert [person.id for person in people] == list(labels["id"]) == ["0007", "NA"]
    table = pd.DataFrame({"id": [7, 8], "pictures": [str(room / "f" / "ann"), "f/bob"], "Beard": [True, False]})
    table.to_parquet(room / "p.parquet")
    people, labels = read_people(room / "p.parquet")
    assert [person.id for person in people] == list(labels["id"]) == ["7", "8"]
    assert people[0].folder == room / "f" / "ann"  # an absolute path


def test_people_without_pictures_and_links_to_nothing_are_named_at_once(room: Path) -> None:
    (room / "f" / "cy").mkdir()
    with pytest.raises(MissingPathError) as caught:
        read_people(room / "f")
    assert caught.value.path == room / "f" / "cy"
    (room / "f" / "cy").rmdir()
    (room / "f" / "cy").symlink_to(room / "nowhere")
    with pytest.raises(MissingPathError) as caught:
        read_people(room / "f")
    assert caught.value.path == room / "f" / "cy"
    with pytest.raises(MissingPathError):
        read_people(room / "nobody")
