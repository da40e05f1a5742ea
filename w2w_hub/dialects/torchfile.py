"""Read torch's own files as data, with neither torch nor an unpickler; only when the caller allows it.

Such a file is a zip archive: ``data.pkl``, a pickle that lists the tensors, and one uncompressed member per storage.
Only the pickle's instructions that build dicts, lists, numbers, text and tensors are followed; any other name is an
error, so nothing in it can run. A tensor is recorded as storage, offset, shape and strides, and compared with the bytes
that the archive has before memory is allocated.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.limits import MAX_PICKLE_BYTES, MAX_TENSOR_BYTES, MAX_TENSOR_NAME, MAX_TENSORS
from ..errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..store.paths import short
from ..store.tensorfile import require_bearable
from .archives import open_archive, read_member
from .checkpoint import Checkpoint
from .pickled import STORAGES, PickleReading, Storage, Tensor


def open_torch(path: Path, opener: Callable[[], BinaryIO], config: dict[str, Any] | None) -> Checkpoint:
    """Open a ``.pt``, ``.bin`` or ``.ckpt`` file that holds named tensors, a ``state_dict`` of them, or a list.

    Parameters
    ----------
    path : Path
        The file's name in messages.
    opener : callable
        Opens the file.
    config : dict, optional
        ``adapter_config.json`` beside it.

    Raises
    ------
    CorruptFileError, UnsupportedFormatError
        If it is not an archive in the format of torch 1.6, holds other objects, or claims more than it stores.
    """
    with opener() as file:
        try:
            archive, members = open_archive(file)
            root, found = _contents(archive, members, path)
        except W2WError:
            raise
        except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise CorruptFileError(
                f"{path} is not a torch archive ({error}); files of torch before 1.6 are not read, save it again",
                path=path,
            ) from error
    is_list = isinstance(found, (list, tuple))
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    items = {str(i): value for i, value in enumerate(found)} if isinstance(found, (list, tuple)) else found
    if not isinstance(items, dict) or not items or len(items) > MAX_TENSORS:
        raise UnsupportedFormatError(
            f"{path} holds no tensors by name and no list of tensors; save it as safetensors", path=path
        )
    other = next((k for k, v in items.items() if not isinstance(k, str) or not isinstance(v, Tensor)), None)
    if other is not None:
        raise UnsupportedFormatError(f"{path}: {short(other)} is not a named tensor; save it as safetensors", path=path)
    total = 0
    for key, tensor in items.items():
        if len(key) > MAX_TENSOR_NAME:
            raise CorruptFileError(f"{path}: a tensor's name has {len(key):,} characters; fetch it again", path=path)
        require_stored(tensor, members.get(f"{root}data/{tensor.storage.key}"), f"{path}: {short(key)}")
        total += math.prod(tensor.shape) * tensor.width
    if total > sum(member.file_size for member in members.values()):
        raise CorruptFileError(f"{path}: its tensors have {total:,} bytes, more than are stored", path=path)
    return Checkpoint(
        path,
        {key: tensor.shape for key, tensor in items.items()},
        {key: tensor.dtype for key, tensor in items.items()},
        lambda: _load(items, opener, root, path),
        config=config,
        is_list=is_list,
    )


def _contents(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path) -> tuple[str, Any]:
    """Return the folder inside the archive that holds its members, and the value that its pickle describes."""
    root = archive_root(members, path)
    member = require_pickle(members[f"{root}data.pkl"], path)
    if sum(m.file_size for m in members.values()) > MAX_TENSOR_BYTES:
        raise UnsupportedFormatError(
            f"{path} has more than {MAX_TENSOR_BYTES:,} bytes of tensors, the limit", path=path
        )
    found = PickleReading(path).result(read_member(archive, member))
    return root, found


def archive_root(members: Mapping[str, zipfile.ZipInfo], path: Path) -> str:
    """Return the folder inside an uncompressed archive of torch that holds its ``data.pkl``, with a slash, or "".

    Raises
    ------
    UnsupportedFormatError, zipfile.BadZipFile
    """
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise UnsupportedFormatError(f"{path} is compressed, which torch's archives are not", path=path)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise zipfile.BadZipFile(f"it has {len(pickles)} members called data.pkl")
    return pickles[0].removesuffix("data.pkl")


def require_pickle(member: zipfile.ZipInfo, path: Path, limit: int = MAX_PICKLE_BYTES) -> zipfile.ZipInfo:
    """Return the member that is an archive's pickle, or raise `UnsupportedFormatError` if it is too large."""
    if member.file_size > limit:
        raise UnsupportedFormatError(
            f"{path} has a pickle of {member.file_size:,} bytes, the limit is {limit:,}", path=path
        )
    return member


def is_big_endian(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], root: str) -> bool:
    """Return whether an archive of torch states that its storages are big-endian."""
    order = members.get(f"{root}byteorder")
    return order is not None and order.file_size == 3 and read_member(archive, order) == b"big"


def require_stored(tensor: Tensor, member: zipfile.ZipInfo | None, what: str) -> None:
    """Raise unless the archive has all the bytes that a tensor claims."""
    if member is None:
        raise CorruptFileError(f"{what}: its storage is not in the archive; fetch it again")
    if tensor.storage.numbers * tensor.width != member.file_size:
        raise CorruptFileError(f"{what} claims {tensor.storage.numbers:,} numbers, more than are stored")
    numbers = math.prod(tensor.shape)
    if not numbers:
        require_bearable(tensor.shape, tensor.width, what)
    if numbers > tensor.storage.numbers:
        raise CorruptFileError(f"{what} has shape {tensor.shape}, more than is stored")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if numbers and last >= tensor.storage.numbers:
        raise CorruptFileError(f"{what} reaches beyond its storage; fetch it again")


def _load(items: dict[str, Tensor], opener: Callable[[], BinaryIO], root: str, path: Path) -> dict[str, np.ndarray]:
    with opener() as file:
        try:
            archive, members = open_archive(file)
            swapped = is_big_endian(archive, members, root)
            storages: dict[Storage, np.ndarray] = {}
            for tensor in items.values():
                storage = tensor.storage
                if storage not in storages:
                    member = members[f"{root}data/{storage.key}"]
                    require_stored(tensor, member, str(path))  # it may have changed since
                    kind = np.dtype(STORAGES[storage.kind][1]).newbyteorder(">" if swapped else "<")
                    storages[storage] = np.frombuffer(read_member(archive, member), kind)
        except (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            if isinstance(error, W2WError):
                raise
            raise CorruptFileError(f"{path} is damaged or changed while it was read ({error})", path=path) from error
    return {key: _array(tensor, storages[tensor.storage]) for key, tensor in items.items()}


def view_of(tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """Return a tensor that is not empty as a read-only view of its storage's values."""
    # the stride of an axis of one value means nothing, and may be any number
    strides = [
        stride * storage.itemsize if n > 1 else 0 for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)


def _array(tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """Return a tensor's own values; bfloat16 widens to float32."""
    values = view_of(tensor, storage) if math.prod(tensor.shape) else np.empty(tensor.shape, storage.dtype)
    if tensor.dtype == "BF16":
        return np.ascontiguousarray(values.astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    return values.astype(storage.dtype.newbyteorder("="), order="C", copy=True)
