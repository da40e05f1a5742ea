"""Our safetensors reader against the library's, on the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from w2w_hub.errors import CorruptFileError, UnsupportedFormatError, W2WError
from w2w_hub.store import tensorfile

NAMES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I8": "i1", "U8": "u1", "BOOL": "?"}
names = st.text(min_size=0, max_size=6)
arrays = st.tuples(st.sampled_from(list(NAMES.values())), st.lists(st.integers(0, 3), max_size=3)).map(
    lambda t: np.ones(t[1], t[0])
)


def file_of(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def tensor(shape, begin, end, dtype="U8"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@given(
    tensors=st.dictionaries(names, arrays, max_size=4), metadata=st.none() | st.dictionaries(names, names, max_size=2)
)
@settings(deadline=None, max_examples=60)
def test_what_the_library_writes_is_read_back_bit_for_bit(tensors, metadata):
    found, header = tensorfile.parse_safetensors(save(tensors, metadata or None))
    assert header.metadata == (metadata or {})
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*NAMES, "BF16", "F8_E4M3", "X", 3]),
        "shape": st.lists(st.integers(-1, 4) | st.just(10**9), max_size=3) | st.none(),
        "data_offsets": st.lists(st.integers(-1, 12), min_size=0, max_size=3),
    }
)


@given(
    header=st.dictionaries(names, entries, max_size=3) | st.lists(names, max_size=2),
    data=st.binary(max_size=12),
    length=st.none() | st.integers(0, 60),
)
@settings(deadline=None, max_examples=200)
def test_what_the_library_refuses_is_refused_and_nothing_but_our_errors_comes_out(header, data, length):
    raw = file_of(header, data, length=length)
    try:
        tensorfile.parse_safetensors(raw)
    except W2WError as error:
        lines = str(error).splitlines()
    else:
        safetensors.deserialize(raw)  # the library must take it too
        lines = [""]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (b"", "0 bytes"),
        (b"ab", "2 bytes"),
        (file_of({}, length=2**40), "1,099,511,627,776"),
        (file_of({}, length=100), "100 bytes"),
        (file_of(b"{"), "JSON"),
        (file_of(b"[" * 100_000), "JSON"),
        (file_of(b'{"x": NaN}'), "NaN"),
        (file_of(b'{"x": 1, "x": 2}'), "x"),
        (file_of([]), "JSON"),
        (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
        (file_of({"x": 1}), "tensor x"),
        (file_of({"x": tensor([2], 0, 2)}, b"ab" * 3), "2 bytes.* 6"),
        (file_of({"x": tensor([2], 0, 2), "y": tensor([2], 1, 3)}, b"abc"), "byte 1"),
        (file_of({"x": tensor([2], 0, 2), "y": tensor([1], 3, 4)}, b"abcd"), "byte 2"),
        (file_of({"x": tensor([10**9, 10**9], 0, 2)}, b"ab"), "2 bytes"),
        (file_of({"x": tensor([1] * 9, 0, 1)}, b"a"), "9 .* 8"),
        (file_of({"x": tensor([True], 0, 1)}, b"a"), "tensor x"),
        (file_of({"x" * 2000: tensor([1], 0, 1)}, b"a"), "2,000 .* 1,024"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path, data, subject):
    (tmp_path / "a.safetensors").write_bytes(data)
    for read in (tensorfile.read_safetensors, tensorfile.read_header):
        with pytest.raises(CorruptFileError, match=subject) as caught:
            read(tmp_path / "a.safetensors")
        assert caught.value.path == tmp_path / "a.safetensors"


def test_a_file_of_too_many_tensors_is_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(tensorfile, "MAX_TENSORS", 2)
    with pytest.raises(CorruptFileError, match=r"3 .* 2\b"):
        tensorfile.parse_safetensors(file_of({n: tensor([0], 0, 0) for n in "abc"}))


def test_a_dtype_nobody_knows_is_refused_in_one_short_line():
    with pytest.raises(UnsupportedFormatError, match=r"\\n+") as caught:
        tensorfile.parse_safetensors(file_of({"x": tensor([1], 0, 1, "\n" * 500)}, b"a"))
    assert len(str(caught.value)) < 300


def test_tensors_share_one_buffer_that_may_be_written(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"x": np.zeros(4, np.float32), "y": np.ones(4, np.float32)}))
    found, _ = tensorfile.read_safetensors(tmp_path / "a.safetensors")
    found["x"][:] = 3
    assert found["y"].tolist() == [1, 1, 1, 1]
    assert found["x"].base is not None


def test_tensors_at_odd_offsets_are_aligned_for_torch():
    import torch

    header = {"a": tensor([1], 0, 1), "b": tensor([2], 1, 9, "F32")}
    found, _ = tensorfile.parse_safetensors(file_of(header, b"x" + np.float32([1, 2]).tobytes()))
    assert torch.from_numpy(found["b"]).tolist() == [1, 2]
