"""NumPy engine: all passes in this process, with the threads of NumPy's BLAS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..rows import Rows
from .base import Engine, Function
from .ops import Array, blas_threads


@dataclass(eq=False)
class NumpyEngine(Engine):
    """Computes in this process.

    Parameters
    ----------
    block_rows : int, optional
        Rows read at once. Changes memory and speed only.
    """

    name: ClassVar[str] = "numpy"

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "threads": blas_threads()}

    def parts(self, function: Function, rows: Rows, *arguments: Any) -> Iterator[list[Array]]:
        yield function(self.ops, rows, (0, rows.count), *arguments)
