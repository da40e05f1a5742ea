"""Limits of the checks of contributions, on both sides: lengths, characters, what says nothing, values out of range."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
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
    put,
    reference,
)
from w2w_hub import Compatibility, SplitRule, write_dataset
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnsafePathError, UnsupportedFormatError
from w2w_hub.release.contribution.batch import (
    MAX_COLUMNS,
    Batch,
    batch_files,
    pack_batch,
    parse_batch_path,
    read_batch,
)
from w2w_hub.release.contribution.checks import Finding, Reference, Verdict, check_batch
from w2w_hub.release.contribution.hub_merge import merge_problems
from w2w_hub.release.contribution.pending import MergeRecord, pending_batches
from w2w_hub.release.contribution.requests import link_file
from w2w_hub.release.contribution.review import Review

NEW = trained(21)[0]
MOST = 1000  # rows of a batch


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


def test_an_adapter_whose_changes_are_in_one_direction_only_is_an_outlier(reference: Reference) -> None:  # noqa: F811
    row = NEW.copy()
    for slot in LAYOUT.slots:  # B of rank 1 in one module, none in the others, and the norm that rows have
        row[slot.b_offset : slot.end] = 0
    slot = LAYOUT.slots[0]
    b = np.zeros((slot.outputs, slot.rank), np.float32)
    b[:, 0] = np.random.default_rng(5).normal(size=slot.outputs) * 0.3 * (len(LAYOUT.slots) * slot.rank) ** 0.5
    row[slot.b_offset : slot.end] = b.ravel()
    assert checks(reference, row, {}) == {"spectrum"}


@pytest.mark.parametrize(("initialisation", "compared"), [("seed-7", True), ("unknown", False)])
def test_without_a_published_initialization_the_first_row_of_a_shared_one_stands_for_it(
    tmp_path: Path, initialisation: str, compared: bool
) -> None:
    dataset = write_dataset(
        trained(0, 12), tmp_path / "d", layout=LAYOUT, ids=[f"p{i}" for i in range(12)], name="d",
        compatibility=Compatibility(None, None, initialisation),
    )  # fmt: skip
    labels: Any = tuple({"id": f"ann-{i}", **STATED} for i in range(2))
    elsewhere = np.random.default_rng(1).normal(size=LAYOUT.size).astype(np.float32)
    found = check_batch(Batch("", (), np.stack([NEW, elsewhere]), labels), Reference.of(dataset))
    assert Reference.of(dataset).start_is_row is compared
    cosines = [verdict.facts.get("initialisation_cosine") for verdict in found]
    named = ["initialisation" in {problem.check for problem in verdict.problems} for verdict in found]
    if compared:
        assert cosines[0] is not None
        assert cosines[0] > 0.8 > 0.3 > abs(cosines[1] or 0)
        assert named == [False, True]
    else:
        assert (cosines, named) == ([None, None], [False, False])
        assert len(found[0].notes) == len(Reference.of(dataset).dataset.manifest.kinds) + 1


def test_the_column_that_decides_the_split_is_stated(tmp_path: Path) -> None:
    ids = [f"p{i}" for i in range(12)]
    table = pd.DataFrame({"id": ids, "who": [f"person {i // 2}" for i in range(12)]})
    for rule, missing in ((SplitRule("who", 0.3), {"label"}), (SplitRule(holdout=0.3), set())):
        place = tmp_path / rule.column
        dataset = write_dataset(trained(0, 12), place, layout=LAYOUT, ids=ids, labels=table, name="d", split_rule=rule)
        reference = Reference.of(dataset)  # noqa: F811
        assert checks(reference, NEW, {}) == missing
        assert checks(reference, NEW, {"who": "person 20"}) == set()


# ------------------------------------------------------------------ files
@pytest.mark.parametrize(
    "name", ["", "..", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0", "0123456789abcdef\n"]
)
def test_only_16_hexadecimal_digits_name_a_batch(tmp_path: Path, name: str) -> None:
    assert parse_batch_path(f"contributions/{name}/rows.safetensors") is None
    assert parse_batch_path(f"other/{'0' * 16}/rows.safetensors") is None
    assert parse_batch_path(f"contributions/{'0' * 16}/more/rows.safetensors") is None
    with pytest.raises(UnsafePathError):
        read_batch(tmp_path, name, LAYOUT)


def test_what_is_no_merged_batch_is_listed_with_the_reason() -> None:
    record = MergeRecord("a" * 16, 3, "ann", "1" * 40, "2026-01-01", {"p": "2" * 64})
    place = [f"contributions/{letter * 16}" for letter in "abcd"]
    whole = [f"{folder}/{name}" for folder in place for name in ("rows.safetensors", "labels.jsonl", "merged.json")]
    there = {
        "contributions/" + "a" * 16 + "/merged.json": record.to_bytes(),
        "contributions/" + "b" * 16 + "/merged.json": record.to_bytes(),  # of another batch
        "contributions/" + "d" * 16 + "/merged.json": b"{",
        "contributions/" + "f" * 16 + "/merged.json": replace(record, batch="f" * 16).to_bytes(),
    }
    remote: Any = SimpleNamespace(repo="org/people", read=lambda commit, path, most: there.get(path))
    odd = ["contributions/x.txt", f"contributions/{'A' * 16}/rows.safetensors", f"{place[0]}/deep/rows.safetensors"]
    halves = [f"contributions/{'e' * 16}/rows.safetensors", f"contributions/{'f' * 16}/labels.jsonl"]
    paths = ["README.md", "labels/train.parquet", *odd, *whole[:-1], *halves, f"contributions/{'f' * 16}/merged.json"]
    found = pending_batches(remote, "f" * 40, paths)
    assert found.records == (record,)
    assert (found.ids, found.digests) == ({"p": record}, {"2" * 64: record})
    assert len(found.others) == 8
    for path in (*odd, *place[1:], f"contributions/{'e' * 16}", f"contributions/{'f' * 16}"):
        assert sum(path in other for other in found.others) == 1
    assert found.files["a" * 16] == tuple(whole[:3])


def test_half_a_batch_on_main_is_a_problem_that_names_its_folder_and_none_of_it_is_not() -> None:
    wanted = batch_files("a" * 16)
    blobs = {path: f"blob of {path}" for path in wanted}
    request: Any = SimpleNamespace(blobs=blobs, commit="c" * 40)
    entries = {path: SimpleNamespace(blob_id=blob) for path, blob in blobs.items()}
    remote: Any = None  # nothing is asked of the Hub
    assert merge_problems(remote, "h", {"README.md": entries[wanted[0]]}, request, "a" * 16) == []
    for path in wanted:
        half = {path: entries[path]}
        other = {**entries, path: SimpleNamespace(blob_id="another")}
        for there in (half, other):
            (problem,) = merge_problems(remote, "h", there, request, "a" * 16)
            assert f"contributions/{'a' * 16}/" in problem


def test_a_file_of_the_cache_is_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blob").write_bytes(b"rows")
    (tmp_path / "cached").symlink_to("blob")
    link_file(tmp_path / "cached", tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == (tmp_path / "blob").stat().st_ino

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_file(tmp_path / "cached", tmp_path / "copied")
    assert not (tmp_path / "copied").is_symlink()
    assert (tmp_path / "copied").read_bytes() == b"rows"


def test_a_batch_holds_1_to_1000_rows_of_one_size(tmp_path: Path) -> None:
    rows = np.zeros((MOST + 1, LAYOUT.size), np.float16)
    names = [f"p{i}" for i in range(len(rows))]
    name, files = pack_batch(names[1:], rows[1:], [{}] * MOST, {}, LAYOUT)
    put(tmp_path, files, name)
    assert len(read_batch(tmp_path, name, LAYOUT)) == MOST
    for wrong in ((names, rows, [{}] * len(rows)), ([], rows[:0], []), (names[:2], rows[:1], [{}] * 2),
                  (names[:1], rows[:1, :-1], [{}]), (names[:1], rows[:1], [{}] * 2)):  # fmt: skip
        with pytest.raises(InvalidInputError):
            pack_batch(*wrong, {}, LAYOUT)
    with pytest.raises(InvalidInputError):
        pack_batch(names[:1], rows[:1], [{"Hair": "x" * 4 * 2**20}], {}, LAYOUT)
    assert "grün".encode() in pack_batch(names[:1], rows[:1], [{"Hair": "grün"}], {}, LAYOUT)[1].popitem()[1]
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


# ------------------------------------------------------------------ verdicts
def verdict(outcome: str, count: int = 0) -> Review:
    rows = tuple(Verdict(f"ann-{i}", (Finding("id", "[taken](http://x)"),)) for i in range(count))
    problems = (Finding("files", "<b>two</b>"),) if outcome == "refuse" else ()
    return Review("org/people", 12, "c" * 40, "b" * 40, "t", "ann", "open", outcome, problems=problems, rows=rows)


def test_a_verdict_names_the_next_step_and_its_comment_shows_up_to_50_problems_as_text() -> None:
    assert [verdict(each).ok for each in ("accept", "refuse", "merged", "released", "closed")] == [True, *[False] * 4]
    assert f"w2w merge 'org/people#12' --commit {'c' * 40}" == verdict("accept").next
    assert "w2w release org/people" in verdict("merged").next
    assert "--comment" in verdict("refuse").next
    for outcome in ("released", "closed"):
        assert verdict(outcome).next == "w2w review org/people"
    for count, more in ((49, 0), (50, 1), (79, 30)):
        lines = verdict("refuse", count).to_markdown().splitlines()
        listed = [line for line in lines if line.startswith("- ")]
        assert len(listed) == 50 + (more > 0)
        assert ("more problem" in listed[-1], str(more) in listed[-1]) == ((True, True) if more else (False, False))
        assert not any("<b>" in line or "[taken](" in line for line in lines)
    assert "w2w contribute" in verdict("refuse").to_markdown()
    assert "w2w contribute" not in verdict("accept").to_markdown()
