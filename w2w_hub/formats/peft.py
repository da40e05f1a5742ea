"""PEFT adapters: ``adapter_config.json`` beside ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import COMPONENTS, Adapter, LoraFactors, Target
from ..errors import (
    CorruptFileError,
    InvalidInputError,
    MissingPathError,
    ScaleConflictError,
    UnsupportedFormatError,
)
from ..files import read_json, read_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[AB])(\.(?P<adapter>[^.]+))?\.weight$")
# a folder does not name the model it adapts; the first name of a module's path does
_FIRST_NAMES = {
    "unet": (
        "down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_embedding", "class_embedding",
        "add_embedding", "encoder_hid_proj",
    ),
    "transformer": ("transformer_blocks", "single_transformer_blocks"),
    "text_encoder": ("text_model",),
}  # fmt: skip
# options under which the weight's change is not scale * B @ A on the stock base model, and why
_REFUSED = {
    "use_dora": "its magnitudes rescale the base weights",
    "fan_in_fan_out": "its factors belong to transposed weights",
    "use_qalora": "its A is pooled over groups of inputs",
    "layer_replication": "it repeats layers of the base model",
    "alora_invocation_tokens": "it acts only after certain tokens",
}
# initialisations that leave the base weights alone; PiSSA, OLoRA and others change them
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def pattern_value(pattern: dict[str, Any], module: str, default: float) -> float:
    """PEFT's rule for ``alpha_pattern`` and ``rank_pattern``: a key matches a whole module-path suffix."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def target_of(path: str) -> Target | None:
    """The target that a key's module path names, or None if it does not say which model it belongs to.

    Without PEFT's own prefix a path may start with the component, as pipelines write it; with it, the first
    name below the model decides (``text_model.`` is a text encoder's, ``down_blocks.`` a UNet's).
    """
    first, _, rest = path.partition(".")
    if first in COMPONENTS and rest:
        return Target(first, rest)
    module = path.removeprefix(PREFIX)
    first = module.partition(".")[0]
    return next((Target(component, module) for component, names in _FIRST_NAMES.items() if first in names), None)


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
        for target, pair in pairs.items():
            a, b = pair.get("A"), pair.get("B")
            if a is None or b is None:
                raise CorruptFileError(f"{folder}: {target} has no lora_{'A' if a is None else 'B'}; fetch it again")
            if a.ndim != 2 or b.ndim != 2:
                raise UnsupportedFormatError(f"{folder}: {target} is a convolution ({a.shape}); only Linear is read")
            scale = self._scale(config, target.module, a.shape[0], folder)
            if "alpha" in pair and float(pair["alpha"].item()) / a.shape[0] != scale:
                raise ScaleConflictError(
                    f"{folder}: {target} has alpha {float(pair['alpha'].item()):g} in {WEIGHTS} and scale {scale:g} "
                    f"by {CONFIG}; find out which is right and save it again"
                )
            factors[target] = LoraFactors(a.astype(np.float32), b.astype(np.float32), scale)
        return Adapter(
            factors, base_model=config.get("base_model_name_or_path"), dialect=self.name, passengers=tuple(passengers)
        )

    @staticmethod
    def _check_config(config: dict[str, Any], folder: Path) -> None:
        kind = config.get("peft_type")
        if kind != "LORA":
            raise UnsupportedFormatError(f"{folder}/{CONFIG} is a {kind} adapter; only LORA is read")
        for option, reason in _REFUSED.items():
            if config.get(option):
                raise UnsupportedFormatError(f"{folder}/{CONFIG} sets {option}: {reason}, so it is no low-rank sum")
        start = config.get("init_lora_weights")
        if start not in _PLAIN_STARTS:
            raise UnsupportedFormatError(
                f"{folder}/{CONFIG} has init_lora_weights {start!r}, which changes the base weights; "
                "convert it with PEFT's path_initial_model_for_weight_conversion"
            )
        for key in ("r", "lora_alpha"):
            if not _is_number(config.get(key)):
                raise CorruptFileError(f"{folder}/{CONFIG} does not state {key}; without it the scale is unknown")
        for key in ("rank_pattern", "alpha_pattern"):
            pattern = config.get(key) or {}
            if not isinstance(pattern, dict) or not all(_is_number(value) for value in pattern.values()):
                raise CorruptFileError(f"{folder}/{CONFIG} has {key} {pattern!r}; expected module names and numbers")

    @staticmethod
    def _pair(tensors: dict[str, np.ndarray], folder: Path) -> tuple[dict[Target, dict[str, np.ndarray]], list[str]]:
        pairs: dict[Target, dict[str, np.ndarray]] = {}
        passengers, strange, doubled, names = [], [], [], set()
        for key, value in tensors.items():
            found = _KEY.match(key)
            if found:
                target = target_of(found["module"])
                if target is None:
                    raise UnsupportedFormatError(
                        f"{folder}: {key} names no module of a UNet, transformer or text encoder known here"
                    )
                if found["factor"] in pairs.setdefault(target, {}):
                    doubled.append(key)
                pairs[target][found["factor"]] = value
                names.add(found["adapter"])
            elif key.endswith(".alpha") and value.size == 1 and (target := target_of(key.removesuffix(".alpha"))):
                pairs.setdefault(target, {})["alpha"] = value
            elif "lora_" in key:
                strange.append(key)
            else:
                passengers.append(key)  # modules_to_save: ordinary weights that travel along
        if strange:
            raise UnsupportedFormatError(f"{folder}: {len(strange)} keys are not understood: {', '.join(strange[:3])}")
        if len(names) > 1:
            raise UnsupportedFormatError(f"{folder} holds several adapters ({', '.join(map(str, names))}); save one")
        if doubled:
            raise UnsupportedFormatError(f"{folder}: {doubled[0]} is there under another name too; save it again")
        if not pairs:
            raise UnsupportedFormatError(f"{folder}/{WEIGHTS} holds no lora_A or lora_B tensor")
        return pairs, passengers

    @staticmethod
    def _scale(config: dict[str, Any], module: str, rank: int, folder: Path) -> float:
        try:
            stated = pattern_value(config.get("rank_pattern") or {}, module, config["r"])
            alpha = pattern_value(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        except re.error as error:
            raise CorruptFileError(f"{folder}/{CONFIG} has an unreadable pattern: {error}") from error
        if stated != rank or rank < 1:
            raise CorruptFileError(f"{folder}: {module} has rank {rank}, {CONFIG} states {stated}; fetch it again")
        return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)

    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write config and weights; rank and alpha stay as they are, a mixed set goes into the patterns.

        A folder holds one component, since it does not name it: the module paths must.
        """
        from safetensors.numpy import save_file

        components = sorted({t.component for t in adapter.factors})
        if len(components) > 1:
            raise InvalidInputError(
                f"a PEFT folder adapts one model, this adapter {' and '.join(components)}; write them one by one"
            )
        for target in adapter.factors:
            if target_of(PREFIX + target.module) != target:
                raise InvalidInputError(
                    f"a PEFT folder does not name its model and the path of {target} would not be read back as "
                    f"{target.component}'s; write it as diffusers"
                )
        ordered = sorted(adapter.factors.items(), key=lambda item: item[0].sort_key)
        rank, alpha = ordered[0][1].rank, _alpha(ordered[0][1])
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": adapter.base_model,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "rank_pattern": {t.module: p.rank for t, p in ordered if p.rank != rank},
            "alpha_pattern": {t.module: _alpha(p) for t, p in ordered if _alpha(p) != alpha},
            "target_modules": [t.module for t, _ in ordered],
        }
        tensors = {}
        for target, pair in ordered:
            tensors[f"{PREFIX}{target.module}.lora_A.weight"] = np.ascontiguousarray(pair.A)
            tensors[f"{PREFIX}{target.module}.lora_B.weight"] = np.ascontiguousarray(pair.B)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _alpha(pair: LoraFactors) -> float | int:
    """The alpha of a scale: the integer that gives it, if there is one, without the product's rounding."""
    alpha = pair.scale * pair.rank
    return round(alpha) if round(alpha) / pair.rank == pair.scale else alpha


PEFT = PeftFormat()
