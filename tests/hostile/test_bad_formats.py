"""Checkpoints of every dialect that are damaged, lie, or would do harm; only our typed errors come out of them."""

from __future__ import annotations

import io
import json
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from scripts.fuzz_formats import mutated, one_case
from tests.dialects.test_detection import KOHYA, MODULE, PAIRS
from w2w_hub import read_adapter
from w2w_hub.cli import main
from w2w_hub.dialects import read_deltas
from w2w_hub.dialects.loading import MAX_DATA
from w2w_hub.errors import CorruptFileError, InvalidInputError, MissingPathError, UnsupportedFormatError, W2WError

READ = [name for name in PAIRS if name not in ("mlx", "lycoris", "cloneofsimo")]


def w2w(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def file_of(tmp_path: Path, tensors: dict[str, np.ndarray], **metadata: str) -> Path:
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata or None)
    return tmp_path / "a.safetensors"


# ---------------------------------------------------------------- the file itself
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab", r"a\.safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ((2**62).to_bytes(8, "little") + b"{}", f"{2**62:,}|{2**62}"),
        (save(PAIRS["kohya"])[:-1], r"a\.safetensors"),
        (b"<!doctype html><title>404</title>" * 9, r"a\.safetensors"),
    ],
    ids=["two bytes", "pointer", "header bomb", "truncated", "web page"],
)
def test_a_file_that_is_none_is_refused_with_what_it_is_and_exit_status_2(tmp_path, data, message):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError, match=message):
        read_adapter(tmp_path / "a.safetensors")
    result = w2w("inspect", tmp_path / "a.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("w2w: error: ")
    assert result.stderr.count("\n") == 1


def test_a_shape_of_a_billion_is_refused_before_anything_is_made(tmp_path):
    header = {f"{KOHYA}.lora_down.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}
    raw = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + b"abcd")
    with pytest.raises(CorruptFileError, match=KOHYA):
        read_adapter(tmp_path / "a.safetensors")


def test_a_file_larger_than_any_adapter_is_refused_unread(tmp_path):
    size = MAX_DATA + 4
    header = {"unet.mid_block.to_q.lora_A.weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + size)  # a hole: it takes no disk
    with pytest.raises(UnsupportedFormatError, match=f"{MAX_DATA:,}"):
        read_adapter(tmp_path / "a.safetensors")


# ---------------------------------------------------------------- tensors
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dialect", READ)
def test_values_that_are_no_numbers_are_refused_with_their_place(tmp_path, dialect, value):
    tensors = {key: array.copy() for key, array in PAIRS[dialect].items()}
    next(iter(tensors.values()))[1, 1] = value
    with pytest.raises(InvalidInputError, match=r"a\.safetensors: 1 .* A "):
        read_adapter(file_of(tmp_path, tensors), alpha=2)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("dialect", READ)
def test_half_a_pair_is_refused_with_the_half_that_is_missing(tmp_path, dialect, half):
    key = list(PAIRS[dialect])[half]
    with pytest.raises(CorruptFileError, match=f"lora_{'BA'[half]}"):
        read_adapter(file_of(tmp_path, {key: PAIRS[dialect][key]}), alpha=2)


@pytest.mark.parametrize("kind", ["i4", "u1", "?"])
@pytest.mark.parametrize("dialect", READ)
def test_factors_that_are_no_floating_point_are_refused(tmp_path, dialect, kind):
    with pytest.raises(UnsupportedFormatError, match=str(np.dtype(kind))):
        read_adapter(file_of(tmp_path, {k: v.astype(kind) for k, v in PAIRS[dialect].items()}), alpha=2)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 6), (7, 3), r"\(7, 3\)"),
        ((2, 6), (7,), r"\(7,\)"),
        ((2, 6, 3, 3), (7, 2, 3, 3), r"\(7, 2, 3, 3\)"),
        ((2, 6), (7, 2, 1, 1), r"\(7, 2, 1, 1\)"),
        ((0, 6), (7, 0), "rank 0"),
        ((2, 0), (7, 2), "rank 2"),
        ((2, 6, 0, 3), (7, 2, 1, 1), r"\(2, 6, 0, 3\)"),
    ],
    ids=str,
)
def test_shapes_that_are_no_factors_are_refused(tmp_path, a, b, message):
    tensors = {f"{KOHYA}.lora_down.weight": np.ones(a, "f4"), f"{KOHYA}.lora_up.weight": np.ones(b, "f4")}
    with pytest.raises(W2WError, match=message):
        read_adapter(file_of(tmp_path, tensors))


def test_a_core_tensor_that_does_not_fit_is_refused(tmp_path):
    shapes = {"down": (2, 6, 1, 1), "up": (7, 2, 1, 1), "mid": (3, 2, 3, 3)}
    tensors = {f"{KOHYA}.lora_{name}.weight": np.ones(shape, "f4") for name, shape in shapes.items()}
    with pytest.raises(CorruptFileError, match=r"lora_mid \(3, 2, 3, 3\)"):
        read_adapter(file_of(tmp_path, tensors))


def test_a_module_named_twice_is_refused_with_both_keys(tmp_path):
    name = "text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {
        f"lora_{part}_{name}.lora_{half}.weight": np.ones((2, 2), "f4")
        for part in ("te", "te1")
        for half in ("down", "up")
    }
    with pytest.raises(UnsupportedFormatError, match=r"lora_te1?_.*lora_te"):
        read_adapter(file_of(tmp_path, tensors))


def test_two_numberings_of_one_unet_are_refused(tmp_path):
    tensors = {
        f"lora_unet_{name}.lora_{half}.weight": np.ones((2, 2), "f4")
        for name in ("middle_block_1_proj_in", "down_blocks_0_attentions_0_proj_in") for half in ("down", "up")
    }  # fmt: skip
    with pytest.raises(UnsupportedFormatError, match=r"lora_unet_.*lora_unet_"):
        read_adapter(file_of(tmp_path, tensors))


@pytest.mark.parametrize("alpha", [np.float32([1, 2]), np.float32(np.nan), np.float32(np.inf)], ids=str)
def test_an_alpha_that_is_no_number_is_refused(tmp_path, alpha):
    with pytest.raises(CorruptFileError, match="alpha"):
        read_adapter(file_of(tmp_path, PAIRS["kohya"] | {f"{KOHYA}.alpha": np.asarray(alpha)}))


@pytest.mark.parametrize(
    "header",
    ["{", "[]", '{"r": "4"}', '{"r": 2}', '{"unet.r": 2, "unet.lora_alpha": null}', '{"r": 3, "lora_alpha": 1}'],
)
def test_a_header_that_misstates_the_scale_is_refused(tmp_path, header):
    tensors = {
        f"unet.{MODULE}.lora_A.weight": np.ones((2, 6), "f4"),
        f"unet.{MODULE}.lora_B.weight": np.ones((7, 2), "f4"),
    }
    with pytest.raises(CorruptFileError, match="lora_adapter_metadata"):
        read_adapter(file_of(tmp_path, tensors, lora_adapter_metadata=header))


# ---------------------------------------------------------------- pickles
class Payload:
    """What a pickle does when it is executed: leave a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def armed(tmp_path):
    """A torch archive and a bare pickle that would each leave a mark, in a folder with a good checkpoint."""
    import torch

    mark, folder = tmp_path / "executed", tmp_path / "loras"
    folder.mkdir()
    torch.save({"x": torch.ones(2), "y": Payload(mark)}, folder / "a.pt")
    (folder / "b.bin").write_bytes(pickle.dumps(Payload(mark)))
    for name in ("good", "too"):
        save_file(PAIRS["kohya"], folder / f"{name}.safetensors")
    pickle.loads(pickle.dumps(Payload(tmp_path / "control")))
    assert (tmp_path / "control").exists()
    return folder, mark


@pytest.mark.parametrize("name", ["a.pt", "b.bin"])
@pytest.mark.parametrize("allow", [False, True])
def test_a_pickles_payload_never_runs(armed, name, allow):
    folder, mark = armed
    with pytest.raises(W2WError, match=name):
        read_adapter(folder / name, allow_torch=allow)
    result = w2w("inspect", folder / name, *(["--allow-torch"] if allow else []))
    assert result.exit_code == 2
    assert not mark.exists()


def test_a_scan_opens_no_pickle_even_with_the_option(armed):
    folder, mark = armed
    result = w2w("inspect", folder, "--allow-torch", "--json")
    assert result.exit_code == 0, result.output
    assert [Path(json.loads(line)["path"]).stem for line in result.stdout.splitlines()] == ["good", "too"]
    assert all(name in result.stderr for name in ("a.pt", "b.bin"))
    assert not mark.exists()


def test_a_peft_folder_with_a_pickle_alone_is_refused_and_the_pickle_read_only_by_name(peft_folder):
    import torch
    from safetensors.torch import load_file

    folder = peft_folder()
    expected = read_adapter(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(MissingPathError, match=r"adapter_model\.bin"):
        read_adapter(folder, allow_torch=True)
    found = read_adapter(folder / "adapter_model.bin", allow_torch=True)
    for target, pair in expected.factors.items():
        np.testing.assert_array_equal(found.factors[target].A, pair.A)
        assert found.factors[target].scale == pair.scale


def test_a_name_of_nested_lists_takes_no_time(tmp_path):
    lists = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x04" + lists + b"\x93.")
    with pytest.raises(CorruptFileError, match=r"a\.pt"):  # 2^60 brackets would not end
        read_adapter(tmp_path / "a.pt", allow_torch=True)


def torch_file(tmp_path: Path, content: object) -> Path:
    import torch

    torch.save(content, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_a_torch_archive_that_would_grow_in_memory_is_refused(tmp_path):
    import torch

    path = torch_file(tmp_path, {f"{KOHYA}.lora_down.weight": torch.ones(1).expand(10**6, 10**6)})
    with pytest.raises(CorruptFileError, match=f"{KOHYA}|a.pt"):
        read_adapter(path, allow_torch=True)
    with zipfile.ZipFile(torch_file(tmp_path, {"x": torch.zeros(1000)})) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(UnsupportedFormatError, match=r"a\.pt"):
        read_adapter(path, allow_torch=True)


@pytest.mark.parametrize("content", [{}, [], {"a": 3}, {3: "x"}, 7, "text", {"state_dict": {"x": "y"}}], ids=repr)
def test_a_torch_archive_of_other_things_is_refused(tmp_path, content):
    with pytest.raises(UnsupportedFormatError, match=r"a\.pt"):
        read_adapter(torch_file(tmp_path, content), allow_torch=True)


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x02N.", zipfile.ZipFile], ids=["empty", "PK", "pickle", "zip"])
def test_what_is_no_torch_archive_is_refused(tmp_path, data):
    if data is zipfile.ZipFile:
        made = io.BytesIO()
        zipfile.ZipFile(made, "w").close()
        data = made.getvalue()
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"a\.pt"):
        read_adapter(tmp_path / "a.pt", allow_torch=True)


@pytest.mark.parametrize("data", [b"", b"PK\3\4", zipfile.ZipFile], ids=["empty", "cut", "no arrays"])
def test_an_archive_of_numpy_that_is_none_is_refused(tmp_path, data):
    if data is zipfile.ZipFile:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", b"none")
    else:
        (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"a\.npz"):
        read_adapter(tmp_path / "a.npz")


# ---------------------------------------------------------------- links
def test_a_link_that_leads_out_of_its_folder_is_not_followed(tmp_path):
    (tmp_path / "outside").mkdir()
    secret = file_of(tmp_path / "outside", PAIRS["kohya"])
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "a.safetensors").symlink_to(secret)
    with pytest.raises(UnsupportedFormatError, match=r"a\.safetensors"):
        read_adapter(tmp_path / "lora")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "a.safetensors").symlink_to(secret)
    (tmp_path / "tree" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "dangling.safetensors").symlink_to(tmp_path / "nowhere")
    result = w2w("inspect", tmp_path / "tree", "--json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "4 links out of the tree" in result.stderr


def test_the_links_of_a_hub_cache_are_followed(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    file_of(tmp_path, PAIRS["kohya"]).rename(tmp_path / "models--a--b" / "blobs" / "abc")
    (snapshot / "lora.safetensors").symlink_to(Path("..") / ".." / "blobs" / "abc")
    assert read_adapter(snapshot).dialect == "kohya"


# ---------------------------------------------------------------- anything at all
@given(seed=st.integers(0, 2**63))
@settings(deadline=None, max_examples=200)
def test_whatever_is_done_to_keys_shapes_headers_and_bytes_only_our_errors_come_out(seed):
    one_case(seed)


@given(data=st.binary(max_size=200) | st.builds(mutated, st.integers(0, 2**63)))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_a_file_the_commands_end_with_0_or_2_and_one_line(tmp_path, data):
    (tmp_path / "a.safetensors").write_bytes(data)
    result = w2w("inspect", tmp_path / "a.safetensors", "--json")
    assert result.exit_code in (0, 2), result.output
    assert result.exit_code == 0 or result.stderr.count("\n") == 1
    try:
        read_deltas(tmp_path / "a.safetensors")
    except W2WError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


# ---------------------------------------------------------------- what a configuration may make the reader do
@pytest.mark.parametrize("pattern", ["(([a-z_0-9.])+)+#", "(a|a)" * 30, "[a-z.]?" * 40, "(?:.*a){20}"])
def test_a_pattern_that_a_backtracking_engine_would_match_for_ever_takes_no_time(peft_folder, pattern):
    config = peft_folder() / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"alpha_pattern": {pattern: 8}}))
    began = time.process_time()
    scales = {pair.scale for pair in read_adapter(config.parent).factors.values()}
    assert time.process_time() - began < 2
    assert scales == {3.0}  # none of them matches a module


def test_a_scale_beyond_float32_is_refused_by_every_command(peft_folder, tmp_path):
    config = peft_folder() / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1e308}))
    for command in (
        ("inspect", config.parent),
        *(("convert", config.parent, "--to", d, "--out", tmp_path / d) for d in ("peft", "diffusers", "kohya")),
    ):
        result = w2w(*command)
        assert result.exit_code == 2
        assert "float32" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name in ("peft", "diffusers", "kohya")]


def test_a_single_refused_checkpoint_is_named_in_the_message(tmp_path):
    path = file_of(tmp_path, {**PAIRS["diffusers"], "stray": np.zeros(2, np.float32)})
    for arguments in ((path,), (path, path)):
        result = w2w("inspect", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"w2w: error: {path}: 1 ")


def test_no_control_character_of_a_file_reaches_the_terminal(tmp_path):
    path = file_of(tmp_path, {**PAIRS["diffusers"], "unet.\x1b[31m.weight": np.zeros(2, np.float32)})
    results = [w2w("inspect", path), w2w("convert", path, "--to", "peft", "--out", tmp_path / "out")]
    assert [r.exit_code for r in results] == [0, 0]
    assert all("\x1b" not in r.output and "\\x1b[31m" in r.output for r in results)


def test_a_scan_prints_names_of_files_without_their_control_characters(tmp_path):
    for name in ("note\x1b[31m\n.txt", "bad\x1b[31m.safetensors", "worse.safetensors"):
        (tmp_path / name).write_bytes(b"ab")
    scanned = w2w("inspect", tmp_path)
    named = w2w("inspect", tmp_path / "bad\x1b[31m.safetensors", tmp_path)
    assert (scanned.exit_code, named.exit_code) == (0, 2)
    assert "\x1b" not in scanned.output + named.output
    assert (
        named.stderr.count("is not a readable safetensors file") == named.stderr.count("bad\\x1b[31m.safetensors") == 1
    )
