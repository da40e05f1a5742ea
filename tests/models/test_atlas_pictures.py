"""Thumbnails of an atlas: what the pipeline draws of each person's point, small."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.cli.test_outputs import w2w
from tests.tiny_world import TinyWorld
from w2w_hub import W2WPipeline, WeightDataset, build_space, make_atlas
from w2w_hub.errors import InvalidInputError
from w2w_hub.models.atlas_pictures import draw_atlas


def test_thumbnails_are_the_drawn_people_made_small(
    pipe: W2WPipeline, tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2w_hub.models.atlas_pictures.AT_ONCE", 3)
    monkeypatch.setattr("w2w_hub.models.atlas_pictures.QUALITY", 100)
    atlas = make_atlas(pipe.space, limit=4)
    drawn = draw_atlas(pipe, atlas, size=32, num_inference_steps=1)
    assert atlas.thumbnails is None
    assert drawn.thumbnails is not None
    assert drawn.ids == atlas.ids
    wanted = pipe.render(list(atlas.ids), [("sks person", 0)], num_inference_steps=1)[:, 0]
    for data, picture in zip(drawn.thumbnails, wanted, strict=True):
        found = np.asarray(Image.open(io.BytesIO(data)).resize((8, 8), Image.Resampling.BOX)) / 255
        np.testing.assert_allclose(found, picture.reshape(8, 8, 8, 8, 3).mean((1, 3)), atol=0.06)
    other = build_space(WeightDataset.open(tiny_world.rows), 3, directions=False)
    with pytest.raises(InvalidInputError):
        draw_atlas(pipe, make_atlas(other))


def test_the_command_draws_where_the_space_has_its_base_or_is_given_one(
    tiny_space: Path, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    w2w("atlas", tiny_space, "--limit", "3", "--steps", "1", "--out", "a.parquet", "--html", "a.html")
    table = pd.read_parquet("a.parquet")
    assert Image.open(io.BytesIO(table["thumbnail"][0]["bytes"])).size == (64, 64)
    data = re.findall(r'id="data">(.*?)</script>', Path("a.html").read_text("utf-8"))[0]
    assert len(json.loads(data)["pictures"]) == 3
    w2w("atlas", tiny_space, "--limit", "3", "--no-pictures", "--out", "b.parquet")
    assert "thumbnail" not in pd.read_parquet("b.parquet")
    build_space(WeightDataset.open(tiny_world.rows), 3, directions=False).save("bare")
    w2w(
        "atlas", "bare", "--limit", "2", "--steps", "1", "--base", tiny_world.base, "--out", "c.parquet", "--size", "16"
    )
    assert Image.open(io.BytesIO(pd.read_parquet("c.parquet")["thumbnail"][1]["bytes"])).size == (16, 16)
    w2w("atlas", "bare", "--base", "nowhere", "--out", "d.parquet", status=2)
    assert not Path("d.parquet").exists()
