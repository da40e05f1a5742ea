"""Sums over a range of tiles: the only passes over the data there are, written once for every kind of array.

`ops` supplies the arrays (:class:`~.ops.NumpyOps`, :class:`~.torch_engine.TorchOps`). A matrix of vectors holds one
a row: ``(b, d)``. Products are float32 a tile, sums over tiles float64; what the exact solvers need is float64
throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..rows import Moments, Rows


def moments_of(ops: Any, rows: Rows, span: tuple[int, int], shift: np.ndarray, sketch: np.ndarray | None) -> list[Any]:
    """Sums of x - shift and of its square ``(d,)``; with a sketch ``(b, n)`` its product with x - shift ``(b, d)``.

    The shift is a row of the matrix: a number that never varies gives sums of exactly zero.
    """
    first, second = ops.zeros((rows.d,)), ops.zeros((rows.d,))
    product = ops.zeros((0 if sketch is None else len(sketch), rows.d))
    origin = ops.array(shift, "f8")
    single = ops.array(shift, "f4")
    for start, tile in rows.tiles(*span, text="mean and standard deviation", empty=ops.empty):
        values = ops.array(tile, "f4")
        for top in range(0, len(values), ops.sub_tile[0]):
            for left in range(0, rows.d, ops.sub_tile[1]):
                part = slice(left, left + ops.sub_tile[1])
                apart = ops.cast(values[top : top + ops.sub_tile[0], part], "f8")
                apart -= origin[part]
                first[part] += apart.sum(0)
                apart *= apart
                second[part] += apart.sum(0)
        if sketch is not None:
            weights = ops.array(sketch[:, start : start + len(values)], "f4")
            product += weights @ (values - single)
    return [first, second, product]


class Standardiser:
    """Moments as arrays of one kind, and tiles centred and divided with them."""

    _buffer: Any

    def __init__(self, ops: Any, moments: Moments):
        self.ops, self._buffer = ops, None
        self.mean, self.std = ops.array(moments.mean, "f4"), ops.array(moments.std, "f4")
        self.exact_mean = ops.array(moments.exact_mean, "f8")

    def centred(self, tile: Any) -> Any:
        """float32 ``(t, d)``, exact where a value is near the mean; good until the next call.

        The division is left to the vectors.
        """
        if self._buffer is None or len(self._buffer) < len(tile):
            self._buffer = self.ops.zeros(tuple(tile.shape), "f4")
        return self.ops.subtract(self.ops.array(tile, "f4"), self.mean, self._buffer[: len(tile)])

    def single(self, tile: Any) -> Any:
        values = self.centred(tile)
        values /= self.std
        return values

    def double(self, tile: Any) -> Any:
        values = self.ops.cast(self.ops.array(tile, "f4"), "f8")
        values -= self.exact_mean
        values /= self.ops.cast(self.std, "f8")
        return values


def product_of(ops: Any, rows: Rows, span: tuple[int, int], moments: Moments, vectors: Any, text: str) -> list[Any]:
    """Vectors ``(b, d)`` times AᵀA, A the standardised matrix: both products in one pass over the rows."""
    by = Standardiser(ops, moments)
    divided = ops.array(vectors, "f4") / by.std
    total = ops.zeros((len(divided), rows.d))
    for _, tile in rows.tiles(*span, text=text, empty=ops.empty):
        centred = by.centred(tile)
        total += (centred @ divided.T).T @ centred
    total /= ops.cast(by.std, "f8")
    return [total]


def covariance_of(ops: Any, rows: Rows, span: tuple[int, int], moments: Moments) -> list[Any]:
    """AᵀA, float64 ``(d, d)``."""
    by, total = Standardiser(ops, moments), ops.zeros((rows.d, rows.d))
    for _, tile in rows.tiles(*span, text="covariance", empty=ops.empty):
        values = by.double(tile)
        total += values.T @ values
    return [total]


def gram_strip(ops: Any, rows: Rows, panel: tuple[int, int], moments: Moments) -> np.ndarray:
    """Rows `panel` (in tiles) of AAᵀ from the diagonal on, float64: ``(rows of the panel, n - first row)``.

    Each pair of tiles is one product, whatever the panel is.
    """
    by = Standardiser(ops, moments)
    held = [by.double(tile) for _, tile in rows.tiles(*panel, empty=ops.empty)]
    top = panel[0] * rows.tile_rows
    strip = np.zeros((sum(len(values) for values in held), rows.n - top))

    def put(values: Any, column: int) -> None:
        row = 0
        for other in held:
            if top + row <= column:
                strip[row : row + len(other), column - top : column - top + len(values)] = ops.numpy(other @ values.T)
            row += len(other)

    column = top
    for values in held:
        put(values, column)
        column += len(values)
    for start, tile in rows.tiles(panel[1], None, text=f"Gram matrix, rows {top:,} of {rows.n:,}", empty=ops.empty):
        put(by.double(tile), start)
    return strip


def back_projected(ops: Any, rows: Rows, span: tuple[int, int], moments: Moments, vectors: np.ndarray) -> list[Any]:
    """Vectors ``(k, n)`` times A, float64 ``(k, d)``."""
    by, total = Standardiser(ops, moments), ops.zeros((len(vectors), rows.d))
    for start, tile in rows.tiles(*span, text="components", empty=ops.empty):
        values = by.double(tile)
        total += ops.array(vectors[:, start : start + len(values)], "f8") @ values
    return [total]


def projected(ops: Any, rows: Rows, span: tuple[int, int], moments: Moments, basis: np.ndarray) -> list[np.ndarray]:
    """Coefficients float32 ``(rows, k)`` and squared norms of the standardised rows, float64 ``(rows,)``."""
    by, vectors = Standardiser(ops, moments), ops.array(basis, "f4")
    coefficients, squares = [], []
    for _, tile in rows.tiles(*span, text="coefficients", empty=ops.empty):
        values = by.single(tile)
        coefficients.append(ops.numpy(ops.inner(values, vectors)).astype(np.float32))
        squares.append(ops.numpy(ops.squares(values)))
    return [np.concatenate(coefficients), np.concatenate(squares)]
