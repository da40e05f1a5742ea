"""Compute a pinned weight space again from its pinned dataset, and compare the two."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CorruptFileError, HubNotFoundError
from .pins import Lock, Pin
from .resolve import open_pin, open_repository

TOLERANCE = 1e-3  # radians; where the recipe records none
SEPARATED = 1e-3  # relative gap to both neighbours, below which a component is not determined by the data


def rebuild_pin(lock: Lock, pin: Pin, **options: Any) -> str:
    """Build the weight space of a pin from the dataset that its recipe names, and compare the components.

    The dataset is the lock's, by its digest; else the repository and commit that the recipe records.

    Raises
    ------
    HubNotFoundError
        If the dataset is neither pinned nor recorded.
    CorruptFileError
        If the components differ by more than the recorded tolerance.
    """
    from ..dataset import WeightDataset
    from ..space import WeightSpace, build_space

    recipe = pin.recipe
    wanted = recipe.get("dataset_digest")
    pinned = next((p for p in lock.pins if p.kind == "dataset" and p.digest == wanted), None)
    recorded = recipe.get("dataset_revision")
    if pinned is not None:
        source = open_pin(pinned, **options)
    elif recorded:
        source = open_repository(recorded["repo"], "dataset", recorded["commit"], **options)
    else:
        raise HubNotFoundError(
            f"{pin.name} was built from {recipe.get('dataset')} ({str(wanted)[:12]}), which the lock does not pin; add "
            "it with: w2w pin"
        )
    source.need(name for name in source.files if not name.startswith("parquet/"))
    dataset = WeightDataset.open(source.folder)
    if dataset.manifest.digest != wanted:
        raise CorruptFileError(f"{source.revision} has another digest than the dataset that {pin.name} was built from")
    space_source = open_pin(pin, **options)
    space_source.need(space_source.files)
    published = WeightSpace.from_pretrained(space_source.folder)
    rebuilt = build_space(dataset, published.k, split=published.fitted_split, directions=False)
    if rebuilt.digest == published.digest:
        return f"k {published.k}: the same bytes"
    angle, compared = largest_angle(published.basis, rebuilt.basis, published.singular_values)
    tolerance = float(recipe.get("tolerance", TOLERANCE))
    if angle > tolerance:
        raise CorruptFileError(
            f"{pin.name}: the rebuilt components differ by {angle:.2e} radians, the tolerance is {tolerance:.0e}"
        )
    return f"k {published.k}: {compared} separated components within {angle:.1e} radians (tolerance {tolerance:.0e})"


def largest_angle(first: np.ndarray, second: np.ndarray, singular_values: np.ndarray) -> tuple[float, int]:
    """Largest angle between corresponding components, of those that the spectrum separates; and how many these are.

    Parameters
    ----------
    first, second : ndarray
        ``(k, d)``, orthonormal rows.
    singular_values : ndarray
        ``(k,)``, descending.
    """
    s = np.asarray(singular_values, np.float64)
    gaps = np.abs(np.diff(s)) / s[:-1]
    separated = np.r_[gaps > SEPARATED, False] & np.r_[True, gaps > SEPARATED]
    if not separated.any():
        separated[0] = True
    rows = np.flatnonzero(separated)
    cosines = np.abs(np.einsum("kd,kd->k", first[rows].astype(np.float64), second[rows].astype(np.float64)))
    differences = np.linalg.norm(
        first[rows].astype(np.float64)
        - np.sign(np.einsum("kd,kd->k", first[rows], second[rows]))[:, None] * second[rows],
        axis=1,
    )
    # arcsin of the difference is exact for small angles, where arccos of a cosine near 1 is noise
    angles = np.where(cosines > 0.9, 2 * np.arcsin(np.clip(differences / 2, 0, 1)), np.arccos(np.clip(cosines, 0, 1)))
    return float(angles.max()), len(rows)
