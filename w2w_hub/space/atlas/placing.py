"""Positions of people on a map: along two components or directions, or by UMAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...common.extras import optional_imports
from ...errors import InvalidInputError
from ..directions.direction import COMPONENT
from ..weight_space import WeightSpace

PLACINGS = COMPONENTS, DIRECTIONS, UMAP = ("components", "directions", "umap")
FIRST = ("PC1", "PC2")


def chosen_axes(space: WeightSpace, by: str | None, axes: Sequence[str] | None) -> tuple[str, tuple[str, str]]:
    """Return how people are placed, and the names of the two axes.

    Raises
    ------
    InvalidInputError
        If the axes are not two, are the same, or are not of the kind that `by` names.
    UnknownNameError
        For a direction that does not exist.
    """
    if by == UMAP:
        if axes is not None:
            raise InvalidInputError("UMAP has no axes to choose; leave axes out", name="axes")
        return UMAP, ("UMAP 1", "UMAP 2")
    if axes is None:
        if by == DIRECTIONS:
            known = ", ".join(list(space.directions)[:2])
            example = f", such as {known}" if known else f"; this weight space has none, only PC1 to PC{space.k}"
            raise InvalidInputError(f"a map by directions needs two axes{example}", name="axes")
        axes = FIRST
    if len(axes) != 2 or axes[0] == axes[1]:
        raise InvalidInputError(f"a map has two different axes, not {', '.join(axes) or 'none'}", name="axes")
    kinds = {COMPONENTS if space.direction(name).kind == COMPONENT else DIRECTIONS for name in axes}
    found = COMPONENTS if kinds == {COMPONENTS} else DIRECTIONS
    if by is not None and by != found:
        raise InvalidInputError(
            f"axes {' and '.join(axes)} are not two {by}; leave out one of by and axes", name="axes"
        )
    return found, (axes[0], axes[1])


def placed(space: WeightSpace, rows: np.ndarray, by: str, axes: tuple[str, str], seed: int) -> np.ndarray:
    """Return positions, float32 ``(n, 2)``, of coefficients ``(n, k)``.

    Along a component it is the coefficient; along a direction what it reads: the log-odds of the attribute, or its
    value if it is continuous or ordinal.
    """
    if by == UMAP:
        return _by_umap(rows, seed)
    readers = [space.direction(name) for name in axes]
    weights = np.stack([reader.reading for reader in readers], 1)
    found = rows @ weights + np.array([reader.intercept for reader in readers])
    return np.asarray(found, np.float32)


def _by_umap(rows: np.ndarray, seed: int) -> np.ndarray:
    with optional_imports("umap"):
        import umap
    near: Any = umap.UMAP(
        n_components=2, metric="cosine", n_neighbors=min(15, len(rows) - 1), random_state=seed, n_jobs=1
    )
    return np.asarray(near.fit_transform(rows), np.float32)
