"""Convert the inert records of a pickled DataFrame to plain columns, checking every part of them.

A record may refer to itself or to one part many times; nothing here follows more levels than a DataFrame has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dialects.pickled import is_count
from ..errors import CorruptFileError
from .pickles import Array, Record

MAX_ROWS, MAX_COLUMNS, MAX_CELLS = 10_000_000, 10_000, 50_000_000
Values = list[Any]  # str, int, float, bool or None


@dataclass(frozen=True)
class Frame:
    """A table of labels.

    Attributes
    ----------
    columns : dict
        Name to values, one per row: text, numbers, booleans or None.
    index : list
        The label of each row.
    is_default : bool
        True if the index is 0, 1, 2, ..., which names nothing.
    """

    columns: dict[str, Values]
    index: Values
    is_default: bool

    def __len__(self) -> int:
        return len(self.index)


def is_frame(value: Any) -> bool:
    """Return whether a value of a pickle is a DataFrame."""
    return isinstance(value, Record) and value.kind == "DataFrame"


def frame_of(value: Any, path: Path) -> Frame:
    """Return the table that a record of a DataFrame describes.

    Raises
    ------
    CorruptFileError
        If it is not a DataFrame, or its parts contradict each other.
    """
    return _Reader(path).frame(value)


def plain_values(value: Array | Sequence[Any], path: Path) -> Values:
    """Return a list, tuple or one-dimensional array of plain values as a list.

    Raises
    ------
    CorruptFileError
        If a value is neither text nor a number, or the array has another shape.
    """
    reader = _Reader(path)
    values = _flat(value) if isinstance(value, Array) else value
    if values is None:
        raise reader.wrong("an array of labels is not one-dimensional")
    return [reader.plain(one) for one in values]


def _flat(array: Array) -> Values | None:
    if array.values is None or len(array.shape) != 1:
        return None
    return array.values if isinstance(array.values, list) else array.values.tolist()


class _Reader:
    def __init__(self, path: Path):
        self.path = path

    def wrong(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.path}: {what}; fetch it again", path=self.path)

    def plain(self, value: Any) -> Any:
        """Return a value of a cell; a float that is not a number is None."""
        if isinstance(value, float) and value != value:
            return None
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self.wrong("a text is not Unicode") from None
            return value
        if isinstance(value, int) and abs(value) >= 2**63:
            raise self.wrong("a number has more than 64 bits")
        if value is None or isinstance(value, (bool, int, float)):
            return value
        raise self.wrong(f"a value is neither text nor a number but a {type(value).__name__}")

    # -------------------------------------------------------------- the frame
    def frame(self, value: Any) -> Frame:
        manager = value.state.get("_mgr") if is_frame(value) and isinstance(value.state, dict) else None
        if manager is None and is_frame(value) and isinstance(value.state, dict):
            manager = value.state.get("_data")
        if not isinstance(manager, Record) or manager.kind != "BlockManager" or len(manager.arguments) < 2:
            raise self.wrong("it is not a DataFrame of pandas 1.3 or later")
        blocks, axes = manager.arguments[:2]
        if not isinstance(blocks, (tuple, list)) or not isinstance(axes, (tuple, list)) or len(axes) != 2:
            raise self.wrong("its DataFrame is damaged")
        names, _ = self.index(axes[0], MAX_COLUMNS)
        index, is_default = self.index(axes[1], MAX_ROWS)
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise self.wrong("the names of its columns are not text, or one occurs twice")
        if len(names) * len(index) > MAX_CELLS:
            raise self.wrong(f"it has {len(names):,} columns of {len(index):,} rows, more than {MAX_CELLS:,} values")
        columns: dict[int, Values] = {}
        for block in blocks:
            numbers, content = self.block(block, len(names))
            if columns.keys() & set(numbers) or len(set(numbers)) != len(numbers):
                raise self.wrong("two of its columns are one")
            columns |= zip(numbers, self.block_columns(content, len(numbers), len(index)), strict=True)
        if columns.keys() != set(range(len(names))):
            raise self.wrong(f"{len(names)} columns are named and {len(columns)} are there")
        return Frame({name: columns[number] for number, name in enumerate(names)}, index, is_default)

    def index(self, value: Any, most: int) -> tuple[Values, bool]:
        """Return the labels of an axis, and whether they are just 0, 1, 2, ..."""
        if not isinstance(value, Record) or value.kind != "_new_Index" or len(value.arguments) != 2:
            raise self.wrong("its index is damaged")
        facts = value.arguments[1]
        if not isinstance(facts, dict):
            raise self.wrong("its index is damaged")
        if "data" not in facts:
            start, stop, step = (facts.get(name) or 0 for name in ("start", "stop", "step"))
            if not (is_count(start) and is_count(stop) and is_count(step)) or not step or stop > start + most * step:
                raise self.wrong("its index is damaged")
            labels = list(range(start, stop, step))
        else:
            labels = self.values(facts["data"], most)
        whole = all(type(label) is int for label in labels)
        return labels, whole and labels == list(range(len(labels)))

    def block(self, value: Any, columns: int) -> tuple[list[int], Any]:
        """Return the numbers of a block's columns, and their content."""
        if not isinstance(value, Record) or not value.kind.endswith("block") or len(value.arguments) < 2:
            raise self.wrong("its DataFrame is damaged")
        content, place = value.arguments[:2]
        return self.placement(place, columns), content

    def block_columns(self, content: Any, columns: int, rows: int) -> list[Values]:
        """Return the columns of a block, whose sizes are compared before anything is copied."""
        if isinstance(content, Array) and len(content.shape) == 2:
            if content.shape != (columns, rows) or content.values is None:
                raise self.wrong("its columns have different lengths")
            if not isinstance(content.values, list):
                return [[self.plain(one) for one in row.tolist()] for row in content.values]
            flat = content.values
            parts = (
                [flat[i::columns] for i in range(columns)] if content.fortran
                else [flat[i * rows : (i + 1) * rows] for i in range(columns)]
            )  # fmt: skip
            return [[self.plain(one) for one in part] for part in parts]
        if columns != 1:
            raise self.wrong("its DataFrame is damaged")
        found = self.values(content, rows)
        if len(found) != rows:
            raise self.wrong("its columns have different lengths")
        return [found]

    def placement(self, value: Any, columns: int) -> list[int]:
        if isinstance(value, Record) and value.kind == "slice" and len(value.arguments) == 3:
            start, stop, step = value.arguments
            step = 1 if step is None else step
            if is_count(start) and is_count(stop) and is_count(step) and step and stop <= columns + step:
                return list(range(start, stop, step))
        elif (
            isinstance(value, Array)
            and value.shape[:1] <= (columns,)
            and (numbers := _flat(value)) is not None
            and all(map(is_count, numbers))
        ):
            return numbers
        raise self.wrong("its DataFrame is damaged")

    def values(self, value: Any, most: int) -> Values:
        """Return the values of a one-dimensional array of NumPy, or of text in Arrow's form."""
        if isinstance(value, Array):
            found = _flat(value) if value.shape and value.shape[0] <= most else None
            if found is not None:
                return [self.plain(one) for one in found]
        if isinstance(value, Record) and value.kind == "ArrowStringArray" and isinstance(value.state, dict):
            return self.arrow(value.state.get("_pa_array"), most)
        raise self.wrong("a column is neither of numbers nor of text")

    def arrow(self, value: Any, most: int) -> Values:
        """Return the text of an Arrow array: a bit mask, offsets, and UTF-8."""
        is_array = isinstance(value, Record) and value.kind == "_restore_array" and len(value.arguments) == 1
        if not is_array or not isinstance(value.arguments[0], tuple) or len(value.arguments[0]) != 7:
            raise self.wrong("a column of text is damaged")
        kind, length, _, offset, buffers = value.arguments[0][:5]
        name = kind.arguments[0] if isinstance(kind, Record) and len(kind.arguments) == 1 else None
        width: np.dtype[Any] = np.dtype("<i4" if name == "string" else "<i8")
        sizes = is_count(length) and is_count(offset) and length <= most
        if name not in ("string", "large_string") or not sizes or not isinstance(buffers, list):
            raise self.wrong("a column of text is damaged")
        mask, places, text = (self.buffer(each) for each in (*buffers, None, None, None)[:3])
        end = offset + length
        if places is None or len(places) < (end + 1) * width.itemsize or (mask is not None and 8 * len(mask) < end):
            raise self.wrong("a column of text is shorter than it claims")
        starts = np.frombuffer(places, width, length + 1, offset * width.itemsize)
        data = text or b""
        if length and (starts[0] < 0 or starts[-1] > len(data) or (np.diff(starts) < 0).any()):
            raise self.wrong("a column of text is shorter than it claims")
        try:
            found: Values = [data[a:b].decode() for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        except UnicodeDecodeError:
            raise self.wrong("a column of text is not UTF-8") from None
        if mask is not None:
            known = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[offset:end]
            found = [one if there else None for one, there in zip(found, known.tolist(), strict=True)]
        return found

    def buffer(self, value: Any) -> bytes | None:
        if value is None:
            return None
        if isinstance(value, Record) and value.kind == "py_buffer" and len(value.arguments) == 1:
            data = value.arguments[0]
            if isinstance(data, bytes):
                return data
        raise self.wrong("a column of text is damaged")
