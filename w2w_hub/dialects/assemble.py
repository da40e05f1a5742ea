"""From the tensors of one module to its factors: pairs are whole, shapes multiply, convolutions become matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..common.limits import MAX_MODULE_NUMBERS as MAX_NUMBERS
from ..common.limits import MAX_MODULE_WORK
from ..errors import CorruptFileError, UnsupportedFormatError
from ..lora.adapter import Adapter, LoraFactors, Target
from ..store.tensorfile import short
from .checkpoint import Checkpoint, ReadOptions
from .scales import LoraSettings, Stated, alpha_of, header_settings, settle

# keys of tensors that are no LoRA factors and travel along: textual-inversion vectors, changes of norms and biases
_EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g")
_BUNDLES = ("bundle_emb.", "string_to_param.")
_DIFFERENCES = (".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight", ".set_bias", ".lora_B.bias")
_TOKENS = ("token_embedding.weight", "embed_tokens.weight", "shared.weight")
HALVES = {"A": "lora_A (the down half)", "B": "lora_B (the up half)"}


@dataclass
class Parts:
    """The tensors of a checkpoint by target and role (``"A"``, ``"B"``, ``"alpha"``, ...), and what is left over."""

    where: str
    modules: dict[Target, dict[str, np.ndarray]] = field(default_factory=dict)
    keys: dict[tuple[Target, str], str] = field(default_factory=dict)
    passengers: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    known: str = ""  # whose modules its keys should name, if not those of any model known here

    def add(self, target: Target, role: str, key: str, value: np.ndarray) -> None:
        if (target, role) in self.keys:
            raise UnsupportedFormatError(
                f"{self.where}: {key} is there under another name too ({self.keys[target, role]}); save it again"
            )
        self.modules.setdefault(target, {})[role] = value
        self.keys[target, role] = key

    def add_passenger(self, key: str, value: np.ndarray, checkpoint: Checkpoint) -> bool:
        """Note a key that is not a factor's and travels along; returns whether it is one.

        Raises
        ------
        UnsupportedFormatError
            If it changes a whole weight: leaving it out would leave out a part of the adapter.
        """
        if is_vector(key, checkpoint.metadata):
            self.passengers.append(key)
            return True
        if not (key.endswith(_DIFFERENCES) or is_ordinary(key)):
            return False
        if value.ndim > 1 and not _is_saved(key, checkpoint):
            raise UnsupportedFormatError(
                f"{self.where}: {short(key, 120)} {value.shape} changes or replaces a whole weight beside the low-rank "
                "factors; only such changes of norms and biases may be left out"
            )
        self.passengers.append(key)
        return True

    def require_known(self) -> None:
        """Raise if a key names no known module, or belongs to nothing."""
        if self.unplaced:
            known = self.known or (
                "a UNet of Stable Diffusion, a CLIP or T5 text encoder or a transformer in a spelling read here"
            )
            hint = ""
            if any(key.startswith("diffusion_model.") for key in self.unplaced) and not self.known:
                hint = " (behind diffusion_model. only UNets and Flux.1 are read)"
            raise UnsupportedFormatError(
                f"{self.where}: {len(self.unplaced)} keys name no module of {known}{hint}: {some(self.unplaced)}"
            )
        if self.strange:
            raise UnsupportedFormatError(
                f"{self.where}: {len(self.strange)} keys are not understood: {some(self.strange)}"
            )

    def require_understood(self) -> None:
        """:meth:`require_known`, and raise if no factor was found at all."""
        self.require_known()
        only_alpha = [t for t, roles in self.modules.items() if roles.keys() == {"alpha"}]
        if only_alpha:
            raise CorruptFileError(f"{self.where}: {only_alpha[0]} has an alpha and no factors; fetch it again")
        if not self.modules:
            raise UnsupportedFormatError(f"{self.where} holds no lora_A or lora_B tensor")


def is_vector(key: str, metadata: Mapping[str, str]) -> bool:
    """Whether a key in any dialect is a textual-inversion vector."""
    return metadata.get(key) == "<embed>" or key in _EMBEDDINGS or key.startswith(_BUNDLES)


def is_ordinary(key: str) -> bool:
    """Whether a key is a plain weight of a module, as ``modules_to_save`` puts it beside the factors."""
    module, _, last = key.rpartition(".")
    return bool(module) and last in ("weight", "bias", "scale") and ".lora" not in key and "_lora" not in key


def _is_saved(key: str, checkpoint: Checkpoint) -> bool:
    """Whether a whole weight is one that PEFT's configuration lists in ``modules_to_save``, or has tokens' vectors."""
    if key.endswith(_TOKENS):
        return True
    saved = (checkpoint.config or {}).get("modules_to_save")
    names = [saved] if isinstance(saved, str) else saved if isinstance(saved, list) else []
    path = f".{key.rpartition('.')[0]}."
    return any(isinstance(name, str) and name and f".{name}." in path for name in names)


def require_one_adapter(names: set[str | None], where: str) -> None:
    """Raise if the keys of a file hold factors of more than one named adapter; no name counts as one."""
    if len(names) > 1:
        raise UnsupportedFormatError(f"{where} holds several adapters ({', '.join(sorted(map(str, names)))}); save one")


def factors_of(
    roles: Mapping[str, np.ndarray], target: object, where: str
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """A ``(r, in * kernel)``, B ``(out, r)`` as float32, and the kernel, of one module's tensors.

    A convolution's ``lora_mid`` (its kernel as a factor of its own) is multiplied into A, which is exact.
    """
    for role in ("A", "B"):
        if role not in roles:
            raise CorruptFileError(f"{where}: {target} has no {HALVES[role]}; fetch it again")
    a, b, mid = roles["A"], roles["B"], roles.get("mid")
    for name, tensor in roles.items():
        if tensor.dtype.kind != "f" and name != "alpha":
            raise UnsupportedFormatError(f"{where}: {target} {name} has dtype {tensor.dtype}, expected floating point")
    if a.ndim not in (2, 3, 4) or b.ndim not in (2, a.ndim) or math.prod(b.shape[2:]) != 1:
        raise UnsupportedFormatError(
            f"{where}: {target} has A {a.shape} and B {b.shape}; expected matrices, or a convolution's with the "
            "kernel in A"
        )
    if 0 in a.shape or 0 in b.shape:
        raise CorruptFileError(f"{where}: {target} has rank {a.shape[0]}, A {a.shape} and B {b.shape}; fetch it again")
    kernel = a.shape[2:]
    if mid is not None:
        if mid.ndim < 3 or math.prod(kernel) != 1 or mid.shape[1] != a.shape[0] or mid.shape[0] != b.shape[1]:
            raise CorruptFileError(f"{where}: {target} has lora_mid {mid.shape} between {a.shape} and {b.shape}")
        kernel = mid.shape[2:]
        limited(mid.shape[0] * a.shape[1] * math.prod(kernel), target, where)
        limited_work(mid.size * a.shape[1], target, where)
        down = a.reshape(a.shape[0], -1).astype(np.float64)
        a = np.einsum("ij...,jc->ic...", mid.astype(np.float64), down)
    return matrix(a), matrix(b), tuple(kernel)


def finish(parts: Parts, checkpoint: Checkpoint, options: ReadOptions, dialect: str, default: str) -> Adapter:
    """The adapter of sorted tensors whose scale the header or alpha tensors state, or else is the dialect's 1."""
    where = checkpoint.where
    header = header_settings(checkpoint.metadata, where)
    factors, places = {}, set()
    for target, roles in parts.modules.items():
        a, b, kernel = factors_of(roles, target, where)
        rank = a.shape[0]
        stated: list[Stated | None] = []
        settings: LoraSettings | None = header.get(target.component, header.get(None))
        if settings is not None:
            stated.append(settings.scale(target.module, rank, options.believe))
        if "alpha" in roles:
            alpha, rounding = alpha_of(roles["alpha"], parts.keys[target, "alpha"], where)
            stated.append(Stated("its alpha tensor", alpha / rank, rounding))
            if options.believe is not None and settings is not None:
                stated = stated[1:] if options.believe == "tensors" else stated[:1]
        if options.alpha is not None:
            stated.append(Stated("the alpha that was given", options.alpha / rank))
        settled = settle(stated, Stated(default, 1.0), where, target)
        places.add(settled.place)
        factors[target] = LoraFactors(a, b, settled.scale, kernel)
    return Adapter(
        factors,
        base_model=checkpoint.metadata.get("base_model_name_or_path") or checkpoint.metadata.get("base_model"),
        dialect=dialect,
        passengers=tuple(parts.passengers),
        metadata={"scale_from": sorted(places), "dtypes": dtypes_of(checkpoint)},
    )


def matrix(tensor: np.ndarray) -> np.ndarray:
    """A tensor as a float32 matrix of its first axis against the others; its own memory where that is one already."""
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as that
        return tensor.reshape(tensor.shape[0], -1).astype(np.float32, copy=False)


def limited(numbers: int, target: object, where: str) -> None:
    """Raise before an array of so many numbers is made, if that is more than a real module has."""
    if numbers > MAX_NUMBERS:
        raise UnsupportedFormatError(f"{where}: {target} would have {numbers:,} numbers, the limit is {MAX_NUMBERS:,}")


def limited_work(multiplications: int, target: object, where: str) -> None:
    """Raise before factors are multiplied out, if that takes more steps than for a real module."""
    if multiplications > MAX_MODULE_WORK:
        raise UnsupportedFormatError(
            f"{where}: {target} would take {multiplications:,} multiplications, the limit is {MAX_MODULE_WORK:,}"
        )


def dtypes_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Number of tensors of each dtype."""
    counts: dict[str, int] = {}
    for dtype in checkpoint.dtypes.values():
        counts[dtype] = counts.get(dtype, 0) + 1
    return dict(sorted(counts.items()))


def some(names: list[str], shown: int = 3) -> str:
    """The first names of a list, shortened to one line."""
    return ", ".join(short(n, 120) for n in names[:shown]) + (
        f" and {len(names) - shown} more" if len(names) > shown else ""
    )
