"""kohya's sd-scripts: ``lora_unet_<module with underscores>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``.

SD 1.x and 2.x files use diffusers' names for a UNet's modules, SDXL files Stability's (``input_blocks``), and Flux
files Black Forest Labs'. OneTrainer writes ``lora_transformer_``, diffusers' names and the same suffixes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError, UnsupportedFormatError
from ..lora.adapter import Adapter, Target, as_float32
from ..store.tensorfile import save_tensors
from .assemble import Parts, build_adapter
from .checkpoint import Checkpoint, ReadOptions, provenance
from .dialect import Dialect, WritableDialect
from .flux import has_blocks, is_flux, pieces
from .flux_model import require_flux, says
from .names import dotted
from .peft import alpha_for, stored
from .scales import Stated
from .sgm import is_sgm, sgm_name, unet_path

WEIGHTS = "kohya_lora.safetensors"
_PREFIX = re.compile(r"^lora_(?P<part>unet|te[123]?|transformer)_(?P<name>[^.]+)\.(?P<tail>.+)$")
COMPONENTS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
_TAILS = {"lora_down.weight": "A", "lora_up.weight": "B", "lora_mid.weight": "mid", "alpha": "alpha"}
T5 = "encoder.block."  # prefix of its module paths
DEFAULT = "kohya's default, alpha = rank: nothing states it"


@lru_cache(maxsize=8192)
def split_key(key: str) -> tuple[str, str, str] | None:
    """Return part (``unet``, ``te1``, ...), underscored module and tail of a key with kohya's prefix, or None."""
    found = _PREFIX.match(key) if key.startswith("lora_") else None
    return None if found is None else (found["part"], found["name"], found["tail"])


@lru_cache(maxsize=8192)
def target_of_name(part: str, name: str, *, flux: bool = False) -> Target | None:
    """Return the target of an underscored name after ``lora_<part>_``, or None; also None for Flux' fused modules.

    `flux` is True for a file of Flux.1, whose second text encoder is T5: sd-scripts numbers it 3, like SD3's.
    """
    if part in COMPONENTS:
        component = "text_encoder_2" if flux and part == "te3" else COMPONENTS[part]
        path = dotted(component, name)
        if path is None or (flux and component == "text_encoder_2" and not path.startswith(T5)):
            return None
        return Target(component, path)
    path = unet_path(name) if part == "unet" else None
    if path is not None:
        return Target("unet", path)
    path = dotted("transformer", name)
    return None if path is None else Target("transformer", path)


class _Underscored(Dialect):
    """Base of both dialects: reading is the same."""

    rank_keys = re.compile("lora_down")

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        parts = sort(checkpoint, options.component)
        parts.require_understood()
        return build_adapter(
            parts, checkpoint, options, self.name, DEFAULT,
            recorded=header_scales(checkpoint), zero_alpha_is_unset=True,  # sd-scripts reads 0 as unset
            base_model=checkpoint.metadata.get("ss_sd_model_name"),
        )  # fmt: skip


class Kohya(_Underscored, WritableDialect):
    """One file of kohya's LoRA network, including LoCon (convolutions)."""

    name = "kohya"
    weights_name = WEIGHTS
    load_hint = "pipe.load_lora_weights({path!r}), or ComfyUI's models/loras"

    def matches(self, checkpoint: Checkpoint) -> bool:
        foreign = any(k.startswith("lora_transformer_") for k in checkpoint.keys)
        found = [m for k in checkpoint.keys if (m := split_key(k)) and m[2] in _TAILS and m[2] != "alpha"]
        if any(".lokr_" in k or ".hada_" in k or ".oft_" in k for k in checkpoint.keys):
            return False  # LyCORIS, which may have plain LoRA modules too
        return any(part == "unet" or (part in COMPONENTS and not foreign) for part, _, _ in found)

    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write ``kohya_lora.safetensors`` with the true alpha of every module; SDXL gets its own numbering."""
        tensors: dict[str, np.ndarray] = {}
        ranks, alphas = set[int](), set[float]()
        sdxl = is_sdxl(adapter)
        present = {target.component for target in adapter.factors}
        if "text_encoder_3" in present and "text_encoder_2" not in present:
            raise InvalidInputError(
                "kohya's lora_te3 is the T5 of Flux.1 or SD3, which cannot be distinguished without lora_te2; write "
                "this adapter as diffusers"
            )
        for target, pair in sorted(adapter.factors.items(), key=lambda item: item[0].sort_key):
            name = _written_name(target, sdxl)
            a, b = stored(pair)
            tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = a, b
            alpha = alpha_for(pair)
            if np.float32(alpha) == 0:  # readers take 0 for unset
                tensors[f"{name}.lora_up.weight"], alpha = np.zeros_like(b), pair.rank
            ranks.add(pair.rank)
            alphas.add(float(alpha))
            tensors[f"{name}.alpha"] = as_float32(np.array(alpha, np.float64), f"alpha of {target}")
        metadata = {"ss_network_module": "networks.lora"} | provenance(adapter.metadata)
        if len(ranks) == len(alphas) == 1:
            metadata |= {"ss_network_dim": str(ranks.pop()), "ss_network_alpha": str(alphas.pop())}
        if adapter.base_model:
            metadata["ss_sd_model_name"] = adapter.base_model
        save_tensors(tensors, folder / WEIGHTS, metadata=metadata)


class OneTrainer(_Underscored):
    """OneTrainer's files of Flux and SD3: kohya's tails, diffusers' names behind ``lora_transformer_``; read only."""

    name = "onetrainer"

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any(key.startswith("lora_transformer_") and split_key(key) for key in checkpoint.keys)


def is_for_flux(checkpoint: Checkpoint, component: str | None = None) -> bool:
    """Return True if a file in kohya's names is for Flux.1: its T5 is the second text encoder, SD3's the third.

    Raises
    ------
    UnsupportedFormatError
        If the file has a T5 and nothing states which model it belongs to.
    """
    found = [m for key in checkpoint.keys if (m := split_key(key))]
    names = {part: [name for p, name, _ in found if p == part] for part in ("unet", "transformer", "te2", "te3")}
    if has_blocks(names["unet"]) or any(name.startswith("single_transformer_blocks_") for name in names["transformer"]):
        return True
    if not names["te3"] or names["te2"] or names["unet"] or names["transformer"]:
        return False
    stated = says(checkpoint.metadata) or {"text_encoder_2": "flux", "text_encoder_3": "sd3"}.get(component or "")
    if stated is None:
        raise UnsupportedFormatError(
            f"{checkpoint.where}: lora_te3 is the second text encoder of Flux.1 or the third of SD3, and the header "
            "does not name the model; pass component= (text_encoder_2 or text_encoder_3)"
        )
    return stated == "flux"


def sort(checkpoint: Checkpoint, component: str | None = None) -> Parts:
    """Sort the tensors of a file with kohya's names by target, splitting Flux' fused modules."""
    parts, fused = Parts(checkpoint.where), dict[str, dict[str, np.ndarray]]()
    numberings: dict[bool, str] = {}
    for_flux = is_for_flux(checkpoint, component)
    flux = has_blocks(m[1] for key in checkpoint.keys if (m := split_key(key)) and m[0] == "unet")
    for key, value in checkpoint.tensors.items():
        found = split_key(key)
        role = _TAILS.get(found[2]) if found else None
        if found is None or role is None:
            if not parts.ignore(key, value, checkpoint):
                parts.unknown_keys.append(key)
            continue
        part, name, _ = found
        if flux and part == "unet" and is_flux(name):
            fused.setdefault(name, {})[role] = value
            continue
        target = target_of_name(part, name, flux=for_flux)
        if target is not None:
            parts.add(target, role, key, value)
            if target.component == "unet" and (is_sgm(name) or name.startswith(("down_b", "mid_b", "up_b"))):
                numberings[is_sgm(name)] = key
        else:
            parts.unmapped_keys.append(key)
    if len(numberings) > 1:
        raise UnsupportedFormatError(
            f"{checkpoint.where} mixes two naming schemes for its UNet ({numberings[True]} and {numberings[False]}); "
            "split it into one file per scheme"
        )
    parts.require_known()
    if fused:
        require_flux(fused, checkpoint.metadata, checkpoint.where, underscored=True)
    for name, roles in fused.items():
        for path, share in pieces(name, roles, checkpoint.where):
            for role, value in share.items():
                parts.add(Target("transformer", path), role, f"lora_unet_{name}", value)
    return parts


def header_scales(checkpoint: Checkpoint) -> list[Stated]:
    """Return the scale that the trainer recorded in the header, and for rsLoRA also the scale of its alpha tensors."""
    try:
        alpha = float(checkpoint.metadata.get("ss_network_alpha", ""))
        rank = float(checkpoint.metadata.get("ss_network_dim", ""))
    except ValueError:
        return []
    if not (np.isfinite(alpha) and np.isfinite(rank)) or rank <= 0 or alpha == 0:
        return []
    place = "the header (ss_network_alpha over ss_network_dim)"
    folded = '"rs_lora": "true"' in checkpoint.metadata.get("ss_network_args", "").lower()
    return [Stated(place, alpha / rank), *([Stated(place, alpha / rank**0.5)] if folded else [])]


def is_sdxl(adapter: Adapter) -> bool:
    """Return True if an adapter's shapes are SDXL's, whose text embeddings have width 2,048."""
    return any(
        t.component == "unet" and pair.inputs == 2048 and t.module.endswith(("attn2.to_k", "attn2.to_v"))
        for t, pair in adapter.factors.items()
    ) or any(t.component == "text_encoder_2" for t in adapter.factors)


def _written_name(target: Target, sdxl: bool) -> str:
    """Return the name of a target in kohya's spelling; raise if it would not be read back."""
    path = target.module.replace(".", "_")
    parts = {"unet": "unet", "text_encoder": "te1" if sdxl else "te", "text_encoder_2": "te2", "text_encoder_3": "te3"}
    part = parts.get(target.component)
    if part == "unet" and sdxl and unet_path(path) is not None:
        path = sgm_name(target.module)
    if part is None or target_of_name(part, path) != target:
        raise InvalidInputError(
            f"kohya's names cannot express {target}, so it would not be read back; write it as diffusers"
        )
    return f"lora_{part}_{path}"


KOHYA, ONETRAINER = Kohya(), OneTrainer()
