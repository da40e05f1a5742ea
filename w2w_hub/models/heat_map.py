"""Picture of the entanglement of a weight space's attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..space.directions import Entanglement
from .pictures import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CELL = 20  # pixels
MOST = 100  # attributes; of more, those with the strongest side effects are shown
UP, DOWN, INTENDED = np.array([0.70, 0.09, 0.17]), np.array([0.13, 0.40, 0.67]), np.array([0.85, 0.85, 0.85])


def heat_map(found: Entanglement) -> Picture:
    """Return a picture of side effects: red where an edit of the row's attribute raises the column's read-out.

    Blue is where it lowers it, and full color is the strongest side effect; the diagonal, the intended effect, is gray.

    Parameters
    ----------
    found : Entanglement
        See :meth:`w2w_hub.WeightSpace.entanglement`; it has at least one attribute.
    """
    spill = found.spill.copy()
    np.fill_diagonal(spill, 0.0)
    strength = np.abs(spill).max(axis=0) + np.abs(spill).max(axis=1)
    shown = np.sort(np.argsort(-strength, kind="stable")[:MOST])
    spill = spill[np.ix_(shown, shown)]
    largest = max(float(np.abs(spill).max(initial=0.0)), 1e-12)
    amount = (np.abs(spill) / largest)[..., None]
    colors = 1 + amount * (np.where(spill[..., None] > 0, UP, DOWN) - 1)
    colors[np.diag_indices(len(shown))] = INTENDED
    cells = np.broadcast_to(colors[:, :, None, None, :], (*spill.shape, CELL, CELL, 3))
    left_out = f"; the {MOST} strongest of {len(found.names)}" if len(found.names) > MOST else ""
    return contact_sheet(
        cells,
        [f"{i}  {found.names[j]}" for i, j in enumerate(shown, 1)],
        [str(i) for i in range(1, len(shown) + 1)],
        scale=1,
        title=f"+1 sd of the row's attribute moves the column's: red up, blue down, at most {largest:.2f} sd{left_out}",
    )
