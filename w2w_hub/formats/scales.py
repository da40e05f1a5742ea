"""The scale of a module from every place that states it; two that disagree are an error, none is the default.

A checkpoint may state it in ``adapter_config.json``, in its header (``lora_adapter_metadata`` of diffusers and PEFT,
``ss_network_alpha`` of kohya's trainer) and in tensors named ``<module>.alpha``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..adapter import COMPONENTS
from ..errors import CorruptFileError, ScaleConflictError, UnsupportedFormatError
from ..tensorfile import short

HEADER_KEY = "lora_adapter_metadata"
# options under which the weight's change is not scale * B @ A on the stock base model, and why
_REFUSED = {
    "use_dora": "its magnitudes rescale the base weights",
    "fan_in_fan_out": "its factors belong to transposed weights",
    "use_qalora": "its A is pooled over groups of inputs",
    "layer_replication": "it repeats layers of the base model",
    "alora_invocation_tokens": "it acts only after certain tokens",
}
# of a regular expression for modules; PEFT's own are names
_REPEATS, _LONGEST = 4, 500
# initialisations that leave the base weights alone; PiSSA, OLoRA and others change them
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Stated:
    """A scale and the place that states it; `tolerance` is the relative rounding of how it is stored there."""

    place: str
    scale: float
    tolerance: float = 1e-6

    def agrees(self, other: Stated) -> bool:
        return math.isclose(self.scale, other.scale, rel_tol=max(self.tolerance, other.tolerance))


def settle(stated: Iterable[Stated | None], default: Stated, where: str, module: object) -> Stated:
    """The scale that all places agree on; the first of them, or the default if none states it.

    Raises
    ------
    ScaleConflictError
        If two disagree, naming both.
    """
    found = [s for s in stated if s is not None]
    if not found:
        return default
    for other in found[1:]:
        if not found[0].agrees(other):
            raise ScaleConflictError(
                f"{where}: {module} has scale {found[0].scale:g} by {found[0].place} and {other.scale:g} by "
                f"{other.place}; find out which is right and save it again, or say which to believe "
                "(believe='tensors' or 'config', --believe)"
            )
    return found[0]


def alpha_of(tensor: np.ndarray, key: str, where: str) -> tuple[float, float]:
    """The number in an alpha tensor, and the relative rounding of its dtype."""
    if tensor.size != 1:
        raise CorruptFileError(f"{where}: {key} has shape {tensor.shape}, expected one number")
    value = float(tensor.reshape(()))
    if not math.isfinite(value):
        raise CorruptFileError(f"{where}: {key} is {value}, expected a number; fetch it again")
    narrow = tensor.dtype == np.float16 or (tensor.dtype == np.float32 and tensor.view(np.uint32) & 0xFFFF == 0)
    return value, 4e-3 if narrow else 1e-6  # bfloat16 has three digits


class LoraSettings:
    """Rank and alpha as a PEFT configuration states them, also the one that diffusers puts into a file's header."""

    def __init__(self, data: dict[str, Any], place: str, where: str):
        self.data, self.place, self.where = data, place, where
        kind = data.get("peft_type", "LORA" if place.startswith("the header") else None)
        if kind != "LORA":
            raise UnsupportedFormatError(f"{where}: {place} is a {kind} adapter; only LORA is read")
        for option, reason in _REFUSED.items():
            if data.get(option):
                raise UnsupportedFormatError(f"{where}: {place} sets {option}: {reason}, so it is no low-rank sum")
        start = data.get("init_lora_weights")
        if start not in _PLAIN_STARTS:
            raise UnsupportedFormatError(
                f"{where}: {place} has init_lora_weights {start!r}, which changes the base weights; "
                "convert it with PEFT's path_initial_model_for_weight_conversion"
            )
        for key in ("r", "lora_alpha"):
            if not _is_number(data.get(key)):
                raise CorruptFileError(f"{where}: {place} does not state {key}; without it the scale is unknown")
        for key in ("rank_pattern", "alpha_pattern"):
            pattern = data.get(key) or {}
            if not isinstance(pattern, dict) or not all(_is_number(value) for value in pattern.values()):
                raise CorruptFileError(f"{where}: {place} has {key} {pattern!r}; expected module names and numbers")
            try:
                for name in pattern:
                    re.compile(rf"(.*\.)?({name})$")
            except (re.error, RecursionError, OverflowError) as error:
                raise CorruptFileError(
                    f"{where}: {place} has an unreadable pattern {short(name)!r}: {error}"
                ) from error
            slow = next((name for name in pattern if not _is_quick(name)), None)
            if slow is not None:
                raise UnsupportedFormatError(
                    f"{where}: {place} has a pattern that could take for ever to match, {short(slow)!r}; "
                    f"name the modules, or use at most {_REPEATS} repeats and groups, and repeat no group"
                )
        self._plain = not (data.get("rank_pattern") or data.get("alpha_pattern"))

    def rank(self, module: str) -> float:
        return self.data["r"] if self._plain else pattern_value(self.data.get("rank_pattern"), module, self.data["r"])

    def scale(self, module: str, rank: int, believe: str | None) -> Stated:
        """The scale of a module whose tensors have this rank.

        Raises
        ------
        CorruptFileError
            If the configuration states another rank and the caller did not say which to believe.
        """
        alpha = self.data["lora_alpha"]
        if not self._plain:
            alpha = pattern_value(self.data.get("alpha_pattern"), module, alpha)
        stated = self.rank(module)
        if stated != rank:
            if believe is None:
                raise CorruptFileError(
                    f"{self.where}: {module} has rank {rank}, {self.place} states {stated}; fetch it again, or say "
                    "which to believe (believe='tensors' or 'config', --believe)"
                )
            if believe == "config":
                if not float(stated).is_integer():
                    raise CorruptFileError(
                        f"{self.where}: {self.place} states rank {stated}; believe the tensors instead"
                    )
                rank = int(stated)
        if rank < 1:
            raise CorruptFileError(f"{self.where}: {module} has rank {rank}; fetch it again")
        return Stated(self.place, float(alpha) / (rank**0.5 if self.data.get("use_rslora") else rank))


def _is_quick(pattern: str) -> bool:
    """Whether a regular expression that a file chose has few repeats and choices, so little to try again."""
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "c", re.sub(r"\\.", "c", pattern))  # without escapes and character classes
    bare = re.sub(r"\(\?(?::|=|!|<=|<!|P<\w+>)", "(", bare)
    counts = (len(re.findall(r"[*+?{]\??", bare)), bare.count("("))
    return len(pattern) <= _LONGEST and max(counts) <= _REPEATS and not re.search(r"\)[*+{]", bare)


def pattern_value(pattern: dict[str, Any] | None, module: str, default: float) -> float:
    """PEFT's rule for ``alpha_pattern`` and ``rank_pattern``: a key matches a whole module-path suffix."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def header_settings(metadata: dict[str, str], where: str) -> dict[str | None, LoraSettings]:
    """The configurations in a file's header, by component; under None the one that names no component."""
    raw = metadata.get(HEADER_KEY)
    if raw is None:
        return {}
    place = f"the header's {HEADER_KEY}"
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{where}: {place} is no JSON ({error}); fetch it again") from error
    if not isinstance(data, dict):
        raise CorruptFileError(f"{where}: {place} is no JSON object; fetch it again")
    found: dict[str | None, LoraSettings] = {}
    for component in COMPONENTS:
        mine = {k.removeprefix(f"{component}."): v for k, v in data.items() if k.startswith(f"{component}.")}
        if mine:
            found[component] = LoraSettings(mine, f"{place} for {component}", where)
    if "r" in data or "lora_alpha" in data:
        found[None] = LoraSettings(data, place, where)
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63  # JSON's integers have no limit
    return isinstance(value, float)
