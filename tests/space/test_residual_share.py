"""The residual's share of samples: chosen on left-out rows, and larger where attributes explain less."""

from __future__ import annotations

import numpy as np
import pytest

from w2w_hub.space.population_model.columns import Column
from w2w_hub.space.population_model.discovery import find_structure
from w2w_hub.space.population_model.fit import fit_to
from w2w_hub.space.population_model.model import PopulationModel
from w2w_hub.space.population_model.residual_share import FEWEST, SHARES, USUAL


def fitted(noise: float, n: int = 240) -> tuple[PopulationModel, np.ndarray]:
    """A model of rows that follow four attributes and their products, with so much noise."""
    rng = np.random.default_rng(1)
    has = rng.random((n, 4)) < 0.5
    signs = np.where(has, 1.0, -1.0)
    products = np.stack([signs[:, i] * signs[:, j] for i in range(4) for j in range(i)], 1)
    rows = np.hstack([signs, products]) @ rng.normal(size=(10, 20)) + noise * rng.normal(size=(n, 20))
    rows = (rows - rows.mean(0)).astype(np.float32)
    columns = [Column(f"A{i}", "binary", ("False", "True"), has[:, i].astype(float)) for i in range(4)]
    used = np.ones(n, bool)
    return fit_to(find_structure(columns, used), rows, used, {}), rows


def test_the_share_grows_with_what_attributes_do_not_explain_and_is_stated() -> None:
    found = [fitted(noise)[0].evidence["residual_share"] for noise in (0.5, 2.0)]
    assert found[0]["share"] < found[1]["share"]
    for evidence in found:
        assert evidence["share"] in SHARES
        assert evidence["samples"] == pytest.approx(evidence["left_out"], abs=0.04)


def test_samples_vary_as_rows_do_with_the_stated_share_of_residual() -> None:
    model, rows = fitted(2.0)
    drawn, _ = model.sample(600, seed=3)
    total = float((rows**2).sum(1).mean())
    assert float((drawn**2).sum(1).mean()) == pytest.approx(total, rel=0.12)
    residual = float((model.residual.astype(float) ** 2).sum() + (model.rest.astype(float) ** 2).sum())
    assert residual / total == pytest.approx(model.evidence["residual_share"]["share"], abs=0.06)


def test_too_few_rows_have_the_usual_share() -> None:
    assert fitted(1.0, FEWEST - 1)[0].evidence["residual_share"] == {"share": USUAL}
