"""Small datasets along known factors, for the tests of spaces."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from w2w_hub import ParameterLayout, WeightDataset, WeightSpace, write_dataset
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.lora.adapter import Target
from w2w_hub.store.hashing import entry_of
from w2w_hub.store.manifest import seal

LAYOUT = ParameterLayout({Target("unet", f"blocks.{i}.to_q"): (1, 20, 30) for i in range(2)}, 27.0)
SHARED = Compatibility(initialisation="seed-0")


def decaying(rows: int, numbers: int, seed: int = 0, mean: float = 0.5) -> np.ndarray:
    """float32 rows whose components decay as a power, over noise, far from zero as trained factors are."""
    rng = np.random.default_rng(seed)
    rank = min(rows, numbers, 60)
    left, right = rng.normal(size=(rows, rank)), rng.normal(size=(rank, numbers))
    values = (left * (1 + np.arange(rank)) ** -0.7) @ right + 0.1 * rng.normal(size=(rows, numbers))
    return (1e-3 * values + mean).astype(np.float32)


def dataset_of(
    folder: Path, values: np.ndarray, *, order: np.ndarray | None = None, held_out: int = 0, **options: Any
) -> WeightDataset:
    """Any matrix as a dataset, rows written in `order`; the last `held_out` are the split ``test``."""
    n, d = values.shape
    layout = options.pop("layout", None) or ParameterLayout({Target("unet", "blocks.0.to_q"): (1, d - 7, 7)}, 27.0)
    table = pd.DataFrame({"id": [f"p{i:05d}" for i in range(n)]})
    table["split"] = ["train" if i < n - held_out else "test" for i in range(n)]
    for name, column in options.pop("columns", {}).items():
        table[name] = column
    order = np.arange(n) if order is None else order
    return write_dataset(
        values[order], folder, layout=layout, ids=list(table["id"].to_numpy()[order]), labels=table,
        **{"compatibility": SHARED, "parquet_view": False, **options},
    )  # fmt: skip


def restate(folder: Path, **fields: Any) -> Path:
    """Change fields of a manifest (``...`` removes one), and state the files as they are, as a forger would."""
    data = {k: v for k, v in (json.loads((folder / "manifest.json").read_text()) | fields).items() if v is not ...}
    if "files" in data:
        data["files"] = {name: entry_of(folder / name) for name in data["files"] if (folder / name).exists()}
    (folder / "manifest.json").write_bytes(seal(data))
    return folder


def changed(space: WeightSpace, **changes: Any) -> WeightSpace:
    """A space with other fields, its own or those of its coordinates and population."""
    parts = {}
    for name in ("coordinates", "population"):
        part = getattr(space, name)
        own = {f.name: changes.pop(f.name) for f in fields(part) if f.name in changes}
        parts[name] = replace(part, **own)
    return replace(space, **parts, **changes)
