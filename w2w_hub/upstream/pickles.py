"""Read a pickled DataFrame, NumPy array or container as inert records: no class of the file is looked up or called.

A call or an object whose Python name is in :data:`NAMES` becomes a :class:`Record` of that name, its arguments and its
state; any other name is an error. NumPy's arrays and scalars become :class:`Array` and plain numbers, which claim no
more than the file has bytes. What a record means is decided in :mod:`.frames`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..common.limits import MAX_TENSOR_AXES
from ..dialects.pickled import STEPS, TENSOR_NAMES, Name, PickleReading, Step, is_count

MOST_ARGUMENTS = 8
MAX_STEPS = 20_000_000  # instructions; a DataFrame of 65,000 rows with two text columns has 0.5 million

SIZE = "torch.Size"
_BYTES = ("_codecs.encode", "__builtin__.bytearray", "builtins.bytearray", "__builtin__.bytes", "builtins.bytes")
_NDARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
_CORES = ("numpy.core", "numpy._core")
_RECONSTRUCT = tuple(f"{core}.multiarray._reconstruct" for core in _CORES)
_SCALAR = tuple(f"{core}.multiarray.scalar" for core in _CORES)
_FROM_BUFFER = tuple(f"{core}.numeric._frombuffer" for core in _CORES)
_ARROW = ("_restore_array", "type_for_alias", "py_buffer")
_INDEXES = ("Index", "RangeIndex", "Int64Index")
_RECORDS = (
    "pandas.DataFrame", "pandas.core.frame.DataFrame", "pandas.Series", "pandas.core.series.Series",
    *(f"pandas.core.internals.managers.{name}" for name in ("BlockManager", "SingleBlockManager")),
    "pandas._libs.internals._unpickle_block", "pandas.core.internals.blocks.new_block",
    "pandas.core.indexes.base._new_Index", *(f"pandas.{name}" for name in _INDEXES),
    "pandas.core.indexes.base.Index", "pandas.core.indexes.range.RangeIndex", "pandas.core.indexes.numeric.Int64Index",
    "pandas.StringDtype", "pandas.core.arrays.string_.StringDtype",
    "pandas.arrays.ArrowStringArray", "pandas.core.arrays.string_arrow.ArrowStringArray",
    *(f"pyarrow.lib.{name}" for name in _ARROW), "__builtin__.slice", "builtins.slice",
)  # fmt: skip
NAMES = TENSOR_NAMES | {SIZE, _NDARRAY, _DTYPE, *_BYTES, *_RECONSTRUCT, *_SCALAR, *_FROM_BUFFER, *_RECORDS}

_PLAIN_DTYPE = re.compile(r"[biuf][1248]|O8|b1|[US]\d{1,6}")


@dataclass
class Record:
    """A call or object of the pickle: its Python name, its arguments, and the state that was set on it."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None

    @property
    def kind(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]


@dataclass
class Dtype:
    """A dtype of NumPy, by its code and byte order."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code if self.code[0] == "O" else f"{self.order}{self.code}")


@dataclass
class Array:
    """An array of NumPy that is complete once its state is set; `values` is then the array, or a list of objects."""

    values: np.ndarray | list[Any] | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False


class UpstreamReading(PickleReading):
    """Reading of the pickles that weights2weights published."""

    names: ClassVar[frozenset[str]] = frozenset(NAMES)
    most_steps: ClassVar[int] = MAX_STEPS
    holds: ClassVar[str] = "tensors, plain values and a DataFrame"
    advice: ClassVar[str] = "fetch it again from where it was published"

    def __init__(self, path: Path):
        super().__init__(path)
        self._encoded: dict[int, tuple[str, bytes]] = {}  # by the text's identity, so that none is encoded twice

    @property
    def steps(self) -> dict[str, Step]:
        return UPSTREAM_STEPS

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in _RECORDS:
            return self._record(name, arguments)
        if name == SIZE:
            sizes = arguments[0] if len(arguments) == 1 else None
            if not isinstance(sizes, tuple) or len(sizes) > MAX_TENSOR_AXES or not all(map(is_count, sizes)):
                raise self._damaged()
            return sizes
        if name in _BYTES:
            return self._bytes(arguments)
        if name in _RECONSTRUCT:
            return Array()
        if name == _DTYPE:
            return self._dtype(arguments)
        if name in _SCALAR:
            return self._scalar(arguments)
        if name in _FROM_BUFFER:
            return self._from_buffer(arguments)
        return super().called(name, arguments)

    def new_object(self) -> None:
        """Make a record of ``cls.__new__(cls, *arguments)``."""
        arguments, name = self._pop(), self._pop()
        if not (isinstance(name, Name) and isinstance(arguments, tuple)):
            raise self._damaged()
        if name.path not in _RECORDS:
            raise self._foreign(f"it makes a {name.path}")
        self._push(self._record(name.path, arguments))

    def _record(self, name: str, arguments: tuple[Any, ...]) -> Record:
        if len(arguments) > MOST_ARGUMENTS:  # they are copied
            raise self._damaged()
        return Record(name, tuple(a.path if isinstance(a, Name) else a for a in arguments))

    def built(self, value: Any, state: Any) -> None:
        if isinstance(value, Record) and value.state is None:
            value.state = state
        elif isinstance(value, Dtype):
            if not (isinstance(state, tuple) and len(state) >= 8 and state[1] in ("<", ">", "=", "|")) or any(
                part is not None for part in state[2:5]
            ):
                raise self._damaged()
            value.order = state[1]
        elif isinstance(value, Array) and value.values is None:
            if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], Dtype)):
                raise self._damaged()
            self._fill(value, state[4], state[2], state[1], bool(state[3]))
        else:
            super().built(value, state)

    def _fill(self, array: Array, data: Any, dtype: Dtype, shape: Any, fortran: bool) -> None:
        """Set an array's values, all of which the pickle must have."""
        if not isinstance(shape, tuple) or len(shape) > MAX_TENSOR_AXES or not all(map(is_count, shape)):
            raise self._damaged()
        count = math.prod(shape)
        if dtype.code[0] == "O":
            if not isinstance(data, list) or len(data) != count:
                raise self._damaged()
            array.values = data
        else:
            kind = dtype.numpy()
            if not isinstance(data, (bytes, bytearray)) or not kind.itemsize or len(data) != count * kind.itemsize:
                raise self._damaged()
            array.values = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
        array.shape, array.fortran = shape, fortran

    def _bytes(self, arguments: tuple[Any, ...]) -> bytes:
        """Return the bytes that Python 3 pickles for Python 2 as text in Latin-1, or a copy of bytes."""
        if arguments in ((), (b"",)):
            return b""
        if len(arguments) == 1 and isinstance(arguments[0], (bytes, bytearray)):
            return bytes(arguments[0])
        if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] in ("latin1", "latin-1"):
            text = arguments[0]
            if id(text) not in self._encoded:
                self._encoded[id(text)] = text, text.encode("latin-1")  # UnicodeEncodeError is a ValueError
            return self._encoded[id(text)][1]
        raise self._damaged()

    def _dtype(self, arguments: tuple[Any, ...]) -> Dtype:
        code = arguments[0] if arguments else None
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code) or code in ("b2", "b4", "b8", "f1"):
            raise self._foreign("it has an array of other values than numbers, text and objects")
        return Dtype(code)

    def _scalar(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 2 or not isinstance(arguments[0], Dtype) or arguments[0].code[0] == "O":
            raise self._damaged()
        array = Array()
        self._fill(array, arguments[1], arguments[0], (), False)
        assert isinstance(array.values, np.ndarray)
        return array.values.item()

    def _from_buffer(self, arguments: tuple[Any, ...]) -> Array:
        if len(arguments) != 4 or not isinstance(arguments[1], Dtype) or arguments[3] not in ("C", "F"):
            raise self._damaged()
        array = Array()
        self._fill(array, arguments[0], arguments[1], arguments[2], arguments[3] == "F")
        return array


def _push_bytes(reading: UpstreamReading, data: Any) -> None:
    reading._push(bytes(data))


UPSTREAM_STEPS: dict[str, Step] = {
    **STEPS,
    "NEWOBJ": lambda r, _: r.new_object(),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push_bytes),
    "BINUNICODE8": PickleReading._push,
    "READONLY_BUFFER": lambda r, _: None,
}
