"""Weight spaces: standardized PCA of a dataset, and directions in it. No Hub, no diffusers, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy_names

if TYPE_CHECKING:
    from .coordinates import Coordinates as Coordinates
    from .coordinates import Explained as Explained
    from .directions import Direction as Direction
    from .directions import fit_directions as fit_directions
    from .fit.build import build_space as build_space
    from .fit.build import clear_passes as clear_passes
    from .fit.engines import DaskEngine as DaskEngine
    from .fit.engines import Engine as Engine
    from .fit.engines import NumpyEngine as NumpyEngine
    from .fit.engines import TorchEngine as TorchEngine
    from .fit.solvers import Covariance as Covariance
    from .fit.solvers import Gram as Gram
    from .fit.solvers import Krylov as Krylov
    from .fit.solvers import Solver as Solver
    from .overlap import Overlap as Overlap
    from .overlap import compare_components as compare_components
    from .points import Point as Point
    from .population import Population as Population
    from .population import Spread as Spread
    from .population_model import Attribute as Attribute
    from .population_model import Factor as Factor
    from .population_model import PopulationModel as PopulationModel
    from .population_model import fit_population_model as fit_population_model
    from .slider import Slider as Slider
    from .slider import make_slider as make_slider
    from .weight_space import WeightSpace as WeightSpace

# module -> its public names, imported when first used
_NAMES = {
    "space.coordinates": ["Coordinates", "Explained"],
    "space.directions": ["Direction", "fit_directions"],
    "space.fit.build": ["build_space", "clear_passes"],
    "space.fit.engines": ["DaskEngine", "Engine", "NumpyEngine", "TorchEngine"],
    "space.fit.solvers": ["Covariance", "Gram", "Krylov", "Solver"],
    "space.overlap": ["Overlap", "compare_components"],
    "space.points": ["Point"],
    "space.population": ["Population", "Spread"],
    "space.population_model": ["Attribute", "Factor", "PopulationModel", "fit_population_model"],
    "space.slider": ["Slider", "make_slider"],
    "space.weight_space": ["WeightSpace"],
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_WHERE)
# modules that are attributes before they are imported
_MODULES = (
    "coordinates", "directions", "encoder", "fit", "overlap", "points", "population", "population_model", "storage",
    "weight_space",
)  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__, _WHERE, _MODULES)
