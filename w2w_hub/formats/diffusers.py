"""diffusers' LoRA files: dotted module paths with the component in front, in every spelling of the factors.

``.lora_A/.lora_B`` since it stands on PEFT, ``.lora.down/.lora.up`` and, of text encoders, ``.lora_linear_layer``
before. The writer folds the scale into B and makes alpha the rank, so the file means the same with and without
metadata.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Adapter, LoraFactors, Target
from .assemble import Parts, dtypes_of, factors_of, is_ordinary, passenger_of
from .checkpoint import DIFFUSERS_WEIGHTS as WEIGHTS
from .checkpoint import Checkpoint, ReadOptions
from .names import target_of
from .peft import PREFIX, stored
from .scales import LoraSettings, Stated, alpha_of, header_settings, settle

KEY = re.compile(
    r"^(?P<module>.+)\.(?:lora_(?P<ab>[AB])(?:\.[^.]+)?\.weight|lora(?:_linear_layer)?\.(?P<half>down|up)\.weight"
    r"|lora_(?P<dotted>down|up)\.weight)$"
)
_ROLE = {"down": "A", "up": "B", "A": "A", "B": "B"}
OLD_KEY = re.compile(
    r"^(?P<attention>.+?)(?:\.processor)?\.to_(?P<name>q|k|v|out)_lora\.(?P<half>down|up)\.weight$",
)
# names that another dialect owns: Black Forest Labs' of Flux, and old attention processors
_ELSEWHERE = re.compile(r"(?:^|\.)(?:double_blocks|single_blocks)\.[0-9]+\.|\.processor\.|^lora_")
DEFAULT = "diffusers' default: nothing states it"


class DiffusersFormat:
    """``pytorch_lora_weights.safetensors`` as `save_lora_weights` of any version writes it."""

    name = "diffusers"

    def matches(self, checkpoint: Checkpoint) -> bool:
        old = any(OLD_KEY.match(key) for key in checkpoint.keys)  # beside whose keys a text encoder's may be newer
        for key in checkpoint.keys:
            found = KEY.match(key)
            if found is None or key.startswith(PREFIX) or _ELSEWHERE.search(key):
                continue
            if not (found["ab"] and checkpoint.config is not None) and not (old and "lora_linear_layer" in key):
                return True
        return False

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        parts = Parts(checkpoint.where)
        for key, value in checkpoint.tensors.items():
            found = KEY.match(key)
            if found:
                place(
                    parts, found["module"], _ROLE[found["ab"] or found["half"] or found["dotted"]], key, value, options
                )
            elif key.endswith(".alpha"):
                place(parts, key.removesuffix(".alpha"), "alpha", key, value, options)
            elif is_ordinary(key) or key.endswith(".lora_B.bias") or passenger_of(key, checkpoint.metadata):
                parts.passengers.append(key)
            else:
                parts.strange.append(key)
        parts.require_understood()
        return finish(parts, checkpoint, options, self.name, DEFAULT)

    def write(self, adapter: Adapter, folder: Path) -> None:
        from safetensors.numpy import save_file

        tensors = {}
        for target, pair in sorted(adapter.factors.items(), key=lambda item: item[0].sort_key):
            a, b = stored(pair, pair.B.astype(np.float64) * pair.scale)
            tensors[f"{target}.lora_A.weight"], tensors[f"{target}.lora_B.weight"] = a, b
        metadata = {"format": "pt"}
        config = _config(adapter)
        if config is not None:
            metadata["lora_adapter_metadata"] = json.dumps(config, sort_keys=True)
        save_file(tensors, folder / WEIGHTS, metadata=metadata)


def place(parts: Parts, module: str, role: str, key: str, value: np.ndarray, options: ReadOptions) -> None:
    """Add a tensor under the target that its dotted module path names, or note that it names none."""
    if module.startswith("diffusion_model."):  # ComfyUI's prefix of the model's own, not diffusers', names
        from .kohya import unet_path

        path = unet_path(module.removeprefix("diffusion_model.").replace(".", "_"))
        target = None if path is None else Target("unet", path)
    else:
        target = target_of(module, options.component)
    if target is None:
        parts.unplaced.append(key)
    else:
        parts.add(target, role, key, value)


def finish(parts: Parts, checkpoint: Checkpoint, options: ReadOptions, dialect: str, default: str) -> Adapter:
    """The adapter of sorted tensors whose scale the header or alpha tensors state, or else is the dialect's 1."""
    where = checkpoint.where
    header = header_settings(checkpoint.metadata, where)
    factors, places = {}, set()
    for target, roles in parts.modules.items():
        a, b, kernel = factors_of(roles, target, where)
        rank = a.shape[0]
        stated: list[Stated | None] = []
        settings: LoraSettings | None = header.get(target.component, header.get(None))
        if settings is not None:
            stated.append(settings.scale(target.module, rank, options.believe))
        if "alpha" in roles:
            alpha, rounding = alpha_of(roles["alpha"], parts.keys[target, "alpha"], where)
            stated.append(Stated("its alpha tensor", alpha / rank, rounding))
            if options.believe is not None and settings is not None:
                stated = stated[1:] if options.believe == "tensors" else stated[:1]
        if options.alpha is not None:
            stated.append(Stated("the alpha that was given", options.alpha / rank))
        settled = settle(stated, Stated(default, 1.0), where, target)
        places.add(settled.place)
        factors[target] = LoraFactors(a, b, settled.scale, kernel)
    return Adapter(
        factors,
        base_model=checkpoint.metadata.get("base_model_name_or_path") or checkpoint.metadata.get("base_model"),
        dialect=dialect,
        passengers=tuple(parts.passengers),
        metadata={"scale_from": sorted(places), "dtypes": dtypes_of(checkpoint)},
    )


def _config(adapter: Adapter) -> dict[str, Any] | None:
    """The configuration of every component, or None where ranks are mixed: diffusers then infers them all.

    It must name all components or be left out: diffusers takes PEFT's default rank for one that it does not name.
    CLIP's modules are named without ``text_model.``, which matches their end in every version of transformers.
    """
    config: dict[str, Any] = {}
    for component in sorted({t.component for t in adapter.factors}):
        mine = {
            t.module.removeprefix("text_model."): p.rank for t, p in adapter.factors.items() if t.component == component
        }
        if len(set(mine.values())) > 1:
            return None
        rank = next(iter(mine.values()))
        config[f"{component}.r"] = config[f"{component}.lora_alpha"] = rank
        config[f"{component}.target_modules"] = list(mine)
    return config


DIFFUSERS = DiffusersFormat()
