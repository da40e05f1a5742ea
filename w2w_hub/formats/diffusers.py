"""diffusers' own LoRA file, ``pytorch_lora_weights.safetensors``, written for `load_lora_weights`.

The scale is folded into B and alpha is the rank, so the file means the same with and without metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Adapter
from ..errors import UnsupportedFormatError

WEIGHTS = "pytorch_lora_weights.safetensors"


class DiffusersFormat:
    """Writer of diffusers' layout; its files in the wild are not read yet."""

    name = "diffusers"

    def matches(self, path: Path) -> bool:
        return False

    def read(self, path: Path) -> Adapter:
        raise UnsupportedFormatError(f"{path}: diffusers LoRA files are not read yet; bring the PEFT folder")

    def write(self, adapter: Adapter, folder: Path) -> None:
        from safetensors.numpy import save_file

        tensors = {}
        for target, pair in sorted(adapter.factors.items(), key=lambda item: item[0].sort_key):
            folded = (pair.B.astype(np.float64) * pair.scale).astype(np.float32)
            tensors[f"{target}.lora_A.weight"] = np.ascontiguousarray(pair.A)
            tensors[f"{target}.lora_B.weight"] = folded
        metadata = {"format": "pt"}
        config = _config(adapter)
        if config is not None:
            metadata["lora_adapter_metadata"] = json.dumps(config, sort_keys=True)
        save_file(tensors, folder / WEIGHTS, metadata=metadata)


def _config(adapter: Adapter) -> dict[str, Any] | None:
    """The configuration of every component, or None where ranks are mixed: diffusers then infers them all.

    It must name all components or be left out: diffusers takes PEFT's default rank for one that it does not name.
    """
    config: dict[str, Any] = {}
    for component in sorted({t.component for t in adapter.factors}):
        mine = {t.module: pair.rank for t, pair in adapter.factors.items() if t.component == component}
        if len(set(mine.values())) > 1:
            return None
        rank = next(iter(mine.values()))
        config[f"{component}.r"] = config[f"{component}.lora_alpha"] = rank
        config[f"{component}.target_modules"] = list(mine)
    return config


DIFFUSERS = DiffusersFormat()
