"""A tiny world with the demo's shape: a random diffusion model, and adapters that vary along known factors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from w2w_hub.demo.settings import STRENGTHS

ATTRIBUTES = ("Sunglasses", "Full_Beard", "Dark_Skin")
FITTED, HELD_OUT, PLAIN = 40, 12, 4
INITIALISATION = "tiny-seed-0"
# the shape of what the recipe measures; the figures mean nothing
_READ_BACK = dict.fromkeys(("top", "hair_color", "skin_color", "facial_hair", "accessory"), 0.5)
_EDIT = {"before": 0.1, "after": 0.9, "each_other_factor_kept": 0.8, "all_other_factors_kept": 0.7}
EVALUATION = {
    "setting": {"machines": {"scale": "a test", "edits": "another test"}},
    "scale": {"real": 0.99, "strangers": 0.1, "held_out_people": 12},
    "loras": {"relative_score": 0.5, **_READ_BACK},
    "reading": {name: {"auc": 0.97, "positives": 0.4} for name in ATTRIBUTES},
    "inversion": {"relative_score": 0.3},
    "edits": {name: {"people": 8, **{f"{strength:g}": _EDIT for strength in STRENGTHS}} for name in ATTRIBUTES},
}


@dataclass(frozen=True)
class TinyWorld:
    """Folders as the demo's assets have them."""

    assets: Path

    @property
    def base(self) -> Path:
        return self.assets / "base"

    @property
    def rows(self) -> Path:
        return self.assets / "rows"

    @property
    def adapters(self) -> list[Path]:
        return sorted((self.assets / "adapters").iterdir())


def make_base(folder: Path, seed: int = 0) -> None:
    """A complete StableDiffusionPipeline with random weights, in float16 as the shipped one is."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    symbols = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=[], model_max_length=16)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=32, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, sample_size=64, block_out_channels=(8, 8, 8, 8),
            layers_per_block=1, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, mid_block_add_attention=False,
        ),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32, attention_head_dim=2, norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type="v_prediction", timestep_spacing="trailing",
            clip_sample=False, rescale_betas_zero_snr=True, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(dtype=torch.float16).save_pretrained(folder)


def make_world(folder: Path) -> TinyWorld:
    import torch
    from diffusers import UNet2DConditionModel
    from PIL import Image

    from w2w_hub import ParameterLayout, write_adapter, write_dataset
    from w2w_hub.dataset.manifest import Compatibility
    from w2w_hub.demo.judge import Judge
    from w2w_hub.dialects.base_model import digest_of_folder
    from w2w_hub.training import kaiming_start

    make_base(folder / "base")
    unet = UNet2DConditionModel.from_pretrained(folder / "base" / "unet")
    layout = ParameterLayout.from_model(unet, rank=1, scale=27.0)
    rng = np.random.default_rng(0)
    people = FITTED + HELD_OUT + PLAIN
    labels = rng.random((people, len(ATTRIBUTES))) < 0.4
    effects = rng.normal(size=(len(ATTRIBUTES), layout.size)) * 0.02
    noise = rng.normal(size=(people, 6)) @ rng.normal(size=(6, layout.size)) * 0.005
    rows = (kaiming_start(layout, 0).numpy() + labels @ effects + noise).astype(np.float16)
    ids = [f"person-{i:04d}" for i in range(people)]
    table = pd.DataFrame(labels, columns=list(ATTRIBUTES)).assign(id=ids)
    table["split"] = ["test" if FITTED <= i < FITTED + HELD_OUT else "train" for i in range(people)]
    shipped = FITTED + HELD_OUT
    write_dataset(
        rows[:shipped], folder / "rows", layout=layout, ids=ids[:shipped], labels=table[:shipped], name="tiny",
        parquet_view=False,
        compatibility=Compatibility("tiny/base", digest_of_folder(folder / "base", layout), INITIALISATION),
    )  # fmt: skip
    for i in range(shipped, people):
        adapter = layout.unflatten(rows[i])
        adapter.base_model = "tiny/base"
        write_adapter(adapter, folder / "adapters" / ids[i], ("peft",))
    table[shipped:].to_csv(folder / "labels.csv", index=False)
    torch.manual_seed(1)
    rules = {"Sunglasses": {"glasses": ("yes",)}, "Full_Beard": {"hair": ("yes",)}, "Dark_Skin": {"skin": ("yes",)}}
    Judge({"glasses": ("no", "yes"), "hair": ("no", "yes"), "skin": ("no", "yes")}, rules, width=4).save(
        folder / "judge.safetensors"
    )
    (folder / "heldout").mkdir()
    for i in range(FITTED, shipped):
        strip = rng.integers(0, 255, (64, 4 * 64, 3)).astype(np.uint8)
        Image.fromarray(strip).save(folder / "heldout" / f"{ids[i]}.png")
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    return TinyWorld(folder)


@pytest.fixture(scope="session")
def tiny_world(made_once: Callable[..., Path]) -> TinyWorld:
    """One tiny world for the whole run; read only."""
    return TinyWorld(made_once("tiny-world", make_world))


@pytest.fixture(scope="session")
def tiny_space(tiny_world: TinyWorld, made_once: Callable[..., Path]) -> Path:
    """Its weight space with the base model embedded; read only."""

    def write(_: Path) -> None:
        from w2w_hub import WeightDataset, build_space

        space = build_space(WeightDataset.open(tiny_world.rows), 12, name="tiny-space")
        space.save(tiny_world.assets / "space", base=tiny_world.base)

    made_once("tiny-space", write)
    return tiny_world.assets / "space"
