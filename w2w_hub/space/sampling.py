"""Draws new people from a weight space: through its population model, near its rows, or as Gaussian coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from .contents import SpaceContents
from .edits import require_model
from .neighbors import FEWEST, draw_near
from .population import unit_rows

POPULATION, NEIGHBORS, GAUSSIAN = "population", "neighbors", "gaussian"
BLOCK = 8192  # rows that samples are compared with at a time


@dataclass(frozen=True)
class Request:
    """What a caller wants to be drawn; see :meth:`WeightSpace.sample`."""

    count: int
    seed: int
    truncation: float
    attributes: Mapping[str, Any] | None = None
    covariance: str | None = None


Drawn = tuple[np.ndarray, list[dict[str, Any]]]  # coefficients (count, k), and what is recorded of each


def draw(space: SpaceContents, request: Request, method: str | None = None) -> Drawn:
    """Return coefficients, float64 ``(count, k)``, and the record of each sample.

    Raises
    ------
    InvalidInputError
        For attributes or a covariance that the method does not take, and for a space without what it needs.
    """
    chosen = _default(space, request) if method is None else method
    if request.attributes is not None and chosen != POPULATION:
        raise InvalidInputError(
            f"method {chosen!r} takes no attributes; leave out the method, or choose {POPULATION!r}", name="attributes"
        )
    if request.covariance is not None and chosen != GAUSSIAN:
        raise InvalidInputError(
            f"method {chosen!r} takes no covariance; leave it out, or choose {GAUSSIAN!r}", name="covariance"
        )
    coefficients, records = METHODS[chosen](space, request)
    for record, near in zip(records, nearest_rows(space, coefficients), strict=True):
        record |= {"method": chosen} | near
    return coefficients, records


def _default(space: SpaceContents, request: Request) -> str:
    if request.covariance is not None:
        return GAUSSIAN
    if space.population_model is not None or request.attributes is not None:
        return POPULATION
    enough = space.population is not None and int(space.population.fitted.sum()) >= FEWEST
    return NEIGHBORS if enough else GAUSSIAN


def _population(space: SpaceContents, request: Request) -> Drawn:
    instead = f"leave out attributes, and edit the samples; or choose method {GAUSSIAN!r}"
    model, center = require_model(space, "sampling by attributes", instead), space.spread.mean
    wanted = None if request.attributes is None else dict(request.attributes)
    drawn, attributes = model.sample(request.count, request.seed, attributes=wanted)
    asked: dict[str, Any] = {}
    if wanted:
        center = center + model.gain * (model.mean_of(wanted) - center)
        asked = {"wanted": {name: attributes[0][name] for name in wanted}}
    drawn = drawn if request.truncation == 1 else center + request.truncation * (drawn - center)
    return drawn, [{"attributes": found, **asked} for found in attributes]


def _neighbors(space: SpaceContents, request: Request) -> Drawn:
    population = space.require_population("row to draw people near")
    center = space.spread.mean
    drawn = draw_near(population, request.count, request.seed)
    return center + request.truncation * (drawn - center), [{} for _ in range(request.count)]


def _gaussian(space: SpaceContents, request: Request) -> Drawn:
    given = (request.count, request.seed, request.truncation)
    if request.covariance != "full":
        return space.spread.sample(*given), [{} for _ in range(request.count)]
    drawn = space.require_population("covariance").sample(*given, covariance="full")
    return drawn, [{"covariance": "full"} for _ in range(request.count)]


METHODS: dict[str, Callable[[SpaceContents, Request], Drawn]] = {
    POPULATION: _population, NEIGHBORS: _neighbors, GAUSSIAN: _gaussian,
}  # fmt: skip


def nearest_rows(space: SpaceContents, coefficients: np.ndarray) -> list[dict[str, Any]]:
    """Return the fitted row with the largest cosine to each of several ``(n, k)``, as a record; empty without rows."""
    population = space.population
    if population is None:
        return [{} for _ in coefficients]
    fitted = np.flatnonzero(population.fitted)
    given = unit_rows(coefficients.astype(np.float32))
    best, where = np.full(len(given), -np.inf), np.zeros(len(given), int)
    for start in range(0, len(fitted), BLOCK):
        block = fitted[start : start + BLOCK]
        cosines = given @ unit_rows(population.coefficients[block]).T
        nearer = cosines.max(1) > best
        where[nearer] = block[cosines.argmax(1)[nearer]]
        best = np.maximum(best, cosines.max(1))
    return [
        {"nearest": {"row": population.ids[i], "cosine": round(float(cosine), 4)}}
        for i, cosine in zip(where, best, strict=True)
    ]
