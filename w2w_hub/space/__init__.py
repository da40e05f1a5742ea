"""Weight spaces: standardised PCA of a dataset, and directions in it. No Hub, no diffusers, no torch."""

from __future__ import annotations

from .directions import Direction, fit_directions
from .fit.build import build_space
from .weight_space import Point, WeightSpace

__all__ = ["Direction", "Point", "WeightSpace", "build_space", "fit_directions"]
