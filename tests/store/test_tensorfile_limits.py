"""Safetensors files at both sides of each limit, and files that change while they are read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from w2w_hub.common.limits import MAX_HEADER_VALUES
from w2w_hub.errors import CorruptFileError, UnsupportedFormatError
from w2w_hub.store.tensorfile import parse_safetensors, read_header, read_safetensors, read_tensors

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
          "BOOL": 1, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}  # fmt: skip
UNREAD = {"F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"}


def packed(header: dict, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype: str = "F32", shape=(), begin: int = 0, end: int = 4) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("kind", WIDTHS)
def test_every_dtype_has_its_width_and_is_read_or_refused_by_name(kind, tmp_path):
    width = WIDTHS[kind]
    data = bytes(3 * width)
    (tmp_path / "f").write_bytes(packed({"a": entry(kind, (3,), 0, 3 * width)}, data))
    assert read_header(tmp_path / "f").entries["a"].end == 3 * width
    if kind in UNREAD:
        with pytest.raises(UnsupportedFormatError, match=kind):
            parse_safetensors(packed({"a": entry(kind, (3,), 0, 3 * width)}, data))
    else:
        tensors, _ = parse_safetensors(packed({"a": entry(kind, (3,), 0, 3 * width)}, data))
        assert tensors["a"].shape == (3,)
        assert not tensors["a"].any()
    for more in (-1, 1):
        size = 3 * width + more
        with pytest.raises(CorruptFileError):
            parse_safetensors(packed({"a": entry(kind, (3,), 0, size)}, bytes(size)))


FOUR = bytes(4)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (packed({"a" * 1024: entry()}, FOUR), packed({"a" * 1025: entry()}, FOUR)),
        (packed({"a": entry(shape=[1] * 8)}, FOUR), packed({"a": entry(shape=[1] * 9)}, FOUR)),
        (packed({"a": entry()}, FOUR), packed({"a": entry()}, FOUR + b"x")),
        (packed({"a": entry()}, FOUR), packed({"a": entry()}, FOUR[1:])),
        (packed({"a": entry(), "b": entry(begin=4, end=8)}, FOUR * 2), packed({"a": entry(), "b": entry()}, FOUR * 2)),
        (packed({"b": entry(begin=4, end=8), "a": entry()}, FOUR * 2), packed({"a": entry(begin=4, end=8)}, FOUR * 2)),
        (packed({"a": entry(), "b": entry(begin=4, end=8)}, FOUR * 2),
         packed({"a": entry(), "b": entry(begin=5, end=9)}, FOUR * 2 + b"x")),
        (packed({"a": entry("U8", (0, 2**34), 0, 0)}), packed({"a": entry("U8", (0, 2**34 + 1), 0, 0)})),
        (packed({"a": entry("F32", (2**32, 0), 0, 0)}), packed({"a": entry("F32", (2**32 + 1, 0), 0, 0)})),
        (packed({"__metadata__": {"a": "b"}}), packed({"__metadata__": {"a": 1}})),
        (packed({"__metadata__": {"a": "," * (MAX_HEADER_VALUES - 4)}}),
         packed({"__metadata__": {"a": "," * (MAX_HEADER_VALUES - 3)}})),
        (packed({}), b"\0" * 7),
        (packed({"a": entry("BOOL", (2, 2), 0, 4)}, FOUR), packed({"a": entry("BOOL", (-2, -2), 0, 4)}, FOUR)),
        (packed({"a": entry()}, FOUR), packed({"a": entry() | {"more": 1}}, FOUR)),
    ],
    ids=["name", "axes", "longer", "shorter", "overlap", "gap at the start", "gap", "no byte", "no number", "metadata",
         "values", "header", "negative", "field"],
)  # fmt: skip
def test_a_file_is_taken_up_to_each_limit_and_refused_beyond_it(good, bad, tmp_path):
    for i, data in enumerate((good, bad)):
        (tmp_path / str(i)).write_bytes(data)
    assert set(parse_safetensors(good)[0]) == set(read_safetensors(tmp_path / "0")[0])
    with pytest.raises(CorruptFileError):
        parse_safetensors(bad)
    with pytest.raises(CorruptFileError):
        read_header(tmp_path / "1")


@pytest.mark.parametrize("change", [-1, 1, 100])
def test_a_file_that_became_shorter_or_longer_since_its_header_was_read_is_refused(tmp_path, change):
    path = tmp_path / "f"
    data = packed({"a": entry("F32", (2,), 0, 8)}, np.array([1, 2], "<f4").tobytes())
    path.write_bytes(data)
    header = read_header(path)
    np.testing.assert_array_equal(read_tensors(path, header)["a"], [1, 2])
    path.write_bytes(data + bytes(change) if change > 0 else data[:change])
    with pytest.raises(CorruptFileError):
        read_tensors(path, header)


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "I64", "BF16"])
def test_tensors_at_every_offset_are_aligned_and_right(kind):
    width = WIDTHS[kind]
    for shift in range(1, 9):
        data = bytes(shift) + bytes(range(1, 2 * width + 1))
        header = {"z": entry("U8", (shift,), 0, shift), "a": entry(kind, (2,), shift, shift + 2 * width)}
        found = parse_safetensors(packed(header, data))[0]["a"]
        assert found.flags.aligned
        alone = parse_safetensors(packed({"a": entry(kind, (2,), 0, 2 * width)}, data[shift:]))[0]["a"]
        assert found.tobytes() == alone.tobytes()


def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path):
    (tmp_path / "f").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "utf-8")
    with pytest.raises(CorruptFileError, match="git lfs pull"):
        read_header(tmp_path / "f")
