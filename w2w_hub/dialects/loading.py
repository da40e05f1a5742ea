"""Open a checkpoint file, or the weights file of a folder; only headers are read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.limits import MAX_TENSOR_BYTES as MAX_DATA
from ..common.text import an
from ..errors import InvalidInputError, MissingPathError, NotACheckpointError, UnsupportedFormatError, W2WError
from ..store.paths import missing, short
from ..store.tensorfile import header_from, tensors_from
from .checkpoint import CONFIG, Checkpoint, provenance
from .opening import open_beside, open_named, read_config, require_no_pointer
from .registry import dialects, weights_names

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CHECKPOINTS = (".safetensors", ".npz", *PICKLES)


def open_checkpoint(path: Path | str, *, allow_torch: bool = False) -> Checkpoint:
    """Open a checkpoint file, or a folder that holds one; only its header is read.

    Raises
    ------
    MissingPathError, UnsupportedFormatError, CorruptFileError
        Also for a pickle, unless it is named as a file and `allow_torch` is set.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidInputError(f"a checkpoint must be a path, not {an(type(path).__name__)}")
    if not isinstance(allow_torch, (bool, np.bool_)):
        raise InvalidInputError(f"allow_torch must be True or False, not {allow_torch!r}")
    path = Path(path)
    if not _exists(path):
        raise missing(path)
    file = _weights_in(path) if path.is_dir() else path

    def opened() -> BinaryIO:
        return open_beside(path, file.name) if file is not path else open_named(file)

    with opened() as found:
        require_no_pointer(found, file)
        if file.suffix in PICKLES:
            if not allow_torch:
                raise UnsupportedFormatError(
                    f"{file} is a pickle and is not opened; if you trust its source, name the file and add "
                    "--allow-torch (allow_torch=True), which reads tensors only",
                    path=file,
                )
            from .torchfile import open_torch

            config, note = _config_beside(file)
            return replace(open_torch(path, opened, config), config_note=note)
        if file.suffix == ".npz":
            return _open_npz(file, found)
        if file.suffix != ".safetensors":
            raise NotACheckpointError(
                f"{path} is not a LoRA checkpoint: files with the suffix {file.suffix or '(none)'} are not read",
                path=path,
            )
        header = header_from(found, file)
    if header.size > MAX_DATA:
        raise UnsupportedFormatError(
            f"{path} has {header.size:,} bytes of tensors, the limit is {MAX_DATA:,}", path=path
        )

    def load() -> dict[str, np.ndarray]:
        with opened() as again:
            return tensors_from(again, header, file)

    config, note = _config_beside(file)
    checkpoint = Checkpoint.from_header(path, header, load, config)
    checkpoint.config_note = note
    return checkpoint


def provenance_in(path: Path | str) -> dict[str, str]:
    """Return what the header of a checkpoint says about how it was made; empty for anything that is no checkpoint."""
    try:
        return provenance(open_checkpoint(path).metadata) if _exists(Path(path)) else {}
    except W2WError:
        return {}


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def weights_file(folder: Path) -> Path | None:
    """Return the weights file of a folder; None if it has none, or several without a usual name."""
    for name in weights_names(with_config=(folder / CONFIG).is_file()):
        if (folder / name).is_file():
            return folder / name
    found = [p for p in sorted(folder.iterdir()) if p.suffix == ".safetensors" and p.is_file()]
    return found[0] if len(found) == 1 else None


def _weights_in(folder: Path) -> Path:
    try:
        found = weights_file(folder)
        names = sorted(p.name for p in folder.iterdir() if p.suffix in CHECKPOINTS)
    except OSError as error:
        raise MissingPathError(f"{folder} cannot be read: {error.strerror}", path=folder) from error
    pickles = [name for name in names if name.endswith(PICKLES)]
    if found is None and pickles:
        with open_beside(folder, pickles[0]) as file:
            require_no_pointer(file, folder / pickles[0])
    unopened = (
        f"; {pickles[0]} is a pickle and is not opened; save it again as safetensors, or name the file with "
        "--allow-torch (allow_torch=True)"
        if pickles
        else ""
    )
    if (folder / CONFIG).is_file():
        usual = weights_names(with_config=True)
        if found is None or found.name not in usual:
            raise MissingPathError(f"{folder} has {CONFIG} but no {usual[0]}{unopened}", path=folder)
    if found is None:
        tensors = [name for name in names if name.endswith((".safetensors", ".npz"))]
        if len(tensors) == 1:
            found = folder / tensors[0]
        elif tensors:
            raise UnsupportedFormatError(
                f"{folder} holds {len(tensors)} checkpoints ({', '.join(tensors[:3])}); name one file",
                path=folder,
            )
        else:
            raise NotACheckpointError(f"{folder} is not a LoRA checkpoint of a known dialect{unopened}", path=folder)
    return found


def escapes(file: Path, folder: Path) -> bool:
    """Return True if a file is a link out of a folder, other than one to a blob of the Hub cache."""
    if not file.is_symlink():
        return False
    real, inside = file.resolve(), folder.resolve()
    if real.is_relative_to(inside):
        return False
    cache = next((p.parent for p in (inside, *inside.parents) if p.name == "snapshots"), None)
    return cache is None or not real.is_relative_to(cache / "blobs")


def _config_beside(file: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the configuration of a weights file, or the reason why the one beside it was ignored.

    It belongs to the weights file of a dialect that writes one (PEFT), or to the only weights file of a folder.
    """
    config = file.parent / CONFIG
    if not os.path.lexists(config):
        return None, ""
    owners = [dialect.weights_name for dialect in dialects().values() if dialect.weights_name and dialect.owns_config]
    usual = any(file.stem == Path(name).stem for name in owners)
    others = [p.name for p in file.parent.iterdir() if p.suffix in CHECKPOINTS and p.name != file.name]
    if not usual and others:
        owner = next((name for name in owners if name in others), min(others))
        return None, f"the {CONFIG} beside it may belong to {short(owner)}"
    return read_config(file.parent, CONFIG), ""


def _open_npz(path: Path, file: BinaryIO) -> Checkpoint:
    """Open a NumPy archive for its names and shapes; only MLX writes such adapters, which are not read."""
    from .archives import list_arrays

    arrays = list_arrays(file, str(path))

    def refuse() -> dict[str, np.ndarray]:
        raise UnsupportedFormatError(
            f"{path}: tensors of a NumPy archive are not read; save it as safetensors", path=path
        )

    shapes, dtypes = ({name: array[i] for name, array in arrays.items()} for i in (0, 1))
    return Checkpoint(path, shapes, dtypes, refuse)  # type: ignore[arg-type]
