from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from w2w_hub.cli import main
from w2w_hub.errors import (
    AlreadyExistsError,
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    UnsupportedFormatError,
)
from w2w_hub.space import Point
from w2w_hub.space.points import is_point, load_point, save_point

DIGEST = "0123456789abcdef" * 4


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_a_point_comes_back_to_the_bit_in_both_forms(
    tmp_path_factory: pytest.TempPathFactory, coefficients: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    history = {"made": "inversion", "edits": {"Bärt": -1.5}, "steps": 3}
    point = Point(np.array(coefficients, np.float32), DIGEST, history)
    for suffix in ("json", "safetensors"):
        save_point(point, folder / f"p.{suffix}")
        again = load_point(folder / f"p.{suffix}")
        assert again == point
        assert again.coefficients.dtype == np.float32
        assert again.coefficients.tobytes() == point.coefficients.tobytes()
        assert again.history == history
        assert again.basis_digest == DIGEST
        assert is_point(folder / f"p.{suffix}")
        with pytest.raises(AlreadyExistsError):
            save_point(point, folder / f"p.{suffix}")


def point() -> Point:
    return Point(np.array([1.0, 2.0], np.float32), DIGEST, {"row": "a"})


def test_a_points_file_states_its_format_version_and_basis(tmp_path: Path) -> None:
    save_point(point(), tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text("utf-8")) == {
        "format": "w2w-point", "format_version": 1, "basis_digest": DIGEST, "history": {"row": "a"},
        "coefficients": [1.0, 2.0],
    }  # fmt: skip
    save_point(point(), tmp_path / "p.safetensors")
    raw = (tmp_path / "p.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"] == {
        "format": "w2w-point", "format_version": "1", "basis_digest": DIGEST, "history": '{"row": "a"}',
    }  # fmt: skip
    assert header["coefficients"]["dtype"] == "F32"


@pytest.mark.parametrize("name", ["p.txt", "p", "p.JSON", "p.json.gz"])
def test_other_suffixes_are_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=name):
        save_point(point(), tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_what_is_a_point_is_told_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "p.txt").write_text("{}", "utf-8")
    (tmp_path / "any.json").write_text("{}", "utf-8")
    save_file({"coefficients": np.zeros(2, np.float32)}, tmp_path / "adapter.safetensors", {"format": "pt"})
    save_file({"coefficients": np.zeros(2, np.float32)}, tmp_path / "bare.safetensors")
    save_point(point(), tmp_path / "p.safetensors")
    told = {p: is_point(tmp_path / p) for p in (
        "folder.json", "p.txt", "any.json", "adapter.safetensors", "bare.safetensors", "p.safetensors", "none.json"
    )}  # fmt: skip
    assert {name for name, said in told.items() if said} == {"any.json", "p.safetensors"}


GOOD: dict[str, Any] = {
    "format": "w2w-point", "format_version": 1, "basis_digest": DIGEST, "history": {}, "coefficients": [1.0, 2.0],
}  # fmt: skip
NONE = type("Nothing", (), {"__repr__": lambda self: "NONE"})()


def write(path: Path, changes: dict[str, Any]) -> Path:
    data = {name: value for name, value in {**GOOD, **changes}.items() if value is not NONE}
    path.write_text(json.dumps(data), "utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"format": NONE}, UnsupportedFormatError), ({"format": "w2w-space"}, UnsupportedFormatError),
        ({"format_version": 2}, UnsupportedFormatError), ({"format_version": 0}, UnsupportedFormatError),
        ({"format_version": "1"}, UnsupportedFormatError), ({"basis_digest": NONE}, CorruptFileError),
        ({"basis_digest": 7}, CorruptFileError), ({"history": []}, CorruptFileError),
        ({"history": "x"}, CorruptFileError), ({"coefficients": NONE}, CorruptFileError),
        ({"coefficients": "ab"}, CorruptFileError), ({"coefficients": []}, InvalidInputError),
        ({"coefficients": 1.0}, InvalidInputError), ({"coefficients": [[1.0]]}, InvalidInputError),
        ({"coefficients": [1.0, float("nan")]}, InvalidInputError),
        ({"coefficients": [1.0, float("-inf")]}, InvalidInputError),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_lacks_or_misstates_a_field_is_a_typed_error(
    changes: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match=r"p\.json"):
        load_point(write(tmp_path / "p.json", changes))


def test_versions_and_histories_that_are_not_stated_are_the_first_and_empty(tmp_path: Path) -> None:
    for changes in ({"format_version": NONE}, {"history": NONE}, {"later": 1}):
        found = load_point(write(tmp_path / "p.json", changes))
        assert found == Point(np.array([1.0, 2.0], np.float32), DIGEST)
        assert found.history == {}
    tensors, metadata = (
        {"coefficients": np.array([1.0, 2.0], np.float32)},
        {"format": "w2w-point", "basis_digest": DIGEST},
    )
    save_file(tensors, tmp_path / "p.safetensors", metadata)
    assert load_point(tmp_path / "p.safetensors") == load_point(tmp_path / "p.json")


@pytest.mark.parametrize("version", ["2", "0", "one", "1.0", "", "²", "1" * 5000, "000000001"])
def test_other_versions_in_safetensors_are_unsupported(version: str, tmp_path: Path) -> None:
    save_file(
        {"coefficients": np.zeros(2, np.float32)}, tmp_path / "p.safetensors",
        {"format": "w2w-point", "basis_digest": DIGEST, "format_version": version},
    )  # fmt: skip
    with pytest.raises(UnsupportedFormatError):
        load_point(tmp_path / "p.safetensors")


@pytest.mark.parametrize("history", ["[1]", "{", "3"])
def test_a_history_in_safetensors_that_is_no_object_is_damage(history: str, tmp_path: Path) -> None:
    metadata = {"format": "w2w-point", "basis_digest": DIGEST, "history": history}
    save_file({"coefficients": np.zeros(2, np.float32)}, tmp_path / "p.safetensors", metadata)
    with pytest.raises(CorruptFileError, match="history"):
        load_point(tmp_path / "p.safetensors")


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    for suffix in ("json", "safetensors"):
        with pytest.raises(MissingPathError):
            load_point(tmp_path / f"p.{suffix}")


def test_a_scan_shows_points_and_counts_other_files_as_skipped(tmp_path: Path) -> None:
    for name in ("a.json", "b.safetensors"):
        save_point(Point(np.ones(3, np.float32), DIGEST), tmp_path / "points" / name)
    (tmp_path / "points" / "report.json").write_text('{"format": "other"}')
    result = CliRunner().invoke(main, ["inspect", str(tmp_path), "--json"])
    assert result.exit_code == 0
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(facts["kind"], Path(facts["path"]).name) for facts in found] == [
        ("point", "a.json"), ("point", "b.safetensors"),
    ]  # fmt: skip
    assert "report.json" in result.stderr
    assert "a.json" not in result.stderr
