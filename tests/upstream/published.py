"""Small files with the names, types, structure and keys of those that weights2weights published."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

ROWS, PUBLISHED, PROJECTED = 40, 12, 8
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


def modules(width: int = 6) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each module."""
    wide = {("attn2", "to_v"): 10}
    return {
        f"{BLOCK}.{attention}.{name}": (wide.get((attention, name), width), width)
        for attention in ("attn1", "attn2")
        for name in ("to_q", "to_v")
    }


CONFIG = {
    "peft_type": "LORA", "r": 1, "lora_alpha": 27, "target_modules": ["to_q", "to_v", "query", "value"],
    "base_model_name_or_path": "stablediffusionapi/realistic-vision-v51",
}  # fmt: skip


@dataclass
class Published:
    """A publication in a folder, and what is in it.

    Attributes
    ----------
    folders : list of str
        Folders of the models, in the order of the table of labels.
    weights : ndarray
        float32 ``(n, d)``, in alphanumeric order of the folders.
    """

    folder: Path
    folders: list[str]
    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    basis: np.ndarray  # (d, k), as published
    projections: np.ndarray
    labels: pd.DataFrame
    save: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return sorted(self.folders)

    def file(self, name: str) -> Path:
        return next(path for path in sorted(self.folder.rglob(name)))

    def write(self, name: str, value: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, path, **self.save)


def dimensions(width: int = 6) -> dict[str, tuple[int, torch.Size]]:
    found = {}
    for module, (inputs, outputs) in modules(width).items():
        for half, shape in (("A", (1, inputs)), ("B", (outputs, 1))):
            found[f"base_model.model.{module}.lora_{half}.weight"] = (shape[0] * shape[1], torch.Size(shape))
    return found


def publish(
    folder: Path, *, rows: bool = True, dogs: bool = True, celebrities: bool = False, coding: str = "-1/+1",
    standardized: bool = True, seed: int = 0, legacy: bool = False, count: int = ROWS, width: int = 6,
) -> Published:  # fmt: skip
    """Write a publication: rows, their PCA with random signs, and labels in numeric order of the folders."""
    draw = np.random.default_rng(seed)
    d = sum(inputs + outputs for inputs, outputs in modules(width).values())
    spectrum = np.linspace(3, 0.2, d)
    weights = (draw.normal(size=(count, d)) * spectrum @ np.linalg.qr(draw.normal(size=(d, d)))[0]).astype(np.float32)
    weights += draw.normal(size=d).astype(np.float32)
    mean, std = weights.mean(0), weights.std(0, ddof=1)
    scaled = (weights - mean) / std if standardized else weights
    basis = np.linalg.svd(scaled, full_matrices=False)[2][:PUBLISHED].T * draw.choice([-1, 1], PUBLISHED)
    basis = basis.astype(np.float32)
    projections = ((weights - mean) / std @ basis[:, :PROJECTED]).astype(np.float32)
    folders = [str(number) for number in range(1, count + 1)]
    by_name = dict(zip(sorted(folders), weights, strict=True))
    low = 0 if coding == "0/1" else -1
    table = pd.DataFrame(
        {
            "Male": [1 if by_name[name][0] > mean[0] else low for name in folders],
            "Young": [1 if by_name[name][1] > mean[1] else low for name in folders],
            "5_o_Clock_Shadow": [1 if i % 3 else low for i in range(count)],
            "file": [f"{1000 + i:06d}.jpg" for i in range(count)],
        },
        index=folders,
    )
    if celebrities:
        table["celebrity"] = [f"c{i // 4}" for i in range(count)]
    found = Published(folder, folders, weights, mean, std, basis, projections, table)
    found.save = {"_use_new_zipfile_serialization": not legacy}
    for name, value in {
        "V": basis, "mean": mean, "std": std, "proj_1000pc": projections,
        "pinverse_1000pc": np.linalg.pinv(projections.astype(np.float64)).astype(np.float32),
    }.items():  # fmt: skip
        found.write(f"files/{name}.pt", torch.from_numpy(np.ascontiguousarray(value)))
    found.write("files/identity_df.pt", table)
    found.write("files/weight_dimensions.pt", dimensions(width))
    (folder / "files" / "adapter_config.json").write_text(json.dumps(CONFIG), "utf-8")
    if rows:
        found.write("weights_datasets/identities/all_weights.pt", torch.from_numpy(weights))
    if dogs:
        found.write("weights_datasets/dogs/dog_weights.pt", torch.from_numpy(weights[:12] + 1))
        found.write("weights_datasets/dogs/dog_labels.pt", {"wavy": [np.int64(i % 2) for i in range(12)]})
    return found
