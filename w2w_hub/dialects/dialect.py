"""Base classes of dialects: facts that each dialect states as class attributes, and its read and write methods."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from enum import Flag
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..lora.adapter import Adapter, Target
from .checkpoint import Checkpoint, ReadOptions


class FolderUse(Flag):
    """When a folder is read as its weights file with the dialect's usual name, whatever else is in it."""

    NEVER = 0
    WITH_CONFIG = 1  # beside an adapter_config.json
    WITHOUT_CONFIG = 2
    ALWAYS = 3


class Dialect(ABC):
    """One LoRA checkpoint dialect. Its only instance is listed in :mod:`.registry` or in an entry point."""

    name: ClassVar[str]
    """Name in messages, facts and options."""
    weights_name: ClassVar[str | None] = None
    """File name that the dialect's own library gives the weights, if it has a usual one."""
    folder_use: ClassVar[FolderUse] = FolderUse.NEVER
    owns_config: ClassVar[bool] = False
    """True if an ``adapter_config.json`` beside several weights files belongs to the file named `weights_name`."""
    rank_keys: ClassVar[re.Pattern[str]] = re.compile(r"\.lora_A|\.lora\.down|lora_down|_layer\.down")
    """Pattern (for `search`) of the keys whose first axis is the rank."""

    @abstractmethod
    def matches(self, checkpoint: Checkpoint) -> bool:
        """Return True if any key is one that only this dialect writes."""

    @abstractmethod
    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        """Read the checkpoint exactly, or raise."""

    def rank_of(self, key: str, shape: tuple[int, ...]) -> int | None:
        """Return the rank that a tensor's shape implies, or None."""
        return shape[0] if len(shape) >= 2 and self.rank_keys.search(key) else None


class WritableDialect(Dialect):
    """A dialect that can be written; `weights_name` is the file that `write` makes."""

    load_hint: ClassVar[str] = ""
    """Code that loads the written adapter, with ``{path!r}`` for the folder or file."""
    single_file: ClassVar[bool] = True
    """True if the weights file alone is the whole adapter."""
    one_component: ClassVar[bool] = False
    """True if a folder holds modules of a single model."""

    @abstractmethod
    def write(self, adapter: Adapter, folder: Path) -> None:
        """Write an adapter into an existing folder; raise for a module that would not be read back."""


class DenseDialect(Dialect):
    """A dialect whose changes are not products of two rank-r factors; `read` approximates them on request."""

    @abstractmethod
    def deltas(self, checkpoint: Checkpoint) -> LazyDeltas:
        """Return the exact change of every weight, computed on access."""


class LazyDeltas(Mapping[Target, np.ndarray]):
    """The exact change of every weight, float64 ``(out, in)`` or ``(out, in, kh, kw)``, computed on access.

    Attributes
    ----------
    scales : frozenset of float
        The distinct scales of the modules.
    """

    def __init__(self, modules: Mapping[Target, Callable[[], np.ndarray]], scales: frozenset[float]):
        self._modules, self.scales = modules, scales

    def __getitem__(self, target: Target) -> np.ndarray:
        return self._modules[target]()

    def __iter__(self) -> Iterator[Target]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)
