"""Torch's own files, only when the caller asked for them: tensors alone, through ``weights_only=True``."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFileError, UnsupportedFormatError, missing_extra
from ..tensorfile import MAX_TENSORS
from .checkpoint import MAX_DATA, Checkpoint

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


def open_torch(path: Path, config: dict[str, Any] | None) -> Checkpoint:
    """A ``.pt``, ``.bin`` or ``.ckpt`` file: a dict of tensors, that dict under ``state_dict``, or a list of tensors.

    Torch's restricted unpickler reads it, after its archive was found to be a plain one, so that no size in it can
    make more memory than the file has.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_extra("torch", "diffusers") from error

    _require_plain_archive(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged stream makes it do
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CorruptFileError(
            f"{path} holds more than tensors or is damaged, and was not executed ({reason}); "
            "save it again as safetensors"
        ) from error
    is_list = isinstance(found, (list, tuple))
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    items = {str(i): value for i, value in enumerate(found)} if is_list else found
    if not isinstance(items, dict) or not items or len(items) > MAX_TENSORS:
        raise UnsupportedFormatError(f"{path} holds a {type(found).__name__}, expected tensors by name or a list")
    strange = [str(k) for k, v in items.items() if not isinstance(k, str) or not torch.is_tensor(v)]
    if strange:
        raise UnsupportedFormatError(f"{path}: {strange[0][:80]!r} is no named tensor; save it again as safetensors")
    for key, value in items.items():
        if value.is_sparse or value.is_quantized or value.device.type != "cpu":
            raise UnsupportedFormatError(f"{path}: {key} is no dense tensor")
        if math.prod(value.shape) * value.element_size() > value.untyped_storage().nbytes():
            raise CorruptFileError(f"{path}: {key} has shape {tuple(value.shape)}, more than is stored of it")
    dtypes = {k: str(v.dtype).removeprefix("torch.") for k, v in items.items()}

    def load() -> dict[str, np.ndarray]:
        wide = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in items.items()}
        try:
            return {k: v.detach().contiguous().numpy() for k, v in wide.items()}
        except (TypeError, RuntimeError) as error:
            raise UnsupportedFormatError(f"{path}: {error}") from error

    return Checkpoint(
        path,
        {k: tuple(v.shape) for k, v in items.items()},
        {k: _NAMES.get(kind, kind) for k, kind in dtypes.items()},
        load,
        config=config,
        is_list=is_list,
    )


def _require_plain_archive(path: Path) -> None:
    """Raise unless it is the zip archive that torch writes since 1.6, uncompressed and of bearable size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CorruptFileError(
            f"{path} is no torch archive ({error}); files of torch before 1.6 are not opened, save it again"
        ) from error
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or len(members) > MAX_TENSORS:
        raise UnsupportedFormatError(f"{path} is no archive as torch writes it: it is compressed or has too many parts")
    size = sum(m.file_size for m in members)
    if size > min(MAX_DATA, path.stat().st_size):
        raise CorruptFileError(f"{path} claims {size:,} bytes, more than the file has")
