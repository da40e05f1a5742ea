"""Spaces that the explorer's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.tiny_world import TinyWorld
from w2w_hub import Compatibility, ParameterLayout, WeightDataset, WeightSpace, build_space, write_dataset
from w2w_hub.explore.studio import Studio


@pytest.fixture(scope="session")
def labeled(tmp_path_factory: pytest.TempPathFactory, layout: ParameterLayout) -> tuple[WeightSpace, WeightDataset]:
    """A space and its dataset of 90 people with a binary, a categorical and a continuous attribute."""
    rng, count = np.random.default_rng(0), 90
    beard, hair, age = rng.random(count) < 0.5, rng.integers(0, 3, count), rng.uniform(20, 70, count)
    effects = rng.normal(size=(5, layout.size))
    codes = np.column_stack([beard, np.eye(3)[hair], (age - 45) / 15])
    rows = codes @ effects + 0.2 * rng.normal(size=(count, layout.size))
    table = pd.DataFrame({
        "id": [f"p{i:02d}" for i in range(count)], "split": ["test" if i >= 75 else "train" for i in range(count)],
        "Full_Beard": beard, "hair_color": np.array(["RED", "GREY", "DARK"])[hair], "Age": age.round(1),
    })  # fmt: skip
    dataset = write_dataset(
        rows.astype(np.float32), tmp_path_factory.mktemp("labeled") / "people", layout=layout, ids=list(table["id"]),
        labels=table, name="people", compatibility=Compatibility("made/up", None, "shared"),
    )  # fmt: skip
    return build_space(dataset, 12, name="labeled"), dataset


@pytest.fixture(scope="session")
def studio(tiny_space: Path, tiny_world: TinyWorld) -> Studio:
    """The tiny world's space with its base model, open."""
    return Studio.open(tiny_space, dataset=tiny_world.rows)
