"""Compare the components of two weight spaces of one layout: one by one, and the subspaces that they span.

Unlike :func:`w2w_hub.space.fit.rebuild.compare_spaces`, which asks whether one recipe gave the same space twice, this
is for spaces of different origin, such as one that was published and one that was built from its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import SPACE
from ..common.constraints import validated
from ..common.display import Displayed
from ..errors import InvalidInputError, LayoutMismatchError
from .weight_space import WeightSpace

COUNTS = (10, 100, 1000, 10_000)
COLUMNS_AT_ONCE = 8192


@dataclass(frozen=True, repr=False)
class Overlap(Displayed):
    """How far the first components of two weight spaces agree.

    Attributes
    ----------
    cosines : ndarray
        float64 ``(k,)``: of each component with the other's of the same number, without its sign; k is the smaller of
        both numbers of components.
    angles : dict of int to ndarray
        Number of components m to the m principal angles, in degrees, between the spans of the first m of each,
        smallest first; for 10, 100, 1,000 and 10,000, as far as there are so many, and for k.
    explained_variance : tuple of two dicts
        For each space, number of components to the fraction of its rows' variance that they explain.
    components_of : tuple of two str or None
        For each space, the data that its components are of: ``"standardized"``, ``"centered"`` or ``"as they are"``;
        None if that is not known.
    """

    cosines: np.ndarray
    angles: dict[int, np.ndarray]
    explained_variance: tuple[dict[int, float], dict[int, float]]
    components_of: tuple[str | None, str | None]

    def _facts(self) -> Mapping[str, object]:
        return {"components": len(self.cosines), **{f"largest angle of {m:,}": f"{a.max():.3g}°"
                                                     for m, a in self.angles.items()}}  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values: all cosines, and of each set of angles the quartiles and the largest."""
        return {
            "cosines": [round(float(each), 6) for each in self.cosines],
            "principal_angles": {
                str(m): {name: round(float(np.quantile(a, q)), 6) for name, q in
                         (("smallest", 0), ("median", 0.5), ("p95", 0.95), ("largest", 1))}
                for m, a in self.angles.items()
            },
            "explained_variance": [{str(m): share for m, share in each.items()} for each in self.explained_variance],
            "components_of": list(self.components_of),
        }  # fmt: skip


@validated(first=SPACE, second=SPACE)
def compare_components(first: WeightSpace, second: WeightSpace) -> Overlap:
    """Compare the components of two weight spaces of one layout.

    Each space's components are taken in its own standardized coordinates. They need not be exactly orthonormal: angles
    are between the spans.

    Raises
    ------
    LayoutMismatchError
        If the layouts differ.

    Examples
    --------
    >>> published = WeightSpace.from_pretrained("imported/space")                      # doctest: +SKIP
    >>> own = WeightSpace.from_pretrained("space-of-imported")                         # doctest: +SKIP
    >>> compare_components(published, own).angles[10].max()                            # doctest: +SKIP
    """
    if first.layout.digest != second.layout.digest:
        raise LayoutMismatchError(f"the weight spaces have other layouts: {first.layout.differences(second.layout)}")
    k = min(first.k, second.k)
    mine, other = first.coordinates.basis[:k], second.coordinates.basis[:k]
    cross, inside, theirs = _products(mine, other), _products(mine, mine), _products(other, other)
    lengths = np.sqrt(np.diag(inside) * np.diag(theirs))
    counts = sorted({*(m for m in COUNTS if m < k), k})
    return Overlap(
        np.minimum(np.abs(np.diag(cross)) / np.maximum(lengths, 1e-300), 1),
        {m: _angles(cross[:m, :m], inside[:m, :m], theirs[:m, :m]) for m in counts},
        (_explained(first), _explained(second)),
        (components_of(first), components_of(second)),
    )


def components_of(space: WeightSpace) -> str | None:
    """Return which data a space's components are of, as it was built or as it was measured when it was imported."""
    published = space.recipe.get("as_published")
    if isinstance(published, Mapping):
        measured = published.get("measured")
        found = measured.get("components_of") if isinstance(measured, Mapping) else None
        return found if isinstance(found, str) else None
    return "standardized" if space.recipe.get("standardised", True) else "centered"


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``first @ second.T`` in float64, some columns at a time."""
    total = np.zeros((len(first), len(second)))
    for start in range(0, first.shape[1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        total += first[:, part].astype(np.float64) @ second[:, part].astype(np.float64).T
    return total


def _angles(cross: np.ndarray, inside: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the principal angles of two spans, in degrees, smallest first."""
    try:
        left = np.linalg.solve(np.linalg.cholesky(inside), cross)
        both = np.linalg.solve(np.linalg.cholesky(theirs), left.T)
    except np.linalg.LinAlgError:
        raise InvalidInputError("the components of one weight space are linearly dependent") from None
    cosines = np.linalg.svd(both, compute_uv=False)
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, 0, 1))))


def _explained(space: WeightSpace) -> dict[int, float]:
    return {int(m): float(share) for m, share in space.diagnostics.get("explained_variance", {}).items()}
