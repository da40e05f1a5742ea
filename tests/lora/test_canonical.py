from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2w_hub import ParameterLayout
from w2w_hub.errors import InvalidInputError, LayoutMismatchError
from w2w_hub.lora.adapter import Target
from w2w_hub.lora.canonical import canonicalize, canonicalize_rows


def layout_of(*shapes: tuple) -> ParameterLayout:
    return ParameterLayout({Target("unet", f"blocks.{i}.to_q"): shape for i, shape in enumerate(shapes)}, 27.0)


def products(layout: ParameterLayout, rows: np.ndarray) -> list[np.ndarray]:
    return [b @ a for a, b in layout.unflatten_batch(rows).values()]


def in_another_gauge(layout: ParameterLayout, rows: np.ndarray, seed: int) -> np.ndarray:
    """The same adapters with every module's factors mixed by a random invertible matrix."""
    rng = np.random.default_rng(seed)
    changed = rows.copy()
    for a, b in layout.unflatten_batch(changed).values():
        mix = rng.normal(size=(len(rows), a.shape[1], a.shape[1])) + 2 * np.eye(a.shape[1])
        a[:], b[:] = np.linalg.solve(mix, a), b @ mix
    return changed


linear = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
kernels = st.tuples(st.integers(1, 3), st.integers(1, 3))
shapes = st.one_of(linear, st.builds(lambda size, kernel: (*size, kernel), linear, kernels))


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_modules_product_stays_to_float64_rounding(sizes: list, n: int, seed: int) -> None:
    layout = layout_of(*sizes)
    rows = np.random.default_rng(seed).normal(size=(n, layout.size))
    found = canonicalize_rows(layout, rows)
    for before, after in zip(products(layout, rows), products(layout, found), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-13 * max(1, np.abs(before).max()))
    for a, b in layout.unflatten_batch(found).values():
        gram_a, gram_b = a @ a.swapaxes(1, 2), b.swapaxes(1, 2) @ b
        np.testing.assert_allclose(gram_a, gram_b, atol=1e-12 * max(1, np.abs(gram_a).max()))  # balanced
        spread = np.diagonal(gram_a, axis1=1, axis2=2)
        np.testing.assert_allclose(gram_a, spread[:, :, None] * np.eye(a.shape[1]), atol=1e-12 * max(1, spread.max()))
        assert (np.diff(spread, axis=1) <= 1e-12 * max(1, spread.max())).all()  # the largest first


@pytest.mark.parametrize("shape", [(1, 30, 20), (3, 30, 20), (4, 4, 9), (2, 5, 9, (3, 3)), (4, 1, 9, (1, 7))])
def test_adapters_that_act_alike_have_one_representative(shape: tuple[int, int, int]) -> None:
    layout = layout_of(shape, shape)
    rows = np.random.default_rng(0).normal(size=(5, layout.size))
    found = canonicalize_rows(layout, rows)
    again = canonicalize_rows(layout, in_another_gauge(layout, rows, seed=1))
    np.testing.assert_allclose(again, found, atol=1e-9 * np.abs(found).max())
    np.testing.assert_allclose(canonicalize_rows(layout, found), found, atol=1e-12 * np.abs(found).max())


def test_the_largest_entry_of_every_row_of_a_is_positive() -> None:
    layout = layout_of((3, 12, 9), (3, 4, 9, (3, 1)))  # of one shape as matrices
    found = canonicalize_rows(layout, np.random.default_rng(0).normal(size=(8, layout.size)))
    for a, _ in layout.unflatten_batch(found).values():
        assert (np.take_along_axis(a, np.abs(a).argmax(2)[:, :, None], 2) > 0).all()


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("zero", ["A", "B", "both"])
def test_factors_of_which_one_is_zero_are_zeros(rank: int, zero: str) -> None:
    layout = layout_of((rank, 3, 4), (rank, 5, 2))
    rows = np.ones((2, layout.size))
    first, _ = layout.unflatten_batch(rows).values()
    for factor, name in zip(first, "AB", strict=True):
        if zero in (name, "both"):
            factor[0] = 0
    found = list(layout.unflatten_batch(canonicalize_rows(layout, rows)).values())
    assert not any(factor[0].any() for factor in found[0])
    assert all(np.isfinite(factor).all() and factor[1].any() for pair in found for factor in pair)


def test_a_module_that_changes_nothing_is_zeros_and_an_unused_rank_too() -> None:
    layout = layout_of((2, 6, 5), (1, 6, 5))
    rows = np.random.default_rng(0).normal(size=(2, layout.size))
    for (a, b), single in zip(layout.unflatten_batch(rows).values(), (False, True), strict=True):
        a[0] = 0  # B is not: dW is 0 all the same
        b[1, :, 1:] = 0 if not single else b[1, :, 1:]
    found = canonicalize_rows(layout, rows)
    assert not found[0].any()
    first = next(iter(layout.unflatten_batch(found).values()))
    assert not first[0][1, 1].any()
    assert not first[1][1, :, 1].any()


def test_one_vector_keeps_its_shape_and_float32_input_is_computed_in_float64() -> None:
    layout = layout_of((2, 6, 5))
    row = np.random.default_rng(0).normal(size=layout.size).astype(np.float32)
    found = canonicalize_rows(layout, row)
    assert (found.shape, found.dtype) == (row.shape, np.float64)
    np.testing.assert_array_equal(found, canonicalize_rows(layout, row[None])[0])


def test_norms_far_apart_do_not_overflow() -> None:
    layout = layout_of((1, 6, 5), (2, 6, 5))
    rows = np.ones((1, layout.size))
    for a, b in layout.unflatten_batch(rows).values():
        a *= 1e150
        b *= 1e-150
    assert np.isfinite(canonicalize_rows(layout, rows)).all()


def test_what_has_no_decomposition_or_another_size_is_refused() -> None:
    layout = layout_of((2, 6, 5))
    with pytest.raises(LayoutMismatchError, match="22"):
        canonicalize_rows(layout, np.zeros((2, 21)))
    with pytest.raises(InvalidInputError, match="NaN"):
        canonicalize_rows(layout, np.full(layout.size, np.nan))


@settings(max_examples=40, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=3), st.integers(0, 2**32 - 1), st.booleans())
def test_rows_and_single_adapters_have_the_same_representative(sizes: list, seed: int, orthogonal: bool) -> None:
    layout = layout_of(*sizes)
    rows = np.random.default_rng(seed).normal(size=(2, layout.size)).astype(np.float32)
    if orthogonal:  # all singular values of a module equal: only the span of its factors is determined
        for a, b in layout.unflatten_batch(rows).values():
            a[:], b[:] = np.eye(*a.shape[1:]), np.eye(*b.shape[1:])
    found = canonicalize_rows(layout, rows)
    for i in range(2):
        alone = canonicalize(layout.unflatten(rows[i]), scale=layout.scale)
        for target, (a, b) in layout.unflatten_batch(found[i : i + 1]).items():
            np.testing.assert_allclose(alone.factors[target].A, a[0], atol=1e-6)
            np.testing.assert_allclose(alone.factors[target].B, b[0], atol=1e-6)
