"""Captions of pictures: text files and tables beside them, good and bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from w2w_hub.errors import CorruptFileError, InvalidInputError, MissingPathError, W2WError
from w2w_hub.training import read_people, read_pictures
from w2w_hub.training.encoding import with_parts_left_out

from .test_runs import QUICK, portrait


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, a.png and b.png."""
    for seed, name in enumerate(("a.png", "b.png")):
        portrait(tmp_path / "ann" / name, seed, (8, 8))
    return tmp_path / "ann"


def captions(folder: Path) -> list[str | None]:
    return [picture.caption for picture in read_pictures(folder, (8, 8))]


@pytest.mark.parametrize(
    ("name", "content", "caption"),
    [
        ("a.txt", b"\xef\xbb\xbfsks person,\r\n hat\r\n", "sks person, hat"),
        ("a.txt", b"", None),
        ("a.txt", b" ,, \n", None),
        ("metadata.csv", b"\xef\xbb\xbffile_name,text\r\na.png,\"sks person, hat\"\r\n", "sks person, hat"),
        ("metadata.csv", b"file_name, prompt\na.png,sks person\n", "sks person"),
        ("metadata.csv", b"file_name,text\na.png,\n", None),
        ("metadata.jsonl", b'{"file_name": "./a.png", "caption": "sks"}\r\n\r\n', "sks"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "sks\u2028hat\x85red"}'.encode(), "sks hat red"),
        ("metadata.jsonl", b'{"file_name": "a.png", "caption": "c", "text": "t"}', "t"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": null}', None),
        ("metadata.jsonl", b'{"file_name": "a.png"}', None),
    ],
)  # fmt: skip
def test_captions_are_read_as_they_are_written(folder: Path, name: str, content: bytes, caption: str | None) -> None:
    (folder / name).write_bytes(content)
    assert captions(folder) == [caption, None]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.txt", "sks é".encode("latin-1"), CorruptFileError),
        ("metadata.csv", b"file_name,text\na.png,sks, hat\n", CorruptFileError),
        ("metadata.csv", b"file_name,text\na.png\n", CorruptFileError),
        ("metadata.csv", b'file_name,text\na.png,"sks\n', CorruptFileError),
        ("metadata.csv", b"picture,text\na.png,sks\n", CorruptFileError),
        ("metadata.csv", b"file_name,text\n../a.png,sks\n", InvalidInputError),
        ("metadata.csv", b"file_name,description\na.png,sks\n", InvalidInputError),
        ("metadata.jsonl", b'{"file_name": "a.png", "description": "sks"}', InvalidInputError),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": ""}\n{"file_name": "a.png"}', InvalidInputError),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": NaN}', CorruptFileError),
        ("metadata.jsonl", rb'{"file_name": "a.png", "text": "\ud800"}', CorruptFileError),
        ("metadata.jsonl", b"[" * 100_000, CorruptFileError),
        ("metadata.parquet", b"PAR1", InvalidInputError),
        ("metadata.json", b"[]", InvalidInputError),
    ],
)  # fmt: skip
def test_captions_that_cannot_be_used_name_their_file_in_one_line(
    folder: Path, name: str, content: bytes, error: type[W2WError]
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(error) as caught:
        read_pictures(folder, (8, 8))
    assert caught.value.path == folder / name
    assert "\n" not in str(caught.value)


WORDS = ["a.png", "b.png", "file_name", "text", "sks", ",", '"', "\n", "\r", "{", "}", ":", "\0", "é", "null"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["a.txt", "metadata.csv", "metadata.jsonl"]),
    content=st.binary(max_size=60)
    | st.lists(st.sampled_from(WORDS), max_size=20).map(lambda parts: "".join(parts).encode()),
)
def test_whatever_a_file_of_captions_holds_is_read_or_one_line_that_names_it(
    folder: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    found, refused = [], None
    try:
        found = captions(folder)
    except (CorruptFileError, InvalidInputError) as error:
        refused = error
    (folder / name).unlink()
    assert all(caption is None or caption.strip() for caption in found)
    assert refused is None or (refused.path, "\n" in str(refused)) == (folder / name, False)


def test_two_tables_are_refused_and_a_table_of_several_people_too(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "sks"}), "utf-8")
    (folder / "metadata.csv").write_text("file_name,text\n", "utf-8")
    with pytest.raises(InvalidInputError, match="ann"):
        read_pictures(folder, (8, 8))
    (folder / "metadata.csv").rename(folder.parent / "metadata.csv")
    with pytest.raises(InvalidInputError) as caught:
        read_people(folder.parent)
    assert caught.value.path == folder.parent / "metadata.csv"


@pytest.mark.parametrize("caption", [",sks person, hat", "sks person,, hat,", " , sks person ,hat , "])
def test_empty_parts_of_a_caption_do_not_count(caption: str) -> None:
    assert with_parts_left_out(caption, QUICK, 1) == ["sks person, hat"]
    assert set(with_parts_left_out(caption, replace(QUICK, caption_dropout=1.0), 4)) == {"sks person"}


def test_a_table_finds_a_picture_whose_name_has_another_normal_form(folder: Path) -> None:
    (folder / "a.png").rename(folder / "e\u0301.png")
    (folder / "metadata.csv").write_text("file_name,text\n\u00e9.png,sks\n", "utf-8")
    assert sorted(captions(folder), key=str) == [None, "sks"]


# ---------------------------------------------------------------- pictures
def test_pictures_of_formats_that_are_not_read_are_named(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).rename(folder / f"{name[0]}.HEIC")
    with pytest.raises(MissingPathError, match=r"a\.HEIC"):
        read_pictures(folder, (8, 8))


def test_a_folder_of_folders_and_a_link_to_nothing_are_named(folder: Path) -> None:
    with pytest.raises(MissingPathError, match="train-many"):
        read_pictures(folder.parent, (8, 8))
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(folder / "c.png")
    with pytest.raises(MissingPathError) as caught:
        read_pictures(folder, (8, 8))
    assert caught.value.path == folder / "b.png"
