"""Folders of weight spaces with their base models: embedded, by reference, checked, and opened by stock classes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image

from w2w_hub import W2WPipeline, WeightDataset, WeightSpace, write_dataset
from w2w_hub.errors import BaseModelMismatchError, InvalidInputError, MissingPathError, UnsupportedFormatError
from w2w_hub.space.fit.build_and_save import build_and_save

from ..tiny_world import TinyWorld, make_base

FAST = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "np"}


def draw(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe("sks person", generator=torch.Generator().manual_seed(0), **FAST).images


def test_a_saved_folder_opens_as_a_custom_pipeline_of_stock_diffusers(pipe: W2WPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved", custom_pipeline=True)
    code = (tmp_path / "saved" / "pipeline.py").read_text()
    assert "from w2w_hub.models.pipelines import W2WPipeline" in code
    assert "pipeline.py" in json.loads((tmp_path / "saved" / "manifest.json").read_text())["files"]
    opened = DiffusionPipeline.from_pretrained(
        tmp_path / "saved", custom_pipeline=str(tmp_path / "saved"), trust_remote_code=True
    )
    assert isinstance(opened, W2WPipeline)
    pipe.identity = opened.identity = "person-0003"  # the space is found beside the base
    np.testing.assert_allclose(draw(opened), draw(pipe), atol=1e-5)
    pipe.save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without" / "pipeline.py").exists()


def test_the_card_shows_previews_and_its_code_runs_as_written(
    pipe: W2WPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pipe.identity = None
    pipe.save_pretrained(tmp_path / "saved", previews={"num_inference_steps": 1})
    assert pipe.identity is before
    card = (tmp_path / "saved" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert "base_model" not in head  # what the adapters state is no repository that is known to be there
    for name in ("people", "sliders"):
        assert f"![{name}](previews/{name}.png)" in card
        assert Image.open(tmp_path / "saved" / "previews" / f"{name}.png").width > 4 * 64
    monkeypatch.chdir(tmp_path / "saved")
    ours, stock = (block.split("```")[0] for block in card.split("```python\n")[1:])
    exec(ours.replace('"sks person")', '"sks person", num_inference_steps=1)'), {})
    assert (tmp_path / "saved" / "person.png").is_file()
    assert (tmp_path / "saved" / "person-lora").is_dir()
    (tmp_path / "saved" / "person.png").unlink()
    exec(stock.replace('"sks person")', '"sks person", num_inference_steps=1)'), {})
    assert (tmp_path / "saved" / "person.png").is_file()


def test_a_base_by_reference_is_loaded_from_there_and_verified(
    pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.save_pretrained(tmp_path / "saved", base_model="someone/base", revision="0" * 40)
    assert not (tmp_path / "saved" / "unet").exists()
    stated = json.loads((tmp_path / "saved" / "w2w_pipeline.json").read_text())
    assert stated == {"base_model": "someone/base", "revision": "0" * 40}
    asked, stock = [], StableDiffusionPipeline.from_pretrained
    bases = {"right": tiny_world.base, "wrong": tmp_path / "foreign"}
    make_base(tmp_path / "foreign", seed=9)

    def fetch(name: Any, **options: Any) -> Any:
        asked.append((name, options.pop("revision", None)))
        return stock(bases[answer], **options)

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", fetch)
    answer = "right"
    again = W2WPipeline.from_pretrained(tmp_path / "saved")
    assert asked == [("someone/base", "0" * 40)]
    np.testing.assert_array_equal(draw(again), draw(pipe))
    answer = "wrong"
    with pytest.raises(BaseModelMismatchError, match="digest"):
        W2WPipeline.from_pretrained(tmp_path / "saved")


def test_a_base_beside_the_space_is_found_relative_to_it(
    pipe: W2WPipeline, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "saved", base_model="someone/base", revision="a")
    shutil.copytree(tiny_world.base, tmp_path / "bases")
    (tmp_path / "saved" / "w2w_pipeline.json").write_text(json.dumps({"base_model": "../bases"}))
    np.testing.assert_array_equal(draw(W2WPipeline.from_pretrained(tmp_path / "saved")), draw(pipe))


@pytest.mark.parametrize("wrong", [{}, {"base_model": 3}, {"base_model": ""}, {"base_model": "a/b", "revision": 1}])
def test_a_configuration_that_names_no_base_is_refused(pipe: W2WPipeline, tmp_path: Path, wrong: dict) -> None:
    pipe.save_pretrained(tmp_path / "saved", base_model="someone/base", revision="a")
    (tmp_path / "saved" / "w2w_pipeline.json").write_text(json.dumps(wrong))
    with pytest.raises(UnsupportedFormatError, match=re.escape(str(tmp_path / "saved"))):
        W2WPipeline.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("wrong", [("someone/base", None), ("base", "abc"), ("/a/b/c", "abc"), (None, "abc")])
def test_a_reference_needs_a_repository_and_a_commit(
    pipe: W2WPipeline, tmp_path: Path, wrong: tuple[str | None, str | None]
) -> None:
    with pytest.raises(InvalidInputError):
        pipe.save_pretrained(tmp_path / "saved", base_model=wrong[0], revision=wrong[1])
    assert not list(tmp_path.iterdir())


def test_a_foreign_base_is_refused_in_bfloat16_too(tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path) -> None:
    space = WeightSpace.from_pretrained(tiny_space)
    assert W2WPipeline.from_base(tiny_world.base, space, dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    make_base(tmp_path / "foreign", seed=9)
    with pytest.raises(BaseModelMismatchError, match="digest"):
        W2WPipeline.from_base(tmp_path / "foreign", space, dtype=torch.bfloat16)


def test_a_folder_that_is_no_base_says_so(pipe: W2WPipeline, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPathError, match=re.escape(str(tmp_path / "empty"))):
        W2WPipeline.from_base(tmp_path / "empty", pipe.space)


def test_only_the_spaces_own_base_is_saved_with_it(tiny_space: Path, tmp_path: Path) -> None:
    pipe = W2WPipeline.from_pretrained(tiny_space)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="style")
    with pytest.raises(InvalidInputError, match="unload_lora_weights"):
        pipe.save_pretrained(tmp_path / "saved")
    pipe.unload_lora_weights()
    pipe.to(torch.bfloat16)
    with pytest.raises(BaseModelMismatchError):
        pipe.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_a_checker_and_settings_stay_as_the_base_has_them(tiny_world: TinyWorld, tiny_space: Path) -> None:
    space = WeightSpace.from_pretrained(tiny_space)
    without = W2WPipeline.from_base(tiny_world.base, space)
    assert without.safety_checker is None
    assert without.config.requires_safety_checker is False
    calls = []

    class Checker(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, images: Any, clip_input: Any) -> Any:
            calls.append(len(images))
            return images, [True] * len(images)

    checked = W2WPipeline.from_base(tiny_world.base, space)
    checked.register_modules(safety_checker=Checker(), feature_extractor=lambda *_, **__: _Pixels())
    checked.identity = "person-0000"
    checked.set_progress_bar_config(disable=True)
    result = checked("sks person", num_inference_steps=1, output_type="pil")
    assert calls == [1]
    assert result.nsfw_content_detected == [True]


class _Pixels(dict):
    def __init__(self) -> None:
        super().__init__(pixel_values=torch.zeros(1))
        self.pixel_values = torch.zeros(1)

    def to(self, *_: Any) -> _Pixels:
        return self


def test_a_space_with_an_embedded_base_verifies_and_any_change_of_it_is_found(tiny_space: Path, tmp_path: Path) -> None:
    from w2w_hub.space.integrity import check_space

    report = check_space(tiny_space)
    assert report.problems == []
    assert report.not_checked == []
    folder = shutil.copytree(tiny_space, tmp_path / "space")
    weights = "unet/diffusion_pytorch_model.safetensors"
    for name in (weights, "vae/config.json", "model_index.json", "w2w_pipeline.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        assert name in {problem.file for problem in check_space(folder).problems}
        (folder / name).write_bytes(whole)
    WeightSpace.from_pretrained(folder).verify()


def test_a_built_space_states_the_base_that_was_embedded_though_its_dataset_states_none(
    tiny_world: TinyWorld, tmp_path: Path
) -> None:
    rows = WeightDataset.open(tiny_world.rows)
    plain = write_dataset(
        rows.to_numpy()[:12], tmp_path / "plain", layout=rows.layout, initialization="seed-0", parquet_view=False
    )
    assert plain.manifest.compatibility.base_digest is None
    built = build_and_save(plain, tmp_path / "space", 3, base=tiny_world.base, directions=False)
    opened = WeightSpace.from_pretrained(tmp_path / "space")
    assert built.compatibility.base_digest == opened.compatibility.base_digest is not None
    assert built == opened
