"""Offered rows are drawn without a weight space, as the same adapters are in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_world import TinyWorld
from w2w_hub import WeightDataset
from w2w_hub.errors import BaseModelMismatchError
from w2w_hub.models.pipelines import AutoW2WPipeline
from w2w_hub.models.row_pictures import draw_rows

CASES = [("sks person", 0)]


def test_a_row_is_drawn_as_in_a_weight_space_and_the_base_model_beside_it(
    tiny_world: TinyWorld, tiny_space: Path
) -> None:
    people = WeightDataset.open(tiny_world.rows)
    rows, manifest = people[:2], people.manifest
    drawn = draw_rows(tiny_world.base, people.layout, rows, manifest.compatibility, CASES, num_inference_steps=2)
    pipe = AutoW2WPipeline.from_pretrained(tiny_space)
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe.render([None, *(people.adapter(i) for i in range(2))], CASES, num_inference_steps=2)
    assert drawn.shape == wanted.shape
    assert np.abs(drawn - wanted).max() < 0.02
    assert np.abs(drawn[1] - drawn[0]).max() > 0.02


def test_another_base_model_than_the_datasets_is_refused(tiny_world: TinyWorld) -> None:
    from dataclasses import replace

    people = WeightDataset.open(tiny_world.rows)
    other = replace(people.manifest.compatibility, base_digest="0" * 64)
    with pytest.raises(BaseModelMismatchError):
        draw_rows(tiny_world.base, people.layout, people[:1], other, CASES)
