"""Layers: a part of the network that an edit is limited to, and where in the network a step acts."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from ..common.text import few, nearest
from ..errors import InvalidInputError, UnknownNameError
from ..lora.adapter import Target
from ..lora.layout import ParameterLayout
from .coordinates import Coordinates

MAIN = ("unet", "transformer")  # components whose blocks are named without the component
UNET = re.compile(r"(down|mid|up)_blocks?(?:\.([0-9]+))?(?:\.|$)")
STACK = re.compile(r"(.*?\.[0-9]+)(?:\.|$)")
SHOWN_NAMES, LONGEST_PATTERN = 40, 1000


@dataclass(frozen=True)
class Layers:
    """The modules that an edit may change.

    Attributes
    ----------
    names : tuple of str
        As they were asked for.
    mask : ndarray
        Boolean ``(d,)``: True for the weights of these modules.
    """

    names: tuple[str, ...]
    mask: np.ndarray

    def vector(self, coordinates: Coordinates, step: np.ndarray) -> np.ndarray:
        """Return the change of the weights, float32 ``(d,)``, of a step ``(k,)`` that these layers alone follow."""
        return np.where(self.mask, decode_step(coordinates, step), np.float32(0))

    def projected(self, coordinates: Coordinates, step: np.ndarray) -> np.ndarray:
        """Return the part of :meth:`vector` that lies in the space, float64 ``(k,)``.

        Parameters
        ----------
        step : ndarray
            ``(k,)``, or several as columns ``(k, n)``.
        """
        found = in_space(coordinates, (self.vector(coordinates, column) for column in np.atleast_2d(step.T)))
        return np.asarray(found[0] if step.ndim == 1 else found.T)


def in_space(coordinates: Coordinates, changes: Iterable[np.ndarray]) -> np.ndarray:
    """Return the part of changes of the weights, each ``(d,)``, that lies in the space, float64 ``(n, k)``."""
    return np.asarray(np.stack([change / coordinates.std for change in changes]) @ coordinates.basis.T, np.float64)


def decode_step(coordinates: Coordinates, step: np.ndarray) -> np.ndarray:
    """Return the change of the decoded weights, float32 ``(d,)``, by a step ``(<= k,)`` in coefficients."""
    change: np.ndarray = step.astype(np.float32) @ coordinates.basis[: len(step)]
    change *= coordinates.std
    return change


def select_layers(layout: ParameterLayout, names: Iterable[str]) -> Layers | None:
    """Return the modules of a layout that any of these names selects; None if they are all there are.

    A name is one of these:

    - a block of the network, ``"down"``, ``"mid"``, ``"up"``, ``"up.1"``, see :func:`block_of`;
    - a shell pattern for the whole path of a module, ``"up_blocks.*.attn2.*"``;
    - consecutive parts of the path, ``"attn2"``, ``"attn2.to_v"`` or ``"up_blocks.1.attentions.0"``.

    Raises
    ------
    InvalidInputError
        For an empty list.
    UnknownNameError
        For a name that selects nothing; says which there are.
    """
    wanted = tuple(dict.fromkeys(name.strip() for name in names))
    if not wanted:
        raise InvalidInputError(f"layers is empty; leave it out, or name some of: {_known(layout)}", name="layers")
    chosen = np.zeros(len(layout.slots), bool)
    for name in wanted:
        found = np.array([_selects(name, slot.target) for slot in layout.slots], bool)
        if not found.any():
            raise UnknownNameError(_unknown(layout, name), name=name)
        chosen |= found
    if chosen.all():
        return None
    return Layers(wanted, np.repeat(chosen, [slot.end - slot.offset for slot in layout.slots]))


def block_of(target: Target) -> str:
    """Return the name of the block that a module is in.

    Blocks of a UNet are ``down.0``, ``mid`` and ``up.1``; of other networks, the path to the first number
    (``transformer_blocks.12``). A component other than the denoiser is in front (``text_encoder.layers.3``).
    """
    unet, stack = UNET.match(target.module), STACK.match(target.module)
    if unet:
        block = unet[1] if unet[1] == "mid" or unet[2] is None else f"{unet[1]}.{unet[2]}"
    else:
        block = stack[1] if stack else target.module.partition(".")[0]
    return block if target.component in MAIN else f"{target.component}.{block}"


def block_sizes(layout: ParameterLayout) -> dict[str, int]:
    """Return the number of weights per block, in the layout's order."""
    sizes: dict[str, int] = {}
    for slot in layout.slots:
        block = block_of(slot.target)
        sizes[block] = sizes.get(block, 0) + slot.end - slot.offset
    return sizes


def shares_by_block(coordinates: Coordinates, steps: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the shares of :func:`block_shares` for steps ``(<= k,)`` in coefficients, by name."""
    return {name: block_shares(coordinates, decode_step(coordinates, step)) for name, step in steps.items()}


def block_shares(coordinates: Coordinates, change: np.ndarray) -> dict[str, float]:
    """Return the share of a change's squared norm that lies in each block of the network; the shares sum to 1.

    Each weight is measured in its own standard deviations, so that blocks with large weights do not count more.

    Parameters
    ----------
    change : ndarray
        ``(d,)``: of the weights. If nothing changes, all shares are 0.
    """
    slots = coordinates.layout.slots
    squared = np.square(change / coordinates.std, dtype=np.float64)
    sums = np.add.reduceat(squared, [slot.offset for slot in slots])
    found = dict.fromkeys(block_sizes(coordinates.layout), 0.0)
    for slot, part in zip(slots, sums.tolist(), strict=True):
        found[block_of(slot.target)] += part
    total = sum(found.values())
    return {block: share / total if total else 0.0 for block, share in found.items()}


def _selects(name: str, target: Target) -> bool:
    block, path, whole = block_of(target), target.module, f"{target.component}.{target.module}"
    if name == block or (name and block.startswith(f"{name}.")):
        return True
    if any(character in name for character in "*?["):
        return len(name) <= LONGEST_PATTERN and (fnmatchcase(path, name) or fnmatchcase(whole, name))
    return bool(name) and f".{name}." in f".{whole}."


def _unknown(layout: ParameterLayout, name: str) -> str:
    parts = list(dict.fromkeys(part for s in layout.slots for part in s.target.module.split(".")))
    close = nearest(name[:LONGEST_PATTERN], list(dict.fromkeys([*block_sizes(layout), *_groups(layout), *parts])), 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"no layers {reprlib.repr(name)} in this weight space; {hint}available: {_known(layout)}"


def _groups(layout: ParameterLayout) -> list[str]:
    return list(dict.fromkeys(block.partition(".")[0] for block in block_sizes(layout)))


def _known(layout: ParameterLayout) -> str:
    blocks = list(block_sizes(layout))
    names = list(dict.fromkeys([*_groups(layout), *blocks]))
    last = layout.slots[-1].target.module
    return f"{few(names, SHOWN_NAMES)}, parts of module paths, and patterns such as {_pattern(last)}"


def _pattern(path: str) -> str:
    """Return a shell pattern that a module's path matches."""
    first, *_, last = path.split(".")
    return f"{first}.*.{last}" if path.count(".") > 1 else f"{first}*"
