from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2w_hub import read_adapter
from w2w_hub.dialects import read_deltas
from w2w_hub.errors import CorruptFileError, InvalidInputError, UnsupportedFormatError
from w2w_hub.lora.adapter import Target

LINEAR, CONV = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1"
NAMES = {
    LINEAR: "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
    CONV: "lora_unet_mid_block_resnets_0_conv1",
}

Q = NAMES[LINEAR]


def by_peft(kind: str, module: str, **options):
    """One layer of the real PEFT with random factors: its tensors under LyCORIS' keys, and its change."""
    import torch
    from peft import LoHaConfig, LoKrConfig, get_peft_model

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 12, 3) if module == CONV else torch.nn.Linear(32, 48)
    config = {"LoKr": LoKrConfig, "LoHa": LoHaConfig}[kind](r=2, alpha=6, target_modules=["layer"], **options)
    model = get_peft_model(torch.nn.ModuleDict({"layer": layer}), config)
    tuned = next(m for m in model.modules() if hasattr(m, "get_delta_weight"))
    tensors = {}
    for name, value in tuned.named_parameters():
        if "lokr_" in name or "hada_" in name:
            torch.nn.init.normal_(value.data)
            tensors[f"{NAMES[module]}.{name.removesuffix('.default')}"] = value.detach().numpy().copy()
    tensors[f"{NAMES[module]}.alpha"] = np.array(6, np.float32)
    return tensors, tuned.get_delta_weight("default").detach().numpy()


CASES = [
    ("LoKr", LINEAR, {"decompose_both": True, "decompose_factor": 8}),
    ("LoKr", LINEAR, {"decompose_factor": 2}),
    ("LoKr", CONV, {"decompose_factor": 2, "use_effective_conv2d": True}),
    ("LoKr", CONV, {"decompose_factor": 2, "use_effective_conv2d": False}),
    ("LoHa", LINEAR, {}),
    ("LoHa", CONV, {"use_effective_conv2d": True}),
    ("LoHa", CONV, {"use_effective_conv2d": False}),
]


@pytest.mark.parametrize(("kind", "module", "options"), CASES, ids=lambda v: str(v).rsplit(".", 1)[-1])
def test_the_dense_change_is_the_one_that_pefts_own_layer_makes(tmp_path, kind, module, options):
    tensors, expected = by_peft(kind, module, **options)
    save_file(tensors, tmp_path / "a.safetensors")
    deltas = read_deltas(tmp_path / "a.safetensors")
    assert list(deltas) == [Target("unet", module)]
    np.testing.assert_allclose(deltas[Target("unet", module)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "module", "options"), CASES, ids=lambda v: str(v).rsplit(".", 1)[-1])
@pytest.mark.parametrize("rank", [1, 3, 100])
def test_an_approximation_of_a_rank_is_the_best_there_is_and_states_its_error(tmp_path, kind, module, options, rank):
    tensors, expected = by_peft(kind, module, **options)
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors", svd_rank=rank)
    pair = adapter.factors[Target("unet", module)]
    assert (pair.rank, pair.delta().shape) == (rank, expected.shape)
    values = np.linalg.svd(expected.reshape(len(expected), -1).astype(np.float64), compute_uv=False)
    best = np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
    error = np.linalg.norm(pair.delta() - expected) / np.linalg.norm(expected)
    assert adapter.metadata["error"] == pytest.approx(best, abs=1e-5)
    assert error == pytest.approx(best, abs=1e-5)


def test_a_rank_r_reading_that_was_not_asked_for_is_refused_with_both_ways(tmp_path):
    save_file(by_peft("LoHa", LINEAR)[0], tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match=r"LoHa.*read_deltas.*--rank 8"):
        read_adapter(tmp_path / "a.safetensors")


def test_more_equal_singular_values_than_the_rank_do_not_matter(tmp_path):
    name, eye = NAMES[LINEAR], np.eye(8, dtype=np.float32)
    save_file({f"{name}.lokr_w1": eye, f"{name}.lokr_w2": eye}, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors", svd_rank=2)
    assert adapter.metadata["error"] == pytest.approx((62 / 64) ** 0.5)
    delta = adapter.factors[Target("unet", LINEAR)].delta()
    assert np.linalg.matrix_rank(delta) == 2
    np.testing.assert_allclose(delta @ delta, delta, atol=1e-6)  # a projection, as any best approximation of identity


def test_a_product_that_overflows_is_refused(tmp_path):
    name, far = NAMES[LINEAR], np.full((2, 2), 1e300)
    save_file({f"{name}.lokr_w1": far, f"{name}.lokr_w2": far}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInputError, match="float64"):
        read_deltas(tmp_path / "a.safetensors")[Target("unet", LINEAR)]
    with pytest.raises(InvalidInputError, match="float64"):
        read_adapter(tmp_path / "a.safetensors", svd_rank=1)


def test_two_whole_factors_have_scale_1_whatever_alpha_says(tmp_path):
    w1, w2 = np.ones((2, 2), np.float32), np.ones((3, 4), np.float32)
    name = NAMES[LINEAR]
    save_file(
        {f"{name}.lokr_w1": w1, f"{name}.lokr_w2": w2, f"{name}.alpha": np.array(1e6, np.float32)},
        tmp_path / "a.safetensors",
    )
    np.testing.assert_array_equal(read_deltas(tmp_path / "a.safetensors")[Target("unet", LINEAR)], np.ones((6, 8)))


def test_a_convolution_that_was_flattened_before_it_was_factored_gets_its_kernel_back(tmp_path):
    rng, name = np.random.default_rng(0), NAMES[CONV]
    w1, w2 = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(3, 12)).astype(np.float32)
    save_file({f"{name}.lokr_w1": w1, f"{name}.lokr_w2": w2}, tmp_path / "a.safetensors")
    delta = read_deltas(tmp_path / "a.safetensors")[Target("unet", CONV)]
    assert delta.shape == (6, 8, 3, 3)
    np.testing.assert_allclose(delta.reshape(6, 72), np.kron(w1, w2), rtol=1e-6)


def test_plain_lora_modules_may_stand_beside_and_every_dialect_has_a_dense_change(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8)).astype(np.float32), rng.normal(size=(12, 2)).astype(np.float32)
    plain = {
        f"{NAMES[LINEAR]}.lora_down.weight": a, f"{NAMES[LINEAR]}.lora_up.weight": b,
        f"{NAMES[LINEAR]}.alpha": np.array(1, np.float32),
    }  # fmt: skip
    tensors, _ = by_peft("LoKr", CONV)
    save_file(tensors | plain, tmp_path / "mixed.safetensors")
    save_file(plain, tmp_path / "plain.safetensors")
    for name, count in (("mixed", 2), ("plain", 1)):
        deltas = read_deltas(tmp_path / f"{name}.safetensors")
        assert len(deltas) == count
        np.testing.assert_allclose(deltas[Target("unet", LINEAR)], 0.5 * (b.astype(np.float64) @ a), rtol=1e-6)


def test_fused_flux_modules_are_split_by_rows(tmp_path):
    rng = np.random.default_rng(0)
    w1 = (rng.normal(size=(1152, 1)) @ rng.normal(size=(1, 384))).astype(np.float32)
    w2 = rng.normal(size=(8, 8)).astype(np.float32)
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    save_file({f"{name}.lokr_w1": w1, f"{name}.lokr_w2": w2}, tmp_path / "a.safetensors")
    deltas = read_deltas(tmp_path / "a.safetensors")
    assert [t.module for t in deltas] == [f"transformer_blocks.0.attn.to_{n}" for n in "qkv"]
    expected, probe = np.kron(w1.astype(np.float64), w2), rng.normal(size=3072)
    approximated = read_adapter(tmp_path / "a.safetensors", svd_rank=8)
    for i, (target, delta) in enumerate(deltas.items()):
        np.testing.assert_array_equal(delta, expected[i * 3072 : (i + 1) * 3072])
        pair = approximated.factors[target]
        np.testing.assert_allclose(pair.B @ (pair.A @ probe), delta @ probe, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({f"{Q}.hada_w2_b": None}, CorruptFileError, "hada_w2_b"),
        ({f"{Q}.hada_w2_b": (2, 9)}, CorruptFileError, Q),
        ({f"{Q}.hada_w2_b": (3, 32)}, CorruptFileError, r"\(3, 32\)"),
        ({f"{Q}.lokr_w1": (3, 8)}, UnsupportedFormatError, "hada_, lokr_"),
        ({f"{Q}.oft_diag": (3, 8)}, UnsupportedFormatError, "OFT"),
        ({f"{Q}.dora_scale": (8,)}, UnsupportedFormatError, "DoRA"),
        ({"lora_unet_x.hada_w1_a": (8,)}, UnsupportedFormatError, "lora_unet_x"),
        ({"stray": (8,)}, UnsupportedFormatError, "stray"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_the_reason(tmp_path, change, error, message):
    tensors = by_peft("LoHa", LINEAR)[0]
    for key, shape in change.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = np.ones(shape, np.float32)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(error, match=message):
        read_deltas(tmp_path / "a.safetensors")


def test_a_change_too_large_for_memory_is_refused_before_it_is_made(tmp_path):
    name = NAMES[LINEAR]
    wide = {f"{name}.lokr_w1": np.ones((100_000, 1), np.float16), f"{name}.lokr_w2": np.ones((1, 100_000), np.float16)}
    save_file(wide, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedFormatError, match="10,000,000,000"):
        read_deltas(tmp_path / "a.safetensors")
