from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import factors
from w2w_hub import Adapter, ParameterLayout, read_adapter, write_adapter
from w2w_hub.errors import AlreadyExistsError, InvalidInputError, MissingPathError, UnsupportedFormatError
from w2w_hub.lora.adapter import Target

WEIGHTS = "pytorch_lora_weights.safetensors"


def outputs(unet) -> np.ndarray:
    """What the UNet predicts for one fixed input."""
    import torch

    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 4, 4, 4, generator=generator)
    text = torch.randn(1, 3, 12, generator=generator)
    with torch.no_grad():
        return unet(sample, 7, text).sample.numpy()


def with_deltas(unet, adapter: Adapter):
    """The UNet with scale * B @ A added to its weights by hand."""
    import torch

    modules = dict(unet.named_modules())
    for target, pair in adapter.factors.items():
        modules[target.module].weight.data += torch.from_numpy(pair.delta().astype(np.float32))
    return unet


def with_diffusers(unet, folder):
    """The UNet with the file loaded by diffusers."""
    unet.load_lora_adapter(folder, prefix="unet", weight_name=WEIGHTS, local_files_only=True)
    return unet


def diffusers_deltas(unet) -> dict[str, np.ndarray]:
    return {
        name: module.get_delta_weight(module.active_adapters[0]).detach().numpy()
        for name, module in unet.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.fixture
def mixed(tiny_unet) -> Adapter:
    """Factors whose ranks and scales differ from module to module."""
    layout = ParameterLayout.from_model(tiny_unet())
    return Adapter(
        {
            s.target: factors(1 + i % 3, s.inputs, s.outputs, scale=[4.0, 0.5][i % 2], seed=i)
            for i, s in enumerate(layout.slots)
        }
    )


@pytest.fixture
def uniform(tiny_unet) -> Adapter:
    layout = ParameterLayout.from_model(tiny_unet(), rank=2, scale=13.5)
    return layout.unflatten(np.random.default_rng(0).normal(size=layout.size) * 0.3)


@pytest.mark.parametrize("kind", ["uniform", "mixed"])
def test_diffusers_opens_the_file_with_exactly_the_stated_change(kind, request, tiny_unet, tmp_path):
    adapter = request.getfixturevalue(kind)
    write_adapter(adapter, tmp_path / "lora")
    loaded = with_diffusers(tiny_unet(), tmp_path / "lora")
    deltas = diffusers_deltas(loaded)
    assert set(deltas) == {t.module for t in adapter.factors}
    for target, pair in adapter.factors.items():
        np.testing.assert_allclose(deltas[target.module], pair.delta(), rtol=1e-4, atol=1e-5)
    found, expected, base = outputs(loaded), outputs(with_deltas(tiny_unet(), adapter)), outputs(tiny_unet())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(found - base).max() > 0.01


def test_diffusers_reads_the_same_with_and_without_the_metadata(uniform, tiny_unet, tmp_path):
    from safetensors.numpy import load_file, save_file

    write_adapter(uniform, tmp_path / "lora")
    (tmp_path / "bare").mkdir()
    save_file(load_file(tmp_path / "lora" / WEIGHTS), tmp_path / "bare" / WEIGHTS)
    kept, bare = (with_diffusers(tiny_unet(), tmp_path / name) for name in ("lora", "bare"))
    np.testing.assert_array_equal(outputs(kept), outputs(bare))


def test_the_default_folder_means_the_same_to_peft_and_to_diffusers(uniform, tiny_unet, tmp_path):
    from peft import PeftModel

    write_adapter(uniform, tmp_path / "lora")
    by_peft = PeftModel.from_pretrained(tiny_unet(), tmp_path / "lora")
    by_diffusers = with_diffusers(tiny_unet(), tmp_path / "lora")
    np.testing.assert_allclose(outputs(by_peft), outputs(by_diffusers), rtol=1e-4, atol=1e-5)


def test_the_metadata_names_every_component_or_is_left_out(tmp_path):
    from safetensors import safe_open

    unet = Target("unet", "mid_block.attentions.0.proj_in")
    text = Target("text_encoder", "text_model.encoder.layers.0.mlp.fc1")

    def metadata(name: str, *pairs) -> dict[str, str]:
        write_adapter(Adapter(dict(pairs)), tmp_path / name, ("diffusers",))
        with safe_open(tmp_path / name / WEIGHTS, "np") as file:
            assert set(file.keys()) == {f"{t}.lora_{f}.weight" for t, _ in pairs for f in "AB"}
            return file.metadata()

    config = json.loads(metadata("both", (unet, factors(2)), (text, factors(3)))["lora_adapter_metadata"])
    assert config == {
        "unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": [unet.module],
        "text_encoder.r": 3, "text_encoder.lora_alpha": 3, "text_encoder.target_modules": ["encoder.layers.0.mlp.fc1"],
    }  # fmt: skip
    other = Target("text_encoder", "text_model.encoder.layers.1.mlp.fc1")
    assert metadata("mixed", (unet, factors(2)), (text, factors(3)), (other, factors(1))) == {"format": "pt"}


def test_a_folder_with_both_files_is_read_back_with_the_numbers_it_was_written_from(uniform, tmp_path):
    write_adapter(uniform, tmp_path / "lora")
    layout = ParameterLayout.from_adapter(uniform)
    again = read_adapter(tmp_path / "lora")
    assert again.dialect == "peft"
    assert ParameterLayout.from_adapter(again) == layout
    np.testing.assert_array_equal(layout.flatten(again), layout.flatten(uniform))


def test_a_dialect_without_a_writer_is_refused_and_nothing_is_written(uniform, tmp_path):
    with pytest.raises(InvalidInputError, match="mlx"):
        write_adapter(uniform, tmp_path / "lora", ("peft", "mlx"))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_is_never_written_over_something(uniform, tmp_path):
    (tmp_path / "lora").mkdir()
    with pytest.raises(AlreadyExistsError):
        write_adapter(uniform, tmp_path / "lora")
    assert list((tmp_path / "lora").iterdir()) == []


def test_what_is_no_checkpoint_or_not_there_is_refused_with_its_path(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedFormatError, match="empty"):
        read_adapter(tmp_path / "empty")
    with pytest.raises(MissingPathError, match="nothing"):
        read_adapter(tmp_path / "nothing")
