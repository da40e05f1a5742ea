"""PEFT adapters: ``adapter_config.json`` beside ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Adapter, LoraFactors, Target
from ..errors import CorruptFileError, InvalidInputError, MissingPathError, UnsupportedFormatError
from ..files import read_json, read_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[AB])(\.(?P<adapter>[^.]+))?\.weight$")


def pattern_value(pattern: dict[str, Any], module: str, default: float) -> float:
    """PEFT's rule for ``alpha_pattern`` and ``rank_pattern``: a key matches a whole module-path suffix."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


class PeftFormat:
    """A folder as `PeftModel.save_pretrained` writes it, or its weights file with the config beside it."""

    name = "peft"

    def matches(self, path: Path) -> bool:
        # a folder with a config is PEFT's even when its weights are missing, so that reading can say so
        return (path / CONFIG).is_file() if path.is_dir() else path.name == WEIGHTS

    def read(self, path: Path) -> Adapter:
        folder = path if path.is_dir() else path.parent
        config = read_json(folder / CONFIG)
        self._check_config(config, folder)
        if not (folder / WEIGHTS).is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            raise MissingPathError(
                f"{folder} has {CONFIG} but no {WEIGHTS}"
                + ("; adapter_model.bin is a pickle and is not opened, save it again as safetensors" if pickled else "")
            )
        tensors, _ = read_safetensors(folder / WEIGHTS)
        pairs, passengers = self._pair(tensors, folder)
        factors = {}
        for module, pair in pairs.items():
            a, b = pair.get("A"), pair.get("B")
            if a is None or b is None:
                raise CorruptFileError(f"{folder}: {module} has no lora_{'A' if a is None else 'B'}")
            if a.ndim != 2 or b.ndim != 2:
                raise UnsupportedFormatError(f"{folder}: {module} is a convolution ({a.shape}); only Linear is read")
            factors[Target("unet", module)] = LoraFactors(
                a.astype(np.float32), b.astype(np.float32), self._scale(config, module, a.shape[0], folder)
            )
        return Adapter(
            factors, base_model=config.get("base_model_name_or_path"), dialect=self.name, passengers=tuple(passengers)
        )

    @staticmethod
    def _check_config(config: dict[str, Any], folder: Path) -> None:
        kind = config.get("peft_type")
        if kind != "LORA":
            raise UnsupportedFormatError(f"{folder}/{CONFIG} is a {kind} adapter; only LORA is read")
        if config.get("use_dora"):
            raise UnsupportedFormatError(
                f"{folder} is a DoRA adapter: its magnitudes rescale the base weights, so it is no low-rank sum"
            )
        for key in ("r", "lora_alpha"):
            if not isinstance(config.get(key), (int, float)):
                raise CorruptFileError(f"{folder}/{CONFIG} does not state {key}; without it the scale is unknown")

    @staticmethod
    def _pair(tensors: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
        pairs: dict[str, dict[str, np.ndarray]] = {}
        passengers, strange, names = [], [], set()
        for key, value in tensors.items():
            found = _KEY.match(key)
            if found:
                module = found["module"].removeprefix(PREFIX)
                pairs.setdefault(module, {})[found["factor"]] = value
                names.add(found["adapter"])
            elif "lora_" in key:
                strange.append(key)
            else:
                passengers.append(key)  # modules_to_save: ordinary weights that travel along
        if strange:
            raise UnsupportedFormatError(f"{folder}: {len(strange)} keys are not understood: {', '.join(strange[:3])}")
        if len(names) > 1:
            raise UnsupportedFormatError(f"{folder} holds several adapters ({', '.join(map(str, names))}); save one")
        if not pairs:
            raise UnsupportedFormatError(f"{folder}/{WEIGHTS} holds no lora_A or lora_B tensor")
        return pairs, passengers

    @staticmethod
    def _scale(config: dict[str, Any], module: str, rank: int, folder: Path) -> float:
        stated = pattern_value(config.get("rank_pattern") or {}, module, config["r"])
        if int(stated) != rank:
            raise CorruptFileError(f"{folder}: {module} has rank {rank}, {CONFIG} states {stated}")
        alpha = pattern_value(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)

    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write config and weights; rank and alpha stay as they are, a mixed set goes into the patterns."""
        from safetensors.numpy import save_file

        if {t.component for t in adapter.factors} != {"unet"}:
            raise InvalidInputError("a PEFT folder adapts one model; write the components one by one")
        ordered = sorted(adapter.factors.items(), key=lambda item: item[0].sort_key)
        rank, alpha = ordered[0][1].rank, ordered[0][1].scale * ordered[0][1].rank
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": adapter.base_model,
            "r": rank,
            "lora_alpha": _integral(alpha),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "rank_pattern": {t.module: p.rank for t, p in ordered if p.rank != rank},
            "alpha_pattern": {
                t.module: _integral(p.scale * p.rank) for t, p in ordered if p.scale * p.rank != alpha
            },
            "target_modules": [t.module for t, _ in ordered],
        }
        tensors = {}
        for target, pair in ordered:
            tensors[f"{PREFIX}{target.module}.lora_A.weight"] = np.ascontiguousarray(pair.A)
            tensors[f"{PREFIX}{target.module}.lora_B.weight"] = np.ascontiguousarray(pair.B)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _integral(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


PEFT = PeftFormat()
