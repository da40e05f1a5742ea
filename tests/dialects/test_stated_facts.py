"""Torch's archives value by value at the edges of their storages, and facts that every member of a list states."""

from __future__ import annotations

import itertools
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.dialects.test_detection import KOHYA, MODULE, PAIRS, A, B
from tests.hostile.test_small_files import tensor
from w2w_hub import read_adapter
from w2w_hub.dialects import read_deltas, recognize
from w2w_hub.dialects.base_model import digest_of_weights
from w2w_hub.dialects.loading import open_checkpoint
from w2w_hub.dialects.scan import is_tree
from w2w_hub.errors import ScaleConflictError, UnsupportedFormatError, W2WError
from w2w_hub.lora import ParameterLayout, Target

DOWN = f"{KOHYA}.lora_down.weight"
axes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=3)


# ---------------------------------------------------------------- torch's archives
@given(axes, st.integers(0, 6), st.integers(1, 10), st.sampled_from([b"little", b"big", None, b"BIG"]))
@settings(max_examples=60, deadline=None)
def test_a_tensor_is_read_just_where_all_its_values_are_stored(tmp_path_factory, axes, offset, numbers, order):
    pytest.importorskip("torch")
    shape, strides = tuple(n for n, _ in axes), tuple(s for _, s in axes)
    places = np.full(shape, offset)
    for axis, (n, stride) in enumerate(axes):
        places += (np.arange(n) * stride).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    stored = np.random.default_rng(numbers).normal(size=numbers).astype(">f4" if order == b"big" else "<f4")
    path = tmp_path_factory.mktemp("a") / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor(shape, strides, numbers=numbers, offset=offset))
        archive.writestr("archive/data/0", stored.tobytes())
        if order is not None:
            archive.writestr("archive/byteorder", order)
    if places.size and (places.max() >= numbers or places.size > numbers):
        with pytest.raises(W2WError):
            open_checkpoint(path, allow_torch=True)
        return
    found = open_checkpoint(path, allow_torch=True)
    assert found.shapes == {DOWN: shape}
    values = found.tensors[DOWN]
    assert (values.dtype, values.shape) == (np.float32, shape)
    if places.size:
        np.testing.assert_array_equal(values, stored.astype("<f4")[places])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_is_read_with_and_without_its_wrapper(tmp_path, wrapped):
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(value.copy()) for key, value in PAIRS["kohya"].items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "a.pt")
    (pair,) = read_adapter(tmp_path / "a.pt", allow_torch=True).factors.values()
    np.testing.assert_array_equal(pair.A, A)
    np.testing.assert_array_equal(pair.B, B)


# ---------------------------------------------------------------- lists
@pytest.mark.parametrize("start", [True, False, None, "gaussian", "orthogonal", "eva", "mica"])
def test_an_initialization_that_keeps_the_base_weights_is_read(peft_folder, start):
    assert read_adapter(_with(peft_folder(), init_lora_weights=start)).factors


@pytest.mark.parametrize("start", [1, 0, 1.0, 0.0, "", "True", "pissa", "pissa_niter_4", "olora", "loftq", [], {}])
def test_any_other_initialization_is_refused_also_one_that_equals_true(peft_folder, start):
    with pytest.raises(UnsupportedFormatError):
        read_adapter(_with(peft_folder(), init_lora_weights=start))


def _with(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    return folder


@pytest.mark.parametrize("field", ["modelspec.architecture", "ss_base_model_version", "ss_network_module"])
@pytest.mark.parametrize(
    "model",
    ["chroma", "hunyuan_video", "FramePack", "Wan2.1", "qwen-image", "sd3", "stable-diffusion-3", "lumina2",
     "HiDream-I1", "ltx-video", "flux.2-dev"],
)  # fmt: skip
def test_every_other_model_that_a_header_names_is_believed(tmp_path, field, model):
    names = {"double_blocks_0_img_mod_lin": (3072, 18432), "single_blocks_0_modulation_lin": (3072, 9216)}
    tensors = {}
    for name, (inputs, outputs) in names.items():
        tensors |= {
            f"lora_unet_{name}.lora_down.weight": np.zeros((1, inputs), "f4"),
            f"lora_unet_{name}.lora_up.weight": np.zeros((outputs, 1), "f4"),
        }
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata={field: "flux-1-dev"})
    assert len(read_adapter(path).factors) == 2
    save_file(tensors, path, metadata={field: model})
    with pytest.raises(UnsupportedFormatError):
        read_adapter(path)


NUMBERINGS = {
    True: ["input_blocks_4_1_proj_in", "middle_block_1_proj_in", "output_blocks_3_1_proj_in"],
    False: ["down_blocks_1_attentions_0_proj_in", "mid_block_attentions_0_proj_in", "up_blocks_1_attentions_0_proj_in"],
}


def test_one_file_has_one_numbering_of_its_unet_whatever_blocks_it_adapts(tmp_path):
    def of(*names):
        tensors = {}
        for name in names:
            tensors |= {f"lora_unet_{name}.lora_down.weight": A, f"lora_unet_{name}.lora_up.weight": B}
        save_file(tensors, tmp_path / "a.safetensors")
        return read_adapter(tmp_path / "a.safetensors")

    for names in NUMBERINGS.values():
        assert len(of(*names).factors) == 3
    for pair in itertools.product(*NUMBERINGS.values()):
        with pytest.raises(UnsupportedFormatError):
            of(*pair)


@pytest.mark.parametrize("text", ['{"rs_lora": "%s"}', '{"dropout": "0.1", "rs_lora": "%s", "x": "y"}'])
@pytest.mark.parametrize("said", ["true", "True", "TRUE", "false", "False"])
def test_rslora_is_told_by_its_argument_in_any_case(tmp_path, text, said):
    rank, alpha = A.shape[0], 3.0
    folded = alpha * rank**0.5
    header = {"ss_network_alpha": "3", "ss_network_dim": str(rank), "ss_network_args": text % said}
    tensors = PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(folded, "f4")}
    save_file(tensors, tmp_path / "a.safetensors", metadata=header)
    if said.lower() == "true":
        (pair,) = read_adapter(tmp_path / "a.safetensors").factors.values()
        assert pair.scale == pytest.approx(folded / rank)
    else:
        with pytest.raises(ScaleConflictError):
            read_adapter(tmp_path / "a.safetensors")


# ---------------------------------------------------------------- folders
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_a_folder_of_one_checkpoint_is_that_checkpoint_and_of_two_or_none_a_tree(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert not is_tree(tmp_path)
    (tmp_path / f"b{suffix}").write_bytes(b"x")
    assert is_tree(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}{suffix}").unlink()
    (tmp_path / "notes.txt").write_bytes(b"x")
    assert is_tree(tmp_path)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_pefts_own_lokr_is_pefts_and_not_of_lycoris(tmp_path, prefix):
    """PEFT has methods of these names, whose tensors mean something else."""
    key = f"{prefix}lora_unet_{MODULE.replace('.', '_')}"
    tensors = {f"{key}.hada_w{i}_{n}": t for i in "12" for n, t in (("a", B), ("b", A))}
    save_file(tensors, tmp_path / "a.safetensors")
    assert recognize(tmp_path / "a.safetensors").name == ("peft" if prefix else "lycoris")


def test_the_digest_of_a_base_tells_its_modules_apart_although_their_weights_are_equal():
    def digest(first: str, second: str) -> str:
        layout = ParameterLayout({Target("unet", first): (1, 2, 2), Target("unet", second): (1, 2, 2)}, 1.0)
        return digest_of_weights(layout, lambda _: np.ones((2, 2), np.float32))

    assert len({digest(*pair) for pair in itertools.permutations("abc", 2)}) == 3


# ---------------------------------------------------------------- dense changes
def dense(kind: str, alpha: float | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tensors of one module of rank 2, and its change by NumPy."""
    rng = np.random.default_rng(3)

    def pair(outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(outputs, 2)).astype("f4"), rng.normal(size=(2, inputs)).astype("f4")

    left, right = (pair(2, 3), pair(3, 4)) if kind == "lokr" else (pair(7, 5), pair(7, 5))
    tensors = {f"{KOHYA}.{kind}_w{i + 1}_{'ab'[j]}": t for i, p in enumerate((left, right)) for j, t in enumerate(p)}
    one, two = (np.matmul(*(f.astype("f8") for f in p)) for p in (left, right))
    change = np.kron(one, two) if kind == "lokr" else one * two
    if alpha is not None:
        tensors[f"{KOHYA}.alpha"] = np.array(alpha, "f4")
    return tensors, change * (alpha / 2 if alpha else 1.0)


@pytest.mark.parametrize("alpha", [None, 0.0, 4.0, -4.0, 0.5])
@pytest.mark.parametrize("kind", ["lokr", "hada"])
def test_a_dense_change_and_its_best_factors_have_the_scale_and_sign_of_alpha(tmp_path, kind, alpha):
    tensors, change = dense(kind, alpha)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    target = Target("unet", MODULE)
    np.testing.assert_allclose(read_deltas(path)[target], change, rtol=1e-10)
    values = np.linalg.svd(change, compute_uv=False)
    for rank in (1, 2, 6):
        adapter = read_adapter(path, svd_rank=rank)
        lost = np.linalg.norm(adapter.factors[target].delta() - change)
        least = np.linalg.norm(values[rank:])
        assert lost == pytest.approx(least, abs=1e-5 * values[0])  # no factors of this rank are nearer
        assert adapter.metadata["error"] == pytest.approx(least / np.linalg.norm(values), abs=1e-7)
