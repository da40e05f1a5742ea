"""The regression behind readers, against the same one solved row by row."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from w2w_hub.space.population_model import readers
from w2w_hub.space.population_model.readers import PENALTY, Ridge


@pytest.mark.parametrize("block", [7, 1000])
def test_predictions_of_left_out_rows_are_those_of_fits_without_them(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    draw = np.random.default_rng(0)
    rows, targets = draw.normal(size=(30, 5)) * [1, 2, 3, 4, 5] + 3, draw.normal(size=(30, 2))
    fit = Ridge.fitted(rows, lambda part: targets[part])
    scaled = (rows - rows.mean(0)) / rows.std(0, ddof=1)

    def solved(chosen: np.ndarray) -> np.ndarray:
        found = Reference(PENALTY * len(rows), fit_intercept=False).fit(scaled[chosen], targets[chosen])
        return np.asarray(found.predict(scaled))

    np.testing.assert_allclose(fit.scores(rows), solved(np.ones(30, bool)), rtol=1e-10, atol=1e-12)
    expected = [solved(np.arange(30) != i)[i] for i in range(30)]
    np.testing.assert_allclose(fit.left_out(rows, targets), expected, rtol=1e-9, atol=1e-12)
    assert np.abs(fit.left_out(rows, targets) - fit.scores(rows)).max() > 1e-3


def test_a_row_that_decides_its_own_prediction_has_a_finite_one_without_it() -> None:
    rows = np.zeros((40, 2))
    rows[0] = 1
    targets = np.zeros((40, 1))
    targets[0] = 1
    fit = Ridge.fitted(rows, lambda part: targets[part])
    assert np.isfinite(fit.left_out(rows, targets)).all()
    assert (fit.leverage(rows) >= 0).all()
    assert (fit.leverage(rows) <= 0.999).all()
