"""The canonical form held to a full singular value decomposition of dW, one adapter and many rows alike."""

from __future__ import annotations

import numpy as np
import pytest

from w2w_hub import Adapter, ParameterLayout
from w2w_hub.lora.adapter import LoraFactors, Target
from w2w_hub.lora.canonical import canonicalize, canonicalize_rows, representative

A, B = Target("unet", "a"), Target("unet", "b")


def orthogonal(rows: int, columns: int, seed: int) -> np.ndarray:
    """Orthonormal rows."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(columns, columns)))[0][:rows]


def of_values(values: list[float], u: np.ndarray, v: np.ndarray, mix: int | None = None) -> LoraFactors:
    """Factors of ``u.T @ diag(values) @ v``, by any invertible matrix between them."""
    rank = len(values)
    r = np.eye(rank) if mix is None else np.random.default_rng(mix).normal(size=(rank, rank))
    return LoraFactors(np.linalg.inv(r) @ v, (u.T * values) @ r, 1.0)


def test_what_truncation_loses_is_the_norm_of_what_is_left_out_over_all_modules():
    factors = {
        A: of_values([4.0, 2.0, 1.0], orthogonal(3, 5, 0), orthogonal(3, 6, 1), 2),
        B: of_values([3.0, 0.5], orthogonal(2, 4, 3), orthogonal(2, 3, 4), 5),
    }
    for ranks, lost in ((1, [2.0, 1.0, 0.5]), (2, [1.0]), (3, []), ({A: 1, B: 2}, [2.0, 1.0]), ({A: 3, B: 1}, [0.5])):
        found = canonicalize(Adapter(factors), rank=ranks, scale=0.25)
        total = np.sqrt(16 + 4 + 1 + 9 + 0.25)
        np.testing.assert_allclose(found.metadata["error"], np.sqrt(np.sum(np.square(lost))) / total, atol=1e-12)
        for where, pair in found.factors.items():
            wanted = ranks if isinstance(ranks, int) else ranks[where]
            assert pair.rank == wanted
            assert pair.scale == 0.25
            u, s, v = np.linalg.svd(factors[where].delta())
            best = (u[:, :wanted] * s[:wanted]) @ v[:wanted]
            np.testing.assert_allclose(pair.delta(), best, atol=1e-12)


def rows_of(layout: ParameterLayout, adapters: list[Adapter]) -> np.ndarray:
    return np.stack(
        [np.concatenate([x.ravel() for s in layout.slots for x in (a.factors[s.target].A, a.factors[s.target].B)])
         for a in adapters]
    )  # fmt: skip


@pytest.mark.parametrize("mix", [None, 1, 2])
def test_values_are_alike_as_measured_by_the_largest_and_their_vectors_are_chosen_by_the_axes(mix):
    # the last two differ by 5e-8: nothing beside the largest, much beside themselves
    v = np.zeros((3, 5))
    v[0, 4] = 1
    v[1, :2], v[2, :2] = (0.6, 0.8), (-0.8, 0.6)
    pair = of_values([1.0, 1e-3 + 5e-8, 1e-3], orthogonal(3, 4, 8), v, mix)
    layout = ParameterLayout({A: (3, 5, 4)}, 1.0)
    alone = canonicalize(Adapter({A: pair})).factors[A]
    together = layout.unflatten(canonicalize_rows(layout, rows_of(layout, [Adapter({A: pair})])[0])).factors[A]
    for found in (alone, together):
        directions = found.A / np.linalg.norm(found.A, axis=1, keepdims=True)
        np.testing.assert_allclose(directions, np.eye(5)[[4, 0, 1]], atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_rank_that_cuts_equal_values_apart_still_gives_one_representative(rank):
    u, v = orthogonal(3, 6, 10), orthogonal(3, 5, 11)
    first = canonicalize(Adapter({A: of_values([2.0, 2.0, 2.0], u, v)}), rank=rank).factors[A]
    for mix in (1, 2, 3):
        again = canonicalize(Adapter({A: of_values([2.0, 2.0, 2.0], u, v, mix)}), rank=rank).factors[A]
        np.testing.assert_allclose(again.A, first.A, atol=1e-9)
        np.testing.assert_allclose(again.B, first.B, atol=1e-9)


def test_a_small_value_above_rounding_is_kept_and_one_below_is_zeros():
    layout = ParameterLayout({A: (3, 5, 4)}, 1.0)
    pair = of_values([1.0, 1e-11, 1e-18], orthogonal(3, 4, 8), orthogonal(3, 5, 9))
    alone = canonicalize(Adapter({A: pair})).factors[A]
    together = layout.unflatten(canonicalize_rows(layout, rows_of(layout, [Adapter({A: pair})])[0])).factors[A]
    for found in (alone, together):
        np.testing.assert_allclose(np.linalg.norm(found.A, axis=1) ** 2, [1.0, 1e-11, 0.0], rtol=1e-3, atol=0)
        np.testing.assert_allclose(np.linalg.norm(found.B, axis=0) ** 2, [1.0, 1e-11, 0.0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("rank", [1, 2])
def test_many_rows_are_each_what_they_are_alone_on_both_sides_of_a_block(rank):
    layout = ParameterLayout({A: (rank, 4000, 3)}, 1.0)
    block = (1 << 22) // (rank * 4003)
    rows = np.random.default_rng(0).normal(size=(block + 3, layout.size)).astype(np.float32)
    found = canonicalize_rows(layout, rows)
    for i in (0, 1, block - 1, block, block + 1, block + 2):
        np.testing.assert_allclose(found[i], canonicalize_rows(layout, rows[i]), rtol=1e-9, atol=1e-9)
        adapter = canonicalize(layout.unflatten(rows[i])).factors[A]
        np.testing.assert_allclose(found[i], np.concatenate([adapter.A.ravel(), adapter.B.ravel()]), atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 200), (200, 3), (200, 200)])
@pytest.mark.parametrize(("times", "kept"), [(100, False), (400, True)])
def test_rounding_is_measured_by_the_longer_side_of_a_change(shape, times, kept):
    outputs, columns = shape
    values = np.array([2.0, 2.0 * times * np.finfo(np.float64).eps])
    pair, _, _ = representative(np.eye(outputs, 2), values, np.eye(2, columns), 2, 1.0)
    assert (pair.A.any(1).tolist(), pair.B.any(0).tolist()) == ([True, kept], [True, kept])
