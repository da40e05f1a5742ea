"""Map dotted and underscored names in keys to targets.

Underscored names (kohya's) are ambiguous, since module names contain underscores themselves. They are matched against
the module paths of the supported models; a name that matches none is an error, never a guess.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from ..lora.adapter import COMPONENTS, Target
from ..lora.module_paths import BARE_CLIP, CLIP_LAYER, NUMBER, canonical_path

# dotted keys of factors: PEFT's, diffusers' two older spellings, and kohya's suffixes
_KEY = re.compile(
    r"^(?P<module>.+)\.(?:lora_(?P<ab>[AB])(?:\.(?P<adapter>[^.]+))?|lora(?P<linear>_linear_layer)?\.(?P<half>down|up)"
    r"|lora_(?P<dotted>down|up))\.weight$"
)
ROLE = {"down": "A", "up": "B", "A": "A", "B": "B"}
OLD_KEY = re.compile(
    r"^(?P<attention>.+?)(?:\.processor)?\.to_(?P<name>q|k|v|out)_lora\.(?P<half>down|up)\.weight$",
)
_ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
_IN_BLOCK = (
    *(f"attentions.N.transformer_blocks.N.{name}" for name in _ATTENTION),
    *(f"attentions.N.transformer_blocks.N.{n.replace('attn1', 'attn2')}" for n in _ATTENTION if "attn" in n),
    "attentions.N.proj_in", "attentions.N.proj_out",
    "resnets.N.conv1", "resnets.N.conv2", "resnets.N.time_emb_proj", "resnets.N.conv_shortcut",
)  # fmt: skip
_BLOCKS = {
    "down_blocks.N": (*_IN_BLOCK, "downsamplers.0.conv"),
    "mid_block": _IN_BLOCK,
    "up_blocks.N": (*_IN_BLOCK, "upsamplers.0.conv"),
}
_DEEPEST = 7  # largest index of a UNet block: each block halves the picture
_EMBEDDINGS = tuple(f"{n}_embedding.linear_{i}" for n, i in product(("time", "add", "class"), (1, 2)))
UNET = (
    "conv_in", "conv_out", *_EMBEDDINGS, "time_embedding.cond_proj",
    *(f"{block}.{name}" for block, names in _BLOCKS.items() for name in names),
)  # fmt: skip
_DIT_ATTENTION = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip
_DIT_FEED = ("ff", "ff_context", "img_mlp", "txt_mlp")
TRANSFORMER = (  # Flux, SD3 and Qwen-Image as diffusers names them
    *(f"{kind}_blocks.N.attn.{n}" for kind, n in product(("transformer", "single_transformer"), _DIT_ATTENTION)),
    *(f"transformer_blocks.N.attn2.{n}" for n in _DIT_ATTENTION[:4]),
    *(f"transformer_blocks.N.{n}.net.{i}" for n, i in product(_DIT_FEED, ("0.proj", "2"))),
    *(f"transformer_blocks.N.{n}" for n in ("norm1.linear", "norm1_context.linear", "img_mod.1", "txt_mod.1")),
    *(f"single_transformer_blocks.N.{n}" for n in ("norm.linear", "proj_mlp", "proj_out")),
    *(f"time_text_embed.{n}_embedder.linear_{i}" for n, i in product(("timestep", "guidance", "text"), (1, 2))),
    "x_embedder", "context_embedder", "norm_out.linear", "proj_out", "img_in", "txt_in",
)  # fmt: skip
_T5 = tuple(f"SelfAttention.{n}" for n in "qkvo") + tuple(f"DenseReluDense.{n}" for n in ("wi", "wi_0", "wi_1", "wo"))
TEXT_ENCODER = (
    *(f"{model}encoder.layers.N.{n}" for model, n in product(("text_model.", ""), CLIP_LAYER)),
    "text_projection",
    *(f"encoder.block.N.layer.N.{n}" for n in _T5),
)
# first names of module paths that identify the component
_FIRST_NAMES = {
    "unet": (
        "down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_embedding", "class_embedding",
        "add_embedding", "encoder_hid_proj",
    ),
    "transformer": (
        "transformer_blocks", "single_transformer_blocks", "x_embedder", "context_embedder", "norm_out",
        "time_text_embed", "proj_out",
    ),
    "text_encoder": ("text_model",),
}  # fmt: skip
_COMPONENT_OF = {first: component for component, names in _FIRST_NAMES.items() for first in names}
CONVOLUTIONS = re.compile(r"(?:.*\.)?(?:resnets\.\d+\.conv[12]|(?:down|up)samplers\.\d+\.conv)|conv_in|conv_out")


class FactorKey(NamedTuple):
    """Parsed dotted key: module path, role (``"A"`` or ``"B"``), spelling, and the name of the adapter, if any."""

    module: str
    role: str
    spelling: str  # lora_AB, lora, lora_linear_layer or lora_down
    adapter: str | None


@lru_cache(maxsize=8192)  # the checkpoints of a population share their keys
def factor_key(key: str) -> FactorKey | None:
    """Parse the dotted key of a LoRA factor in any spelling; return None for other keys."""
    found = _KEY.match(key) if ".lora" in key else None
    if found is None:
        return None
    spelling = "lora_AB" if found["ab"] else "lora_down" if found["dotted"] else f"lora{found['linear'] or ''}"
    return FactorKey(found["module"], ROLE[found["ab"] or found["half"] or found["dotted"]], spelling, found["adapter"])


def _dotted_grammar(paths: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(path).replace("N", NUMBER) for path in paths))


_DOTTED = {"unet": _dotted_grammar(UNET), "text_encoder": _dotted_grammar(TEXT_ENCODER)}
_UNET_BLOCK = re.compile(rf"(?:down|up)_blocks\.({NUMBER})\.")
# attention projections of every diffusers transformer with such blocks
_PROJECTIONS = {*_DIT_ATTENTION, "to_out", "to_gate", "to_qkv_mlp_proj"}
_DIT_BLOCK = re.compile(rf"(?:single_)?transformer_blocks\.{NUMBER}\.attn[12]?\.(.+)")


@lru_cache(maxsize=8192)
def is_module(component: str, path: str) -> bool:
    """Return True if a component can have a module at this path.

    UNets have the modules of Stable Diffusion 1.x, 2.x and XL, in any number of blocks and layers; text encoders have
    CLIP's and T5's. Transformers have too many names to list: only attention projections are checked.
    """
    if component == "transformer":
        attention = _DIT_BLOCK.fullmatch(path)
        return attention is None or attention[1] in _PROJECTIONS
    if component == "unet":
        block = _UNET_BLOCK.match(path)
        if block is not None and (len(block[1]) > 1 or int(block[1]) > _DEEPEST):
            return False
    return _DOTTED[component.rstrip("_23")].fullmatch(path) is not None


def _grammar(paths: tuple[str, ...]) -> re.Pattern[str]:
    def underscored(path: str) -> str:
        return re.escape(path.replace(".", "_")).replace("N", f"({NUMBER})")

    return re.compile("|".join(f"(?P<p{i}>{underscored(path)})" for i, path in enumerate(paths)))


_UNDERSCORED = {
    "unet": (UNET, _grammar(UNET)),
    "transformer": (TRANSFORMER, _grammar(TRANSFORMER)),
    "text_encoder": (TEXT_ENCODER, _grammar(TEXT_ENCODER)),
}


@lru_cache(maxsize=8192)
def dotted(component: str, name: str) -> str | None:
    """Return the module path of an underscored name in a component, or None."""
    paths, grammar = _UNDERSCORED[component.rstrip("_23")]
    found = grammar.fullmatch(name)
    if found is None:
        return None
    index = int(str(found.lastgroup)[1:]) if found.lastgroup else 0
    numbers = [n for n in found.groups()[found.re.groupindex[f"p{index}"] :][: paths[index].count("N")] if n]
    parts = iter(numbers)
    path = canonical_path(component, re.sub("N", lambda _: next(parts), paths[index]))
    return path if is_module(component, path) else None


def component_of(path: str) -> str | None:
    """Return the component of a module path without prefix, or None if it is ambiguous."""
    component = _COMPONENT_OF.get(path.partition(".")[0])
    if component is None and BARE_CLIP.fullmatch(path):
        return "text_encoder"
    return component


@lru_cache(maxsize=8192)
def target_of(path: str, component: str | None = None) -> Target | None:
    """Return the target of a dotted path that may start with its component, as pipelines write it.

    `component` is the default for a path that does not name its own. Returns None if neither names it, or if the
    component has no such module.
    """
    first, _, rest = path.partition(".")
    if first in COMPONENTS and rest:
        return placed(first, rest)
    return target_of_bare(path, component)


def target_of_bare(path: str, component: str | None = None) -> Target | None:
    """Return the target of a dotted path that does not start with its component, see :func:`target_of`."""
    known = component_of(path)
    if known is None or (known == "text_encoder" and (component or "").startswith(known)):
        known = component or known  # keys do not distinguish several text encoders
    return None if known is None else placed(known, path)


def placed(component: str, path: str) -> Target | None:
    """Return the target of a component's module, or None if it has no such module."""
    path = canonical_path(component, path)
    return Target(component, path) if is_module(component, path) else None
