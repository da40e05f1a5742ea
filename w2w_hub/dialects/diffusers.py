"""diffusers' LoRA files: dotted module paths that start with the component, in every spelling of the factors.

``.lora_A/.lora_B`` since diffusers uses PEFT; before, ``.lora.down/.lora.up`` and, in text encoders,
``.lora_linear_layer``. The writer folds the scale into B and sets alpha to the rank, so the file means the same with
and without metadata.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..lora.adapter import Adapter, Target, as_float32
from ..store.tensorfile import save_tensors
from .assemble import Parts, build_dotted, require_one_adapter
from .checkpoint import Checkpoint, ReadOptions, provenance
from .dialect import FolderUse, WritableDialect
from .flux import CLIP, bare_name, is_flux
from .names import OLD_KEY, component_of, factor_key, target_of
from .peft import PREFIX, stored
from .sgm import unet_path

WEIGHTS = "pytorch_lora_weights.safetensors"
# Black Forest Labs' names for Flux; a file with such a block uses their other names too
_FLUX = re.compile(r"(?:^|\.)(?:double_blocks|single_blocks)\.[0-9]+\.")
DEFAULT = "diffusers' default: nothing states it"


class Diffusers(WritableDialect):
    """``pytorch_lora_weights.safetensors`` as `save_lora_weights` of any version writes it."""

    name = "diffusers"
    weights_name = WEIGHTS
    folder_use = FolderUse.WITHOUT_CONFIG
    load_hint = "pipe.load_lora_weights({path!r})"

    def matches(self, checkpoint: Checkpoint) -> bool:
        # text encoder keys beside old ones may be newer
        old = any("_lora." in key and OLD_KEY.match(key) for key in checkpoint.keys)
        flux = any("_blocks." in key and _FLUX.search(key) for key in checkpoint.keys)
        for key in checkpoint.keys:
            if key.startswith((PREFIX, "lora_")) or ".processor." in key or (found := factor_key(key)) is None:
                continue
            if flux and (key.startswith(CLIP) or not _is_diffusers(found.module)):
                continue  # of Flux.1, or of another model with such blocks, which Flux.1's reader refuses
            if not (found.spelling == "lora_AB" and checkpoint.config is not None) and not (
                old and found.spelling == "lora_linear_layer"
            ):
                return True
        return False

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        parts = Parts(checkpoint.where)
        keys = [found for key in checkpoint.keys if (found := factor_key(key))]
        require_one_adapter({k.adapter for k in keys if k.spelling == "lora_AB"}, checkpoint.where)
        for key, value in checkpoint.tensors.items():
            found = factor_key(key)
            if found:
                place(parts, found.module, found.role, key, value, options)
            elif key.endswith(".alpha"):
                place(parts, key.removesuffix(".alpha"), "alpha", key, value, options)
            elif not parts.ignore(key, value, checkpoint):
                parts.unknown_keys.append(key)
        parts.require_understood()
        return build_dotted(parts, checkpoint, options, self.name, DEFAULT)

    def write(self, adapter: Adapter, folder: Path) -> None:
        tensors = {}
        for target, pair in sorted(adapter.factors.items(), key=lambda item: item[0].sort_key):
            if target_of(str(target)) != target:
                raise InvalidInputError(
                    f"{target} is not a module that diffusers has, so it would not be read back; leave it out"
                )
            folded = as_float32(pair.B.astype(np.float64) * pair.scale, f"B of {target} times its scale")
            a, b = stored(pair, folded)
            tensors[f"{target}.lora_A.weight"], tensors[f"{target}.lora_B.weight"] = a, b
        metadata = {"format": "pt"} | provenance(adapter.metadata)
        config = _config(adapter)
        if config is not None:
            metadata["lora_adapter_metadata"] = json.dumps(config, sort_keys=True)
        save_tensors(tensors, folder / WEIGHTS, metadata=metadata)


def _is_diffusers(module: str) -> bool:
    """Return True for a path in diffusers' names, in a file that has Black Forest Labs' blocks too."""
    bare = module.removeprefix("transformer.")
    return (
        not is_flux(bare_name(module))
        and not _FLUX.search(module)
        and (
            (
                module.partition(".")[0] not in ("transformer", "diffusion_model", "model")
                and target_of(module) is not None
            )
            or component_of(bare) is not None
        )
    )


def place(parts: Parts, module: str, role: str, key: str, value: np.ndarray, options: ReadOptions) -> None:
    """Add a tensor to the target of its dotted module path, or record its key as unmapped."""
    if module.startswith("diffusion_model."):  # ComfyUI's prefix for the original, not diffusers', names
        path = unet_path(module.removeprefix("diffusion_model.").replace(".", "_"))
        target = None if path is None else Target("unet", path)
    else:
        target = target_of(module, options.component)
    if target is None:
        parts.unmapped_keys.append(key)
    else:
        parts.add(target, role, key, value)


def _config(adapter: Adapter) -> dict[str, Any] | None:
    """Return the configuration of every component, or None for mixed ranks, which diffusers infers from the tensors.

    It must name all components or be absent: diffusers uses PEFT's default rank for a component that it does not name.
    CLIP's modules are named without ``text_model.``, which matches their suffix in every version of transformers.
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


DIFFUSERS = Diffusers()
