"""Torch's files as data: tensors and tables are as torch and pandas wrote them; anything else is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.test_small_files import little_memory
from tests.upstream.published import dimensions
from w2w_hub.errors import CorruptFileError, UnsupportedFormatError, W2WError
from w2w_hub.upstream.frames import frame_of
from w2w_hub.upstream.identities import read_coefficients
from w2w_hub.upstream.labels import read_concept_labels, read_identities
from w2w_hub.upstream.layout import find_layout
from w2w_hub.upstream.pickles import Record
from w2w_hub.upstream.torch_files import StoredTensor, hash_file, open_file

FORMATS = [pytest.param(True, id="zip"), pytest.param(False, id="legacy")]


def saved(value: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


# ---------------------------------------------------------------- tensors
@pytest.mark.parametrize("zipped", FORMATS)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.t(),
        lambda x: x[2:5, ::2],
        lambda x: x.bfloat16(),
        lambda x: x.half(),
        lambda x: x.double(),
        torch.nn.Parameter,
        lambda x: x[:, :1],
        lambda x: x[0],
    ],
    ids=["plain", "by column", "a view", "bfloat16", "float16", "float64", "parameter", "one column", "vector"],
)
def test_a_tensor_has_the_values_that_torch_loads(zipped: bool, change: Callable[..., Any], tmp_path: Path) -> None:
    tensor = change(torch.arange(42.0).reshape(7, 6) / 3)
    found = open_file(saved(tensor, tmp_path / "V.pt", zipped))
    expected = tensor.detach().float().numpy() if tensor.dtype != torch.float64 else tensor.numpy()
    assert isinstance(found, StoredTensor)
    np.testing.assert_array_equal(found[...], expected)
    if expected.ndim == 2:
        np.testing.assert_array_equal(found[1:3], expected[1:3])
        np.testing.assert_array_equal(found.column_block(0, 1), expected[:, :1].T.astype(np.float32))


@pytest.mark.parametrize("zipped", FORMATS)
def test_sizes_and_scalars_are_plain_values(zipped: bool, tmp_path: Path) -> None:
    value = {"a": (6, torch.Size([2, 3])), "b": [np.int64(-1), np.float32(0.5), np.bool_(True)], "c": None}
    found = open_file(saved(value, tmp_path / "x.pt", zipped))
    assert found == {"a": (6, (2, 3)), "b": [-1, 0.5, True], "c": None}


CELLS = {
    "int": st.integers(-(2**40), 2**40), "bool": st.booleans(), "float": st.floats(allow_nan=False, width=64),
    "text": st.text(max_size=5), "object": st.one_of(st.none(), st.text(max_size=3), st.integers(-5, 5)),
}  # fmt: skip
DTYPES = {"int": "int64", "bool": "bool", "float": "float64", "text": "str", "object": object}


@settings(max_examples=20, deadline=None)
@given(
    st.data(), st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 5)
)
def test_a_frame_has_the_values_that_pandas_wrote(data: Any, kinds: list[str], rows: int, way: int) -> None:
    frame = pd.DataFrame({
        f"c{i}": pd.Series(data.draw(st.lists(CELLS[kind], min_size=rows, max_size=rows)), dtype=DTYPES[kind])
        for i, kind in enumerate(kinds)
    })  # fmt: skip
    if way % 2:
        frame.index = pd.Index([f"f{i}" for i in range(rows)], dtype=object if way == 3 else None)
    buffer = io.BytesIO()
    if way < 4:
        torch.save(frame, buffer, _use_new_zipfile_serialization=way < 2)
    else:
        frame.to_pickle(buffer, protocol=way)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "identity_df.pt")
        path.write_bytes(buffer.getvalue())
        found = frame_of(open_file(path), path)
    assert found.index == frame.index.tolist()
    assert found.is_default == (way % 2 == 0)
    assert list(found.columns) == list(frame.columns)
    for name in frame:
        expected = [None if isinstance(v, float) and v != v else v for v in frame[name].tolist()]
        assert found.columns[name] == expected


def test_the_numbers_of_a_frames_rows_may_have_steps_and_are_no_more_than_a_table_has(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2, 3]}, index=pd.RangeIndex(3, 3 * 10**8, 10**8))
    frame = open_file(saved(table, tmp_path / "identity_df.pt"))
    found = frame_of(frame, tmp_path / "identity_df.pt")
    assert (found.index, found.is_default) == ([3, 100_000_003, 200_000_003], False)
    facts = frame.state["_mgr"].arguments[1][1].arguments[1]
    assert facts["step"] == 10**8
    far = {"start": 0, "stop": 2**40, "step": 2**38}  # 4 rows, far from each other
    for change, why in (({"stop": 2**60}, "many"), ({"step": 0}, "none"), ({"start": -1}, "below 0"), (far, "4 rows")):
        facts |= {"start": 3, "stop": 24, "step": 7} | change
        with little_memory(), pytest.raises(CorruptFileError) as caught:
            frame_of(frame, tmp_path / "identity_df.pt")
        assert caught.value.path == tmp_path / "identity_df.pt", why


@pytest.mark.parametrize("zipped", FORMATS)
def test_the_stride_of_an_axis_of_one_may_be_any(zipped: bool, tmp_path: Path) -> None:
    row = torch.arange(3.0).as_strided((1, 3), (2**61, 1))
    np.testing.assert_array_equal(open_file(saved(row, tmp_path / "mean.pt", zipped))[...], [[0, 1, 2]])


@pytest.mark.parametrize("place", [(0, 3, 2), (1, 3, 1), (0, 1, 1)])
def test_columns_that_are_placed_outside_of_a_frame_are_refused(place: tuple[int, int, int], tmp_path: Path) -> None:
    path = saved(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), tmp_path / "identity_df.pt", True)
    frame = open_file(path)
    block = frame.state["_mgr"].arguments[0][0]
    block.arguments = (block.arguments[0], Record("builtins.slice", place), *block.arguments[2:])
    with pytest.raises(CorruptFileError) as caught:
        frame_of(frame, path)
    assert caught.value.path == path


# ---------------------------------------------------------------- payloads
class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, *what: Any):
        self.what = what

    def __reduce__(self) -> Any:
        return self.what


def chained(path: str) -> Runs:
    """getattr(getattr(posixpath, "os"), "system")(...), as payloads do that avoid naming `os.system`."""
    return Runs(getattr, (Runs(getattr, (Runs(__import__, ("posixpath",)), "os")), "system"))


def nested(levels: int, kind: type = list) -> Any:
    found: Any = kind()
    for _ in range(levels):
        found = kind([found, found])
    return found


MARK = "touched"
PAYLOADS: dict[str, tuple[Callable[[str], Any], str]] = {
    "os.system": (lambda path: Runs(os.system, (f"touch {path}",)), "system"),
    "subprocess": (lambda path: Runs(subprocess.call, (["touch", path],)), "call"),
    "eval": (lambda path: Runs(eval, (f"open({path!r}, 'w')",)), "eval"),
    "getattr": (chained, "getattr"),
    "in a frame's cell": (lambda path: pd.DataFrame({"a": [Runs(os.system, (f"touch {path}",))]}), "system"),
    "in a dict": (lambda path: {"a": Runs(os.system, (f"touch {path}",))}, "system"),
    "pandas' own reader": (lambda path: Runs(pd.read_pickle, (path,)), "read_pickle"),
    "torch's loader": (lambda path: Runs(torch.load, (path,)), "load"),
    "numpy's file": (lambda path: Runs(np.fromfile, (path,)), "fromfile"),
    "a module": (lambda path: torch.nn.Linear(2, 2), "torch.nn"),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_is_refused_by_name_and_not_run(name: str, form: str, tmp_path: Path) -> None:
    make, named = PAYLOADS[name]
    path, mark = tmp_path / "identity_df.pt", tmp_path / MARK
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(make(str(mark)), protocol=int(form[-1])))
    else:
        saved(make(str(mark)), path, form == "zip")
    with pytest.raises(CorruptFileError) as caught:
        open_file(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    assert named in str(caught.value)
    assert not mark.exists()


INSTRUCTIONS = {
    "INST": b"\x80\x02(S'touch x'\nios\nsystem\n.", "OBJ": b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00xo.",
    "EXT1": b"\x80\x02\x82\x01.", "NEWOBJ_EX": b"\x80\x04)}\x92.", "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "DUP": b"\x80\x02K\x012.", "no mark": b"\x80\x02t.", "empty": b"\x80\x02.", "no end": b"\x80\x02K\x01",
    "unknown memo": b"\x80\x02h\x07.", "build on nothing": b"\x80\x02}b.", "two values": b"\x80\x02K\x01.K\x02.",
}  # fmt: skip


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_other_instructions_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dog_labels.pt"
    path.write_bytes(INSTRUCTIONS[name])
    with pytest.raises(CorruptFileError, match=r"dog_labels\.pt"):
        open_file(path)


# ---------------------------------------------------------------- sizes
def pickled(body: bytes, path: Path) -> Path:
    path.write_bytes(b"\x80\x02" + body + b".")
    return path


def array_of(shape: bytes, data: bytes) -> bytes:
    """A NumPy array of int64 as a pickle's instructions."""
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8\x89\x88tR"
    order = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return made + b"(K\x01" + shape + dtype + order + b"\x89C" + bytes([len(data)]) + data + b"tb"


HUGE = b"\x8a\x06" + (2**40).to_bytes(6, "little")  # LONG1
CLAIMS = {
    "an array larger than its bytes": array_of(b"(" + HUGE + b"t", b"x" * 8),
    "an array of huge empty axes": array_of(b"(K\x00" + HUGE + HUGE + b"t", b""),
    "text longer than the file": b"X\xff\xff\xff\x7fabc",
    "text of 2^60 bytes": b"\x8d" + (2**60).to_bytes(8, "little") + b"abc",
    "bytes longer than the file": b"B\xff\xff\xff\x7fabc",
    "a number of 2^31 digits": b"\x8b\xff\xff\xff\x7f1",
    "a size of torch that is no tuple": b"ctorch\nSize\n(]tR",
    "a list as a number": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR]tR",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_claims_more_than_it_has_is_refused_before_memory_is_taken(name: str, tmp_path: Path) -> None:
    path = pickled(CLAIMS[name], tmp_path / "identity_df.pt")
    with little_memory(), pytest.raises(CorruptFileError, match=r"identity_df\.pt"):
        open_file(path)


def encoded_again(times: int) -> bytes:
    """One text of a megabyte that is encoded many times."""
    text = b"x" * 2**20
    call = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    return b"]X" + len(text).to_bytes(4, "little") + text + b"q\x000(" + call * times + b"e"


def test_a_pickle_that_refers_to_itself_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "dog_labels.pt"
    path.write_bytes(pickle.dumps(nested(60), protocol=2))
    with little_memory():
        found = open_file(path)
    with pytest.raises(CorruptFileError):
        frame_of(found, path)
    pickled(encoded_again(400).replace(b"q\x000", b"q\x00a", 1), path)
    with little_memory(), pytest.raises(W2WError, match=r"dog_labels\.pt"):
        frame_of(open_file(path), path)
    long, wide = np.zeros(10**6, np.int8), {f"k{i}": 0 for i in range(4000)}
    shared: list[tuple[Any, int]] = [({f"k{i}": long for i in range(100)}, 10**6), ([wide] * 4000, 4000)]
    for value, rows in shared:
        path.write_bytes(pickle.dumps(value, protocol=4))
        with little_memory(), pytest.raises(W2WError, match=r"dog_labels\.pt"):
            read_concept_labels(path, rows, "dog")
    table = pd.DataFrame({f"c{i}": ["x" * 1000] * 100 for i in range(3)})
    table.to_pickle(path, protocol=2)
    with little_memory():
        assert len(frame_of(open_file(path), path)) == 100


@pytest.mark.parametrize("zipped", FORMATS)
def test_a_truncated_file_is_refused_at_every_length(zipped: bool, tmp_path: Path) -> None:
    whole = saved(torch.arange(30.0).reshape(5, 6), tmp_path / "whole.pt", zipped).read_bytes()
    path = tmp_path / "V.pt"
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match=r"V\.pt"):
            open_file(path)


@pytest.mark.parametrize("numbers", [29, 31, 2**60, 2**64 - 1])
def test_a_storage_that_states_another_size_than_the_files_is_refused(numbers: int, tmp_path: Path) -> None:
    path = saved(torch.arange(30.0).reshape(5, 6), tmp_path / "V.pt", zipped=False)
    data = bytearray(path.read_bytes())
    stated = slice(len(data) - 30 * 4 - 8, len(data) - 30 * 4)
    assert int.from_bytes(data[stated], "little") == 30
    data[stated] = numbers.to_bytes(8, "little")
    path.write_bytes(data)
    with little_memory(), pytest.raises(CorruptFileError, match=r"V\.pt"):
        open_file(path)


def test_a_damaged_byte_of_a_tensor_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = saved(torch.arange(5000.0), tmp_path / "mean.pt")
    assert hash_file(path)["size"] == path.stat().st_size
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(100, 110, dtype="<f4").tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"mean\.pt"):
        hash_file(path)


STEPS = b"(tRbh}]lauseq\x85\x86\x87NK\x01.\x81\x88\x89"  # short instructions of pickles


def changed(data: bytes, draw: random.Random) -> bytes:
    """Some bytes replaced, removed or repeated, or instructions put in."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, way = draw.randrange(len(found)), draw.randrange(4)
        if way == 0:
            found[at] = draw.randrange(256)
        elif way == 1:
            found[at:at] = bytes([draw.choice(STEPS)])
        elif way == 2 and len(found) > 20:
            del found[at : at + draw.randrange(1, 9)]
        else:
            start = draw.randrange(len(found))
            found[at:at] = found[start : start + draw.randrange(1, 40)]
    return bytes(found)


def test_changed_bytes_are_refused_by_name_or_read_as_something_else(tmp_path: Path) -> None:
    table = pd.DataFrame({"Male": [1, -1, 1], "f": [0.5, 1, 2], "file": ["a", None, "ü"]}, index=["1", "10", "2"])
    path, outcomes = tmp_path / "file.pt", set()
    files: list[tuple[Any, Callable[[Path], object]]] = [
        (table, lambda where: read_identities(where, 3)),
        ({"wavy": [np.int64(1), np.int64(0)]}, lambda where: read_concept_labels(where, 2, "dog")),
        (dimensions(), lambda where: find_layout(where, None, 52)),
        (torch.ones(1, 6), read_coefficients),
    ]
    for number, (value, read) in enumerate(files):
        for zipped in (True, False):
            original, draw = saved(value, path, zipped).read_bytes(), random.Random(number)
            for _ in range(40):
                path.write_bytes(original)
                if zipped:
                    rewritten(path, lambda name, data, d=draw: changed(data, d) if name.endswith("data.pkl") else data)
                else:
                    path.write_bytes(changed(original, draw))
                try:
                    read(path)
                    outcomes.add("read")
                except W2WError as error:
                    outcomes.add(f"refused {error.path}")
    assert outcomes == {"read", f"refused {path}"}


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))


def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path: Path) -> None:
    path = saved(torch.arange(30.0).reshape(5, 6), tmp_path / "V.pt")
    original = path.read_bytes()
    for old, new in (
        (b"K\x05K\x06\x86", b"K\x05K\x07\x86"),
        (b"K\x06K\x01\x86", b"K\x60K\x01\x86"),
        (b"K\x1e", b"K\x1f"),
    ):
        path.write_bytes(original)
        rewritten(path, lambda name, data, a=old, b=new: data.replace(a, b, 1) if name.endswith("data.pkl") else data)
        assert path.read_bytes() != original
        with pytest.raises(CorruptFileError, match=r"V\.pt"):
            open_file(path)
    path.write_bytes(original)
    rewritten(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedFormatError, match=r"V\.pt"):
        open_file(path)


def test_no_module_of_torch_or_pandas_is_imported_to_read(tmp_path: Path) -> None:
    saved(pd.DataFrame({"a": [1]}), tmp_path / "x.pt")
    code = (
        "import sys; from pathlib import Path; from w2w_hub.upstream.torch_files import open_file; "
        f"open_file(Path({str(tmp_path / 'x.pt')!r})); print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[0] == "False"
