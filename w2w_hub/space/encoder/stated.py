"""What the file of an encoder must state, checked before any tensor is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.checks import is_whole
from ...common.limits import MAX_ENCODER_PIXELS, MAX_ENCODER_WIDTH, MAX_PICTURE_PIXELS
from ...errors import CorruptFileError
from ...store.tensorfile import Entry
from .network import NAMES, shapes

NETWORK = "conv-5"
_FLOATS = ("F16", "F32")


def require_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Raise `CorruptFileError` unless everything besides the tensors is there and of its type."""
    if facts.get("network") != NETWORK:
        raise corrupt(path, f"its network is not {NETWORK}")
    checks: dict[str, Any] = {
        "basis_digest": lambda v: isinstance(v, str), "base_digest": lambda v: v is None or isinstance(v, str),
        "recipe": lambda v: isinstance(v, dict), "evidence": lambda v: isinstance(v, dict),
        "size": lambda v: isinstance(v, list) and len(v) == 2 and all(is_whole(n) and n > 0 for n in v),
        "factor": lambda v: is_whole(v) and v > 0, "rows": lambda v: is_whole(v) and 0 < v < 2**63,
    }  # fmt: skip
    for name, check in checks.items():
        if name not in facts or not check(facts[name]):
            raise corrupt(path, f"{name} is missing or invalid")
    (height, across), factor = facts["size"], facts["factor"]
    if height * across > MAX_PICTURE_PIXELS or height % factor or across % factor:
        raise corrupt(path, f"pictures of {across}x{height} pixels cannot be averaged over {factor}")
    if (height // factor) * (across // factor) > MAX_ENCODER_PIXELS:
        raise corrupt(path, f"its network takes more than {MAX_ENCODER_PIXELS:,} pixels")


def require_shapes(entries: Mapping[str, Entry], size: tuple[int, int], path: Path) -> None:
    """Raise `CorruptFileError` unless the header states the tensors of one network, whose sizes fit each other."""
    missing = [name for name in (*NAMES, "mean", "std") if name not in entries]
    if missing:
        raise corrupt(path, f"it lacks the tensor {missing[0]}")
    width = _length(entries["conv.0.bias"].shape)
    hidden, k = _length(entries["dense.0.bias"].shape), _length(entries["mean"].shape)
    if not 0 < width <= MAX_ENCODER_WIDTH or not hidden or not k:
        raise corrupt(path, f"a network of width {width}, {hidden} hidden values and {k} coefficients")
    wanted = shapes(size, width, hidden, k)
    for name in NAMES:
        if entries[name].shape != wanted[name] or entries[name].dtype not in _FLOATS:
            raise corrupt(path, f"{name} is {entries[name].dtype} {entries[name].shape}, expected {wanted[name]}")
    for name in ("mean", "std"):
        if entries[name].shape != (k,) or entries[name].dtype != "F64":
            raise corrupt(path, f"{name} is {entries[name].dtype} {entries[name].shape}, expected F64 ({k},)")


def stored_bytes(size: Sequence[int], width: int, hidden: int, k: int) -> int:
    """Return the bytes of a file's tensors: float16 weights, float64 mean and deviation; see :func:`.shapes`."""
    return 2 * sum(map(math.prod, shapes(size, width, hidden, k).values())) + 2 * 8 * k


def _length(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else 0


def corrupt(path: Path, reason: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: {reason}; fit the encoder again or fetch it again", path=path)
