"""Read torch's own files as data, with neither torch nor an unpickler; only when the caller allows it.

Such a file is a zip archive: ``data.pkl``, a pickle that lists the tensors, and one uncompressed member per storage.
Only the pickle's instructions that build dicts, lists, numbers, text and tensors are followed; any other name is an
error, so nothing in it can run. A tensor is recorded as storage, offset, shape and strides, and compared with the bytes
that the archive has before memory is allocated.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.limits import MAX_PICKLE_BYTES, MAX_PICKLE_STEPS, MAX_TENSOR_BYTES, MAX_TENSOR_NAME, MAX_TENSORS
from ..errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..store.paths import short
from ..store.tensorfile import require_bearable
from .archives import open_archive, read_member
from .checkpoint import Checkpoint

# torch's names of storages, safetensors' of their dtypes, and NumPy's without the byte order
_STORAGES = {
    "DoubleStorage": ("F64", "f8"), "FloatStorage": ("F32", "f4"), "HalfStorage": ("F16", "f2"),
    "BFloat16Storage": ("BF16", "u2"), "LongStorage": ("I64", "i8"), "IntStorage": ("I32", "i4"),
    "ShortStorage": ("I16", "i2"), "CharStorage": ("I8", "i1"), "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "?"),
}  # fmt: skip
_REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_ORDERED = "collections.OrderedDict"
_KNOWN = {_PARAMETER, _ORDERED, *_REBUILD, *(f"torch.{name}" for name in _STORAGES)}


@dataclass(frozen=True)
class _Name:
    """A Python name in the pickle; it is never looked up."""

    path: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    numbers: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return _STORAGES[self.storage.kind][0]

    @property
    def width(self) -> int:
        return np.dtype(_STORAGES[self.storage.kind][1]).itemsize


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
    other = next((k for k, v in items.items() if not isinstance(k, str) or not isinstance(v, _Tensor)), None)
    if other is not None:
        raise UnsupportedFormatError(f"{path}: {short(other)} is not a named tensor; save it as safetensors", path=path)
    total = 0
    for key, tensor in items.items():
        if len(key) > MAX_TENSOR_NAME:
            raise CorruptFileError(f"{path}: a tensor's name has {len(key):,} characters; fetch it again", path=path)
        _require_stored(tensor, members.get(f"{root}data/{tensor.storage.key}"), f"{path}: {short(key)}")
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
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise UnsupportedFormatError(f"{path} is compressed, which torch's archives are not", path=path)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise zipfile.BadZipFile(f"it has {len(pickles)} members called data.pkl")
    member = members[pickles[0]]
    if member.file_size > MAX_PICKLE_BYTES:
        raise UnsupportedFormatError(
            f"{path} has a pickle of {member.file_size:,} bytes, the limit is {MAX_PICKLE_BYTES:,}", path=path
        )
    if sum(m.file_size for m in members.values()) > MAX_TENSOR_BYTES:
        raise UnsupportedFormatError(
            f"{path} has more than {MAX_TENSOR_BYTES:,} bytes of tensors, the limit", path=path
        )
    found = _Reading(path).result(read_member(archive, member))
    return pickles[0].removesuffix("data.pkl"), found


def _require_stored(tensor: _Tensor, member: zipfile.ZipInfo | None, what: str) -> None:
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


def _load(items: dict[str, _Tensor], opener: Callable[[], BinaryIO], root: str, path: Path) -> dict[str, np.ndarray]:
    with opener() as file:
        try:
            archive, members = open_archive(file)
            order = members.get(f"{root}byteorder")
            swapped = order is not None and order.file_size == 3 and read_member(archive, order) == b"big"
            storages: dict[_Storage, np.ndarray] = {}
            for tensor in items.values():
                storage = tensor.storage
                if storage not in storages:
                    member = members[f"{root}data/{storage.key}"]
                    _require_stored(tensor, member, str(path))  # it may have changed since
                    kind = np.dtype(_STORAGES[storage.kind][1]).newbyteorder(">" if swapped else "<")
                    storages[storage] = np.frombuffer(read_member(archive, member), kind)
        except (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            if isinstance(error, W2WError):
                raise
            raise CorruptFileError(f"{path} is damaged or changed while it was read ({error})", path=path) from error
    return {key: _array(tensor, storages[tensor.storage]) for key, tensor in items.items()}


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """Return a tensor's own values; bfloat16 widens to float32."""
    if not math.prod(tensor.shape):
        values = np.empty(tensor.shape, storage.dtype)
    else:
        strides = [
            stride * storage.itemsize if n > 1 else 0 for n, stride in zip(tensor.shape, tensor.strides, strict=True)
        ]
        values = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
    if tensor.dtype == "BF16":
        return np.ascontiguousarray(values.astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    return values.astype(storage.dtype.newbyteorder("="), order="C", copy=True)


# ----------------------------------------------------------------- the pickle
_MARK = object()


class _Reading:
    """Follows a pickle's instructions as far as they describe plain values and tensors.

    `pickletools` splits the bytes into instructions; nothing is looked up or called. No instruction makes more than it
    has bytes itself: the stack, the memo and all values are bounded by the pickle's length and by a number of steps.
    """

    def __init__(self, path: Path):
        self._path, self._at = path, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self, data: bytes) -> Any:
        try:
            for number, (code, argument, position) in enumerate(pickletools.genops(data)):
                self._at = position or 0
                if number >= MAX_PICKLE_STEPS:
                    raise UnsupportedFormatError(
                        f"{self._path} has a pickle of more than {MAX_PICKLE_STEPS:,} steps, the limit", path=self._path
                    )
                if code.name == "STOP":
                    return self._pop()
                if code.name not in _STEPS:
                    raise self._foreign(f"instruction {code.name}")
                _STEPS[code.name](self, argument)
        except ValueError as error:
            if isinstance(error, W2WError):
                raise
            raise self._damaged() from error
        raise self._damaged()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._damaged()
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise self._damaged()
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        found = []
        while self._stack and self._stack[-1] is not _MARK:
            found.append(self._stack.pop())
        if not self._stack:
            raise self._damaged()
        self._stack.pop()
        return found[::-1]

    def _tuple(self, count: int) -> None:
        self._push(tuple([self._pop() for _ in range(count)][::-1]))

    def _set_items(self, flat: list[Any]) -> None:
        into = self._top(dict)
        if len(flat) % 2:
            raise self._damaged()
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, (str, int, float, type(None))):
                raise UnsupportedFormatError(f"{self._path} holds a dict with keys that are not text; save it again")
            into[key] = value

    def _get(self, number: int) -> None:
        if number not in self._memo:
            raise self._damaged()
        self._push(self._memo[number])

    def _put(self, number: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._damaged()
        self._memo[number] = self._stack[-1]

    def _name(self, path: str) -> None:
        if path not in _KNOWN:
            raise self._foreign(f"it names {short(path)}")
        self._push(_Name(path))

    def _stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):  # writing out nested lists may take forever
            raise self._damaged()
        self._name(f"{module}.{name}")

    def _storage(self) -> None:
        found = self._pop()
        if not (
            isinstance(found, tuple) and len(found) >= 5 and found[0] == "storage" and isinstance(found[1], _Name)
            and found[1].path.startswith("torch.") and found[1].path.removeprefix("torch.") in _STORAGES
            and isinstance(found[2], str) and len(found[2]) < 64 and _is_count(found[4])
            and (len(found) == 5 or found[5] is None)
        ):  # fmt: skip
            raise self._damaged()
        self._push(_Storage(found[1].path.removeprefix("torch."), found[2], found[4]))

    def _call(self) -> None:
        arguments, name = self._pop(), self._pop()
        if not (isinstance(name, _Name) and isinstance(arguments, tuple)):
            raise self._damaged()
        if name.path == _ORDERED and not arguments:
            self._push({})
        elif name.path == _PARAMETER and arguments and isinstance(arguments[0], _Tensor):
            self._push(arguments[0])
        elif name.path in _REBUILD and len(arguments) >= 4 and not any(arguments[6:]):
            storage, offset, shape, strides = arguments[:4]
            if not (
                isinstance(storage, _Storage) and _is_count(offset)
                and isinstance(shape, tuple) and all(map(_is_count, shape))
                and isinstance(strides, tuple) and all(map(_is_count, strides)) and len(shape) == len(strides)
            ):  # fmt: skip
                raise self._damaged()
            self._push(_Tensor(storage, offset, shape, strides))
        else:
            raise self._foreign(f"it calls {name.path}")

    def _build(self) -> None:
        state = self._pop()
        if not isinstance(state, dict):  # a state dict's versions, which mean nothing here
            raise self._damaged()
        self._top(dict)

    def _damaged(self) -> CorruptFileError:
        return self._foreign(f"or is damaged at byte {self._at:,} of its pickle")

    def _foreign(self, what: str) -> CorruptFileError:
        return CorruptFileError(
            f"{self._path} holds something other than plain tensors ({what}), and was not executed; save it again as "
            "safetensors",
            path=self._path,
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


_STEPS: dict[str, Callable[[_Reading, Any], object]] = {
    "PROTO": lambda r, _: None,
    "FRAME": lambda r, _: None,
    "MARK": lambda r, _: r._push(_MARK),
    "EMPTY_TUPLE": lambda r, _: r._push(()),
    "EMPTY_LIST": lambda r, _: r._push([]),
    "EMPTY_DICT": lambda r, _: r._push({}),
    "NONE": lambda r, _: r._push(None),
    "NEWTRUE": lambda r, _: r._push(True),
    "NEWFALSE": lambda r, _: r._push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Reading._push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), _Reading._push),
    "TUPLE": lambda r, _: r._push(tuple(r._since_mark())),
    "TUPLE1": lambda r, _: r._tuple(1),
    "TUPLE2": lambda r, _: r._tuple(2),
    "TUPLE3": lambda r, _: r._tuple(3),
    "SETITEM": lambda r, _: r._set_items([r._pop(), r._pop()][::-1]),
    "SETITEMS": lambda r, _: r._set_items(r._since_mark()),
    "APPEND": lambda r, _: (value := r._pop(), r._top(list).append(value)),
    "APPENDS": lambda r, _: (values := r._since_mark(), r._top(list).extend(values)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Reading._put),
    "MEMOIZE": lambda r, _: r._put(len(r._memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Reading._get),
    "GLOBAL": lambda r, path: r._name(path.replace(" ", ".")),
    "STACK_GLOBAL": lambda r, _: r._stack_name(),
    "BINPERSID": lambda r, _: r._storage(),
    "REDUCE": lambda r, _: r._call(),
    "BUILD": lambda r, _: r._build(),
}
