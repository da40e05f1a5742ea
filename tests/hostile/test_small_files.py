"""Small checkpoint files that ask for much memory, reach out of their folder, or are no files: refused, untouched."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from tests.dialects.test_detection import KOHYA, PAIRS
from w2w_hub import pack_adapters, read_adapter
from w2w_hub.common.limits import MIB, unpacked_limit
from w2w_hub.dialects.archives import list_arrays
from w2w_hub.dialects.assemble import factors_of
from w2w_hub.dialects.inspection import inspect_adapter
from w2w_hub.dialects.loading import open_checkpoint
from w2w_hub.errors import CorruptFileError, InvalidInputError, MissingPathError, UnsupportedFormatError, W2WError

MOST = 200 * MIB


@contextmanager
def little_memory(limit: int = MOST):
    """Raise if the block takes more memory at once than a limit."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MIB:.0f} MiB"


def refused(path: Path, error: type[W2WError] = W2WError, **options) -> str:
    with little_memory(), pytest.raises(error) as caught:
        read_adapter(path, **options)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 2100
    return str(caught.value)


# ---------------------------------------------------------------- NumPy archives
def npy(header: bytes, version: bytes = b"\x01\x00", data: bytes = b"") -> bytes:
    width = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + data


def text(shape: str, descr: str = "<f4") -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()


ARRAYS = {
    "a header of blanks": npy(b" " * 2**26, b"\x02\x00"),
    "a header that claims 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
    "a shape of a billion": npy(text("(1000000000, 1000000000)")),
    "no axis but one": npy(text("(0, 4611686018427387904)")),
    "a number without end": npy(text(f"({'9' * 5000},)")),
    "objects": npy(text("(1,)", "|O"), data=pickle.dumps([1])),
    "a record": npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
    "brackets": npy(b"(" * 9000),
    "code": npy(b"__import__('os').system('true')"),
    "a truncated one": npy(text("(4,)"), data=b"abc"),
}


BOTH = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
SMALL = [(name, how) for name, array in ARRAYS.items() for how in BOTH if how == "deflated" or len(array) < MIB]


@pytest.mark.parametrize(("name", "how"), SMALL)
def test_an_array_whose_header_lies_is_refused_and_little_of_it_unpacked(tmp_path, name, how):
    array, method = ARRAYS[name], BOTH[how]
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", array)
    assert (tmp_path / "a.npz").stat().st_size < MIB
    refused(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_an_array_in_a_packing_that_numpy_does_not_write_is_not_unpacked(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", npy(text("(4194304,)"), data=bytes(2**24)))
    refused(tmp_path / "a.npz", UnsupportedFormatError)
    with open(tmp_path / "a.npz", "rb") as file, pytest.raises(UnsupportedFormatError):
        list_arrays(file, "a.npz")


def test_small_files_may_unpack_to_32_mib_and_larger_ones_to_a_thousand_times_their_size():
    assert unpacked_limit(0) == 2**25
    assert unpacked_limit(3 * MIB) == 2**25 + 3000 * MIB


def test_a_large_array_is_looked_at_without_being_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{"m.lora_a": np.zeros((2**18, 64), np.float32)})
    with little_memory(20 * MIB):
        assert open_checkpoint(tmp_path / "a.npz").shapes == {"m.lora_a": (2**18, 64)}


def directory_of(count: int) -> bytes:
    """A zip archive that is hardly more than a directory of so many members, all of one place."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("0", b"")
    raw = made.getvalue()
    start = raw.index(b"PK\x01\x02")
    entry, end = raw[start : raw.index(b"PK\x05\x06")], raw[raw.index(b"PK\x05\x06") :]
    entries = entry * count
    return raw[:start] + entries + end[:12] + len(entries).to_bytes(4, "little") + start.to_bytes(4, "little") + b"\0\0"


@pytest.mark.parametrize("count", [2, 300_000, 900_000])
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_an_archive_of_very_many_members_or_one_twice_is_refused(tmp_path, suffix, count):
    (tmp_path / f"a{suffix}").write_bytes(directory_of(count))
    refused(tmp_path / f"a{suffix}", CorruptFileError, allow_torch=True)


# ---------------------------------------------------------------- torch's archives
def torch_archive(path: Path, data: bytes, *storages: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
        for i, storage in enumerate(storages):
            archive.writestr(f"archive/data/{i}", storage)
    return path


class Call:
    """A pickle that calls something."""

    def __init__(self, function: Callable, *arguments: object):
        self.state = function, arguments

    def __reduce__(self):
        return self.state


def tensor(shape, strides, *, numbers: int = 4, offset: int = 0, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """The pickle of ``{KOHYA.lora_down.weight: tensor}``, which torch would build as it says."""
    import torch

    class Saver(pickle._Pickler):  # the one in C looks persistent ids up elsewhere
        def persistent_id(self, value):
            return ("storage", getattr(torch, kind), key, "cpu", numbers) if value == "the storage" else None

    out = io.BytesIO()
    rebuild = Call(torch._utils._rebuild_tensor_v2, "the storage", offset, shape, strides, False, {})
    Saver(out, 2).dump({f"{KOHYA}.lora_down.weight": rebuild})
    return out.getvalue()


PICKLES: dict[str, Callable[[], object]] = {
    "bytearray(3e9)": lambda: {"x": Call(bytearray, 3 * 10**9)},
    "bytes(3e9)": lambda: {"x": Call(bytes, 3 * 10**9)},
    "list of a range": lambda: {"x": Call(list, range(10**9))},
    "a set": lambda: {"x": {1, 2}},
    "Path.touch": lambda: {"x": Call(Path.touch, Path("executed"))},
    "eval": lambda: {"x": Call(eval, "open('executed', 'w')")},
    "getattr": lambda: {"x": Call(getattr, "a", "upper")},
    "an array of NumPy": lambda: {"x": np.zeros(3)},
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_a_pickle_that_calls_anything_is_refused_and_nothing_is_made(tmp_path, monkeypatch, content, protocol):
    monkeypatch.chdir(tmp_path)
    path = torch_archive(tmp_path / "a.pt", pickle.dumps(content(), protocol=protocol))
    assert "not executed" in refused(path, CorruptFileError, allow_torch=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_torchs_own_words_and_a_files_escapes_do_not_reach_the_message(tmp_path):
    data = b"\x80\x02ctorch\n\x1b[31m_red\x07\nq\x00."
    message = refused(torch_archive(tmp_path / "a.pt", data), CorruptFileError, allow_torch=True)
    assert "\x1b" not in message
    assert "weights_only" not in message.lower()


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (10**5, 10**5), "strides": (0, 0)},  # expanded
        {"shape": (2, 2), "strides": (10**6, 1)},
        {"shape": (2, 2), "strides": (2, 1), "offset": 2},
        {"shape": (2, 2), "strides": (2, 1), "numbers": 10**9},
        {"shape": (2, 2), "strides": (2, 1), "key": "7"},
        {"shape": (0, 2**62), "strides": (1, 1)},
        {"shape": (1, 2**100, 0), "strides": (1, 1, 1)},
        {"shape": (2, 2), "strides": (2,)},
        {"shape": (2, -2), "strides": (2, 1)},
        {"shape": (2, 2.0), "strides": (2, 1)},
        {"shape": (1,) * 60, "strides": (1,) * 60},
        {"shape": (2, 1), "strides": (1, 1), "kind": "DoubleStorage"},
        {"shape": (2, 2), "strides": (2, 1), "offset": -1},
    ],
    ids=str,
)
def test_a_tensor_that_is_not_all_stored_is_refused(tmp_path, options):
    path = torch_archive(tmp_path / "a.pt", tensor(**options), bytes(16))
    refused(path, allow_torch=True)


def test_many_tensors_over_one_storage_are_refused(tmp_path):
    import torch

    flat = torch.zeros(1000)
    torch.save({f"x{i}": flat[:999] for i in range(200)}, tmp_path / "a.pt")
    assert "799,200" in refused(tmp_path / "a.pt", CorruptFileError, allow_torch=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * 900_000 + b".",
        b"\x80\x02" + b"}\x94" * 400_000 + b".",
        b"\x80\x02" + b"(" * 60_000 + b".",
        b"\x80\x02N" + b"\x85" * 60_000 + b"K\x01s.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02}" + b"N" + b"\x85" * 60_000 + b"K\x01s.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02" + b"2" * 100,
        b"\x80\x02h\x09.",
        b"",
        b"\x80\x02}",
        b"\x80\x02" + b"N" * (5 * MIB),
    ],
    ids=["lists", "memo", "marks", "deep", "long text", "long number", "longer text", "deep key", "itself", "copies",
         "nothing to get", "empty", "cut", "too long"],
)  # fmt: skip
def test_a_pickle_that_would_grow_is_refused_within_its_own_size(tmp_path, data):
    refused(torch_archive(tmp_path / "a.pt", data), allow_torch=True)


def test_what_torch_saves_is_read_with_the_values_and_shapes_that_torch_has(tmp_path):
    import torch

    torch.manual_seed(0)
    base = torch.randn(6, 4)
    tensors = {
        "plain": base, "turned": base.T, "part": torch.randn(5, 5)[1:3, ::2], "half": base.half(),
        "bfloat16": base.bfloat16(), "double": base.double(), "parameter": torch.nn.Parameter(torch.randn(3, 2)),
        "whole": torch.arange(5), "truth": torch.tensor([True, False]), "one": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "small": torch.arange(3, dtype=torch.int8), "bytes": torch.arange(3, dtype=torch.uint8),
    }  # fmt: skip
    for content in (
        tensors,
        {"state_dict": tensors, "epoch": 3, "loss": 0.5, "name": None},
        torch.nn.Linear(3, 2).state_dict(),
    ):
        torch.save(content, tmp_path / "a.pt")
        checkpoint = open_checkpoint(tmp_path / "a.pt", allow_torch=True)
        expected = content.get("state_dict", content)
        assert checkpoint.shapes == {name: tuple(value.shape) for name, value in expected.items()}
        for name, value in expected.items():
            wide = value.float() if value.dtype == torch.bfloat16 else value
            np.testing.assert_array_equal(checkpoint.tensors[name], wide.detach().numpy())
            assert checkpoint.tensors[name].dtype == wide.detach().numpy().dtype
            checkpoint.tensors[name].ravel()[:1] = 1  # they are the reader's own
    torch.save([base, base + 1], tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt", allow_torch=True).is_list


# ---------------------------------------------------------------- safetensors headers
def with_header(raw: bytes, data: bytes = b"") -> bytes:
    return len(raw).to_bytes(8, "little") + raw + data


LARGE = 15 * MIB
HEADERS = {
    "empty strings": lambda: b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(1_400_000)) + b"}}",
    "empty lists": lambda: b'{"a":[' + b"[]," * (LARGE // 3) + b"[]]}",
    "empty maps": lambda: b'{"a":[' + b"{}," * 700_000 + b"{}]}",
    "numbers": lambda: b'{"a":[' + b"1," * (LARGE // 2) + b"1]}",
    "one long text of wide characters": lambda: (
        b'{"__metadata__":{"a":"' + "\U0001d538".encode() * (LARGE // 4) + b'"}}'
    ),
    "31 MB": lambda: b'{"__metadata__":{"a":"' + b"x" * 31 * MIB + b'"}}',
    "deep": lambda: b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "a long number": lambda: b'{"a":' + b"9" * LARGE + b"}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_large_header_takes_bounded_memory(tmp_path, header):
    (tmp_path / "a.safetensors").write_bytes(with_header(header()))
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [[0, 2**62], [1, 2**100, 0], [2**40, 0, 2**40], [0] * 9, [0, 2**35]], ids=str)
def test_a_shape_without_numbers_that_no_array_can_have_is_refused(tmp_path, shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    (tmp_path / "a.safetensors").write_bytes(with_header(json.dumps({f"{KOHYA}.lora_down.weight": entry}).encode()))
    refused(tmp_path / "a.safetensors", CorruptFileError)


@pytest.mark.parametrize("sides", [(100_000, 100_000), (2**20, 2**20)], ids=str)
@pytest.mark.parametrize("name", [KOHYA, "diffusion_model.double_blocks.0.img_attn.qkv"])
def test_a_kronecker_product_is_not_made_before_its_size_is_looked_at(tmp_path, name, sides):
    tensors = {f"{name}.lokr_w{i}": np.ones((side, 1), np.float16) for i, side in zip("12", sides, strict=True)}
    save_file(tensors, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", UnsupportedFormatError, svd_rank=1)


def test_a_core_tensor_that_would_take_hours_to_multiply_out_is_refused():
    def wide(*shape: int) -> np.ndarray:
        return np.broadcast_to(np.float32(1), shape)

    roles = {"A": wide(8192, 4096, 1, 1), "B": wide(8, 8192, 1, 1), "mid": wide(8192, 8192, 1, 1)}
    with pytest.raises(UnsupportedFormatError):
        factors_of(roles, "module", "file")


# ---------------------------------------------------------------- configurations
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, '{"a": "' + "x" * 5 * MIB + '"}', '{"a": [' + "{}," * 900_000 + "1]}"],
    ids=["deep list", "deep maps", "long", "many"],
)  # fmt: skip
def test_a_configuration_takes_bounded_memory(peft_folder, text):
    folder = peft_folder()
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refused(folder, CorruptFileError)
    (folder / "adapter_config.json").unlink()
    tensors = {key.replace("base_model.model.", "unet."): value for key, value in PAIRS["peft"].items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"lora_adapter_metadata": text})
    refused(folder, CorruptFileError)


# ---------------------------------------------------------------- links and what is no file
def sentinel(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())}


def both_ways(good: Path, bad: Path) -> str:
    """Refused alone, and by the fast path of packing, which has just learnt from a like folder."""
    messages = []
    for attempt in (
        lambda: read_adapter(bad),
        lambda: pack_adapters([good, good.with_name("more"), bad], bad.parent / "out"),
    ):
        with little_memory(), pytest.raises(W2WError) as caught:
            attempt()
        messages.append(str(caught.value))
    assert not (bad.parent / "out").exists()
    assert bad.name in messages[0]
    assert bad.name in messages[1]
    return messages[0]


@pytest.fixture
def three(peft_folder):
    """Three like folders of which the first two are good."""
    return [peft_folder(name, seed=i) for i, name in enumerate(("good", "more", "bad"))]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("to", ["another folder", "a file of the same folder", "a device", "nothing", "the folder"])
def test_a_link_in_a_folder_is_followed_by_no_reader(three, tmp_path, name, to):
    good, _, bad = three
    outside = tmp_path / "outside"
    outside.mkdir()
    (bad / name).rename(outside / name)
    places = {
        "another folder": outside / name, "a file of the same folder": bad / "copy.txt", "a device": Path("/dev/zero"),
        "nothing": tmp_path / "nowhere", "the folder": bad,
    }  # fmt: skip
    (bad / "copy.txt").write_bytes((outside / name).read_bytes())
    (bad / name).symlink_to(places[to])
    before = sentinel(outside)
    both_ways(good, bad)
    assert sentinel(outside) == before


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_pipe_in_a_folder_is_never_waited_for(three, name):
    good, _, bad = three
    (bad / name).unlink()
    os.mkfifo(bad / name)
    both_ways(good, bad)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.npz", "a.bin"])
def test_a_pipe_or_device_that_is_named_is_never_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, allow_torch=True)
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / name).symlink_to("/dev/zero")
    refused(tmp_path / "device" / name, allow_torch=True)


def test_a_snapshot_of_the_hubs_cache_is_read_by_both_and_its_link_to_elsewhere_by_none(three, tmp_path):
    good, more, bad = three
    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    folders = []
    for i, source in enumerate((good, more)):
        snapshot = repository / "snapshots" / (str(i) * 40)
        snapshot.mkdir(parents=True)
        for file in source.iterdir():
            blob = repository / "blobs" / f"{i}{abs(hash(file.name)):x}"
            blob.write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        folders.append(snapshot)
    dataset = pack_adapters(folders, tmp_path / "packed")
    assert len(dataset) == 2
    weights = folders[1] / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(bad / "adapter_model.safetensors")
    for attempt in (lambda: read_adapter(folders[1]), lambda: pack_adapters(folders, tmp_path / "again")):
        with pytest.raises(UnsupportedFormatError):
            attempt()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".ckpt", ".npz", ".pth"])
@pytest.mark.parametrize("allow", [False, True])
def test_a_pointer_of_git_lfs_is_told_as_that_whatever_its_ending(tmp_path, suffix, allow):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refused(path, CorruptFileError, allow_torch=allow)
    assert "git lfs pull" in refused(tmp_path, CorruptFileError)
    with pytest.raises(CorruptFileError):
        inspect_adapter(path)


def test_a_configuration_that_is_a_pointer_of_git_lfs_is_told_as_that(peft_folder):
    folder = peft_folder()
    (folder / "adapter_config.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refused(folder, CorruptFileError)


def test_names_that_no_file_can_have_are_missing(tmp_path):
    for name in ("a\0b.safetensors", "x" * 5000 + ".safetensors"):
        with pytest.raises((MissingPathError, InvalidInputError)):
            read_adapter(tmp_path / name)
    (tmp_path / "a.safetensors").write_bytes(save(PAIRS["kohya"]))
    assert read_adapter(tmp_path / "a.safetensors").dialect == "kohya"
