"""Torch engine: the CPU, or one or several GPUs, with TF32 off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ....common.constraints import Rule, either, names, optional, text, whole
from ....common.extras import optional_imports
from ....errors import InvalidInputError
from ..rows import TILE_VALUES, Moments, Rows
from . import partial
from .base import Engine, Function, Panel
from .ops import Array, Empty, NumpyOps

with optional_imports("diffusers"):
    import torch

DTYPES = {"f4": torch.float32, "f8": torch.float64}
GPU_TILE_VALUES = 1 << 28  # a gibibyte of float32
GPU_PANEL_BYTES = 4 << 30
GPU_SUB_TILE = (256, 1 << 17)  # a few launches per tile, and little memory for its float64 copy
RESIDENT_FRACTION = 0.5  # of the free memory of a GPU: for rows that stay there between passes


class TorchOps(NumpyOps):
    """Torch on one device."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            self.sub_tile = GPU_SUB_TILE
        self._pinned: dict[tuple[int, ...], list[np.ndarray]] = {}
        self._turn = 0

    @property
    def empty(self) -> Empty:
        return self._buffer

    def _buffer(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return a buffer; for a GPU one of two reused arrays in pinned memory, which it reads several times faster."""
        if self.device.type != "cuda":
            return np.empty(shape, dtype)
        if shape not in self._pinned:
            self._pinned.clear()
            self._pinned[shape] = [torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy() for _ in range(2)]
        self._turn += 1
        return self._pinned[shape][self._turn % 2]

    def array(self, values: Any, dtype: str) -> Array:
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = values.copy()  # a mapped file; torch has no read-only tensors
        return torch.as_tensor(values, dtype=DTYPES[dtype], device=self.device)

    def cast(self, values: Array, dtype: str) -> Array:
        return values.to(DTYPES[dtype])

    def zeros(self, shape: tuple[int, ...], dtype: str = "f8") -> Array:
        return torch.zeros(shape, dtype=DTYPES[dtype], device=self.device)

    def diagonal(self, values: np.ndarray) -> Array:
        return torch.diag(self.array(np.ascontiguousarray(values), "f8"))

    def numpy(self, values: Array) -> np.ndarray:
        if not isinstance(values, torch.Tensor) or values.device.type == "cpu":
            return np.asarray(values)
        # NumPy allocates with large pages, which makes this several times faster than `values.cpu()`
        found: np.ndarray = np.empty(tuple(values.shape), str(values.dtype).removeprefix("torch."))
        torch.from_numpy(found).copy_(values)
        return found

    def subtract(self, first: Array, second: Array, out: Array) -> Array:
        return torch.sub(first, second, out=out)

    def eigh(self, matrix: Array, keep: int | None = None) -> tuple[np.ndarray, Array]:
        values, vectors = torch.linalg.eigh(matrix)
        return self.numpy(values)[::-1], vectors[:, -(keep or len(matrix)) :].flip(1)

    def largest(self, values: Array) -> Array:
        size = values.abs()
        found = size == size.amax(1, keepdim=True)  # argmax may return any of several equal entries
        return torch.where(found, torch.arange(size.shape[1], device=self.device), size.shape[1]).amin(1)

    def top(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = self.eigh(self.array(matrix, "f8"), count)
        return values[:count], self.numpy(vectors)


@dataclass(eq=False)
class TorchEngine(Engine):
    """Computes on torch devices: each takes an equal range of the rows and keeps as many as fit between passes.

    Parameters
    ----------
    devices : str or sequence of str, optional
        ``"cpu"``, ``"cuda"``, ``["cuda:0", "cuda:1"]``; by default all GPUs, or the CPU if there is none.
    memory : int, optional
        Bytes of rows that each GPU keeps; by default half of its free memory. 0 streams every pass.
    block_rows : int, optional
        Rows read at once. Changes memory and speed only.
    """

    devices: str | Sequence[str] | None = None
    memory: int | None = None

    name: ClassVar[str] = "torch"
    rules: ClassVar[Mapping[str, Rule]] = {
        **Engine.rules, "devices": optional(either(text(), names())), "memory": optional(whole(0)),
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self._workers: list[TorchOps] = []
        self._resident: dict[tuple[int, int], Resident] = {}

    def start(self) -> None:
        wanted = [self.devices] if isinstance(self.devices, str) else list(self.devices or _all_devices())
        try:
            devices = [torch.device(name) for name in wanted]
            for found in devices:
                torch.empty(1, device=found)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidInputError(f"device {', '.join(map(str, wanted))} cannot be used: {reason}") from error
        on_gpu = devices[0].type != "cpu"
        self.tile_values = GPU_TILE_VALUES if on_gpu else TILE_VALUES
        if on_gpu:
            self.panel_bytes = GPU_PANEL_BYTES
        self._workers = [TorchOps(found) for found in devices]
        self.ops = self._workers[0]

    def close(self) -> None:
        self._resident.clear()
        self._workers.clear()
        self.ops = NumpyOps()

    def describe(self) -> dict[str, Any]:
        devices = [ops.device for ops in self._workers]
        kinds = [torch.cuda.get_device_name(d) if d.type == "cuda" else d.type for d in devices]
        return {"engine": self.name, "devices": kinds, "threads": torch.get_num_threads(), "tf32": False}

    @contextmanager
    def precision(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def parts(self, function: Function, rows: Rows, *arguments: Any) -> Iterator[list[Array]]:
        edges = [rows.count * i // len(self._workers) for i in range(len(self._workers) + 1)]
        spans = [(a, b) for a, b in pairwise(edges) if a < b]

        def work(number: int) -> list[Array]:
            with torch.no_grad():
                source = self._kept(rows, number, spans[number])
                return function(self._workers[number], source, spans[number], *arguments)

        if len(spans) == 1:
            yield work(0)
            return
        with ThreadPoolExecutor(len(spans)) as threads:
            found = list(threads.map(work, range(len(spans))))
        first = self._workers[0].device
        for part in found:
            yield [value.to(first) if isinstance(value, torch.Tensor) else value for value in part]

    def _kept(self, rows: Rows, number: int, span: Panel) -> Rows | Resident:
        """Return the rows; on a GPU as :class:`Resident`, which keeps the first tiles of its range."""
        device = self._workers[number].device
        if device.type != "cuda":
            return rows
        key = (id(rows), number)
        if key not in self._resident:
            for other in [k for k in self._resident if k[1] == number]:  # rows of a finished part of the build
                del self._resident[other]
            free = torch.cuda.mem_get_info(device)[0]
            budget = int(free * RESIDENT_FRACTION) if self.memory is None else self.memory
            self._resident[key] = Resident(rows, self._workers[number], span, budget)
        return self._resident[key]

    def strips(self, rows: Rows, moments: Moments, panels: list[Panel]) -> Iterator[tuple[Panel, np.ndarray]]:
        for start in range(0, len(panels), len(self._workers)):
            some = panels[start : start + len(self._workers)]

            def kept(worker: TorchOps, panel: Panel) -> np.ndarray:
                with torch.no_grad():
                    return self.kept_strip(panel, lambda: partial.gram_strip(worker, rows, panel, moments))

            with ThreadPoolExecutor(len(some)) as threads:
                yield from zip(some, threads.map(kept, self._workers, some), strict=True)


def _all_devices() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


class Resident:
    """Streams rows like :class:`Rows`, and keeps their first tiles on a GPU."""

    def __init__(self, rows: Rows, ops: TorchOps, span: Panel, budget: int):
        self.rows, self.ops, self.first = rows, ops, span[0]
        self.n, self.d, self.tile_rows, self.count = rows.n, rows.d, rows.tile_rows, rows.count
        self.limit = max(0, budget // (4 * rows.d * rows.tile_rows))
        self.kept: list[Array] = []

    def tiles(
        self, first: int = 0, last: int | None = None, text: str = "rows", empty: Empty | None = None
    ) -> Iterator[tuple[int, Array]]:
        last = self.count if last is None else last
        here = range(first, min(last, self.first + len(self.kept))) if first >= self.first else range(0)
        for number in here:
            yield number * self.tile_rows, self.kept[number - self.first]
        for start, tile in self.rows.tiles(first + len(here), last, text, empty):
            if start // self.tile_rows == self.first + len(self.kept) and len(self.kept) < self.limit:
                self.kept.append(self.ops.array(tile, "f4"))
                yield start, self.kept[-1]
            else:
                yield start, tile
