"""Limits of the checks of contributions, on both sides: lengths, characters, what says nothing, values out of range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.hub.contributions import LAYOUT, trained
from tests.hub.test_contribution_checks import (  # noqa: F401, two fixtures
    LINE,
    STATED,
    checks,
    forged,
    header,
    packed,
    people,
    reference,
)
from w2w_hub import write_dataset
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnsafePathError, UnsupportedFormatError
from w2w_hub.release.contribution.batch import MAX_BATCH_ROWS, MAX_COLUMNS, Batch, pack_batch, read_batch
from w2w_hub.release.contribution.checks import Reference, check_batch

NEW = trained(21)[0]


@pytest.mark.parametrize("first", "=+-@\uff1d\uff0b\uff0d\uff20")
def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_refused(reference: Reference, first: str) -> None:  # noqa: F811
    assert checks(reference, NEW, {"source": f"{first}1"}) == {"source"}
    assert checks(reference, NEW, {"Hair": f" {first}1"}) == {"label"}
    assert checks(reference, NEW, {"Hair": f"a{first}1"}) == set()


@pytest.mark.parametrize("text", ["a < b", "a > b", " ", "a\tb", "a\x00", "a\u200bb", "x" * 501])
def test_a_text_that_is_not_plain_is_refused(reference: Reference, text: str) -> None:  # noqa: F811
    assert checks(reference, NEW, {"Hair": text}) == {"label"}
    assert checks(reference, NEW, {"source": text}) == {"source"}


@pytest.mark.parametrize("text", ["", "unknown", "None", "null", "NaN", "n/a", "NA", "tbd", "TODO!", "?", "-", "._."])
def test_a_statement_that_says_nothing_is_none(reference: Reference, text: str) -> None:  # noqa: F811
    for name in ("source", "consent", "licence"):
        assert checks(reference, NEW, {name: text}) == {name}


def test_texts_and_ids_of_the_longest_length_are_accepted(reference: Reference) -> None:  # noqa: F811
    assert checks(reference, NEW, {"Hair": "x" * 500, "source": "ö" * 500, "id": "a" * 128}) == set()
    assert checks(reference, NEW, {"id": "a" * 129}) == {"id"}


def test_an_id_that_was_withdrawn_or_merged_is_refused_beside_other_problems(reference: Reference) -> None:  # noqa: F811
    rows = np.stack([NEW, trained(22)[0]])
    labels: Any = ({"id": "gone", **STATED, "licence": "free"}, {"id": "GONE", **STATED})
    found = check_batch(Batch("", (), rows, labels), reference, withdrawn={"gone": "2026-01-01"})
    assert [{p.check for p in v.problems} for v in found] == [{"withdrawn", "licence"}, {"id"}]


def test_values_beyond_the_range_of_the_datasets_numbers_are_refused(tmp_path: Path) -> None:
    half = trained(0, 12).astype(np.float16)
    dataset = write_dataset(half, tmp_path / "half", layout=LAYOUT, ids=[f"p{i}" for i in range(12)], name="half")
    reference = Reference.of(dataset)  # noqa: F811
    row = trained(23)[0]
    assert "finite" not in checks(reference, row, {})
    assert "duplicate" in checks(reference, half[3].astype(np.float32), {})  # as it will be stored
    row[4] = 7e4
    assert checks(reference, row, {}) == {"finite"}


# ------------------------------------------------------------------ files
def test_a_batch_holds_1_to_1000_rows_of_one_size(tmp_path: Path) -> None:
    rows = np.zeros((MAX_BATCH_ROWS + 1, LAYOUT.size), np.float16)
    names = [f"p{i}" for i in range(len(rows))]
    name, files = pack_batch(names[1:], rows[1:], [{}] * MAX_BATCH_ROWS, {}, LAYOUT)
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    assert len(read_batch(tmp_path, name, LAYOUT)) == MAX_BATCH_ROWS
    for wrong in ((names, rows, [{}] * len(rows)), ([], rows[:0], []), (names[:2], rows[:1], [{}] * 2),
                  (names[:1], rows[:1, :-1], [{}]), (names[:1], rows[:1], [{}] * 2)):  # fmt: skip
        with pytest.raises(InvalidInputError):
            pack_batch(*wrong, {}, LAYOUT)
    data = save({"weights": rows}, metadata=header())
    with pytest.raises(CorruptFileError):
        read_batch(tmp_path, forged(tmp_path, data, LINE * len(rows)), LAYOUT)


def line(columns: int) -> bytes:
    return b'{"id": "a"' + b"".join(b', "c%d": 1' % i for i in range(columns - 1)) + b"}\n"


def test_a_line_of_labels_has_a_limited_number_of_plain_values(tmp_path: Path) -> None:
    rows = save({"weights": trained(1)}, metadata=header())
    name = forged(tmp_path, rows, line(MAX_COLUMNS))
    assert len(read_batch(tmp_path, name, LAYOUT).labels[0]) == MAX_COLUMNS
    for labels in (line(MAX_COLUMNS + 1), b'{"id": "a", "c": {}}\n', b'["a"]\n', b"\n"):
        with pytest.raises(CorruptFileError):
            read_batch(tmp_path, forged(tmp_path, rows, labels), LAYOUT)


@pytest.mark.parametrize("wrong", [{"format": "w2w-dataset"}, {"format_version": "2"}])
def test_a_batch_of_another_format_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    rows = save({"weights": trained(1)}, metadata=header(**wrong))
    with pytest.raises(UnsupportedFormatError) as caught:
        read_batch(tmp_path, forged(tmp_path, rows, LINE), LAYOUT)
    assert caught.value.path is not None


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("labels.jsonl")], ids=["folder", "link"])
def test_a_batch_of_which_a_file_is_none_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    name = packed(tmp_path)
    rows = tmp_path / "contributions" / name / "rows.safetensors"
    rows.unlink()
    make(rows)
    with pytest.raises((UnsafePathError, CorruptFileError)):
        read_batch(tmp_path, name, LAYOUT)


def test_a_changed_rows_file_is_not_the_one_that_the_name_states(tmp_path: Path) -> None:
    name = packed(tmp_path)
    (tmp_path / "contributions" / name / "rows.safetensors").write_bytes(
        save({"weights": trained(2, 2)}, metadata=header())
    )
    with pytest.raises(CorruptFileError):
        read_batch(tmp_path, name, LAYOUT)
