"""The flat constructor of 0.1, ``WeightSpace(layout=, mean=, ..., ids=, ...)``; remove this file in 0.3."""

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
