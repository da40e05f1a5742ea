"""Normalize the spelling of module paths across library releases."""

from __future__ import annotations

import re

NUMBER = r"(?:0|[1-9][0-9]*)"
CLIP_LAYER = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2",
)  # fmt: skip
# CLIP as transformers 5 names it, without `text_model.`
BARE_CLIP = re.compile(rf"encoder\.layers\.{NUMBER}\.(?:{'|'.join(map(re.escape, CLIP_LAYER))})")


def canonical_path(component: str, path: str) -> str:
    """Return the canonical spelling: CLIP's layers below ``text_model``, which transformers 5 dropped."""
    if component.startswith("text_encoder") and BARE_CLIP.fullmatch(path):
        return f"text_model.{path}"
    return path
