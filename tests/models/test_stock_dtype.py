"""Stock diffusers generates with every base model that is written here, without ``dtype=``."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from w2w_hub import W2WPipeline, WeightSpace
from w2w_hub.demo.assets import Assets
from w2w_hub.dialects.base_model import mixed_note, stated_dtypes

from ..cli.test_commands import w2w
from ..tiny_world import TinyWorld

FAST: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    picture: np.ndarray = pipe("sks person", generator=torch.Generator().manual_seed(0), **FAST).images
    return picture


def stock_from(folder: Path) -> Any:
    opened = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    parts = (opened.unet, opened.vae, opened.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    return opened


@pytest.mark.parametrize("how", ["saved with a base", "saved in float16", "saved as a variant", "shipped"])
def test_stock_diffusers_draws_every_base_that_is_written_here_without_a_dtype(
    how: str, tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "space"
    assert stated_dtypes(tiny_world.base) == {"text_encoder": "float16"}  # as a user may have it
    if how == "saved with a base":
        folder = tiny_space
        for name in ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"):
            assert (folder / name).read_bytes() == (tiny_world.base / name).read_bytes()
    elif how == "shipped":
        folder = Assets().base
    else:
        half = W2WPipeline.from_pretrained(tiny_space, dtype=torch.float16)
        half.save_pretrained(folder, **({"variant": "fp16"} if "variant" in how else {}))
    if how == "saved as a variant":
        stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, variant="fp16")
        assert stock.text_encoder.dtype == stock.unet.dtype == torch.float32
    else:
        stock = stock_from(folder)
    assert np.isfinite(draw(stock)).all()
    assert mixed_note(folder) is None
    assert set(stated_dtypes(folder).values()) == {"float32"}


def test_an_exported_person_looks_the_same_in_stock_diffusers(
    pipe: W2WPipeline, tiny_space: Path, tmp_path: Path
) -> None:
    pipe.identity = "person-0001"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe.export(tmp_path / "lora")
    stock = stock_from(tiny_space)
    stock.load_lora_weights(str(tmp_path / "lora"))
    np.testing.assert_allclose(draw(stock), draw(pipe), atol=1e-5)


def test_an_older_space_of_several_dtypes_is_told_where_it_matters(tiny_space: Path, tmp_path: Path) -> None:
    old = shutil.copytree(tiny_space, tmp_path / "old")
    path = old / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float16"}))
    pipe = W2WPipeline.from_pretrained(old)  # draws as ever
    assert draw(pipe).shape
    pipe.identity = "person-0001"
    with pytest.warns(UserWarning, match="dtype=torch.float32"):
        pipe.export(tmp_path / "lora")
    done = w2w("export", old, "person-0001", "--out", tmp_path / "again")
    assert done.exit_code == 0
    assert "dtype=torch.float32" in done.output
    assert mixed_note(None) is None
    assert mixed_note(tmp_path) is None
    WeightSpace.open(old).save(tmp_path / "new", base=_base_of(old, tmp_path / "base"))
    assert mixed_note(tmp_path / "new") is None


def _base_of(space: Path, folder: Path) -> Path:
    """The embedded base model of a space as a folder of its own."""
    folder.mkdir()
    for name in ("text_encoder", "tokenizer", "unet", "vae", "scheduler"):
        shutil.copytree(space / name, folder / name)
    shutil.copy(space / "model_index.json", folder)
    return folder
