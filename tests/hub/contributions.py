"""A dataset to contribute to, and adapters that fit it, shared by the tests of both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from w2w_hub import ParameterLayout, write_dataset
from w2w_hub.lora.adapter import Target

NAMES = [f"mid_block.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in range(4)]
LAYOUT = ParameterLayout({Target("unet", name): (2, 640, 640) for name in NAMES}, 3.0)
ROWS = 60


def start() -> np.ndarray:
    """An initialization ``(size,)``: A random, B zero."""
    values = np.random.default_rng(7).normal(size=LAYOUT.size).astype(np.float32)
    for slot in LAYOUT.slots:
        values[slot.b_offset : slot.end] = 0
    return values


def trained(seed: int, count: int = 1) -> np.ndarray:
    """Rows ``(count, size)`` near that start, all different."""
    noise = np.random.default_rng(seed).normal(size=(count, LAYOUT.size)).astype(np.float32)
    return start() + np.float32(0.3) * noise


def write_target(place: Path, rows: int = ROWS) -> Path:
    """Write a dataset whose matrix has more than 1 MB, so that it is not fetched when it is opened."""
    table = pd.DataFrame(
        {"id": [f"person-{i:02d}" for i in range(rows)], "Beard": [i % 2 == 0 for i in range(rows)],
         "Age": [20.0 + i for i in range(rows)], "Hair": [("red", "grey")[i % 2] for i in range(rows)],
         "source": "made up", "licence": "cc0-1.0", "consent": "not needed"}
    )  # fmt: skip
    write_dataset(
        trained(0, rows), place, layout=LAYOUT, ids=table["id"].tolist(), labels=table, name="people", version="1.0.0",
        license="cc0-1.0", start_adapter=LAYOUT.unflatten(start()),
    )  # fmt: skip
    return place
