"""The checks of contributions, and batches as files: what a stranger may send, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from tests.hub.contributions import LAYOUT, start, trained, write_target
from w2w_hub import ParameterLayout, Target, WeightDataset, write_adapter
from w2w_hub.common.license_ids import normal_license, strictest
from w2w_hub.dataset.initialization import start_cosines
from w2w_hub.dataset.manifest import row_digest
from w2w_hub.dataset.sketches import Sketches, norm_and_concentration, sketch
from w2w_hub.errors import CorruptFileError, InvalidInputError, LayoutMismatchError, UnsafePathError, W2WError
from w2w_hub.release import contribute
from w2w_hub.release.contribution.batch import Batch, batch_name, pack_batch, parse_batch_path, read_batch
from w2w_hub.release.contribution.checks import Reference, check_batch
from w2w_hub.release.contribution.measure import measure
from w2w_hub.release.contribution.pending import MergeRecord
from w2w_hub.release.contribution.waiting import Waiting

STATED = {"source": "made up", "licence": "cc-by-4.0", "consent": "not needed"}


@pytest.fixture(scope="module")
def people(made_once: Callable[..., Path]) -> WeightDataset:
    return WeightDataset.open(
        made_once("contribution-target", lambda folder: write_target(folder / "people")) / "people"
    )


@pytest.fixture(scope="module")
def reference(people: WeightDataset) -> Reference:
    return Reference.of(people)


def checks(reference: Reference, vector: np.ndarray, label: dict[str, Any]) -> set[str]:
    """The names of the checks that a row with this label fails."""
    labels = {"id": "ann", **STATED, **label}
    labels = {name: value for name, value in labels.items() if value is not None}
    (verdict,) = check_batch(Batch("", ("ann",), vector[None], (labels,)), reference)
    return {problem.check for problem in verdict.problems}


# ------------------------------------------------------------------- checks
def test_each_refused_adapter_has_its_own_verdict_and_the_rest_can_be_sent(
    people: WeightDataset, tmp_path: Path
) -> None:
    rng = np.random.default_rng(6)
    good = trained(5)[0]
    rows = {
        "good": good, "elsewhere": rng.normal(size=LAYOUT.size), "same": people[3], "untrained": start(),
        "nearly": people["person-07"] + 0.01 * rng.normal(size=LAYOUT.size), "loud": start() + 40 * (good - start()),
        "person-01": trained(9)[0],
    }  # fmt: skip
    for name, row in rows.items():
        write_adapter(LAYOUT.unflatten(row), tmp_path / "loras" / name, ("peft",))
    (tmp_path / "loras" / "torn.safetensors").write_bytes(b"torn")
    options: dict[str, Any] = {"source": "me", "license": "MIT", "consent": "given", "dry_run": True}
    done = contribute(people.path, tmp_path / "loras", **options)
    found = {verdict.id: {problem.check for problem in verdict.problems} for verdict in done.verdicts}
    assert done.outcome == "refused"
    assert done.batch is None
    assert found.pop("loud") >= {"norm"}
    assert found == {
        "good": set(), "elsewhere": {"initialisation", *found["elsewhere"]}, "same": {"duplicate"},
        "untrained": {"norm"}, "nearly": {"near_duplicate"}, "person-01": {"id"}, "torn": {"layout"},
    }  # fmt: skip
    rest = contribute(people.path, tmp_path / "loras", accept_rest=True, **options)
    assert (rest.outcome, rest.accepted, len(rest.files)) == ("planned", ("good",), 2)


def test_an_adapter_of_another_layout_is_refused_and_never_cut_to_fit(people: WeightDataset, tmp_path: Path) -> None:
    from w2w_hub import ParameterLayout
    from w2w_hub.lora.adapter import Target

    sizes = {slot.target: slot.size for slot in LAYOUT.slots}
    more = ParameterLayout(
        sizes | {Target("unet", "mid_block.attentions.4.transformer_blocks.0.attn1.to_q"): (2, 9, 9)}, 3.0
    )
    wider = ParameterLayout(dict.fromkeys(sizes, (4, 640, 640)), 3.0)
    rng = np.random.default_rng(0)
    for name, layout in (("more", more), ("wider", wider)):
        write_adapter(layout.unflatten(rng.normal(size=layout.size)), tmp_path / name, ("peft",))
    done = contribute(people.path, [tmp_path / "more", tmp_path / "wider"], dry_run=True, accept_rest=True, **{
        "source": "me", "license": "mit", "consent": "given"})  # fmt: skip
    assert [[p.check for p in v.problems] for v in done.verdicts] == [["layout"], ["layout"]]
    assert done.outcome == "refused"


@pytest.mark.parametrize(
    ("label", "failed"),
    [
        ({}, set()),
        ({"Beard": True, "Age": 3, "Hair": "blue"}, set()),
        ({"source": None}, {"source"}),
        ({"consent": " Unknown "}, {"consent"}),
        ({"licence": "free for all"}, {"licence"}),
        ({"licence": "CreativeML-OpenRAIL-M"}, set()),
        ({"licence": 4}, {"licence"}),
        ({"split": "test"}, {"split"}),
        ({"row": 3}, {"label"}),
        ({"contributor": "ann"}, {"label"}),
        ({"Beard": 10**400}, {"label"}),
        ({"Beard": 1}, {"label"}),
        ({"source": "\uff1d1+1"}, {"source"}),
        ({"consent": "..."}, {"consent"}),
        ({"consent": "None."}, {"consent"}),
        ({"row_sha256": "0" * 64}, {"label"}),
        ({"Beard": "true"}, {"label"}),
        ({"Age": "old"}, {"label"}),
        ({"Age": True}, {"label"}),
        ({"Age": 10**400}, {"label"}),
        ({"Hair": 3}, {"label"}),
        ({"Hair": "=HYPERLINK(1)"}, {"label"}),
        ({"Hair": "<b>red</b>"}, {"label"}),
        ({"source": "a\nb"}, {"source"}),
        ({"source": "a\u202eb"}, {"source"}),
        ({"source": "x" * 501}, {"source"}),
        ({"Bread": True}, {"label"}),
        ({"weights": 1}, {"label"}),
        ({"id": "person-01"}, {"id"}),
        ({"id": "PERSON-01"}, {"id"}),
        ({"id": "../ann"}, {"id"}),
        ({"id": 3}, {"id"}),
        ({"id": "a" * 200}, {"id"}),
    ],
)
def test_labels_are_held_to_the_datasets_names_and_kinds(
    reference: Reference, label: dict[str, Any], failed: set[str]
) -> None:
    assert checks(reference, trained(11)[0], label) == failed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(reference: Reference, value: float) -> None:
    row = trained(11)[0]
    row[5] = value
    assert checks(reference, row, {}) == {"finite"}


def test_adapters_of_one_batch_that_are_alike_are_found(reference: Reference) -> None:
    row = trained(12)[0]
    labels = tuple({"id": f"ann-{i}", **STATED} for i in range(3))
    rows = np.stack([row, row, row + np.float32(0.001)])
    found = [{p.check for p in v.problems} for v in check_batch(Batch("", (), rows, labels), reference)]
    assert found == [set(), {"duplicate"}, {"near_duplicate"}]
    same_id = tuple({"id": name, **STATED} for name in ("ann", "Ann"))
    found = [{p.check for p in v.problems} for v in check_batch(Batch("", (), trained(13, 2), same_id), reference)]
    assert found == [set(), {"id"}]


def test_rows_that_are_merged_and_not_yet_released_are_found(reference: Reference) -> None:
    merged = trained(14, 2)
    record = MergeRecord("0" * 16, 12, "bob", "a" * 40, "2026-11-28", {"bob-0": row_digest(merged[0])})
    assert reference.sketches is not None
    waiting = Waiting(
        ("'bob-0' of #12", "'bob-1' of #12"), reference.sketches.units_of(merged), {"bob-0": record},
        {row_digest(merged[0]): record},
    )  # fmt: skip
    rows = np.stack([merged[0], merged[1] + np.float32(0.001), trained(15)[0], trained(16)[0]])
    labels = tuple({"id": name, **STATED} for name in ("a", "b", "Bob-0", "c"))
    found = check_batch(Batch("", (), rows, labels), reference, waiting=waiting)
    assert [{p.check for p in v.problems} for v in found] == [{"duplicate"}, {"near_duplicate"}, {"id"}, set()]
    assert "'bob-1' of #12" in found[1].problems[0].message


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_that_are_measured_together_have_the_facts_that_the_functions_for_each_give(
    rank: int, dtype: type
) -> None:
    targets = {Target("unet", f"mid_block.attentions.{i}.proj_in"): (rank, 20 + i, 30 - i) for i in range(5)}
    layout, rng = ParameterLayout(targets, 2.0), np.random.default_rng(rank)
    rows = rng.normal(size=(9, layout.size)).astype(dtype)
    rows[3], rows[4, 7], rows[5, 8] = 0, np.nan, np.inf
    start = rng.normal(size=layout.size).astype(np.float32)
    found = measure(rows, layout, np.dtype(dtype), start, None)
    good = [0, 1, 2, 3, 6, 7, 8]
    norms, ratios = norm_and_concentration(layout, rows[good])
    cosines = start_cosines(layout, start, rows[good])
    for number, norm, ratio, cosine in zip(good, norms, ratios, cosines, strict=True):
        one = found[number]
        assert (one.norm, one.directions) == pytest.approx((norm, ratio), rel=1e-12)
        assert one.cosine == pytest.approx(cosine, abs=1e-6)
        assert one.digest == row_digest(rows[number])
    assert [i for i, one in enumerate(found) if not one.finite] == [4, 5]
    sketches = Sketches.of_sketches(sketch(rows[good].astype(np.float32)), norms, ratios)
    again = measure(rows[good], layout, np.dtype(dtype), start, sketches)
    units = np.stack([one.unit for one in again if one.unit is not None])
    assert np.array_equal(units, sketches.units_of(rows[good]))
    assert [one.near and one.near[0] for one in again] == [0, 1, 2, None, 4, 5, 6]  # each is near itself, but zeros


def test_a_withdrawn_row_is_refused_under_any_id(reference: Reference) -> None:
    from w2w_hub.dataset.manifest import row_digest

    row = trained(14)[0]
    batch = Batch("", (), row[None], ({"id": "ann", **STATED},))
    for withdrawn in ({row_digest(row): "2026-01-01"}, {"ann": "2026-01-01"}):
        (verdict,) = check_batch(batch, reference, withdrawn=withdrawn)
        assert [p.check for p in verdict.problems] == ["withdrawn"]


@pytest.mark.parametrize("column", ["split", "row", "row_sha256"])
def test_what_the_dataset_decides_is_refused_in_a_table_and_as_a_label(
    people: WeightDataset, tmp_path: Path, column: str
) -> None:
    write_adapter(LAYOUT.unflatten(trained(3)[0]), tmp_path / "ann", ("peft",))
    with pytest.raises(InvalidInputError) as caught:
        contribute(people.path, tmp_path / "ann", labels=pd.DataFrame({"id": ["ann"], column: ["train"]}), dry_run=True)
    assert caught.value.name == column
    with pytest.raises(InvalidInputError):
        contribute(people.path, tmp_path / "ann", label={column: "train"}, dry_run=True)


def test_a_folder_takes_no_pull_request(people: WeightDataset, tmp_path: Path) -> None:
    write_adapter(LAYOUT.unflatten(trained(3)[0]), tmp_path / "ann", ("peft",))
    with pytest.raises(InvalidInputError):
        contribute(people.path, tmp_path / "ann", source="me", license="mit", consent="given")


# ------------------------------------------------------------------ batches
def packed(folder: Path, rows: np.ndarray | None = None, labels: list[dict[str, Any]] | None = None) -> str:
    rows = trained(1, 2) if rows is None else rows
    names = [f"ann-{i}" for i in range(len(rows))]
    name, files = pack_batch(names, rows, labels or [STATED] * len(rows), {}, LAYOUT)
    return put(folder, files, name)


def put(folder: Path, files: dict[str, bytes], name: str) -> str:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return name


def forged(folder: Path, rows: bytes, labels: bytes) -> str:
    """Put any bytes as a batch under the name that they have."""
    name = batch_name(hashlib.sha256(rows).hexdigest(), hashlib.sha256(labels).hexdigest())
    place = f"contributions/{name}"
    return put(folder, {f"{place}/rows.safetensors": rows, f"{place}/labels.jsonl": labels}, name)


def test_equal_contributions_have_equal_bytes_and_names(tmp_path: Path) -> None:
    assert packed(tmp_path / "a") == packed(tmp_path / "b") != packed(tmp_path / "c", trained(2, 2))
    batch = read_batch(tmp_path / "a", packed(tmp_path / "a"), LAYOUT)
    assert np.array_equal(batch.rows, trained(1, 2))
    assert batch.labels[1] == {"id": "ann-1", **STATED}


def header(**changes: str) -> dict[str, str]:
    return {"format": "w2w-batch", "format_version": "1", "layout": LAYOUT.digest} | changes


LINE = json.dumps({"id": "ann", **STATED}).encode() + b"\n"
ONE = trained(1)
HOSTILE: dict[str, tuple[bytes, bytes, type[W2WError]]] = {
    "a pickle": (b"\x80\x04.", LINE, CorruptFileError),
    "a torn file": (save({"weights": ONE}, metadata=header())[:-9], LINE, CorruptFileError),
    "a shape of 10^9 rows": (
        (lambda text: len(text).to_bytes(8, "little") + text)(
            json.dumps({"__metadata__": header(), "weights": {"dtype": "F32", "shape": [10**9, LAYOUT.size],
                                                              "data_offsets": [0, 4 * 10**9 * LAYOUT.size]}}).encode()
        ), LINE, CorruptFileError,
    ),
    "another layout": (save({"weights": ONE}, metadata=header(layout="0" * 64)), LINE, LayoutMismatchError),
    "another width": (save({"weights": ONE[:, :-1].copy()}, metadata=header()), LINE, LayoutMismatchError),
    "a second tensor": (save({"weights": ONE, "more": ONE}, metadata=header()), LINE, CorruptFileError),
    "integers": (save({"weights": ONE.astype(np.int32)}, metadata=header()), LINE, CorruptFileError),
    "no rows": (save({"weights": ONE[:0].copy()}, metadata=header()), b"", CorruptFileError),
    "a later format": (save({"weights": ONE}, metadata=header(format_version="2")), LINE, W2WError),
    "a missing line": (save({"weights": ONE}, metadata=header()), b"", CorruptFileError),
    "a line too many": (save({"weights": ONE}, metadata=header()), LINE * 2, CorruptFileError),
    "an unended line": (save({"weights": ONE}, metadata=header()), LINE[:-1], CorruptFileError),
    "a list as a label": (save({"weights": ONE}, metadata=header()), b'{"id": []}\n', CorruptFileError),
    "a repeated key": (save({"weights": ONE}, metadata=header()), b'{"id": "a", "id": "b"}\n', CorruptFileError),
    "NaN in the labels": (save({"weights": ONE}, metadata=header()), b'{"id": "a", "Age": NaN}\n', CorruptFileError),
    "labels of 5 MB": (save({"weights": ONE}, metadata=header()), b'{"id": "' + b"a" * 5 * 10**6 + b'"}\n', W2WError),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_batch_is_refused_as_a_file(tmp_path: Path, what: str) -> None:
    rows, labels, error = HOSTILE[what]
    with pytest.raises(error):
        read_batch(tmp_path, forged(tmp_path, rows, labels), LAYOUT)


def test_a_batch_that_was_changed_after_its_name_was_made_is_refused(tmp_path: Path) -> None:
    name = packed(tmp_path)
    labels = tmp_path / "contributions" / name / "labels.jsonl"
    labels.write_bytes(labels.read_bytes().replace(b"ann-1", b"bob-1"))
    with pytest.raises(CorruptFileError):
        read_batch(tmp_path, name, LAYOUT)


@pytest.mark.parametrize("kind", ["link", "folder link", "more", "name"])
def test_a_batch_with_a_link_or_another_file_or_name_is_refused(tmp_path: Path, kind: str) -> None:
    name = packed(tmp_path / "real")
    place = tmp_path / "real" / "contributions" / name
    asked = tmp_path / "real"
    if kind == "link":
        (place / "labels.jsonl").rename(tmp_path / "labels.jsonl")
        (place / "labels.jsonl").symlink_to(tmp_path / "labels.jsonl")
    elif kind == "folder link":
        asked = tmp_path / "other"
        (asked / "contributions").mkdir(parents=True)
        os.symlink(place, asked / "contributions" / name)
    elif kind == "more":
        (place / "more.txt").write_text("x")
    else:
        name = f"../{name}"
    with pytest.raises(UnsafePathError):
        read_batch(asked, name, LAYOUT)


@given(st.text(max_size=60))
def test_only_the_two_files_of_a_batch_are_paths_of_one(text: str) -> None:
    name = "0123456789abcdef"
    assert parse_batch_path(text) is None
    assert parse_batch_path(f"contributions/{name}/{text}") is None or text in ("rows.safetensors", "labels.jsonl")
    assert parse_batch_path(f"contributions/{name}/rows.safetensors") == (name, "rows.safetensors")


# ----------------------------------------------------------------- licenses
def test_the_strictest_license_covers_all_others_or_is_unknown() -> None:
    assert strictest(["MIT", "apache-2.0"]) == "apache-2.0"
    assert strictest(["cc0-1.0", "mit", "CreativeML-OpenRAIL-M"]) == "creativeml-openrail-m"
    assert strictest(["cc-by-4.0", "cc-by-nc-4.0"]) == "cc-by-nc-4.0"
    assert strictest(["cc-by-sa-4.0", "cc-by-nc-4.0"]) == "unknown"
    assert strictest(["mit", "unknown"]) == strictest(["mit", None]) == strictest([]) == "unknown"
    assert strictest(["gpl-3.0", "gpl-3.0"]) == "gpl-3.0"
    assert strictest(["gpl-3.0", "mit"]) == "unknown"  # not in the table


@given(st.lists(st.sampled_from(["mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "openrail", "gpl-3.0"])))
def test_the_strictest_license_depends_on_no_order_and_is_one_of_them(names: list[str]) -> None:
    found = strictest(names)
    assert found == strictest(names[::-1]) == strictest([*names, *names])
    assert found == "unknown" or found in names


def test_license_identifiers_are_those_of_spdx_and_of_the_hub_in_any_case() -> None:
    assert normal_license("Apache-2.0") == "apache-2.0"
    assert normal_license(" OpenRAIL++ ") == "openrail++"
    assert normal_license("unknown") is normal_license("free") is normal_license(None) is normal_license("") is None
