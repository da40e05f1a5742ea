"""Determine a module's scale from all places that state it; a conflict is an error.

A checkpoint may state it in ``adapter_config.json``, in its header (``lora_adapter_metadata`` of diffusers and PEFT,
``ss_network_alpha`` of kohya's trainer) and in tensors named ``<module>.alpha``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..errors import CorruptFileError, ScaleConflictError, UnsupportedFormatError
from ..lora.adapter import COMPONENTS
from ..store.paths import short
from .options import article, parse_object, require_plain
from .patterns import PatternTable

HEADER_KEY = "lora_adapter_metadata"


@dataclass(frozen=True)
class Stated:
    """A scale and the place that states it; `tolerance` is the relative rounding error of its storage."""

    place: str
    scale: float
    tolerance: float = 1e-6

    def agrees(self, other: Stated) -> bool:
        return math.isclose(self.scale, other.scale, rel_tol=max(self.tolerance, other.tolerance))


def agree_on_scale(stated: Sequence[Stated], default: Stated, where: str, module: object) -> Stated:
    """Return the first of the stated scales, which must all agree; the default if there are none.

    Raises
    ------
    ScaleConflictError
        If two places disagree; the message names both.
    """
    if not stated:
        return default
    found = stated[0]
    for other in stated[1:]:
        if not found.agrees(other):
            raise ScaleConflictError(
                f"{where}: {module} has scale {found.scale:g} in {found.place} and {other.scale:g} in "
                f"{other.place}; save it again with the right one, or choose which to trust "
                "(trust='tensors' or 'config', --trust)"
            )
    return found


def raise_unconfirmed(recorded: Stated, scales: set[float], where: str) -> NoReturn:
    """Raise `ScaleConflictError`: no module has the scale that was recorded for the whole file."""
    raise ScaleConflictError(
        f"{where}: {recorded.place} states scale {recorded.scale:g}, but its tensors imply "
        f"{', '.join(f'{scale:g}' for scale in sorted(scales)[:3])}; choose which to trust "
        "(trust='tensors' or 'config', --trust)"
    )


def alpha_of(tensor: np.ndarray, key: str, where: str) -> tuple[float, float]:
    """Return the value of an alpha tensor, and the relative rounding error of its dtype."""
    if tensor.size != 1:
        raise CorruptFileError(f"{where}: {key} has shape {tensor.shape}, expected one number")
    value = float(tensor.reshape(()))
    if not math.isfinite(value):
        raise CorruptFileError(f"{where}: {key} is {value}, expected a number; fetch it again")
    narrow = tensor.dtype == np.float16 or (tensor.dtype == np.float32 and tensor.view(np.uint32) & 0xFFFF == 0)
    return value, 4e-3 if narrow else 1e-6  # bfloat16 has three decimal digits


class LoraSettings:
    """Rank and alpha in a PEFT configuration, from ``adapter_config.json`` or from the header."""

    def __init__(self, data: dict[str, Any], place: str, where: str):
        self.data, self.place, self.where = data, place, where
        kind = data.get("peft_type", "LORA" if place.startswith("the header") else None)
        if kind != "LORA":
            what = article(kind) if isinstance(kind, str) else f"a {kind}"
            raise UnsupportedFormatError(f"{where}: {place} is {what[:80]} adapter; only LORA is read")
        require_plain(data, f"{where}: {place}")
        for key in ("r", "lora_alpha"):
            if not _is_number(data.get(key)):
                raise CorruptFileError(
                    f"{where}: {place} has no number for {key}, which the scale (lora_alpha / r) needs; add it"
                )
        if data.get("use_rslora") not in (None, True, False):
            raise CorruptFileError(
                f"{where}: {place} has use_rslora {short(data['use_rslora'])}, expected true or false"
            )
        self._ranks, self._alphas = (self._table(key) for key in ("rank_pattern", "alpha_pattern"))

    def _table(self, key: str) -> PatternTable | None:
        values = self.data.get(key) or {}
        if not isinstance(values, dict) or not all(_is_number(value) for value in values.values()):
            raise CorruptFileError(
                f"{self.where}: {self.place} has {key} {short(values)}; expected module names and numbers"
            )
        return PatternTable(values, f"{self.where}: {key} in {self.place}") if values else None

    def rank(self, module: str) -> float:
        result: float = self.data["r"] if self._ranks is None else self._ranks.value(module, self.data["r"])
        return result

    def scale(self, module: str, rank: int, trust: str | None) -> Stated:
        """Return the scale of a module with tensors of the given rank.

        Raises
        ------
        CorruptFileError
            If the configuration states another rank and `trust` is None.
        """
        alpha = self.data["lora_alpha"]
        if self._alphas is not None:
            alpha = self._alphas.value(module, alpha)
        stated = self.rank(module)
        if stated != rank:
            if trust is None:
                raise CorruptFileError(
                    f"{self.where}: {module} has rank {rank}, {self.place} states {stated}; fetch it again, or "
                    "choose which to trust (trust='tensors' or 'config', --trust)"
                )
            if trust == "config":
                if not float(stated).is_integer():
                    raise CorruptFileError(
                        f"{self.where}: {self.place} states rank {stated}; trust the tensors instead"
                    )
                rank = int(stated)
        if rank < 1:
            raise CorruptFileError(f"{self.where}: {module} has rank {rank}; fetch it again")
        return Stated(self.place, float(alpha) / (rank**0.5 if self.data.get("use_rslora") else rank))


def header_settings(metadata: dict[str, str], where: str) -> dict[str | None, LoraSettings]:
    """Return the configurations in the header by component; the key is None for one without a component."""
    raw = metadata.get(HEADER_KEY)
    if raw is None:
        return {}
    place = f"the header's {HEADER_KEY}"
    data = parse_object(raw, f"{where}: {place}")
    found: dict[str | None, LoraSettings] = {}
    for component in COMPONENTS:
        mine = {k.removeprefix(f"{component}."): v for k, v in data.items() if k.startswith(f"{component}.")}
        if mine:
            found[component] = LoraSettings(mine, f"{place} for {component}", where)
    if "r" in data or "lora_alpha" in data:
        mine = {k: v for k, v in data.items() if k.partition(".")[0] not in COMPONENTS}
        found[None] = LoraSettings(mine, place, where)
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63  # JSON's integers have no limit
    return isinstance(value, float)
