"""Pictures of rows that belong to no weight space, such as those that a contribution offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.manifest import Compatibility
from ..lora.layout import ParameterLayout
from ..space import Coordinates, WeightSpace
from .pipelines import AutoW2WPipeline, best_device


def draw_rows(
    base: Path | str, layout: ParameterLayout, rows: np.ndarray, compatibility: Compatibility,
    cases: Sequence[tuple[str, int]], **options: Any,
) -> np.ndarray:  # fmt: skip
    """Return pictures of the base model and of rows ``(n, size)`` under fixed (prompt, seed) pairs.

    Parameters
    ----------
    base : path
        Folder or repository of the base model, which must be the compatibility record's if that states a digest.
    **options
        Of the stock pipeline's call, for instance `num_inference_steps`.

    Returns
    -------
    ndarray
        float32 ``(n + 1, cases, height, width, 3)`` in [0, 1]; the first is the base model.

    Raises
    ------
    BaseModelMismatchError, MissingPathError
    """
    pipe = AutoW2WPipeline.from_base(base, _bare_space(layout, compatibility))
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(best_device())
    adapters = [layout.unflatten(np.asarray(row, np.float32)) for row in rows]
    pictures: np.ndarray = pipe.render([None, *adapters], list(cases), **options)
    return pictures


def _bare_space(layout: ParameterLayout, compatibility: Compatibility) -> WeightSpace:
    """Return a weight space of no rows, in which an adapter is drawn by its own weights."""
    basis = np.zeros((1, layout.size), np.float32)
    basis[0, 0] = 1
    coordinates = Coordinates(
        layout=layout, mean=np.zeros(layout.size, np.float32), std=np.ones(layout.size, np.float32), basis=basis,
        singular_values=np.ones(1),
    )  # fmt: skip
    return WeightSpace(
        coordinates=coordinates, population=None, recipe={"rows": 2}, compatibility=compatibility, name="offered rows"
    )


__all__ = ["draw_rows"]
