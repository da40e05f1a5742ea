"""An adapter in memory: per target module a pair A, B and a scale, so that dW = scale * B @ A."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from typing import Any, Protocol

import numpy as np

from ..common.checks import is_whole
from ..common.deprecated import renamed_keywords, warn_renamed
from ..common.display import Displayed, listed
from ..common.equality import ByValue
from ..errors import InvalidInputError

# rank, inputs, outputs and, for a convolution, its kernel
Size = tuple[int, int, int] | tuple[int, int, int, tuple[int, ...]]
MAX_SCALE = 3.4028234663852886e38
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class Target:
    """One adapted module: its component (``"unet"``, ...) and its path as diffusers names it."""

    component: str
    module: str

    def __post_init__(self) -> None:
        if not isinstance(self.component, str) or not isinstance(self.module, str):
            raise InvalidInputError(f"a target is a component and a path, not {self.component!r} and {self.module!r}")

    def __str__(self) -> str:
        return f"{self.component}.{self.module}"

    def __hash__(self) -> int:  # strings cache their hash, tuples do not
        return hash(self.module)

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Sort key of the canonical order: components as in :data:`COMPONENTS`, then paths, see `natural_key`."""
        return _sort_key(self.component, self.module)


@lru_cache(maxsize=8192)  # checkpoints of a population share module names
def _sort_key(component: str, module: str) -> tuple[Any, ...]:
    known = component in COMPONENTS
    return COMPONENTS.index(component) if known else len(COMPONENTS), component, natural_key(module)


def natural_key(path: str) -> tuple[tuple[int, int, str], ...]:
    """Return the sort key of a dotted path: ``10`` comes after ``9``, and numbers come before words.

    Different paths have different keys (``01`` and ``1``), so the order does not depend on the input's order.
    """
    return tuple((0, int(part), part) if re.fullmatch(r"[0-9]+", part) else (1, 0, part) for part in path.split("."))


class _Dimensions(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def kernel(self) -> tuple[int, ...]: ...


class FactorShape:
    """Shapes derived from a module's rank, inputs, outputs and kernel."""

    __slots__ = ()

    @property
    def size(self: _Dimensions) -> Size:
        """Rank, inputs, outputs and, for a convolution, its kernel: the entry of a layout."""
        plain = (self.rank, self.inputs, self.outputs)
        return (*plain, self.kernel) if self.kernel else plain

    @property
    def columns(self: _Dimensions) -> int:
        """Number of columns of A."""
        return self.inputs * math.prod(self.kernel)

    @property
    def weight_shape(self: _Dimensions) -> tuple[int, ...]:
        """Shape of the adapted weight: ``(out, in)``, for a convolution ``(out, in, kh, kw)``."""
        return (self.outputs, self.inputs, *self.kernel)


@dataclass(frozen=True, eq=False, repr=False)
class LoraFactors(FactorShape, ByValue, Displayed):
    """The factors of one module.

    A convolution's factors are matrices too: A `(r, in, kh, kw)` with its last three axes flattened, B `(out, r, 1, 1)`
    without its last two; `kernel` restores the shapes. A 1 x 1 convolution differs from a Linear module, whose kernel
    is empty.

    Attributes
    ----------
    A : ndarray
        ``(r, in)``, for a convolution ``(r, in * kh * kw)``; float32, or float64 if computed.
    B : ndarray
        ``(out, r)``, of the same dtype.
    scale : float
        Factor in dW = scale * B @ A (alpha / r in most dialects).
    kernel : tuple of int
        Empty for a Linear module, ``(kh, kw)`` for a convolution.
    """

    A: np.ndarray
    B: np.ndarray
    scale: float
    kernel: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        result: int = self.A.shape[0]
        return result

    @property
    def inputs(self) -> int:
        """Input features or channels."""
        result: int = self.A.shape[1] // math.prod(self.kernel)
        return result

    @property
    def outputs(self) -> int:
        result: int = self.B.shape[0]
        return result

    def delta(self) -> np.ndarray:
        """Return the change dW of the weight, float64 of shape `weight_shape`."""
        change = self.scale * (self.B.astype(np.float64) @ self.A.astype(np.float64))
        return change.reshape(self.weight_shape)


def _is_floats(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind == "f"


def as_float32(values: np.ndarray, what: str) -> np.ndarray:
    """Round values to float32; raise `InvalidInputError`, naming them by `what`, if one overflows."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if not math.isfinite(np.abs(narrow).max(initial=0)):
        raise InvalidInputError(f"{what} reaches {np.abs(values).max():g}, which overflows float32")
    return narrow


@dataclass(repr=False)
class Adapter(Displayed):
    """One LoRA checkpoint.

    Attributes
    ----------
    factors : dict of Target to LoraFactors
        In the order read; use a layout for the canonical order.
    base_model : str or None
        The base model named in the checkpoint: a hint, not verified.
    dialect : str
        The checkpoint format it was read from (``"peft"``, ...), or ``"memory"``.
    ignored_keys : tuple of str
        Keys in the file that are not LoRA factors and were ignored (biases, textual-inversion vectors, ...).
    metadata : mapping
        ``scale_from``: the places that stated the scale; ``dtypes``: tensors in the file per dtype; ``error``: the
        relative error, if the factors approximate the file's; texts under keys that start with ``w2w.`` (how it was
        trained), which are written to files and read from them.
    """

    factors: dict[Target, LoraFactors]
    base_model: str | None = None
    dialect: str = "memory"
    ignored_keys: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.factors, Mapping):
            raise InvalidInputError(f"factors must map a Target to LoraFactors, not be {reprlib.repr(self.factors)}")
        if not self.factors:
            raise InvalidInputError("an adapter needs at least one adapted module; this one has none")
        for name, kinds in (("base_model", (str, type(None))), ("dialect", str), ("metadata", Mapping)):
            if not isinstance(getattr(self, name), kinds):
                raise InvalidInputError(f"{name} of an adapter must not be {reprlib.repr(getattr(self, name))}")
        keys = self.ignored_keys
        if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
            raise InvalidInputError(f"ignored_keys must be a tuple of keys, not {reprlib.repr(keys)}")
        for target, pair in self.factors.items():
            if not isinstance(target, Target) or not isinstance(pair, LoraFactors):
                raise InvalidInputError(f"factors must map a Target to LoraFactors, not {reprlib.repr(target)}")
            if not (_is_floats(pair.A) and _is_floats(pair.B) and isinstance(pair.scale, Real)) or isinstance(
                pair.scale, bool
            ):
                raise InvalidInputError(f"{target}: A and B must be arrays of floats, and the scale a number")
            if not isinstance(pair.kernel, (list, tuple)) or not all(map(is_whole, pair.kernel)):
                raise InvalidInputError(f"{target}: a kernel is a tuple of integers, not {reprlib.repr(pair.kernel)}")
            if pair.A.ndim != 2 or pair.B.ndim != 2 or pair.A.shape[0] != pair.B.shape[1]:
                raise InvalidInputError(
                    f"{target}: A {pair.A.shape} and B {pair.B.shape} do not multiply; "
                    "expected A (r, in) and B (out, r)"
                )
            if pair.kernel and (min(pair.kernel) < 1 or pair.A.shape[1] % math.prod(pair.kernel)):
                raise InvalidInputError(f"{target}: A {pair.A.shape} does not fit a kernel of {pair.kernel}")
            if pair.scale != pair.scale or abs(pair.scale) > MAX_SCALE:
                raise InvalidInputError(f"{target}: scale {reprlib.repr(pair.scale)} is not finite in float32")

    def _facts(self) -> Mapping[str, object]:
        pairs = list(self.factors.values())
        facts: dict[str, object] = {
            "modules": len(pairs),
            "components": listed(sorted({target.component for target in self.factors})),
            "rank": listed(sorted({pair.rank for pair in pairs})),
            "scale": listed(f"{scale:g}" for scale in sorted({pair.scale for pair in pairs})),
            "parameters": sum(int(pair.A.size + pair.B.size) for pair in pairs),
            "dialect": self.dialect,
            "base model": self.base_model or "not named",
        }
        return facts | ({"ignored keys": len(self.ignored_keys)} if self.ignored_keys else {})

    @property
    def passengers(self) -> tuple[str, ...]:
        """Deprecated name of `ignored_keys`."""
        warn_renamed("Adapter.passengers", "Adapter.ignored_keys")
        return self.ignored_keys

    def require_finite(self, where: str) -> None:
        """Raise `InvalidInputError` naming the module if any factor holds NaN or infinity."""
        for target, pair in self.factors.items():
            for name, factor in (("A", pair.A), ("B", pair.B)):
                with np.errstate(all="ignore"):
                    if math.isfinite(factor.sum()):  # one pass; an overflowing sum is checked below
                        continue
                bad = int(np.size(factor) - np.isfinite(factor).sum())
                if bad:
                    raise InvalidInputError(
                        f"{where}: {bad} values of {target} {name} are NaN or infinite; train the checkpoint again"
                    )


Adapter.__init__ = renamed_keywords(passengers="ignored_keys")(Adapter.__init__)  # type: ignore[method-assign]
