"""cloneofsimo/lora: factors by number, ``unet:12:down``, or a bare list of tensors; no key names a module.

The numbers count the injected modules in the order of ``model.modules()`` at training. In a UNet these are the down,
up, then mid blocks; within a transformer block three orders exist, which are recognized by the shapes. In a text
encoder all shapes are equal, and the order is the one in which CLIP's attention registers its projections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product

import numpy as np

from ..errors import CorruptFileError, UnsupportedFormatError
from ..lora.adapter import Adapter, LoraFactors, Target
from ..lora.module_paths import NUMBER
from .assemble import dtypes_of, factors_of, preview
from .checkpoint import Checkpoint, ReadOptions
from .dialect import Dialect

_KEY = re.compile(rf"^(?P<component>unet|text_encoder):(?P<index>{NUMBER}):(?P<half>up|down)$")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED = "ff.net.0.proj"
_FIRST, _SECOND = (tuple(f"{attn}.{n}" for n in _ATTENTION) for attn in ("attn1", "attn2"))
# orders within a transformer block: without the feed-forward layer, with it in the middle (2022) or at the end (2024)
_ORDERS = ((*_FIRST, *_SECOND), (*_FIRST, _FEED, *_SECOND), (*_FIRST, *_SECOND, _FEED))
_CLIP = ("k_proj", "v_proj", "q_proj", "out_proj")
_LEVELS = (320, 640, 1280)  # Stable Diffusion 1.x and 2.x; the deepest level has no attention
_ANCESTORS = {
    "unet": {"CrossAttention", "Attention", "GEGLU"},
    "text_encoder": {"CLIPAttention", "CLIPSdpaAttention", "CLIPFlashAttention2"},
}
DEFAULT = "the dialect's only scale: it has no alpha"


class Cloneofsimo(Dialect):
    """``lora.safetensors`` with numbered keys, or the list ``.pt`` of either model."""

    name = "cloneofsimo"
    rank_keys = re.compile(":down$")

    def matches(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.is_list:
            return all(len(shape) in (2, 4) for shape in checkpoint.shapes.values())
        return any(":" in key and _KEY.match(key) for key in checkpoint.keys)

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        pairs, ignored_keys = self._list(checkpoint) if checkpoint.is_list else self._numbered(checkpoint)
        factors = {}
        for component, numbered in pairs.items():
            made = [factors_of(roles, f"{component}:{i}", checkpoint.where) for i, roles in sorted(numbered.items())]
            sizes = [(b.shape[0], a.shape[1]) for a, b, _ in made]
            found = _modules(sizes) if component != "text_encoder" else None
            if component == "list":
                component = "unet" if found else "text_encoder"
            path = _text_modules(sizes) if component == "text_encoder" else found
            if path is None:
                raise UnsupportedFormatError(
                    f"{checkpoint.where}: {len(sizes)} modules of a {component} in an unknown order; the file does "
                    "not name its modules, so it cannot be read"
                )
            for module, (a, b, kernel), numbers in zip(path, made, sorted(numbered), strict=True):
                self._check_rank(checkpoint, component, numbers, a.shape[0])
                factors[Target(component, module)] = LoraFactors(a, b, 1.0, kernel)
        return Adapter(
            factors,
            dialect=self.name,
            ignored_keys=tuple(ignored_keys),
            metadata={"scale_from": [DEFAULT], "dtypes": dtypes_of(checkpoint)},
        )

    @staticmethod
    def _list(checkpoint: Checkpoint) -> tuple[dict[str, dict[int, dict[str, np.ndarray]]], list[str]]:
        tensors = list(checkpoint.tensors.values())
        if len(tensors) % 2:
            raise CorruptFileError(
                f"{checkpoint.where} is a list of {len(tensors)} tensors, expected pairs of up and down"
            )
        return {"list": {i: {"B": tensors[2 * i], "A": tensors[2 * i + 1]} for i in range(len(tensors) // 2)}}, []

    @staticmethod
    def _numbered(checkpoint: Checkpoint) -> tuple[dict[str, dict[int, dict[str, np.ndarray]]], list[str]]:
        pairs: dict[str, dict[int, dict[str, np.ndarray]]] = {}
        ignored_keys, unknown = [], []
        for key, value in checkpoint.tensors.items():
            found = _KEY.match(key)
            if found:
                half = "A" if found["half"] == "down" else "B"
                pairs.setdefault(found["component"], {}).setdefault(int(found["index"]), {})[half] = value
            elif checkpoint.metadata.get(key) == "<embed>" or (key.startswith("<") and key.endswith(">")):
                ignored_keys.append(key)  # a textual-inversion vector
            else:
                unknown.append(key)
        if unknown:
            raise UnsupportedFormatError(f"{checkpoint.where}: {len(unknown)} unknown keys: {preview(unknown)}")
        for component, numbered in pairs.items():
            if sorted(numbered) != list(range(len(numbered))):
                raise CorruptFileError(
                    f"{checkpoint.where}: the modules of {component} are not numbered without gaps; fetch it again"
                )
            _check_ancestors(checkpoint, component)
        return pairs, ignored_keys

    @staticmethod
    def _check_rank(checkpoint: Checkpoint, component: str, index: int, rank: int) -> None:
        stated = checkpoint.metadata.get(f"{component}:{index}:rank", str(rank))
        if stated != str(rank):
            raise CorruptFileError(
                f"{checkpoint.where}: {component}:{index} has rank {rank}, the header {stated[:20]}; fetch it again"
            )


def _check_ancestors(checkpoint: Checkpoint, component: str) -> None:
    """Raise if the header names parent classes other than those whose order of modules is known."""
    raw = checkpoint.metadata.get(component)
    if raw is None:
        return
    try:
        classes = json.loads(raw)
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise CorruptFileError(f"{checkpoint.where}: its header's {component} is not a list of classes; fetch it again")
    other = sorted(set(classes) - _ANCESTORS[component])
    if other:
        raise UnsupportedFormatError(
            f"{checkpoint.where}: its {component} was injected below {preview(other)}, in an unknown order"
        )


def _modules(sizes: list[tuple[int, int]]) -> list[str] | None:
    """Return the UNet modules with these sizes in one of the three orders, or None."""
    text = next((inputs for _, inputs in sizes if inputs in (768, 1024)), None)
    if text is None:
        return None
    for order in _ORDERS:
        known = list(_unet(order, text))
        if [size for _, size in known] == sizes:
            return [path for path, _ in known]
    return None


def _unet(order: tuple[str, ...], text: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield paths and (outputs, inputs) of Stable Diffusion's UNet modules: down, up, then mid blocks."""
    blocks = [(f"down_blocks.{i}.attentions.{j}", width) for (i, width), j in product(enumerate(_LEVELS), range(2))]
    blocks += [(f"up_blocks.{3 - i}.attentions.{j}", _LEVELS[i]) for i, j in product((2, 1, 0), range(3))]
    blocks.append(("mid_block.attentions.0", _LEVELS[-1]))
    for path, width in blocks:
        for name in order:
            inputs = text if name in ("attn2.to_k", "attn2.to_v") else width
            yield f"{path}.transformer_blocks.0.{name}", (8 * width if name == _FEED else width, inputs)


def _text_modules(sizes: list[tuple[int, int]]) -> list[str] | None:
    """Return CLIP's attention projections if the sizes are whole layers of square projections of one width."""
    if len(sizes) % 4 or len(set(sizes)) != 1 or sizes[0][0] != sizes[0][1]:
        return None
    return [f"text_model.encoder.layers.{i}.self_attn.{name}" for i, name in product(range(len(sizes) // 4), _CLIP)]


CLONEOFSIMO = Cloneofsimo()
