"""The base model's digest and files: what diffusers would open, in the layout's order, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2w_hub import ParameterLayout
from w2w_hub.dialects.base_model import (
    base_files,
    components,
    digest_of_folder,
    digest_of_weights,
    embed_base,
    pipeline_class,
    require_plain_components,
    weight_files,
)
from w2w_hub.errors import (
    AlreadyExistsError,
    BaseModelMismatchError,
    CorruptFileError,
    MissingPathError,
    UnsupportedFormatError,
)
from w2w_hub.lora.adapter import Target

NAMES = [f"mid_block.attentions.0.transformer_blocks.0.attn1.{name}" for name in ("to_q", "to_v")]
LAYOUT = ParameterLayout(
    {
        Target("unet", NAMES[0]): (1, 3, 4),
        Target("unet", NAMES[1]): (2, 5, 4),
        Target("unet", "conv_in"): (1, 2, 4, (3, 1)),
    },
    2.0,
)


def weights(seed: int = 0) -> dict[Target, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {slot.target: rng.normal(size=slot.weight_shape).astype(np.float32) for slot in LAYOUT.slots}


def by_hand(values: dict[Target, np.ndarray]) -> str:
    text = b"w2w-base-v1\n"
    for slot in LAYOUT.slots:
        text += f"unet.{slot.target.module}\n".encode() + values[slot.target].astype("<f2").tobytes()
    return hashlib.sha256(text).hexdigest()


def test_a_digest_is_of_names_and_weights_in_the_layouts_order_as_float16() -> None:
    values = weights()
    assert digest_of_weights(LAYOUT, values.get) == by_hand(values)
    wide = {target: value.astype(np.float64) for target, value in values.items()}
    assert digest_of_weights(LAYOUT, wide.get) == by_hand(values)
    columns = {target: np.asfortranarray(value) for target, value in values.items()}
    assert digest_of_weights(LAYOUT, columns.get) == by_hand(values)


@pytest.mark.parametrize("position", range(3))
def test_a_module_that_is_missing_or_of_another_shape_has_no_digest(position: int) -> None:
    target = LAYOUT.slots[position].target
    values = weights()
    for wrong in (None, values[target].swapaxes(0, 1), values[target].reshape(-1), values[target][:-1]):
        with pytest.raises(BaseModelMismatchError, match=target.module):
            digest_of_weights(LAYOUT, (values | {target: wrong}).get)


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    return {f"{target.module}.weight": value for target, value in weights(seed).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    unet = tmp_path / "base" / "unet"
    unet.mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return tmp_path / "base"


STEM = "diffusion_pytorch_model"


def shards(folder: Path, name: str, variant: str = "", seed: int = 0) -> None:
    parts = list(tensors(seed).items())
    found = {}
    for i, part in enumerate((parts[:1], parts[1:])):
        file = f"{STEM}{variant}-{i + 1:05d}-of-00002.safetensors"
        save_file(dict(part), folder / "unet" / file)
        found |= {key: file for key, _ in part}
    (folder / "unet" / name).write_text(json.dumps({"weight_map": found}), encoding="utf-8")


WAYS: dict[str, Callable[[Path, int], Any]] = {
    "one file": lambda folder, seed: save_file(tensors(seed), folder / "unet" / f"{STEM}.safetensors"),
    "another name": lambda folder, seed: save_file(tensors(seed), folder / "unet" / "weights.safetensors"),
    "shards": lambda folder, seed: shards(folder, f"{STEM}.safetensors.index.json", seed=seed),
}
VARIANTS: dict[str, Callable[[Path, int], Any]] = {
    "one file": lambda folder, seed: save_file(tensors(seed), folder / "unet" / f"{STEM}.fp16.safetensors"),
    "shards": lambda folder, seed: shards(folder, f"{STEM}.safetensors.index.fp16.json", ".fp16", seed),
    "shards, old name": lambda folder, seed: shards(folder, f"{STEM}.safetensors.fp16.index.json", ".fp16", seed),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_has_the_digest_of_its_weights_however_they_are_cut(way: str, folder: Path) -> None:
    WAYS[way](folder, 0)
    assert digest_of_folder(folder, LAYOUT) == by_hand(weights())
    assert digest_of_folder(str(folder), LAYOUT, "fp16") == by_hand(weights())  # none of that name: the plain ones


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["one file", "shards"])
def test_a_variant_is_opened_if_it_is_asked_for_and_otherwise_left_unread(way: str, variant: str, folder: Path) -> None:
    WAYS[way](folder, 0)
    VARIANTS[variant](folder, 1)
    assert digest_of_folder(folder, LAYOUT) == by_hand(weights(0))
    assert digest_of_folder(folder, LAYOUT, "fp16") == by_hand(weights(1))


def test_weights_that_diffusers_would_not_open_are_refused(folder: Path) -> None:
    with pytest.raises(MissingPathError):
        weight_files(folder, "unet")
    WAYS["one file"](folder, 0)
    assert weight_files(folder, "unet") == [folder / "unet" / f"{STEM}.safetensors"]
    WAYS["another name"](folder, 1)
    with pytest.raises(UnsupportedFormatError):
        weight_files(folder, "unet")


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    WAYS["shards"](folder, 0)
    save_file(tensors(1), folder / "unet" / f"{STEM}-00002-of-00002.safetensors")
    with pytest.raises(CorruptFileError):
        digest_of_folder(folder, LAYOUT)


@pytest.mark.parametrize("shard", ["../a.safetensors", "a/b.safetensors", "a\\b.safetensors", "a.bin", 3, None])
def test_a_list_with_one_shard_that_is_no_file_beside_it_is_refused(shard: Any, folder: Path) -> None:
    WAYS["shards"](folder, 0)
    list_of_shards = folder / "unet" / f"{STEM}.safetensors.index.json"
    stated = json.loads(list_of_shards.read_text(encoding="utf-8"))
    stated["weight_map"]["more"] = shard
    list_of_shards.write_text(json.dumps(stated), encoding="utf-8")
    for call in (lambda: weight_files(folder, "unet"), lambda: require_plain_components(folder, ["unet"])):
        with pytest.raises(UnsupportedFormatError):
            call()


def test_an_index_names_its_class_and_components_and_null_is_none(folder: Path) -> None:
    index = folder / "model_index.json"
    stated = json.loads(index.read_text(encoding="utf-8"))
    assert pipeline_class(folder) == "StableDiffusionPipeline"
    more = {"safety_checker": [None, None], "requires_safety_checker": False, "_diffusers_version": ["a", "b", "c"]}
    index.write_text(json.dumps(stated | more), encoding="utf-8")
    assert components(folder) == {"unet": ("diffusers", "UNet2DConditionModel")}
    for wrong in (["a"], ["a", "b", "c"], ["a", None], [1, "b"], []):
        index.write_text(json.dumps(stated | {"vae": wrong}), encoding="utf-8")
        with pytest.raises(CorruptFileError, match="vae"):
            components(folder)
    for name in ("Vae", "../vae", "1vae", "v-ae", ""):
        index.write_text(json.dumps(stated | {name: ["a", "b"]}), encoding="utf-8")
        with pytest.raises(CorruptFileError):
            components(folder)
    for wrong in (None, 3, ["a", "b"]):
        index.write_text(json.dumps(stated | {"_class_name": wrong}), encoding="utf-8")
        with pytest.raises(CorruptFileError):
            pipeline_class(folder)


def test_a_spaces_base_files_are_its_folders_but_the_spaces_own() -> None:
    base = ["model_index.json", "w2w_pipeline.json", "unet/config.json", "vae/a.safetensors"]
    own = ["space.safetensors", "coefficients/train.parquet", "previews/a.png", "directions.json", "README.md"]
    assert base_files([*own, *base]) == base


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("code.py", "1"), ("adapter_config.json", "{}"), ("config.json", '{"auto_map": {}}'),
        ("config.json", '{"transformers_weights": "a"}'), ("inner/code.py", "1"),
    ],
)  # fmt: skip
def test_a_component_with_code_or_other_weights_is_refused(name: str, text: str, folder: Path) -> None:
    WAYS["one file"](folder, 0)
    require_plain_components(folder, ["unet"])
    (folder / "unet" / name).parent.mkdir(exist_ok=True)
    (folder / "unet" / name).write_text(text, encoding="utf-8")
    with pytest.raises(UnsupportedFormatError):
        require_plain_components(folder, ["unet"])


@pytest.mark.parametrize("name", ["a.bin", "a.CKPT", "a.Pt", "a.pth", "a.pkl"])
def test_a_component_of_pickles_alone_is_refused_whatever_their_case(name: str, folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "unet" / name).write_bytes(b"x")
    with pytest.raises(UnsupportedFormatError):
        require_plain_components(folder, ["unet"])
    WAYS["one file"](folder, 0)
    require_plain_components(folder, ["unet"])
    with pytest.raises(UnsupportedFormatError):
        embed_base(folder, folder.parent)


def test_a_base_is_embedded_whole_but_for_its_card_and_hidden_files(folder: Path, tmp_path: Path) -> None:
    WAYS["one file"](folder, 0)
    for name in ("README.md", ".gitattributes", "LICENSE"):
        (folder / name).write_text("x", encoding="utf-8")
    (folder / ".git").mkdir()
    space = tmp_path / "space"
    space.mkdir()
    embed_base(folder, space)
    assert {p.name for p in space.iterdir()} == {"LICENSE", "model_index.json", "unet", "w2w_pipeline.json"}
    assert digest_of_folder(space, LAYOUT) == by_hand(weights())
    assert json.loads((space / "w2w_pipeline.json").read_text(encoding="utf-8")) == {"base_model": "embedded"}
    with pytest.raises(AlreadyExistsError):
        embed_base(folder, space)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(AlreadyExistsError, match=r"manifest\.json"):
        embed_base(folder, other)


def test_of_a_file_and_a_list_of_shards_the_one_counts_that_the_components_library_opens_first(folder: Path) -> None:
    VARIANTS["shards"](folder, 1)
    VARIANTS["one file"](folder, 2)
    assert digest_of_folder(folder, LAYOUT, "fp16") == by_hand(weights(1))
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["transformers", "CLIPTextModel"]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    for file in list((folder / "unet").iterdir()):
        text = file.read_bytes().replace(STEM.encode(), b"model")
        (folder / "unet" / file.name.replace(STEM, "model")).write_bytes(text)
        file.unlink()
    assert digest_of_folder(folder, LAYOUT, "fp16") == by_hand(weights(2))
