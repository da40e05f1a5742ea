"""diffusers' own LoRA file, ``pytorch_lora_weights.safetensors``, written for `load_lora_weights`.

The scale is folded into B and alpha is the rank, so the file means the same with and without metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

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
        ranks = {pair.rank for pair in adapter.factors.values()}
        metadata = {"format": "pt"}
        if len(ranks) == 1:
            rank = ranks.pop()
            modules = [t.module for t in adapter.factors]
            config = {"unet.r": rank, "unet.lora_alpha": rank, "unet.target_modules": modules}
            metadata["lora_adapter_metadata"] = json.dumps(config, sort_keys=True)
        save_file(tensors, folder / WEIGHTS, metadata=metadata)


DIFFUSERS = DiffusersFormat()
