"""Follow a pickle's instructions as data, without an unpickler: nothing in it is looked up or called.

`pickletools` splits the bytes into instructions. No instruction makes more than it has bytes itself: the stack, the
memo and all values are bounded by the pickle's length and by a number of steps. A Python name in the pickle is kept as
text if it is in a list, and is an error otherwise.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..common.limits import MAX_PICKLE_STEPS
from ..errors import CorruptFileError, UnsupportedFormatError, W2WError
from ..store.paths import short

# torch's names of storages, safetensors' of their dtypes, and NumPy's without the byte order
STORAGES = {
    "DoubleStorage": ("F64", "f8"), "FloatStorage": ("F32", "f4"), "HalfStorage": ("F16", "f2"),
    "BFloat16Storage": ("BF16", "u2"), "LongStorage": ("I64", "i8"), "IntStorage": ("I32", "i4"),
    "ShortStorage": ("I16", "i2"), "CharStorage": ("I8", "i1"), "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "?"),
}  # fmt: skip
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
PARAMETER = "torch._utils._rebuild_parameter"
ORDERED = "collections.OrderedDict"
TENSOR_NAMES = frozenset({PARAMETER, ORDERED, *REBUILD, *(f"torch.{name}" for name in STORAGES)})


@dataclass(frozen=True)
class Name:
    """A Python name in the pickle; it is never looked up."""

    path: str


@dataclass(frozen=True)
class Storage:
    """A storage of torch: its class, its key in the file, and how many numbers it claims to have."""

    kind: str
    key: str
    numbers: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of torch, as a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return STORAGES[self.storage.kind][0]

    @property
    def width(self) -> int:
        return np.dtype(STORAGES[self.storage.kind][1]).itemsize


_MARK = object()


class PickleReading:
    """Reading of one pickle into plain values and tensors; a subclass knows more names and instructions.

    Attributes
    ----------
    names : frozenset of str
        The Python names that may occur.
    steps : dict
        Instruction to what it does.
    most_steps : int
        Instructions that a pickle may have.
    holds, advice : str
        What the file should hold, and what to do if it holds anything else, for messages.
    """

    names: ClassVar[frozenset[str]] = TENSOR_NAMES
    most_steps: ClassVar[int] = MAX_PICKLE_STEPS
    holds: ClassVar[str] = "plain tensors"
    advice: ClassVar[str] = "save it again as safetensors"

    def __init__(self, path: Path):
        self._path, self._at = path, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    @property
    def steps(self) -> dict[str, Step]:
        return STEPS

    def result(self, data: Any) -> Any:
        """Return what a pickle describes.

        Parameters
        ----------
        data : bytes or file
            A file has `read`, `readline` and `tell`, and is read up to the pickle's end.

        Raises
        ------
        CorruptFileError, UnsupportedFormatError
        """
        steps = self.steps
        try:
            for number, (code, argument, position) in enumerate(pickletools.genops(data)):
                self._at = position or 0
                if number >= self.most_steps:
                    raise UnsupportedFormatError(
                        f"{self._path} has a pickle of more than {self.most_steps:,} steps, the limit", path=self._path
                    )
                if code.name == "STOP":
                    return self._pop()
                if code.name not in steps:
                    raise self._foreign(f"instruction {code.name}")
                steps[code.name](self, argument)
        except (ValueError, OverflowError) as error:
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
                raise UnsupportedFormatError(
                    f"{self._path} holds a dict with keys that are not text; save it again", path=self._path
                )
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
        if path not in self.names:
            raise self._foreign(f"it names {short(path)}")
        self._push(Name(path))

    def _stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):  # writing out nested lists may take forever
            raise self._damaged()
        self._name(f"{module}.{name}")

    def _storage(self) -> None:
        found = self._pop()
        if not (
            isinstance(found, tuple) and len(found) >= 5 and found[0] == "storage" and isinstance(found[1], Name)
            and found[1].path.startswith("torch.") and found[1].path.removeprefix("torch.") in STORAGES
            and isinstance(found[2], str) and len(found[2]) < 64 and is_count(found[4])
            and (len(found) == 5 or found[5] is None)
        ):  # fmt: skip
            raise self._damaged()
        self._push(Storage(found[1].path.removeprefix("torch."), found[2], found[4]))

    def _call(self) -> None:
        arguments, name = self._pop(), self._pop()
        if not (isinstance(name, Name) and isinstance(arguments, tuple)):
            raise self._damaged()
        self._push(self.called(name.path, arguments))

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return the value that a call of `name` stands for."""
        if name == ORDERED and not arguments:
            return {}
        if name == PARAMETER and arguments and isinstance(arguments[0], Tensor):
            return arguments[0]
        if name in REBUILD and len(arguments) >= 4 and not any(arguments[6:]):
            storage, offset, shape, strides = arguments[:4]
            if not (
                isinstance(storage, Storage) and is_count(offset)
                and isinstance(shape, tuple) and all(map(is_count, shape))
                and isinstance(strides, tuple) and all(map(is_count, strides)) and len(shape) == len(strides)
            ):  # fmt: skip
                raise self._damaged()
            return Tensor(storage, offset, shape, strides)
        raise self._foreign(f"it calls {name}")

    def _build(self) -> None:
        state = self._pop()
        if not self._stack:
            raise self._damaged()
        self.built(self._stack[-1], state)

    def built(self, value: Any, state: Any) -> None:
        """Set the state of a value."""
        if not isinstance(state, dict) or not isinstance(value, dict):
            raise self._damaged()  # a state dict's versions are dropped, they mean nothing here

    def _damaged(self) -> CorruptFileError:
        return self._foreign(f"or is damaged at byte {self._at:,} of its pickle")

    def _foreign(self, what: str) -> CorruptFileError:
        return CorruptFileError(
            f"{self._path} holds something other than {self.holds} ({what}), and was not executed; {self.advice}",
            path=self._path,
        )


def is_count(value: object) -> bool:
    """Return whether a value is a size or position that torch could have."""
    return type(value) is int and 0 <= value < 2**63


Step = Callable[[Any, Any], object]
STEPS: dict[str, Step] = {
    "PROTO": lambda r, _: None,
    "FRAME": lambda r, _: None,
    "MARK": lambda r, _: r._push(_MARK),
    "EMPTY_TUPLE": lambda r, _: r._push(()),
    "EMPTY_LIST": lambda r, _: r._push([]),
    "EMPTY_DICT": lambda r, _: r._push({}),
    "NONE": lambda r, _: r._push(None),
    "NEWTRUE": lambda r, _: r._push(True),
    "NEWFALSE": lambda r, _: r._push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), PickleReading._push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), PickleReading._push),
    "TUPLE": lambda r, _: r._push(tuple(r._since_mark())),
    "TUPLE1": lambda r, _: r._tuple(1),
    "TUPLE2": lambda r, _: r._tuple(2),
    "TUPLE3": lambda r, _: r._tuple(3),
    "SETITEM": lambda r, _: r._set_items([r._pop(), r._pop()][::-1]),
    "SETITEMS": lambda r, _: r._set_items(r._since_mark()),
    "APPEND": lambda r, _: (value := r._pop(), r._top(list).append(value)),
    "APPENDS": lambda r, _: (values := r._since_mark(), r._top(list).extend(values)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), PickleReading._put),
    "MEMOIZE": lambda r, _: r._put(len(r._memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), PickleReading._get),
    "GLOBAL": lambda r, path: r._name(path.replace(" ", ".")),
    "STACK_GLOBAL": lambda r, _: r._stack_name(),
    "BINPERSID": lambda r, _: r._storage(),
    "REDUCE": lambda r, _: r._call(),
    "BUILD": lambda r, _: r._build(),
}
