"""Sizes that are measured: UNets of Stable Diffusion 1.5's shape and tiny ones, and the layout of the paper's LoRAs."""

from __future__ import annotations

from typing import Any

from w2w_hub import ParameterLayout
from w2w_hub.upstream.published import ALPHA, SIZE, sd15_targets

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


def sd15_layout() -> ParameterLayout:
    """Return the layout of rank 1 on to_q and to_v of Stable Diffusion 1.5: the paper's 99,648 numbers."""
    layout = ParameterLayout(sd15_targets(), ALPHA)
    assert layout.size == SIZE
    return layout
