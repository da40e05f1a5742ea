"""Weight spaces: standardised PCA of a dataset, and directions in it. No Hub, no diffusers, no torch."""

from __future__ import annotations

from .coordinates import Coordinates, Explained
from .directions import Direction, fit_directions
from .fit.build import build_space
from .points import Point
from .population import Population, Spread
from .weight_space import WeightSpace

__all__ = [
    "Coordinates",
    "Direction",
    "Explained",
    "Point",
    "Population",
    "Spread",
    "WeightSpace",
    "build_space",
    "fit_directions",
]
