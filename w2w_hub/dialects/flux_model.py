"""Widths of Flux.1's modules, which distinguish its adapters from those of models with the same module names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..errors import UnsupportedFormatError
from ..lora.adapter import Target
from ..lora.module_paths import NUMBER
from ..store.paths import short

WIDTH = 3072
TOY = 1024  # of models narrower than this (small ones for tests) only the proportions are checked
BLOCK = re.compile(rf"(?P<kind>double|single)_blocks_(?P<number>{NUMBER})_(?P<name>.+)")
# inputs and outputs of the modules in Black Forest Labs' names, in units of the width
_IN_BLOCK = {
    "attn_qkv": (1, 3), "attn_proj": (1, 1), "mlp_0": (1, 4), "mlp_2": (4, 1), "mod_lin": (1, 6),
    "linear1": (1, 7), "linear2": (5, 1), "modulation_lin": (1, 3), "qkv": (1, 3),
}  # fmt: skip
# outside the blocks; Flux.1's tools append a control picture (128 inputs) or a picture and its mask (384) to the 64
# channels of the latents
_OUTSIDE: dict[str, tuple[tuple[int, ...], int]] = {
    "img_in": ((64, 128, 384), WIDTH), "txt_in": ((4096,), WIDTH), "time_in_in_layer": ((256,), WIDTH),
    "vector_in_in_layer": ((768,), WIDTH), "guidance_in_in_layer": ((256,), WIDTH),
    "final_layer_linear": ((WIDTH,), 64), "final_layer_adaLN_modulation_1": ((WIDTH,), 2 * WIDTH),
} | {f"{name}_in_out_layer": ((WIDTH,), WIDTH) for name in ("time", "vector", "guidance")}  # fmt: skip
# modules that HunyuanVideo has too, with the same underscored names and widths
_SHARED = re.compile(
    rf"double_blocks_{NUMBER}_(?:img|txt)_attn_(?:qkv|proj)|single_blocks_{NUMBER}_linear[12]"
    r"|vector_in_(?:in|out)_layer|final_layer_.+"
)
_HEADER_FIELDS = (
    "modelspec.architecture", "ss_base_model_version", "modelspec.implementation", "ss_network_module",
)  # fmt: skip
_OTHER_MODELS = ("chroma", "hunyuan", "framepack", "wan", "qwen", "sd3", "stablediffusion3", "lumina", "hidream", "ltx")
_STABLE_3 = ("sd3", "stablediffusion3")

# the same in diffusers' names; other models have blocks with these names and proportions too
_SINGLE = {"attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1), "proj_mlp": (1, 4), "proj_out": (5, 1),
           "norm.linear": (1, 3)}  # fmt: skip
_DOUBLE = {
    "norm1.linear": (1, 6), "norm1_context.linear": (1, 6), "ff.net.0.proj": (1, 4), "ff_context.net.0.proj": (1, 4),
    "ff.net.2": (4, 1), "ff_context.net.2": (4, 1),
} | {
    f"attn.{name}": (1, 1)
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
}  # fmt: skip
_AROUND: dict[str, tuple[tuple[int, ...], int]] = {
    "x_embedder": _OUTSIDE["img_in"], "context_embedder": _OUTSIDE["txt_in"],
    "norm_out.linear": ((WIDTH,), 2 * WIDTH), "proj_out": ((WIDTH,), 64),
} | {
    f"time_text_embed.{ours}_embedder.linear_{i}": _OUTSIDE[f"{theirs}_in_{end}_layer"]
    for ours, theirs in (("timestep", "time"), ("text", "vector"), ("guidance", "guidance"))
    for i, end in ((1, "in"), (2, "out"))
}  # fmt: skip
_DIFFUSERS_BLOCK = re.compile(rf"(?P<single>single_)?transformer_blocks\.{NUMBER}\.(?P<name>.+)")


def require_widths(name: str, inputs: int | None, outputs: int | None, where: str) -> None:
    """Raise `UnsupportedFormatError` unless a module's sizes are those of Flux.1.

    Parameters
    ----------
    name : str
        A module of Flux.1 in Black Forest Labs' names, with underscores.
    inputs, outputs : int or None
        None for an unknown size.
    """
    block = BLOCK.fullmatch(name)
    if block is None:
        ins, outs = _OUTSIDE[name]
    else:
        units = _IN_BLOCK[re.sub("^(?:img|txt)_", "", block["name"])]
        ins, outs = (units[0] * WIDTH,), units[1] * WIDTH
    if (inputs is not None and inputs not in ins) or (outputs is not None and outputs != outs):
        raise UnsupportedFormatError(
            f"{where}: {name} has {inputs} inputs and {outputs} outputs, Flux.1 has {ins[0]} and {outs}; adapters of "
            "other models with such names (FLUX.2, HunyuanVideo) are not read"
        )


def require_flux(names: Iterable[str], metadata: Mapping[str, str], where: str, *, underscored: bool) -> None:
    """Raise `UnsupportedFormatError` if the header names another model, or the file may be HunyuanVideo's.

    Parameters
    ----------
    names : iterable of str
        Underscored names of the file's modules, all of which Flux.1 has.
    metadata : mapping
        The metadata in its header.
    underscored : bool
        True if the keys are underscored; dotted ones differ between Flux.1 and HunyuanVideo.
    """
    is_flux = False
    for field in _HEADER_FIELDS:
        text = _bare(metadata.get(field, ""))
        flux = re.search(r"flux([0-9]?)", text)
        if (flux and flux[1] not in ("", "1")) or any(other in text for other in _OTHER_MODELS):
            raise UnsupportedFormatError(
                f"{where}: its header's {field} is {short(metadata[field])}; of the models with such modules only "
                "Flux.1 is read"
            )
        is_flux = is_flux or flux is not None
    if underscored and not is_flux and all(_SHARED.fullmatch(name) for name in names):
        raise UnsupportedFormatError(
            f"{where}: HunyuanVideo has modules of the same names and widths, and the header does not say that this is "
            "for Flux.1 (modelspec.architecture, ss_base_model_version); save it again with a header that does"
        )


def says(metadata: Mapping[str, str]) -> str | None:
    """Return the model with a T5 text encoder that a header names: ``"flux"``, ``"sd3"`` or None."""
    texts = [_bare(metadata.get(field, "")) for field in _HEADER_FIELDS]
    if any(mark in text for text in texts for mark in _STABLE_3):
        return "sd3"
    return "flux" if any("flux" in text for text in texts) else None


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text[:200].lower())


def require_proportions(sizes: Mapping[Target, tuple[int, int]], where: str) -> None:
    """Raise `UnsupportedFormatError` if modules in diffusers' names of Flux.1 do not have its widths.

    Only adapters with Flux.1's single blocks are checked, since many models have double blocks with these names. A
    model narrower than `TOY` is checked for consistent widths only.

    Parameters
    ----------
    sizes : mapping
        (inputs, outputs) of every target.
    """
    mine = {target.module: size for target, size in sizes.items() if target.component == "transformer"}
    units: dict[str, tuple[int, int]] = {}
    for path in mine:
        block = _DIFFUSERS_BLOCK.fullmatch(path)
        if block is None:
            continue
        known = _SINGLE if block["single"] else _DOUBLE
        if block["name"] in known:
            units[path] = known[block["name"]]
        elif block["single"]:
            return  # AuraFlow or FLUX.2
    singles = [path for path in units if path.startswith("single_")]
    if not singles:
        return
    first = singles[0]
    width = mine[first][0] // units[first][0]
    expected: dict[str, tuple[tuple[int, ...], int]] = {
        path: ((ins * width,), outs * width) for path, (ins, outs) in units.items()
    }
    if width >= TOY:
        expected = {path: ((ins * WIDTH,), outs * WIDTH) for path, (ins, outs) in units.items()}
        expected |= {path: sizes for path, sizes in _AROUND.items() if path in mine}
    for path, (ins, outs) in expected.items():
        if mine[path][0] not in ins or mine[path][1] != outs:
            raise UnsupportedFormatError(
                f"{where}: {path} has {mine[path][0]} inputs and {mine[path][1]} outputs, expected {ins[0]} and "
                f"{outs} as in Flux.1; adapters of other models with such names are not read"
            )
