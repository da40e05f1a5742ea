"""A checkpoint as a dialect sees it: keys, shapes and metadata first, tensors when they are asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.checks import is_whole
from ..common.limits import MAX_TENSOR_BYTES as MAX_DATA
from ..errors import InvalidInputError, MissingPathError, NotACheckpointError, UnsupportedFormatError
from ..store.paths import short
from ..store.tensorfile import header_from, parse_safetensors, tensors_from
from .opening import open_beside, open_named, read_config, require_no_pointer

CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_WEIGHTS, KOHYA_WEIGHTS = "pytorch_lora_weights.safetensors", "kohya_lora.safetensors"
MLX_WEIGHTS = "adapters.safetensors"  # beside an adapter_config.json of its own kind
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CHECKPOINTS = (".safetensors", ".npz", *PICKLES)


@dataclass
class Checkpoint:
    """One checkpoint, opened.

    Attributes
    ----------
    path : Path
        What was named: the folder, or the file.
    shapes, dtypes : dict
        Of every tensor; dtypes as safetensors names them.
    metadata : dict of str to str
        The file's own header.
    config : dict or None
        ``adapter_config.json`` beside the weights.
    load : callable
        Reads the tensors.
    is_list : bool
        Whether it is a bare list of tensors, whose keys are their positions.
    config_note : str
        Why an ``adapter_config.json`` that is there is not this checkpoint's; else empty.
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
        """Its name in messages."""
        return str(self.path)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        return self.load()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "memory", config: dict[str, Any] | None = None) -> Checkpoint:
        """A safetensors file in memory."""
        tensors, header = parse_safetensors(data, where)
        return cls(
            Path(where),
            {name: entry.shape for name, entry in header.entries.items()},
            {name: entry.dtype for name, entry in header.entries.items()},
            lambda: tensors,
            header.metadata,
            config,
        )


@dataclass(frozen=True)
class ReadOptions:
    """What a caller states about a checkpoint, see :func:`read_adapter`."""

    believe: str | None = None
    alpha: float | None = None
    component: str | None = None
    svd_rank: int | None = None

    def __post_init__(self) -> None:
        from ..lora.adapter import COMPONENTS

        if not _is_one_of(self.believe, ("tensors", "config")):
            raise InvalidInputError(f"believe is {self.believe!r}; choose tensors or config")
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


def open_checkpoint(path: Path | str, *, allow_torch: bool = False) -> Checkpoint:
    """Open a file or the folder that holds one; nothing but its header is read.

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError
        A pickle is not opened unless it is named as a file and `allow_torch` is set.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidInputError(f"a checkpoint is named by its path, not by {type(path).__name__}")
    if not isinstance(allow_torch, (bool, np.bool_)):
        raise InvalidInputError(f"allow_torch must be True or False, not {allow_torch!r}")
    path = Path(path)
    if not _exists(path):
        raise MissingPathError(f"{path} is not there")
    file = _weights_in(path) if path.is_dir() else path

    def opened() -> BinaryIO:
        return open_beside(path, file.name) if file is not path else open_named(file)

    with opened() as found:
        require_no_pointer(found, file)
        if file.suffix in PICKLES:
            if not allow_torch:
                raise UnsupportedFormatError(
                    f"{file} is a pickle and is not opened; if you trust its source, name the file and add "
                    "--allow-torch (allow_torch=True), which reads tensors only"
                )
            from .torchfile import open_torch

            return open_torch(path, opened, _config_beside(file)[0])
        if file.suffix == ".npz":
            return _open_npz(file, found)
        if file.suffix != ".safetensors":
            raise NotACheckpointError(
                f"{path} is no LoRA checkpoint: {file.suffix or 'no'} ending is not one of theirs"
            )
        header = header_from(found, file)
    if header.size > MAX_DATA:
        raise UnsupportedFormatError(f"{path} has {header.size:,} bytes of tensors, the limit is {MAX_DATA:,}")

    def load() -> dict[str, np.ndarray]:
        with opened() as again:
            return tensors_from(again, header, file)

    config, note = _config_beside(file)
    return Checkpoint(
        path,
        {name: entry.shape for name, entry in header.entries.items()},
        {name: entry.dtype for name, entry in header.entries.items()},
        load,
        header.metadata,
        config,
        config_note=note,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def weights_file(folder: Path) -> Path | None:
    """The weights that a folder stands for; None if it has none, or several and no usual name among them."""
    usual = (PEFT_WEIGHTS, MLX_WEIGHTS) if (folder / CONFIG).is_file() else (PEFT_WEIGHTS, DIFFUSERS_WEIGHTS)
    for name in usual:
        if (folder / name).is_file():
            return folder / name
    found = [p for p in sorted(folder.iterdir()) if p.suffix == ".safetensors" and p.is_file()]
    return found[0] if len(found) == 1 else None


def _weights_in(folder: Path) -> Path:
    try:
        found = weights_file(folder)
        names = sorted(p.name for p in folder.iterdir() if p.suffix in CHECKPOINTS)
    except OSError as error:
        raise MissingPathError(f"{folder} cannot be read: {error.strerror}") from error
    pickles = [name for name in names if name.endswith(PICKLES)]
    if found is None and pickles:
        with open_beside(folder, pickles[0]) as file:
            require_no_pointer(file, folder / pickles[0])
    unopened = (
        f"; {pickles[0]} is a pickle and is not opened, save it again as safetensors or name the file with "
        "--allow-torch (allow_torch=True)"
        if pickles
        else ""
    )
    if (folder / CONFIG).is_file() and (found is None or found.name not in (PEFT_WEIGHTS, MLX_WEIGHTS)):
        raise MissingPathError(f"{folder} has {CONFIG} but no {PEFT_WEIGHTS}{unopened}")
    if found is None:
        tensors = [name for name in names if name.endswith((".safetensors", ".npz"))]
        if len(tensors) == 1:
            found = folder / tensors[0]
        elif tensors:
            raise UnsupportedFormatError(
                f"{folder} holds {len(tensors)} checkpoints ({', '.join(tensors[:3])}); name the file you mean"
            )
        else:
            raise NotACheckpointError(f"{folder} is no LoRA checkpoint in a dialect known here{unopened}")
    return found


def escapes(file: Path, folder: Path) -> bool:
    """Whether a file lies outside a folder, after links; the Hub cache's own links to its blobs do not."""
    if not file.is_symlink():
        return False
    real, inside = file.resolve(), folder.resolve()
    if real.is_relative_to(inside):
        return False
    cache = next((p.parent for p in (inside, *inside.parents) if p.name == "snapshots"), None)
    return cache is None or not real.is_relative_to(cache / "blobs")


def _config_beside(file: Path) -> tuple[dict[str, Any] | None, str]:
    """Return PEFT's configuration of a weights file, or why the one that is there is not its.

    It is that of PEFT's usual name, or of the only weights of a folder.
    """
    config = file.parent / CONFIG
    if not os.path.lexists(config):
        return None, ""
    usual = file.stem == Path(PEFT_WEIGHTS).stem
    others = [p.name for p in file.parent.iterdir() if p.suffix in CHECKPOINTS and p.name != file.name]
    if not usual and others:
        owner = PEFT_WEIGHTS if PEFT_WEIGHTS in others else min(others)
        return None, f"the {CONFIG} beside it may be that of {short(owner)}"
    return read_config(file.parent, CONFIG), ""


def _open_npz(path: Path, file: BinaryIO) -> Checkpoint:
    """Names and shapes of a NumPy archive; only MLX writes adapters so, and those are not read here."""
    from .archives import list_arrays

    arrays = list_arrays(file, str(path))

    def refuse() -> dict[str, np.ndarray]:
        raise UnsupportedFormatError(f"{path}: a NumPy archive is looked at, never read; save it as safetensors")

    shapes, dtypes = ({name: array[i] for name, array in arrays.items()} for i in (0, 1))
    return Checkpoint(path, shapes, dtypes, refuse)  # type: ignore[arg-type]
