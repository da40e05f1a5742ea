"""ParameterLayout: the ordered slots that turn an adapter into one flat vector and back."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import ADAPTER, LAYOUT, checked
from ..common.checks import is_whole
from ..common.constraints import as_array, either, has, instance, names, optional, positive, text, validated, whole
from ..common.deprecated import deprecated_alias, warn_renamed
from ..common.limits import MAX_KERNEL, MAX_MODULES, MAX_NUMBERS, MAX_SIZE, MAX_TENSOR_NAME
from ..common.text import an, counted
from ..errors import InvalidInputError, LayoutMismatchError, UnsupportedFormatError
from .adapter import Adapter, FactorShape, LoraFactors, Size, Target, as_float32
from .module_paths import canonical_path

if TYPE_CHECKING:
    import torch

DIGEST_TAG = "w2w-layout-v1"
DEFAULT_TARGETS = ("to_q", "to_v")


@dataclass(frozen=True)
class Slot(FactorShape):
    """Position of one target's factors in the flat vector: A ``(rank, columns)``, then B ``(outputs, rank)``.

    A linear module's A has `inputs` columns, a convolution's ``inputs * kh * kw``, as in `LoraFactors`.
    """

    target: Target
    rank: int
    inputs: int
    outputs: int
    offset: int
    kernel: tuple[int, ...] = ()

    @property
    def b_offset(self) -> int:
        """Index at which A ends and B starts."""
        return self.offset + self.rank * self.columns

    @property
    def end(self) -> int:
        return self.b_offset + self.rank * self.outputs

    @property
    def middle(self) -> int:
        """Deprecated name of `b_offset`."""
        warn_renamed("Slot.middle", "Slot.b_offset")
        return self.b_offset


class ParameterLayout:
    """An ordered list of slots with one reference scale.

    Slots are ordered by component, then by module path with numbers compared as numbers (so
    ``down_blocks`` < ``mid_block`` < ``up_blocks``, ``attn1`` < ``attn2``, ``to_q`` < ``to_v``, and
    ``blocks.9`` < ``blocks.10``); A comes before B and both are row-major. For SD 1.5, rank 1, `to_q` and
    `to_v`, this is weights2weights' order of 99,648 numbers.

    Parameters
    ----------
    sizes : dict of Target to (rank, inputs, outputs) or (rank, inputs, outputs, kernel)
        Shapes of the adapted modules, in any order.
    scale : float
        The reference scale: dW = scale * B @ A for stored factors.
    """

    def __init__(self, sizes: Mapping[Target, Size], scale: float):
        if not isinstance(sizes, Mapping) or not all(isinstance(target, Target) for target in sizes):
            raise InvalidInputError(f"sizes must be a mapping from Target to sizes, not {an(type(sizes).__name__)}")
        if not sizes:
            raise InvalidInputError("a layout needs at least one target module")
        if len(sizes) > MAX_MODULES:
            raise InvalidInputError(f"a layout has at most {MAX_MODULES:,} target modules, not {len(sizes):,}")
        self.scale: float = positive().checked(scale, "the reference scale")
        for target in sizes:
            if max(len(target.component), len(target.module)) > MAX_TENSOR_NAME:
                raise InvalidInputError(f"{target} has more than {MAX_TENSOR_NAME:,} characters")
        slots, offset = [], 0
        for target in sorted(sizes, key=lambda t: t.sort_key):
            slots.append(Slot(target, *_size(target, sizes[target], offset)))
            offset = slots[-1].end
        if offset > MAX_NUMBERS:
            raise InvalidInputError(f"a layout has at most {MAX_NUMBERS:,} numbers, not {offset:,}")
        self.slots = tuple(slots)
        self.size = offset

    @classmethod
    @validated(adapter=instance(Adapter, "an Adapter"), scale=optional(positive()))
    def from_adapter(cls, adapter: Adapter, *, scale: float | None = None) -> ParameterLayout:
        """Return the layout of an adapter's shapes.

        Parameters
        ----------
        scale : float, optional
            The reference scale. Default: the adapter's most frequent scale (the smallest, if several are equally
            frequent), or 1 if that is not positive. Any reference is exact: the ratio of a module's scale to it is
            folded into B, see :meth:`scale_ratios`.
        """
        if scale is None:
            counts = Counter(pair.scale for pair in adapter.factors.values())
            scale = min(counts, key=lambda s: (-counts[s], s))
            scale = scale if scale > 0 else 1.0
        return cls({target: pair.size for target, pair in adapter.factors.items()}, scale)

    @classmethod
    @validated(
        model=has("named_modules", "a torch module"),
        targets=either(text(), names()),
        rank=whole(1),
        scale=positive(),
        component=text(),
    )
    def from_model(
        cls,
        model: torch.nn.Module,
        targets: Iterable[str] | str = DEFAULT_TARGETS,
        rank: int = 1,
        scale: float = 1.0,
        component: str = "unet",
    ) -> ParameterLayout:
        """Return the layout of the Linear and Conv2d modules of a model that `targets` selects.

        Also works on the meta device, where a large model needs no memory.

        Parameters
        ----------
        targets : iterable of str, or str
            Like PEFT's ``target_modules``: suffixes of module paths (``"to_q"``, ``"to_out.0"``), or one regular
            expression that must match the whole path.

        Raises
        ------
        InvalidInputError
            If no module is selected, or a selected one is a grouped convolution, which has no such factors.
        """
        sizes: dict[Target, Size] = {}
        suffixes = (targets,) if isinstance(targets, str) else tuple(targets)
        if not suffixes:
            raise InvalidInputError("targets is empty; name modules such as to_q and to_v")
        try:
            pattern = re.compile(targets) if isinstance(targets, str) else None
        except re.error as error:
            raise InvalidInputError(f"targets {targets!r} is not a regular expression: {error}") from error
        for name, module in model.named_modules():
            if not (
                pattern.fullmatch(name)
                if pattern is not None
                else any(name == n or name.endswith(f".{n}") for n in suffixes)
            ):
                continue
            target = Target(component, canonical_path(component, name))  # as adapters are read
            if hasattr(module, "in_features") and hasattr(module, "out_features"):
                sizes[target] = (rank, int(module.in_features), int(module.out_features))
            elif hasattr(module, "in_channels") and hasattr(module, "kernel_size"):
                if module.groups != 1:
                    raise InvalidInputError(
                        f"{name} is a convolution with {module.groups} groups; remove it from targets"
                    )
                kernel = tuple(int(n) for n in module.kernel_size)
                sizes[target] = (rank, int(module.in_channels), int(module.out_channels), kernel)
        if not sizes:
            raise InvalidInputError(f"the model has no Linear or Conv2d module named {' or '.join(sorted(suffixes))}")
        return cls(sizes, scale)

    # ------------------------------------------------------------ identity
    def to_json(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "slots": [
                [s.target.component, s.target.module, s.rank, s.inputs, s.outputs, *s.kernel] for s in self.slots
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> ParameterLayout:
        """Build a layout from the result of :meth:`to_json`, without allocating memory of the stated size.

        Raises
        ------
        UnsupportedFormatError
            If a slot or the scale has a wrong type or exceeds a limit.
        """
        try:
            slots, scale = data["slots"], data["scale"]
            if not isinstance(slots, list) or len(slots) > MAX_MODULES:
                raise ValueError(f"slots must be a list of at most {MAX_MODULES:,}")
            sizes: dict[Target, Size] = {}
            for number, slot in enumerate(slots):
                if not isinstance(slot, list) or list(map(type, slot[:2])) != [str, str] or len(slot) < 5:
                    raise ValueError(f"slot {number} must be a component, a module, a rank, inputs and outputs")
                plain, kernel = tuple(slot[2:5]), tuple(slot[5:])
                sizes[Target(*slot[:2])] = (*plain, kernel) if kernel else plain  # type: ignore[assignment]
            layout = cls(sizes, scale)
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedFormatError(f"not a parameter layout: {error}") from error
        if layout.to_json()["slots"] != slots:
            raise UnsupportedFormatError("the layout's slots are not in canonical order")
        return layout

    @cached_property
    def digest(self) -> str:
        """sha256 over the canonical JSON of slots and scale."""
        body = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{DIGEST_TAG}\n{body}".encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterLayout) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        ranks = sorted({s.rank for s in self.slots})
        return (
            f"ParameterLayout({counted(len(self.slots), 'module')}, rank {', '.join(map(str, ranks))}, "
            f"{counted(self.size, 'number')}, scale {self.scale:g}, {self.digest[:12]})"
        )

    @checked(other=LAYOUT)
    def differences(self, other: ParameterLayout) -> str:
        """Return a one-line summary of how `other` differs from this layout; empty if they are equal."""
        mine = {s.target: s for s in self.slots}
        theirs = {s.target: s for s in other.slots}
        notes = []
        for note, found in (
            ("missing", [t for t in mine if t not in theirs]),
            ("not expected", [t for t in theirs if t not in mine]),
        ):
            if found:
                notes.append(f"{counted(len(found), 'module')} {note}: {preview(found)}")
        both = [t for t in mine if t in theirs]
        for name in ("rank", "inputs", "outputs", "kernel"):
            wrong = [t for t in both if getattr(mine[t], name) != getattr(theirs[t], name)]
            if wrong:
                other_value, value = (_shape(getattr(slots[wrong[0]], name)) for slots in (theirs, mine))
                notes.append(f"{name} {other_value} instead of {value} in {preview(wrong)}")
        if self.scale != other.scale:
            notes.append(f"scale {other.scale:g} instead of {self.scale:g}")
        return "; ".join(notes)

    @checked(adapter=ADAPTER)
    def incompatibility(self, adapter: Adapter) -> str:
        """Return the reason why an adapter does not fit this layout, in one line; empty if it fits."""
        theirs = {target: pair.size for target, pair in adapter.factors.items()}
        if theirs == {slot.target: slot.size for slot in self.slots}:
            return ""
        return self.differences(ParameterLayout(theirs, self.scale))

    @checked(adapter=ADAPTER)
    def scale_ratios(self, adapter: Adapter) -> dict[Target, float]:
        """Return the factor that :meth:`flatten` folds into B, for each module whose scale is not the reference."""
        found = {target: pair.scale / self.scale for target, pair in adapter.factors.items()}
        return {target: ratio for target, ratio in found.items() if ratio != 1}

    misfit = deprecated_alias("ParameterLayout.misfit", incompatibility)
    ratios = deprecated_alias("ParameterLayout.ratios", scale_ratios)

    # ------------------------------------------------------------ vectors
    @checked(adapter=ADAPTER)
    def flatten(self, adapter: Adapter, *, where: str = "this adapter") -> np.ndarray:
        """Return the adapter as a float32 vector ``(size,)``.

        If a module's scale differs from the reference, the ratio is folded into B.

        Raises
        ------
        LayoutMismatchError
            If the modules or shapes are not this layout's.
        """
        found = self.incompatibility(adapter)
        if found:
            raise LayoutMismatchError(f"{where} does not fit the layout: {found}")
        vector = np.empty(self.size, np.float32)
        for slot in self.slots:
            pair = adapter.factors[slot.target]
            ratio = pair.scale / self.scale
            vector[slot.offset : slot.b_offset] = pair.A.ravel()
            b = pair.B
            if ratio != 1:
                b = as_float32(b.astype(np.float64) * ratio, f"{where}: B of {slot.target} times {ratio:g}")
            vector[slot.b_offset : slot.end] = b.ravel()
        return vector

    def unflatten(self, vector: np.ndarray, base_model: str | None = None) -> Adapter:
        """Return the adapter of a vector ``(size,)``, with float32 copies of its factors and the reference scale.

        Parameters
        ----------
        base_model : str, optional
            Repository or folder of the base model that the adapter was trained on.
        """
        values = as_array(vector, "a vector").astype(np.float32, copy=False)
        if values.shape != (self.size,):
            raise LayoutMismatchError(f"expected a vector of {self.size} numbers, got shape {values.shape}")
        pairs = self.unflatten_batch(values[None])
        factors = {}
        for slot in self.slots:
            a, b = pairs[slot.target]
            factors[slot.target] = LoraFactors(a[0].copy(), b[0].copy(), self.scale, slot.kernel)
        return Adapter(factors, base_model=base_model)

    @cached_property
    def factor_sizes(self) -> list[int]:
        """Sizes of A and B of every slot, in the order of the flat vector."""
        return [size for s in self.slots for size in (s.b_offset - s.offset, s.end - s.b_offset)]

    @property
    def part_sizes(self) -> list[int]:
        """Deprecated name of `factor_sizes`."""
        warn_renamed("ParameterLayout.part_sizes", "ParameterLayout.factor_sizes")
        return self.factor_sizes

    @cached_property
    def rank_one(self) -> bool:
        """True if every slot is a Linear layer of rank 1, as in weights2weights."""
        return all(slot.rank == 1 and not slot.kernel for slot in self.slots)

    def unflatten_batch(self, vectors: Any) -> dict[Target, tuple[Any, Any]]:
        """Return views of rows ``(n, size)``: A ``(n, r, in)`` and B ``(n, out, r)`` by target.

        A convolution's A is ``(n, r, in * kh * kw)``. Accepts a NumPy array or a torch tensor (and keeps its graph).
        """
        if not hasattr(vectors, "ndim"):
            vectors = as_array(vectors, "rows")
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise LayoutMismatchError(f"expected rows of {self.size} numbers, got shape {tuple(vectors.shape)}")
        n = vectors.shape[0]
        if isinstance(vectors, np.ndarray):
            parts = np.split(vectors, np.cumsum(self.factor_sizes)[:-1], 1)
        else:  # the gradient of one split is one concatenation, that of each slice a full row of zeros
            parts = vectors.split(self.factor_sizes, 1)
        return {
            s.target: (a.reshape(n, s.rank, s.columns), b.reshape(n, s.outputs, s.rank))
            for s, a, b in zip(self.slots, parts[::2], parts[1::2], strict=True)
        }


def _size(target: Target, size: Any, offset: int) -> tuple[int, int, int, int, tuple[int, ...]]:
    """Validate a size; return rank, inputs, outputs, offset and kernel of its slot as plain integers."""
    try:
        rank, inputs, outputs, *rest = size
        (kernel,) = rest or ((),)
        kernel = tuple(kernel)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"{target}: expected rank, inputs, outputs and, for a convolution, a kernel, not {reprlib.repr(size)}"
        ) from None
    words = f"{target}: rank {rank!r}, {inputs!r} inputs, {outputs!r} outputs"
    if kernel:
        words += f", kernel {reprlib.repr(kernel)}"
    if not all(is_whole(n) for n in (rank, inputs, outputs, *kernel)):
        raise InvalidInputError(f"{words}; all are integers")
    if min(rank, inputs, outputs, *kernel) < 1 or max(rank, inputs, outputs, *kernel) > MAX_SIZE:
        raise InvalidInputError(f"{words}; all must be at least 1 and at most {MAX_SIZE:,}")
    if len(kernel) > MAX_KERNEL:
        raise InvalidInputError(f"{words}; a kernel has at most {MAX_KERNEL} axes")
    return int(rank), int(inputs), int(outputs), offset, tuple(int(n) for n in kernel)


def _shape(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else "x".join(map(str, value)) or "none (Linear)"


def preview(targets: list[Target], shown: int = 2) -> str:
    names = ", ".join(str(t) for t in targets[:shown])
    return names + (f" and {len(targets) - shown} more" if len(targets) > shown else "")
