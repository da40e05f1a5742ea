"""Facts about what weights2weights published: file names, license, training, and the order of its 99,648 numbers.

Read in arXiv 2406.09413v3, its repository and its Hub repository; no text or code of theirs is copied here.
"""

from __future__ import annotations

from ..dataset.licenses import RESTRICTED
from ..lora.adapter import Target
from ..lora.layout import DEFAULT_TARGETS

PROJECT = "weights2weights"
REPOSITORY = "snap-research/weights2weights"
LICENSE = next(license for license, source in RESTRICTED.items() if source == REPOSITORY)
NOTICE = (
    "The weights2weights files are (c) 2024 Snap Inc., UC Berkeley and Stanford University, licensed for "
    "non-commercial, academic purposes only, and what is made of them carries that license. Keep its text beside every "
    "copy."
)
BASE_MODEL = "stablediffusionapi/realistic-vision-v51"
INITIALIZATION = "weights2weights-seed-0"  # every LoRA was trained with seed 0
ALPHA, RANK = 27.0, 1
SIZE = 99_648  # numbers of a LoRA of Stable Diffusion 1.5, rank 1, on to_q and to_v

_CROSS = 768  # width of Stable Diffusion 1.5's text encoder
_WIDTHS = (320, 640, 1280)


def sd15_targets() -> dict[Target, tuple[int, int, int]]:
    """Return the (rank, inputs, outputs) of each module that weights2weights trains, in its order."""
    blocks = [(f"down_blocks.{i}.attentions.{j}", w) for i, w in enumerate(_WIDTHS) for j in range(2)]
    blocks += [("mid_block.attentions.0", 1280)]
    blocks += [(f"up_blocks.{i + 1}.attentions.{j}", w) for i, w in enumerate(reversed(_WIDTHS)) for j in range(3)]
    return {
        Target("unet", f"{block}.transformer_blocks.0.{attention}.{name}"):
            (RANK, _CROSS if (attention, name) == ("attn2", "to_v") else width, width)
        for block, width in blocks
        for attention in ("attn1", "attn2")
        for name in DEFAULT_TARGETS
    }  # fmt: skip
