"""SpaceContents: the fields of a weight space that are stored in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.arguments import checked
from ..common.equality import ByValue
from ..dataset.manifest import Compatibility
from ..errors import MissingPopulationError
from ..lora.layout import ParameterLayout
from ..store.hub.source import Source
from .coordinates import Coordinates
from .directions.direction import Direction
from .encoder.encoder import Encoder, EncoderFile
from .points import Point
from .population import Population, Spread, require_near
from .population_model.model import PopulationModel

if TYPE_CHECKING:
    from ..store.hub.source import ResolvedRevision


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
    population_model : PopulationModel or None
        The population's coefficients as a function of its attributes; None without labels.
    stored_encoder : Encoder, EncoderFile or None
        The encoder, or the file that holds it until it is used; see :attr:`WeightSpace.encoder`.
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
    population_model: PopulationModel | None = None
    generation: dict[str, Any] = field(default_factory=dict, compare=False)
    stored_encoder: Encoder | EncoderFile | None = field(default=None, compare=False)
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

    @property
    def revision(self) -> ResolvedRevision | None:
        """The repository and commit that it was opened from; None for a folder or a space in memory."""
        return None if self.source is None else self.source.revision

    # ------------------------------------------------------------ points and rows
    def point(self, coefficients: np.ndarray, **history: Any) -> Point:
        """Return coefficients ``(<= k,)`` as a point of this space, with a record of how they were made."""
        return self.point_with(coefficients, history)

    def point_with(
        self, coefficients: np.ndarray, history: Mapping[str, Any], explained_ratio: float | None = None
    ) -> Point:
        """Return coefficients as :meth:`point` does, with a record whose names may be any."""
        if self.revision is not None:
            history = {"space": str(self.revision), **history}
        point = Point(coefficients, self.digest, history, explained_ratio)
        self.coordinates.require_k(len(point.coefficients))
        require_near(self.spread, point.coefficients)
        return point

    def require_population(self, need: str) -> Population:
        """Return the population; without one, raise an error that names the `need`.

        Raises
        ------
        MissingPopulationError
        """
        if self.population is None:
            raise MissingPopulationError(
                f"weight space {self.name!r} has no {need}: it comes without its population, the ids and coefficients "
                "of the dataset's rows"
            )
        return self.population

    @checked()
    def row(self, row_id: str) -> Point:
        """Return the point of a row: the projection of its weights on the components of the space.

        Its `explained_ratio` is the fraction of the row's variance about the mean that the point keeps. The row's own
        weights are ``people[row_id]`` of its dataset.

        Raises
        ------
        UnknownNameError, MissingPopulationError
        """
        population = self.require_population(f"row {row_id!r}")
        return self.point_with(population.row(row_id), {"row": row_id}, population.explained_ratio(row_id))
