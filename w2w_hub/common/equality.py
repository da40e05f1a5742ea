"""Equality of dataclasses that hold arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np


class ByValue:
    """Compare dataclasses of one class field by field, arrays by shape and values; equal ones have equal hashes.

    For ``@dataclass(eq=False)``: the generated ``==`` fails on arrays. Fields with ``compare=False`` are left out.
    """

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in _compared(self))

    def __hash__(self) -> int:
        return hash((type(self), *(_hashed(getattr(self, name)) for name in _compared(self))))


def _compared(value: Any) -> list[str]:
    return [f.name for f in fields(value) if f.compare]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and np.array_equal(first, second)
    return bool(first == second)


def _hashed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, hash(tuple(value.ravel().tolist()))  # 0.0 and -0.0, and 1 of any dtype, are equal
    return None if isinstance(value, (Mapping, list)) else value
