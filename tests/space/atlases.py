"""Weight spaces and atlases of made-up people, for the tests of atlases."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.space.atlas import Atlas

from .population import dataset_of, decaying

HAIR = pd.CategoricalDtype(["none", "short", "long"], ordered=True)


def small_world(folder: Path, rows: int = 60) -> tuple[WeightSpace, WeightDataset]:
    """A space with a direction and labels of all kinds, some of which have the names of an atlas' own columns."""
    rng = np.random.default_rng(0)
    values = decaying(rows, 80)
    beard = rng.random(rows) < 0.5
    values += 2e-3 * np.outer(beard, rng.normal(size=80)).astype(np.float32)
    age = rng.normal(40, 10, rows).round(1)
    columns = {
        "Beard": pd.array([None, *beard[1:]], "boolean"), "x": age, "Town": [f"town {i % 20}" for i in range(rows)],
        "Hair": pd.Categorical.from_codes(np.arange(rows) % 3, dtype=HAIR),
    }  # fmt: skip
    people = dataset_of(folder / "people", values, held_out=10, columns=columns)
    return build_space(people, 12), people


def thumbnail(number: int, size: int = 64) -> bytes:
    """A picture like a drawing: areas of color and a few lines."""
    rng = np.random.default_rng(number)
    pixels = np.repeat(np.repeat(rng.integers(0, 255, (8, 8, 3)), size // 8, 0), size // 8, 1).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "WEBP", quality=82)
    return data.getvalue()


def crowd(space: WeightSpace, count: int, ids: list[str] | None = None, pictures: int = 50) -> Atlas:
    """An atlas of so many people at random, with labels of all kinds; `pictures` of them differ."""
    rng = np.random.default_rng(0)
    names = tuple(ids or (f"person-{i:05d}" for i in range(count)))
    drawn = [thumbnail(i) for i in range(pictures)]
    labels = pd.DataFrame(
        {"Beard": pd.array(rng.random(count) < 0.3, "boolean"), "Age": rng.normal(40, 10, count),
         "Town": [f"town {i % 30}" for i in range(count)]}, index=pd.Index(names, name="id"),
    )  # fmt: skip
    labels.loc[names[0], "Beard"] = pd.NA
    near = (np.arange(count)[:, None] + np.arange(1, 7)) % count
    return Atlas(
        space, names, np.full(count, "train"), rng.normal(size=(count, 2)).astype(np.float32), "components",
        ("PC1", "PC2"), near.astype(np.int32), np.full(near.shape, 0.5, np.float32), labels, "dataset",
        tuple(drawn[i % pictures] for i in range(count)) if pictures else None,
    )  # fmt: skip
