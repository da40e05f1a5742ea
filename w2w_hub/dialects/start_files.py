"""The file in which a dataset publishes its initialization: PEFT's spelling, with every module's true alpha."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..lora.adapter import Adapter
from ..store.tensorfile import safetensors_bytes
from .names import target_of
from .peft import alpha_for, stored
from .scales import HEADER_KEY


def start_bytes(adapter: Adapter) -> bytes:
    """Return an adapter as one safetensors file, ``<component>.<module>.lora_A.weight``, with PEFT's configuration.

    diffusers' `load_lora_weights` and :func:`w2w_hub.read_adapter` read it. Unlike diffusers' own writer it folds no
    scale into B: a trainer that goes on from it needs the alpha.

    Raises
    ------
    InvalidInputError
        If a module would not be read back.
    """
    tensors: dict[str, np.ndarray] = {}
    ordered = sorted(adapter.factors.items(), key=lambda item: item[0].sort_key)
    for target, pair in ordered:
        if target_of(str(target)) != target:
            raise InvalidInputError(
                f"{target} is not a module that diffusers has, so it would not be read back; leave it out"
            )
        a, b = stored(pair)
        tensors[f"{target}.lora_A.weight"], tensors[f"{target}.lora_B.weight"] = a, b
    config: dict[str, Any] = {}
    for component in dict.fromkeys(target.component for target, _ in ordered):
        mine = {t.module.removeprefix("text_model."): p for t, p in ordered if t.component == component}
        first = next(iter(mine.values()))
        facts = {
            "r": first.rank, "lora_alpha": alpha_for(first), "target_modules": list(mine),
            "rank_pattern": {name: p.rank for name, p in mine.items() if p.rank != first.rank},
            "alpha_pattern": {name: alpha_for(p) for name, p in mine.items() if alpha_for(p) != alpha_for(first)},
        }  # fmt: skip
        config |= {f"{component}.{name}": value for name, value in facts.items() if value}
    return safetensors_bytes(tensors, {"format": "pt", HEADER_KEY: json.dumps(config, sort_keys=True)})
