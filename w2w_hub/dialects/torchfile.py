"""Torch's own files, only when the caller asked for them: read as data, by neither torch nor an unpickler.

Such a file is a zip archive: ``data.pkl``, a pickle that says which tensors there are, and one uncompressed member
for each storage. The pickle's instructions are followed here as far as they make dicts, lists, numbers, text and
tensors; a name of anything else ends the reading, so nothing in it can run. A tensor is only noted (storage, offset,
shape, strides) and held against the bytes that the archive has of it before any memory is taken.
"""

from __future__ import annotations

import math
import struct
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
    """A name of Python's that the pickle uses; it is never looked up."""

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
    """Open a ``.pt``, ``.bin`` or ``.ckpt`` file: tensors by name, those under ``state_dict``, or a list of tensors.

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
        If it is not an archive as torch writes it since 1.6, holds more than tensors, or claims more than it stores.
    """
    with opener() as file:
        try:
            archive, members = open_archive(file)
            root, found = _contents(file, archive, members, path)
        except W2WError:
            raise
        except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise CorruptFileError(
                f"{path} is not a torch archive ({error}); files of torch before 1.6 are not opened, save it again",
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
    strange = next((k for k, v in items.items() if not isinstance(k, str) or not isinstance(v, _Tensor)), None)
    if strange is not None:
        raise UnsupportedFormatError(
            f"{path}: {short(strange)} is not a named tensor; save it as safetensors", path=path
        )
    total = 0
    for key, tensor in items.items():
        if len(key) > MAX_TENSOR_NAME:
            raise CorruptFileError(f"{path}: a tensor's name has {len(key):,} characters; fetch it again", path=path)
        _require_stored(tensor, members.get(f"{root}data/{tensor.storage.key}"), f"{path}: {short(key)}")
        total += math.prod(tensor.shape) * tensor.width
    if total > sum(member.file_size for member in members.values()):
        raise CorruptFileError(f"{path}: its tensors have {total:,} bytes, more than is stored of them", path=path)
    return Checkpoint(
        path,
        {key: tensor.shape for key, tensor in items.items()},
        {key: tensor.dtype for key, tensor in items.items()},
        lambda: _load(items, opener, root, path),
        config=config,
        is_list=is_list,
    )


def _contents(
    file: BinaryIO, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path
) -> tuple[str, Any]:
    """Return the folder of the archive that all its members are in, and what its pickle describes."""
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
    found = _Reading(read_member(file, archive, member), path).result()
    return pickles[0].removesuffix("data.pkl"), found


def _require_stored(tensor: _Tensor, member: zipfile.ZipInfo | None, what: str) -> None:
    """Raise unless the archive has all the bytes that a tensor is said to have."""
    if member is None:
        raise CorruptFileError(f"{what}: its storage is not in the archive; fetch it again")
    if tensor.storage.numbers * tensor.width != member.file_size:
        raise CorruptFileError(f"{what} claims {tensor.storage.numbers:,} numbers, more than is stored of it")
    numbers = math.prod(tensor.shape)
    if not numbers:
        require_bearable(tensor.shape, tensor.width, what)
    if numbers > tensor.storage.numbers:
        raise CorruptFileError(f"{what} has shape {tensor.shape}, more than is stored of it")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if numbers and last >= tensor.storage.numbers:
        raise CorruptFileError(f"{what} reaches beyond what is stored of it; fetch it again")


def _load(items: dict[str, _Tensor], opener: Callable[[], BinaryIO], root: str, path: Path) -> dict[str, np.ndarray]:
    with opener() as file:
        try:
            archive, members = open_archive(file)
            order = members.get(f"{root}byteorder")
            swapped = order is not None and order.file_size == 3 and read_member(file, archive, order) == b"big"
            storages: dict[_Storage, np.ndarray] = {}
            for tensor in items.values():
                storage = tensor.storage
                if storage not in storages:
                    member = members[f"{root}data/{storage.key}"]
                    _require_stored(tensor, member, str(path))  # it may have changed since
                    kind = np.dtype(_STORAGES[storage.kind][1]).newbyteorder(">" if swapped else "<")
                    storages[storage] = np.frombuffer(read_member(file, archive, member), kind)
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

    No instruction makes more than it has bytes itself: the stack, the memo and all values are bounded by the
    pickle's length and by a number of steps.
    """

    def __init__(self, data: bytes, path: Path):
        self._data, self._path, self._at = data, path, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        for _ in range(MAX_PICKLE_STEPS):
            code = self._take(1)
            if code == b".":
                return self._pop()
            step = _STEPS.get(code)
            if step is None:
                raise CorruptFileError(
                    f"{self._path} holds something other than plain tensors or is damaged, and was not executed "
                    f"(instruction 0x{code.hex()}); save it again as safetensors"
                )
            step(self)
        raise UnsupportedFormatError(f"{self._path} has a pickle of more than {MAX_PICKLE_STEPS:,} steps, the limit")

    # reading
    def _take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise self._damaged()
        self._at += count
        return found

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _text(self, count: int) -> str:
        return self._take(count).decode("utf-8", "surrogatepass")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 1024)
        if end < 0:
            raise self._damaged()
        found = self._data[self._at : end].decode("utf-8")
        self._at = end + 1
        return found

    # the stack
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

    # names and what is made with them
    def _name(self, module: object, name: object) -> None:
        path = f"{module}.{name}"
        if path not in _KNOWN:
            raise CorruptFileError(
                f"{self._path} holds something other than plain tensors (it names {short(path)}), and was not "
                "executed; save it again as safetensors"
            )
        self._push(_Name(path))

    def _stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

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
            raise CorruptFileError(
                f"{self._path} holds something other than plain tensors (it calls {name.path}), and was not executed; "
                "save it again as safetensors"
            )

    def _build(self) -> None:
        state = self._pop()
        if not isinstance(state, dict):  # a state dict's versions, which mean nothing here
            raise self._damaged()
        self._top(dict)

    def _damaged(self) -> CorruptFileError:
        return CorruptFileError(
            f"{self._path} holds something other than plain tensors or is damaged, and was not executed "
            f"(byte {self._at:,} of its pickle); save it again as safetensors"
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


_STEPS: dict[bytes, Callable[[_Reading], object]] = {
    b"\x80": lambda r: r._take(1),  # protocol
    b"\x95": lambda r: r._take(8),  # frame
    b"(": lambda r: r._push(_MARK),
    b")": lambda r: r._push(()),
    b"]": lambda r: r._push([]),
    b"}": lambda r: r._push({}),
    b"N": lambda r: r._push(None),
    b"\x88": lambda r: r._push(True),
    b"\x89": lambda r: r._push(False),
    b"K": lambda r: r._push(r._number("<B")),
    b"M": lambda r: r._push(r._number("<H")),
    b"J": lambda r: r._push(r._number("<i")),
    b"\x8a": lambda r: r._push(int.from_bytes(r._take(r._number("<B")), "little", signed=True)),
    b"G": lambda r: r._push(r._number(">d")),
    b"\x8c": lambda r: r._push(r._text(r._number("<B"))),
    b"X": lambda r: r._push(r._text(r._number("<I"))),
    b"U": lambda r: r._push(r._text(r._number("<B"))),
    b"T": lambda r: r._push(r._text(r._number("<I"))),
    b"t": lambda r: r._push(tuple(r._since_mark())),
    b"\x85": lambda r: r._tuple(1),
    b"\x86": lambda r: r._tuple(2),
    b"\x87": lambda r: r._tuple(3),
    b"s": lambda r: r._set_items([r._pop(), r._pop()][::-1]),
    b"u": lambda r: r._set_items(r._since_mark()),
    b"a": lambda r: (value := r._pop(), r._top(list).append(value)),
    b"e": lambda r: (values := r._since_mark(), r._top(list).extend(values)),
    b"q": lambda r: r._put(r._number("<B")),
    b"r": lambda r: r._put(r._number("<I")),
    b"\x94": lambda r: r._put(len(r._memo)),
    b"h": lambda r: r._get(r._number("<B")),
    b"j": lambda r: r._get(r._number("<I")),
    b"c": lambda r: r._name(r._line(), r._line()),
    b"\x93": _Reading._stack_name,
    b"Q": _Reading._storage,
    b"R": _Reading._call,
    b"b": _Reading._build,
}
