"""SpaceContents: the fields of a weight space that are stored in its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.equality import ByValue
from ..dataset.manifest import Compatibility
from ..lora.layout import ParameterLayout
from ..store.hub.source import Source
from .coordinates import Coordinates
from .directions.direction import Direction
from .population import Population, Spread


@dataclass(eq=False)
class SpaceContents(ByValue):
    """The contents of a weight-space folder.

    Attributes
    ----------
    coordinates : Coordinates
        Mean, standard deviation and principal components.
    population : Population or None
        Fitted and held-out rows; None in a space that was published without them.
    recipe : dict
        How it was built; includes the dataset's digest.
    diagnostics : dict
        Measurements of the build, see FORMAT.md.
    compatibility : Compatibility
    directions : dict of str to Direction
    name, version, licence : str
    generation : dict
        Keywords of a pipeline's call that it uses if none are given (`num_inference_steps`, `guidance_scale`); stored
        with a base model.
    stored_spread : Spread or None
        Spread of the population's coefficients, in a space that was published without it.
    path : Path or None
        The folder that it was opened from, or built into.
    source : Source or None
        Where it was opened from: that folder, or a commit on the Hub.
    """

    coordinates: Coordinates
    population: Population | None
    recipe: dict[str, Any]
    diagnostics: dict[str, Any] = field(default_factory=dict)
    compatibility: Compatibility = field(default_factory=Compatibility)
    directions: dict[str, Direction] = field(default_factory=dict)
    name: str = "space"
    version: str = "0.1.0"
    licence: str = "unknown"
    stored_spread: Spread | None = None
    generation: dict[str, Any] = field(default_factory=dict, compare=False)
    path: Path | None = field(default=None, compare=False)
    source: Source | None = field(default=None, compare=False)

    @property
    def layout(self) -> ParameterLayout:
        return self.coordinates.layout

    @property
    def k(self) -> int:
        """Number of principal components."""
        return self.coordinates.k

    @property
    def digest(self) -> str:
        """sha256 of layout, mean, std and basis; each point records it."""
        return self.coordinates.digest

    @property
    def spread(self) -> Spread:
        """Mean and standard deviation of the fitted rows' coefficients, also without a population.

        Where they are not stored they follow from the singular values s of n fitted rows: 0 and s / sqrt(n - 1).
        """
        if self.population is not None:
            return self.population.spread
        if self.stored_spread is not None:
            return self.stored_spread
        rows = int(self.recipe["rows"])
        return Spread(np.zeros(self.k), self.coordinates.singular_values / np.sqrt(max(rows - 1, 1)), rows)
