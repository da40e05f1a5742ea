from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import w2w_hub
from w2w_hub.errors import AlreadyExistsError, CorruptFileError, MissingPathError, UnsupportedFormatError
from w2w_hub.store import atomic, hashing, manifest, paths, tensorfile


def content(path: Path) -> dict[str, str]:
    return {name: (path / name).read_text() for name in paths.list_files(path)}


def fail_to_write(path: Path, **options) -> None:
    with atomic.new_folder(path, **options) as partial:
        (partial / "a").write_text("half")
        raise ZeroDivisionError


# ---------------------------------------------------------------- folders
def test_a_new_folder_appears_whole_when_its_block_ends(tmp_path):
    with atomic.new_folder(tmp_path / "deep" / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert content(tmp_path) == {"deep/out/sub/a": "x"}


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail_to_write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_is_there_already_is_never_overwritten(tmp_path, kind):
    path = tmp_path / "out"
    {"file": path.touch, "folder": path.mkdir, "dangling link": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(AlreadyExistsError) as caught, atomic.new_folder(path):
        pass
    assert caught.value.path == path
    with pytest.raises(AlreadyExistsError):
        atomic.write_bytes(path, b"x")


KILLED = """
import os, sys
from w2w_hub.store import atomic
def dying(*_):
    os._exit(9)
os.rename = os.replace = os.link = dying
if sys.argv[1] == "folder":
    with atomic.new_folder(sys.argv[2]) as partial:
        (partial / "a").write_text("half")
else:
    atomic.write_bytes(sys.argv[2], b"half")
"""


def write_killed(kind: str, path: Path) -> list[Path]:
    """What a writer leaves that dies just before its last rename."""
    root = Path(w2w_hub.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", KILLED, kind, str(path)], cwd=root, check=False).returncode == 9
    return [p for p in path.parent.iterdir() if p.name.startswith(f".{path.name}.")]


def write_whole(kind: str, path: Path) -> None:
    if kind == "folder":
        with atomic.new_folder(path) as partial:
            (partial / "a").write_text("whole")
    else:
        atomic.write_bytes(path, b"whole")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_writer_left_is_removed_by_the_next_one_that_writes_there(tmp_path, kind):
    assert len(write_killed(kind, tmp_path / "out")) == 1
    assert not (tmp_path / "out").exists()
    write_whole(kind, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_looks_like_a_leftover_and_is_not_ours_stays(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    link = tmp_path / ".out.0123abcd.w2w-partial"
    link.symlink_to(tmp_path / "thesis.tex")
    folder = tmp_path / ".out.0123abce.partial"
    folder.mkdir()
    (folder / "notes").write_text("precious")
    other = tmp_path / ".out.x.w2w-partial"
    other.write_text("precious")
    write_whole("file", tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.tex", link.name, folder.name, other.name, "out"}
    assert (folder / "notes").read_text() == (tmp_path / "thesis.tex").read_text() == "precious"


def test_what_a_living_process_is_writing_is_not_taken_for_a_leftover(tmp_path):
    with atomic.new_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("mine")
        code = "import sys; from w2w_hub.store import atomic; atomic.remove_leftovers(atomic.Path(sys.argv[1]))"
        root = Path(w2w_hub.__file__).parents[1]
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=root, check=True)
    assert content(tmp_path) == {"out/a": "mine"}


def test_files_and_their_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "DURABLE", True)
    calls = []
    for name in ("fsync", "rename", "link"):
        kept = getattr(atomic.os, name)
        monkeypatch.setattr(atomic.os, name, lambda *a, name=name, kept=kept: (calls.append(name), kept(*a))[1])
    atomic.write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "link", "fsync"]
    calls.clear()
    with atomic.new_folder(tmp_path / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("x")
    assert calls[-2:] == ["rename", "fsync"]
    assert calls.count("fsync") >= 4  # the file, its folder and the new folder before, the parent after


# ------------------------------------------------------------------ files
def test_bytes_are_written_whole_and_replaced_only_when_asked(tmp_path):
    path = tmp_path / "deep" / "a"
    atomic.write_bytes(path, b"old")
    with pytest.raises(AlreadyExistsError):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    atomic.write_bytes(path, b"new", replace=True)
    assert content(tmp_path) == {"deep/a": "new"}


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "Zoë", "numbers": [1, 2.5, None]}
    atomic.write_json(tmp_path / "a.json", value)
    assert manifest.read_json(tmp_path / "a.json") == value


def test_json_with_NaN_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        atomic.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"[1]", b"3"], ids=lambda d: repr(d[:5]))
def test_a_file_that_is_no_json_object_is_an_error_that_names_it(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        manifest.read_json(tmp_path / "a.json")
    assert caught.value.path == tmp_path / "a.json"


def test_json_that_is_not_there_is_an_error_that_names_it(tmp_path):
    for path in (tmp_path / "a.json", tmp_path):
        with pytest.raises(MissingPathError) as caught:
            manifest.read_json(path)
        assert caught.value.path == path


def test_the_hash_of_a_file_is_sha256_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"w2w")
    assert hashing.sha256_file(tmp_path / "a") == hashlib.sha256(b"w2w").hexdigest()


# ------------------------------------------------------------ safetensors
@given(patterns=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=50), scalar=st.integers(0, 2**16 - 1))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bfloat16_of_every_bit_pattern_widens_as_torch_widens_it(tmp_path, patterns, scalar):
    import torch
    from safetensors.torch import save_file

    tensors = {
        "narrow": torch.tensor(patterns, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16),
        "scalar": torch.tensor(scalar, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16),
        "half": torch.ones(2, 3, dtype=torch.float16),
        "wide": torch.arange(6.0).reshape(3, 2),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found, metadata = tensorfile.read_safetensors(tmp_path / "a.safetensors")
    assert metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name], expected)


def test_other_dtypes_are_read_as_stored(tmp_path):
    from safetensors.numpy import save_file

    tensors = {kind: np.arange(4).astype(kind) for kind in ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "?")}
    save_file(tensors, tmp_path / "a.safetensors")
    found, _ = tensorfile.read_safetensors(tmp_path / "a.safetensors")
    for name, values in tensors.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("beside", ["float32", "bfloat16"])
def test_a_dtype_that_numpy_does_not_have_is_refused_with_the_tensors_name(tmp_path, beside):
    import torch
    from safetensors.torch import save_file

    tensors = {"odd": torch.ones(2).to(torch.float8_e4m3fn), "other": torch.ones(2).to(getattr(torch, beside))}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match=r"odd.*F8_E4M3") as caught:
        tensorfile.read_safetensors(tmp_path / "a.safetensors")
    assert caught.value.path == tmp_path / "a.safetensors"


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [1000], "data_offsets": [0, 2000]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 10)
    with pytest.raises(CorruptFileError) as caught:
        tensorfile.read_safetensors(tmp_path / "a.safetensors")
    assert caught.value.path == tmp_path / "a.safetensors"
