"""ParameterLayout: the ordered slots that turn an adapter into one flat vector and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .adapter import Adapter, LoraFactors, Target
from .errors import InvalidInputError, LayoutMismatchError, UnsupportedFormatError

if TYPE_CHECKING:
    import torch

DIGEST_TAG = "w2w-layout-v1"
DEFAULT_TARGETS = ("to_q", "to_v")


@dataclass(frozen=True)
class Slot:
    """Where one target's factors lie in the flat vector: A ``(rank, inputs)``, then B ``(outputs, rank)``."""

    target: Target
    rank: int
    inputs: int
    outputs: int
    offset: int

    @property
    def middle(self) -> int:
        return self.offset + self.rank * self.inputs

    @property
    def end(self) -> int:
        return self.middle + self.rank * self.outputs


class ParameterLayout:
    """The ordered list of slots with one reference scale.

    Slots are ordered by component, then by module path with numbers compared as numbers (so
    ``down_blocks`` < ``mid_block`` < ``up_blocks``, ``attn1`` < ``attn2``, ``to_q`` < ``to_v``, and
    ``blocks.9`` < ``blocks.10``); A comes before B and both are row-major. For SD 1.5, rank 1, `to_q` and
    `to_v`, this is weights2weights' order of 99,648 numbers.

    Parameters
    ----------
    sizes : dict of Target to (rank, inputs, outputs)
        Shapes of the adapted modules, in any order.
    scale : float
        The reference scale: dW = scale * B @ A for factors as stored.
    """

    def __init__(self, sizes: dict[Target, tuple[int, int, int]], scale: float):
        if not sizes:
            raise InvalidInputError("a layout needs at least one target module")
        if not np.isfinite(scale) or scale <= 0:
            raise InvalidInputError(f"the reference scale must be a positive number, not {scale}")
        slots, offset = [], 0
        for target in sorted(sizes, key=lambda t: t.sort_key):
            rank, inputs, outputs = sizes[target]
            if min(rank, inputs, outputs) < 1:
                raise InvalidInputError(
                    f"{target}: rank {rank}, {inputs} inputs, {outputs} outputs; all must be at least 1"
                )
            slots.append(Slot(target, rank, inputs, outputs, offset))
            offset = slots[-1].end
        self.slots = tuple(slots)
        self.size = offset
        self.scale = float(scale)

    @classmethod
    def from_adapter(cls, adapter: Adapter) -> ParameterLayout:
        """The layout of an adapter's own shapes; its scale is the reference (it must have just one)."""
        scales = {pair.scale for pair in adapter.factors.values()}
        if len(scales) > 1:
            raise InvalidInputError(
                f"this adapter has {len(scales)} different scales ({min(scales):g} to {max(scales):g}); "
                "make the layout from the model and give its reference scale"
            )
        sizes = {t: (p.rank, p.A.shape[1], p.B.shape[0]) for t, p in adapter.factors.items()}
        return cls(sizes, scales.pop())

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        targets: Iterable[str] = DEFAULT_TARGETS,
        rank: int = 1,
        scale: float = 1.0,
        component: str = "unet",
    ) -> ParameterLayout:
        """The layout of a model's Linear modules whose last name is in `targets`.

        Works on the meta device too, so that a large model's layout costs no memory.
        """
        names = set(targets)
        sizes = {
            Target(component, name): (rank, int(module.in_features), int(module.out_features))
            for name, module in model.named_modules()
            if name.rsplit(".", 1)[-1] in names and hasattr(module, "in_features")
        }
        if not sizes:
            raise InvalidInputError(f"the model has no Linear module named {' or '.join(sorted(names))}")
        return cls(sizes, scale)

    # ------------------------------------------------------------ identity
    def to_json(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "slots": [[s.target.component, s.target.module, s.rank, s.inputs, s.outputs] for s in self.slots],
        }

    @classmethod
    def from_json(cls, data: Any) -> ParameterLayout:
        try:
            sizes = {Target(str(c), str(m)): (int(r), int(i), int(o)) for c, m, r, i, o in data["slots"]}
            layout = cls(sizes, float(data["scale"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedFormatError(f"not a parameter layout: {error}") from error
        if layout.to_json()["slots"] != data["slots"]:
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
            f"ParameterLayout({len(self.slots)} modules, rank {', '.join(map(str, ranks))}, "
            f"{self.size:,} numbers, scale {self.scale:g}, {self.digest[:12]})"
        )

    def differences(self, other: ParameterLayout) -> str:
        """What `other` lacks, has besides, or shapes differently, in one line; empty if nothing."""
        mine = {s.target: s for s in self.slots}
        theirs = {s.target: s for s in other.slots}
        notes = []
        for text, found in (
            ("missing", [t for t in mine if t not in theirs]),
            ("not expected", [t for t in theirs if t not in mine]),
        ):
            if found:
                notes.append(f"{len(found)} modules {text}: {_some(found)}")
        both = [t for t in mine if t in theirs]
        for text, name in (("rank", "rank"), ("inputs", "inputs"), ("outputs", "outputs")):
            wrong = [t for t in both if getattr(mine[t], name) != getattr(theirs[t], name)]
            if wrong:
                first = wrong[0]
                notes.append(
                    f"{text} {getattr(theirs[first], name)} instead of {getattr(mine[first], name)} in {_some(wrong)}"
                )
        if self.scale != other.scale:
            notes.append(f"scale {other.scale:g} instead of {self.scale:g}")
        return "; ".join(notes)

    # ------------------------------------------------------------ vectors
    def flatten(self, adapter: Adapter, *, where: str = "this adapter") -> np.ndarray:
        """The adapter as a float32 vector ``(size,)``.

        A module whose scale differs from the reference has the ratio folded into B.

        Raises
        ------
        LayoutMismatchError
            If the modules or shapes are not this layout's.
        """
        theirs = {t: (p.rank, p.A.shape[1], p.B.shape[0]) for t, p in adapter.factors.items()}
        if theirs != {s.target: (s.rank, s.inputs, s.outputs) for s in self.slots}:
            found = self.differences(ParameterLayout(theirs, self.scale))
            raise LayoutMismatchError(f"{where} does not fit the layout: {found}")
        vector = np.empty(self.size, np.float32)
        for slot in self.slots:
            pair = adapter.factors[slot.target]
            ratio = pair.scale / self.scale
            vector[slot.offset : slot.middle] = pair.A.ravel()
            vector[slot.middle : slot.end] = (pair.B if ratio == 1 else pair.B.astype(np.float64) * ratio).ravel()
        return vector

    def unflatten(self, vector: np.ndarray) -> Adapter:
        """The adapter of a vector ``(size,)``; its factors are float32 copies at the reference scale."""
        values = np.asarray(vector, np.float32)
        if values.shape != (self.size,):
            raise LayoutMismatchError(f"expected a vector of {self.size} numbers, got shape {values.shape}")
        factors = {
            target: LoraFactors(a[0].copy(), b[0].copy(), self.scale)
            for target, (a, b) in self.unflatten_batch(values[None]).items()
        }
        return Adapter(factors)

    def unflatten_batch(self, vectors: Any) -> dict[Target, tuple[Any, Any]]:
        """Views of ``(n, size)``: per target A ``(n, r, in)`` and B ``(n, out, r)``, without copying.

        Accepts a NumPy array or a torch tensor and keeps gradients of the latter.
        """
        n, width = vectors.shape
        if width != self.size:
            raise LayoutMismatchError(f"expected rows of {self.size} numbers, got {width}")
        return {
            s.target: (
                vectors[:, s.offset : s.middle].reshape(n, s.rank, s.inputs),
                vectors[:, s.middle : s.end].reshape(n, s.outputs, s.rank),
            )
            for s in self.slots
        }


def _some(targets: list[Target], shown: int = 2) -> str:
    names = ", ".join(str(t) for t in targets[:shown])
    return names + (f" and {len(targets) - shown} more" if len(targets) > shown else "")
