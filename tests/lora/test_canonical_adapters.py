from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import factors
from w2w_hub import Adapter, ParameterLayout
from w2w_hub.errors import InvalidInputError
from w2w_hub.lora.adapter import LoraFactors, Target
from w2w_hub.lora.canonical import canonical_factors, canonicalize

TARGET = Target("unet", "mid_block.to_q")
sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
kernels = st.sampled_from([(), (1, 1), (3, 3), (1, 2)])
seeds = st.integers(0, 2**32 - 1)


def invertible(rank: int, seed: int) -> np.ndarray:
    """A random R of condition at most 100."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    right, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    return left @ np.diag(10 ** rng.uniform(-1, 1, rank)) @ right


def pair_of(a: np.ndarray, b: np.ndarray, scale: float = 1.0) -> LoraFactors:
    return LoraFactors(np.asarray(a, np.float64), np.asarray(b, np.float64), scale)


@given(
    size=sizes, kernel=kernels, seed=seeds, scale=st.sampled_from([1.0, 27.0, 0.3, -2.0]),
    reference=st.sampled_from([1.0, 4.0]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_the_change_stays_exact_to_float64_rounding(size, kernel, seed, scale, reference):
    rank, inputs, outputs = size
    flat = factors(rank, inputs * math.prod(kernel), outputs, scale=scale, seed=seed)
    pair = LoraFactors(flat.A, flat.B, scale, kernel)
    found, lost, norm = canonical_factors(pair, scale=reference)
    assert (found.A.dtype, found.size, found.scale) == (np.float64, pair.size, reference)
    limit = 1e-13 * norm
    np.testing.assert_allclose(found.delta(), pair.delta(), rtol=0, atol=limit)
    assert norm == pytest.approx(np.linalg.norm(pair.delta()))
    assert lost <= limit


@given(size=sizes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_any_invertible_R_gives_the_same_factors(size, seed):
    pair = factors(*size, seed=seed)
    r = invertible(pair.rank, seed + 1)
    turned = pair_of(np.linalg.solve(r, pair.A.astype(np.float64)), pair.B.astype(np.float64) @ r, pair.scale)
    one, other = canonical_factors(pair)[0], canonical_factors(turned)[0]
    size_of = np.abs(one.A).max() + np.abs(one.B).max()
    np.testing.assert_allclose(other.A, one.A, rtol=0, atol=1e-6 * size_of)
    np.testing.assert_allclose(other.B, one.B, rtol=0, atol=1e-6 * size_of)


@given(seed=seeds, rank=st.integers(2, 4), columns=st.integers(4, 9))
@settings(deadline=None, max_examples=60)
def test_equal_singular_values_do_not_make_it_ambiguous(seed, rank, columns):
    rng = np.random.default_rng(seed)
    a, _ = np.linalg.qr(rng.normal(size=(columns, rank)))
    b, _ = np.linalg.qr(rng.normal(size=(7, rank)))
    turn, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    one, other = canonical_factors(pair_of(a.T, b))[0], canonical_factors(pair_of(turn.T @ a.T, b @ turn))[0]
    np.testing.assert_allclose(one.B @ one.A, b @ a.T, atol=1e-12)
    np.testing.assert_allclose(other.A, one.A, atol=1e-6)
    np.testing.assert_allclose(other.B, one.B, atol=1e-6)


@given(size=sizes, seed=seeds, scale=st.sampled_from([1.0, 4.0]))
@settings(deadline=None, max_examples=40)
def test_norms_are_balanced_values_fall_and_of_each_row_the_largest_entry_is_positive(size, seed, scale):
    found, _, norm = canonical_factors(factors(*size, seed=seed), scale=scale)
    a, b = np.linalg.norm(found.A, axis=1), np.linalg.norm(found.B, axis=0)
    np.testing.assert_allclose(a, b, atol=1e-9 * norm)
    assert (np.diff(a) <= 1e-6 * a.max()).all()
    for row in found.A[a > 0]:
        assert row[np.abs(row).argmax()] > 0


def test_of_entries_equally_large_the_first_is_positive():
    found = canonical_factors(pair_of([[-1.0, 1.0]], [[2.0]]))[0]
    assert found.A[0, 0] > 0 > found.B[0, 0]


@pytest.mark.parametrize("rank", [1, 2, 3, 7])
def test_a_rank_is_changed_by_the_best_truncation_or_by_zeros_with_its_error(rank):
    pair = factors(3, 8, 6)
    adapter = canonicalize(Adapter({TARGET: pair}), rank=rank)
    found, values = adapter.factors[TARGET], np.linalg.svd(pair.delta(), compute_uv=False)
    assert found.rank == rank
    error = np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
    assert adapter.metadata["error"] == pytest.approx(error, abs=1e-12)
    assert np.linalg.norm(found.delta() - pair.delta()) == pytest.approx(error * np.linalg.norm(values), abs=1e-12)
    assert not found.A[3:].any()
    assert not found.B[:, 3:].any()


def test_a_deficient_or_zero_change_gets_zero_rows():
    found = canonical_factors(pair_of([[1.0, 2.0], [2.0, 4.0]], [[1.0, 1.0], [0.0, 0.0]]))[0]
    assert found.A[1].tolist() == [0, 0]
    np.testing.assert_allclose(found.delta(), [[3, 6], [0, 0]], atol=1e-14)
    zero = canonicalize(Adapter({TARGET: pair_of(np.ones((2, 3)), np.zeros((4, 2)))}))
    assert not zero.factors[TARGET].A.any()
    assert zero.metadata["error"] == 0


def test_a_convolution_keeps_its_kernel():
    pair = LoraFactors(factors(2, 18, 7).A, factors(2, 18, 7).B, 3.0, (3, 3))
    found = canonical_factors(pair)[0]
    assert found.weight_shape == (7, 2, 3, 3)
    np.testing.assert_allclose(found.delta(), pair.delta(), atol=1e-12)


def test_flattened_canonically_adapters_of_one_change_are_one_vector_whatever_their_rank_and_scale():
    pair, r = factors(2, 6, 7, scale=3.0), invertible(2, 5)
    a, b = np.linalg.solve(r, pair.A.astype(np.float64)), pair.B.astype(np.float64) @ r
    padded = pair_of(np.vstack([a, a[:1]]), np.hstack([b * 6, np.zeros((7, 1))]), 0.5)
    layout = ParameterLayout({TARGET: (2, 6, 7)}, 4.0)
    one, other = (layout.flatten(canonicalize(Adapter({TARGET: p}), rank=2, scale=4.0)) for p in (pair, padded))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layout.unflatten(one).factors[TARGET].delta(), pair.delta(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "qr"}, "qr"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"rank": 0}, "rank"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        canonicalize(Adapter({TARGET: factors()}), **options)


def test_factors_with_nan_have_no_canonical_form():
    pair = factors()
    pair.A[0, 0] = np.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        canonical_factors(pair)
