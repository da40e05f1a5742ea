"""Evidence of an encoder: its guesses for pictures of points that it was not fitted on, beside nulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...space import WeightSpace
from ...space.encoder.encoder import Encoder
from ...space.encoder.network import forward
from ...space.population import unit_rows

MOST = 64  # points
SET_ASIDE = 0.1  # fraction of the fitted rows that are not drawn from where no row is held out


@dataclass(frozen=True)
class HeldOut:
    """Points that the encoder is not fitted on: ``(n, k)``, and what they are."""

    points: np.ndarray
    what: str


def held_out_points(space: WeightSpace, seed: int) -> tuple[np.ndarray, HeldOut]:
    """Return the coefficients of the rows to draw from, float64 ``(rows, k)``, and the points to measure on.

    These are held-out rows of the population; without any, a tenth of its fitted rows, which are set aside; in a space
    without a population, samples.
    """
    population, rng = space.population, np.random.default_rng([seed, 2**31 + 1])
    if population is None or len(population.coefficients) < 2:
        points = np.stack([point.coefficients for point in space.sample(MOST, int(rng.integers(2**31)))])
        return np.empty((0, space.k)), HeldOut(points.astype(np.float64), "samples")
    rows = population.coefficients.astype(np.float64)
    fitted = np.flatnonzero(population.fitted)
    others, what = np.flatnonzero(~population.fitted), "held-out rows"
    if not len(others):
        others, what = rng.permutation(fitted)[: max(1, round(SET_ASIDE * len(fitted)))], "rows that were set aside"
    chosen = np.sort(rng.permutation(others)[:MOST])
    return rows[np.setdiff1d(fitted, others)], HeldOut(rows[chosen], what)


def measure(encoder: Encoder, pictures: np.ndarray, points: np.ndarray) -> dict[str, Any]:
    """Return how near the guesses come to the points.

    Cosines are about the population's mean. The guess of the mean for everybody has no direction: its explained
    variance, 0, is its null; that of the cosine are the guesses for other people's pictures.

    Parameters
    ----------
    pictures : ndarray
        uint8 ``(n, h, w, 3)`` as the network takes them: each person's pictures one after another.
    points : ndarray
        float ``(people, k)``: what they show; ``n`` is a multiple of the people.

    Returns
    -------
    dict
        `pictures`, `people`; `cosine` with its `cosine_interval` (95 %, normal, over people) and `cosine_shuffled`;
        `explained_variance` of the coefficients and `explained_variance_mean_only`; `nearest`, the fraction of
        pictures whose guess has its largest cosine with the person's own point, and `nearest_chance`.
    """
    each = len(pictures) // len(points)
    guesses = forward(encoder.tensors, pictures.astype(np.float32) / 255).astype(np.float64) * encoder.spread.std
    apart = points[:, : encoder.k].astype(np.float64) - encoder.spread.mean
    own = np.repeat(np.arange(len(points)), each)
    cosines = unit_rows(guesses) @ unit_rows(apart).T
    found = cosines[np.arange(len(own)), own]
    people = found.reshape(len(points), each).mean(1)
    error = 1.96 * people.std(ddof=1) / np.sqrt(len(people)) if len(people) > 1 else 0.0
    others = cosines[own[:, None] != np.arange(len(points))] if len(points) > 1 else np.zeros(1)
    total = np.square(apart[own]).sum()
    return {
        "pictures": len(own), "people": len(points),
        "cosine": _rounded(found.mean()),
        "cosine_interval": [_rounded(found.mean() - error), _rounded(found.mean() + error)],
        "cosine_shuffled": _rounded(others.mean()),
        "explained_variance": _rounded(1 - np.square(guesses - apart[own]).sum() / max(total, 1e-300)),
        "explained_variance_mean_only": 0.0,
        "nearest": _rounded((cosines.argmax(1) == own).mean()), "nearest_chance": _rounded(1 / len(points)),
    }  # fmt: skip


def _rounded(value: Any) -> float:
    return round(float(value), 4)
