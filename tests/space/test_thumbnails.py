"""Thumbnails in a file's header: as good as fits into 24 kB, enlarged by whole factors."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from w2w_hub.space.thumbnails import LARGEST, QUALITIES, SIDE, thumbnail_of


def jpeg(picture: Image.Image) -> tuple[bytes, Image.Image]:
    kind, _, data = thumbnail_of(picture).partition(",")
    assert kind == "data:image/jpeg;base64"
    raw = base64.b64decode(data)
    return raw, Image.open(io.BytesIO(raw))


def saved(picture: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.5])
def test_a_thumbnail_has_the_best_quality_that_fits(noise: float) -> None:
    draw = np.random.default_rng(0)
    smooth = np.linspace(0.3, 0.7, SIDE)[:, None, None] * np.ones((SIDE, SIDE, 3))
    pixels = np.round(255 * np.clip(smooth + noise * draw.normal(size=smooth.shape), 0, 1)).astype(np.uint8)
    raw, _ = jpeg(Image.fromarray(pixels))
    tried = {quality: saved(Image.fromarray(pixels), quality) for quality in QUALITIES}
    expected = next((each for each in tried.values() if len(each) <= LARGEST), tried[QUALITIES[-1]])
    assert raw == expected
    assert len(raw) <= 24_000
    assert (raw == tried[90]) is (noise == 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 20), (120, 240)), ((256, 256), (256, 256)), ((300, 600), (128, 256)), ((1, 1), (256, 256))],
)
def test_a_small_picture_is_enlarged_by_a_whole_factor_and_a_large_one_shrunk(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    _, found = jpeg(Image.new("RGB", size[::-1], "grey"))
    assert (found.height, found.width) == expected
