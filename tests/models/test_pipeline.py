from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel

from w2w_hub import Adapter, W2WPipeline, WeightDataset, read_adapter, write_adapter
from w2w_hub.errors import (
    BaseModelMismatchError,
    InvalidInputError,
    LayoutMismatchError,
    MissingPathError,
    UnknownNameError,
)
from w2w_hub.lora.adapter import LoraFactors, Target
from w2w_hub.models.injection import inject

from ..tiny_world import TinyWorld, make_base

KEY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
FAST = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe: StableDiffusionPipeline, prompt: object = "sks person", **options: object) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **{**FAST, **options}).images


def weights(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in pipe.unet.state_dict().items()}


def test_without_an_identity_the_base_model_draws_exactly(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    stock = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(draw(pipe), draw(stock))


@pytest.mark.slow
def test_after_many_swaps_the_base_weights_and_pictures_are_bit_equal(pipe: W2WPipeline) -> None:
    before, picture = weights(pipe), draw(pipe)
    text, _ = pipe.encode_prompt("sks person", "cpu", 1, False)
    for seed in range(50):
        pipe.sample_identity(seed)
        pipe(prompt_embeds=text, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    layout = pipe.space.layout
    shown = pipe.unet.get_parameter(KEY)
    for vector in torch.from_numpy(
        pipe.space.decode(np.stack([p.coefficients for p in pipe.space.sample(950, seed=1)]))
    ):
        with inject(pipe.unet, layout, vector):
            assert not torch.equal(before[KEY], shown)
    pipe.identity = None
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())
    np.testing.assert_array_equal(draw(pipe), picture)


def test_identities_change_the_picture_and_differ_from_each_other(pipe: W2WPipeline) -> None:
    pictures = [draw(pipe)]
    for name in ("person-0000", "person-0001"):
        pipe.identity = name
        pictures.append(draw(pipe))
    for i in range(3):
        assert np.abs(pictures[i] - pictures[i - 1]).max() > 1e-3


def test_an_error_while_drawing_leaves_the_base_weights_as_they_were(pipe: W2WPipeline) -> None:
    before = weights(pipe)
    pipe.identity = "person-0000"

    def fail(*args: object) -> dict:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        draw(pipe, callback_on_step_end=fail)
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())


def test_several_identities_in_one_call_draw_what_each_draws_alone(pipe: W2WPipeline) -> None:
    names = ["person-0000", "person-0007", "person-0041"]
    alone = pipe.render(names, [("sks person", 1)], batch_size=1, **FAST)
    together = pipe.render(names, [("sks person", 1)], **FAST)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_each_prompt_of_a_call_gets_its_own_identity_also_with_several_pictures_a_prompt(pipe: W2WPipeline) -> None:
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(4)).repeat(4, 1, 1, 1)
    pipe.identity = ["person-0000", "person-0001"]
    both = draw(pipe, ["sks person", "sks person"], num_images_per_prompt=2, latents=noise)
    pipe.identity = "person-0001"
    second = draw(pipe, "sks person", latents=noise[:1])
    np.testing.assert_allclose(both[2], second[0], atol=1e-4)
    np.testing.assert_allclose(both[3], second[0], atol=1e-4)


def test_as_many_prompts_as_identities_are_needed(pipe: W2WPipeline) -> None:
    pipe.identity = ["person-0000", "person-0001"]
    with pytest.raises(InvalidInputError, match=r"2.*3"):
        draw(pipe, ["a", "b", "c"])


def test_render_draws_the_base_model_for_none_and_keeps_the_identity(pipe: W2WPipeline) -> None:
    pipe.identity = "person-0002"
    before = pipe.identity
    drawn = pipe.render([None], [("sks person", 0)], **FAST)
    assert pipe.identity is before
    pipe.identity = None
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn[0, 0], draw(pipe, latents=noise)[0], atol=1e-5)


def test_an_adapter_is_drawn_exactly_as_peft_draws_it(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    pipe.identity = tiny_world.adapters[0]
    ours = draw(pipe)
    stock = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    base = draw(stock)
    stock.unet = PeftModel.from_pretrained(stock.unet, str(tiny_world.adapters[0]))
    np.testing.assert_allclose(ours, draw(stock), atol=1e-4)
    assert np.abs(ours - base).max() > 1e-3


def test_an_edit_of_an_adapter_keeps_what_lies_outside_the_space(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    vector = pipe.space.layout.flatten(read_adapter(tiny_world.adapters[0]))
    pipe.identity = tiny_world.adapters[0]
    outside = vector - pipe.space.decode(pipe.identity.point)
    assert np.abs(outside).max() > 1e-5
    pipe.edit({"Sunglasses": 2.0})
    np.testing.assert_allclose(pipe.identity.vector - pipe.space.decode(pipe.identity.point), outside, atol=1e-6)


def in_diffusers(stock: StableDiffusionPipeline, folder: Path) -> None:
    stock.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")


def in_peft(stock: StableDiffusionPipeline, folder: Path) -> None:
    stock.unet = PeftModel.from_pretrained(stock.unet, str(folder))


def kohya_in_diffusers(stock: StableDiffusionPipeline, folder: Path) -> None:
    stock.load_lora_weights(str(folder), weight_name="kohya_lora.safetensors")


def fused(stock: StableDiffusionPipeline, folder: Path) -> None:
    in_diffusers(stock, folder)
    stock.fuse_lora()
    stock.unload_lora_weights()


def test_the_same_point_draws_the_same_picture_through_every_file_in_stock_libraries(
    pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    pipe.sample_identity(seed=3)
    pipe.edit({"Dark_Skin": 2.0})
    ours = draw(pipe)
    pipe.export(tmp_path / "lora", dialects=("peft", "diffusers", "kohya"))
    pipe.identity = None
    base = draw(pipe)
    assert np.abs(ours - base).max() > 1e-2
    for way in (in_diffusers, in_peft, kohya_in_diffusers, fused):
        stock = StableDiffusionPipeline.from_pretrained(tiny_world.base, dtype=torch.float32)
        stock.set_progress_bar_config(disable=True)
        way(stock, tmp_path / "lora")
        np.testing.assert_allclose(ours, draw(stock), atol=1e-4, err_msg=way.__name__)
    for file in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "kohya_lora.safetensors"):
        pipe.identity = read_adapter(tmp_path / "lora" / file)
        np.testing.assert_allclose(ours, draw(pipe), atol=1e-4, err_msg=file)


def test_an_exported_identity_comes_back_as_the_same_vector(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.sample_identity(seed=1)
    pipe.export(tmp_path / "lora")
    again = pipe.space.layout.flatten(read_adapter(tmp_path / "lora"))
    np.testing.assert_array_equal(again, pipe.identity.vector)


def test_a_saved_pipeline_opens_offline_here_and_as_a_stock_pipeline(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    again = W2WPipeline.from_pretrained(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    assert again.space.digest == pipe.space.digest
    for opened in (again, StableDiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)):
        opened.set_progress_bar_config(disable=True)
        np.testing.assert_array_equal(draw(opened), draw(pipe))


def test_a_foreign_base_model_is_refused(pipe: W2WPipeline, tmp_path: Path) -> None:
    make_base(tmp_path / "foreign", seed=9)
    with pytest.raises(BaseModelMismatchError, match="digest"):
        W2WPipeline.from_base(tmp_path / "foreign", pipe.space)


def test_a_base_of_another_pipeline_class_is_refused(pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copytree(tiny_world.base, tmp_path / "xl")
    index = json.loads((tmp_path / "xl" / "model_index.json").read_text())
    (tmp_path / "xl" / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(BaseModelMismatchError, match="StableDiffusionXLPipeline"):
        W2WPipeline.from_base(tmp_path / "xl", pipe.space)


def test_a_space_without_a_base_model_says_how_to_give_it_one(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.space.save(tmp_path / "bare")
    with pytest.raises(MissingPathError, match=re.escape(str(tmp_path / "bare"))):
        W2WPipeline.from_pretrained(tmp_path / "bare")


def test_what_names_no_identity_is_refused_with_what_would(pipe: W2WPipeline) -> None:
    with pytest.raises(UnknownNameError, match="nobody"):
        pipe.identity = "nobody"
    with pytest.raises(InvalidInputError):
        pipe.edit({"Sunglasses": 1.0})


def test_coefficients_in_a_plain_list_are_one_identity(pipe: W2WPipeline) -> None:
    coefficients = [0.5, -1.0, 2.0]
    pipe.identity = coefficients
    np.testing.assert_array_equal(pipe.identity.vector, pipe.space.decode(np.float32(coefficients)))
    with pytest.raises(InvalidInputError):
        pipe.identity = []


def test_a_base_folder_that_is_not_there_is_no_repository_name(pipe: W2WPipeline, tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=re.escape(str(tmp_path / "nothing"))):
        W2WPipeline.from_base(tmp_path / "nothing", pipe.space)


def test_rows_of_the_dataset_and_their_adapters_are_the_same_identity(pipe: W2WPipeline, tiny_world: TinyWorld) -> None:
    dataset = WeightDataset.open(tiny_world.rows)
    pipe.identity = dataset.adapter("person-0004")
    np.testing.assert_array_equal(pipe.identity.vector, dataset["person-0004"].astype(np.float32))


def test_an_adapter_of_another_shape_is_refused_with_its_path(pipe: W2WPipeline, tmp_path: Path) -> None:
    target = Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    pair = LoraFactors(np.ones((1, 3), np.float32), np.ones((4, 1), np.float32), 1.0)
    write_adapter(Adapter({target: pair}), tmp_path / "other", ("kohya",))
    with pytest.raises(LayoutMismatchError, match=re.escape(str(tmp_path / "other"))):
        pipe.identity = tmp_path / "other"
