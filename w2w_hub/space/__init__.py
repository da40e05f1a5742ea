"""Weight spaces: standardized PCA of a dataset, and directions in it. No Hub, no diffusers, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..common.lazy import public_names
from .coordinates import Coordinates, Explained
from .directions import Direction, fit_directions
from .fit import engines as _engines
from .fit.build import build_space, clear_passes
from .fit.engines import Engine, NumpyEngine
from .fit.solvers import Covariance, Gram, Krylov, Solver
from .overlap import Overlap, compare_components
from .points import Point
from .population import Population, Spread
from .population_model import Attribute, Factor, PopulationModel, fit_population_model
from .slider import Slider, make_slider
from .weight_space import WeightSpace

if TYPE_CHECKING:
    from .fit.engines import DaskEngine as DaskEngine
    from .fit.engines import TorchEngine as TorchEngine

__all__ = [
    "Attribute",
    "Coordinates",
    "Covariance",
    "DaskEngine",
    "Direction",
    "Engine",
    "Explained",
    "Factor",
    "Gram",
    "Krylov",
    "NumpyEngine",
    "Overlap",
    "Point",
    "Population",
    "PopulationModel",
    "Slider",
    "Solver",
    "Spread",
    "TorchEngine",
    "WeightSpace",
    "build_space",
    "clear_passes",
    "compare_components",
    "fit_directions",
    "fit_population_model",
    "make_slider",
]


def __getattr__(name: str) -> Any:  # engines that need an extra
    if name in __all__:
        return getattr(_engines, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return public_names(__name__, __all__)
