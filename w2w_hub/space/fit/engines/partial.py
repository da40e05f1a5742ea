"""Passes over a range of tiles, written once for all array libraries.

`ops` supplies the arrays (:class:`~.ops.Ops`). Matrices of vectors hold one vector per row: ``(b, d)``. Products are
float32 within a tile and sums over tiles float64; the exact solvers' passes are float64 throughout.
"""

from __future__ import annotations

import numpy as np

from ..rows import Moments, Rows
from .ops import Array, Ops


def moments_of(
    ops: Ops, rows: Rows, span: tuple[int, int], shift: np.ndarray, sketch: np.ndarray | None
) -> list[Array]:
    """Return the sums of x - shift and of its square ``(d,)``, and the sketch times x - shift ``(b, d)``.

    The shift is a row of the matrix, so that a feature that never varies gives sums of exactly zero. Without a sketch
    ``(b, n)`` the product is empty.
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


class Standardizer:
    """Moments as arrays of one library; centers tiles and divides them."""

    _buffer: Array

    def __init__(self, ops: Ops, moments: Moments):
        self.ops, self._buffer = ops, None
        self.mean, self.std = ops.array(moments.mean, "f4"), ops.array(moments.std, "f4")
        self.exact_mean = ops.array(moments.exact_mean, "f8")

    def centered(self, tile: Array) -> Array:
        """Return x - mean, float32 ``(t, d)``, in a reused buffer (overwritten by the next call).

        Exact where a value is near the mean. Callers divide the vectors by std instead of these rows.
        """
        if self._buffer is None or len(self._buffer) < len(tile):
            self._buffer = self.ops.zeros(tuple(tile.shape), "f4")
        return self.ops.subtract(self.ops.array(tile, "f4"), self.mean, self._buffer[: len(tile)])

    def single(self, tile: Array) -> Array:
        """Return (x - mean) / std in float32, in the same buffer."""
        values = self.centered(tile)
        values /= self.std
        return values

    def double(self, tile: Array) -> Array:
        """Return (x - mean) / std in float64, with the mean before rounding."""
        values = self.ops.cast(self.ops.array(tile, "f4"), "f8")
        values -= self.exact_mean
        values /= self.ops.cast(self.std, "f8")
        return values


def product_of(ops: Ops, rows: Rows, span: tuple[int, int], moments: Moments, vectors: Array, text: str) -> list[Array]:
    """Return vectors ``(b, d)`` times AᵀA, A the standardized matrix: both products in one pass over the rows."""
    by = Standardizer(ops, moments)
    divided = ops.array(vectors, "f4") / by.std
    total = ops.zeros((len(divided), rows.d))
    for _, tile in rows.tiles(*span, text=text, empty=ops.empty):
        centered = by.centered(tile)
        total += (centered @ divided.T).T @ centered
    total /= ops.cast(by.std, "f8")
    return [total]


def covariance_of(ops: Ops, rows: Rows, span: tuple[int, int], moments: Moments) -> list[Array]:
    """Return AᵀA, float64 ``(d, d)``."""
    by, total = Standardizer(ops, moments), ops.zeros((rows.d, rows.d))
    for _, tile in rows.tiles(*span, text="covariance", empty=ops.empty):
        values = by.double(tile)
        total += values.T @ values
    return [total]


def gram_strip(ops: Ops, rows: Rows, panel: tuple[int, int], moments: Moments) -> np.ndarray:
    """Return rows `panel` (in tiles) of AAᵀ from the diagonal on, float64: ``(rows of the panel, n - first row)``.

    Each pair of tiles is one product, so that the size of the panel changes no bit.
    """
    by = Standardizer(ops, moments)
    held = [by.double(tile) for _, tile in rows.tiles(*panel, empty=ops.empty)]
    top = panel[0] * rows.tile_rows
    strip = np.zeros((sum(len(values) for values in held), rows.n - top))

    def put(values: Array, column: int) -> None:
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


def back_projected(ops: Ops, rows: Rows, span: tuple[int, int], moments: Moments, vectors: np.ndarray) -> list[Array]:
    """Return vectors ``(k, n)`` times A, float64 ``(k, d)``."""
    by, total = Standardizer(ops, moments), ops.zeros((len(vectors), rows.d))
    for start, tile in rows.tiles(*span, text="components", empty=ops.empty):
        values = by.double(tile)
        total += ops.array(vectors[:, start : start + len(values)], "f8") @ values
    return [total]


def projected(ops: Ops, rows: Rows, span: tuple[int, int], moments: Moments, basis: np.ndarray) -> list[np.ndarray]:
    """Return coefficients, float32 ``(rows, k)``, and squared norms of the standardized rows, float64 ``(rows,)``."""
    by, vectors = Standardizer(ops, moments), ops.array(basis, "f4")
    coefficients, squares = [], []
    for _, tile in rows.tiles(*span, text="coefficients", empty=ops.empty):
        values = by.single(tile)
        coefficients.append(ops.numpy(ops.inner(values, vectors)).astype(np.float32))
        squares.append(ops.numpy(ops.squares(values)))
    return [np.concatenate(coefficients), np.concatenate(squares)]
