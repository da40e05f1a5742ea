"""Torch on the CPU or on one or several GPUs, with TF32 off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from ....errors import InvalidInputError, missing_extra
from ..rows import TILE_NUMBERS, Empty, Rows
from . import partial
from .base import Engine
from .ops import NumpyOps

try:
    import torch
except ImportError:
    raise missing_extra("torch", "diffusers") from None

DTYPES = {"f4": torch.float32, "f8": torch.float64}
GPU_TILE_NUMBERS = 1 << 28  # a gibibyte of float32
GPU_PANEL_BYTES = 4 << 30
GPU_SUB_TILE = (256, 1 << 17)  # a few launches a tile, and little room for its float64
RESIDENT_SHARE = 0.5  # of the free memory of a GPU: for rows that stay there between passes


class TorchOps(NumpyOps):
    """Torch on one device."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            self.sub_tile = GPU_SUB_TILE
        self._pinned: dict[tuple[int, ...], list[np.ndarray]] = {}
        self._turn = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """For a GPU one of two arrays in pinned memory, which it reads several times as fast; they are used again."""
        if self.device.type != "cuda":
            return np.empty(shape, dtype)
        if shape not in self._pinned:
            self._pinned.clear()
            self._pinned[shape] = [torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy() for _ in range(2)]
        self._turn += 1
        return self._pinned[shape][self._turn % 2]

    def array(self, values: Any, dtype: str) -> Any:
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = values.copy()  # a mapped file; torch has no read-only tensors
        return torch.as_tensor(values, dtype=DTYPES[dtype], device=self.device)

    def cast(self, values: Any, dtype: str) -> Any:
        return values.to(DTYPES[dtype])

    def zeros(self, shape: tuple[int, ...], dtype: str = "f8") -> Any:
        return torch.zeros(shape, dtype=DTYPES[dtype], device=self.device)

    def diagonal(self, values: np.ndarray) -> Any:
        return torch.diag(self.array(np.ascontiguousarray(values), "f8"))

    def numpy(self, values: Any) -> np.ndarray:
        if not isinstance(values, torch.Tensor) or values.device.type == "cpu":
            return np.asarray(values)
        # into an array of NumPy's, which asks the system for large pages: they are there several times as fast
        found: np.ndarray = np.empty(tuple(values.shape), str(values.dtype).removeprefix("torch."))
        torch.from_numpy(found).copy_(values)
        return found

    def subtract(self, first: Any, second: Any, out: Any) -> Any:
        return torch.sub(first, second, out=out)

    def eigh(self, matrix: Any, keep: int | None = None) -> tuple[np.ndarray, Any]:
        values, vectors = torch.linalg.eigh(matrix)
        return self.numpy(values)[::-1], vectors[:, -(keep or len(matrix)) :].flip(1)

    def largest(self, values: Any) -> Any:
        size = values.abs()
        found = size == size.amax(1, keepdim=True)  # argmax does not say which of several it takes
        return torch.where(found, torch.arange(size.shape[1], device=self.device), size.shape[1]).amin(1)

    def top(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = self.eigh(self.array(matrix, "f8"), count)
        return values[:count], self.numpy(vectors)


class TorchEngine(Engine):
    """Every device takes an equal range of the rows and keeps as many of them as fit between passes.

    Parameters
    ----------
    device : str or sequence of str, optional
        ``"cpu"``, ``"cuda"``, ``["cuda:0", "cuda:1"]``; all GPUs there are, or the CPU, without it.
    memory : int, optional
        Bytes of rows that each GPU keeps; half of its free memory without it. 0 streams every pass.
    """

    name = "torch"

    def __init__(self, device: str | Sequence[str] | None = None, memory: int | None = None) -> None:
        super().__init__()
        if device is None:
            count = torch.cuda.device_count()
            device = [f"cuda:{i}" for i in range(count)] or "cpu"
        names = [device] if isinstance(device, str) else list(device)
        try:
            self.devices = [torch.device(name) for name in names]
            for found in self.devices:
                torch.empty(1, device=found)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidInputError(f"device {', '.join(map(str, names))} cannot be used: {reason}") from error
        self.gpu = self.devices[0].type != "cpu"
        if self.gpu:
            self.tile_numbers, self.panel_bytes = GPU_TILE_NUMBERS, GPU_PANEL_BYTES
        else:
            self.tile_numbers = TILE_NUMBERS
        self.workers = [TorchOps(found) for found in self.devices]
        self.ops = self.workers[0]
        self.memory = memory
        self._resident: dict[tuple[int, int], Resident] = {}

    def describe(self) -> dict[str, Any]:
        kinds = [torch.cuda.get_device_name(d) if d.type == "cuda" else d.type for d in self.devices]
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

    def summed(self, function: Callable[..., list[Any]], rows: Rows, *arguments: Any) -> list[Any]:
        parts = self._on_all(function, rows, arguments)
        total = parts[0]
        for part in parts[1:]:
            total = [value + other.to(self.devices[0]) for value, other in zip(total, part, strict=True)]
        return total

    def joined(self, function: Callable[..., list[np.ndarray]], rows: Rows, *arguments: Any) -> list[np.ndarray]:
        parts = self._on_all(function, rows, arguments)
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _on_all(self, function: Callable[..., list[Any]], rows: Rows, arguments: tuple[Any, ...]) -> list[list[Any]]:
        edges = [rows.count * i // len(self.workers) for i in range(len(self.workers) + 1)]
        spans = [(a, b) for a, b in pairwise(edges) if a < b]

        @torch.no_grad()
        def work(number: int) -> list[Any]:
            source = self._kept(rows, number, spans[number])
            return function(self.workers[number], source, spans[number], *arguments)

        if len(spans) == 1:
            return [work(0)]
        with ThreadPoolExecutor(len(spans)) as threads:
            return list(threads.map(work, range(len(spans))))

    def _kept(self, rows: Rows, number: int, span: tuple[int, int]) -> Any:
        device = self.devices[number]
        if device.type != "cuda":
            return rows
        key = (id(rows), number)
        if key not in self._resident:
            for other in [k for k in self._resident if k[1] == number]:  # rows of a finished part of the build
                del self._resident[other]
            free = torch.cuda.mem_get_info(device)[0]
            budget = int(free * RESIDENT_SHARE) if self.memory is None else self.memory
            self._resident[key] = Resident(rows, self.workers[number], span, budget)
        return self._resident[key]

    def strips(self, rows: Rows, moments: Any, panels: list[tuple[int, int]]) -> Any:
        for start in range(0, len(panels), len(self.workers)):
            some = panels[start : start + len(self.workers)]

            @torch.no_grad()
            def compute(job: tuple[int, tuple[int, int]]) -> np.ndarray:
                number, panel = job
                kept = self.checkpoint.remember(
                    f"gram-{panel[0]:05d}-{panel[1]:05d}",
                    lambda: {"strip": partial.gram_strip(self.workers[number], rows, panel, moments)},
                )
                return kept["strip"]

            with ThreadPoolExecutor(len(some)) as threads:
                yield from zip(some, threads.map(compute, enumerate(some)), strict=True)

    def close(self) -> None:
        self._resident.clear()


class Resident:
    """Rows whose first tiles stay on a GPU."""

    def __init__(self, rows: Rows, ops: TorchOps, span: tuple[int, int], budget: int):
        self.rows, self.ops, self.first = rows, ops, span[0]
        self.n, self.d, self.tile_rows, self.count = rows.n, rows.d, rows.tile_rows, rows.count
        self.limit = max(0, budget // (4 * rows.d * rows.tile_rows))
        self.kept: list[Any] = []

    def tiles(
        self, first: int = 0, last: int | None = None, text: str = "rows", empty: Empty | None = None
    ) -> Iterator[tuple[int, Any]]:
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
