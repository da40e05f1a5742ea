"""The table from stock pipeline classes to ours: classes, cards and the choice by a base model."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import w2w_hub
from w2w_hub import AutoW2WPipeline, W2WPipeline, W2WStableDiffusionImg2ImgPipeline, WeightSpace
from w2w_hub.common.pipelines import PIPELINES, family_of
from w2w_hub.errors import BaseModelMismatchError, InvalidInputError
from w2w_hub.models.pipelines import W2WMixin, pipeline_for
from w2w_hub.models.pipelines.loading import kind

from ..tiny_world import TinyWorld

PRODUCT = Path(w2w_hub.__file__).parent


def base_of_class(world: TinyWorld, folder: Path, name: str) -> Path:
    shutil.copytree(world.base, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    return folder


@pytest.mark.parametrize("row", PIPELINES, ids=lambda row: row.name)
def test_every_row_of_the_table_is_a_class_over_its_stock_class_with_the_familys_parts(row: object) -> None:
    cls, stock = pipeline_for(row.stock), getattr(diffusers, row.stock)
    assert cls.__name__ == row.name
    assert cls is getattr(w2w_hub, row.name)
    assert cls.stock_class is stock
    assert issubclass(cls, (W2WMixin, stock))
    assert kind(stock) == kind(pipeline_for(family_of(row.stock)[0].stock).stock_class)


def test_a_class_that_the_table_lacks_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidInputError, match="FluxPipeline"):
        pipeline_for("FluxPipeline")


def test_a_space_opens_with_the_text_to_image_pipeline_of_its_base_model(tiny_space: Path) -> None:
    assert type(AutoW2WPipeline.from_pretrained(tiny_space)) is W2WPipeline
    half = AutoW2WPipeline.from_pretrained(tiny_space, "bf16", k=3)
    assert (half.unet.dtype, half.space.k) == (torch.bfloat16, 3)


def test_a_base_model_saved_from_another_task_opens_for_text_to_image_and_for_its_own(
    tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    space = WeightSpace.from_pretrained(tiny_space)
    base = base_of_class(tiny_world, tmp_path / "base", "StableDiffusionImg2ImgPipeline")
    assert type(AutoW2WPipeline.from_base(base, space)) is W2WPipeline
    own = W2WStableDiffusionImg2ImgPipeline.from_base(base, space)
    own.save_pretrained(tmp_path / "saved", custom_pipeline=True)
    assert type(AutoW2WPipeline.from_pretrained(tmp_path / "saved")) is W2WPipeline
    assert "pipe = W2WPipeline.from_pretrained" in (tmp_path / "saved" / "README.md").read_text()
    custom = DiffusionPipeline.from_pretrained(
        tmp_path / "saved", custom_pipeline=str(tmp_path / "saved"), trust_remote_code=True
    )
    assert type(custom).__name__ == "W2WStableDiffusionImg2ImgPipeline"
    own.identity = custom.identity = "person-0000"
    np.testing.assert_array_equal(custom.identity.vector, own.identity.vector)


def test_a_base_model_of_an_unknown_class_is_refused_with_the_known_ones(
    tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    base = base_of_class(tiny_world, tmp_path / "base", "FluxPipeline")
    with pytest.raises(BaseModelMismatchError, match=r"FluxPipeline.*StableDiffusionPipeline"):
        AutoW2WPipeline.from_base(base, WeightSpace.from_pretrained(tiny_space))


def test_no_other_product_file_names_a_pipeline_class_as_the_pipeline() -> None:
    """Calls of a class by its name; the facade, the table and the classes themselves name them, and call none."""
    names = {row.name for row in PIPELINES}
    calls = [
        f"{path.relative_to(PRODUCT)}:{node.lineno}"
        for path in PRODUCT.rglob("*.py")
        if any(f"{name}." in (text := path.read_text("utf-8")) for name in names)  # parsing every file takes seconds
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
    ]
    assert not calls
