"""An opened checkpoint: keys, shapes and header are read at once, tensors on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checks import is_whole
from ..errors import InvalidInputError
from ..lora.adapter import COMPONENTS
from ..store.tensorfile import Header, parse_safetensors
from .thumbnails import FIELD as THUMBNAIL
from .thumbnails import is_thumbnail

CONFIG = "adapter_config.json"


PROVENANCE = ("w2w.", "modelspec.")  # prefixes of header fields that say how an adapter was made; writers keep them
TRAINED_FROM = "w2w.initialization"  # among them: the name of the initialization


def provenance(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of an adapter's metadata, or of a header, that say how it was made.

    A thumbnail that is no picture in the header, or too large, is left out: a program that shows it might open it.
    """
    told = {name: text for name, text in metadata.items() if name.startswith(PROVENANCE) and isinstance(text, str)}
    if not is_thumbnail(told.get(THUMBNAIL)):
        told.pop(THUMBNAIL, None)
    return told


@dataclass
class Checkpoint:
    """One opened checkpoint.

    Attributes
    ----------
    path : Path
        The folder or file that the caller named.
    shapes, dtypes : dict
        By tensor name; dtypes as safetensors names them.
    metadata : dict of str to str
        The metadata in the file's header.
    config : dict or None
        ``adapter_config.json`` beside the weights.
    load : callable
        Reads the tensors.
    is_list : bool
        True for a bare list of tensors, whose keys are their positions.
    config_note : str
        Why an ``adapter_config.json`` beside the weights was ignored; else empty.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    load: Callable[[], dict[str, np.ndarray]]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    is_list: bool = False
    config_note: str = ""

    @property
    def where(self) -> str:
        """The path as text, for messages."""
        return str(self.path)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        return self.load()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "memory", config: dict[str, Any] | None = None) -> Checkpoint:
        """Open a safetensors file in memory."""
        tensors, header = parse_safetensors(data, where)
        return cls.from_header(Path(where), header, lambda: tensors, config)

    @classmethod
    def from_header(
        cls, path: Path, header: Header, load: Callable[[], dict[str, np.ndarray]], config: dict[str, Any] | None
    ) -> Checkpoint:
        """Make the checkpoint of a safetensors header."""
        entries = header.entries.items()
        shapes, dtypes = {name: entry.shape for name, entry in entries}, {name: entry.dtype for name, entry in entries}
        return cls(path, shapes, dtypes, load, header.metadata, config)


@dataclass(frozen=True)
class ReadOptions:
    """Facts about a checkpoint that the caller states, see :func:`read_adapter`."""

    trust: str | None = None
    alpha: float | None = None
    component: str | None = None
    svd_rank: int | None = None

    def __post_init__(self) -> None:
        if not _is_one_of(self.trust, ("tensors", "config")):
            raise InvalidInputError(f"trust is {self.trust!r}; choose tensors or config")
        if not _is_one_of(self.component, COMPONENTS):
            raise InvalidInputError(f"component is {self.component!r}; choose {', '.join(COMPONENTS)}")
        if self.alpha is not None:
            number = isinstance(self.alpha, Real) and not isinstance(self.alpha, bool)
            if not number or not math.isfinite(self.alpha):
                raise InvalidInputError(f"alpha must be a finite number, not {self.alpha!r}")
        if self.svd_rank is not None and not (is_whole(self.svd_rank) and self.svd_rank >= 1):
            raise InvalidInputError(f"the rank must be a whole number of at least 1, not {self.svd_rank!r}")


def _is_one_of(value: object, choices: tuple[str, ...]) -> bool:
    return value is None or (isinstance(value, str) and value in choices)
