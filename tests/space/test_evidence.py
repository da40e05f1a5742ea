from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from w2w_hub.space.directions.evidence import auc, auc_interval, auc_null, p_value, r2, r2_interval, r2_null

Z = norm.ppf(0.975)


def pairs(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of each positive (rows) against each negative (columns): 1 above, 0.5 tied, 0 below."""
    apart = scores[truth == 1][:, None] - scores[truth == 0][None]
    return 0.5 * (1 + np.sign(apart))


def labelled_scores(seed: int, positives: int, negatives: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat([1.0, 0.0], [positives, negatives]))
    return truth, np.round(rng.normal(size=len(truth)) + shift * truth, 1)  # some are tied


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 15), st.sampled_from([-1.0, 0.0, 1.0, 3.0]))
def test_the_area_and_its_interval_are_those_of_all_pairs(
    seed: int, positives: int, negatives: int, shift: float
) -> None:
    truth, scores = labelled_scores(seed, positives, negatives, shift)
    wins = pairs(truth, scores)
    area = wins.mean()
    assert auc(truth, scores) == pytest.approx(area)
    (low, high), method = auc_interval(truth, scores)
    variance = wins.mean(1).var(ddof=1) / positives + wins.mean(0).var(ddof=1) / negatives
    if 0 < area < 1 and variance > 1e-12:
        assert method == "DeLong"
        half = Z * np.sqrt(variance) / (area * (1 - area))
        ends = [1 / (1 + np.exp(-(np.log(area / (1 - area)) + sign * half))) for sign in (-1, 1)]
        assert [low, high] == pytest.approx(ends, abs=1e-9)
    else:
        assert method == "Newcombe score"
        check_score_interval(area, positives, negatives, low, high)


def check_score_interval(area: float, m: int, n: int, low: float, high: float) -> None:
    """Each end is where the area lies 1.96 standard errors of that end away (Newcombe 2006, method 5)."""
    for end, worst in ((low, 0.0), (high, 1.0)):
        if area == worst:
            assert end == worst
            continue
        others = 0.5 * (m + n) - 1
        variance = end * (1 - end) * (1 + others * ((1 - end) / (2 - end) + end / (1 + end))) / (m * n)
        assert abs(area - end) == pytest.approx(Z * np.sqrt(variance), rel=1e-5)
    assert low <= area <= high
    assert low < high


@pytest.mark.parametrize(
    ("positives", "negatives"), [([3.0, 4.0], [1.0, 2.0]), ([1.0], [2.0, 0.0, 0.5]), ([2.0, 1.0, 0.1], [1.5])]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_areas_without_a_spread_have_a_score_interval(
    positives: list[float], negatives: list[float], sign: int
) -> None:
    truth = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    scores = sign * np.array([*positives, *negatives])
    (low, high), method = auc_interval(truth, scores)
    assert method == "Newcombe score"
    check_score_interval(auc(truth, scores), len(positives), len(negatives), low, high)


def test_scores_that_are_all_tied_have_an_area_of_one_half_with_a_score_interval() -> None:
    truth = np.repeat([1.0, 0.0], [3, 5])
    assert auc(truth, np.zeros(8)) == 0.5
    (low, high), method = auc_interval(truth, np.zeros(8))
    assert method == "Newcombe score"
    check_score_interval(0.5, 3, 5, low, high)


def test_the_null_of_the_area_is_the_distribution_over_all_choices_of_positives() -> None:
    truth = np.array([1, 0, 0, 1, 0, 0, 0, 0.0])
    scores = np.array([0.2, 0.2, -1.0, 3.0, 0.5, 0.5, 0.5, 8.0])
    ranks = rankdata(scores)
    every = [(ranks[list(some)].sum() - 3) / 12 for some in itertools.combinations(range(8), 2)]
    null = np.concatenate([auc_null(truth, scores, seed) for seed in range(12)])
    assert len(null) == 12 * 999
    assert {*np.round(null, 9)} == {*np.round(every, 9)}
    assert null.mean() == pytest.approx(0.5, abs=0.01)
    for quantile in (0.1, 0.5, 0.9):
        share = np.mean(np.array(every) <= np.quantile(every, quantile) + 1e-9)
        assert np.mean(null <= np.quantile(every, quantile) + 1e-9) == pytest.approx(share, abs=0.02)
    for compute in (auc_null, r2_null):
        np.testing.assert_array_equal(compute(truth, scores, 1), compute(truth, scores, 1))
        assert (compute(truth, scores, 1) != compute(truth, scores, 2)).any()


def test_the_null_of_r2_is_the_distribution_over_all_orders_of_the_labels() -> None:
    truth, predicted = np.array([0.0, 1.0, 5.0, 2.5]), np.array([0.5, 1.5, 3.0, 9.0])
    every = [r2(np.array(order), predicted) for order in itertools.permutations(truth)]
    null = np.concatenate([r2_null(truth, predicted, seed) for seed in range(4)])
    assert len(null) == 4 * 999
    assert {*np.round(null, 6)} == {*np.round(every, 6)}
    assert null.mean() == pytest.approx(np.mean(every), rel=0.05)


def test_r2_compares_with_the_mean_of_the_truth() -> None:
    truth, predicted = np.array([1.0, 2.0, 4.0]), np.array([1.5, 1.0, 3.0])
    total = sum((t - 7 / 3) ** 2 for t in truth)
    assert r2(truth, predicted) == pytest.approx(1 - (0.25 + 1 + 1) / total)
    assert r2(truth, np.full(3, truth.mean())) == pytest.approx(0)
    assert r2(truth, truth) == 1
    assert r2(truth, predicted) != pytest.approx(r2(predicted, truth))


def test_the_interval_of_r2_holds_the_middle_95_percent_of_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=25)
    predicted = 0.6 * truth + 0.5 * rng.normal(size=25) + 0.2
    resampled = []
    for _ in range(20_000):
        some = rng.choice(25, 25)
        residual = ((truth[some] - predicted[some]) ** 2).mean()
        resampled.append(1 - residual / truth[some].var())
    found = [r2_interval(truth, predicted, seed) for seed in range(6)]
    assert {method for _, method in found} == {"bootstrap"}
    ends = np.array([interval for interval, _ in found])
    np.testing.assert_allclose(ends.mean(0), np.quantile(resampled, [0.025, 0.975]), atol=0.035)
    assert len({*ends[:, 0]}) == 6
    assert r2_interval(truth, predicted, 3) == found[3]


def test_resampled_rows_of_one_value_have_no_r2_and_are_left_out() -> None:
    (low, high), _ = r2_interval(np.array([0.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.7]), 0)
    assert np.isfinite([low, high]).all()


def test_a_p_value_has_the_figure_itself_among_the_permutations() -> None:
    assert p_value(0.9, np.full(999, 0.5)) == pytest.approx(1 / 1000)
    assert p_value(0.5, np.full(9, 0.5)) == 1
    assert p_value(-0.1, np.array([-0.2, 0.0, 0.3])) == pytest.approx(3 / 4)
