"""Flux.1 in Black Forest Labs' names: q, k, v (and the first MLP layer) are fused, which diffusers splits.

The parts of a fused module share its A, and its B is split by rows, which is exact. Such files come from ai-toolkit
(dotted), kohya's trainer (underscored, read in :mod:`.kohya`) and XLabs (attention processors).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..errors import UnsupportedFormatError
from ..lora.adapter import Adapter, Target
from ..lora.module_paths import NUMBER, canonical_path
from .assemble import Parts, build_dotted
from .checkpoint import Checkpoint, ReadOptions
from .dialect import Dialect
from .flux_model import BLOCK, WIDTH, require_flux, require_widths
from .names import ROLE, factor_key

_DOUBLE, _SINGLE = 19, 38  # blocks of Flux.1; other models with such names have more
_QKV = {
    "img": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_IN_DOUBLE = {
    "img_attn_proj": "attn.to_out.0", "txt_attn_proj": "attn.to_add_out",
    "img_mlp_0": "ff.net.0.proj", "img_mlp_2": "ff.net.2",
    "txt_mlp_0": "ff_context.net.0.proj", "txt_mlp_2": "ff_context.net.2",
    "img_mod_lin": "norm1.linear", "txt_mod_lin": "norm1_context.linear",
}  # fmt: skip
_IN_SINGLE = {"linear2": "proj_out", "modulation_lin": "norm.linear"}
_OUTSIDE = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer_linear": "proj_out"} | {
    f"{theirs}_in_{end}_layer": f"time_text_embed.{ours}_embedder.linear_{i}"
    for theirs, ours in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance"))
    for i, end in ((1, "in"), (2, "out"))
}
_LAST = "final_layer_adaLN_modulation_1"
_DOTTED_IN_BLOCK = {
    re.sub(r"_(qkv|proj|0|2|lin)$", r".\1", name): name
    for name in (*_IN_DOUBLE, *_IN_SINGLE, "linear1", "img_attn_qkv", "txt_attn_qkv")
}
_DOTTED_OUTSIDE = {
    re.sub(r"^(time_in|vector_in|guidance_in|final_layer)_", r"\1.", name).replace("modulation_1", "modulation.1"): name
    for name in (*_OUTSIDE, _LAST)
}
_DOTTED_BLOCK = re.compile(rf"(?P<kind>double|single)_blocks\.(?P<number>{NUMBER})\.(?P<name>.+)")
_PREFIX = re.compile(r"^(?:model\.)?(?:diffusion_model\.|transformer\.)?")
_ANY_BLOCK = re.compile(rf"^(?:model\.)?(?:diffusion_model\.|transformer\.)?(?:double|single)_blocks\.{NUMBER}\.")
CLIP = "text_encoders.clip_l.transformer."
_XLABS = re.compile(
    rf"^(?:diffusion_model\.)?(?P<kind>double|single)_blocks\.(?P<number>{NUMBER})\.processor\."
    r"(?P<name>qkv|proj)_lora(?P<stream>[12]?)\.(?P<half>down|up)\.weight$"
)


def is_flux(name: str) -> bool:
    """Return True if an underscored name is a module of Flux.1 in Black Forest Labs' names."""
    found = BLOCK.fullmatch(name)
    if found is None:
        return name in _OUTSIDE or name == _LAST
    if found["kind"] == "double":
        known = (*_IN_DOUBLE, "img_attn_qkv", "txt_attn_qkv")
        return found["name"] in known and int(found["number"]) < _DOUBLE
    return found["name"] in (*_IN_SINGLE, "linear1", "qkv") and int(found["number"]) < _SINGLE


def bare_name(module: str) -> str:
    """Return the underscored name of a dotted module path, without the prefix of its model.

    A path that Flux.1 does not have stays dotted, so that it never equals one of Flux.1's names: HunyuanVideo has
    ``img_attn_qkv`` where Flux.1 has ``img_attn.qkv``.
    """
    path = _PREFIX.sub("", module)
    block = _DOTTED_BLOCK.fullmatch(path)
    if block is None:
        return _DOTTED_OUTSIDE.get(path, path if "." in path else f".{path}")
    name = _DOTTED_IN_BLOCK.get(block["name"])
    return path if name is None else f"{block['kind']}_blocks_{block['number']}_{name}"


def has_blocks(names: Iterable[str]) -> bool:
    """Return True if any underscored name is a block of Flux, so that the other names are Flux modules too."""
    return any(BLOCK.fullmatch(name) for name in names)


def pieces(name: str, roles: Mapping[str, np.ndarray], where: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the diffusers modules of a Flux module (underscored, see :func:`is_flux`), each with its tensors."""
    a, b = roles.get("A"), roles.get("B")
    require_widths(
        name,
        a.shape[1] if a is not None and a.ndim >= 2 else None,
        b.shape[0] if b is not None and b.ndim >= 2 else None,
        where,
    )
    found = BLOCK.fullmatch(name)
    if found is None:
        if name in _OUTSIDE:
            yield _OUTSIDE[name], dict(roles)
            return
        # diffusers has scale before shift here
        swapped = {} if b is None or b.ndim < 2 else {"B": np.roll(b, b.shape[0] // 2, axis=0)}
        yield "norm_out.linear", dict(roles) | swapped
        return
    blocks = f"{'transformer' if found['kind'] == 'double' else 'single_transformer'}_blocks.{found['number']}"
    single = _IN_DOUBLE if found["kind"] == "double" else _IN_SINGLE
    if found["name"] in single:
        yield f"{blocks}.{single[found['name']]}", dict(roles)
        return
    names: tuple[str, ...] = _QKV["txt" if found["name"].startswith("txt") else "img"]
    if found["name"] == "linear1":
        names = (*names, "proj_mlp")
    if a is None or b is None or a.ndim < 2 or b.ndim < 2:
        yield f"{blocks}.{names[0]}", dict(roles)  # not a pair, which `factors_of` refuses
        return
    for i, part in enumerate(names):
        end = (i + 1) * WIDTH if i < 3 else len(b)
        yield f"{blocks}.{part}", dict(roles) | {"B": b[i * WIDTH : end]}


class _Fused(Dialect):
    """Base of both dialects: sorts keys by fused module, then splits the modules."""

    @abstractmethod
    def _sorted_key(self, key: str) -> tuple[str, str] | None:
        """Return the underscored module and the role that a key names, or None."""

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        parts = Parts(
            checkpoint.where,
            known="Flux.1 in Black Forest Labs' names, so this is not an adapter of Flux.1 (FLUX.2, Chroma, "
            "HunyuanVideo and others have such blocks too)",
        )
        fused: dict[str, dict[str, np.ndarray]] = {}
        keys: dict[tuple[str, str], str] = {}
        for key, value in checkpoint.tensors.items():
            beside = factor_key(key) if key.startswith(CLIP) else None
            if beside:
                path = canonical_path("text_encoder", beside.module.removeprefix(CLIP))
                parts.add(Target("text_encoder", path), beside.role, key, value)
            elif (found := self._sorted_key(key)) and is_flux(found[0]):
                if found in keys:
                    raise UnsupportedFormatError(
                        f"{checkpoint.where}: {key} and {keys[found]} are one tensor; save it again"
                    )
                keys[found] = key
                fused.setdefault(found[0], {})[found[1]] = value
            elif not parts.ignore(key, value, checkpoint):
                (parts.unknown_keys if found is None else parts.unmapped_keys).append(key)
        parts.require_known()
        require_flux(fused, checkpoint.metadata, checkpoint.where, underscored=False)
        for name, roles in fused.items():
            for path, share in pieces(name, roles, checkpoint.where):
                for role, value in share.items():
                    parts.add(Target("transformer", path), role, keys[name, role], value)
        parts.require_understood()
        return build_dotted(parts, checkpoint, options, self.name, "the dialect's default: nothing states it")


class Bfl(_Fused):
    """``diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight``, as ai-toolkit writes it; prefix optional."""

    name = "flux-bfl"

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any(
            "_blocks." in key and ".processor." not in key and _ANY_BLOCK.match(key) and factor_key(key)
            for key in checkpoint.keys
        )

    def _sorted_key(self, key: str) -> tuple[str, str] | None:
        found = factor_key(key)
        if found:
            module, role = found.module, found.role
        elif key.endswith(".alpha"):
            module, role = key.removesuffix(".alpha"), "alpha"
        else:
            return None
        return bare_name(module), role


class Xlabs(_Fused):
    """``double_blocks.0.processor.qkv_lora1.down.weight``: stream 1 is the image's, 2 the text's."""

    name = "flux-xlabs"
    rank_keys = re.compile(rf"{Dialect.rank_keys.pattern}|_lora[12]?\.down")

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any(".processor." in key and _XLABS.match(key) for key in checkpoint.keys)

    def _sorted_key(self, key: str) -> tuple[str, str] | None:
        found = _XLABS.match(key)
        if found is None or (found["kind"] == "double") != bool(found["stream"]):
            return None
        stream = {"1": "img_attn_", "2": "txt_attn_"}.get(found["stream"], "")
        name = found["name"] if stream else {"qkv": "qkv", "proj": "linear2"}[found["name"]]
        return f"{found['kind']}_blocks_{found['number']}_{stream}{name}", ROLE[found["half"]]


BFL, XLABS = Bfl(), Xlabs()
