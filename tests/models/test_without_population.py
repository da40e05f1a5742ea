"""A pipeline on a weight space that was published without its population."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from w2w_hub import W2WPipeline, WeightSpace
from w2w_hub.errors import MissingPopulationError, UnknownNameError

from ..tiny_world import TinyWorld

FAST = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}


def draw(pipe: W2WPipeline) -> np.ndarray:
    return pipe("sks person", generator=torch.Generator().manual_seed(0), **FAST).images[0]


def test_it_opens_draws_edits_inverts_and_exports_as_with_it_and_knows_no_rows(
    tiny_world: TinyWorld, tiny_space: Path, tmp_path: Path
) -> None:
    space = WeightSpace.from_pretrained(tiny_space)
    folder = space.without_population().save(tmp_path / "bare", base=tiny_world.base)
    drawn = []
    for path in (tiny_space, folder):
        pipe = W2WPipeline.from_pretrained(path)
        pipe.set_progress_bar_config(disable=True)
        pipe.sample_identity(seed=3)
        pipe.edit({"Sunglasses": 1.0}, preserve=["Full_Beard"])
        drawn.append(draw(pipe))
    np.testing.assert_array_equal(*drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.edit({"Sunglasses": 9.0})  # how far the population reaches is not known
    for wrong, error in (("person-0000", UnknownNameError), (None, MissingPopulationError)):
        with pytest.raises(error):
            pipe.identity = wrong if wrong else pipe.space.row("person-0000")
    assert len(pipe.invert(pipe("sks person", **{**FAST, "output_type": "pil"}).images[0], num_steps=2).losses) == 2
    pipe.export(tmp_path / "lora")
    assert pipe.resolve(tmp_path / "lora").point.basis_digest == space.digest
    pipe.save_pretrained(tmp_path / "again")
    again = W2WPipeline.from_pretrained(tmp_path / "again")
    assert again.space == pipe.space
    np.testing.assert_array_equal(again.space.spread.std, space.spread.std)
