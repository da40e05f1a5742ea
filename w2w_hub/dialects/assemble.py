"""Build an adapter from sorted tensors: the read loop that all dialects with factor pairs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..common.limits import MAX_MODULE_NUMBERS as MAX_NUMBERS
from ..common.limits import MAX_MODULE_WORK
from ..common.text import counted
from ..errors import CorruptFileError, UnsupportedFormatError
from ..lora.adapter import Adapter, LoraFactors, Target
from ..store.tensorfile import short
from .checkpoint import Checkpoint, ReadOptions
from .scales import Stated, agree_on_scale, alpha_of, header_settings, raise_unconfirmed

# keys of tensors that are not LoRA factors and may be ignored: textual-inversion vectors, changes of norms and biases
_EMBEDDINGS = ("emb_params", "string_to_param", "clip_l", "clip_g")
_BUNDLES = ("bundle_emb.", "string_to_param.")
_DIFFERENCES = (".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight", ".set_bias", ".lora_B.bias")
_TOKENS = ("token_embedding.weight", "embed_tokens.weight", "shared.weight")
StatedScales = Callable[[Target, int], list[Stated]]  # from a target and its rank
HALVES = {"A": "lora_A (the down half)", "B": "lora_B (the up half)"}


@dataclass
class Parts:
    """The tensors of a checkpoint by target and role (``"A"``, ``"B"``, ``"alpha"``, ...), and the other keys."""

    where: str
    modules: dict[Target, dict[str, np.ndarray]] = field(default_factory=dict)
    keys: dict[tuple[Target, str], str] = field(default_factory=dict)
    ignored_keys: list[str] = field(default_factory=list)
    unknown_keys: list[str] = field(default_factory=list)
    unmapped_keys: list[str] = field(default_factory=list)
    known: str = ""  # the model that the keys must name, for dialects of one model

    def add(self, target: Target, role: str, key: str, value: np.ndarray) -> None:
        if (target, role) in self.keys:
            raise UnsupportedFormatError(
                f"{self.where}: {key} and {self.keys[target, role]} are the same tensor; save it again"
            )
        self.modules.setdefault(target, {})[role] = value
        self.keys[target, role] = key

    def ignore(self, key: str, value: np.ndarray, checkpoint: Checkpoint) -> bool:
        """Record a key that is not a factor and may be ignored; return False for any other key.

        Raises
        ------
        UnsupportedFormatError
            If the key changes a whole weight: ignoring it would lose part of the adapter.
        """
        if is_vector(key, checkpoint.metadata):
            self.ignored_keys.append(key)
            return True
        if not (key.endswith(_DIFFERENCES) or is_ordinary(key)):
            return False
        if value.ndim > 1 and not _is_saved(key, checkpoint):
            raise UnsupportedFormatError(
                f"{self.where}: {short(key, 120)} {value.shape} changes or replaces a whole weight beside the low-rank "
                "factors; only changes of norms and biases may be ignored"
            )
        self.ignored_keys.append(key)
        return True

    def require_known(self) -> None:
        """Raise `UnsupportedFormatError` if a key names an unknown module or has an unknown form."""
        if self.unmapped_keys:
            known = self.known or ("a Stable Diffusion UNet, a CLIP or T5 text encoder, or a supported transformer")
            hint = ""
            if any(key.startswith("diffusion_model.") for key in self.unmapped_keys) and not self.known:
                hint = " (with the prefix diffusion_model. only UNets and Flux.1 are read)"
            raise UnsupportedFormatError(
                f"{self.where}: {counted(len(self.unmapped_keys), 'key names', 'keys name')} no module of "
                f"{known}{hint}: {preview(self.unmapped_keys)}"
            )
        if self.unknown_keys:
            raise UnsupportedFormatError(
                f"{self.where}: {counted(len(self.unknown_keys), 'key is', 'keys are')} not understood: "
                f"{preview(self.unknown_keys)}"
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
    """Return True if a key is that of a textual-inversion vector, in any dialect."""
    return metadata.get(key) == "<embed>" or key in _EMBEDDINGS or key.startswith(_BUNDLES)


def is_ordinary(key: str) -> bool:
    """Return True if a key is that of a plain weight, such as ``modules_to_save`` adds beside the factors."""
    module, _, last = key.rpartition(".")
    return bool(module) and last in ("weight", "bias", "scale") and ".lora" not in key and "_lora" not in key


def _is_saved(key: str, checkpoint: Checkpoint) -> bool:
    """Return True for token embeddings and for weights in ``modules_to_save`` of PEFT's configuration."""
    if key.endswith(_TOKENS):
        return True
    saved = (checkpoint.config or {}).get("modules_to_save")
    names = [saved] if isinstance(saved, str) else saved if isinstance(saved, list) else []
    path = f".{key.rpartition('.')[0]}."
    return any(isinstance(name, str) and name and f".{name}." in path for name in names)


def require_one_adapter(names: set[str | None], where: str) -> None:
    """Raise if the keys hold factors of more than one adapter name; unnamed factors count as one name."""
    if len(names) > 1:
        raise UnsupportedFormatError(
            f"{where} holds several adapters ({', '.join(sorted(map(str, names)))}); save each in its own file"
        )


def factors_of(
    roles: Mapping[str, np.ndarray], target: object, where: str
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return A ``(r, in * kernel)`` and B ``(out, r)`` as float32, and the kernel, of one module's tensors.

    A convolution's ``lora_mid`` (its kernel as a separate factor) is multiplied into A, which is exact.
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
            f"{where}: {target} has A {a.shape} and B {b.shape}; expected matrices, or a convolution with its "
            "kernel in A"
        )
    if 0 in a.shape or 0 in b.shape:
        raise CorruptFileError(f"{where}: {target} has rank {a.shape[0]}, A {a.shape} and B {b.shape}; fetch it again")
    kernel = a.shape[2:]
    if mid is not None:
        if mid.ndim < 3 or math.prod(kernel) != 1 or mid.shape[1] != a.shape[0] or mid.shape[0] != b.shape[1]:
            raise CorruptFileError(f"{where}: {target} has lora_mid {mid.shape} between {a.shape} and {b.shape}")
        kernel = mid.shape[2:]
        require_size(mid.shape[0] * a.shape[1] * math.prod(kernel), target, where)
        require_work(mid.size * a.shape[1], target, where)
        down = a.reshape(a.shape[0], -1).astype(np.float64)
        a = np.einsum("ij...,jc->ic...", mid.astype(np.float64), down)
    return matrix(a), matrix(b), tuple(kernel)


def header_scales(checkpoint: Checkpoint, options: ReadOptions) -> StatedScales:
    """Return a function to the scales that diffusers' configuration in the header states for a target and rank."""
    header = header_settings(checkpoint.metadata, checkpoint.where)

    def stated(target: Target, rank: int) -> list[Stated]:
        settings = header.get(target.component, header.get(None))
        return [] if settings is None else [settings.scale(target.module, rank, options.trust)]

    return stated


def build_adapter(
    parts: Parts,
    checkpoint: Checkpoint,
    options: ReadOptions,
    dialect: str,
    default: str,
    *,
    configured: StatedScales | None = None,
    recorded: Sequence[Stated] = (),
    zero_alpha_is_unset: bool = False,
    base_model: str | None = None,
) -> Adapter:
    """Build an adapter from sorted tensors: factors per module, with the scale that all places agree on.

    Parameters
    ----------
    default : str
        Description of the dialect's default scale, 1, for modules whose scale nothing states.
    configured : callable, optional
        Maps a target and its rank to the scales that configurations state.
    recorded : sequence of Stated
        Scales that the trainer recorded for the whole file: at least one module must have one of them.
    zero_alpha_is_unset : bool
        Treat an alpha tensor of 0 as absent.

    Raises
    ------
    ScaleConflictError
        If places disagree about a scale and `options.trust` does not say which holds.
    """
    where = checkpoint.where
    factors, places = dict[Target, LoraFactors](), set[str]()
    agreed = not recorded
    for target, roles in parts.modules.items():
        a, b, kernel = factors_of(roles, target, where)
        rank = a.shape[0]
        by_config = configured(target, rank) if configured is not None else []
        if recorded and options.trust == "config":
            by_config = [recorded[0]]
        by_tensor: list[Stated] = []
        if "alpha" in roles:
            alpha, rounding = alpha_of(roles["alpha"], parts.keys[target, "alpha"], where)
            if alpha != 0 or not zero_alpha_is_unset:
                by_tensor = [Stated("its alpha tensor", alpha / rank, rounding)]
        if options.trust is not None and by_config and by_tensor:
            by_config, by_tensor = (by_config, []) if options.trust == "config" else ([], by_tensor)
        given = [] if options.alpha is None else [Stated("the argument alpha", options.alpha / rank)]
        scale = agree_on_scale([*by_config, *by_tensor, *given], Stated(default, 1.0), where, target)
        agreed = agreed or any(scale.agrees(other) for other in recorded)
        places.add(scale.place)
        factors[target] = LoraFactors(a, b, scale.scale, kernel)
    if not agreed and options.trust is None:
        raise_unconfirmed(recorded[0], {pair.scale for pair in factors.values()}, where)
    return Adapter(
        factors,
        base_model=base_model,
        dialect=dialect,
        ignored_keys=tuple(parts.ignored_keys),
        metadata={"scale_from": sorted(places), "dtypes": dtypes_of(checkpoint)}
        | ({"scale_default": default} if default in places else {}),
    )


def build_dotted(parts: Parts, checkpoint: Checkpoint, options: ReadOptions, dialect: str, default: str) -> Adapter:
    """Call :func:`build_adapter` for files whose configuration, if any, is diffusers' in the header."""
    return build_adapter(
        parts, checkpoint, options, dialect, default,
        configured=header_scales(checkpoint, options),
        base_model=checkpoint.metadata.get("base_model_name_or_path") or checkpoint.metadata.get("base_model"),
    )  # fmt: skip


def matrix(tensor: np.ndarray) -> np.ndarray:
    """Flatten a tensor to a float32 matrix ``(first axis, all others)``; a view where possible."""
    with np.errstate(over="ignore"):  # values that do not fit become infinite, and are refused later
        return tensor.reshape(tensor.shape[0], -1).astype(np.float32, copy=False)


def require_size(numbers: int, target: object, where: str) -> None:
    """Raise if an array about to be allocated is larger than any real module."""
    if numbers > MAX_NUMBERS:
        raise UnsupportedFormatError(f"{where}: {target} would have {numbers:,} numbers, the limit is {MAX_NUMBERS:,}")


def require_work(multiplications: int, target: object, where: str) -> None:
    """Raise if a product about to be computed takes more multiplications than any real module."""
    if multiplications > MAX_MODULE_WORK:
        raise UnsupportedFormatError(
            f"{where}: {target} would take {multiplications:,} multiplications, the limit is {MAX_MODULE_WORK:,}"
        )


def dtypes_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Count the tensors of each dtype."""
    counts: dict[str, int] = {}
    for dtype in checkpoint.dtypes.values():
        counts[dtype] = counts.get(dtype, 0) + 1
    return dict(sorted(counts.items()))


def preview(names: list[str], shown: int = 3) -> str:
    """Return the first names of a list, abbreviated to one line."""
    return ", ".join(short(n, 120) for n in names[:shown]) + (
        f" and {len(names) - shown} more" if len(names) > shown else ""
    )
