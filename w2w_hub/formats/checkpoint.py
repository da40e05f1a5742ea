"""A checkpoint as a dialect sees it: keys, shapes and metadata first, tensors when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFileError, InvalidInputError, MissingPathError, NotACheckpointError, UnsupportedFormatError
from ..files import read_json
from ..tensorfile import parse_safetensors, read_header, read_tensors

CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_WEIGHTS, KOHYA_WEIGHTS = "pytorch_lora_weights.safetensors", "kohya_lora.safetensors"
MLX_WEIGHTS = "adapters.safetensors"  # beside an adapter_config.json of its own kind
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CHECKPOINTS = (".safetensors", ".npz", *PICKLES)
MAX_DATA = 16 * 2**30  # bytes of one checkpoint's tensors; the largest adapters, of rank 256 for Flux, have 5 GB


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
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    load: Callable[[], dict[str, np.ndarray]]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    is_list: bool = False

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
        from ..adapter import COMPONENTS

        if self.believe not in (None, "tensors", "config"):
            raise InvalidInputError(f"believe is {self.believe!r}; choose tensors or config")
        if self.component is not None and self.component not in COMPONENTS:
            raise InvalidInputError(f"component is {self.component!r}; choose {', '.join(COMPONENTS)}")
        if self.alpha is not None and not np.isfinite(self.alpha):
            raise InvalidInputError(f"alpha must be a number, not {self.alpha}")
        if self.svd_rank is not None and self.svd_rank < 1:
            raise InvalidInputError(f"the rank must be at least 1, not {self.svd_rank}")


def open_checkpoint(path: Path | str, *, allow_torch: bool = False) -> Checkpoint:
    """Open a file or the folder that holds one; nothing but its header is read.

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError
        A pickle is not opened unless it is named as a file and `allow_torch` is set.
    """
    path = Path(path)
    if not path.exists():
        raise MissingPathError(f"{path} is not there")
    file = _weights_in(path) if path.is_dir() else path
    if file.suffix in PICKLES:
        if not allow_torch:
            raise UnsupportedFormatError(
                f"{file} is a pickle and is not opened; if you trust its source, name the file and add --allow-torch "
                "(allow_torch=True), which reads tensors only"
            )
        from .torchfile import open_torch

        return open_torch(path, _config_beside(path))
    if file.suffix == ".npz":
        return _open_npz(file)
    if file.suffix != ".safetensors":
        raise NotACheckpointError(f"{path} is no LoRA checkpoint: {file.suffix or 'no'} ending is not one of theirs")
    header = read_header(file)
    if header.size > MAX_DATA:
        raise UnsupportedFormatError(f"{path} has {header.size:,} bytes of tensors, the limit is {MAX_DATA:,}")
    return Checkpoint(
        path,
        {name: entry.shape for name, entry in header.entries.items()},
        {name: entry.dtype for name, entry in header.entries.items()},
        lambda: read_tensors(file, header),
        header.metadata,
        _config_beside(file),
    )


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
    if escapes(found, folder):
        raise UnsupportedFormatError(f"{found} is a link that leads out of its folder; name the file it leads to")
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


def _config_beside(file: Path) -> dict[str, Any] | None:
    """PEFT's configuration of a weights file: beside its usual name, or beside the only weights of a folder."""
    config = file.parent / CONFIG
    if not config.is_file():
        return None
    usual = file.stem == Path(PEFT_WEIGHTS).stem
    alone = sum(p.suffix in CHECKPOINTS for p in file.parent.iterdir()) == 1
    if not (usual or alone):
        return None
    if escapes(config, file.parent):
        raise UnsupportedFormatError(f"{config} is a link that leads out of its folder")
    return read_json(config)


def _open_npz(file: Path) -> Checkpoint:
    """Names and shapes of a NumPy archive; only MLX writes adapters so, and those are not read here."""
    import zipfile

    shapes, dtypes = {}, {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist()[:100_000]:
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                    read = read or np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                    shapes[name.removesuffix(".npy")] = shape
                    dtypes[name.removesuffix(".npy")] = dtype.name
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise what a damaged stream makes them
        raise CorruptFileError(f"{file} is not a readable NumPy archive ({error}); fetch it again") from error

    def refuse() -> dict[str, np.ndarray]:
        raise UnsupportedFormatError(f"{file}: a NumPy archive is looked at, never read; save it as safetensors")

    return Checkpoint(file, shapes, dtypes, refuse)
