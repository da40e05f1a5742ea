"""Sizes that are measured: UNets of Stable Diffusion 1.5's shape and tiny ones, and the layout of the paper's LoRAs."""

from __future__ import annotations

from typing import Any

from w2w_hub import ParameterLayout
from w2w_hub.lora.adapter import Target

SD15: dict[str, Any] = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
TINY: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "attention_head_dim": 2,
    "cross_attention_dim": 32, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
WIDTH = 99_648
BLOCKS = [
    *((f"down_blocks.{i // 2}.attentions.{i % 2}", d) for i, d in enumerate((320, 320, 640, 640, 1280, 1280))),
    ("mid_block.attentions.0", 1280),
    *((f"up_blocks.{1 + i // 3}.attentions.{i % 3}", d) for i, d in enumerate((1280,) * 3 + (640,) * 3 + (320,) * 3)),
]


def sd15_layout() -> ParameterLayout:
    """Return the layout of rank 1 on to_q and to_v of Stable Diffusion 1.5: the paper's 99,648 numbers."""
    sizes = {
        Target("unet", f"{block}.transformer_blocks.0.{attention}.{name}"): (
            1, 768 if (attention, name) == ("attn2", "to_v") else width, width,
        )
        for block, width in BLOCKS
        for attention in ("attn1", "attn2")
        for name in ("to_q", "to_v")
    }  # fmt: skip
    layout = ParameterLayout(sizes, 27.0)
    assert layout.size == WIDTH
    return layout
