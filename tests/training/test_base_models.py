"""Base models that training opens from folders: transformers with a flow, and kinds that it does not support."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from w2w_hub import ParameterLayout, WeightDataset, read_adapter
from w2w_hub.dataset.manifest import DatasetManifest
from w2w_hub.demo.assets import Assets
from w2w_hub.demo.judge import Judge, identity_score
from w2w_hub.demo.settings import CASES, GUIDANCE, SAMPLING_STEPS
from w2w_hub.dialects.base_model import digest_of_folder
from w2w_hub.errors import BaseModelMismatchError
from w2w_hub.models.pictures import open_picture, save_picture, to_picture
from w2w_hub.models.pipelines.inputs import encode_pictures
from w2w_hub.store.hashing import entry_of
from w2w_hub.training import TrainingRecipe, Validation, kaiming_start, train_identity, train_many

from ..tiny_world import TinyWorld
from .test_runs import QUICK, portrait


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return portrait(tmp_path_factory.mktemp("photos") / "ann" / "0.png", seed=1, size=(32, 32)).parent


@pytest.fixture(scope="module")
def sd3(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 3 as diffusers saves it, without its optional T5."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_world.base / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, sample_size=32, block_out_channels=(8, 8, 8),
            layers_per_block=1, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False, shift_factor=0.0609,
            scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModelWithProjection(text), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text), tokenizer_2=tokenizer,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sd3") / "base"
    pipe.save_pretrained(folder)
    return folder


def test_stable_diffusion_3_is_trained_from_its_folder_and_the_adapter_opens_in_diffusers(
    sd3: Path, photos: Path, tmp_path: Path
) -> None:
    recipe = TrainingRecipe(steps=20, learning_rate=5e-3, class_pictures=2, average_last=0.25, batch_size=2)
    losses: list[float] = []
    train_identity(
        photos, sd3, tmp_path / "lora", recipe=recipe, cache=tmp_path / "cache",
        validate=Validation(20, num_inference_steps=2), on_step=lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    found = read_adapter(tmp_path / "lora")
    layout = ParameterLayout.from_adapter(found)
    assert {slot.target.component for slot in layout.slots} == {"transformer"}
    assert {name.rpartition(".")[2] for name in (slot.target.module for slot in layout.slots)} == {"to_q", "to_v"}
    pipe = StableDiffusion3Pipeline.from_pretrained(sd3, text_encoder_3=None, tokenizer_3=None)
    pipe.load_lora_weights(tmp_path / "lora")
    active = pipe.get_list_adapters()["transformer"]
    assert len(active) == 1


def test_rows_of_a_transformer_become_a_dataset_that_names_its_base(sd3: Path, photos: Path, tmp_path: Path) -> None:
    dataset = train_many(photos.parent, sd3, tmp_path / "rows", recipe=QUICK).dataset
    assert dataset.manifest.compatibility.base_digest == digest_of_folder(sd3, dataset.layout)
    again = train_identity(photos, sd3, recipe=QUICK, reference=tmp_path / "rows")
    np.testing.assert_allclose(dataset.layout.flatten(again), dataset[0], rtol=1e-5, atol=1e-7)


def test_latents_are_shifted_as_the_autoencoder_says(sd3: Path) -> None:
    pipe = StableDiffusion3Pipeline.from_pretrained(sd3, text_encoder_3=None, tokenizer_3=None)
    picture = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    found = encode_pictures(pipe, [picture])
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        expected = (pipe.vae.encode(pixels).latent_dist.mean - 0.0609) * 1.5305
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_base_model_of_another_kind_is_one_line(
    tiny_world: TinyWorld, sd3: Path, photos: Path, tmp_path: Path
) -> None:
    inpainting = Path(shutil.copytree(tiny_world.base, tmp_path / "inpainting"))
    config: dict[str, Any] = dict(UNet2DConditionModel.load_config(inpainting / "unet"))
    UNet2DConditionModel.from_config(config | {"in_channels": 9}).save_pretrained(inpainting / "unet")
    with pytest.raises(BaseModelMismatchError, match="inpainting"):
        train_identity(photos, inpainting, tmp_path / "out", recipe=QUICK)
    with pytest.raises(BaseModelMismatchError, match="unet"):  # rows of a UNet, a base model with a transformer
        train_identity(photos, sd3, tmp_path / "out", recipe=QUICK, reference=tiny_world.rows)
    assert [path.name for path in tmp_path.iterdir()] == ["inpainting"]


def test_a_dataset_that_holds_its_initialization_is_trained_from_it(
    tiny_world: TinyWorld, photos: Path, tmp_path: Path
) -> None:
    rows = Path(shutil.copytree(tiny_world.rows, tmp_path / "rows"))
    dataset = WeightDataset.open(rows)
    first = dataset[0].copy()
    tensors = {}
    for slot in dataset.layout.slots:
        first[slot.b_offset : slot.b_offset + slot.outputs * slot.rank] = 0
    for target, pair in dataset.layout.unflatten(first).factors.items():
        for name, values in (("lora_A", pair.A), ("lora_B", pair.B)):
            tensors[f"unet.{target.module}.{name}.weight"] = torch.from_numpy(np.array(values, np.float32))
    file = rows / "initialisation.safetensors"
    save_file(tensors, file, {"format": "pt"})

    def started() -> np.ndarray:
        adapter = train_identity(photos, tiny_world.base, recipe=QUICK, reference=rows)
        assert adapter.metadata["w2w.initialization"] == dataset.manifest.compatibility.initialisation
        return dataset.layout.flatten(adapter)

    unlisted = started()
    manifest = DatasetManifest.read(rows)
    manifest.files[file.name] = entry_of(file)
    manifest.write(rows)
    listed = started()
    a = slice(0, dataset.layout.slots[0].b_offset)
    close = 5 * QUICK.steps * QUICK.learning_rate
    assert np.abs(listed[a] - first[a]).max() < close
    assert np.abs(unlisted[a] - kaiming_start(dataset.layout, 0).numpy()[a]).max() < close
    assert np.abs(listed[a] - unlisted[a]).max() > close


@pytest.mark.slow
def test_a_newcomers_drawn_person_is_recognized_by_the_judge(tmp_path: Path) -> None:
    """README's settings: pictures under other prompts are more like the person than a stranger's are."""
    assets = Assets()
    person, stranger = "person-0960", "person-0963"
    pictures = assets.pictures(person)
    save_picture(to_picture(pictures[0]), tmp_path / "photo.png")
    recipe = TrainingRecipe(class_prompt=None, steps=30, batch_size=4, learning_rate=3e-3, average_last=0.25)
    validate = Validation(30, tuple(prompt for prompt, _ in CASES), 1, SAMPLING_STEPS, GUIDANCE)
    train_identity(
        tmp_path / "photo.png", assets.base, tmp_path / "out", recipe=recipe, reference=assets.rows, validate=validate
    )
    drawn = [open_picture(tmp_path / "out-validation" / f"step-000030-{i}.png") for i in range(len(CASES))]
    judge = Judge.load(assets.judge)

    def embedded(shown: Any) -> torch.Tensor:
        return judge.embed(torch.from_numpy(np.asarray(shown, np.float32)).permute(0, 3, 1, 2))

    real = embedded(pictures)
    score = identity_score(embedded(np.stack([np.asarray(one) / 255 for one in drawn])), real).mean()
    other = identity_score(embedded(assets.pictures(stranger)), real).mean()
    assert score > 0.8 > 0.3 > other, (score, other)
