"""Old names of 0.1: the constructor ``WeightSpace(layout=, ids=, ...)`` and attributes; remove this file in 0.3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ..common.deprecated import warn_renamed
from .coordinates import Coordinates
from .population import Population

COORDINATES = ("layout", "mean", "std", "basis", "singular_values", "residuals")
F = TypeVar("F", bound=Callable[..., None])
POPULATION = ("ids", "splits", "coefficients", "fitted_split", "squared_norms", "left_out")


def accepts_flat_fields(construct: F) -> F:
    """Return a constructor that also accepts the fields of the coordinates and the population, as keywords."""

    @functools.wraps(construct)
    def call(self: Any, *args: Any, **given: Any) -> None:
        if "layout" in given:
            warn_renamed(
                "WeightSpace(layout=..., ids=...)", "WeightSpace(Coordinates(...), Population(...), recipe=...)"
            )
            inside = {name: given.pop(name) for name in COORDINATES if name in given}
            known = {name: given.pop(name) for name in POPULATION if name in given}
            canonical = (given.get("recipe") or {}).get("canonical") is not None
            full_digest = given.pop("whole_digest", None)
            given.pop("resume_folder", None)
            coordinates = Coordinates(**inside, canonical=canonical, full_digest=full_digest)
            given = {"coordinates": coordinates, "population": Population(**known), **given}
        construct(self, *args, **given)

    return call  # type: ignore[return-value]


# attributes that a weight space had itself -> where they are
MOVED = {
    **{name: f"coordinates.{name}" for name in (
        "mean", "std", "basis", "singular_values", "residuals", "represent", "explained")},
    **{name: f"population.{name}" for name in (
        "ids", "splits", "coefficients", "fitted_split", "squared_norms", "left_out", "fitted",
        "reconstruction_error")},
    "coefficient_mean": "spread.mean",
    "coefficient_std": "spread.std",
    "coefficient_covariance": "population.covariance",
}  # fmt: skip


def old_attribute(space: Any, name: str) -> Any:
    """Return an attribute that a weight space had itself, for its ``__getattr__``."""
    if name not in MOVED:
        raise AttributeError(f"{type(space).__name__!r} object has no attribute {name!r}")
    warn_renamed(f"WeightSpace.{name}", f"WeightSpace.{MOVED[name]}")
    part, attribute = MOVED[name].split(".")
    owner = space.require_population(name) if part == "population" else getattr(space, part)
    return getattr(owner, attribute)
