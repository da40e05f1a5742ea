"""Translate UNet modules in Stability's numbering (``input_blocks_4_1_...``), used by SDXL files and ComfyUI.

Stability numbers input and output blocks through all levels, three per level; diffusers numbers them per level.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..lora.module_paths import NUMBER
from .names import dotted

# Stability's names for a UNet's parts; all their models have two residual blocks per level
_LAYERS = 3
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1", "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1", "label_emb_0_2": "add_embedding.linear_2",
}  # fmt: skip
_SGM = re.compile(
    rf"(?P<side>input|output)_blocks_(?P<block>{NUMBER})_(?P<inner>[012])_(?P<tail>.+)|middle_block_(?P<middle>[012])_(?P<rest>.+)"
)


@lru_cache(maxsize=8192)
def unet_path(name: str) -> str | None:
    """Return diffusers' path of a UNet module in either numbering, written with underscores; None if unknown."""
    return _sgm_path(name) if is_sgm(name) else dotted("unet", name)


def is_sgm(name: str) -> bool:
    """Return True if a UNet module's name is in Stability's numbering."""
    return name.startswith(("input_blocks_", "middle_block_", "output_blocks_", "label_emb_", "time_embed_")) or (
        name == "out_2"
    )


def _sgm_path(name: str) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    found = _SGM.fullmatch(name)
    if found is None:
        return None
    if found["middle"] is not None:
        kind = "attentions_0" if found["middle"] == "1" else f"resnets_{int(found['middle']) // 2}"
        tail = found["rest"] if kind == "attentions_0" else _RESNET.get(found["rest"])
        return None if tail is None else dotted("unet", f"mid_block_{kind}_{tail}")
    number, inner, tail = int(found["block"]) - (found["side"] == "input"), found["inner"], found["tail"]
    if number < 0:
        return None
    side, (level, layer) = "down" if found["side"] == "input" else "up", divmod(number, _LAYERS)
    last = layer == _LAYERS - 1
    if tail == "op" or (tail == "conv" and side == "up"):
        fits = (
            last and (side, inner) in (("down", "0"), ("up", "1"), ("up", "2")) and (tail == "op") == (side == "down")
        )
        return dotted("unet", f"{side}_blocks_{level}_{side}samplers_0_conv") if fits else None
    if (side == "down" and last) or inner == "2":  # a downsampler's block holds nothing else
        return None
    kind, translated = ("resnets", _RESNET.get(tail)) if inner == "0" else ("attentions", tail)
    return None if translated is None else dotted("unet", f"{side}_blocks_{level}_{kind}_{layer}_{translated}")


def sgm_name(path: str) -> str:
    """Return Stability's underscored name of an SDXL UNet module, the inverse of :func:`unet_path`."""
    outside = {ours: theirs for theirs, ours in _OUTSIDE.items()}
    if path in outside:
        return outside[path]
    first, *rest = path.split(".")
    level = 0 if first == "mid_block" else int(rest.pop(0))
    kind, layer, tail = rest[0], int(rest[1]), "_".join(rest[2:])
    inner = "0" if kind in ("resnets", "downsamplers") else "1"
    tail = next((theirs for theirs, ours in _RESNET.items() if kind == "resnets" and ours == tail), tail)
    if first == "mid_block":
        return f"middle_block_{1 if kind == 'attentions' else 2 * layer}_{tail}"
    if kind == "downsamplers":
        return f"input_blocks_{(level + 1) * _LAYERS}_0_op"
    if kind == "upsamplers":
        return f"output_blocks_{level * _LAYERS + _LAYERS - 1}_2_conv"
    if first == "down_blocks":
        return f"input_blocks_{level * _LAYERS + layer + 1}_{inner}_{tail}"
    return f"output_blocks_{level * _LAYERS + layer}_{inner}_{tail}"
