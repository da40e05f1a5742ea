"""diffusers' old attention processors: ``<attention>.processor.to_q_lora.down.weight``, with or without ``unet.``.

The parameter, not a module, names the projection: ``to_out_lora`` is ``to_out.0`` in a UNet; in a text encoder
``to_q_lora`` is ``q_proj`` and ``to_out_lora`` is ``out_proj``. Such files have no alpha.
"""

from __future__ import annotations

import re

from ..lora.adapter import COMPONENTS, Adapter
from .assemble import Parts, build_dotted
from .checkpoint import Checkpoint, ReadOptions
from .dialect import Dialect
from .diffusers import place
from .names import OLD_KEY, ROLE, factor_key


class DiffusersOld(Dialect):
    """``pytorch_lora_weights.safetensors`` of diffusers before 0.22; read only."""

    name = "diffusers-attn-processor"
    rank_keys = re.compile(r"\.lora\.down|_layer\.down|_lora\.down")

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any("_lora." in key and OLD_KEY.match(key) for key in checkpoint.keys)

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        parts = Parts(checkpoint.where)
        for key, value in checkpoint.tensors.items():
            found = OLD_KEY.match(key)
            if found:
                path = f"{found['attention']}.{_projection(found['attention'], found['name'], options)}"
                place(parts, path, ROLE[found["half"]], key, value, options)
            elif (beside := factor_key(key)) and beside.spelling in ("lora", "lora_linear_layer"):
                place(parts, beside.module, beside.role, key, value, options)  # a text encoder's newer keys
            elif not parts.ignore(key, value, checkpoint):
                parts.unknown_keys.append(key)
        parts.require_understood()
        return build_dotted(parts, checkpoint, options, self.name, "the dialect's only scale: it has no alpha")


def _projection(attention: str, name: str, options: ReadOptions) -> str:
    first = attention.partition(".")[0]
    component = first if first in COMPONENTS else options.component
    if "self_attn" in attention or (component or "").startswith("text_encoder"):
        return "out_proj" if name == "out" else f"{name}_proj"
    return "to_out.0" if name == "out" else f"to_{name}"


DIFFUSERS_OLD = DiffusersOld()
